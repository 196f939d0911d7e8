//! TCP streams: handles to connection records.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::TcpKeepalive;

use crate::context::{self, Local};
use crate::io::tally::End;
use crate::net::payload::Payload;
use crate::net::record::{self, NextRequest, Receiving, Record, Sending, address};
use crate::net::split::{ReadHalf, WriteHalf};
use crate::net::{Chunk, connect};
use crate::time;

/// A TCP connection.
///
/// The record behind it receives by itself, in the background, as much as one connection may hold
/// (128 KiB; on kernels older than Linux 6.17, which are asked for one buffer at a time, half of it),
/// and sends what was handed over. So `recv` looks into a queue and `send` appends to
/// one; both wait only when the queue is empty or full.
///
/// Dropping the stream closes the connection in order; nothing that was written is lost.
///
/// A stream stays on its core:
/// ```compile_fail,E0277
/// fn elsewhere(stream: evenfall::net::TcpStream) {
///     std::thread::spawn(move || drop(stream));
/// }
/// ```
/// What is known of it may leave:
/// ```
/// fn elsewhere(stream: evenfall::net::TcpStream) {
///     let peer = stream.peer_addr();
///     std::thread::spawn(move || drop(peer));
/// }
/// ```
/// One at a time receives, and one at a time writes:
/// ```compile_fail,E0499
/// async fn twice(mut stream: evenfall::net::TcpStream) {
///     let first = stream.recv();
///     let second = stream.recv();
///     let _ = (first.await, second.await);
/// }
/// ```
/// ```compile_fail,E0499
/// async fn twice(mut stream: evenfall::net::TcpStream) {
///     let first = stream.write_all(b"first");
///     let second = stream.write_all(b"second");
///     let _ = (first.await, second.await);
/// }
/// ```
/// and what is received into is looked at when that is over:
/// ```compile_fail,E0502
/// async fn early(mut stream: evenfall::net::TcpStream, mut buffer: Vec<u8>) {
///     let reading = stream.read(&mut buffer);
///     let first = buffer[0];
///     let _ = (reading.await, first);
/// }
/// ```
/// One after the other is right, and so are the two halves, each with its own:
/// ```
/// async fn in_turn(mut stream: evenfall::net::TcpStream, mut buffer: Vec<u8>) {
///     let first = stream.recv();
///     let first = first.await;
///     let second = stream.recv();
///     let second = second.await;
///     let reading = stream.read(&mut buffer);
///     let _ = (first, second, reading.await, buffer[0]);
/// }
///
/// async fn side_by_side(stream: evenfall::net::TcpStream) {
///     let (mut reader, mut writer) = stream.into_split();
///     let first = reader.recv();
///     let second = writer.write_all(b"second");
///     let _ = (first.await, second.await);
/// }
/// ```
///
/// # Shutdown
///
/// A connection that a listener accepted is asked to end when Draining begins:
/// [`next_request`](TcpStream::next_request) gives `false` once nothing of a next request is
/// here, and a stream whose handler never calls it gets the end of the stream after `idle_grace`
/// of silence. A handler that streams asks [`draining`](TcpStream::draining). Whoever does call
/// `next_request` is never cut in the middle of a request before the deadline.
/// A connection made by [`connect`](TcpStream::connect) lives until it is dropped, or Closing.
/// At the drain deadline accepted connections are reset, and counted with what they lost.
pub struct TcpStream {
    /// The one handle to the record.
    record: Record,
}

impl TcpStream {
    /// The stream of a record whose first handle was just taken.
    pub(super) fn of(local: Rc<Local>, index: u32) -> TcpStream {
        TcpStream {
            record: Record { local, index },
        }
    }

