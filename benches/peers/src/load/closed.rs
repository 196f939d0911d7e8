//! The closed loop: each connection has so many requests under way, and sends the next when a
//! reply is whole.
//!
//! It is a bare ring too, with less to do than any server: requests are sent from a table, replies
//! compared where the kernel put them, and only failures give a completion for a send. Whether it
//! was the bottleneck all the same is measured, not hoped: see [`Tally::load`].

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use io_uring::cqueue::{buffer_select, more};
use io_uring::{opcode, types::Timespec};

use crate::load::{connect, pattern};
use crate::ring::Ring;
use crate::sys::{self, Usage, Who};

/// The end of a run.
const TIMER: u64 = 1 << 56;

/// A send that failed; the rest is the link's index.
const SEND: u64 = 2 << 56;

/// A write of the heavy stream.
const STREAM: u64 = 3 << 56;

/// Bytes of one write of the heavy stream.
const STREAM_WRITE_BYTES: usize = pattern::LONGEST;

/// The heavy stream never has more under way: what is in flight lies in the kernel's memory.
const STREAM_WINDOW_BYTES: u64 = 1 << 20;

/// What to do to a server.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Connections that send.
    pub active: usize,
    /// Connections that are open besides.
    pub idle: usize,
    /// Bytes of a request, and of its reply.
    pub size: usize,
    /// Requests under way on each connection.
    pub depth: usize,
}

/// What a run gave.
pub struct Tally {
    /// Replies that were whole and right.
    pub requests: u64,
    /// How long the run was.
    pub elapsed: Duration,
    /// From queueing a request to reaping the end of its reply, in ns.
    pub latency: Histogram<u64>,
    /// What the load itself used: if it was idle for a good part of the time, it was not what
    /// limited.
    pub load: Usage,
}

/// One connection.
struct Link {
    /// Blocking; the ring does not mind.
    stream: TcpStream,
    /// Which stream of bytes it has.
    salt: u64,
    /// Bytes queued for sending.
    sent: u64,
    /// Bytes received, all of them right.
    received: u64,
    /// Where the reply under way ends.
    boundary: u64,
    /// When the requests under way were queued, in ns from the start.
    queued_ns: VecDeque<u64>,
}

/// A connection that writes as fast as its bytes come back.
struct Stream {
    /// Blocking; the ring does not mind.
    socket: TcpStream,
    /// Bytes the kernel has taken.
    sent: u64,
    /// Bytes received, all of them right.
    received: u64,
    /// Whether a write is under way: two at once might change places.
    writing: bool,
}

/// The connections and their ring.
pub struct Closed {
    /// The only door to the kernel.
    ring: Ring,
    /// Those that send.
    links: Vec<Link>,
    /// Those that are only there.
    idle: Vec<TcpStream>,
    /// The heavy stream, once begun; its index comes after the last link's.
    stream: Option<Stream>,
    /// Bytes of a request.
    size: usize,
    /// Requests that each connection has under way.
    depth: usize,
    /// Requests that have no whole reply yet, on all connections together.
    under_way: usize,
    /// Whether replies are followed by no more requests.
    ending: bool,
    /// Zero of all stamps.
    epoch: Instant,
    /// Completions of one turn.
    batch: Vec<(u64, i32, u32)>,
    /// The run under way.
    tally: Tally,
}

impl Closed {
    /// Connects, and sends the first requests.
    pub fn connect(port: u16, spec: &Spec) -> io::Result<Closed> {
        assert!(spec.size <= pattern::LONGEST, "the table is not so long");
        // Twice as many buffers as links, so that a turn in which all have a reply finds one each.
        let buffers = (spec.active * 2).next_power_of_two().clamp(64, 2048);
        let bytes = spec.size.next_power_of_two().clamp(1024, 16 * 1024);
        let mut closed = Closed {
            ring: Ring::new(1024, 8192, buffers as u16, bytes)?,
            links: Vec::new(),
            idle: Vec::new(),
            stream: None,
            size: spec.size,
            depth: spec.depth,
            under_way: 0,
            ending: false,
            epoch: Instant::now(),
            batch: Vec::new(),
            tally: Tally::new()?,
        };
        for index in 0..spec.active {
            closed.links.push(Link {
                stream: connect(port, index)?,
                salt: pattern::salt(index),
                sent: 0,
                received: 0,
                boundary: spec.size as u64,
                queued_ns: VecDeque::with_capacity(spec.depth),
            });
        }
        for index in 0..spec.idle {
            closed.idle.push(connect(port, spec.active + index)?);
        }
        for index in 0..spec.active {
            let socket = closed.links[index].stream.as_raw_fd();
            closed.ring.receive(socket, index as u64)?;
            closed.request(index, spec.depth, 0)?;
        }
        Ok(closed)
    }

