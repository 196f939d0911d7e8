//! The two halves of a stream, for two tasks of one core.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;

use crate::net::payload::Payload;
use crate::net::record::{self, NextRequest, Receiving, Record, Sending};

/// The receiving half of a stream, made by [`TcpStream::into_split`](crate::net::TcpStream::into_split).
///
/// Both halves stay on their core; for tasks there they are:
/// ```compile_fail,E0277
/// fn elsewhere(reader: evenfall::net::ReadHalf) {
///     std::thread::spawn(move || drop(reader));
/// }
/// ```
/// ```compile_fail,E0277
/// fn elsewhere(writer: evenfall::net::WriteHalf) {
///     std::thread::spawn(move || drop(writer));
/// }
/// ```
/// ```
/// fn beside(reader: evenfall::net::ReadHalf, writer: evenfall::net::WriteHalf) {
///     drop(evenfall::spawn(async move { drop(reader) }));
///     drop(evenfall::spawn(async move { drop(writer) }));
/// }
/// ```
///
/// # Shutdown
///
/// As for [`TcpStream`](crate::net::TcpStream); the connection closes when both halves are gone.
pub struct ReadHalf {
    /// One of two handles to the record.
    record: Record,
}

/// The sending half of a stream, made by [`TcpStream::into_split`](crate::net::TcpStream::into_split).
///
/// # Shutdown
///
/// As for [`TcpStream`](crate::net::TcpStream); the connection closes when both halves are gone.
pub struct WriteHalf {
    /// One of two handles to the record.
    record: Record,
}

impl ReadHalf {
    /// The half of one of two handles.
    pub(super) fn of(record: Record) -> ReadHalf {
        ReadHalf { record }
    }
}

impl WriteHalf {
    /// The half of one of two handles.
    pub(super) fn of(record: Record) -> WriteHalf {
        WriteHalf { record }
    }
}

impl ReadHalf {
    /// As [`TcpStream::next_request`](crate::net::TcpStream::next_request).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub fn next_request(&mut self) -> NextRequest<'_> {
        self.record.next_request()
    }

    /// As [`TcpStream::draining`](crate::net::TcpStream::draining).
    ///
    /// # Shutdown
    ///
    /// As there.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.record.draining()
    }

    /// As [`TcpStream::recv`](crate::net::TcpStream::recv).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub fn recv(&mut self) -> Receiving<'_> {
        self.record.recv()
    }

    /// As [`TcpStream::read`](crate::net::TcpStream::read).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.record.poll_read(context, buffer)).await
    }

    /// As [`TcpStream::read_exact`](crate::net::TcpStream::read_exact).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.record.read_exact(buffer).await
    }
}

impl WriteHalf {
    /// As [`TcpStream::draining`](crate::net::TcpStream::draining).
    ///
    /// # Shutdown
    ///
    /// As there.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.record.draining()
    }

    /// As [`TcpStream::send`](crate::net::TcpStream::send).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub fn send(&mut self, payload: impl Into<Payload>) -> Sending<'_> {
        self.record.send(payload.into())
    }

    /// As [`TcpStream::write_all`](crate::net::TcpStream::write_all).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.record.write_all(bytes).await
    }

    /// As [`TcpStream::flush`](crate::net::TcpStream::flush).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.record.flush().await
    }

    /// As [`TcpStream::finish`](crate::net::TcpStream::finish).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.record.finish().await
    }
}

record::debug_as!(ReadHalf);
record::debug_as!(WriteHalf);
