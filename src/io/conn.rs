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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Waker;

use super::lane::{Lane, Lanes};
use super::parked::Parked;
use super::stage::Stage;
use crate::config::{CONN_INBOUND_BYTES, DrainPolicy};
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
    /// No receive is in the kernel, for want of buffers, or behind others that want them; the record
    /// is in the list of the starved.
    Starved,
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
    /// Whether it is in use, both directions are open and nothing was told: as nearly always. What
    /// ends one of these ends this, by `no_longer_plain`; nothing begins it again.
    plain: bool,
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
    pub(super) fn new(fd: OwnedFd, origin: Origin, now_ns: u64) -> Conn {
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
            plain: true,
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

    /// Whether a receive that the limit has stopped may go on: half of it is free.
    pub(super) fn has_room(&self) -> bool {
        self.inbound_bytes() < CONN_INBOUND_BYTES / 2
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

    /// Whether it is in use, both directions are open and nothing was told: as nearly always. Asked
    /// four times in an echo, which five questions each would make 24 instructions longer.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    /// It closes, has lost a direction, or was told: from now on every call asks in full.
    pub(super) fn no_longer_plain(&mut self) {
        self.plain = false;
    }

    /// Whether the user side may still write.
    #[inline]
    pub(super) fn may_write(&self) -> io::Result<()> {
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
    pub(super) fn write_error(&self) -> Option<io::Error> {
        let errno = match (self.write_errno, self.incoming) {
            (Some(errno), _) | (None, Incoming::Failed(errno)) => errno,
            (None, Incoming::Open | Incoming::Ended) => return None,
        };
        Some(super::errors::write_failed(errno.into(), self.taken))
    }

    /// Ends the request under way. Whether there was one, and it counts as answered.
    pub(super) fn end_request(&mut self) -> bool {
        std::mem::take(&mut self.in_request) && !self.is_dead()
    }

    /// The lane, which it takes from `lanes` if it has none.
    #[inline(always)]
    pub(super) fn lane(&mut self, lanes: &mut Lanes) -> &mut Lane {
        self.lane.get_or_insert_with(|| lanes.take())
    }

    /// Takes a place for bytes that come for the reader, if nothing waits for it, as nearly always.
    #[inline(always)]
    pub(super) fn free_lane(&mut self) -> Option<&mut Lane> {
        let lane = self.lane.as_deref_mut();
        lane.filter(|lane| lane.inbound.is_empty())
    }

    /// Bytes came for the reader. Whether there are as many now as may wait.
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
