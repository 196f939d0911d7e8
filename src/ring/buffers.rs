//! The pool of receive buffers, and the chunks it lends out.
//!
//! One pool a core: a fixed number of equal buffers that the kernel fills in the order it finds
//! them in the buffer ring. A filled buffer comes out as a [`Chunk`]; when the last chunk that
//! looks into it is dropped it goes back into the ring, at once.
//!
//! A chunk keeps the pool alive, so it may outlive the ring (in a thread-local, say): then its
//! buffer goes back into memory that no kernel reads any more.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::ops::{Deref, RangeBounds};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::config::{BUFFER_BYTES, CONN_SHARE_CHUNKS, POOL_BUFFERS, POOL_LOW};

/// The kernel's name for the pool; there is one in a ring.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// The kernel wants the ring of buffers to begin on a page, and this is at least one.
const PAGE: usize = 4096;

/// Stands for "held by no connection".
const NOBODY: u32 = u32::MAX;

/// The pool of one core.
#[derive(Clone, Debug)]
pub(crate) struct Pool(Rc<Buffers>);

/// The memory of a pool.
struct Buffers {
    /// `POOL_BUFFERS` buffers of `BUFFER_BYTES` each. A buffer is written by the kernel while it
    /// is in the ring, and read by chunks while its count is above zero; never both.
    memory: NonNull<u8>,
    /// The ring shared with the kernel, page-aligned, `POOL_BUFFERS` entries.
    ring: NonNull<BufRingEntry>,
    /// Where the next buffer is put; the kernel reads a copy of it in the ring itself.
    tail: Cell<u16>,
    /// How many chunks look into each buffer. Zero: it is in the ring.
    chunks: Box<[Cell<u32>]>,
    /// Which connection each lent buffer is charged to, or `NOBODY`.
    charged_to: Box<[Cell<u32>]>,
    /// How many lent buffers are charged to each connection, by its index.
    charges: RefCell<Vec<u32>>,
    /// How many buffers are not in the ring.
    lent: Cell<u32>,
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers")
            .field("lent", &self.lent)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool with all its buffers in the ring.
    pub(crate) fn new() -> Pool {
        let memory = allocate(memory_layout());
        let ring = allocate(ring_layout()).cast::<BufRingEntry>();
        let pool = Buffers {
            memory,
            ring,
            tail: Cell::new(0),
            chunks: (0..POOL_BUFFERS).map(|_| Cell::new(0)).collect(),
            charged_to: (0..POOL_BUFFERS).map(|_| Cell::new(NOBODY)).collect(),
            charges: RefCell::new(Vec::new()),
            lent: Cell::new(0),
        };
        for id in 0..POOL_BUFFERS {
            pool.put(id);
        }
        Pool(Rc::new(pool))
    }

    /// Where the ring shared with the kernel lies, and how many entries it has.
    pub(crate) fn ring_address(&self) -> (u64, u16) {
        (self.0.ring.as_ptr() as u64, POOL_BUFFERS)
    }

    /// The chunk the kernel has just filled: `len` bytes of buffer `id`, charged to the
    /// connection at index `to`. `None` if the kernel names a buffer it was not lent.
    #[inline]
    pub(crate) fn filled(&self, id: u16, len: usize, to: u32) -> Option<Chunk> {
        let pool = &*self.0;
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
        pool.charge(id, to);
        Some(Chunk {
            place: Place::Pool {
                pool: self.0.clone(),
                id,
            },
            start: 0,
            end: len as u32,
        })
    }

    /// How many buffers are lent out of the ring.
    pub(crate) fn lent(&self) -> u32 {
        self.0.lent.get()
    }

