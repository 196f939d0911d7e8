//! One task in memory: a header that every waker knows (`header`), and behind it the future, later
//! its output (`typed`).
//!
//! # Who may touch what
//!
//! A task belongs to the thread that spawned it, the *owner*.
//!
//! * `state` and `next_foreign` are atomics for every thread, under the rules of `state` and of
//!   the foreign queue. `shared` and `vtable` never change.
//! * Everything else in the header, the owner's part of the reference count among it, and the slot
//!   behind it, is the owner's alone. On the owner's thread it is reached through a [`Task`]; no
//!   other thread can make one.
//! * The future and the output are destroyed on the owner's thread. The memory is freed by
//!   whoever gives up the last reference; by then the slot is [`Phase::Empty`] and no joiner is
//!   left, so that no user code runs there.
//!
//! # The phases
//!
//! The phase says what the slot holds. It changes together with the slot: in this file,
//! and at the end of a poll in `typed`.
//!
//! ```text
//!   allocate ──▶ Idle ────── poll ──────▶ Polling
//!                │  ▲                      │    │
//!                │  └───── poll: pending ──┘    │ poll: ready, or a panic
//!        destroy │                              ▼
//!                └───────────────────────────▶ Busy ──▶ Done ── take_output ──▶ Empty
//!                          the future's destructor runs  │                       ▲
//!                                                        └─ discard_output ─▶ Busy
//! ```
//!
//! User code (a poll, a destructor, a waker of somebody else) runs with no borrow of the header's
//! cells, and finds a phase that forbids every second entry: a task in `Polling` or `Busy` can
//! neither be polled nor destroyed.

use std::future::Future;
use std::mem::{self, ManuallyDrop};
use std::ptr::NonNull;
use std::task::{Context, Waker};

use super::Info;
use super::header::{Header, Phase};
use super::join::JoinError;
use super::kept::Kept;
use super::local::{Local, Shared};
use super::spare::KEEPS;
use super::state::Left;
use super::typed::{Of, Polled, Slot, Whole};
use super::waker::raw_waker;
use crate::panics::quietly;
use crate::sync::Arc;

/// A task as its owner sees it.
///
/// A value of this type exists only on the owner's thread, and is used only while a reference to
/// the task is held: by the list of live tasks or the run queue it stands in, by a handle, or by
/// the waker that made it. [`Task::on_owner`] is where this is promised; the methods rely on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Task(NonNull<Header>);

