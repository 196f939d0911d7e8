//! One task in memory: a header that every waker knows, and behind it the future, later its output.
//!
//! # Who may touch what
//!
//! A task belongs to the thread that spawned it, the *owner*.
//!
//! * `state` and `next_foreign` are atomics for every thread, under the rules of `state` and of
//!   the foreign queue. `shared` and `vtable` never change.
//! * Everything else in the header, the owner's part of the reference count among it, and the slot behind it, is the owner's alone. On the owner's
//!   thread it is reached through a [`Task`]; no other thread can make one.
//! * The future and the output are destroyed on the owner's thread. The memory is freed by
//!   whoever gives up the last reference; by then the slot is [`Phase::Empty`] and no joiner is
//!   left, so that no user code runs there.
//!
//! # The phases
//!
//! The phase says what the slot holds. It changes only in this file, together with the slot.
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

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::panic::Location;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::task::{Context, Poll, Waker};

use super::join::JoinError;
use super::kept::Kept;
use super::local::{Local, Shared};
use super::own::Own;
use super::state::{Left, State};
use super::waker::raw_waker;
use super::{Info, Kind, pulse};
use crate::sync::Arc;
use crate::sync::atomic::AtomicPtr;

/// What a panic carries.
pub(super) type Payload = Box<dyn Any + Send>;

/// What the slot holds. See the module documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The future, waiting for a poll.
    Idle,
    /// The future, borrowed by its poll.
    Polling,
    /// Nothing that may be touched: a destructor is at work.
    Busy,
    /// The output.
    Done,
    /// Nothing.
    Empty,
}

/// What one poll came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Polled {
    /// The task waits.
    Pending,
    /// The future gave its output, which is in the slot.
    Completed,
    /// The future or its destructor panicked; the payload is in the slot.
    Panicked,
}

/// The part of a task that does not depend on its future's type.
pub(super) struct Header {
    /// The flags and the reference count, but for the owner's part of it.
    pub(super) state: State,
    /// The next in the foreign queue. Valid while the task is in it, written by who put it there.
    pub(super) next_foreign: AtomicPtr<Header>,
    /// The core's queues. Held by each task, so that a wake finds them at any time. `free` moves
    /// it out.
    pub(super) shared: ManuallyDrop<Arc<Shared>>,
    /// What depends on the future's type.
    vtable: &'static VTable,
    /// Where the task was spawned. Never changes.
    pub(super) site: &'static Location<'static>,
    /// The lower half of the task's number. Never changes.
    id_low: u32,
    /// The rest of the task's number. Never changes. See `ID_BITS`.
    id_high: u8,
    /// What the slot holds.
    phase: Cell<Phase>,
    /// The task's kind, which never changes, and above it `QUEUED`, `ABORT_ASKED` and
    /// `HAS_HANDLE`.
    kind_and_flags: Cell<u8>,
    /// The references that came and went on the owner's thread.
    own: Own,
    /// The next in the run queue. Valid while it is `QUEUED`.
    pub(super) next_ready: Cell<Option<Task>>,
    /// The neighbours in the list of live tasks. Valid until the task is concluded.
    pub(super) live_before: Cell<Option<Task>>,
    pub(super) live_after: Cell<Option<Task>>,
    /// Who waits for the output. Left by the handle, empty once that is gone.
    joiner: Cell<Kept>,
}

/// A task's number has so many bits, and comes round after half a year of 70,000 tasks a second: who
/// compares two of them asks [`is_younger`].
const ID_BITS: u32 = 40;

/// Whether the task of number `id` was spawned after the one of number `than`, where both were among
/// the latest 2^39. Of `than` only the lowest `ID_BITS` bits are looked at.
pub(super) fn is_younger(id: u64, than: u64) -> bool {
    let ahead = id.wrapping_sub(than) % (1 << ID_BITS);
    (1..1 << (ID_BITS - 1)).contains(&ahead)
}

/// The bits of `kind_and_flags` that are the kind.
const KIND: u8 = 0b11;
/// The task is in the run queue, which then shares the core's reference.
const QUEUED: u8 = 1 << 2;
/// The task is to be destroyed, not polled, as soon as that is possible.
const ABORT_ASKED: u8 = 1 << 3;
/// A `JoinHandle` exists. It holds one reference.
const HAS_HANDLE: u8 = 1 << 4;

impl Header {
    /// What the task is to the stop.
    #[inline]
    pub(super) fn kind(&self) -> Kind {
        Kind::ALL[usize::from(self.kind_and_flags.get() & KIND)]
    }

