//! The connection record: the owner of a socket, of its pending operations and of its bytes.
//!
//! A handle (`TcpStream`) is a place in the table of these records, and a future is a waker parked
//! in one. So dropping a future takes back a waker and nothing else, and dropping the handle says
//! "nobody will read or write any more": the record then flushes and closes by itself
//! ([`closing`](super::closing)), in every phase alike.
//!
//! The receive of a connection is one multishot operation into the core's pool:
//! ```text
//!             arm                  limit reached: pause
//!  Off ─────────────────▶ Armed ───────────────────────▶ Stopping
//!   ▲ ▲                     │                               │
//!   │ └─── last completion ─┴────────── last completion ────┘
//!   │                       │ last completion: no buffers
//!   └──── feed_starved ── Starved
//! ```
//! It is armed again only after the last completion, and under a new generation, lest a late
//! cancel end its successor.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;

use super::Io;
use super::closing::Stage;
use super::few::Few;
use super::outbound::{Outbound, Segment};
use super::parked::Parked;
use crate::config::{CONNS_GROWTH_MIN, CONNS_GROWTH_PART, DrainPolicy, HIGH_WATER_BYTES};
use crate::ring::chunk::Chunk;
use crate::wheel::Key;

/// Where a connection came from. The stop waits for accepted ones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A listener accepted it.
    Accepted,
    /// This side connected.
    Outgoing,
}

/// See the module's diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recv {
    /// No receive is in the kernel.
    Off,
    /// The receive of this generation is in the kernel.
    Armed(u32),
    /// As `Armed`, and a cancel has been sent.
    Stopping(u32),
    /// No receive is in the kernel, for want of buffers; the record is in the list of the starved.
    Starved,
}

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

impl Recv {
    /// Whether the receive of this generation is in the kernel.
    #[inline]
    pub(super) fn is_of(self, generation: u32) -> bool {
        matches!(self, Recv::Armed(of) | Recv::Stopping(of) if of == generation)
    }
}

/// What the receiving side has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// More may come.
    Open,
    /// The peer's FIN.
    Ended,
    /// An errno; nothing more can come.
    Failed(i32),
}

/// A send that failed after its bytes were queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteFailure {
    /// The kernel's errno.
    pub(super) errno: i32,
    /// Bytes of this connection the kernel took before it.
    pub(super) taken: u64,
}

/// One connection. See the module.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Open until the last completion that names it, and then closed by the closing machine.
    pub(super) fd: Option<OwnedFd>,
    /// Where it came from.
    pub(super) origin: Origin,
    /// Live handles; 0 also while it waits in a listener's queue.
    pub(super) handles: u8,
    /// Whether it waits in a listener's queue: then it has no handle and yet is not given up.
    pub(super) queued: bool,
    /// The receive.
    pub(super) recv: Recv,
    /// The generation of the send in flight; there is at most one.
    pub(super) send: Option<u32>,
    /// Whether it is in the list of records that have a send to make.
    pub(super) dirty: bool,
    /// What came and nobody has taken; no chunk is empty.
    pub(super) inbound: Few<Chunk>,
    /// The sum of `inbound`.
    pub(super) inbound_bytes: usize,
    /// What is to be sent.
    pub(super) outbound: Outbound,
    /// Who waits for bytes or the end.
    pub(super) reader: Parked,
    /// Who waits for room, for a flush or for the close.
    pub(super) writer: Parked,
    /// Where in its closing it is.
    pub(super) stage: Stage,
    /// What the receiving side has met.
    pub(super) incoming: Incoming,
    /// What the sending side has met.
    pub(super) write_failure: Option<WriteFailure>,
    /// Bytes the kernel took for sending.
    pub(super) taken: u64,
    /// When bytes last came or were taken, and at first when it was opened (ns).
    pub(super) active_ns: u64,
    /// When it was opened (ns).
    pub(super) opened_ns: u64,
    /// Whether a byte ever came.
    pub(super) first_byte: bool,
    /// Whether its handler ever called `next_request`: then it is never told in mid-request.
    pub(super) asks: bool,
    /// Whether its handler waits in `next_request` now.
    pub(super) between: bool,
    /// Whether a request was begun and the handler has not come back for the next.
    pub(super) in_request: bool,
    /// Whether the stop tells it later, among the others of its listener.
    pub(super) waits_its_turn: bool,
    /// Whether the stop has told the handler that nothing more will come.
    pub(super) told: bool,
    /// Whether our FIN is sent.
    pub(super) fin_sent: bool,
    /// Whether the peer's FIN had come when closing began.
    pub(super) peer_first: bool,
    /// Its one timer: the drain's while open, the linger's while closing.
    pub(super) timer: Option<Key>,
    /// What its listener had as policy when it was accepted, where that was not the default.
    pub(super) policy: Option<Rc<DrainPolicy>>,
}