    /// Begins a heavy stream beside the requests; it counts in no tally.
    pub fn begin_stream(&mut self, port: u16) -> io::Result<()> {
        let index = self.links.len();
        let socket = connect(port, index)?;
        self.ring.receive(socket.as_raw_fd(), index as u64)?;
        self.stream = Some(Stream {
            socket,
            sent: 0,
            received: 0,
            writing: false,
        });
        self.pour()
    }

    /// What came back of the heavy stream up to now.
    pub fn streamed_bytes(&self) -> u64 {
        self.stream.as_ref().map_or(0, |stream| stream.received)
    }

    /// Queues the heavy stream's next write, if there is room for one.
    fn pour(&mut self) -> io::Result<()> {
        let salt = pattern::salt(self.links.len());
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        if stream.writing || stream.sent.saturating_sub(stream.received) >= STREAM_WINDOW_BYTES {
            return Ok(());
        }
        stream.writing = true;
        let bytes = pattern::at(salt, stream.sent, STREAM_WRITE_BYTES);
        let socket = stream.socket.as_raw_fd();
        self.ring.send_and_tell(socket, bytes, STREAM)
    }

    /// A write of the heavy stream is over.
    fn poured(&mut self, result: i32) -> io::Result<()> {
        if result <= 0 {
            return Err(broken("a write of the stream failed", result));
        }
        if let Some(stream) = &mut self.stream {
            stream.writing = false;
            stream.sent += result as u64;
        }
        self.pour()
    }

    /// Sends no more requests, and waits for the replies to those under way.
    pub fn rest(&mut self) -> io::Result<()> {
        self.ending = true;
        while self.under_way > 0 {
            self.turn()?;
        }
        self.ending = false;
        Ok(())
    }

    /// Runs for `length` after a [`rest`](Closed::rest), and rests again, which counts.
    pub fn slice(&mut self, length: Duration) -> io::Result<Tally> {
        let now_ns = self.epoch.elapsed().as_nanos() as u64;
        for index in 0..self.links.len() {
            self.request(index, self.depth, now_ns)?;
        }
        self.measure(length, u64::MAX, Closed::rest)
    }

    /// Runs for `length`, or until `requests` were answered if that is earlier.
    pub fn run(&mut self, length: Duration, requests: u64) -> io::Result<Tally> {
        self.measure(length, requests, |_| Ok(()))
    }

    /// Runs for `length`, or until `requests` were answered, and then does `last`.
    fn measure(
        &mut self,
        length: Duration,
        requests: u64,
        last: fn(&mut Closed) -> io::Result<()>,
    ) -> io::Result<Tally> {
        let limit = Timespec::from(length);
        let timer = opcode::Timeout::new(&raw const limit)
            .build()
            .user_data(TIMER);
        // SAFETY: the kernel reads the timespec when the operation is submitted, by the `enter`
        // below at the latest; `limit` lives to the end of this function.
        unsafe { self.ring.push(&timer)? };
        self.tally = Tally::new()?;
        let load = sys::usage(Who::Thread)?;
        let start = Instant::now();
        let mut over = false;
        while !over && self.tally.requests < requests {
            over = self.turn()?;
        }
        last(self)?;
        let mut tally = std::mem::replace(&mut self.tally, Tally::new()?);
        tally.elapsed = start.elapsed();
        tally.load = sys::usage(Who::Thread)?.since(load);
        Ok(tally)
    }

