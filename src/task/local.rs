//! One core's tasks: what every thread sees of them, and the owner's side with a task's whole life.

use std::cell::Cell;
use std::ptr::{self, NonNull};

#[cfg(all(test, not(loom)))]
use super::Info;
use super::header::{Header, is_younger};
use super::join::JoinError;
use super::pulse::Pulse;
use super::queue::{Foreign, Live, Ready};
use super::raw::Task;
use super::spare::Spare;
use super::state::Left;
use super::typed::Polled;
use super::{Alarm, Counters, Kind, Ran};
use crate::sync::{Arc, thread_local};

/// How many generations of tasks one `drop_all` follows: tasks that destructors of dropped tasks
/// spawned, and so on. A clean-up rarely needs a second one; a destructor that spawns its like for
/// ever must not hold up the stop.
pub(super) const GENERATIONS_MAX: usize = 16;

/// After how many tasks `drop_all` shows that it goes on. A destructor may take its time, so few.
const DROPS_BETWEEN: usize = 16;

thread_local! {
    /// The core whose tasks this thread owns, as far as a wake is concerned. Never a core that is
    /// gone, whose address another may have by now: `Tasks` clears it in its `Drop`.
    static HERE: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

/// What every task of a core holds, and by it every waker: the way back to the run queue.
pub(super) struct Shared {
    /// Tasks woken by other threads. Closed when the core is gone.
    pub(super) foreign: Foreign,
    /// Rung after each push to `foreign`.
    alarm: Arc<dyn Alarm>,
    /// Told whose code runs. Written by the owner only.
    pub(super) pulse: Arc<Pulse>,
    /// The owner's side. Touched by no other thread, and without a destructor, for the last one to
    /// hold the core may be any thread.
    local: Local,
}

// SAFETY: `foreign`, `alarm` and `pulse` are made for all threads. `local` is reached by `Shared::local`
// only, whose callers promise to be on the owner's thread; dropping it touches nothing, since it is
// made of `Cell`s of plain values.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(alarm: Arc<dyn Alarm>, pulse: Arc<Pulse>) -> Shared {
        Shared {
            foreign: Foreign::new(),
            alarm,
            pulse,
            local: Local::default(),
        }
    }

    /// From now on wakes on this thread go straight to the run queue. Called by the owner. Where a
    /// thread owns several cores the latest counts; wakes of the others take the foreign queue,
    /// which is slower and just as right.
    pub(super) fn settle_here(&self) {
        HERE.with(|here| here.set(self));
    }

    /// The opposite. Called by the owner before the core can be freed.
    pub(super) fn leave_here(&self) {
        if self.is_here() {
            HERE.with(|here| here.set(ptr::null()));
        }
    }

    /// Whether this thread is the owner's, and the core the one that settled last.
    #[inline]
    pub(super) fn is_here(&self) -> bool {
        ptr::eq(HERE.with(Cell::get), self)
    }

    /// The owner's side.
    ///
    /// # Safety
    ///
    /// The caller is on the owner's thread.
    #[inline]
    pub(super) unsafe fn local(&self) -> &Local {
        &self.local
    }

    /// A wake on another thread.
    ///
    /// # Safety
    ///
    /// `State::notify` of this task, which is of this core, has just answered `Push`, and the
    /// caller holds a reference besides the one for the queue.
    pub(super) unsafe fn push_foreign(&self, task: NonNull<Header>) {
        // SAFETY: the caller's promise.
        if unsafe { self.foreign.push(task) } {
            self.alarm.ring();
            return;
        }
        // The core is gone between the two steps. The queue's reference comes back to us, and it
        // is not the last one, for the caller has another.
        // SAFETY: the caller's own reference keeps the header alive.
        let header = unsafe { task.as_ref() };
        header.life.used();
        let left = header.state.collected();
        debug_assert_eq!(left, Left::Others, "the waking thread has a reference");
    }
}

/// How a task ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    Completed,
    Cancelled,
    Panicked,
    Dropped,
}

/// What [`Counters`] tells, each in a cell of its own: one is changed at a time, without a copy of
/// all.
#[derive(Default)]
struct Counts {
    spawned: Cell<u64>,
    completed: Cell<u64>,
    cancelled: Cell<u64>,
    panicked: Cell<u64>,
    dropped: Cell<u64>,
    background_dropped: Cell<u64>,
}