    /// The task's number on its core.
    #[inline]
    pub(super) fn id(&self) -> u64 {
        (u64::from(self.id_high) << 32) | u64::from(self.id_low)
    }

    /// Whether a stop waits for it.
    #[inline]
    pub(super) fn is_essential(&self) -> bool {
        const { assert!(Kind::Main as u8 | Kind::Essential as u8 == 1) };
        self.kind_and_flags.get() & KIND <= 1
    }

    /// Tells the core's pulse that the task's code is about to run.
    #[inline]
    pub(super) fn enter(&self, dropping: bool) {
        let name = pulse::name(self.id(), self.kind_and_flags.get() & KIND);
        self.shared.pulse.enter(name, self.site, dropping);
    }

    /// Who the task is.
    pub(super) fn info(&self) -> Info {
        Info {
            id: self.id(),
            kind: self.kind(),
            site: self.site,
        }
    }

    /// Whether the task is in the run queue.
    #[inline]
    pub(super) fn is_queued(&self) -> bool {
        self.has(QUEUED)
    }

    /// Notes whether the task is in the run queue.
    #[inline]
    pub(super) fn set_queued(&self, queued: bool) {
        self.set(QUEUED, queued);
    }

    /// Whether the task is to be destroyed instead of polled.
    #[inline]
    pub(super) fn is_abort_asked(&self) -> bool {
        self.has(ABORT_ASKED)
    }

    /// The task is to be destroyed, not polled, as soon as that is possible.
    pub(super) fn ask_abort(&self) {
        self.set(ABORT_ASKED, true);
    }

    /// Whether the flag is set.
    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.kind_and_flags.get() & flag != 0
    }

    /// Sets the flag, or takes it off.
    #[inline]
    fn set(&self, flag: u8, on: bool) {
        let others = self.kind_and_flags.get() & !flag;
        self.kind_and_flags
            .set(if on { others | flag } else { others });
    }
}

/// A task as its owner sees it.
///
/// A value of this type exists only on the owner's thread, and is used only while a reference to
/// the task is held: by the list of live tasks or the run queue it stands in, by a handle, or by
/// the waker that made it. [`Task::on_owner`] is where this is promised; the methods rely on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Task(NonNull<Header>);

/// The whole allocation. Only ever reached by raw pointers: a reference to it would claim header
/// and slot together.
#[repr(C)]
struct Whole<F: Future> {
    header: Header,
    slot: Slot<F>,
}

/// The future or its output, as the phase says. `repr(C)` puts both at the beginning.
#[repr(C)]
union Slot<F: Future> {
    future: ManuallyDrop<F>,
    output: ManuallyDrop<Result<F::Output, JoinError>>,
}

/// What depends on the future's type. Each function wants a live task of that very type.
struct VTable {
    /// Polls the future, which the slot holds; if it ends, puts the output in its place.
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Polled,
    /// Destroys the future, which the slot holds.
    drop_future: unsafe fn(NonNull<Header>),
    /// Puts an error into the slot, which is empty.
    fail: unsafe fn(NonNull<Header>, JoinError),
    /// Destroys the output, which the slot holds.
    drop_output: unsafe fn(NonNull<Header>),
    /// Where the slot begins.
    slot: unsafe fn(NonNull<Header>) -> *mut (),
    /// Frees the memory, which nobody refers to and whose slot is empty.
    free: unsafe fn(NonNull<Header>),
}

impl Header {
    /// One reference more. By whoever holds one, on any thread.
    #[inline]
    pub(super) fn retain(&self) {
        // Only the owner's thread may touch its part of the count.
        if !(self.shared.is_here() && self.own.retain()) {
            self.state.retain();
        }
    }

    /// One reference less, on any thread.
    #[inline]
    fn release(&self) -> Left {
        // As above. What the owner's part counts is never the last: the core holds the task then.
        if self.shared.is_here() && self.own.release() {
            Left::Others
        } else {
            self.state.release()
        }
    }
}

