//! The sockets of a script, and how it sees that one was closed.
//!
//! Each has a descriptor of its own, so that it can be closed, and is known by its number. It is
//! nobody's socket: a peer is an entry here.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Socket as Descriptor, Type};

use super::kernel::Kernel;
use super::ops::Op;
use super::peer::Peer;

/// A connection, or one that is to be.
#[derive(Debug)]
pub(super) struct Socket {
    /// Its descriptor's number, which may be another file's after it is closed.
    pub(super) fd: RawFd,
    /// Which file that was.
    inode: u64,
    /// Set when the descriptor was found closed: the number may be another file's.
    stale: bool,
    /// The same, noticed at moments that do not depend on numbers, for the schedule must not.
    pub(super) closed: bool,
    /// Who is at the other end.
    pub(super) peer: Peer,
    /// Bytes that came from there.
    pub(super) arrived: u64,
    /// Of those, the ones that were received.
    pub(super) read: u64,
    /// Whether the peer's FIN is here, behind all bytes.
    pub(super) fin_came: bool,
    /// What broke the connection, until a receive has said so.
    pub(super) broken_by: Option<i32>,
    /// Whether it is broken, by the peer or by ourselves: nothing is sent or comes any more.
    pub(super) dead: bool,
    /// Whether it was ourselves.
    pub(super) reset: bool,
    /// What the kernel took for sending.
    pub(super) sent: Vec<u8>,
    /// How much of it the peer's kernel has acknowledged.
    pub(super) acked: u64,
    /// Whether our FIN is sent.
    pub(super) fin_sent: bool,
    /// Whether our FIN is acknowledged.
    pub(super) fin_acked: bool,
    /// Whether something went wrong with a send: then not all may be taken that was handed over.
    pub(super) failed: bool,
    /// Whether the peer takes all and ends in order the moment it is asked how far the transfer is.
    pub(super) ends_when_asked: bool,
    /// Whether its last receive found no buffer.
    pub(super) starved: bool,
    /// Whether its last receive ended with bytes, and more bytes were there.
    pub(super) cut_short: bool,
    /// The round trip.
    pub(super) round_trip: Duration,
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listening {
    /// As a socket's.
    pub(super) fd: RawFd,
    /// As a socket's.
    inode: u64,
    /// As a socket's.
    stale: bool,
    /// As a socket's.
    pub(super) closed: bool,
    /// Whether an accept was told that it will never work.
    pub(super) broken: bool,
    /// Who waits to be accepted.
    pub(super) backlog: VecDeque<Peer>,
}

impl Listening {
    /// Whether it was found closed.
    pub(super) fn stale(&self) -> bool {
        self.stale
    }
}

impl Socket {
    /// The socket at `fd`, with `peer` at its other end.
    fn new(fd: RawFd, peer: Peer, round_trip: Duration) -> Socket {
        Socket {
            fd,
            inode: inode(fd).unwrap_or(0),
            stale: false,
            closed: false,
            peer,
            arrived: 0,
            read: 0,
            fin_came: false,
            broken_by: None,
            dead: false,
            reset: false,
            sent: Vec::new(),
            acked: 0,
            fin_sent: false,
            fin_acked: false,
            failed: false,
            ends_when_asked: false,
            starved: false,
            cut_short: false,
            round_trip,
        }
    }

    /// Bytes that came and were not received.
    pub(super) fn unread(&self) -> u64 {
        self.arrived - self.read
    }

    /// Bytes that were taken and are not acknowledged, a FIN counted as one.
    pub(super) fn unacked(&self) -> u64 {
        let fin = self.fin_sent && !self.fin_acked;
        self.sent.len() as u64 - self.acked + u64::from(fin)
    }

    /// Whether it was closed.
    fn is_gone(&self) -> bool {
        self.stale || inode(self.fd) != Some(self.inode)
    }
}

/// Which file is at `fd`; none if it is closed.
fn inode(fd: RawFd) -> Option<u64> {
    let mut about = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `about` is room for one stat, and fstat(2) keeps no reference.
    let result = unsafe { libc::fstat(fd, about.as_mut_ptr()) };
    // SAFETY: zeroed at first, and every bit pattern of this plain struct is a value.
    let about = unsafe { about.assume_init() };
    (result == 0).then_some(about.st_ino)
}

impl Kernel {
    /// The open socket whose descriptor has that number.
    pub(super) fn socket_at(&self, fd: RawFd) -> Option<usize> {
        let is_it = |socket: &Socket| socket.fd == fd && !socket.stale;
        self.sockets.iter().rposition(is_it)
    }

