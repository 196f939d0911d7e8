//! One difficult connection: it writes and reads as its words say, each byte
//! known and counted at this side.
//!
//! The requests are those of `framed`. It says `sent` when the server's kernel
//! has acknowledged all that was written at the start, `part N` before each
//! pause of an upload, `heard` after so many bytes, and `done` at its end. With
//! `deaf` it takes nothing before it is told to, on standard input: `take N`
//! (bytes; it says `took`), `pour N` (writes that many more bytes; it says
//! `poured`), `read` (to the end).
#![forbid(unsafe_code)]

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::args::Args;
use crate::process::{WATCHDOG, say};
use crate::sys::{self, Epoll};
use crate::wire::{Request, Table, body_at};

/// What one difficult client does.
#[derive(Debug)]
struct Habits {
    /// `requests`: written at once, one behind the other.
    requests: u32,
    /// `size`: bytes of body in each.
    size: u32,
    /// `answer`: bytes of body in each answer.
    answer: u32,
    /// `delay`: milliseconds the server waits before each answer.
    delay_ms: u32,
    /// `half_close`: ends its side behind the requests.
    half_close: bool,
    /// `parts`: of so many equal parts is the body of an upload.
    parts: u32,
    /// `pause`: milliseconds between two of them.
    pause: Duration,
    /// `gives_up`: writes the first part and no other.
    gives_up: bool,
    /// `deaf`: takes nothing before it is told to.
    deaf: bool,
    /// `pours`: bytes written when the server's end of stream is here.
    pours: usize,
    /// `read_bytes`: taken at a time.
    read_bytes: usize,
    /// `read_every`: milliseconds between two readings.
    read_every: Duration,
    /// `heard`: bytes received after which it says so.
    heard: usize,
}

/// The connection, and what has come on it.
struct Single {
    habits: Habits,
    socket: Socket,
    /// The answers that are due, one behind the other.
    expected: Vec<u8>,
    /// Everything that came.
    received: Vec<u8>,
    /// Bytes that a write was refused for, once the connection was over.
    refused: usize,
}

/// Plays the part to its end.
pub(crate) fn single(mut args: Args) -> ExitCode {
    let address: SocketAddr = args.take("addr").expect("addr is where the server listens");
    let receive_buffer: Option<usize> = args.take("receive_buffer");
    let segment: Option<u32> = args.take("segment");
    let habits = Habits {
        requests: args.number("requests", 1),
        size: args.number("size", 64),
        answer: args.number("answer", 64),
        delay_ms: args.number("delay", 0),
        half_close: args.number("half_close", false),
        parts: args.number("parts", 1),
        pause: args.millis("pause").unwrap_or_default(),
        gives_up: args.number("gives_up", false),
        deaf: args.number("deaf", false),
        pours: args.number("pours", 0),
        read_bytes: args.number("read_bytes", 64 * 1024),
        read_every: args.millis("read_every").unwrap_or_default(),
        heard: args.number("heard", usize::MAX),
    };
    args.finish();
    let socket = connect(address, receive_buffer, segment).expect("the server accepts");
    let mut single = Single {
        habits,
        socket,
        expected: Vec::new(),
        received: Vec::new(),
        refused: 0,
    };
    single.ask().expect("the server reads");
    if single.habits.deaf {
        single.obey();
    }
    if single.habits.pours > 0 {
        single.await_end().expect("epoll works");
        single.pour(single.habits.pours);
    }
    let end = single.read_on();
    single.conclude(end);
    ExitCode::SUCCESS
}

/// A blocking socket. A small `segment` lets the window of a small buffer open
/// in small steps; with the loopback's own it would be too small to open.
fn connect(
    address: SocketAddr,
    receive_buffer: Option<usize>,
    segment: Option<u32>,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = segment {
        socket.set_tcp_mss(bytes)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(WATCHDOG))?;
    socket.set_write_timeout(Some(WATCHDOG))?;
    socket.connect(&address.into())?;
    Ok(socket)
}

