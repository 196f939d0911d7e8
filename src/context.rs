//! One core's own things, the one thread-local that names them, and the one message when there
//! are none.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::rc::Rc;

use crate::error::{Error, ErrorKind};
use crate::hooks::HookList;
use crate::io::errors::{Late, TooLate};
use crate::io::{Io, Leftovers};
use crate::phase::Phase;
use crate::report::ms_from;
use crate::shared::{Shared, Station};
use crate::sync::Arc;
use crate::task::{JoinHandle, Kind, Tasks};

/// Everything that belongs to one core. Handles of the core's sockets and timers hold it by `Rc`,
/// so they work, and say that the core has ended, for as long as they live.
pub(crate) struct Local {
    /// The core's index in its runtime, from 0.
    pub(crate) index: usize,
    /// The processor it is pinned to.
    pub(crate) cpu: usize,
    /// The runtime's shared part.
    pub(crate) shared: Arc<Shared>,
    /// Its own of the stations in there.
    pub(crate) station: Arc<Station>,
    /// The main future, from its start until the stop has read its result.
    pub(crate) main: RefCell<Option<JoinHandle<std::io::Result<()>>>>,
    /// Whether the main future is gone, and the stop has not looked yet.
    pub(crate) main_ended: Cell<bool>,
    /// Its tasks.
    pub(crate) tasks: Tasks,
    /// Its ring, timers and sockets. Borrowed for a few statements, never while user code runs.
    pub(crate) io: RefCell<Io>,
    /// Its hooks.
    pub(crate) hooks: HookList,
    /// Set when Closing begins: no task is taken any more.
    pub(crate) closed: Cell<bool>,
    /// Spawns that were refused.
    pub(crate) rejected: Cell<u64>,
    /// Delayed spawns that the stop cancelled.
    pub(crate) timers_cancelled: Cell<u64>,
}

thread_local! {
    /// The core this thread is, if it is one.
    static LOCAL: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
}

/// Makes this thread the core of `local` until the result is dropped.
pub(crate) fn enter(local: Rc<Local>) -> Entered {
    LOCAL.with(|place| place.replace(Some(local)));
    Entered(())
}

/// See [`enter`].
#[must_use]
pub(crate) struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        let _gone = LOCAL.try_with(|place| place.take());
    }
}

/// The core this thread is, if it is one.
pub(crate) fn current() -> Option<Rc<Local>> {
    LOCAL
        .try_with(|place| place.borrow().clone())
        .ok()
        .flatten()
}

/// The core this thread is.
///
/// # Panics
///
/// On any other thread: there is no core to do what was asked for.
#[track_caller]
pub(crate) fn here() -> Rc<Local> {
    current().unwrap_or_else(|| no_core())
}

/// Does something with the core this thread is, which is lent and not counted: no user's code may
/// run in there.
///
/// # Panics
///
/// As [`here`].
#[track_caller]
#[inline]
pub(crate) fn with_here<T>(what: impl FnOnce(&Local) -> T) -> T {
    let done = LOCAL.try_with(|place| place.borrow().as_deref().map(what));
    match done {
        Ok(Some(done)) => done,
        _ => no_core(),
    }
}

/// See [`here`].
#[track_caller]
#[cold]
fn no_core() -> ! {
    panic!(
        "this must be called on a core of an evenfall runtime: inside the future given to \
         Runtime::run, or inside a task spawned from there"
    )
}

/// Refuses to block on a core.
pub(crate) fn not_on_a_core(call: &str, instead: &str) -> Result<(), Error> {
    match current() {
        None => Ok(()),
        Some(local) => Err(Error::new(
            ErrorKind::WrongThread,
            format!(
                "{call} would block core {}, and with it the stop that it waits for: {instead}, \
                 or call it from a thread that is no core",
                local.index
            ),
        )),
    }
}

/// Lies in the main future, and tells its core when that is gone, in whatever way.
struct SaysMainEnded;

impl Drop for SaysMainEnded {
    fn drop(&mut self) {
        if let Some(local) = current() {
            local.main_ended.set(true);
        }
    }
}

impl Local {
    /// This core's station.
    #[inline]
    pub(crate) fn station(&self) -> &Station {
        &self.station
    }