    /// The open listener whose descriptor has that number.
    pub(super) fn listener_at(&self, fd: RawFd) -> Option<usize> {
        let is_it = |listener: &Listening| listener.fd == fd && !listener.stale;
        self.listeners.iter().rposition(is_it)
    }

    /// Takes a descriptor of the driver's for a socket, to be connected to `peer`.
    pub(super) fn adopt_socket(&mut self, fd: RawFd, peer: Peer) -> usize {
        self.look_at(fd);
        let round_trip = Duration::from_micros(self.dice.below(2_000));
        self.sockets.push(Socket::new(fd, peer, round_trip));
        self.sockets.len() - 1
    }

    /// Takes a descriptor of the driver's for a listener's.
    pub(super) fn adopt_listener(&mut self, fd: RawFd) -> usize {
        self.look_at(fd);
        self.listeners.push(Listening {
            fd,
            inode: inode(fd).unwrap_or(0),
            stale: false,
            closed: false,
            broken: false,
            backlog: VecDeque::new(),
        });
        self.listeners.len() - 1
    }

    /// A socket for somebody from the backlog.
    pub(super) fn accept_one(&mut self, listener: usize) -> Option<OwnedFd> {
        let peer = self.listeners[listener].backlog.pop_front()?;
        let socket = Descriptor::new(Domain::UNIX, Type::STREAM, None).expect("a descriptor");
        let fd = OwnedFd::from(socket);
        self.adopt_socket(fd.as_raw_fd(), peer);
        self.accepted += 1;
        Some(fd)
    }

    /// As `accept_one`, given away by its number.
    pub(super) fn accept_raw(&mut self, listener: usize) -> Option<RawFd> {
        self.accept_one(listener).map(IntoRawFd::into_raw_fd)
    }

    /// Finds out which descriptors were closed.
    pub(super) fn look_for_closed(&mut self) {
        let sockets = self.sockets.iter().filter(|socket| !socket.closed);
        let listeners = self.listeners.iter().filter(|listener| !listener.closed);
        let numbers = sockets.map(|s| s.fd).chain(listeners.map(|l| l.fd));
        for fd in numbers.collect::<Vec<RawFd>>() {
            self.look_at(fd);
        }
        for socket in &mut self.sockets {
            socket.closed = socket.stale;
        }
        for listener in &mut self.listeners {
            listener.closed = listener.stale;
        }
    }

    /// Finds out whether what had this descriptor was closed. It may not be while an operation
    /// names it.
    pub(super) fn look_at(&mut self, fd: RawFd) {
        let file = inode(fd);
        let (mut socket, mut listener) = (None, None);
        for (at, known) in self.sockets.iter_mut().enumerate() {
            if known.fd == fd && !known.stale && Some(known.inode) != file {
                known.stale = true;
                socket = Some(at);
            }
        }
        for (at, known) in self.listeners.iter_mut().enumerate() {
            if known.fd == fd && !known.stale && Some(known.inode) != file {
                known.stale = true;
                listener = Some(at);
            }
        }
        let names = |op: &Op| {
            let on_socket = op.socket.is_some() && op.socket == socket;
            on_socket || (op.listener.is_some() && op.listener == listener)
        };
        if self.ops.iter().any(names) {
            let what = format!("descriptor {fd} was closed with an operation on it");
            self.breaks(what);
        }
    }

    /// The descriptor of an operation that ends is still open.
    pub(super) fn look_whether_open(&mut self, op: &Op) {
        let socket = op.socket.map(|at| &self.sockets[at]);
        if socket.is_some_and(Socket::is_gone) {
            let what = format!("the descriptor of {:?} was closed before its end", op.sqe);
            self.breaks(what);
        }
    }
}
