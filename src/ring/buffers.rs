//! The pool of receive buffers, and the chunks it lends out.
//!
//! ```text
//!               ring, first in first out
//!   stock ──▶ ┌──────────────────────────┐ ──▶ the kernel fills one ──▶ a chunk
//!  (on want)  └──────────────────────────┘                                │
//!                          ▲                    its last clone is dropped │
//!                          └──────────────────────────────────────────────┘
//! ```
//! One pool a core: equal buffers that the kernel fills in the order it finds them in the buffer
//! ring. A filled buffer comes out as a [chunk](super::chunk); when the last chunk that looks into it is
//! dropped it goes back into the ring, at once.
//!
//! Few buffers stay in the cache, and many do not: so the ring begins with few, and takes more from
//! the stock each time the kernel found it empty. What is in the stock was never touched, and is no
//! memory yet.
//!
//! A chunk keeps the pool alive, so it may outlive the ring (in a thread-local, say): then its
//! buffer goes back into memory that no kernel reads any more, and the last one frees it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::config::{BUFFER_BYTES, CONN_SHARE_CHUNKS, POOL_BUFFERS, POOL_FIRST, POOL_LOW};
use crate::ring::sys::pages;

/// The kernel's name for the pool; there is one in a ring.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// The kernel wants the ring of buffers to begin on a page, and this is at least one.
const PAGE: usize = 4096;

/// Stands for "held by no connection".
const NOBODY: u32 = u32::MAX;

/// The pool of one core.
#[derive(Debug)]
pub(crate) struct Pool(NonNull<Buffers>);

/// The memory of a pool.
pub(super) struct Buffers {
    /// `POOL_BUFFERS` buffers of `BUFFER_BYTES` each. A buffer is written by the kernel while it
    /// is in the ring, and read by chunks while its count is above zero; never both.
    memory: NonNull<u8>,
    /// The ring shared with the kernel, page-aligned, `POOL_BUFFERS` entries.
    ring: NonNull<BufRingEntry>,
    /// Where the next buffer is put; the kernel reads a copy of it in the ring itself.
    tail: Cell<u16>,
    /// How many buffers have ever been in the ring; the others are the stock.
    stocked: Cell<u16>,
    /// How many chunks look into each buffer. Zero: it is in the ring or in the stock.
    chunks: Box<[Cell<u32>]>,
    /// Which connection each lent buffer is charged to, or `NOBODY`; of the others it means nothing.
    charged_to: Box<[Cell<u32>]>,
    /// How many buffers are lent, that is, have chunks.
    lent: Cell<u32>,
    /// One for the `Pool` while it is there, and one for each time it was leaked. At none of them
    /// the last lent buffer that comes back frees all.
    holders: Cell<u32>,
}

impl Pool {
    /// A pool with its first buffers in the ring.
    pub(crate) fn new() -> Pool {
        let pool = Buffers {
            memory: pages::map(MEMORY_BYTES)
                .unwrap_or_else(|_| handle_alloc_error(memory_layout())),
            ring: allocate(ring_layout()).cast::<BufRingEntry>(),
            tail: Cell::new(0),
            stocked: Cell::new(0),
            chunks: (0..POOL_BUFFERS).map(|_| Cell::new(0)).collect(),
            charged_to: (0..POOL_BUFFERS).map(|_| Cell::new(NOBODY)).collect(),
            lent: Cell::new(0),
            holders: Cell::new(1),
        };
        pool.stock(POOL_FIRST);
        Pool(NonNull::from(Box::leak(Box::new(pool))))
    }

    /// The pool's memory.
    #[inline]
    fn buffers(&self) -> &Buffers {
        // SAFETY: made from a box in `new`, and counted in `holders` until this value is dropped,
        // so nobody frees it before. It is only ever borrowed shared.
        unsafe { self.0.as_ref() }
    }

    /// Where the ring shared with the kernel lies, and how many entries it has.
    pub(crate) fn ring_address(&self) -> (u64, u16) {
        (self.buffers().ring.as_ptr() as u64, POOL_BUFFERS)
    }