impl Counts {
    /// All of them.
    fn read(&self) -> Counters {
        Counters {
            spawned: self.spawned.get(),
            completed: self.completed.get(),
            cancelled: self.cancelled.get(),
            panicked: self.panicked.get(),
            dropped: self.dropped.get(),
            background_dropped: self.background_dropped.get(),
        }
    }
}

/// Counts one more.
fn add(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

/// The owner's side. Everything here is a cell of plain values: user code may run at any point
/// between two accesses and come back in.
#[derive(Default)]
pub(super) struct Local {
    /// Tasks to be polled.
    pub(super) ready: Ready,
    /// Live tasks, by kind.
    live: [Live; Kind::ALL.len()],
    /// The task being polled. It stays alive meanwhile, for only `turn` can end it.
    current: Cell<Option<Task>>,
    /// Whether the future of a task that did not end by itself is being destroyed.
    destroying: Cell<bool>,
    /// How many tasks were ever spawned here; the id of the last one.
    spawned: Cell<u64>,
    /// What the report is told.
    counts: Counts,
    /// Memory for the next tasks, each with a strong count of the `Arc` around this.
    pub(super) spare: Spare,
}

impl Local {
    /// A number for a new task. They rise.
    #[inline]
    pub(super) fn next_id(&self) -> u64 {
        self.spawned.set(self.spawned.get() + 1);
        self.spawned.get()
    }

    /// A new task comes to life, and is ready for its first poll.
    #[inline]
    pub(super) fn admit(&self, task: Task, kind: Kind) {
        self.live(kind).push(task);
        self.count(kind, |counts| add(&counts.spawned));
        self.ready.append(task);
    }

    /// Puts a woken task into the run queue, unless it is there or over. Whether it was put there.
    #[inline]
    pub(super) fn enqueue(&self, task: Task) -> bool {
        let wanted = task.is_idle() || task.is_polling();
        if !wanted || task.header().is_queued() {
            return false;
        }
        self.ready.push(task);
        true
    }

    /// Polls ready tasks. A call from inside a poll does nothing: the task being polled might be
    /// the first in the queue.
    #[inline(always)]
    pub(super) fn run(&self, budget: usize, pulse: &Pulse) -> Ran {
        let mut ran = Ran::default();
        if self.current.get().is_some() {
            return ran;
        }
        // Tasks that turn out to be over, or aborted, count against the budget too.
        let (mut left, mut ended) = (budget, 0);
        while left > 0 {
            let Some(task) = self.ready.pop() else { break };
            left -= 1;
            let header = task.header();
            if !header.leave_to_be_polled() {
                ended += 1;
                // SAFETY: the task was just taken from the run queue.
                unsafe { self.end_in_queue(task) };
                continue;
            }
            ran.essential += usize::from(header.is_essential());
            // SAFETY: it is to be polled, so it is idle.
            unsafe { self.turn(task, pulse) };
        }
        // Once for all: from one task to the next the name of the former stands, which is also
        // that of whose output and wakers are dropped in between.
        pulse.leave();
        ran.polled = budget - left - ended;
        ran
    }

    /// One task's turn.
    ///
    /// # Safety
    ///
    /// The task is idle.
    #[inline(always)]
    unsafe fn turn(&self, task: Task, pulse: &Pulse) {
        self.current.set(Some(task));
        task.header().enter(pulse, false);
        // SAFETY: the caller's promise, and no user code has run since.
        let polled = unsafe { task.poll() };
        self.current.set(None);
        match polled {
            Polled::Pending if task.header().is_abort_asked() => {
                self.destroy(task, Ending::Cancelled);
            }
            Polled::Pending => {}
            Polled::Completed => self.complete(task),
            Polled::Panicked => self.conclude(task, Ending::Panicked),
        }
    }

    /// What becomes of a task that came out of the run queue, and is not to be polled.
    ///
    /// # Safety
    ///
    /// The task was just taken from the run queue.
    #[cold]
    unsafe fn end_in_queue(&self, task: Task) {
        // SAFETY: the caller's promise.
        let left = unsafe { task.leave_queue() };
        if let Some(task) = left.filter(|task| task.is_idle()) {
            self.destroy(task, Ending::Cancelled);
        }
    }

    /// A handle asks for the end of its task. At once if that is possible; else at its next turn,
    /// or after the poll that is under way.
    ///
    /// Not possible either while another abort's or drop's destructor runs: a chain of tasks, each
    /// of which aborts the next one in a destructor, would need a stack as long as the chain.
    pub(super) fn abort(&self, task: Task) {
        if task.is_polling() {
            task.header().ask_abort();
        } else if task.is_idle() && self.destroying.get() {
            task.header().ask_abort();
            self.enqueue(task);
        } else if task.is_idle() {
            self.destroy(task, Ending::Cancelled);
        }
    }

    /// Drops all live tasks whose kind is asked for and which are not being polled, and those that
    /// come up meanwhile, up to `GENERATIONS_MAX`. How many.
    pub(super) fn drop_all(&self, which: &dyn Fn(Kind) -> bool, between: &dyn Fn()) -> usize {
        let mut dropped = 0;
        for _ in 0..GENERATIONS_MAX {
            let youngest = self.spawned.get();
            let before = dropped;
            for kind in Kind::ALL.into_iter().filter(|kind| which(*kind)) {
                dropped += self.drop_kind(kind, youngest, between);
            }
            if dropped == before {
                break;
            }
        }
        dropped
    }

    /// Drops the tasks of one kind, up to the one with the id `youngest`.
    fn drop_kind(&self, kind: Kind, youngest: u64, between: &dyn Fn()) -> usize {
        let mut dropped = 0;
        // Each time from the front, for a destructor may do anything to the list. What can stand
        // in the way there is only the task being polled, and one whose destructor is running.
        while let Some(task) = self.live(kind).iter().find(Task::is_idle) {
            if is_younger(task.header().id(), youngest) {
                break;
            }
            if task.header().is_abort_asked() {
                self.destroy(task, Ending::Cancelled);
            } else {
                self.destroy(task, Ending::Dropped);
            }
            dropped += 1;
            if dropped % DROPS_BETWEEN == 0 {
                between();
            }
        }
        dropped
    }

    /// Ends an idle task by destroying its future.
    #[cold]
    fn destroy(&self, task: Task, ending: Ending) {
        let site = task.header().site;
        let error = match ending {
            Ending::Dropped => JoinError::dropped(site),
            _ => JoinError::cancelled(site),
        };
        let outer = self.destroying.replace(true);
        let pulse = &task.header().shared.pulse;
        let around = pulse.outer();
        task.header().enter(pulse, true);
        task.destroy(error);
        pulse.return_to(around);
        self.destroying.set(outer);
        self.conclude(task, ending);
    }

    /// The usual end: the future gave its output.
    fn complete(&self, task: Task) {
        self.conclude(task, Ending::Completed);
    }

    /// The future is gone: the task is counted, its joiner told, and forgotten.
    #[inline(always)]
    fn conclude(&self, task: Task, ending: Ending) {
        let kind = task.header().kind();
        self.live(kind).remove(task);
        self.count(kind, |counts| match ending {
            Ending::Completed => add(&counts.completed),
            Ending::Cancelled => add(&counts.cancelled),
            Ending::Panicked => add(&counts.panicked),
            Ending::Dropped if kind == Kind::Background => {
                add(&counts.dropped);
                add(&counts.background_dropped);
            }
            Ending::Dropped => add(&counts.dropped),
        });
        if !task.has_handle() {
            task.discard_output();
        } else {
            task.take_joiner().wake();
        }
        // SAFETY: a task is concluded once, for it is idle or being polled before and over after;
        // and it is not used again here.
        unsafe { task.conclude() };
    }

    /// Empties the run queue, which nobody will look into any more, of tasks that are over.
    pub(super) fn abandon_ready(&self) {
        while let Some(task) = self.ready.pop() {
            // SAFETY: the task was just taken from the run queue. One that is not over (its
            // destructor is running right now) is given up by its own conclusion.
            let _ = unsafe { task.leave_queue() };
        }
    }

    /// The live tasks of a kind.
    #[inline]
    pub(super) fn live(&self, kind: Kind) -> &Live {
        &self.live[kind as usize]
    }

    /// The task being polled.
    #[cfg(all(test, not(loom)))]
    pub(super) fn current(&self) -> Option<Info> {
        self.current.get().map(|task| task.header().info())
    }

    /// What the report is told.
    pub(super) fn counters(&self) -> Counters {
        self.counts.read()
    }

    /// Changes the counters for a task of this kind. Hooks have a list of their own in the report.
    #[inline(always)]
    fn count(&self, kind: Kind, change: impl FnOnce(&Counts)) {
        if kind != Kind::Hook {
            change(&self.counts);
        }
    }
}
