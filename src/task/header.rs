//! The part of a task that does not depend on its future's type: the header every waker knows.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr::{self, NonNull};

use super::kept::Kept;
use super::local::Shared;
use super::own::Own;
use super::raw::Task;
use super::state::State;
use super::typed::VTable;
use super::{Info, Kind, Pulse, pulse};
use crate::sync::atomic::AtomicPtr;
use crate::sync::{Arc, Life};

/// What the slot holds. See the documentation of `raw`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
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

/// The part of a task that does not depend on its future's type.
pub(super) struct Header {
    /// The flags and the reference count, but for the owner's part of it.
    pub(super) state: State,
    /// The next in the foreign queue. Valid while the task is in it, written by who put it there.
    pub(super) next_foreign: AtomicPtr<Header>,
    /// The core's queues. Held by each task, so that a wake finds them at any time, and after it by
    /// its memory, if that is kept. `free` moves it out.
    pub(super) shared: ManuallyDrop<Arc<Shared>>,
    /// What depends on the future's type.
    pub(super) vtable: &'static VTable,
    /// Where the task was spawned. Never changes.
    pub(super) site: &'static Location<'static>,
    /// The lower half of the task's number. Never changes.
    id_low: u32,
    /// The rest of the task's number. Never changes. See `ID_BITS`.
    id_high: u8,
    /// What the slot holds.
    pub(super) phase: Cell<Phase>,
    /// The task's kind, which never changes, and above it `QUEUED`, `ABORT_ASKED` and
    /// `HAS_HANDLE`.
    kind_and_flags: Cell<u8>,
    /// The references that came and went on the owner's thread.
    pub(super) own: Own,
    /// The next in the run queue. Valid while it is `QUEUED`.
    pub(super) next_ready: Cell<Option<Task>>,
    /// The neighbours in the list of live tasks. Valid until the task is concluded.
    pub(super) live_before: Cell<Option<Task>>,
    pub(super) live_after: Cell<Option<Task>>,
    /// Who waits for the output. Left by the handle, empty once that is gone.
    pub(super) joiner: Cell<Kept>,
    /// From the allocation to the last reference, for the models.
    pub(super) life: Life,
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
    /// The header of a task that has a handle, and is about to go to the run queue.
    #[inline(always)]
    pub(super) fn new(
        vtable: &'static VTable,
        info: Info,
        shared: ManuallyDrop<Arc<Shared>>,
    ) -> Header {
        Header {
            state: State::new(),
            next_foreign: AtomicPtr::new(ptr::null_mut()),
            shared,
            vtable,
            site: info.site,
            id_low: info.id as u32,
            id_high: (info.id >> 32) as u8,
            phase: Cell::new(Phase::Idle),
            kind_and_flags: Cell::new(info.kind as u8 | HAS_HANDLE | QUEUED),
            own: Own::new(),
            next_ready: Cell::new(None),
            live_before: Cell::new(None),
            live_after: Cell::new(None),
            joiner: Cell::default(),
            life: Life::default(),
        }
    }

    /// What the task is to the stop.
    #[inline]
    pub(super) fn kind(&self) -> Kind {
        // Written out, and no look into a table: the number is the discriminant.
        match self.kind_and_flags.get() & KIND {
            0 => Kind::Main,
            1 => Kind::Essential,
            2 => Kind::Background,
            _ => Kind::Hook,
        }
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
    pub(super) fn enter(&self, pulse: &Pulse, dropping: bool) {
        let name = pulse::name(self.id(), self.kind_and_flags.get() & KIND);
        pulse.enter(name, self.site, dropping);
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

    /// The task leaves the run queue. Whether it is to be polled: its future is there, nobody polls
    /// it, and nobody has asked for its end.
    #[inline]
    pub(super) fn leave_to_be_polled(&self) -> bool {
        let flags = self.kind_and_flags.get();
        self.kind_and_flags.set(flags & !QUEUED);
        self.phase.get() == Phase::Idle && flags & ABORT_ASKED == 0
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

    /// Whether somebody may still ask for the output.
    #[inline]
    pub(super) fn has_handle(&self) -> bool {
        self.has(HAS_HANDLE)
    }

    /// The handle is gone.
    #[inline]
    pub(super) fn lose_handle(&self) {
        self.set(HAS_HANDLE, false);
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

    /// One reference more. By whoever holds one, on any thread.
    #[inline]
    pub(super) fn retain(&self) {
        self.life.used();
        // Only the owner's thread may touch its part of the count.
        if !(self.shared.is_here() && self.own.retain()) {
            self.state.retain();
        }
    }

    /// Moves the share of the core out.
    ///
    /// # Safety
    ///
    /// Nobody uses the one in here again.
    #[inline]
    pub(super) unsafe fn move_share(&self) -> ManuallyDrop<Arc<Shared>> {
        // SAFETY: it is there, and this is the only use of it from here on (the caller's promise).
        unsafe { ptr::read(&raw const self.shared) }
    }

    /// Gives a task's memory to the allocator, and its share of the core back. On any thread.
    ///
    /// # Safety
    ///
    /// Nobody refers to the task any more, and its slot is empty.
    #[cold]
    pub(super) unsafe fn free(pointer: NonNull<Header>) {
        // SAFETY: nobody refers to the task any more, so nobody writes; the header is still there.
        let header = unsafe { pointer.as_ref() };
        let (room, may_free) = (header.vtable.room, header.life.ended());
        // SAFETY: the header is not used again, and it has no destructor.
        let shared = unsafe { header.move_share() };
        if may_free {
            // SAFETY: `Task::allocate` asked for this very room, and nobody uses it any more. The
            // header has nothing to drop: the waker of who waits for the output went with the handle.
            unsafe { room.free(pointer) };
        }
        drop(ManuallyDrop::into_inner(shared));
    }
}
