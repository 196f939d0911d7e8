//! A crowd that watches a stop: idle connections that wait for their FIN, busy ones that go on
//! asking, and the process whose end is waited for. It closes at once what has ended, as nearly all
//! peers do.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::load::{connect, pattern};
use crate::sys::{self, Epoll, room_for_events};

/// The token of the process; connections have their index.
const PROCESS: u64 = u64::MAX;

/// Bytes of a busy connection's request.
pub const REQUEST_BYTES: usize = 64;

/// One connection.
struct Member {
    /// Non-blocking; gone when it has ended.
    stream: Option<TcpStream>,
    /// Whether it asks again after each reply.
    busy: bool,
    /// Bytes sent.
    sent: u64,
    /// Bytes received.
    received: u64,
    /// When a busy one asked last.
    asked: Instant,
}

/// The connections.
pub struct Crowd {
    /// Watches all of them.
    epoll: Epoll,
    /// By token.
    members: Vec<Member>,
    /// How many have not ended.
    open: usize,
    /// What happened.
    seen: Seen,
}

/// What the clients saw of a stop; times from the trigger.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// When SIGTERM was about to be sent, on the clock that all processes share.
    pub trigger_ns: u64,
    /// The last connection's end.
    pub last_end: Duration,
    /// The process's end; none if it was not there in time.
    pub exit: Option<Duration>,
    /// Ends by FIN.
    pub finished: u64,
    /// Ends by RST.
    pub reset: u64,
    /// Connections that ended within a reply.
    pub torn: u64,
    /// Connections that ended with a request that was sent before the trigger and got no reply.
    /// One that was sent after it may cross the FIN, and is nobody's fault.
    pub lost: u64,
    /// Connections that had not ended in time.
    pub left: u64,
    /// The longest that a busy connection waited for a reply that ended after the trigger: an upper
    /// bound of the longest turn while the connection was served.
    pub longest_wait: Duration,
}

impl Crowd {
    /// Connects, and exchanges one request on each, so that all are accepted.
    pub fn connect(port: u16, idle: usize, busy: usize) -> io::Result<Crowd> {
        let mut crowd = Crowd {
            epoll: Epoll::new()?,
            members: Vec::new(),
            open: idle + busy,
            seen: Seen::default(),
        };
        for index in 0..idle + busy {
            let mut stream = connect(port, index)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let salt = pattern::salt(index);
            stream.write_all(pattern::at(salt, 0, REQUEST_BYTES))?;
            let mut reply = [0; REQUEST_BYTES];
            stream.read_exact(&mut reply)?;
            stream.set_nonblocking(true)?;
            let events = libc::EPOLLIN | libc::EPOLLRDHUP;
            crowd.epoll.add(stream.as_raw_fd(), events, index as u64)?;
            crowd.members.push(Member {
                stream: Some(stream),
                busy: index >= idle,
                sent: REQUEST_BYTES as u64,
                received: REQUEST_BYTES as u64,
                asked: Instant::now(),
            });
        }
        Ok(crowd)
    }

    /// Keeps the busy ones busy for `length`.
    pub fn warm(&mut self, length: Duration) -> io::Result<()> {
        let start = Instant::now();
        for index in 0..self.members.len() {
            if self.members[index].busy {
                self.ask(index);
            }
        }
        let mut events = room_for_events(1024);
        while let Some(left) = length.checked_sub(start.elapsed()) {
            let ready: Vec<u64> = self.ready(&mut events, left)?;
            for token in ready {
                self.listen(token as usize, start);
            }
        }
        if self.open < self.members.len() {
            return Err(io::Error::other("the server broke off before the stop"));
        }
        Ok(())
    }

    /// Sends SIGTERM to `pid`, and watches until all is over, for `limit` at most.
    pub fn watch_stop(mut self, pid: u32, limit: Duration) -> io::Result<Seen> {
        let process = sys::pidfd(pid)?;
        self.epoll
            .add(process.as_raw_fd(), libc::EPOLLIN, PROCESS)?;
        let mut events = room_for_events(1024);
        self.seen.longest_wait = Duration::ZERO;
        self.seen.trigger_ns = sys::monotonic_ns();
        let start = Instant::now();
        sys::terminate(pid)?;
        while self.open > 0 || self.seen.exit.is_none() {
            let Some(left) = limit.checked_sub(start.elapsed()) else {
                break;
            };
            for token in self.ready(&mut events, left)? {
                if token == PROCESS {
                    self.seen.exit.get_or_insert(start.elapsed());
                    // Readable for ever now: watched no more.
                    self.epoll.change(process.as_raw_fd(), 0, PROCESS)?;
                } else {
                    self.listen(token as usize, start);
                }
            }
        }
        self.seen.left = self.open as u64;
        Ok(self.seen)
    }

    /// The tokens that are ready.
    fn ready(&self, events: &mut [libc::epoll_event], limit: Duration) -> io::Result<Vec<u64>> {
        // At least a millisecond, or the last one would be spent in a spin.
        let limit = limit.max(Duration::from_millis(1));
        let ready = self.epoll.wait(events, Some(limit))?;
        Ok(ready.iter().map(|event| event.u64).collect())
    }

    /// Sends a request; one that fails is seen by the read that follows.
    fn ask(&mut self, index: usize) {
        let member = &mut self.members[index];
        let Some(stream) = &mut member.stream else {
            return;
        };
        let bytes = pattern::at(pattern::salt(index), member.sent, REQUEST_BYTES);
        if stream.write(bytes).is_ok() {
            member.sent += REQUEST_BYTES as u64;
            member.asked = Instant::now();
        }
    }

    /// Reads what there is.
    fn listen(&mut self, index: usize, start: Instant) {
        let member = &mut self.members[index];
        let Some(stream) = &mut member.stream else {
            return;
        };
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => self.ended(index, start, false),
            Ok(count) => {
                member.received += count as u64;
                if member.busy && member.received == member.sent {
                    let longest = self.seen.longest_wait.max(member.asked.elapsed());
                    self.seen.longest_wait = longest;
                    self.ask(index);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.ended(index, start, true),
        }
    }

    /// Books an end, and closes.
    fn ended(&mut self, index: usize, start: Instant, reset: bool) {
        let member = &mut self.members[index];
        member.stream = None;
        self.open -= 1;
        self.seen.reset += u64::from(reset);
        self.seen.finished += u64::from(!reset);
        let within = member.received % REQUEST_BYTES as u64;
        self.seen.torn += u64::from(within > 0);
        let owed = member.received < member.sent && member.asked < start;
        self.seen.lost += u64::from(owed);
        self.seen.last_end = start.elapsed();
    }
}