    /// Begins the core's main future; `false` in Closing.
    pub(crate) fn begin_main(
        &self,
        future: impl Future<Output = std::io::Result<()>> + 'static,
        site: &'static Location<'static>,
    ) -> bool {
        // Made out here: a future that is dropped before its first poll has ended too.
        let at_its_end = SaysMainEnded;
        let main = async move {
            let _at_its_end = at_its_end;
            future.await
        };
        let handle = self.spawn(main, Kind::Main, site).ok();
        let begun = handle.is_some();
        *self.main.borrow_mut() = handle;
        begun
    }

    /// Whether the main future has ended and the stop has not looked since. Each turn asks, so it is a
    /// flag that the future's end sets, and not a look at the task.
    #[inline]
    pub(crate) fn main_has_ended(&self) -> bool {
        self.main_ended.get()
    }

    /// Shows, in the midst of a turn with much to do, that this core does not hang in any of it.
    pub(crate) fn goes_on(&self) {
        self.station().pulse.begin_turn(self.now_ns());
    }

    /// The time now (ns); reads the clock.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        self.shared.clock.now_ns()
    }

    /// Reads the clock for the turn that begins (ns).
    #[inline]
    pub(crate) fn read_clock(&self) -> u64 {
        let now_ns = self.now_ns();
        self.io.borrow_mut().now_ns = now_ns;
        now_ns
    }

    /// Milliseconds from the trigger until now, for the report; 0 where no stop has begun.
    pub(crate) fn since_trigger_ms(&self) -> f64 {
        let orders = &self.shared.orders;
        if orders.read().phase() == Phase::Running {
            return 0.0;
        }
        ms_from(orders.deadlines().start, self.now_ns())
    }

    /// The refusal of `what`, which comes too late.
    pub(crate) fn too_late(&self, what: Late) -> TooLate {
        let phase = self.shared.orders.read().phase();
        TooLate::new(what, phase, self.shared.time_left())
    }

    /// The refusal of a new listener, once nobody would be served by it: when the cores have left
    /// the drain in agreement, and in Closing. After a cut, and on a core the others have left
    /// behind, a main future may still be on its way to listen: it finds its listener drained,
    /// which is no error.
    pub(crate) fn refuse_listener(&self) -> Option<TooLate> {
        let order = self.shared.orders.read();
        let agreed = order.phase() >= Phase::Hooks && !order.is_cut();
        let over = agreed && !self.station().was_left_out();
        (over || self.closed.get()).then(|| self.too_late(Late::Listen))
    }

    /// Spawns a task, or gives the future back in Closing.
    #[inline(always)]
    pub(crate) fn spawn<F>(
        &self,
        future: F,
        kind: Kind,
        site: &'static Location<'static>,
    ) -> Result<JoinHandle<F::Output>, F>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        if self.closed.get() {
            self.rejected.set(self.rejected.get() + 1);
            return Err(future);
        }
        let handle = self.tasks.spawn(future, kind, site);
        if kind == Kind::Essential {
            let mut io = self.io.borrow_mut();
            io.activity_ns = io.now_ns;
        }
        Ok(handle)
    }

    /// Wakes and drops what had to wait for the end of a borrow, until nothing is left. Bounded:
    /// what a waker or a destructor makes in the last round waits for the next turn.
    #[inline]
    pub(crate) fn settle(&self, leftovers: &mut Leftovers) {
        self.settle_after(leftovers, |_| {});
    }

    /// Does something with the sockets, and settles then what waits.
    #[inline]
    pub(crate) fn settle_after(&self, leftovers: &mut Leftovers, act: impl FnOnce(&mut Io)) {
        let waits = {
            let mut io = self.io.borrow_mut();
            act(&mut io);
            io.has_leftovers()
        };
        // What is in `leftovers` was on its way when a destructor panicked past all care: `settle_now`
        // leaves nothing there.
        if waits {
            self.settle_now(leftovers);
        }
    }

    /// As `settle`, where something waits, or may have been left in `leftovers` by a turn that failed.
    pub(crate) fn settle_now(&self, leftovers: &mut Leftovers) {
        for _ in 0..SETTLE_ROUNDS {
            {
                let mut io = self.io.borrow_mut();
                if leftovers.is_empty() && !io.has_leftovers() {
                    return;
                }
                io.take_leftovers(leftovers);
            }
            leftovers.settle();
        }
    }
}

/// How often one turn looks for what waking and dropping has left behind.
const SETTLE_ROUNDS: usize = 4;
