//! The kernel's side of the pool: the ring of buffers, read as the kernel reads it.

use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::config::BUFFER_BYTES;

/// What the kernel writes over a buffer that it was lent, to show that it may.
const POISON: u8 = 0xdd;

/// How much of it.
const POISON_BYTES: usize = 64;

/// Where a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It was never lent.
    Stock,
    /// In the ring, to be filled.
    Kernel,
    /// Filled and given out, and not seen in the ring since.
    User,
}

/// See the module.
#[derive(Debug)]
pub(super) struct LentPool {
    /// The first entry.
    ring: *mut BufRingEntry,
    /// How many there are; a power of two.
    entries: u16,
    /// The next entry to take a buffer from.
    head: u16,
    /// The next entry to be looked at; between `head` and this the buffers are the kernel's.
    seen: u16,
    /// Where each buffer is.
    places: Vec<Place>,
    /// Where buffer 0 begins, once one was seen.
    memory: Option<usize>,
}

impl LentPool {
    /// The pool whose ring of `entries` lies at `address`.
    pub(super) fn new(address: u64, entries: u16) -> LentPool {
        LentPool {
            ring: address as *mut BufRingEntry,
            entries,
            head: 0,
            seen: 0,
            places: vec![Place::Stock; usize::from(entries)],
            memory: None,
        }
    }

    /// The entry at a place in the order of lending: address, length and number of a buffer.
    fn entry(&self, at: u16) -> (usize, usize, u16) {
        let place = usize::from(at & (self.entries - 1));
        // SAFETY: `place` is below the number of entries.
        let entry = unsafe { self.ring.add(place) };
        // SAFETY: the pool has promised that many entries, for as long as the driver is open or has
        // left operations behind (`Port::lend`); a script is asked no longer.
        let entry = unsafe { &*entry };
        (entry.addr() as usize, entry.len() as usize, entry.bid())
    }

    /// Looks at what was lent since the last time. What breaks the law, if anything does.
    pub(super) fn look(&mut self) -> Result<(), String> {
        // SAFETY: as in `entry`; the tail lies in the first one.
        let tail = unsafe { BufRingEntry::tail(self.ring) };
        // SAFETY: two aligned bytes that the pool writes only by an atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.load(Ordering::Acquire);
        while self.seen != tail {
            let (address, len, id) = self.entry(self.seen);
            let first = address.wrapping_sub(usize::from(id) * BUFFER_BYTES);
            let memory = *self.memory.get_or_insert(first);
            if memory != first || len != BUFFER_BYTES {
                return Err(format!("buffer {id} lent at {address:#x} with {len} bytes"));
            }
            let Some(place) = self.places.get_mut(usize::from(id)) else {
                return Err(format!("buffer {id} was lent, and there is none"));
            };
            match std::mem::replace(place, Place::Kernel) {
                Place::Kernel => return Err(format!("buffer {id} was lent twice")),
                // Memory that was never touched is left so: there is much of it.
                Place::Stock => {}
                Place::User => scribble(address),
            }
            self.seen = self.seen.wrapping_add(1);
        }
        Ok(())
    }

    /// Writes to all buffers that are lent, as the kernel may at any time.
    pub(super) fn scribble_all(&self) {
        let mut at = self.head;
        while at != self.seen {
            scribble(self.entry(at).0);
            at = at.wrapping_add(1);
        }
    }

    /// Whether no buffer is lent.
    pub(super) fn is_empty(&self) -> bool {
        self.head == self.seen
    }

    /// Fills the next buffer, which there is, with `bytes`; which one it was.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> u16 {
        let (address, _, id) = self.entry(self.head);
        self.head = self.head.wrapping_add(1);
        self.places[usize::from(id)] = Place::User;
        let into = address as *mut u8;
        // SAFETY: the buffer is lent (`look`) and as long as `bytes` at least, which come from
        // memory of the script's own.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), into, bytes.len()) };
        id
    }

    /// Which lent buffer `address` lies in, if in one: nobody may send from there.
    pub(super) fn lent_at(&self, address: usize) -> Option<u16> {
        let offset = address.checked_sub(self.memory?)?;
        let id = offset / BUFFER_BYTES;
        (self.places.get(id) == Some(&Place::Kernel)).then_some(id as u16)
    }
}

/// Writes to the beginning of the buffer at `address`, which is lent.
fn scribble(address: usize) {
    // SAFETY: the buffer is longer than that, and was lent: until its completion nobody but the
    // kernel may look at it.
    unsafe { std::ptr::write_bytes(address as *mut u8, POISON, POISON_BYTES) };
}
