//! The bytes a connection still has to send.
//!
//! ```text
//!   head                                        tail
//!  ┌──────────┬──────────┬──────────┬──────────┐
//!  │ sealed   │ sealed   │ queued   │ queued   │ ◀── push, append
//!  └──────────┴──────────┴──────────┴──────────┘
//!    ▲ offset: what the kernel took already
//! ```
//! A send covers segments from the head; those are sealed: neither appended to nor moved nor freed
//! before the send's completion. A completion advances the offset, by less than was covered if the
//! socket would not take more.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use bytes::Bytes;

use super::few::Few;
use crate::config::{AT_ONCE_BYTES, SEND_BYTES, SEND_IOVECS, TAIL_BYTES};
use crate::ring::chunk::Chunk;
use crate::ring::entry::Sqe;
use crate::ring::gather::Gather;

/// One piece of memory to send.
#[derive(Debug)]
pub(crate) enum Segment {
    /// A chunk on its way back out, in the buffer it came in.
    Chunk(Chunk),
    /// Bytes that were handed over.
    Bytes(Bytes),
    /// Bytes that were copied here; further ones are appended while it is the last and unsealed.
    Tail(Vec<u8>),
}

impl Segment {
    /// Whether there is nothing to send.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// The memory.
    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Segment::Chunk(chunk) => chunk,
            Segment::Bytes(bytes) => bytes,
            Segment::Tail(bytes) => bytes,
        }
    }
}

/// See the module's picture.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// In the order they are sent. None is empty.
    segments: Few<Segment>,
    /// The sum of all segments less `offset`.
    bytes: usize,
    /// How much of the head the kernel has taken; less than its length.
    offset: usize,
    /// How many segments the send in flight covers; 0 when none is.
    sealed: usize,
    /// The header of the last send that covered several; kept for its memory until all is sent.
    gather: Option<Gather>,
}

impl Outbound {
    /// Whether nothing is queued, so that it holds no memory.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// How many bytes the kernel has not taken.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues a segment behind all others. Not an empty one, which no send would ever get rid of.
    #[inline]
    pub(crate) fn push(&mut self, segment: Segment) {
        debug_assert!(!segment.is_empty());
        self.bytes += segment.bytes().len();
        self.segments.push_back(segment);
    }

    /// Queues the only segment, of `len` bytes and not empty.
    #[inline(always)]
    pub(crate) fn push_only(&mut self, len: usize, segment: Segment) {
        debug_assert!(len > 0 && len == segment.bytes().len());
        self.bytes = len;
        self.segments.put_only(segment);
    }

    /// Queues a copy of `bytes`, in the last segment if it takes copies and has room.
    pub(crate) fn append(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len();
        if self.segments.len() > self.sealed {
            if let Some(Segment::Tail(tail)) = self.segments.back_mut() {
                let room = TAIL_BYTES.saturating_sub(tail.len()).min(bytes.len());
                tail.extend_from_slice(&bytes[..room]);
                bytes = &bytes[room..];
            }
        }
        if !bytes.is_empty() {
            self.segments.push_back(Segment::Tail(bytes.to_vec()));
        }
    }

    /// What is queued, and its bytes, where a send of it can be over at once: one segment of our own
    /// that fits the socket, as nearly always; seals it. Only when none is in flight.
    #[inline(always)]
    pub(crate) fn seal_at_once(&mut self) -> Option<(*const u8, u32)> {
        debug_assert_eq!(self.sealed, 0, "one send at a time");
        let head: &[u8] = match self.segments.only()? {
            // A question of its own: with one for all kinds the table to jump by is out of the cache by
            // now, and a tenth of what a turn does for its sends was to wait for it.
            Segment::Chunk(chunk) => chunk,
            other => copied(other)?,
        };
        // What was begun and not taken whole waits for room in the socket: not at once, then.
        if self.bytes > AT_ONCE_BYTES || self.offset > 0 {
            return None;
        }
        self.sealed = 1;
        Some((head.as_ptr(), head.len() as u32))
    }

    /// The send of what is queued, as much as one send covers; seals it. Only when none is in
    /// flight and something is queued.
    pub(crate) fn seal(&mut self, fd: RawFd) -> Option<Sqe> {
        debug_assert_eq!(self.sealed, 0, "one send at a time");
        let head = self.segments.front()?.bytes();
        let head = &head[self.offset..];
        if self.segments.len() == 1 || head.len() >= SEND_BYTES {
            self.sealed = 1;
            let len = head.len().min(SEND_BYTES) as u32;
            return Some(Sqe::Send {
                fd,
                from: head.as_ptr(),
                len,
            });
        }
        let mut covered = 0;
        let mut bytes = 0;
        for segment in self.segments.iter().take(SEND_IOVECS) {
            if bytes > 0 && bytes + segment.bytes().len() > SEND_BYTES {
                break;
            }
            bytes += segment.bytes().len();
            covered += 1;
        }
        self.sealed = covered;
        let rest = self
            .segments
            .iter()
            .skip(1)
            .take(covered - 1)
            .map(Segment::bytes);
        let pieces = std::iter::once(head).chain(rest);
        let header = self.gather.get_or_insert_with(Gather::new).fill(pieces);
        Some(Sqe::SendMsg { fd, header })
    }