impl Task {
    /// Moves `future` to the heap: one allocation, two references (the core's and the handle's).
    pub(super) fn allocate<F>(future: F, info: Info, shared: Arc<Shared>) -> Task
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let header = Header {
            state: State::new(),
            next_foreign: AtomicPtr::new(ptr::null_mut()),
            shared: ManuallyDrop::new(shared),
            vtable: &Of::<F>::VTABLE,
            site: info.site,
            id_low: info.id as u32,
            id_high: (info.id >> 32) as u8,
            phase: Cell::new(Phase::Idle),
            kind_and_flags: Cell::new(info.kind as u8 | HAS_HANDLE),
            own: Own::new(),
            next_ready: Cell::new(None),
            live_before: Cell::new(None),
            live_after: Cell::new(None),
            joiner: Cell::default(),
        };
        let slot = Slot {
            future: ManuallyDrop::new(future),
        };
        let whole = Box::leak(Box::new(Whole { header, slot }));
        Task(NonNull::from(whole).cast())
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
        unsafe { self.0.as_ref() }
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
        self.header().has(HAS_HANDLE)
    }

    /// Polls the future once. Does nothing, and says that it waits, unless the task is idle.
    pub(super) fn poll(self) -> Polled {
        let header = self.header();
        debug_assert!(self.is_idle(), "polled in {:?}", header.phase.get());
        if !self.is_idle() {
            return Polled::Pending;
        }
        header.phase.set(Phase::Polling);
        let waker = self.borrowed_waker();
        let mut context = Context::from_waker(&waker);
        // SAFETY: the vtable was made for this task's type, and the phase was `Idle`, so the slot
        // holds the future; `Polling` keeps everybody else from it.
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
        // SAFETY: the vtable is this task's.
        let slot = unsafe { (header.vtable.slot)(self.0) };
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
        if earlier.wakes(waker) {
            header.joiner.set(earlier);
            return;
        }
        let stale = header.joiner.replace(Kept::of(waker));
        drop(earlier);
        drop(stale);
    }

    /// Takes out the waker that was left.
    pub(super) fn take_joiner(self) -> Kept {
        self.header().joiner.take()
    }

    /// The handle is dropped: its waker and an output that nobody will take go with it.
    ///
    /// # Safety
    ///
    /// Called once, by the handle, which gives up its reference and does not use the task again.
    pub(super) unsafe fn detach(self) {
        self.header().set(HAS_HANDLE, false);
        let joiner = self.take_joiner();
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
    pub(super) unsafe fn conclude(self) {
        let header = self.header();
        if header.is_queued() {
            // The run queue still names the task. `leave_queue` gives it up.
            header.state.complete();
            return;
        }
        let (own, has_handle) = (header.own.fold(), header.has(HAS_HANDLE));
        if header.state.complete_and_give_up(own, has_handle) == Left::Nobody {
            // SAFETY: the last reference was just given up, and the slot is empty, for the handle
            // is gone too.
            unsafe { free(self.0) };
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
            unsafe { free(self.0) };
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
        if self.header().state.collected() == Left::Nobody {
            // SAFETY: the last reference was just given up: the core's and the handle's are gone,
            // so the slot is empty.
            unsafe { free(self.0) };
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

/// Runs user code whose panic concerns nobody any more.
pub(super) fn quietly(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        discard(payload);
    }
}

/// Drops what a panic carried. If its destructor panics too, that second payload is leaked, or
/// there would be no end to it.
fn discard(payload: Payload) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(second);
    }
}

/// Gives up one reference, on any thread.
///
/// # Safety
///
/// The caller holds a reference and does not use the task by it again.
pub(super) unsafe fn release(pointer: NonNull<Header>) {
    // SAFETY: the caller's reference keeps the header alive for this access.
    let left = unsafe { pointer.as_ref() }.release();
    if left == Left::Nobody {
        // SAFETY: that was the last reference. The core gave up its own after the future was gone,
        // the handle after the output was, so the slot is empty.
        unsafe { free(pointer) };
    }
}

/// Frees the memory, on any thread.
///
/// # Safety
///
/// No reference is left and the slot is empty.
unsafe fn free(pointer: NonNull<Header>) {
    // SAFETY: nobody refers to the task any more, so nobody writes; the header is still there.
    let header = unsafe { pointer.as_ref() };
    let free = header.vtable.free;
    // SAFETY: the header is not used again, and its own drop leaves this field alone.
    let shared = unsafe { ptr::read(&raw const header.shared) };
    // SAFETY: the vtable is this task's; the rest is the caller's promise.
    unsafe { free(pointer) };
    Shared::give_back(ManuallyDrop::into_inner(shared));
}

/// The functions of the vtable for futures of type `F`.
struct Of<F>(PhantomData<F>);

impl<F> Of<F>
where
    F: Future + 'static,
    F::Output: 'static,
{
    const VTABLE: VTable = VTable {
        poll: Self::poll,
        drop_future: Self::drop_future,
        fail: Self::fail,
        drop_output: Self::drop_output,
        slot: Self::slot,
        free: Self::free,
    };

    /// Where the slot begins.
    ///
    /// # Safety
    ///
    /// The pointer is to a live task of this type.
    unsafe fn slot(pointer: NonNull<Header>) -> *mut () {
        let whole = pointer.cast::<Whole<F>>().as_ptr();
        // SAFETY: the header is the first field of a `repr(C)` allocation of this type, and the
        // pointer was made from the whole of it (`Task::allocate`), so the place exists.
        let slot = unsafe { &raw mut (*whole).slot };
        slot.cast()
    }

    /// Polls; when the future has ended, destroys it and puts the output in its place.
    ///
    /// # Safety
    ///
    /// The pointer is to a live task of this type whose slot holds the future, and nobody else
    /// touches the slot before this returns.
    unsafe fn poll(pointer: NonNull<Header>, context: &mut Context<'_>) -> Polled {
        // SAFETY: the caller's promise.
        let slot = unsafe { Self::slot(pointer) };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the slot holds the future and is ours alone for now (the caller's promise).
            let future = unsafe { &mut *slot.cast::<F>() };
            // SAFETY: the future was moved to the heap by `Task::allocate`, and never moves again
            // before it is dropped in place.
            let future = unsafe { Pin::new_unchecked(future) };
            future.poll(context)
        }));
        let output = match polled {
            Ok(Poll::Pending) => return Polled::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(payload) => Err(payload),
        };
        // SAFETY: the header is shared by all who hold references, and only borrowed shared.
        let header = unsafe { pointer.as_ref() };
        // From here on the future must not be mistaken for one, whatever its destructor does.
        header.phase.set(Phase::Busy);
        let dropped = if mem::needs_drop::<F>() {
            catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: the slot still holds the future, and after this nobody takes it for one.
                unsafe { Self::drop_future(pointer) }
            }))
        } else {
            Ok(())
        };
        let output = first_panic(output, dropped)
            .map_err(|payload| JoinError::panicked(header.site, payload));
        let ended = match output {
            Ok(_) => Polled::Completed,
            Err(_) => Polled::Panicked,
        };
        // SAFETY: the future is gone, so the slot is free, and it is large and aligned enough for
        // the output, being a union of both.
        unsafe { slot.cast::<Result<F::Output, JoinError>>().write(output) };
        ended
    }

    /// # Safety
    ///
    /// The pointer is to a live task of this type whose slot holds the future, nobody else touches
    /// the slot before this returns, and nobody takes it for a future afterwards.
    unsafe fn drop_future(pointer: NonNull<Header>) {
        // SAFETY: the caller's promise.
        let slot = unsafe { Self::slot(pointer) };
        // SAFETY: the slot holds a future that is dropped here and only here.
        unsafe { slot.cast::<F>().drop_in_place() };
    }

    /// # Safety
    ///
    /// The pointer is to a live task of this type whose slot is empty and touched by nobody else.
    unsafe fn fail(pointer: NonNull<Header>, error: JoinError) {
        // SAFETY: the caller's promise.
        let slot = unsafe { Self::slot(pointer) };
        // SAFETY: the slot is empty, and large and aligned enough, being a union with this type.
        unsafe {
            slot.cast::<Result<F::Output, JoinError>>()
                .write(Err(error))
        };
    }

    /// # Safety
    ///
    /// The pointer is to a live task of this type whose slot holds the output, nobody else touches
    /// the slot before this returns, and nobody takes it for an output afterwards.
    unsafe fn drop_output(pointer: NonNull<Header>) {
        // SAFETY: the caller's promise.
        let slot = unsafe { Self::slot(pointer) };
        // SAFETY: the slot holds an output that is dropped here and only here.
        unsafe { slot.cast::<Result<F::Output, JoinError>>().drop_in_place() };
    }

    /// # Safety
    ///
    /// The pointer is to a task of this type to which no reference is left, with an empty slot.
    unsafe fn free(pointer: NonNull<Header>) {
        // SAFETY: `Task::allocate` made the allocation as a box of this type. The union drops
        // nothing by itself, and the header has nothing left to drop (`raw::free`).
        drop(unsafe { Box::from_raw(pointer.cast::<Whole<F>>().as_ptr()) });
    }
}

/// A future that gave an output and then panicked in its destructor has panicked. Of two panics
/// the first one is told.
fn first_panic<T>(output: Result<T, Payload>, dropped: Result<(), Payload>) -> Result<T, Payload> {
    match (output, dropped) {
        (output, Ok(())) => output,
        (Ok(output), Err(payload)) => {
            quietly(|| drop(output));
            Err(payload)
        }
        (Err(payload), Err(second)) => {
            discard(second);
            Err(payload)
        }
    }
}