    /// Takes buffer `id`, into which the kernel has just put `len` bytes, for one chunk, and charges
    /// it to the connection at index `to`. Where its bytes begin; `None` if the kernel names a
    /// buffer it was not lent.
    #[inline]
    pub(super) fn lend(&self, id: u16, len: usize, to: u32) -> Option<NonNull<u8>> {
        let pool = self.buffers();
        let chunks = pool.chunks.get(usize::from(id))?;
        if chunks.get() != 0 || len > BUFFER_BYTES {
            debug_assert!(
                false,
                "buffer {id} of {len} bytes is not the kernel's to fill"
            );
            return None;
        }
        chunks.set(1);
        pool.lent.set(pool.lent.get() + 1);
        pool.charged_to[usize::from(id)].set(to);
        Some(pool.first_byte(id))
    }

    /// The memory, for chunks to find their way home.
    #[inline]
    pub(super) fn home(&self) -> NonNull<Buffers> {
        self.0
    }

    /// The kernel found no buffer in the ring: as many again go there from the stock as were there,
    /// as far as there are any.
    pub(crate) fn grow(&self) {
        let pool = self.buffers();
        pool.stock(pool.stocked.get());
    }

    /// How many buffers are lent.
    #[inline]
    pub(crate) fn lent(&self) -> u32 {
        self.buffers().lent.get()
    }

    /// How many buffers the kernel can fill now.
    #[inline]
    pub(crate) fn ready(&self) -> u32 {
        let pool = self.buffers();
        u32::from(pool.stocked.get()) - pool.lent.get()
    }

    /// How many buffers are not lent, with the stock.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        u32::from(POOL_BUFFERS) - self.lent()
    }

    /// Whether half of all buffers are free: then nobody is short of them.
    #[inline]
    pub(crate) fn has_plenty(&self) -> bool {
        self.lent() <= u32::from(POOL_BUFFERS / 2)
    }

    /// Whether the pool has little left, or less than half and the connection at `index` has more
    /// than its share of that: what it keeps is to be copied then.
    ///
    /// A connection's share is counted only here, where it matters; kept as a sum for each
    /// connection it cost a twentieth of an echo's instructions.
    #[inline]
    pub(crate) fn is_short(&self, index: u32) -> bool {
        !self.has_plenty()
            && (self.free() < u32::from(POOL_LOW)
                || self.charged(index) > u32::from(CONN_SHARE_CHUNKS))
    }

    /// How many buffers are charged to the connection at `index`.
    pub(crate) fn charged(&self, index: u32) -> u32 {
        let pool = self.buffers();
        let lent = |id: usize| pool.chunks[id].get() > 0 && pool.charged_to[id].get() == index;
        let count = (0..usize::from(pool.stocked.get())).filter(|id| lent(*id));
        count.count() as u32
    }

    /// Forgets the connection at `index`: what it still holds is charged to nobody, so that the
    /// next connection of that index begins with none.
    pub(crate) fn forget(&self, index: u32) {
        if self.lent() == 0 {
            return;
        }
        for charged_to in &self.buffers().charged_to {
            if charged_to.get() == index {
                charged_to.set(NOBODY);
            }
        }
    }

    /// The memory is never freed from now on, not even when this value is dropped: the kernel may
    /// still write to it.
    pub(crate) fn leak(&self) {
        let holders = &self.buffers().holders;
        holders.set(holders.get() + 1);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let buffers = self.buffers();
        buffers.holders.set(buffers.holders.get() - 1);
        if buffers.holders.get() == 0 && buffers.lent.get() == 0 {
            // SAFETY: this value was the last to hold the memory, and no chunk looks into it.
            unsafe { Buffers::free(self.0) };
        }
    }
}

impl Buffers {
    /// The first byte of buffer `id`.
    #[inline]
    fn first_byte(&self, id: u16) -> NonNull<u8> {
        // SAFETY: `id` is below POOL_BUFFERS: it comes from `stock` or has been looked up in an
        // array of that length by `lend`. So the offset is inside `memory`.
        unsafe { self.memory.add(usize::from(id) * BUFFER_BYTES) }
    }

    /// Puts up to `count` buffers of the stock into the ring.
    fn stock(&self, count: u16) {
        let first = self.stocked.get();
        let end = first.saturating_add(count).min(POOL_BUFFERS);
        for id in first..end {
            self.put(id);
        }
        self.stocked.set(end);
    }