    /// Connects to the first of `address`'s addresses that answers.
    ///
    /// A host name is looked up by the system's resolver, which blocks the core; give an address
    /// where that matters.
    ///
    /// # Errors
    ///
    /// The last address's error.
    ///
    /// # Panics
    ///
    /// Outside of a core.
    ///
    /// # Cancellation
    ///
    /// Dropping it cancels the connect; the socket is closed when the kernel has let go of it.
    ///
    /// # Shutdown
    ///
    /// Works in every phase up to and including the hooks; refused in Closing.
    pub async fn connect(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
        let local = context::here();
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
        for candidate in address.to_socket_addrs()? {
            match connect::connect(&local, candidate).await {
                Ok(index) => return Ok(TcpStream::of(local, index)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// As [`connect`](TcpStream::connect), for `limit` at most over all addresses.
    ///
    /// # Errors
    ///
    /// As for `connect`, and [`TimedOut`](io::ErrorKind::TimedOut).
    ///
    /// # Panics
    ///
    /// Outside of a core.
    ///
    /// # Cancellation
    ///
    /// As for `connect`.
    pub async fn connect_timeout(
        address: impl ToSocketAddrs,
        limit: Duration,
    ) -> io::Result<TcpStream> {
        time::timeout(limit, TcpStream::connect(address)).await?
    }

    /// Waits for the next request: `true` as soon as a byte of it is here, `false` at the end of
    /// the stream, or when a stop drains and nothing has come.
    ///
    /// Call it between requests, and only there: it is what tells the runtime that the connection
    /// may end without cutting anything in two.
    ///
    /// # Errors
    ///
    /// When the connection is broken: the errno, or [`WriteError`](super::WriteError) if it broke
    /// on something written earlier.
    ///
    /// # Cancellation
    ///
    /// Dropping it has no effect; nothing is lost.
    ///
    /// # Shutdown
    ///
    /// In Draining `false`, after everything that had arrived was delivered.
    pub fn next_request(&mut self) -> NextRequest<'_> {
        self.record.next_request()
    }

    /// The next bytes, in the buffer the kernel put them into; an empty chunk at the end of the
    /// stream.
    ///
    /// # Errors
    ///
    /// When the connection is broken; what came before was given out first.
    ///
    /// # Cancellation
    ///
    /// Dropping it loses no byte.
    ///
    /// # Shutdown
    ///
    /// Goes on through Draining. The end of the stream comes early only for a connection whose
    /// handler never calls [`next_request`](TcpStream::next_request).
    pub fn recv(&mut self) -> Receiving<'_> {
        self.record.recv()
    }

    /// Copies bytes into `buffer` and says how many; 0 at the end of the stream (or if `buffer`
    /// is empty).
    ///
    /// # Errors
    ///
    /// As for [`recv`](TcpStream::recv).
    ///
    /// # Cancellation
    ///
    /// Dropping it loses no byte.
    ///
    /// # Shutdown
    ///
    /// As for `recv`.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.record.poll_read(context, buffer)).await
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    ///
    /// As for [`recv`](TcpStream::recv), and [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
    ///
    /// # Cancellation
    ///
    /// Dropping it loses the bytes that are in `buffer` already.
    ///
    /// # Shutdown
    ///
    /// As for `recv`: a request under way is waited for until the drain deadline.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.record.read_exact(buffer).await
    }

    /// Hands bytes over for sending, without copying them: a [`Chunk`] leaves from the buffer it
    /// came in. Waits while more than 256 KiB are queued.
    ///
    /// # Errors
    ///
    /// When an earlier write has failed: [`WriteError`](super::WriteError).
    ///
    /// # Cancellation
    ///
    /// Dropped while it waits, nothing was queued. Once it is ready the bytes are the
    /// connection's, and are sent whatever happens to the task.
    ///
    /// # Shutdown
    ///
    /// Goes on through Draining and the hooks.
    pub fn send(&mut self, payload: impl Into<Payload>) -> Sending<'_> {
        self.record.send(payload.into())
    }

