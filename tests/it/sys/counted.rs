//! The allocator of this binary: the system's, with a count of what it has lent out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// See the module.
struct Counted;

#[global_allocator]
static COUNTED: Counted = Counted;

/// Blocks that were lent out and have not come back.
static BLOCKS: AtomicUsize = AtomicUsize::new(0);
/// What they take of the heap.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// What a block takes of the heap: glibc keeps a word beside it, and begins each at a multiple of 16.
fn taken(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

/// Blocks that are lent out, and the bytes they take of the heap.
pub(crate) fn lent() -> (usize, usize) {
    (
        BLOCKS.load(Ordering::Relaxed),
        BYTES.load(Ordering::Relaxed),
    )
}

// SAFETY: every call goes to the system's allocator as it came; the counts change nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BLOCKS.fetch_sub(1, Ordering::Relaxed);
        BYTES.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        BYTES.fetch_add(taken(size), Ordering::Relaxed);
        BYTES.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}