    /// Puts buffer `id` at the tail of the ring, where the kernel finds it.
    #[inline]
    fn put(&self, id: u16) {
        let tail = self.tail.get();
        let place = usize::from(tail & (POOL_BUFFERS - 1));
        // SAFETY: `place` is below POOL_BUFFERS, the number of entries of `ring`.
        let entry = unsafe { self.ring.as_ptr().add(place) };
        // SAFETY: zeroed at `allocate`, so a valid entry; the kernel reads entries only below
        // the tail, so nobody else touches this one.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.first_byte(id).as_ptr() as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: `ring` is the address of the first entry, as the function asks for.
        let shared = unsafe { BufRingEntry::tail(self.ring.as_ptr()) };
        // SAFETY: the tail's two bytes lie in the padding of the first entry, aligned; the kernel
        // and this thread touch them only atomically.
        let shared = unsafe { AtomicU16::from_ptr(shared.cast_mut()) };
        // Release: the kernel must see the entry before the tail that covers it.
        shared.store(self.tail.get(), Ordering::Release);
    }

    /// One chunk more looks into buffer `id`; `false` if that is too many to count.
    pub(super) fn retain(&self, id: u16) -> bool {
        let chunks = &self.chunks[usize::from(id)];
        match chunks.get().checked_add(1) {
            Some(count) => {
                chunks.set(count);
                true
            }
            None => false,
        }
    }

    /// One chunk less looks into buffer `id`; the last one puts it back into the ring. If there is
    /// no pool any more, and no other chunk, the memory is freed.
    ///
    /// # Safety
    ///
    /// `this` is the home of the chunk, which counts in `chunks[id]` and is not used again.
    #[inline]
    pub(super) unsafe fn release(this: NonNull<Buffers>, id: u16) {
        // SAFETY: buffer `id` is lent, so the memory is there (`Pool::drop`, and below).
        let buffers = unsafe { this.as_ref() };
        let chunks = &buffers.chunks[usize::from(id)];
        chunks.set(chunks.get() - 1);
        if chunks.get() > 0 {
            return;
        }
        buffers.lent.set(buffers.lent.get() - 1);
        buffers.put(id);
        if buffers.holders.get() == 0 && buffers.lent.get() == 0 {
            // SAFETY: nobody holds the memory, and this was the last chunk.
            unsafe { Buffers::free(this) };
        }
    }

    /// Gives all memory back.
    ///
    /// # Safety
    ///
    /// `this` was made in `Pool::new`, and neither a pool nor a chunk is left that names it. The
    /// kernel does not write to the buffers any more (a driver that cannot know this leaks its
    /// pool).
    #[cold]
    unsafe fn free(this: NonNull<Buffers>) {
        // SAFETY: `Pool::new` made it of a box, and this is the last use.
        let buffers = unsafe { Box::from_raw(this.as_ptr()) };
        // SAFETY: mapped with this length in `Pool::new`, and nobody looks into it any more.
        unsafe { pages::unmap(buffers.memory, MEMORY_BYTES) };
        // SAFETY: allocated with this layout in `Pool::new`; else as above.
        unsafe { dealloc(buffers.ring.as_ptr().cast(), ring_layout()) };
    }
}

/// Bytes of all buffers.
const MEMORY_BYTES: usize = POOL_BUFFERS as usize * BUFFER_BYTES;

/// The layout of all buffers.
fn memory_layout() -> Layout {
    const LAYOUT: Layout = match Layout::from_size_align(MEMORY_BYTES, PAGE) {
        Ok(layout) => layout,
        Err(_) => panic!("the pool's size in config.rs is out of range"),
    };
    LAYOUT
}

/// The layout of the ring shared with the kernel.
fn ring_layout() -> Layout {
    const BYTES: usize = POOL_BUFFERS as usize * size_of::<BufRingEntry>();
    const LAYOUT: Layout = match Layout::from_size_align(BYTES, PAGE) {
        Ok(layout) => layout,
        Err(_) => panic!("the pool's length in config.rs is out of range"),
    };
    LAYOUT
}