impl Conn {
    /// A fresh record of `fd`.
    fn new(fd: OwnedFd, origin: Origin, now_ns: u64) -> Conn {
        Conn {
            fd: Some(fd),
            origin,
            handles: 0,
            queued: false,
            recv: Recv::Off,
            send: None,
            dirty: false,
            inbound: Few::default(),
            inbound_bytes: 0,
            outbound: Outbound::default(),
            reader: Parked::default(),
            writer: Parked::default(),
            stage: Stage::Open,
            incoming: Incoming::Open,
            write_failure: None,
            taken: 0,
            active_ns: now_ns,
            opened_ns: now_ns,
            first_byte: false,
            asks: false,
            between: false,
            in_request: false,
            waits_its_turn: false,
            told: false,
            fin_sent: false,
            peer_first: false,
            timer: None,
            policy: None,
        }
    }

    /// Whether the drain resets it.
    pub(super) fn is_to_be_cut(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.cuts())
    }

    /// The descriptor's number, while it is open.
    pub(super) fn raw(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The descriptor, while it is open.
    pub(super) fn borrow(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Whether both directions are beyond repair.
    pub(super) fn is_dead(&self) -> bool {
        self.write_failure.is_some() || matches!(self.incoming, Incoming::Failed(_))
    }

    /// Whether both directions are open and nothing was told: as nearly always.
    #[inline]
    fn is_plain(&self) -> bool {
        self.stage == Stage::Open
            && self.incoming == Incoming::Open
            && self.write_failure.is_none()
            && !self.told
            && !self.fin_sent
    }

    /// Whether the user side may still write.
    #[inline]
    fn may_write(&self) -> io::Result<()> {
        if self.stage == Stage::Open && !self.fin_sent && !self.is_dead() {
            Ok(())
        } else {
            Err(self.refused_write())
        }
    }

    /// Why the user side may not write any more.
    #[cold]
    fn refused_write(&self) -> io::Error {
        match (self.write_failure, self.incoming) {
            (Some(failure), _) => super::errors::write_failed(failure.errno, failure.taken),
            (None, Incoming::Failed(errno)) => super::errors::write_failed(errno, self.taken),
            _ => super::errors::closed(),
        }
    }

    /// Ends the request under way. Whether there was one, and it counts as answered.
    fn end_request(&mut self) -> bool {
        std::mem::take(&mut self.in_request) && !self.is_dead()
    }

    /// Bytes came for the reader.
    #[inline]
    pub(super) fn deliver(&mut self, chunk: Chunk, wakers: &mut Vec<Waker>) {
        self.inbound_bytes += chunk.len();
        self.inbound.push_back(chunk);
        self.reader.wake(wakers);
    }

    /// Whether the kernel holds an operation of this record.
    pub(super) fn in_kernel(&self) -> bool {
        matches!(self.recv, Recv::Armed(_) | Recv::Stopping(_)) || self.send.is_some()
    }
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

    /// The next chunk, if one is here.
    #[inline]
    pub(crate) fn recv_now(&mut self, index: u32) -> Option<Chunk> {
        let conn = self.conns.get_mut(index as usize)?;
        conn.inbound_bytes -= conn.inbound.front()?.len();
        if conn.recv == Recv::Off {
            self.resume_recv(index);
        }
        // Moved last, straight to where it is wanted.
        self.conns.get_mut(index as usize)?.inbound.pop_front()
    }

    /// The next chunk; an empty one at the end of the stream.
    pub(crate) fn poll_recv(
        &mut self,
        index: u32,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Chunk>> {
        if let Some(chunk) = self.recv_now(index) {
            return Poll::Ready(Ok(chunk));
        }
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return Poll::Ready(Err(super::errors::closed()));
        };
        match conn.incoming {
            Incoming::Ended => Poll::Ready(Ok(Chunk::empty())),
            Incoming::Failed(errno) => Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            Incoming::Open if conn.told => Poll::Ready(Ok(Chunk::empty())),
            Incoming::Open if conn.stage.is_over() => Poll::Ready(Err(super::errors::closed())),
            Incoming::Open => {
                conn.reader.park(context, &mut self.spent_wakers);
                Poll::Pending
            }
        }
    }

    /// Puts back the rest of a chunk that was taken: it will be the next one.
    pub(crate) fn put_back(&mut self, index: u32, chunk: Chunk) {
        if let Some(conn) = self.conn(index) {
            if !chunk.is_empty() {
                conn.inbound_bytes += chunk.len();
                conn.inbound.push_front(chunk);
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
        if conn.inbound.is_empty() {
            if !conn.reader.park_again(context) {
                return RequestNow::Unclear;
            }
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
        if !conn.inbound.is_empty() {
            conn.in_request = true;
            // It is not idle any more, and ends with this request.
            conn.waits_its_turn &= conn.is_to_be_cut();
            self.tally.requests_begun += 1;
            return Poll::Ready(Ok(true));
        }
        if let Some(failure) = conn.write_failure {
            let error = super::errors::write_failed(failure.errno, failure.taken);
            return Poll::Ready(Err(error));
        }
        match conn.incoming {
            Incoming::Ended => return Poll::Ready(Ok(false)),
            Incoming::Failed(errno) => {
                return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
            }
            Incoming::Open if conn.stage.is_over() => {
                return Poll::Ready(Err(super::errors::closed()));
            }
            Incoming::Open => {}
        }
        if !conn.told {
            conn.between = true;
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
        if conn.outbound.bytes() < HIGH_WATER_BYTES {
            return Poll::Ready(Ok(()));
        }
        conn.writer.park(context, &mut self.spent_wakers);
        Poll::Pending
    }

    /// Queues the segment that `take` gives, if nothing speaks against it. Whether it was queued;
    /// if not, nothing has happened.
    #[inline]
    pub(crate) fn push_now(&mut self, index: u32, take: impl FnOnce() -> Segment) -> bool {
        let plenty = self.driver.pool().has_plenty();
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return false;
        };
        if !plenty || !conn.is_plain() || conn.outbound.bytes() >= HIGH_WATER_BYTES {
            return false;
        }
        let segment = take();
        if segment.is_empty() {
            // Dropped when the borrow is over: the memory may have a user's destructor.
            self.spent_segments.push(segment);
            return true;
        }
        conn.outbound.push(segment);
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
                conn.outbound.push(segment);
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
        let room = HIGH_WATER_BYTES.saturating_sub(conn.outbound.bytes());
        let count = room.min(bytes.len());
        conn.outbound.append(&bytes[..count]);
        self.mark_dirty(index);
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
        if let Some(failure) = conn.write_failure {
            let error = super::errors::write_failed(failure.errno, failure.taken);
            return Poll::Ready(Err(error));
        }
        if let Incoming::Failed(errno) = conn.incoming {
            return Poll::Ready(Err(super::errors::write_failed(errno, conn.taken)));
        }
        if conn.stage.is_over() {
            return Poll::Ready(Err(super::errors::closed()));
        }
        if conn.outbound.bytes() == 0 && conn.send.is_none() {
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
