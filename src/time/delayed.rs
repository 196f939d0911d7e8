//! Tasks that begin later: an entry in the wheel that spawns, and a handle that hears of it.
//!
//! ```text
//!            due: Word::begin
//!  Waiting ───────────────────▶ Begun
//!     └──────────────────────▶ Cancelled
//!       aborted, or the stop took the entry out: Word::drop
//! ```

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::ns;
use crate::context::{self, Local};
use crate::io::timer::{Timer, tick};
use crate::panics::quietly;
use crate::spawn::Refused;
use crate::task::{JoinError, JoinHandle, Kind};
use crate::wheel::Key;

/// Spawns an essential task after `delay`.
///
/// # Panics
///
/// Outside of a core.
///
/// # Cancellation
///
/// Dropping the [`Delayed`] detaches the task: it begins when it is due. [`Delayed::abort`] takes
/// it back.
///
/// # Shutdown
///
/// If it is due before the drain deadline it begins then, and the stop waits for it. If it is due
/// later it is cancelled as soon as the drain begins, and counted; the handle says so. In Closing
/// it never begins. Use [`try_spawn_after`] to get the future back.
#[track_caller]
pub fn spawn_after<F>(delay: Duration, future: F) -> Delayed<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let local = context::here();
    let site = Location::caller();
    let due_ns = local.now_ns().saturating_add(ns(delay));
    match begins(&local, due_ns) {
        Begins::Never => local.rejected.set(local.rejected.get() + 1),
        Begins::Late => local.timers_cancelled.set(local.timers_cancelled.get() + 1),
        Begins::InTime => return delayed(local, due_ns, future, site),
    }
    drop(future);
    Delayed {
        state: Rc::new(RefCell::new(DelayedState::Cancelled(site))),
        local,
        key: None,
    }
}

/// As [`spawn_after`], but what will never begin, because the stop is over before, is given back.
///
/// # Examples
///
/// ```no_run
/// # use std::time::Duration;
/// # async fn example(upload: impl Future<Output = ()> + 'static) {
/// match evenfall::time::try_spawn_after(Duration::from_secs(60), upload) {
///     Ok(later) => drop(later),
///     // The stop does not wait that long: what must be done is done now.
///     Err(refused) => refused.into_inner().await,
/// }
/// # }
/// ```
///
/// # Errors
///
/// [`Refused`], with the future: in Closing, and from the beginning of the drain on if it is due
/// after the drain deadline. Taken before, such a task is cancelled when the drain begins, as with
/// `spawn_after`.
///
/// # Panics
///
/// Outside of a core.
#[track_caller]
pub fn try_spawn_after<F>(delay: Duration, future: F) -> Result<Delayed<F::Output>, Refused<F>>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let local = context::here();
    let due_ns = local.now_ns().saturating_add(ns(delay));
    let refused = match begins(&local, due_ns) {
        Begins::InTime => return Ok(delayed(local, due_ns, future, Location::caller())),
        Begins::Late => Refused::due_late(future, &local.shared),
        Begins::Never => Refused::stopping(future, &local.shared),
    };
    local.rejected.set(local.rejected.get() + 1);
    Err(refused)
}

/// Whether a task that is asked for now and due later will begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    /// Yes, as far as is known.
    InTime,
    /// No: the drain is over before.
    Late,
    /// No: nothing begins any more.
    Never,
}

/// Whether what is due at `due_ns` will begin on the core of `local`.
fn begins(local: &Local, due_ns: u64) -> Begins {
    if local.closed.get() {
        return Begins::Never;
    }
    let draining = local.io.borrow().is_draining();
    if draining && due_ns > local.shared.orders.deadlines().drain {
        return Begins::Late;
    }
    Begins::InTime
}