    /// How many buffers the kernel can still fill.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        u32::from(POOL_BUFFERS) - self.0.lent.get()
    }

    /// Whether the connection at `index` has its share, or the pool little left: what it keeps is
    /// to be copied then.
    #[inline]
    pub(crate) fn is_short(&self, index: u32) -> bool {
        self.free() < u32::from(POOL_LOW) || self.charged(index) > u32::from(CONN_SHARE_CHUNKS)
    }

    /// How many buffers are charged to the connection at `index`.
    #[inline]
    pub(crate) fn charged(&self, index: u32) -> u32 {
        self.0
            .charges
            .borrow()
            .get(index as usize)
            .copied()
            .unwrap_or(0)
    }

    /// Forgets the connection at `index`: what it still holds is charged to nobody, so that the
    /// next connection of that index begins with none.
    pub(crate) fn forget(&self, index: u32) {
        if self.charged(index) == 0 {
            return;
        }
        for charged_to in &self.0.charged_to {
            if charged_to.get() == index {
                charged_to.set(NOBODY);
            }
        }
        if let Some(charge) = self.0.charges.borrow_mut().get_mut(index as usize) {
            *charge = 0;
        }
    }
}

impl Buffers {
    /// The first byte of buffer `id`.
    #[inline]
    fn address(&self, id: u16) -> *mut u8 {
        // SAFETY: `id` is below POOL_BUFFERS: it comes from `Pool::new` or from a chunk, whose id
        // `filled` has looked up in an array of that length. So the offset is inside `memory`.
        unsafe { self.memory.as_ptr().add(usize::from(id) * BUFFER_BYTES) }
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
        entry.set_addr(self.address(id) as u64);
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

    /// Charges buffer `id` to the connection at index `to`.
    #[inline]
    fn charge(&self, id: u16, to: u32) {
        self.charged_to[usize::from(id)].set(to);
        let mut charges = self.charges.borrow_mut();
        let at = to as usize;
        if charges.len() <= at {
            charges.resize(at + 1, 0);
        }
        charges[at] += 1;
    }

    /// One chunk less looks into buffer `id`; the last one puts it back into the ring.
    #[inline]
    fn release(&self, id: u16) {
        let chunks = &self.chunks[usize::from(id)];
        chunks.set(chunks.get() - 1);
        if chunks.get() > 0 {
            return;
        }
        let owner = self.charged_to[usize::from(id)].replace(NOBODY);
        if let Some(charge) = self.charges.borrow_mut().get_mut(owner as usize) {
            *charge = charge.saturating_sub(1);
        }
        self.lent.set(self.lent.get() - 1);
        self.put(id);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `Pool::new`; the last owner is going, and the
        // driver keeps a pool as long as the kernel may write to it.
        unsafe { dealloc(self.memory.as_ptr(), memory_layout()) };
        // SAFETY: as above.
        unsafe { dealloc(self.ring.as_ptr().cast(), ring_layout()) };
    }
}

/// The layout of all buffers.
fn memory_layout() -> Layout {
    const BYTES: usize = POOL_BUFFERS as usize * BUFFER_BYTES;
    const LAYOUT: Layout = match Layout::from_size_align(BYTES, PAGE) {
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
    // SAFETY: both layouts of this file have a size above zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Bytes that arrived, in the buffer the kernel put them into.
///
/// A chunk derefs to `[u8]`. It is narrowed and split without copying; it is cloned without
/// copying too. Sent back with [`TcpStream::send`](crate::net::TcpStream::send) it travels in the
/// buffer it came in. An empty chunk from [`recv`](crate::net::TcpStream::recv) is the end of the
/// stream.
///
/// Buffers are few (a pool belongs to one core), so a chunk that is kept for long should be
/// copied out: a connection that holds more than its share gets its further bytes copied to
/// memory of its own.
///
/// A chunk stays on its core:
/// ```compile_fail
/// fn elsewhere(chunk: evenfall::net::Chunk) {
///     std::thread::spawn(move || chunk.len());
/// }
/// ```
///
/// # Shutdown
///
/// Chunks stay readable through every phase and after it, as long as they are kept.
pub struct Chunk {
    /// Where the bytes are.
    place: Place,
    /// The first byte's place in the buffer; at most `end`.
    start: u32,
    /// One past the last byte's place; at most the buffer's length.
    end: u32,
}

/// Where a chunk's bytes are.
enum Place {
    /// In a buffer of a pool: this chunk counts in `chunks[id]`.
    Pool { pool: Rc<Buffers>, id: u16 },
    /// In memory of its own. Two steps away, for this is rare and every chunk would be larger.
    Heap(Rc<Box<[u8]>>),
    /// Nowhere: there are none.
    Nowhere,
}

impl Chunk {
    /// No bytes: the end of a stream.
    pub(crate) fn empty() -> Chunk {
        Chunk {
            place: Place::Nowhere,
            start: 0,
            end: 0,
        }
    }

    /// The same bytes in memory of their own; a buffer of the pool goes back at once.
    pub(crate) fn into_heap(self) -> Chunk {
        match &self.place {
            Place::Heap(_) | Place::Nowhere => self,
            Place::Pool { .. } => self.copied(),
        }
    }

    /// Whether the bytes are in a buffer of the pool.
    pub(crate) fn is_pooled(&self) -> bool {
        matches!(self.place, Place::Pool { .. })
    }

    /// Splits at `at`: this chunk keeps the bytes from `at` on, the result has those before it.
    /// An `at` beyond the end is the end. Nothing is copied.
    #[must_use = "the bytes before the split are gone with the result"]
    pub fn split_to(&mut self, at: usize) -> Chunk {
        let middle = self.start + at.min(self.len()) as u32;
        let mut head = self.clone();
        head.end = middle;
        self.start = middle;
        head
    }

    /// Drops the first `count` bytes, or all if there are fewer.
    pub fn advance(&mut self, count: usize) {
        self.start += count.min(self.len()) as u32;
    }

    /// Keeps only the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.start + len.min(self.len()) as u32;
    }

    /// A chunk of the bytes in `range` (relative to this chunk; what lies outside is left out),
    /// without copying.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Chunk {
        use std::ops::Bound;
        let from = match range.start_bound() {
            Bound::Included(&at) => at,
            Bound::Excluded(&at) => at.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&at) => at.saturating_add(1),
            Bound::Excluded(&at) => at,
            Bound::Unbounded => self.len(),
        };
        let mut part = self.clone();
        part.truncate(to);
        part.advance(from);
        part
    }
}

