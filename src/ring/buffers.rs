//! The pool of receive buffers, and the chunks it lends out.
//!
//! ```text
//!                ring, first in first out
//!   stock ──▶ ┌──────────────────────────┐ ──▶ the kernel fills one ──▶ a chunk
//!     ▲ want  └──────────────────────────┘                                │
//!     │                    ▲                    its last clone is dropped │
//!     └────────────────────┴──────────────────────────────────────────────┘
//!       more than wanted
//! ```
//! One pool a core: equal buffers that the kernel fills in the order it finds them in the buffer
//! ring. A filled buffer comes out as a [chunk](super::chunk); when the last chunk that looks into it is
//! dropped it goes back into the ring, at once.
//!
//! Few buffers stay in the cache, and many do not: so the ring begins with few, takes as many again
//! from the stock each time the kernel found it empty, and lets half of them go back there when less
//! than half were ever lent at once for a while. A burst (a thousand connections that all begin with
//! a request) would else cost the cache for good: 16 KiB x 1,000 took 1.2 to 1.3 of a bare epoll
//! loop's processor time with 512 buffers, and 1.05 to 1.1 with 128; 64 streams 1.2 to 1.3 of the
//! bare ring's, and 0.9. Where streams want them, each several at once, the ring goes back to the first
//! few. What was never out of the stock is no memory yet.
//!
//! All buffers begin in the same set of the first cache. Each 64 bytes further apart, so that the small
//! requests in them share none, 1, 64 and 1,000 connections had 0.98 to 1.01 of the rate, and with 8
//! buffers to begin with too.
//!
//! A chunk keeps the pool alive, so it may outlive the ring (in a thread-local, say): then its
//! buffer goes back into memory that no kernel reads any more, and the last one frees it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::config::{
    BUFFER_BYTES, COMPLETIONS_AT_ONCE, CONN_SHARE_CHUNKS, POOL_BUFFERS, POOL_BURST, POOL_FIRST,
    POOL_LOW,
};
use crate::kept;
use crate::ring::sys::pages;

/// The kernel's name for the pool; there is one in a ring.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// The kernel wants the ring of buffers to begin on a page, and this is at least one.
const PAGE: usize = 4096;

/// Stands for "held by no connection".
const NOBODY: u32 = u32::MAX;

/// Stands for "in the stock", where chunks are counted.
const STOCKED: u32 = u32::MAX;

/// Whether as many buffers are wanted is thought over each time so many have come back: often enough
/// that a burst is forgotten within some ten thousand receives, and so seldom that it costs nothing.
const THOUGHT_OVER_EACH: u16 = 1024;

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
    /// How many buffers are to be out of the stock: from `POOL_FIRST` to `POOL_BUFFERS`.
    wanted: Cell<u16>,
    /// How many are, in the ring or lent. Below `wanted` only while the stock is being asked.
    out: Cell<u16>,
    /// The stock: all below `POOL_BUFFERS - out` are in it, the last one goes out first.
    stock: Box<[Cell<u16>]>,
    /// The most that were lent at once since `wanted` was last thought over.
    lent_most: Cell<u32>,
    /// Where the tail was when it was.
    thought_at: Cell<u16>,
    /// Where each buffer is.
    places: Box<[Place]>,
    /// How many buffers are lent, that is, have chunks.
    lent: Cell<u32>,
    /// One for the `Pool` while it is there, and one for each time it was leaked. At none of them
    /// the last lent buffer that comes back frees all.
    holders: Cell<u32>,
}

/// Where a buffer is.
#[derive(Debug)]
struct Place {
    /// How many chunks look into it. Zero: it is in the ring. `STOCKED`: in the stock.
    chunks: Cell<u32>,
    /// Which connection it is charged to while it is lent, or `NOBODY`; else it means nothing.
    charged_to: Cell<u32>,
}

impl Place {
    /// That of a buffer in the stock.
    fn stocked() -> Place {
        Place {
            chunks: Cell::new(STOCKED),
            charged_to: Cell::new(NOBODY),
        }
    }

    /// Whether chunks look into it.
    fn is_lent(&self) -> bool {
        !matches!(self.chunks.get(), 0 | STOCKED)
    }
}

impl Pool {
    /// A pool with its first buffers in the ring.
    pub(crate) fn new() -> Pool {
        let pool = Buffers {
            memory: pages::map(MEMORY_BYTES)
                .unwrap_or_else(|_| handle_alloc_error(memory_layout())),
            ring: allocate(ring_layout()).cast::<BufRingEntry>(),
            tail: Cell::new(0),
            wanted: Cell::new(POOL_FIRST),
            out: Cell::new(0),
            stock: (0..POOL_BUFFERS).rev().map(Cell::new).collect(),
            lent_most: Cell::new(0),
            thought_at: Cell::new(0),
            places: (0..POOL_BUFFERS).map(|_| Place::stocked()).collect(),
            lent: Cell::new(0),
            holders: Cell::new(1),
        };
        pool.fill();
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
        let place = pool.places.get(usize::from(id))?;
        if place.chunks.get() != 0 || len > BUFFER_BYTES {
            debug_assert!(
                false,
                "buffer {id} of {len} bytes is not the kernel's to fill"
            );
            return None;
        }
        place.chunks.set(1);
        place.charged_to.set(to);
        pool.lent.set(pool.lent.get() + 1);
        Some(pool.first_byte(id))
    }

    /// Notes how many buffers are lent, when a reap has lent all it found, and now and then thinks over
    /// how many are wanted.
    #[inline]
    pub(crate) fn note_lent(&self) {
        let pool = self.buffers();
        pool.lent_most
            .set(pool.lent_most.get().max(pool.lent.get()));
        let put_since = pool.tail.get().wrapping_sub(pool.thought_at.get());
        if put_since >= THOUGHT_OVER_EACH {
            pool.think_over();
        }
    }

