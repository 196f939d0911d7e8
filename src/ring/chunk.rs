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
    /// The first byte. Readable together with the others behind it as long as this chunk counts
    /// at its home, and dangling where there is none.
    start: NonNull<u8>,
    /// What `home` says. As three words the chunk is a third smaller than with an enum in it, and
    /// its bytes are found without asking where they are.
    owner: NonNull<()>,
    /// The rest. In one word, for a chunk is moved half a dozen times in an echo: with a field for
    /// each the bytes of the last word were written one by one and read all at once, or the other way
    /// round, and a processor waits then until the stores have left it. That was a sixth of an echo's
    /// user time.
    rest: Rest,
}

/// How many bytes a chunk has, and where they are.
///
/// ```text
///  63   48 47        32 31            0
/// ┌───────┬────────────┬───────────────┐
/// │ home  │ buffer     │ length        │
/// └───────┴────────────┴───────────────┘
/// ```
#[derive(Clone, Copy)]
struct Rest(u64);

impl Rest {
    /// That of a chunk of `len` bytes in buffer `id`; 0 where there is none.
    #[inline(always)]
    const fn new(home: Home, id: u16, len: u32) -> Rest {
        Rest((home as u64) << 48 | (id as u64) << 32 | len as u64)
    }

    /// How many bytes there are.
    #[inline(always)]
    fn len(self) -> usize {
        self.0 as u32 as usize
    }

    /// The same with another length.
    #[inline]
    fn with_len(self, len: usize) -> Rest {
        Rest(self.0 >> 32 << 32 | u64::from(len as u32))
    }

    /// Which buffer of the pool; 0 elsewhere.
    #[inline(always)]
    fn id(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Where the bytes are. Never changes.
    #[inline(always)]
    fn home(self) -> Home {
        match self.0 >> 48 {
            0 => Home::Pool,
            1 => Home::Heap,
            _ => Home::Nowhere,
        }
    }
}

/// That of a chunk without bytes and without a home.
const NOTHING: Rest = Rest::new(Home::Nowhere, 0, 0);

/// Where a chunk's bytes are, and so what its owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// In a buffer of a pool, in which this chunk is counted; the owner is a `Buffers`.
    Pool = 0,
    /// In memory of its own; the owner is what `Rc::into_raw` gave for it.
    Heap = 1,
    /// Nowhere: there are none. No owner.
    Nowhere = 2,
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
            rest: Rest::new(Home::Pool, id, len as u32),
        })
    }
}

impl Chunk {
    /// No bytes: the end of a stream.
    pub(crate) fn empty() -> Chunk {
        Chunk {
            start: NonNull::dangling(),
            owner: NonNull::dangling(),
            rest: NOTHING,
        }
    }

    /// Moves the bytes out; none are left.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Chunk {
        // What is left points where it did, and neither reads there nor counts there. To leave an
        // `empty` one were two stores more.
        Chunk {
            start: self.start,
            owner: self.owner,
            rest: std::mem::replace(&mut self.rest, NOTHING),
        }
    }

    /// The same bytes in memory of their own; a buffer of the pool goes back at once.
    pub(crate) fn into_heap(self) -> Chunk {
        match self.rest.home() {
            Home::Heap | Home::Nowhere => self,
            Home::Pool => self.copied(),
        }
    }

    /// Whether the bytes are in a buffer of the pool.
    pub(crate) fn is_pooled(&self) -> bool {
        self.rest.home() == Home::Pool
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
        self.rest = self.rest.with_len(self.len() - count);
    }

    /// Keeps only the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.rest = self.rest.with_len(len.min(self.len()));
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
        match self.rest.home() {
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
                if !buffers.retain(self.rest.id()) {
                    // Four billion clones of one chunk: a copy is as good.
                    return self.copied();
                }
            }
        }
        Chunk {
            start: self.start,
            owner: self.owner,
            rest: self.rest,
        }
    }
}

impl Chunk {
    /// A copy in memory of its own.
    fn copied(&self) -> Chunk {
        let bytes: Rc<Heap> = Rc::new(self.as_ref().into());
        let start = NonNull::from(&**bytes).cast();
        let owner = Rc::into_raw(bytes).cast_mut();
        Chunk {
            start,
            // SAFETY: `Rc::into_raw` gives no null.
            owner: unsafe { NonNull::new_unchecked(owner) }.cast(),
            rest: Rest::new(Home::Heap, 0, self.len() as u32),
        }
    }
}

/// Gives up one count of the memory of a chunk's own.
///
/// # Safety
///
/// `owner` is what `Rc::into_raw` gave for it, and the count is the caller's.
#[cold]
unsafe fn release_heap(owner: NonNull<()>) {
    // SAFETY: the caller's promise.
    drop(unsafe { Rc::from_raw(owner.as_ptr().cast::<Heap>()) });
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        // Small, for a chunk that was moved on leaves one of no home behind; and without the chunk's
        // address, so that it may lie in registers until its end.
        let home = self.rest.home();
        if home == Home::Nowhere {
            return;
        }
        if home == Home::Pool {
            // SAFETY: the owner of a chunk of this home is the memory of the pool in which it counts,
            // and it ends here.
            unsafe { Buffers::release(self.owner.cast(), self.rest.id()) };
        } else {
            // SAFETY: the owner of a chunk of this home came from `Rc::into_raw`, and this chunk is
            // one of its strong counts, which ends here.
            unsafe { release_heap(self.owner) };
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` and the length name bytes that are initialised, that nobody writes to and that
        // stay as long as this chunk counts at its home (`filled`, `copied`); every narrowing
        // keeps inside of them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.rest.len()) }
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
