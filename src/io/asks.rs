//! What the user side asks of a connection, one call after the other.
//!
//! Each looks at the record, answers or parks a waker, and returns: no user code runs in here but
//! the clone of the waker that is parked. The usual answers come from functions that end in `_now`;
//! they do nothing where the case is not the usual one, and the caller then asks in full.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use socket2::SockRef;

use super::Io;
use super::conn::{Conn, Incoming, Origin, Recv};
use super::outbound::Segment;
use crate::config::{CONNS_GROWTH_MIN, CONNS_GROWTH_PART, HIGH_WATER_BYTES};
use crate::ring::chunk::Chunk;

/// What can be said at once of a request that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestNow {
    /// A byte of it is here.
    Begun,
    /// Nothing is here, and the handler waits.
    Waits,
    /// Neither, or not so simple: nothing has happened.
    Unclear,
}

/// What the user side asks of a connection.
impl Io {
    /// Makes a record for `fd`.
    pub(crate) fn adopt(&mut self, fd: OwnedFd, origin: Origin) -> u32 {
        if origin == Origin::Accepted {
            self.tally.opened(self.now_ns);
        }
        if self.conns.len() == self.conns.capacity() {
            let more = self.conns.len() / CONNS_GROWTH_PART;
            self.conns.reserve_exact(more.max(CONNS_GROWTH_MIN));
        }
        self.conns.insert(Conn::new(fd, origin, self.now_ns)) as u32
    }

    /// A first handle is made to the record: it begins to receive.
    pub(crate) fn take_handle(&mut self, index: u32) {
        if let Some(conn) = self.conn(index) {
            conn.queued = false;
            conn.handles = 1;
        }
        self.arm_recv(index);
    }

    /// A second handle is made to the record (the halves of a stream).
    pub(crate) fn add_handle(&mut self, index: u32) {
        if let Some(conn) = self.conn(index) {
            conn.handles += 1;
        }
    }

    /// The next chunk, if one is here, no other behind it, and the receive goes on: as nearly always.
    #[inline(always)]
    pub(crate) fn recv_now(&mut self, index: u32) -> Option<Chunk> {
        let conn = self.conns.get_mut(index as usize)?;
        let lane = conn.lane.as_mut()?;
        if conn.recv == Recv::Off {
            return None;
        }
        let chunk = lane.inbound.take_only()?;
        lane.inbound_bytes = 0;
        Some(chunk)
    }

    /// The next chunk, if one is here.
    pub(super) fn next_chunk(&mut self, index: u32) -> Option<Chunk> {
        let conn = self.conns.get_mut(index as usize)?;
        let lane = conn.lane.as_mut()?;
        let chunk = lane.inbound.pop_front()?;
        lane.inbound_bytes -= chunk.len();
        if conn.recv == Recv::Off {
            self.resume_recv(index);
        }
        Some(chunk)
    }

    /// The next chunk; an empty one at the end of the stream.
    pub(crate) fn poll_recv(
        &mut self,
        index: u32,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Chunk>> {
        if let Some(chunk) = self.next_chunk(index) {
            return Poll::Ready(Ok(chunk));
        }
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return Poll::Ready(Err(super::errors::closed()));
        };
        match conn.incoming {
            Incoming::Ended => Poll::Ready(Ok(Chunk::empty())),
            Incoming::Failed(errno) => Poll::Ready(Err(io::Error::from_raw_os_error(errno.into()))),
            Incoming::Open if conn.told => Poll::Ready(Ok(Chunk::empty())),
            Incoming::Open if conn.stage.is_over() => Poll::Ready(Err(super::errors::closed())),
            Incoming::Open => {
                self.lanes.rest(&mut conn.lane);
                conn.reader.park(context, &mut self.spent_wakers);
                Poll::Pending
            }
        }
    }

    /// Puts back the rest of a chunk that was taken: it will be the next one.
    pub(crate) fn put_back(&mut self, index: u32, chunk: Chunk) {
        if let Some(conn) = self.conns.get_mut(index as usize) {
            if !chunk.is_empty() {
                let lane = conn.lane(&mut self.lanes);
                lane.inbound_bytes += chunk.len();
                lane.inbound.push_front(chunk);
            }
        }
    }