/// Zeroed memory, or the abort that Rust knows for want of it.
fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: the ring's layout has a size above zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::chunk::Chunk;

    #[test]
    fn a_buffer_goes_back_with_the_last_chunk_that_looks_into_it() {
        let pool = Pool::new();
        let mut chunk = pool.filled(3, 100, 7).expect("buffer 3 is free");
        assert_eq!((pool.lent(), pool.charged(7)), (1, 1));
        let head = chunk.split_to(40);
        let copy = head.slice(10..20);
        assert_eq!((head.len(), chunk.len(), copy.len()), (40, 60, 10));
        drop(chunk);
        drop(head);
        assert_eq!((pool.lent(), pool.charged(7)), (1, 1));
        drop(copy);
        assert_eq!((pool.lent(), pool.charged(7)), (0, 0));
        assert_eq!(pool.free(), u32::from(POOL_BUFFERS));
    }

    #[test]
    fn a_chunk_outlives_its_pool() {
        let pool = Pool::new();
        let chunk = pool.filled(0, 5, 0).expect("buffer 0 is free");
        let other = pool.filled(1, 5, 0).expect("buffer 1 is free");
        drop(pool);
        drop(other);
        assert_eq!(&*chunk, &[0; 5]);
        assert_eq!(&*chunk.clone(), &[0; 5]);
    }

    #[test]
    fn a_leaked_pool_stays_when_its_last_chunk_is_gone() {
        let pool = Pool::new();
        let memory = pool.0;
        let chunk = pool.filled(0, 5, 0).expect("buffer 0 is free");
        pool.leak();
        drop(pool);
        drop(chunk);
        // SAFETY: a leaked pool is never freed; that it is so is what this test asks (the sanitizer
        // and valgrind see it fail).
        let buffers = unsafe { memory.as_ref() };
        assert_eq!((buffers.lent.get(), buffers.holders.get()), (0, 1));
    }

    #[test]
    fn an_empty_ring_takes_as_many_again_until_the_stock_is_used_up() {
        let pool = Pool::new();
        let mut ready = u32::from(POOL_FIRST);
        while ready < u32::from(POOL_BUFFERS) {
            assert_eq!(pool.ready(), ready);
            pool.grow();
            ready *= 2;
        }
        pool.grow();
        assert_eq!((pool.ready(), pool.free()), (ready, ready));
    }

    #[test]
    fn a_share_counts_only_while_less_than_half_is_free() {
        let pool = Pool::new();
        let half = POOL_BUFFERS / 2;
        let lend = |ids: std::ops::Range<u16>, to| -> Vec<Chunk> {
            ids.map(|id| pool.filled(id, 1, to).expect("it is free"))
                .collect()
        };
        let heavy = lend(0..half, 1);
        assert!(!pool.is_short(1), "half of them are free");
        let light = lend(half..half + 1, 2);
        assert!(pool.is_short(1) && !pool.is_short(2));
        let more = lend(half + 1..POOL_BUFFERS - POOL_LOW + 1, 3);
        assert!(pool.is_short(2), "little is left for anybody");
        drop((heavy, light, more));
    }

    #[test]
    fn a_forgotten_connection_leaves_its_successor_no_charge() {
        let pool = Pool::new();
        let late = pool.filled(0, 1, 2).expect("buffer 0 is free");
        pool.forget(2);
        assert_eq!(pool.charged(2), 0);
        let fresh = pool.filled(1, 1, 2).expect("buffer 1 is free");
        drop(late);
        assert_eq!(pool.charged(2), 1);
        drop(fresh);
        assert_eq!(pool.charged(2), 0);
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "a user may compute one")]
    fn ranges_beyond_the_end_are_cut_to_it() {
        let pool = Pool::new();
        let mut chunk = pool.filled(0, 10, 0).expect("buffer 0 is free");
        assert_eq!(chunk.slice(5..100).len(), 5);
        assert_eq!(chunk.slice(20..).len(), 0);
        assert_eq!(chunk.slice(8..2).len(), 0);
        assert_eq!(chunk.split_to(99).len(), 10);
        chunk.advance(1);
        chunk.truncate(1);
        assert!(chunk.is_empty());
        assert_eq!(pool.lent(), 1, "an emptied chunk still holds its buffer");
    }

    #[test]
    fn bytes_moved_to_the_heap_stay_the_same_and_free_the_buffer() {
        let pool = Pool::new();
        let chunk = pool.filled(0, 10, 0).expect("buffer 0 is free").into_heap();
        assert_eq!((pool.lent(), chunk.is_pooled()), (0, false));
        assert_eq!(&*chunk, &[0; 10]);
    }
}
