//! A counted reference to a connection record, and all that streams and halves do with one.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::context::Local;
use crate::io::asks::RequestNow;
use crate::net::Chunk;
use crate::net::payload::Payload;

/// A counted reference to a record.
pub(super) struct Record {
    /// The core it belongs to.
    pub(super) local: Rc<Local>,
    /// The record's place. It is this connection's for as long as the handle lives.
    pub(super) index: u32,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.local.io.borrow_mut().drop_handle(self.index);
    }
}

/// What streams and halves have in common.
impl Record {
    /// See `TcpStream::next_request`.
    pub(super) fn next_request(&mut self) -> NextRequest<'_> {
        NextRequest {
            record: self,
            waits: false,
        }
    }

    /// See `TcpStream::recv`.
    pub(super) fn recv(&mut self) -> Receiving<'_> {
        Receiving { record: self }
    }

    /// See `TcpStream::poll_recv`.
    #[inline]
    pub(super) fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        self.local.io.borrow_mut().poll_recv(self.index, context)
    }

    /// See `TcpStream::read`.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut io = self.local.io.borrow_mut();
        let mut chunk = ready!(io.poll_recv(self.index, context))?;
        let count = chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&chunk[..count]);
        chunk.advance(count);
        io.put_back(self.index, chunk);
        Poll::Ready(Ok(count))
    }

    /// See `TcpStream::read_exact`.
    pub(super) async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            match poll_fn(|context| self.poll_read(context, rest)).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// See `TcpStream::send`.
    pub(super) fn send(&mut self, payload: Payload) -> Sending<'_> {
        Sending {
            record: self,
            payload,
        }
    }

    /// See `TcpStream::poll_write`.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut io = self.local.io.borrow_mut();
        ready!(io.poll_writable(self.index, context))?;
        Poll::Ready(Ok(io.append(self.index, bytes)))
    }

    /// See `TcpStream::write_all`.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = poll_fn(|context| self.poll_write(context, bytes)).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// See `TcpStream::poll_flush`.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.local.io.borrow_mut().poll_flush(self.index, context)
    }

    /// See `TcpStream::flush`.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// See `TcpStream::poll_finish`.
    pub(super) fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(context))?;
        Poll::Ready(self.local.io.borrow_mut().finish_writing(self.index))
    }

    /// See `TcpStream::finish`.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_finish(context)).await
    }

    /// See `TcpStream::draining`.
    pub(super) fn draining(&self) -> bool {
        self.local.io.borrow().is_asked_to_end(self.index)
    }

    /// Runs `ask` on the socket.
    pub(super) fn with_socket<T>(
        &self,
        ask: impl FnOnce(socket2::SockRef<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.local.io.borrow().with_socket(self.index, ask)
    }
}

/// Waits for the next request: the future of
/// [`TcpStream::next_request`](crate::net::TcpStream::next_request).
#[must_use = "futures do nothing unless they are awaited"]
pub struct NextRequest<'a> {
    /// Whose.
    record: &'a Record,
    /// Whether the record was told that its handler is between requests.
    waits: bool,
}

impl Future for NextRequest<'_> {
    type Output = io::Result<bool>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Record { local, index } = self.record;
        let now = local.io.borrow_mut().next_request_now(*index, context);
        match now {
            RequestNow::Begun => {
                self.waits = false;
                Poll::Ready(Ok(true))
            }
            RequestNow::Waits => {
                self.waits = true;
                Poll::Pending
            }
            RequestNow::Unclear => self.poll_with_care(context),
        }
    }
}

impl NextRequest<'_> {
    /// As `poll`, where it is not one of the two usual cases.
    #[cold]
    fn poll_with_care(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Record { local, index } = self.record;
        let polled = local.io.borrow_mut().poll_next_request(*index, context);
        self.waits = polled.is_pending();
        polled
    }
}

impl Drop for NextRequest<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.waits {
            let Record { local, index } = self.record;
            local.io.borrow_mut().leave_next_request(*index);
        }
    }
}

impl std::fmt::Debug for NextRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NextRequest").finish_non_exhaustive()
    }
}

