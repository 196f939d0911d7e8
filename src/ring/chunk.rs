//! The bytes that arrived, as users see them: a view into a buffer of the pool, or memory of its own.

use std::ops::{Deref, RangeBounds};
use std::ptr::NonNull;
use std::rc::Rc;

use super::buffers::{Buffers, Pool};

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
/// A chunk stays on its core, and what was sent is the connection's:
/// ```compile_fail,E0277
/// fn elsewhere(chunk: evenfall::net::Chunk) {
///     std::thread::spawn(move || chunk.len());
/// }
/// ```
/// ```compile_fail,E0382
/// async fn kept(mut stream: evenfall::net::TcpStream, chunk: evenfall::net::Chunk) {
///     let sent = stream.send(chunk).await;
///     let _ = (sent, chunk.len());
/// }
/// ```
/// A copy may leave, and a clone be kept:
/// ```
/// fn elsewhere(chunk: evenfall::net::Chunk) {
///     let chunk = chunk.to_vec();
///     std::thread::spawn(move || chunk.len());
/// }
///
/// async fn kept(mut stream: evenfall::net::TcpStream, chunk: evenfall::net::Chunk) {
///     let sent = stream.send(chunk.clone()).await;
///     let _ = (sent, chunk.len());
/// }
/// ```
///
/// # Shutdown
///
/// Chunks stay readable through every phase and after it, as long as they are kept.
pub struct Chunk {
    /// The first byte. Readable together with the `len - 1` behind it as long as this chunk counts
    /// at its home, and dangling where there is none.
    start: NonNull<u8>,
    /// What `home` says. As three words the chunk is a third smaller than with an enum in it, and
    /// its bytes are found without asking where they are.
    owner: NonNull<()>,
    /// How many bytes there are.
    len: u32,
    /// Which buffer of the pool; 0 elsewhere.
    id: u16,
    /// Where the bytes are. Never changes.
    home: Home,
}

/// Where a chunk's bytes are, and so what its owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// In a buffer of a pool, in which this chunk is counted; the owner is a `Buffers`.
    Pool,
    /// In memory of its own; the owner is what `Rc::into_raw` gave for it.
    Heap,
    /// Nowhere: there are none. No owner.
    Nowhere,
}

/// Memory of a chunk's own. One word wide, as a reference to a slice is not.
type Heap = Box<[u8]>;

impl Pool {
    /// The chunk the kernel has just filled: `len` bytes of buffer `id`, charged to the
    /// connection at index `to`. `None` if the kernel names a buffer it was not lent.
    #[inline]
    pub(crate) fn filled(&self, id: u16, len: usize, to: u32) -> Option<Chunk> {
        // The buffer is zeroed at first and the kernel has written to its first `len` bytes; while
        // it is lent it is not in the ring, so nobody writes to it.
        let start = self.lend(id, len, to)?;
        Some(Chunk {
            start,
            owner: self.home().cast(),
            len: len as u32,
            id,
            home: Home::Pool,
        })
    }
}

impl Chunk {
    /// No bytes: the end of a stream.
    pub(crate) fn empty() -> Chunk {
        Chunk {
            start: NonNull::dangling(),
            owner: NonNull::dangling(),
            len: 0,
            id: 0,
            home: Home::Nowhere,
        }
    }

    /// The same bytes in memory of their own; a buffer of the pool goes back at once.
    pub(crate) fn into_heap(self) -> Chunk {
        match self.home {
            Home::Heap | Home::Nowhere => self,
            Home::Pool => self.copied(),
        }
    }

    /// Whether the bytes are in a buffer of the pool.
    pub(crate) fn is_pooled(&self) -> bool {
        self.home == Home::Pool
    }

    /// Splits at `at`: this chunk keeps the bytes from `at` on, the result has those before it.
    /// An `at` beyond the end is the end. Nothing is copied.
    #[must_use = "the bytes before the split are gone with the result"]
    pub fn split_to(&mut self, at: usize) -> Chunk {
        let mut head = self.clone();
        head.truncate(at);
        self.advance(at);
        head
    }

    /// Drops the first `count` bytes, or all if there are fewer.
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.len());
        // SAFETY: within the bytes of this chunk, or one past the last of them.
        self.start = unsafe { self.start.add(count) };
        self.len -= count as u32;
    }

    /// Keeps only the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = len.min(self.len()) as u32;
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
        match self.home {
            Home::Nowhere => {}
            Home::Heap => {
                // SAFETY: the owner of a chunk of this home came from `Rc::into_raw`, and this
                // chunk is one of its strong counts.
                unsafe { Rc::increment_strong_count(self.owner.as_ptr().cast::<Heap>()) };
            }
            Home::Pool => {
                // SAFETY: the owner of a chunk of this home is a pool's memory, which is there as
                // long as this chunk counts in it.
                let buffers = unsafe { self.owner.cast::<Buffers>().as_ref() };
                if !buffers.retain(self.id) {
                    // Four billion clones of one chunk: a copy is as good.
                    return self.copied();
                }
            }
        }
        Chunk {
            start: self.start,
            owner: self.owner,
            len: self.len,
            id: self.id,
            home: self.home,
        }
    }
}

impl Chunk {
    /// Counts no more at its home. Only for `drop`, and once.
    #[inline(never)]
    fn leave_home(&mut self) {
        match self.home {
            // SAFETY: the owner of a chunk of this home is the memory of the pool in which it
            // counts, and it ends here.
            Home::Pool => unsafe { Buffers::release(self.owner.cast(), self.id) },
            // SAFETY: the owner of a chunk of this home came from `Rc::into_raw`, and this chunk
            // is one of its strong counts.
            Home::Heap => drop(unsafe { Rc::from_raw(self.owner.as_ptr().cast::<Heap>()) }),
            Home::Nowhere => {}
        }
    }

    /// A copy in memory of its own.
    fn copied(&self) -> Chunk {
        let bytes: Rc<Heap> = Rc::new(self.as_ref().into());
        let start = NonNull::from(&**bytes).cast();
        let owner = Rc::into_raw(bytes).cast_mut();
        Chunk {
            start,
            // SAFETY: `Rc::into_raw` gives no null.
            owner: unsafe { NonNull::new_unchecked(owner) }.cast(),
            len: self.len,
            id: 0,
            home: Home::Heap,
        }
    }
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        // Small, so that it is no call: a chunk that was moved on leaves an empty one behind.
        if self.home != Home::Nowhere {
            self.leave_home();
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` and `len` name bytes that are initialised, that nobody writes to and that
        // stay as long as this chunk counts at its home (`filled`, `copied`); every narrowing
        // keeps inside of them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
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
