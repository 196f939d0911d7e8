//! Tasks: futures that live on one core, the queue of those to be polled, and wakers that any
//! thread may keep for as long as it likes.
//!
//! ```text
//!          spawn                  run                      ready, panic
//!   ───────────────▶ ready ──────────────▶ being polled ───────────────▶ over ──▶ JoinHandle
//!                    ▲  ▲                     │                           ▲
//!      Waker::wake   │  │ collect_foreign     │ pending                   │ abort, drop_all
//!     on this thread │  │                     ▼                           │
//!                    └──┼───────────────── waiting ───────────────────────┘
//!                       │                     │ Waker::wake on another thread, Alarm::ring
//!                       └──── foreign ◀───────┘
//! ```
//!
//! A task is one allocation. Wakers hold it by a reference count and nothing else: the future and
//! its output live and die on the core's thread, whoever wakes and whoever forgets. When the core
//! is gone its tasks are over, and a wake finds that out from the task itself.
//!
//! To read, from the bottom: `state` (the word that threads share) and `own` (what its owner counts
//! beside it), `header`, `typed` and `raw` (one task in memory), `spare` (where that memory comes from),
//! `waker` (what it hands out), `kept` (the same in one word), `queue` (the lists), `local` (a task's
//! life on its core), `join`
//! (what the user holds), `pulse` (what other threads may know of what runs). They know each other
//! in a circle: a queue is made of tasks, a task hands out wakers, and a wake leads back to the
//! queue.
//!
//! *Invariants.* No future and no output is touched on another thread. No user code runs while
//! anything here is borrowed. No queue allocates. No panic of a task, of its destructors or of
//! what a panic carries comes out of here.

mod begin;
mod header;
mod join;
mod kept;
mod local;
mod own;
mod pulse;
mod queue;
mod raw;
mod spare;
mod state;
mod typed;
mod waker;

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;

use std::future::Future;
use std::marker::PhantomData;
use std::panic::Location;

use crate::sync::Arc;
pub(crate) use begin::{Begin, Ended};
pub use join::{JoinError, JoinHandle};
pub(crate) use kept::Kept;
use local::{Local, Shared};
pub(crate) use pulse::{Pulse, Running};
use raw::Task;

/// What a wake from a foreign thread rings so that a sleeping core looks at its foreign queue.
///
/// It is rung after the task is in the queue, with a sequentially consistent fence between the two.
/// So a core that first says that it sleeps, makes such a fence too, and asks
/// [`Tasks::foreign_pending`] then, and an alarm that looks whether the core sleeps, cannot miss each
/// other.
pub(crate) trait Alarm: Send + Sync {
    /// Wakes the core up if it sleeps. Called from any thread.
    fn ring(&self);
}

/// What a task is to the stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A core's main future.
    Main,
    /// From `spawn`: the stop waits for it.
    Essential,
    /// From `spawn_background`: the stop does not wait for it.
    Background,
    /// A shutdown hook. Not in the [`Counters`], for the report lists hooks by themselves.
    Hook,
}

impl Kind {
    /// Each kind, at the index that is its discriminant.
    const ALL: [Kind; 4] = [Kind::Main, Kind::Essential, Kind::Background, Kind::Hook];

    /// Whether a stop waits for it.
    pub(crate) fn is_essential(self) -> bool {
        matches!(self, Kind::Main | Kind::Essential)
    }
}

/// What became of the tasks of a core, hooks left out.
///
/// When none is alive, `spawned` is `completed + cancelled + panicked + dropped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// All there ever were.
    pub(crate) spawned: u64,
    /// Gave an output.
    pub(crate) completed: u64,
    /// Ended by their handle.
    pub(crate) cancelled: u64,
    /// Panicked.
    pub(crate) panicked: u64,
    /// Dropped by [`Tasks::drop_all`], or with the core.
    pub(crate) dropped: u64,
    /// Of those dropped, the ones from `spawn_background`.
    pub(crate) background_dropped: u64,
}

/// Which task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Info {
    /// Its number on this core, from 1. Never used again (see `Header`).
    pub(crate) id: u64,
    /// What it is to the stop.
    pub(crate) kind: Kind,
    /// Where it was spawned.
    pub(crate) site: &'static Location<'static>,
}

/// What one [`Tasks::run`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(crate) struct Ran {
    /// Polls.
    pub(crate) polled: usize,
    /// Of those, polls of main and essential tasks.
    pub(crate) essential: usize,
}

/// The tasks of one core. Stays on the thread that made it.
pub(crate) struct Tasks {
    /// The queues, which the tasks hold too. The owner's side is this thread's.
    shared: Arc<Shared>,
    /// Keeps the value on its thread, which is what makes that thread the owner.
    not_send: PhantomData<*const ()>,
}

