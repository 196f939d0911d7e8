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
use super::lane::{Lane, Lanes};
use super::outbound::Segment;
use super::parked::Parked;
use super::stage::Stage;
use crate::config::{
    CONN_INBOUND_BYTES, CONNS_GROWTH_MIN, CONNS_GROWTH_PART, DrainPolicy, HIGH_WATER_BYTES,
};
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
    /// An errno; nothing more can come. The kernel's are below 4,096.
    Failed(u16),
}

/// One connection. See the module.
///
/// There are tens of thousands that are idle, so what those have no use for is not in here, but
/// made when it is needed: the bytes each way ([`Lane`]), and what closing notes ([`Stage`]).
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
    /// What came and what is to be sent, while it is either.
    pub(super) lane: Option<Box<Lane>>,
    /// Who waits for bytes or the end.
    pub(super) reader: Parked,
    /// Who waits for room, for a flush or for the close.
    pub(super) writer: Parked,
    /// Where in its closing it is.
    pub(super) stage: Stage,
    /// What the receiving side has met.
    pub(super) incoming: Incoming,
    /// What the sending side has met: the errno of a send that failed after its bytes were queued.
    /// No send is made after it.
    pub(super) write_errno: Option<u16>,
    /// Bytes the kernel took for sending; all of them before `write_errno`, if there is one.
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
            lane: None,
            reader: Parked::default(),
            writer: Parked::default(),
            stage: Stage::default(),
            incoming: Incoming::Open,
            write_errno: None,
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

    /// Whether something came that nobody has taken.
    #[inline]
    pub(super) fn has_inbound(&self) -> bool {
        self.lane
            .as_ref()
            .is_some_and(|lane| !lane.inbound.is_empty())
    }

    /// How many bytes came that nobody has taken.
    #[inline]
    pub(super) fn inbound_bytes(&self) -> usize {
        self.lane.as_ref().map_or(0, |lane| lane.inbound_bytes)
    }

    /// Throws away what came and nobody has taken. How many bytes.
    pub(super) fn drop_inbound(&mut self) -> usize {
        let Some(lane) = &mut self.lane else {
            return 0;
        };
        drop(lane.inbound.take());
        std::mem::take(&mut lane.inbound_bytes)
    }

    /// How many queued bytes the kernel has not taken.
    #[inline]
    pub(super) fn unsent(&self) -> usize {
        self.lane.as_ref().map_or(0, |lane| lane.outbound.bytes())
    }

    /// Whether both directions are beyond repair.
    #[inline]
    pub(super) fn is_dead(&self) -> bool {
        self.write_errno.is_some() || matches!(self.incoming, Incoming::Failed(_))
    }

    /// Whether both directions are open and nothing was told: as nearly always.
    #[inline]
    fn is_plain(&self) -> bool {
        self.stage.is_open()
            && self.incoming == Incoming::Open
            && self.write_errno.is_none()
            && !self.told
            && !self.fin_sent
    }

    /// Whether the user side may still write.
    #[inline]
    fn may_write(&self) -> io::Result<()> {
        if self.stage.is_open() && !self.fin_sent && !self.is_dead() {
            Ok(())
        } else {
            Err(self.refused_write())
        }
    }

    /// Why the user side may not write any more.
    #[cold]
    fn refused_write(&self) -> io::Error {
        self.write_error().unwrap_or_else(super::errors::closed)
    }

    /// What broke the connection, as a writer is told, if something did.
    fn write_error(&self) -> Option<io::Error> {
        let errno = match (self.write_errno, self.incoming) {
            (Some(errno), _) | (None, Incoming::Failed(errno)) => errno,
            (None, Incoming::Open | Incoming::Ended) => return None,
        };
        Some(super::errors::write_failed(errno.into(), self.taken))
    }

    /// Ends the request under way. Whether there was one, and it counts as answered.
    fn end_request(&mut self) -> bool {
        std::mem::take(&mut self.in_request) && !self.is_dead()
    }

    /// The lane, which it takes from `lanes` if it has none.
    #[inline(always)]
    pub(super) fn lane(&mut self, lanes: &mut Lanes) -> &mut Lane {
        self.lane.get_or_insert_with(|| lanes.take())
    }

    /// Bytes came for the reader. Whether there are as many now as may wait.
    #[inline(always)]
    pub(super) fn deliver(
        &mut self,
        chunk: Chunk,
        lanes: &mut Lanes,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        let lane = self.lane(lanes);
        lane.inbound_bytes += chunk.len();
        lane.inbound.push_back(chunk);
        let full = lane.inbound_bytes >= CONN_INBOUND_BYTES;
        self.reader.wake(wakers);
        full
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
        let lane = conn.lane.as_mut()?;
        lane.inbound_bytes -= lane.inbound.front()?.len();
        if conn.recv == Recv::Off {
            return self.recv_and_resume(index);
        }
        // Moved last, straight to where it is wanted.
        lane.inbound.pop_front()
    }

    /// As `recv_now`, where the receive may be armed again; the chunk is no part of the sum any more.
    #[cold]
    fn recv_and_resume(&mut self, index: u32) -> Option<Chunk> {
        self.resume_recv(index);
        let conn = self.conns.get_mut(index as usize)?;
        conn.lane.as_mut()?.inbound.pop_front()
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

    /// Queues the segment that `take` gives, if nothing speaks against it. Whether it was queued;
    /// if not, nothing has happened.
    #[inline]
    pub(crate) fn push_now(&mut self, index: u32, take: impl FnOnce() -> Segment) -> bool {
        let plenty = self.driver.pool().has_plenty();
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return false;
        };
        let plain = conn.is_plain();
        let Some(lane) = &mut conn.lane else {
            return false;
        };
        if !plenty || !plain || lane.outbound.bytes() >= HIGH_WATER_BYTES {
            return false;
        }
        let segment = take();
        if segment.is_empty() {
            // Dropped when the borrow is over: the memory may have a user's destructor.
            self.spent_segments.push(segment);
            return true;
        }
        lane.outbound.push(segment);
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
