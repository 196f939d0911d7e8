//! A scripted kernel behind the ring's door, for tests.
//!
//! ```text
//!  driver ──▶ Door ──┬──▶ Port: the kernel
//!                    └──▶ Kernel: a queue of submissions, operations, a queue of completions,
//!                         and sockets with peers at their other ends; dice decide what is next
//! ```
//! While a script is [installed](install) on a thread, every driver that is opened there gets it
//! in the kernel's place, and the few calls on sockets that do not go through the ring
//! ([`calls`]) ask it too. It takes submissions, answers them in an order its dice decide, reads
//! and writes through the pointers it was given at the last moment at which the kernel might, and
//! checks the law of the [ring](super): see [`Kernel::broken`].

pub(crate) mod answers;
mod books;
pub(crate) mod calls;
pub(crate) mod dice;
pub(crate) mod hand;
pub(crate) mod kernel;
mod lent;
pub(crate) mod met;
mod ops;
pub(crate) mod peer;
mod sockets;
mod steps;
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use crate::config::{CQ_ENTRIES_MIN, Features, Queues};
use crate::error::Error;
use crate::ring::buffers::Pool;
use crate::ring::entry::{Came, Cqe, Sqe};
use crate::ring::port::{Port, Wait};
use kernel::Kernel;

/// A script that several may look at: the door, the sockets' calls and the test.
pub(crate) type Script = Rc<RefCell<Kernel>>;

thread_local! {
    /// The script that stands for the kernel on this thread.
    static INSTALLED: RefCell<Option<Script>> = const { RefCell::new(None) };
}

/// Puts `kernel` in the kernel's place on this thread, until the result is dropped.
pub(crate) fn install(kernel: Kernel) -> Installed {
    let script = Rc::new(RefCell::new(kernel));
    INSTALLED.with(|place| place.replace(Some(script.clone())));
    Installed(script)
}

/// See [`install`].
pub(crate) struct Installed(pub(crate) Script);

impl Drop for Installed {
    fn drop(&mut self) {
        INSTALLED.with(|place| place.take());
    }
}

/// The script of this thread, if there is one.
pub(crate) fn installed() -> Option<Script> {
    INSTALLED
        .try_with(|place| place.borrow().clone())
        .ok()
        .flatten()
}

/// What a turn panics with that was [struck](strike_after).
#[derive(Debug)]
pub(crate) struct Struck;

/// Where a defect of the core's own is played: no user's code is under way there, and the records
/// are borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The driver takes completions from the ring.
    Reap,
    /// The driver puts an operation into the ring.
    Submit,
    /// Timers that were due have fired, and the tasks they begin are in the turn's hands.
    Timers,
}

thread_local! {
    /// What this thread does how many more times before it panics there, and how many times it does
    /// from then on.
    static STRIKES: Cell<(Place, u64, u32)> = const { Cell::new((Place::Reap, 0, 0)) };
}

/// Plays a defect of the driver's: the reap after so many of this thread's panics, and those that
/// follow, `times` in all.
pub(crate) fn strike_after(reaps: u64, times: u32) {
    STRIKES.set((Place::Reap, reaps, times));
}

/// Plays a defect at `place`: the next time this thread is there it panics, once.
pub(crate) fn strike_at(place: Place) {
    STRIKES.set((place, 0, 1));
}

/// See [`strike_after`].
pub(crate) fn strike(here: Place) {
    match STRIKES.get() {
        (place, _, _) if place != here => {}
        (_, _, 0) => {}
        (_, 0, times) => {
            STRIKES.set((here, 0, times - 1));
            // Without the panic hook, which would print each of thousands.
            std::panic::resume_unwind(Box::new(Struck));
        }
        (_, left, times) => STRIKES.set((here, left - 1, times)),
    }
}

/// The door with both kernels behind it. Its functions are the port's.
#[derive(Debug)]
pub(crate) enum Door {
    /// The real one.
    Kernel(Box<Port>),
    /// The scripted one.
    Script(Script),
}

impl Door {
    pub(crate) fn open(features: Features, queues: Queues) -> Result<Door, Error> {
        match installed() {
            Some(script) => Ok(Door::Script(script)),
            None => Port::open(features, queues).map(|port| Door::Kernel(Box::new(port))),
        }
    }

    pub(crate) fn cq_entries(&self) -> u32 {
        match self {
            Door::Kernel(port) => port.cq_entries(),
            Door::Script(_) => CQ_ENTRIES_MIN,
        }
    }

    pub(crate) fn lend(&mut self, pool: &Pool) -> Result<(), Error> {
        match self {
            Door::Kernel(port) => port.lend(pool),
            Door::Script(script) => {
                let (address, entries) = pool.ring_address();
                script.borrow_mut().take_pool(address, entries);
                Ok(())
            }
        }
    }

    #[must_use]
    pub(crate) fn push(&mut self, sqe: &Sqe, user_data: u64) -> bool {
        strike(Place::Submit);
        match self {
            Door::Kernel(port) => port.push(sqe, user_data),
            Door::Script(script) => script.borrow_mut().push(sqe, user_data),
        }
    }

    pub(crate) fn has_unseen(&mut self) -> bool {
        match self {
            Door::Kernel(port) => port.has_unseen(),
            Door::Script(script) => script.borrow().has_unseen(),
        }
    }

    pub(crate) fn unsubmitted(&self) -> u32 {
        match self {
            Door::Kernel(port) => port.unsubmitted(),
            Door::Script(script) => script.borrow().unsubmitted(),
        }
    }

    pub(crate) fn has_all_fitted(&mut self) -> bool {
        match self {
            Door::Kernel(port) => port.has_all_fitted(),
            Door::Script(script) => script.borrow().has_all_fitted(),
        }
    }

    pub(crate) fn overflows(&self) -> u64 {
        match self {
            Door::Kernel(port) => port.overflows(),
            Door::Script(_) => 0,
        }
    }

    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        match self {
            Door::Kernel(port) => port.enter(wait),
            Door::Script(script) => {
                script.borrow_mut().enter(wait);
                Ok(())
            }
        }
    }

    pub(crate) fn catch_up(&mut self, enters_most: u32) -> io::Result<()> {
        match self {
            Door::Kernel(port) => port.catch_up(enters_most),
            Door::Script(script) => {
                script.borrow_mut().catch_up(enters_most);
                Ok(())
            }
        }
    }

    pub(crate) fn take_only(&mut self) -> Option<Cqe> {
        let has_only_one = match self {
            Door::Kernel(port) => port.has_only_one(),
            Door::Script(script) => script.borrow().has_only_one(),
        };
        if !has_only_one {
            return None;
        }
        if let Door::Kernel(port) = self {
            strike(Place::Reap);
            return port.take_only();
        }
        let mut one = [Cqe::default()];
        self.reap(&mut one);
        Some(one[0])
    }

    pub(crate) fn reap(&mut self, batch: &mut [Cqe]) -> Came {
        strike(Place::Reap);
        match self {
            Door::Kernel(port) => port.reap(batch),
            Door::Script(script) => {
                let count = script.borrow_mut().reap(batch);
                let mut came = Came::default();
                batch[..count].iter().for_each(|cqe| came.add(cqe));
                came
            }
        }
    }

    /// Lets the kernel play out of memory, or no longer.
    pub(crate) fn starve(&mut self, starved: bool) {
        if let Door::Kernel(port) = self {
            port.starved = starved;
        }
    }
}
