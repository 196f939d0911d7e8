//! The heap, counted: what is lent out at this moment, to the byte.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};

/// The system's allocator, and two counters.
pub struct Counting;

/// Blocks that are lent out.
static BLOCKS: AtomicI64 = AtomicI64::new(0);

/// Their bytes, as they were asked for.
static BYTES: AtomicI64 = AtomicI64::new(0);

/// Blocks and bytes that are lent out.
pub fn lent() -> (i64, i64) {
    (
        BLOCKS.load(Ordering::Relaxed),
        BYTES.load(Ordering::Relaxed),
    )
}

/// Counts a block in, or out.
fn count(blocks: i64, bytes: i64) {
    BLOCKS.fetch_add(blocks, Ordering::Relaxed);
    BYTES.fetch_add(bytes, Ordering::Relaxed);
}

// SAFETY: every call is the system allocator's, with the arguments as they came; the counters touch
// none of the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is this one's too.
        let place = unsafe { System.alloc(layout) };
        if !place.is_null() {
            count(1, layout.size() as i64);
        }
        place
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`. Passed on, for what is never touched then is no memory.
        let place = unsafe { System.alloc_zeroed(layout) };
        if !place.is_null() {
            count(1, layout.size() as i64);
        }
        place
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`; the block is the system's, as all of them are.
        unsafe { System.dealloc(place, layout) };
        count(-1, -(layout.size() as i64));
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `dealloc`.
        let moved = unsafe { System.realloc(place, layout, size) };
        if !moved.is_null() {
            count(0, size as i64 - layout.size() as i64);
        }
        moved
    }
}