impl Tasks {
    /// No tasks yet. Makes this thread the owner of those to come. `pulse` is told whose code runs.
    pub(crate) fn new(alarm: Arc<dyn Alarm>, pulse: Arc<Pulse>) -> Tasks {
        let shared = Arc::new(Shared::new(alarm, pulse));
        shared.settle_here();
        Tasks {
            shared,
            not_send: PhantomData,
        }
    }

    /// Makes a task of `future`, ready for its first poll.
    #[inline]
    pub(crate) fn spawn<F>(
        &self,
        future: F,
        kind: Kind,
        site: &'static Location<'static>,
    ) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let local = self.local();
        let id = local.next_id();
        // SAFETY: `Tasks` stays on the owner's thread.
        let task = unsafe { Task::allocate(future, Info { id, kind, site }, &self.shared) };
        local.admit(task, kind);
        // SAFETY: the task was allocated here, of this future, and gets this one handle.
        unsafe { JoinHandle::of(task, site) }
    }

    /// Moves tasks that other threads have woken to the run queue. How many.
    #[inline]
    pub(crate) fn collect_foreign(&self) -> usize {
        if self.shared.foreign.looks_empty() {
            return 0;
        }
        self.collect_now()
    }

    /// As `collect_foreign`, where there are some.
    fn collect_now(&self) -> usize {
        let mut moved = 0;
        for pointer in self.shared.foreign.take() {
            // SAFETY: this is the owner's thread, and the queue's reference is held until
            // `leave_foreign` gives it up.
            let task = unsafe { Task::on_owner(pointer) };
            // SAFETY: the task was just taken from the foreign queue, and is not used again.
            moved += usize::from(unsafe { task.leave_foreign() });
        }
        moved
    }

    /// Whether another thread has woken a task that was not collected yet. To be asked between
    /// telling the alarm that the core sleeps, with the fence behind that, and sleeping; see [`Alarm`].
    #[inline]
    pub(crate) fn foreign_pending(&self) -> bool {
        !self.shared.foreign.looks_empty()
    }

    /// Polls tasks, until none is ready or `budget` of them had their turn. A task woken meanwhile
    /// goes to the back of the queue. A call from inside a poll does nothing.
    #[inline]
    pub(crate) fn run(&self, budget: usize) -> Ran {
        if self.has_ready() {
            self.run_now(budget)
        } else {
            Ran::default()
        }
    }

    /// As `run`, where some are ready.
    #[inline(always)]
    fn run_now(&self, budget: usize) -> Ran {
        self.shared.settle_here();
        self.local().run(budget, &self.shared.pulse)
    }

    /// Whether the run queue has something in it.
    #[inline]
    pub(crate) fn has_ready(&self) -> bool {
        !self.local().ready.is_empty()
    }

    /// How many tasks of this kind have not ended.
    pub(crate) fn live(&self, kind: Kind) -> usize {
        self.local().live(kind).len()
    }

    /// What became of the tasks so far.
    pub(crate) fn counters(&self) -> Counters {
        self.local().counters()
    }

    /// The tasks that have not ended of the kinds that `which` names, by kind, the oldest first; of
    /// all of these `most` at most.
    pub(crate) fn some_live(&self, which: &dyn Fn(Kind) -> bool, most: usize) -> Vec<Info> {
        let local = self.local();
        let kinds = Kind::ALL.into_iter().filter(|kind| which(*kind));
        let tasks = kinds.flat_map(|kind| local.live(kind).iter());
        tasks.take(most).map(|task| task.header().info()).collect()
    }

    /// Drops the futures of all live tasks of the kinds that `which` names, oldest first, except a
    /// task that is being polled. How many there were.
    ///
    /// Their handles get a [`JoinError`] that `is_dropped`, or `is_cancelled` where an abort was
    /// still waiting for the task's turn. Destructors may spawn, wake and abort; tasks they spawn
    /// are dropped too, down to a fixed number of generations. Panics end here.
    ///
    /// `between` is called between two of them now and then: who has many to drop does not hang.
    pub(crate) fn drop_all(&self, which: &dyn Fn(Kind) -> bool, between: &dyn Fn()) -> usize {
        self.local().drop_all(which, between)
    }

    /// The task being polled.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn current(&self) -> Option<Info> {
        self.local().current()
    }

    /// The owner's side.
    #[inline]
    fn local(&self) -> &Local {
        // SAFETY: `Tasks` stays on the thread that made it, and that thread is the owner.
        unsafe { self.shared.local() }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // Nobody can spawn here any more, so one generation is all there is.
        self.drop_all(&|_| true, &|| {});
        self.local().abandon_ready();
        for pointer in self.shared.foreign.close() {
            // SAFETY: this is the owner's thread, and the queue's reference is held until
            // `leave_foreign` gives it up.
            let task = unsafe { Task::on_owner(pointer) };
            // SAFETY: the task was just taken from the foreign queue, and is not used again.
            unsafe { task.leave_foreign() };
        }
        // Last, so that wakes from the destructors above went the short way.
        self.shared.leave_here();
        // No task keeps its memory here from now on.
        self.local().spare.empty();
    }
}