    /// The two usual answers of `poll_next_request`, if it is one of them.
    #[inline]
    pub(crate) fn next_request_now(&mut self, index: u32, context: &mut Context<'_>) -> RequestNow {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return RequestNow::Unclear;
        };
        // So it does not wait for its turn to be told either: that is the drain's.
        if !conn.is_plain() || self.draining.is_some() {
            return RequestNow::Unclear;
        }
        if !conn.has_inbound() {
            if !conn.reader.park_again(context) {
                return RequestNow::Unclear;
            }
            self.lanes.rest(&mut conn.lane);
            self.tally.requests_answered += u64::from(conn.in_request);
            conn.asks = true;
            conn.in_request = false;
            conn.between = true;
            RequestNow::Waits
        } else {
            self.tally.requests_answered += u64::from(conn.in_request);
            self.tally.requests_begun += 1;
            conn.asks = true;
            conn.between = false;
            conn.in_request = true;
            RequestNow::Begun
        }
    }

    /// Whether another request is coming: `true` as soon as a byte of it is here, `false` at the
    /// end of the stream or when the stop found nothing here and told so.
    pub(crate) fn poll_next_request(
        &mut self,
        index: u32,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return Poll::Ready(Err(super::errors::closed()));
        };
        self.tally.requests_answered += u64::from(conn.end_request());
        conn.asks = true;
        conn.between = false;
        if conn.has_inbound() {
            conn.in_request = true;
            // It is not idle any more, and ends with this request.
            conn.waits_its_turn &= conn.is_to_be_cut();
            self.tally.requests_begun += 1;
            return Poll::Ready(Ok(true));
        }
        if let Some(errno) = conn.write_errno {
            let error = super::errors::write_failed(errno.into(), conn.taken);
            return Poll::Ready(Err(error));
        }
        match conn.incoming {
            Incoming::Ended => return Poll::Ready(Ok(false)),
            Incoming::Failed(errno) => {
                return Poll::Ready(Err(io::Error::from_raw_os_error(errno.into())));
            }
            Incoming::Open if conn.stage.is_over() => {
                return Poll::Ready(Err(super::errors::closed()));
            }
            Incoming::Open => {}
        }
        if !conn.told {
            conn.between = true;
            self.lanes.rest(&mut conn.lane);
            conn.reader.park(context, &mut self.spent_wakers);
            if !self.is_draining() {
                return Poll::Pending;
            }
            self.tell_between(index);
        }
        match self.conns.get(index as usize) {
            Some(conn) if !conn.told => Poll::Pending,
            _ => Poll::Ready(Ok(false)),
        }
    }

    /// The future of a `next_request` is gone: its handler is not between requests any more.
    pub(crate) fn leave_next_request(&mut self, index: u32) {
        if let Some(conn) = self.conn(index) {
            conn.between = false;
        }
    }

    /// Counts the request under way, if there is one, as answered.
    pub(super) fn end_request(&mut self, index: u32) {
        if let Some(conn) = self.conns.get_mut(index as usize) {
            self.tally.requests_answered += u64::from(conn.end_request());
        }
    }

    /// Ready when the queue is below its high-water mark.
    pub(crate) fn poll_writable(
        &mut self,
        index: u32,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return Poll::Ready(Err(super::errors::closed()));
        };
        conn.may_write()?;
        if conn.unsent() < HIGH_WATER_BYTES {
            return Poll::Ready(Ok(()));
        }
        conn.writer.park(context, &mut self.spent_wakers);
        Poll::Pending
    }

    /// Queues the segment of `len` bytes that `take` gives, if it is the only one and nothing speaks
    /// against it, as nearly always. Whether it was queued; if not, nothing has happened.
    #[inline(always)]
    pub(crate) fn push_now(
        &mut self,
        index: u32,
        len: usize,
        take: impl FnOnce() -> Segment,
    ) -> bool {
        let plenty = self.driver.pool().has_plenty();
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return false;
        };
        let plain = conn.is_plain();
        let Some(lane) = &mut conn.lane else {
            return false;
        };
        if !plenty || !plain || len == 0 || !lane.outbound.is_empty() {
            return false;
        }
        lane.outbound.push_only(len, take());
        if !conn.dirty {
            conn.dirty = true;
            self.dirty.push(index);
        }
        true
    }

    /// Queues a segment. Only after `poll_writable` was ready in the same poll.
    pub(crate) fn push(&mut self, index: u32, segment: Segment) {
        let segment = match segment {
            // A slow reader may cost memory of its own, never the neighbours' buffers.
            Segment::Chunk(chunk) if self.driver.pool().is_short(index) => {
                Segment::Chunk(chunk.into_heap())
            }
            other => other,
        };
        match self.conns.get_mut(index as usize) {
            Some(conn) if !segment.is_empty() => {
                conn.lane(&mut self.lanes).outbound.push(segment);
                if !std::mem::replace(&mut conn.dirty, true) {
                    self.dirty.push(index);
                }
            }
            // Dropped when the borrow is over: the memory may have a user's destructor.
            _ => self.spent_segments.push(segment),
        }
    }

    /// Queues a copy of as many of `bytes` as fit below the high-water mark, and says how many.
    /// Only after `poll_writable` was ready in the same poll.
    pub(crate) fn append(&mut self, index: u32, bytes: &[u8]) -> usize {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return bytes.len();
        };
        let room = HIGH_WATER_BYTES.saturating_sub(conn.unsent());
        let count = room.min(bytes.len());
        if count > 0 {
            let lane = conn.lane(&mut self.lanes);
            lane.outbound.append(&bytes[..count]);
            self.mark_dirty(index);
        }
        count
    }

    /// Ready when the kernel has taken all that was queued.
    pub(crate) fn poll_flush(
        &mut self,
        index: u32,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return Poll::Ready(Err(super::errors::closed()));
        };
        if let Some(error) = conn.write_error() {
            return Poll::Ready(Err(error));
        }
        if conn.stage.is_over() {
            return Poll::Ready(Err(super::errors::closed()));
        }
        if conn.unsent() == 0 && conn.send.is_none() {
            return Poll::Ready(Ok(()));
        }
        conn.writer.park(context, &mut self.spent_wakers);
        Poll::Pending
    }

    /// Bytes of this connection that the kernel took for sending.
    pub(crate) fn taken(&self, index: u32) -> u64 {
        self.conns.get(index as usize).map_or(0, |conn| conn.taken)
    }

    /// Runs `ask` on the connection's socket.
    pub(crate) fn with_socket<T>(
        &self,
        index: u32,
        ask: impl FnOnce(SockRef<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match self.conns.get(index as usize).and_then(Conn::borrow) {
            Some(fd) => ask(SockRef::from(&fd)),
            None => Err(super::errors::closed()),
        }
    }

    /// The peer's address, as long as the socket knows it.
    pub(crate) fn peer_name(&self, index: u32) -> Option<SocketAddr> {
        self.with_socket(index, |socket| socket.peer_addr())
            .ok()
            .and_then(|address| address.as_socket())
    }
}