impl Task {
    /// Moves `future` to the heap: at most one allocation, two references (the core's and the
    /// handle's).
    ///
    /// # Safety
    ///
    /// The caller is on the thread that owns the core of `shared`.
    #[inline]
    pub(super) unsafe fn allocate<F>(future: F, info: Info, shared: &Arc<Shared>) -> Task
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let vtable = &Of::<F>::VTABLE;
        // SAFETY: the caller's promise.
        let spare = &unsafe { shared.local() }.spare;
        let (place, share) = match spare.take(Of::<F>::VTABLE.room) {
            Some(place) => {
                // SAFETY: the header of an earlier task is still there, and nobody else uses it.
                let earlier = unsafe { place.as_ref() };
                // SAFETY: it is overwritten below.
                (place, unsafe { earlier.move_share() })
            }
            None => {
                let share = ManuallyDrop::new(Arc::clone(shared));
                (Of::<F>::VTABLE.room.allocate(), share)
            }
        };
        let header = Header::new(vtable, info, share);
        let slot = Slot {
            future: ManuallyDrop::new(future),
        };
        // SAFETY: the memory is of the room of this very type, and nobody else's.
        unsafe { place.cast::<Whole<F>>().write(Whole { header, slot }) };
        Task(place)
    }

    /// The owner's view of a task.
    ///
    /// # Safety
    ///
    /// The caller is on the thread that spawned the task, and a reference to the task is held
    /// whenever the result, or a copy of it, is used.
    pub(super) unsafe fn on_owner(pointer: NonNull<Header>) -> Task {
        Task(pointer)
    }

    /// The header.
    pub(super) fn header(&self) -> &Header {
        // SAFETY: a reference to the task is held (the promise of `on_owner`), so the header is
        // there, and it is only ever borrowed shared.
        let header = unsafe { self.0.as_ref() };
        header.life.used();
        header
    }

    /// The owner's side of the core this task belongs to.
    pub(super) fn local(&self) -> &Local {
        // SAFETY: a `Task` exists on the owner's thread only.
        unsafe { self.header().shared.local() }
    }

    /// Whether the future is there and is not being polled.
    pub(super) fn is_idle(&self) -> bool {
        self.header().phase.get() == Phase::Idle
    }

    /// Whether the future is being polled.
    pub(super) fn is_polling(&self) -> bool {
        self.header().phase.get() == Phase::Polling
    }

    /// Whether the future is gone and the output was put in its place.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.header().phase.get(), Phase::Done | Phase::Empty)
    }

    /// Whether somebody may still ask for the output.
    pub(super) fn has_handle(&self) -> bool {
        self.header().has_handle()
    }

    /// Polls the future once.
    ///
    /// # Safety
    ///
    /// The task is idle.
    #[inline]
    pub(super) unsafe fn poll(self) -> Polled {
        let header = self.header();
        debug_assert!(self.is_idle(), "polled in {:?}", header.phase.get());
        header.phase.set(Phase::Polling);
        let waker = self.borrowed_waker();
        let mut context = Context::from_waker(&waker);
        // SAFETY: the vtable was made for this task's type, and the phase was `Idle` (the caller's
        // promise), so the slot holds the future; `Polling` keeps everybody else from it.
        let polled = unsafe { (header.vtable.poll)(self.0, &mut context) };
        header.phase.set(match polled {
            Polled::Pending => Phase::Idle,
            Polled::Completed | Polled::Panicked => Phase::Done,
        });
        polled
    }

    /// Destroys the future and leaves `error` as the output. A panic of the destructor ends here:
    /// the panic hook has told it already, and the error says why the task ended.
    ///
    /// Does nothing unless the task is idle.
    pub(super) fn destroy(self, error: JoinError) {
        let header = self.header();
        debug_assert!(self.is_idle(), "destroyed in {:?}", header.phase.get());
        if !self.is_idle() {
            return;
        }
        header.phase.set(Phase::Busy);
        quietly(|| {
            // SAFETY: the vtable is this task's, and the phase was `Idle`, so the slot holds the
            // future; `Busy` keeps everybody else from it, and nobody takes it for a future again.
            unsafe { (header.vtable.drop_future)(self.0) }
        });
        // SAFETY: the vtable is this task's, and the slot was emptied just above.
        unsafe { (header.vtable.fail)(self.0, error) };
        header.phase.set(Phase::Done);
    }

    /// Destroys the output if it is still there. A panic of its destructor ends here: nobody is
    /// left who asked for it.
    #[inline]
    pub(super) fn discard_output(self) {
        if self.header().phase.get() == Phase::Done {
            self.destroy_output();
        }
    }

    /// See [`discard_output`](Task::discard_output), which has looked at the phase.
    fn destroy_output(self) {
        let header = self.header();
        header.phase.set(Phase::Busy);
        quietly(|| {
            // SAFETY: the vtable is this task's, and the phase was `Done`, so the slot holds the
            // output; `Busy` keeps everybody else from it.
            unsafe { (header.vtable.drop_output)(self.0) }
        });
        header.phase.set(Phase::Empty);
    }

    /// Moves the output out, if it is there.
    ///
    /// # Safety
    ///
    /// `T` is the output of the future that this task was spawned with.
    pub(super) unsafe fn take_output<T>(self) -> Option<Result<T, JoinError>> {
        let header = self.header();
        if header.phase.get() != Phase::Done {
            return None;
        }
        header.phase.set(Phase::Empty);
        // SAFETY: the vtable is this task's, so that its slot begins there.
        let slot = unsafe { self.0.byte_add(header.vtable.slot) };
        // SAFETY: the phase was `Done`, so the slot holds a `Result<T, JoinError>` (the caller
        // names the right `T`); `Empty` says that it was moved out.
        Some(unsafe { slot.cast::<Result<T, JoinError>>().read() })
    }

    /// Leaves a waker to be called at the end of the task.
    ///
    /// The clone, and the destructor of a waker left earlier, may be anybody's code; each runs
    /// when the cell is whole.
    pub(super) fn set_joiner(self, waker: &Waker) {
        let header = self.header();
        let earlier = header.joiner.take();
        if earlier.is_empty() {
            if let Some(kept) = Kept::of_task(waker) {
                // The usual case. No user code has run, so nothing was left meanwhile.
                mem::forget(header.joiner.replace(kept));
                return;
            }
        }
        self.replace_joiner(earlier, waker);
    }

    /// As `set_joiner`, where one was left before, or the waker is anybody's.
    #[cold]
    fn replace_joiner(self, earlier: Kept, waker: &Waker) {
        let header = self.header();
        if earlier.wakes(waker) {
            header.joiner.set(earlier);
            return;
        }
        let stale = header.joiner.replace(Kept::of(waker));
        drop(earlier);
        drop(stale);
    }

    /// Takes out the waker that was left.
    #[inline]
    pub(super) fn take_joiner(self) -> Kept {
        self.header().joiner.take()
    }

    /// The handle is dropped: its waker and an output that nobody will take go with it.
    ///
    /// # Safety
    ///
    /// Called once, by the handle, which gives up its reference and does not use the task again.
    pub(super) unsafe fn detach(self) {
        let header = self.header();
        header.lose_handle();
        let joiner = self.take_joiner();
        if joiner.is_empty() && header.phase.get() == Phase::Empty {
            // The usual case: the output was taken.
            mem::forget(joiner);
            // SAFETY: the handle's reference is given up, once, as the caller promises.
            unsafe { release(self.0) };
        } else {
            // SAFETY: as above.
            unsafe { self.abandon(joiner) };
        }
    }

    /// As `detach`, where the output was not taken.
    ///
    /// # Safety
    ///
    /// As for `detach`.
    #[cold]
    unsafe fn abandon(self, joiner: Kept) {
        quietly(|| drop(joiner));
        self.discard_output();
        // SAFETY: the handle's reference is given up, once, as the caller promises.
        unsafe { release(self.0) };
    }

    /// The core has no more use for the task: its future is gone and its end was told.
    ///
    /// # Safety
    ///
    /// Called once, and the caller does not use the task again, unless it holds a reference of
    /// its own.
    #[inline]
    pub(super) unsafe fn conclude(self) {
        let header = self.header();
        if header.is_queued() {
            // The run queue still names the task. `leave_queue` gives it up.
            header.state.complete();
            return;
        }
        let (own, has_handle) = (header.own.fold(), header.has_handle());
        if header.state.complete_and_give_up(own, has_handle) == Left::Nobody {
            // SAFETY: the last reference was just given up, and the slot is empty, for the handle
            // is gone too.
            unsafe { free(self.0, header.shared.is_here()) };
        }
    }

    /// The run queue has handed the task out. `None` if there was nothing left in it to poll.
    ///
    /// # Safety
    ///
    /// The task was just taken from the run queue.
    pub(super) unsafe fn leave_queue(self) -> Option<Task> {
        let header = self.header();
        header.set_queued(false);
        if !header.state.is_complete() {
            return Some(self);
        }
        // `conclude` found the task queued and left it to the queue to give it up.
        if header.state.give_up(header.own.fold()) == Left::Nobody {
            // SAFETY: the last reference was just given up, and the slot is empty, for the handle
            // is gone too.
            unsafe { free(self.0, header.shared.is_here()) };
        }
        None
    }

    /// A task came out of the foreign queue: into the run queue with it, unless it is over.
    /// Whether it went there.
    ///
    /// # Safety
    ///
    /// The task was just taken from the foreign queue, and the caller does not use it again.
    pub(super) unsafe fn leave_foreign(self) -> bool {
        // First the run queue, while the reference of the foreign queue is still held.
        let queued = self.local().enqueue(self);
        let here = self.header().shared.is_here();
        if self.header().state.collected() == Left::Nobody {
            // SAFETY: the last reference was just given up: the core's and the handle's are gone,
            // so the slot is empty.
            unsafe { free(self.0, here) };
        }
        queued
    }

    /// A waker that holds no reference of its own, for the time of one poll. Clones count.
    fn borrowed_waker(&self) -> ManuallyDrop<Waker> {
        // SAFETY: the functions of the vtable keep the contract of wakers: they are sound from any
        // thread, and a clone counts a reference, which its drop gives up. This one counts none
        // and is never dropped; the core holds a reference all through the poll, for only the end
        // of the poll lets the core give it up.
        let waker = unsafe { Waker::from_raw(raw_waker(self.0)) };
        ManuallyDrop::new(waker)
    }
}