/// Puts a task into the wheel.
fn delayed<F>(
    local: Rc<Local>,
    due_ns: u64,
    future: F,
    site: &'static Location<'static>,
) -> Delayed<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let state = Rc::new(RefCell::new(DelayedState::Waiting(None)));
    let word = Word {
        state: state.clone(),
        site,
    };
    let on = local.clone();
    let spawn = Box::new(move || word.begin(&on, future));
    let key = {
        let mut io = local.io.borrow_mut();
        io.delayed_spawns += 1;
        io.wheel.insert(tick(due_ns), Timer::Spawn(spawn))
    };
    Delayed {
        state,
        local,
        key: Some(key),
    }
}

/// A task that begins later. Awaiting it gives the task's result.
///
/// # Cancellation
///
/// Dropping it detaches the task.
///
/// # Shutdown
///
/// See [`spawn_after`].
#[must_use = "a dropped handle detaches the task; say `drop` if that is meant"]
pub struct Delayed<T> {
    /// Shared with the entry in the wheel.
    state: Rc<RefCell<DelayedState<T>>>,
    /// The core whose wheel it is in.
    local: Rc<Local>,
    /// The entry, as long as it may be in the wheel.
    key: Option<Key>,
}

/// How far a delayed task is.
enum DelayedState<T> {
    /// Its entry is in the wheel; who waits for the task.
    Waiting(Option<Waker>),
    /// It has begun.
    Begun(JoinHandle<T>),
    /// It will never begin.
    Cancelled(&'static Location<'static>),
}

/// The entry's side: says what became of it, whatever becomes of it.
struct Word<T> {
    /// Shared with the handle.
    state: Rc<RefCell<DelayedState<T>>>,
    /// Where the task was spawned.
    site: &'static Location<'static>,
}

impl<T: 'static> Word<T> {
    /// It is due: the task begins.
    fn begin(self, local: &Local, future: impl Future<Output = T> + 'static) {
        if let Ok(handle) = local.spawn(future, Kind::Essential, self.site) {
            self.become_state(DelayedState::Begun(handle));
        }
    }
}

impl<T> Word<T> {
    /// Sets the state if it still waits, and wakes whoever waited for that.
    fn become_state(&self, next: DelayedState<T>) {
        if !matches!(*self.state.borrow(), DelayedState::Waiting(_)) {
            return;
        }
        let before = self.state.replace(next);
        if let DelayedState::Waiting(Some(waker)) = before {
            // This runs in destructors, perhaps while a future unwinds: a foreign waker that panics
            // then would be the end of the process.
            quietly(|| waker.wake());
        }
    }
}

impl<T> Drop for Word<T> {
    fn drop(&mut self) {
        self.become_state(DelayedState::Cancelled(self.site));
    }
}

impl<T> Delayed<T> {
    /// Takes the task back: if it has begun it is aborted, if not it never begins.
    pub fn abort(&self) {
        if let DelayedState::Begun(handle) = &*self.state.borrow() {
            return handle.abort();
        }
        let entry = self.key.and_then(|key| {
            let mut io = self.local.io.borrow_mut();
            let entry = io.wheel.cancel(key);
            io.delayed_spawns -= usize::from(entry.is_some());
            entry
        });
        // The entry's destructor tells the handle, and drops the future: outside of the borrow. Its
        // panic is none of who takes it back, as with a task that has begun.
        quietly(|| drop(entry));
    }
}

impl<T> Future for Delayed<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.state.borrow_mut();
        let replaced = match &mut *state {
            DelayedState::Begun(handle) => return Pin::new(handle).poll(context),
            DelayedState::Cancelled(site) => return Poll::Ready(Err(JoinError::cancelled(site))),
            DelayedState::Waiting(waker) => waker.replace(context.waker().clone()),
        };
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl<T> std::fmt::Debug for Delayed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &*self.state.borrow() {
            DelayedState::Waiting(_) => "waiting",
            DelayedState::Begun(_) => "begun",
            DelayedState::Cancelled(_) => "cancelled",
        };
        f.debug_struct("Delayed").field("state", &state).finish()
    }
}