    /// Copies `bytes` into the connection's queue. Waits while more than 256 KiB are queued.
    ///
    /// # Errors
    ///
    /// As for [`send`](TcpStream::send).
    ///
    /// # Cancellation
    ///
    /// Dropped while it waits, a prefix of `bytes` may have been queued, and is sent.
    ///
    /// # Shutdown
    ///
    /// As for `send`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.record.write_all(bytes).await
    }

    /// Waits until the kernel has taken all that was queued. That is not delivery:
    /// [`close`](TcpStream::close) waits for that.
    ///
    /// # Errors
    ///
    /// As for [`send`](TcpStream::send).
    ///
    /// # Cancellation
    ///
    /// Dropping it has no effect: the bytes leave by themselves.
    ///
    /// # Shutdown
    ///
    /// As for `send`.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.record.flush().await
    }

    /// Ends the sending side: flushes and sends the FIN. Receiving goes on.
    ///
    /// # Errors
    ///
    /// As for [`send`](TcpStream::send).
    ///
    /// # Cancellation
    ///
    /// Dropped while it flushes, the FIN is not sent yet.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.record.finish().await
    }

    /// Closes in order and waits for it: Ok only when the peer's kernel has acknowledged every
    /// byte.
    ///
    /// # Errors
    ///
    /// When something was lost: what broke the connection, or
    /// [`TimedOut`](io::ErrorKind::TimedOut) when the peer took nothing for the time of `linger`.
    ///
    /// # Cancellation
    ///
    /// Dropping it changes nothing but that nobody hears the result: the connection closes by
    /// itself.
    ///
    /// # Shutdown
    ///
    /// Goes on in every phase, until the deadline.
    pub async fn close(self) -> io::Result<()> {
        let Record { local, index } = &self.record;
        local.io.borrow_mut().begin_close(*index);
        poll_fn(|context| local.io.borrow_mut().poll_closed(*index, context)).await
    }

    /// Resets the connection: what is queued is dropped and the peer gets an RST.
    pub fn abort(self) {
        let Record { local, index } = &self.record;
        local.io.borrow_mut().cut(*index, End::Aborted);
    }

    /// Two halves that can be used by two tasks of this core. The connection closes when both are
    /// gone; dropping one half alone ends nothing.
    #[must_use = "dropping both halves closes the connection"]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        let first = self.record;
        first.local.io.borrow_mut().add_handle(first.index);
        let second = Record {
            local: first.local.clone(),
            index: first.index,
        };
        (ReadHalf::of(first), WriteHalf::of(second))
    }

    /// Sends small writes at once (true, the default here), or gathers them (Nagle).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.record
            .with_socket(|socket| socket.set_tcp_nodelay(nodelay))
    }

    /// Probes a silent peer after `idle`, and every tenth of it (at least 1 s) from then on;
    /// `None` switches it off, which is the default.
    ///
    /// # Errors
    ///
    /// The kernel's; it counts in whole seconds, from 1 to 32767.
    pub fn set_keepalive(&self, idle: Option<Duration>) -> io::Result<()> {
        self.record.with_socket(|socket| match idle {
            None => socket.set_keepalive(false),
            Some(idle) => {
                let every = (idle / 10).max(Duration::from_secs(1));
                let keepalive = TcpKeepalive::new().with_time(idle).with_interval(every);
                socket.set_tcp_keepalive(&keepalive)
            }
        })
    }

    /// The peer's address.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.record
            .with_socket(|socket| address(socket.peer_addr()?))
    }

    /// This side's address.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.record
            .with_socket(|socket| address(socket.local_addr()?))
    }

    /// Whether the stop asks this connection to end. A handler in the middle of a long answer, or of
    /// a stream that has no end, asks this between two pieces and then ends in order; to one that
    /// serves requests [`next_request`](TcpStream::next_request) says the same at the right moment.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use evenfall::net::TcpStream;
    /// # use std::time::Duration;
    /// async fn ticks(mut stream: TcpStream) -> std::io::Result<()> {
    ///     while !stream.draining() {
    ///         stream.write_all(b"tick\n").await?;
    ///         evenfall::time::sleep(Duration::from_millis(100)).await;
    ///     }
    ///     stream.write_all(b"bye\n").await
    /// }
    /// ```
    ///
    /// # Shutdown
    ///
    /// False in Running and Notice; from Draining on true for a connection that a listener
    /// accepted, and where that has a policy that
    /// [spreads](crate::net::DrainPolicy::spread) once its turn has come. Always false for one made
    /// by [`connect`](TcpStream::connect), which the stop asks nothing of. It only says so: nothing
    /// that is written is refused, and the connection has until the drain deadline. Whoever waits
    /// for long between two pieces waits for [`Handle::phases`](crate::Handle::phases) as well, for
    /// nobody is woken by this.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.record.draining()
    }

    /// Bytes of this connection that the kernel has taken for sending.
    #[must_use]
    pub fn bytes_taken(&self) -> u64 {
        self.record.local.io.borrow().taken(self.record.index)
    }

    /// The poll form of [`recv`](TcpStream::recv), for traits built on it.
    ///
    /// # Errors
    ///
    /// As for `recv`.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        self.record.poll_recv(context)
    }

    /// The poll form of [`read`](TcpStream::read), for traits built on it.
    ///
    /// # Errors
    ///
    /// As for `read`.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.record.poll_read(context, buffer)
    }

    /// Copies as much of `bytes` into the queue as there is room for, and says how much; the poll
    /// form of one step of [`write_all`](TcpStream::write_all), for traits built on it.
    ///
    /// # Errors
    ///
    /// As for `write_all`.
    pub fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.record.poll_write(context, bytes)
    }

    /// The poll form of [`flush`](TcpStream::flush), for traits built on it.
    ///
    /// # Errors
    ///
    /// As for `flush`.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.record.poll_flush(context)
    }

    /// The poll form of [`finish`](TcpStream::finish), for traits built on it.
    ///
    /// # Errors
    ///
    /// As for `finish`.
    pub fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.record.poll_finish(context)
    }
}

record::debug_as!(TcpStream);
