//! The memory of tasks that are gone, which their core keeps for the next ones.
//!
//! ```text
//!                 keep: the last reference went on the core's thread
//!   task's memory ──────────────────────────────────────────────────▶ kept ── take ──▶ a new task
//!         │                                                            │
//!         │ that was elsewhere, or it is large                         │ empty
//!         └─────────────────────────▶ the allocator ◀──────────────────┘
//! ```
//! Of the 788 instructions of a spawn and its join the allocator had 150. The share of the core that
//! each task holds stays with the memory that is kept: without that a task costs two more
//! read-modify-writes (25 of 110 ns, where that was measured).
//!
//! What is kept is bounded in bytes. Where that is not enough all of it goes: what has filled the
//! place was not asked for, and another size may be from now on. So a core that spawns ten thousand
//! and awaits them pays for each as it did without, and a core at rest holds little.
//!
//! A task that is used after its end is found by a sanitizer only if its memory went to the
//! allocator. Under `cfg(evenfall_asan)`, and under the model checker, nothing is kept.

use std::alloc::{self, Layout};
use std::cell::Cell;
use std::ptr::{self, NonNull};

use super::header::Header;
use crate::sync::atomic::Ordering;

/// Whether anything is kept at all.
pub(super) const KEEPS: bool = !cfg!(any(loom, evenfall_asan));

/// How much a core keeps (bytes): some 580 small tasks.
pub(super) const BYTES_MAX: usize = 64 * 1024;

/// Sizes are rounded up to what the usual allocators give anyway: a multiple of this less `TAKEN`.
/// An idle connection's task is not larger for being kept afterwards.
const STEP: usize = 16;
/// What glibc's allocator takes of each step's multiple for itself.
const TAKEN: usize = 8;
/// The alignment of what is kept, which the usual allocators give anyway.
const ALIGN: usize = 16;
/// How many sizes are kept, from nothing on. A future of a KiB costs more to move than to allocate.
const SIZES: usize = 64;

/// The memory that a task takes.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// As the allocator is asked for it.
    layout: Layout,
    /// Its place among the sizes that are kept; `SIZES` if it is none of them. Where it is one, this
    /// alone says what the layout is.
    size: usize,
}

impl Room {
    /// For a value of this type.
    pub(super) const fn of<T>() -> Room {
        let layout = Layout::new::<T>();
        let size = (layout.size() + TAKEN).div_ceil(STEP);
        if size < SIZES && layout.align() <= ALIGN {
            if let Ok(layout) = Layout::from_size_align(size * STEP - TAKEN, ALIGN) {
                return Room { layout, size };
            }
        }
        let size = SIZES;
        Room { layout, size }
    }

    /// New memory, from the allocator.
    #[cold]
    pub(super) fn allocate(self) -> NonNull<Header> {
        const { assert!(size_of::<Header>() > 0) };
        // SAFETY: there is a header in it, so the size is not zero.
        let place = unsafe { alloc::alloc(self.layout) };
        NonNull::new(place.cast()).unwrap_or_else(|| alloc::handle_alloc_error(self.layout))
    }

    /// Gives memory back to the allocator.
    ///
    /// # Safety
    ///
    /// It is from `allocate` of the same room, and nobody uses it again.
    pub(super) unsafe fn free(self, place: NonNull<Header>) {
        // SAFETY: the caller's promise.
        unsafe { alloc::dealloc(place.as_ptr().cast(), self.layout) };
    }
}

/// What a core keeps. Its owner's alone; without a destructor, see [`empty`](Spare::empty).
pub(super) struct Spare {
    /// For each size the memory that was kept last. There is still the header of its task, for its
    /// share of the core and for `next_foreign`, which is the memory that was kept before it.
    last: [Cell<Option<NonNull<Header>>>; SIZES],
    /// How much there is of all sizes (bytes).
    bytes: Cell<usize>,
}

impl Default for Spare {
    fn default() -> Spare {
        Spare {
            last: [const { Cell::new(None) }; SIZES],
            bytes: Cell::new(0),
        }
    }
}

impl Spare {
    /// Memory of this room, in which the header of an earlier task still holds its share of the core.
    /// Both go to the caller.
    #[inline]
    pub(super) fn take(&self, room: Room) -> Option<NonNull<Header>> {
        let last = self.last.get(room.size)?;
        let place = last.get()?;
        // SAFETY: what is kept has a header, and nobody else uses it.
        let header = unsafe { place.as_ref() };
        last.set(NonNull::new(header.next_foreign.load(Ordering::Relaxed)));
        self.bytes.set(self.bytes.get() - room.layout.size());
        Some(place)
    }

    /// Keeps the memory of a task, and the share of the core in its header, or gives both back if it
    /// is none of those that are kept.
    ///
    /// # Safety
    ///
    /// It is the whole memory of a task of this core, from [`Room::allocate`] of this room. Nobody
    /// refers to the task any more, and its slot is empty. The caller does without the task's share.
    #[inline]
    pub(super) unsafe fn keep(&self, place: NonNull<Header>, room: Room) {
        let bytes = self.bytes.get() + room.layout.size();
        let Some(last) = self.last.get(room.size).filter(|_| bytes <= BYTES_MAX) else {
            // SAFETY: the caller's promise.
            return unsafe { self.keep_less(place, room) };
        };
        self.bytes.set(bytes);
        let before = last.replace(Some(place));
        let before = before.map_or(ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: the header is there, and nobody else uses it (the caller's promise).
        let header = unsafe { place.as_ref() };
        header.next_foreign.store(before, Ordering::Relaxed);
    }

    /// As `keep`, where there is too much already, or it is too large.
    ///
    /// # Safety
    ///
    /// As for `keep`.
    #[cold]
    unsafe fn keep_less(&self, place: NonNull<Header>, room: Room) {
        if room.size < SIZES {
            self.empty();
        }
        // SAFETY: the caller's promise.
        unsafe { Header::free(place) };
    }

    /// Gives all of it back to the allocator, and all shares. The caller holds one too.
    #[cold]
    pub(super) fn empty(&self) {
        self.bytes.set(0);
        for last in &self.last {
            let mut rest = last.take();
            while let Some(place) = rest {
                // SAFETY: what is kept has a header, and nobody else uses it.
                let header = unsafe { place.as_ref() };
                rest = NonNull::new(header.next_foreign.load(Ordering::Relaxed));
                // SAFETY: it was taken out of the list just now, with its share; its room is that of
                // its own table.
                unsafe { Header::free(place) };
            }
        }
    }

    /// How much is kept (bytes).
    #[cfg(all(test, not(loom)))]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }
}