    /// The send in flight is over and the kernel took `count` bytes. What is sent whole goes to
    /// `spent`: its memory may be the user's, whose destructor must not run in here. How many bytes
    /// the kernel has not taken.
    #[inline]
    pub(crate) fn advance(&mut self, count: usize, spent: &mut Vec<Segment>) -> usize {
        self.sealed = 0;
        let all = count == self.bytes && self.gather.is_none();
        if all && matches!(self.segments.only(), Some(Segment::Chunk(_))) {
            // All is sent, and it was one chunk, as nearly always: its destructor is ours.
            self.bytes = 0;
            self.offset = 0;
            if let Some(Segment::Chunk(chunk)) = self.segments.take_only() {
                drop(chunk);
            }
            return 0;
        }
        self.bytes -= count.min(self.bytes);
        self.offset += count;
        self.retire(spent);
        self.bytes
    }

    /// Takes out what was sent whole.
    fn retire(&mut self, spent: &mut Vec<Segment>) {
        while let Some(head) = self.segments.front() {
            let len = head.bytes().len();
            if self.offset < len {
                return;
            }
            self.offset -= len;
            match self.segments.pop_front() {
                // Their destructors are ours, and a buffer is wanted back at once.
                Some(Segment::Chunk(_) | Segment::Tail(_)) | None => {}
                Some(users) => spent.push(users),
            }
        }
        // Nothing is queued: give all memory back, an idle connection holds none.
        self.offset = 0;
        self.gather = None;
    }

    /// Gives up what is queued; only when no send is in flight.
    pub(crate) fn clear(&mut self, spent: &mut Vec<Segment>) {
        debug_assert_eq!(self.sealed, 0, "the kernel reads what is sealed");
        spent.extend(self.segments.take());
        *self = Outbound::default();
    }
}

/// The bytes of a segment that was copied here.
#[inline(never)]
fn copied(segment: &Segment) -> Option<&[u8]> {
    match segment {
        Segment::Tail(bytes) => Some(bytes),
        Segment::Chunk(_) | Segment::Bytes(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a send of everything queued would carry.
    fn content(outbound: &Outbound) -> Vec<u8> {
        let all: Vec<u8> = outbound
            .segments
            .iter()
            .flat_map(Segment::bytes)
            .copied()
            .collect();
        all[outbound.offset..].to_vec()
    }

    #[test]
    fn bytes_leave_in_the_order_they_came_however_they_came() {
        let mut outbound = Outbound::default();
        outbound.append(b"one ");
        outbound.append(b"two ");
        outbound.push(Segment::Bytes(Bytes::from_static(b"three ")));
        outbound.append(b"four");
        assert_eq!(content(&outbound), b"one two three four");
        assert_eq!(
            outbound.segments.len(),
            3,
            "the second copy went into the first's segment"
        );
        assert_eq!(outbound.bytes(), 18);
    }

    #[test]
    fn a_sealed_tail_is_not_appended_to() {
        let mut outbound = Outbound::default();
        outbound.append(b"sealed");
        let Some(Sqe::Send { from, len, .. }) = outbound.seal(0) else {
            panic!("one segment is one send");
        };
        outbound.append(b"later");
        assert_eq!(outbound.segments.len(), 2);
        let head = outbound.segments.front().map(|head| head.bytes().as_ptr());
        assert_eq!(head, Some(from));
        assert_eq!(len, 6);
    }

    #[test]
    fn a_short_send_leaves_exactly_the_rest() {
        for taken in 0..=9 {
            let mut outbound = Outbound::default();
            outbound.append(b"abc");
            outbound.push(Segment::Bytes(Bytes::from_static(b"def")));
            outbound.push(Segment::Bytes(Bytes::from_static(b"ghi")));
            assert!(matches!(outbound.seal(0), Some(Sqe::SendMsg { .. })));
            let mut spent = Vec::new();
            outbound.advance(taken, &mut spent);
            assert_eq!(content(&outbound), b"abcdefghi"[taken..]);
            // The first is our own memory, which nobody else has to drop.
            let users = (taken / 3).saturating_sub(1);
            assert_eq!((outbound.bytes(), spent.len()), (9 - taken, users));
        }
    }

    #[test]
    fn one_send_covers_no_more_pieces_than_a_header_names() {
        let mut outbound = Outbound::default();
        for _ in 0..SEND_IOVECS + 5 {
            outbound.push(Segment::Bytes(Bytes::from_static(b"x")));
        }
        assert!(matches!(outbound.seal(0), Some(Sqe::SendMsg { .. })));
        assert_eq!(outbound.sealed, SEND_IOVECS);
        outbound.advance(SEND_IOVECS, &mut Vec::new());
        assert_eq!(outbound.bytes(), 5);
    }

    #[test]
    fn an_empty_copy_is_never_queued() {
        let mut outbound = Outbound::default();
        outbound.append(b"");
        assert!(outbound.seal(0).is_none());
    }
}