impl Single {
    /// Writes all requests, or the one upload part by part.
    fn ask(&mut self) -> io::Result<()> {
        let table = Table::new();
        let mut out = Vec::new();
        for number in 0..self.habits.requests {
            let request = Request {
                size: self.habits.size,
                answer: self.habits.answer,
                delay_ms: self.habits.delay_ms,
                number,
            };
            let mut body = Vec::new();
            let at = body_at(0, number.into());
            table.write(&mut body, at, request.size as usize);
            self.expected.extend(request.answer(&body));
            out.extend(request.header());
            out.extend(body);
        }
        let part_bytes = out.len().div_ceil(self.habits.parts as usize);
        for (number, part) in out.chunks(part_bytes).enumerate() {
            if number > 0 {
                say(&format!("part {number}"));
                if self.habits.gives_up {
                    return Ok(());
                }
                // The pause is what this client is difficult by.
                std::thread::sleep(self.habits.pause);
            }
            (&self.socket).write_all(part)?;
        }
        if self.habits.half_close {
            self.socket.shutdown(Shutdown::Write)?;
        }
        self.await_acknowledged()?;
        say("sent");
        Ok(())
    }

    /// The kernel has no event for "all acknowledged".
    fn await_acknowledged(&self) -> io::Result<()> {
        while sys::unacknowledged(self.socket.as_raw_fd())? > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Does what standard input says, up to `read`.
    fn obey(&mut self) {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let (command, number) = line.split_once(' ').unwrap_or((&line, ""));
            match (command, number.parse()) {
                ("read", _) => return,
                ("take", Ok(bytes)) => {
                    self.take(bytes);
                    say("took");
                }
                ("pour", Ok(bytes)) => {
                    self.pour(bytes);
                    say("poured");
                }
                _ => panic!("what is {line:?}?"),
            }
        }
    }

    fn take(&mut self, bytes: usize) {
        let mut room = vec![0; bytes];
        (&self.socket)
            .read_exact(&mut room)
            .expect("it is here, or comes");
        self.received.extend(room);
    }

    /// Waits for the server's end of stream, and takes none of what is before.
    fn await_end(&self) -> io::Result<()> {
        let epoll = Epoll::new()?;
        epoll.add(self.socket.as_raw_fd(), 0, libc::EPOLLRDHUP as u32)?;
        let mut ready = Vec::new();
        while ready.is_empty() {
            epoll.wait(Some(WATCHDOG), &mut ready)?;
        }
        Ok(())
    }

    /// Writes bytes that nobody has asked for; whoever has closed refuses them.
    fn pour(&mut self, bytes: usize) {
        let block = [0xEE; 64 * 1024];
        let mut left = bytes;
        while left > 0 {
            match (&self.socket).write(&block[..left.min(block.len())]) {
                Ok(written) => left -= written,
                Err(_) => break,
            }
        }
        self.refused += left;
    }

    /// Reads to the end, and says which it was.
    fn read_on(&mut self) -> &'static str {
        let mut room = vec![0; self.habits.read_bytes];
        loop {
            match (&self.socket).read(&mut room) {
                Ok(0) => return "fin",
                Ok(bytes) => self.hear(&room[..bytes]),
                Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return "reset",
                Err(error) => panic!("neither an end nor bytes: {error}"),
            }
            // A slow reader is one that lets time go by.
            std::thread::sleep(self.habits.read_every);
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let before = self.received.len();
        self.received.extend(bytes);
        if (before..self.received.len()).contains(&(self.habits.heard - 1)) {
            say("heard");
        }
    }

    fn conclude(self, end: &str) {
        let due = self.expected.get(..self.received.len());
        let done = json!({
            "end": end,
            "received": self.received.len(),
            "due": self.expected.len(),
            "right": due == Some(&self.received[..]),
            "refused": self.refused,
        });
        say(&format!("done {done}"));
    }
}