    /// One system call and what it gave; true when the timer has fired.
    fn turn(&mut self) -> io::Result<bool> {
        self.ring.enter()?;
        let now_ns = self.epoch.elapsed().as_nanos() as u64;
        let mut batch = std::mem::take(&mut self.batch);
        self.ring.reap(&mut batch);
        let mut over = false;
        for (data, result, flags) in batch.drain(..) {
            match data & (0xff << 56) {
                TIMER => over = true,
                STREAM => self.poured(result)?,
                SEND => return Err(broken("a send failed", result)),
                _ => self.received(data as usize, result, flags, now_ns)?,
            }
        }
        self.batch = batch;
        Ok(over)
    }

    /// A part of a reply, or the end of a receive.
    fn received(&mut self, index: usize, result: i32, flags: u32, now_ns: u64) -> io::Result<()> {
        match (result, buffer_select(flags)) {
            (count @ 1.., Some(id)) => self.check(index, id, count as usize, now_ns)?,
            (error, _) if error == -libc::ENOBUFS => {}
            _ => return Err(broken("a connection ended", result)),
        }
        if !more(flags) {
            let link = self.links.get(index).map(|link| &link.stream);
            let stream = self.stream.as_ref().map(|stream| &stream.socket);
            let socket = link.or(stream).expect("one of ours").as_raw_fd();
            self.ring.receive(socket, index as u64)?;
        }
        Ok(())
    }

    /// Compares a chunk, and answers the replies it completes with as many requests.
    fn check(&mut self, index: usize, id: u16, count: usize, now_ns: u64) -> io::Result<()> {
        if index == self.links.len() {
            return self.check_stream(id, count);
        }
        let link = &mut self.links[index];
        if self.ring.buffer(id, count) != pattern::at(link.salt, link.received, count) {
            return Err(io::Error::other("a reply differs from its request"));
        }
        link.received += count as u64;
        self.ring.give_back(id);
        let mut whole = 0;
        while link.received >= link.boundary {
            link.boundary += self.size as u64;
            let queued_ns = link.queued_ns.pop_front().expect("a reply has a request");
            self.tally.latency.saturating_record(now_ns - queued_ns);
            whole += 1;
        }
        self.tally.requests += whole as u64;
        self.under_way -= whole;
        if self.ending {
            return Ok(());
        }
        self.request(index, whole, now_ns)
    }

    /// Compares a chunk of the heavy stream.
    fn check_stream(&mut self, id: u16, count: usize) -> io::Result<()> {
        let salt = pattern::salt(self.links.len());
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        // The echo of a write may be there before the write's own completion.
        if self.ring.buffer(id, count) != pattern::at(salt, stream.received, count) {
            return Err(io::Error::other("the stream came back changed"));
        }
        stream.received += count as u64;
        self.ring.give_back(id);
        self.pour()
    }

    /// Queues `count` requests, as one write where the table is long enough: as a client does that
    /// has several under way.
    fn request(&mut self, index: usize, count: usize, now_ns: u64) -> io::Result<()> {
        let link = &mut self.links[index];
        let socket = link.stream.as_raw_fd();
        self.under_way += count;
        let mut left = count;
        while left > 0 {
            let now = left.min(pattern::LONGEST / self.size);
            let bytes = pattern::at(link.salt, link.sent, now * self.size);
            link.sent += bytes.len() as u64;
            link.queued_ns.extend(std::iter::repeat_n(now_ns, now));
            self.ring.send_static(socket, bytes, SEND | index as u64)?;
            left -= now;
        }
        Ok(())
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        // Ends the receives, so that no operation keeps a socket open when the ring is gone.
        let stream = self.stream.iter().map(|stream| &stream.socket);
        for socket in self.links.iter().map(|link| &link.stream).chain(stream) {
            socket.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Tally {
    /// An empty one.
    fn new() -> io::Result<Tally> {
        let latency = Histogram::new_with_bounds(100, 60_000_000_000, 3);
        Ok(Tally {
            requests: 0,
            elapsed: Duration::ZERO,
            latency: latency.map_err(io::Error::other)?,
            load: Usage::default(),
        })
    }
}

/// The server broke off.
fn broken(what: &str, result: i32) -> io::Error {
    if result < 0 {
        let cause = io::Error::from_raw_os_error(-result);
        return io::Error::new(cause.kind(), format!("{what}: {cause}"));
    }
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}