/// Gives up one reference, on any thread.
///
/// # Safety
///
/// The caller holds a reference and does not use the task by it again.
#[inline]
pub(super) unsafe fn release(pointer: NonNull<Header>) {
    // SAFETY: the caller's reference keeps the header alive for this access.
    let header = unsafe { pointer.as_ref() };
    header.life.used();
    let here = header.shared.is_here();
    // Only the owner's thread may touch its part of the count. What that part counts is never the
    // last: the core holds the task then.
    if here && header.own.release() {
        return;
    }
    if header.state.release() == Left::Nobody {
        // SAFETY: that was the last reference. The core gave up its own after the future was gone,
        // the handle after the output was, so the slot is empty.
        unsafe { free(pointer, here) };
    }
}

/// As [`release`], out of line: where that nearly always leaves others.
///
/// # Safety
///
/// As for [`release`].
#[cold]
pub(super) unsafe fn release_rest(pointer: NonNull<Header>) {
    // SAFETY: the caller's promise.
    unsafe { release(pointer) };
}

/// Frees the memory, on any thread; `here` says whether it is the owner's, which may keep it.
///
/// # Safety
///
/// No reference is left and the slot is empty.
#[inline]
unsafe fn free(pointer: NonNull<Header>, here: bool) {
    // SAFETY: nobody refers to the task any more, so nobody writes; the header is still there.
    let header = unsafe { pointer.as_ref() };
    if here && KEEPS {
        // SAFETY: this is the owner's thread.
        let spare = &unsafe { header.shared.local() }.spare;
        // SAFETY: the task is of this core, its table has the room that it was made with, and the
        // rest is the caller's promise.
        unsafe { spare.keep(pointer, header.vtable.room) };
    } else {
        // SAFETY: the caller's promise.
        unsafe { Header::free(pointer) };
    }
}