    /// The memory, for chunks to find their way home.
    #[inline]
    pub(super) fn home(&self) -> NonNull<Buffers> {
        self.0
    }

    /// The kernel found no buffer in the ring, and tasks have had their turn since: as many again go
    /// there from the stock as were there. Beyond `POOL_BURST` only if half of them are still lent: a
    /// burst that is read at once goes on with those that came back.
    pub(crate) fn grow(&self) {
        let pool = self.buffers();
        let wanted = pool.wanted.get();
        let most = if self.is_held() {
            POOL_BUFFERS
        } else {
            POOL_BURST
        };
        pool.wanted
            .set(wanted.saturating_mul(2).min(most).max(wanted));
        pool.fill();
    }

    /// Wants no more than the first few: those beyond them go to the stock as they come back.
    pub(crate) fn narrow(&self) {
        self.buffers().wanted.set(POOL_FIRST);
    }

    /// Whether half of the buffers that are out are lent.
    pub(crate) fn is_held(&self) -> bool {
        2 * self.lent() >= self.out()
    }

    /// How many buffers are out of the stock, in the ring or lent.
    pub(crate) fn out(&self) -> u32 {
        u32::from(self.buffers().out.get())
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
        u32::from(pool.out.get()) - pool.lent.get()
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
        let charged = |place: &&Place| place.is_lent() && place.charged_to.get() == index;
        self.buffers().places.iter().filter(charged).count() as u32
    }

    /// Forgets the connection at `index`: what it still holds is charged to nobody, so that the
    /// next connection of that index begins with none.
    pub(crate) fn forget(&self, index: u32) {
        if self.lent() == 0 {
            return;
        }
        for place in &self.buffers().places {
            if place.charged_to.get() == index {
                place.charged_to.set(NOBODY);
            }
        }
    }

    /// The memory is never freed from now on, not even when this value is dropped: the kernel may
    /// still write to it.
    pub(crate) fn leak(&self) {
        let holders = &self.buffers().holders;
        holders.set(holders.get() + 1);
        kept::for_ever(self.0);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let buffers = self.buffers();
        buffers.holders.set(buffers.holders.get() - 1);
        if buffers.holders.get() == 0 && buffers.lent.get() == 0 {
            // SAFETY: this value was the last to hold the memory, and no chunk looks into it.
            unsafe { Buffers::free(self.0) };
            return;
        }
        // None goes back into a ring that nobody reads any more.
        buffers.wanted.set(0);
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

    /// Puts buffers of the stock into the ring, until as many are out as are wanted.
    fn fill(&self) {
        while self.out.get() < self.wanted.get() {
            let out = self.out.get() + 1;
            self.out.set(out);
            let id = self.stock[usize::from(POOL_BUFFERS - out)].get();
            self.places[usize::from(id)].chunks.set(0);
            self.put(id);
        }
    }

    /// Puts buffer `id`, which has come back, into the stock. If there is no pool any more (which wants
    /// none, see `Pool::drop`), and no other chunk, the memory is freed.
    ///
    /// # Safety
    ///
    /// `this` is the home of a chunk, which was the last to look into the buffer, and is not used again.
    #[cold]
    #[inline(never)]
    unsafe fn store(this: NonNull<Buffers>, id: u16) {
        // SAFETY: the chunk's home is there until it is freed here.
        let buffers = unsafe { this.as_ref() };
        let out = buffers.out.get();
        buffers.stock[usize::from(POOL_BUFFERS - out)].set(id);
        buffers.places[usize::from(id)].chunks.set(STOCKED);
        buffers.out.set(out - 1);
        if buffers.holders.get() == 0 && buffers.lent.get() == 0 {
            // SAFETY: nobody holds the memory, and this was the last chunk.
            unsafe { Buffers::free(this) };
        }
    }

    /// Wants half as many if less than half of them were lent at once of late.
    ///
    /// What the kernel has filled and nobody has reaped is not counted as lent; but a reap takes as
    /// much as half of all there can be, so that a count below that is the whole of it.
    #[cold]
    fn think_over(&self) {
        const { assert!(COMPLETIONS_AT_ONCE >= POOL_BUFFERS as usize / 2) };
        let wanted = self.wanted.get();
        if 2 * self.lent_most.get() < u32::from(wanted) {
            self.wanted.set((wanted / 2).max(POOL_FIRST));
        }
        self.lent_most.set(self.lent.get());
        self.thought_at.set(self.tail.get());
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
        let chunks = &self.places[usize::from(id)].chunks;
        let count = chunks.get() + 1;
        if count == STOCKED {
            return false;
        }
        chunks.set(count);
        true
    }

    /// One chunk less looks into buffer `id`; the last one puts it back into the ring. If there is
    /// no pool any more, and no other chunk, the memory is freed.
    ///
    /// # Safety
    ///
    /// `this` is the home of the chunk, which counts in `places[id]` and is not used again.
    #[inline(never)]
    pub(super) unsafe fn release(this: NonNull<Buffers>, id: u16) {
        // SAFETY: buffer `id` is lent, so the memory is there (`Pool::drop`, and below).
        let buffers = unsafe { this.as_ref() };
        let chunks = &buffers.places[usize::from(id)].chunks;
        chunks.set(chunks.get() - 1);
        if chunks.get() > 0 {
            return;
        }
        buffers.lent.set(buffers.lent.get() - 1);
        if buffers.out.get() <= buffers.wanted.get() {
            buffers.put(id);
            return;
        }
        // SAFETY: the buffer has come back, and it was the caller's last use of the memory.
        unsafe { Buffers::store(this, id) };
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
mod tests;
