//! The errors that do not come straight from the kernel.

#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use crate::phase::Phase;

/// A write that failed after it was accepted into the connection's queue.
///
/// It stands inside the [`io::Error`] that the connection's next call returns
/// ([`io::Error::get_ref`]): the kind is that of the errno, and this says how much went out.
#[derive(Debug)]
pub struct WriteError {
    /// What the kernel said.
    errno: i32,
    /// Bytes the kernel took before it.
    taken: u64,
}

impl WriteError {
    /// The kernel's errno.
    #[must_use]
    pub fn raw_os_error(&self) -> i32 {
        self.errno
    }

    /// How many bytes of this connection the kernel had taken for sending before the failure.
    /// Taken is not delivered: the peer has received at most this much.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let error = io::Error::from_raw_os_error(self.errno);
        write!(
            f,
            "{error}; the kernel had taken {} bytes before it",
            self.taken
        )
    }
}

impl std::error::Error for WriteError {}

/// What an errno says of the accept that ended by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nobody waits in the backlog.
    Empty,
    /// No descriptor or no memory is left: whoever waits is still in the backlog.
    OutOf,
    /// The listening socket is none, or none that listens: no waiting mends that.
    Listener,
    /// One connection's: broken before it could be taken, or a network error that was pending on it
    /// (accept(2) names some, and advises to go on), or refused by a policy. A policy refuses them
    /// all, and takes none out of the backlog: so many in a row are no accident.
    Connection,
}

impl Refusal {
    /// See the variants. An errno that is not known here costs a connection, never a listener.
    pub(super) fn of(errno: i32) -> Refusal {
        match errno {
            libc::EAGAIN => Refusal::Empty,
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => Refusal::OutOf,
            libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT => {
                Refusal::Listener
            }
            _ => Refusal::Connection,
        }
    }
}

/// The error of a connection whose earlier write failed with `errno` after `taken` bytes.
pub(crate) fn write_failed(errno: i32, taken: u64) -> io::Error {
    let kind = io::Error::from_raw_os_error(errno).kind();
    io::Error::new(kind, WriteError { errno, taken })
}

/// The error of a connection whose write side, or core, is closed.
pub(crate) fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the connection is closed: its write side was finished, it was cut, or its core has ended",
    )
}

/// A connection or a listener that was asked for too late: the stop takes nothing new any more.
///
/// It stands inside the [`io::Error`] that [`TcpStream::connect`](crate::net::TcpStream::connect)
/// and [`TcpListener::accept`](crate::net::TcpListener::accept) return ([`io::Error::get_ref`]).
/// The error of [`TcpListener::bind`](crate::net::TcpListener::bind) has such an [`io::Error`] as
/// its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLate {
    /// What is not done any more, and the remedy.
    what: Late,
    /// Where the stop was.
    phase: Phase,
    /// How long it had.
    left: Duration,
}

/// What came too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// A connect.
    Connect,
    /// A listener.
    Listen,
}

impl TooLate {
    /// The refusal of `what` by a stop in `phase` with so much time left.
    pub(crate) fn new(what: Late, phase: Phase, left: Duration) -> TooLate {
        TooLate { what, phase, left }
    }

    /// The phase the stop was in.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How long the stop had, at most, when it refused.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.left
    }
}

impl std::fmt::Display for TooLate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TooLate { what, phase, left } = self;
        let (refused, remedy) = match what {
            Late::Connect => (
                "no connection is made any more",
                "connect before Closing, in a hook at the latest",
            ),
            Late::Listen => (
                "nobody listens any more",
                "take listeners before the drain is over",
            ),
        };
        write!(
            f,
            "{refused}: the core is at the end of its stop (phase {phase}, {left:?} left); {remedy}"
        )
    }
}

impl std::error::Error for TooLate {}

impl From<TooLate> for io::Error {
    fn from(late: TooLate) -> io::Error {
        io::Error::new(io::ErrorKind::NotConnected, late)
    }
}

/// The error of a close that ended before the peer had acknowledged everything.
pub(crate) fn unacknowledged(bytes: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!(
            "closed without the peer's acknowledgement of {bytes} bytes: the peer stopped \
             reading for longer than `linger`, or the stop's deadline came"
        ),
    )
}