impl Clone for Chunk {
    fn clone(&self) -> Chunk {
        let place = match &self.place {
            Place::Heap(bytes) => Place::Heap(bytes.clone()),
            Place::Nowhere => Place::Nowhere,
            Place::Pool { pool, id } => {
                let chunks = &pool.chunks[usize::from(*id)];
                match chunks.get().checked_add(1) {
                    Some(count) => chunks.set(count),
                    // Four billion clones of one chunk: a copy is as good.
                    None => return self.copied(),
                }
                Place::Pool {
                    pool: pool.clone(),
                    id: *id,
                }
            }
        };
        Chunk {
            place,
            start: self.start,
            end: self.end,
        }
    }
}

impl Chunk {
    /// A copy in memory of its own.
    fn copied(&self) -> Chunk {
        Chunk {
            start: 0,
            end: self.end - self.start,
            place: Place::Heap(Rc::new(self.as_ref().into())),
        }
    }
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        if let Place::Pool { pool, id } = &self.place {
            pool.release(*id);
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.place {
            Place::Nowhere => &[],
            Place::Heap(bytes) => &bytes[self.start as usize..self.end as usize],
            Place::Pool { pool, id } => {
                let address = pool.address(*id).cast_const();
                // SAFETY: `start` is at most `end`, which is at most BUFFER_BYTES (`filled`, and
                // every narrowing keeps it), so both lie in buffer `id`.
                let from = unsafe { address.add(self.start as usize) };
                // SAFETY: the range is inside the buffer, which was zeroed at first and then
                // written by the kernel; this chunk counts in `chunks[id]`, so the buffer is not
                // in the ring and nobody writes to it.
                unsafe { std::slice::from_raw_parts(from, (self.end - self.start) as usize) }
            }
        }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunk")
            .field("len", &self.len())
            .field("pooled", &self.is_pooled())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        drop(pool);
        assert_eq!(&*chunk, &[0; 5]);
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
