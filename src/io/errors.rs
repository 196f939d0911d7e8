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

/// The error of a connection that is asked for too late.
pub(crate) fn refused(phase: Phase, left: Duration) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        format!(
            "no connection is made any more: the core is at the end of its stop (phase {phase}, \
             {left:?} left); connect before Closing, in a hook at the latest"
        ),
    )
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