/// Waits for the next bytes: the future of [`TcpStream::recv`](crate::net::TcpStream::recv).
#[must_use = "futures do nothing unless they are awaited"]
pub struct Receiving<'a> {
    /// Whose.
    record: &'a Record,
}

impl Future for Receiving<'_> {
    type Output = io::Result<Chunk>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Record { local, index } = self.record;
        if let Some(chunk) = local.io.borrow_mut().recv_now(*index) {
            return Poll::Ready(Ok(chunk));
        }
        // Taken apart, so that the usual case need not leave its chunk in memory for the caller too.
        match self.poll_with_care(context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Receiving<'_> {
    /// As `poll`, where nothing is here, or more than one chunk.
    #[inline(never)]
    fn poll_with_care(&self, context: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let Record { local, index } = self.record;
        local.io.borrow_mut().poll_recv(*index, context)
    }
}

impl std::fmt::Debug for Receiving<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiving").finish_non_exhaustive()
    }
}

/// Hands bytes over for sending: the future of [`TcpStream::send`](crate::net::TcpStream::send).
///
/// Written out, for what an `async fn` takes it keeps twice: the future of the echo example's
/// handler had 208 bytes, most of them copies of a payload that is there for one poll.
#[must_use = "futures do nothing unless they are awaited"]
pub struct Sending<'a> {
    /// Whose.
    record: &'a Record,
    /// What is to be sent; nothing once it is queued.
    payload: Payload,
}

impl Future for Sending<'_> {
    type Output = io::Result<()>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Record { local, index } = self.record;
        let sent = {
            let mut io = local.io.borrow_mut();
            let payload = &mut self.payload;
            io.push_now(*index, payload.len(), || payload.take())
        };
        if sent {
            return Poll::Ready(Ok(()));
        }
        self.poll_with_care(context)
    }
}

impl Sending<'_> {
    /// As `poll`, where others wait to be sent, or the payload may have to wait or to be refused.
    fn poll_with_care(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Record { local, index } = self.record;
        let mut io = local.io.borrow_mut();
        ready!(io.poll_writable(*index, context))?;
        io.push(*index, self.payload.take());
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending")
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}

/// An internet address, which is all TCP has.
pub(super) fn address(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    address
        .as_socket()
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Prints a handle under the name of its user.
macro_rules! debug_as {
    ($type:ident) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let peer = self
                    .record
                    .with_socket(|socket| $crate::net::record::address(socket.peer_addr()?));
                f.debug_struct(stringify!($type))
                    .field("peer", &peer.ok())
                    .finish()
            }
        }
    };
}

pub(super) use debug_as;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::conn::Conn;
    use crate::net::TcpStream;
    use crate::task::{Begin, Ended};

    /// Whom a handler's task tells that it has ended.
    struct Nobody;

    impl Ended for Nobody {
        fn ended(&self) {}
    }

    /// The size of the future that `handler` gives, and of that of its task.
    fn sizes<F: Future>(handler: impl FnOnce(TcpStream) -> F) -> (usize, usize) {
        /// What makes the future in a task: a handler, shared, and the stream.
        type Make<F> = (Rc<()>, TcpStream, std::marker::PhantomData<F>);
        drop(handler);
        (size_of::<F>(), size_of::<Begin<Make<F>, F, Nobody>>())
    }

    /// The whole, on the heap of a server, is measured in `tests/it/memory.rs`; this says at once
    /// which part of it has grown.
    #[test]
    fn no_part_of_an_idle_connection_has_grown() {
        let (handler, task) = sizes(|mut stream| async move {
            while stream.next_request().await? {
                let chunk = stream.recv().await?;
                stream.send(chunk).await?;
            }
            io::Result::Ok(())
        });
        assert_eq!(size_of::<TcpStream>(), 16);
        assert_eq!(size_of::<NextRequest<'_>>(), 16);
        assert_eq!(size_of::<Receiving<'_>>(), 8);
        assert_eq!(size_of::<Sending<'_>>(), 40);
        assert_eq!((handler, task), (64, 72), "those of the echo example");
        assert_eq!(size_of::<Conn>(), 120, "the record");
    }
}
