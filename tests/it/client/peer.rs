//! One connection of a load: what it has sent, and what it expects.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::plan::{End, Plan, Protocol};
use super::tally::Tally;
use crate::sys;
use crate::wire::{ANSWER_HEADER, Request, Table, body_at};

/// A connection's end, as this side saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fin,
    Reset,
    ResetHere,
    Error,
}

/// One non-blocking connection.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: Socket,
    /// Tells the bodies of connections apart.
    number: u64,
    /// The handshake is done.
    pub(crate) open: bool,
    /// Requests put into `out` so far.
    requests: u64,
    /// Answers that came whole.
    answered: u64,
    /// When each unanswered request was put into `out`.
    begun: VecDeque<Instant>,
    /// Requests on their way into the kernel.
    out: Vec<u8>,
    /// Bytes of `out` that the kernel has.
    out_taken: usize,
    /// Bytes of the current answer that have come.
    into_answer: u64,
    /// Bytes handed to the kernel.
    pub(crate) sent: u64,
    /// Bytes taken from the kernel.
    received: u64,
    /// What the server's kernel had acknowledged at `mark`.
    marked: Option<u64>,
    /// No more requests: told to stop, or marked.
    pub(crate) done_asking: bool,
    /// The kernel has our FIN.
    half_closed: bool,
    /// A write failed; reading tells how the connection ended.
    refused_write: bool,
    /// A slow reader's next reading is not before this.
    pub(crate) rests_until: Option<Instant>,
    /// What epoll was told last.
    pub(crate) interest: u32,
}

impl Peer {
    /// Begins to connect.
    pub(crate) fn connect(plan: &Plan, number: u64) -> io::Result<Peer> {
        let socket = Socket::new(Domain::for_address(plan.address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(bytes) = plan.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        match socket.connect(&plan.address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        Ok(Peer {
            socket,
            number,
            open: false,
            requests: 0,
            answered: 0,
            begun: VecDeque::new(),
            out: Vec::new(),
            out_taken: 0,
            into_answer: 0,
            sent: 0,
            received: 0,
            marked: None,
            done_asking: false,
            half_closed: false,
            refused_write: false,
            rests_until: None,
            interest: 0,
        })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The result of the handshake, once the socket is writable.
    pub(crate) fn handshake(&mut self) -> io::Result<()> {
        match self.socket.take_error()? {
            Some(error) => Err(error),
            None => {
                self.open = true;
                Ok(())
            }
        }
    }

    /// Whether there is or may be something to write.
    pub(crate) fn wants_to_write(&self, plan: &Plan, asked: u64) -> bool {
        if self.refused_write || self.half_closed {
            return false;
        }
        self.out_taken < self.out.len() || self.may_ask(plan, asked) || self.may_half_close(plan)
    }

    /// Whether another request may be made, `asked` being made by all.
    fn may_ask(&self, plan: &Plan, asked: u64) -> bool {
        !self.done_asking
            && self.requests < plan.each
            && asked < plan.total
            && self.requests - self.answered < plan.window
    }

    /// Whether this side has nothing more to say and has all its answers.
    fn is_over(&self) -> bool {
        self.out_taken == self.out.len() && self.answered == self.requests
    }

    fn may_half_close(&self, plan: &Plan) -> bool {
        let due = match plan.end {
            End::HalfClose => self.is_over(),
            End::EarlyHalfClose => self.out_taken == self.out.len(),
            End::Reset | End::Stay => false,
        };
        due && self.done_asking && !self.half_closed
    }

    /// Writes until the kernel takes no more or there is nothing to say.
    pub(crate) fn write(
        &mut self,
        plan: &Plan,
        table: &Table,
        asked: &mut u64,
        tally: &mut Tally,
    ) -> Option<Outcome> {
        while !self.refused_write {
            if self.out_taken == self.out.len() {
                if !self.may_ask(plan, *asked) {
                    return self.settle(plan, *asked);
                }
                *asked += 1;
                tally.requests += 1;
                self.make_request(plan, table);
            }
            match (&self.socket).write(&self.out[self.out_taken..]) {
                Ok(count) => {
                    self.out_taken += count;
                    self.sent += count as u64;
                    tally.bytes_sent += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => self.refused_write = true,
            }
        }
        None
    }

    fn make_request(&mut self, plan: &Plan, table: &Table) {
        self.out.clear();
        self.out_taken = 0;
        if plan.protocol == Protocol::Framed {
            let request = self.request(plan, self.requests);
            self.out.extend_from_slice(&request.header());
        }
        let at = body_at(self.number, self.requests);
        table.write(&mut self.out, at, plan.size as usize);
        self.begun.push_back(Instant::now());
        self.requests += 1;
    }

    fn request(&self, plan: &Plan, number: u64) -> Request {
        Request {
            size: plan.size,
            answer: plan.answer,
            delay_ms: plan.delay_ms,
            number: number as u32,
        }
    }

    /// What follows when this side has nothing to write: perhaps its end.
    fn settle(&mut self, plan: &Plan, asked: u64) -> Option<Outcome> {
        if self.requests >= plan.each || asked >= plan.total {
            self.done_asking = true;
        }
        if self.may_half_close(plan) {
            self.half_closed = true;
            // Fails when the peer's reset is here already; reading tells.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        if plan.end == End::Reset && self.done_asking && self.is_over() {
            let set = self.socket.set_linger(Some(Duration::ZERO));
            set.expect("an open socket has options");
            return Some(Outcome::ResetHere);
        }
        None
    }

    /// Takes at most `room` bytes from the kernel and checks them.
    pub(crate) fn read(
        &mut self,
        plan: &Plan,
        table: &Table,
        room: &mut [u8],
        tally: &mut Tally,
    ) -> Option<Outcome> {
        match (&self.socket).read(room) {
            Ok(0) => {
                tally.written_after_fin += u64::from(self.refused_write);
                Some(Outcome::Fin)
            }
            Ok(count) => {
                self.received += count as u64;
                tally.bytes_received += count as u64;
                self.check(plan, table, &room[..count], tally);
                None
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => None,
                Some(libc::ECONNRESET | libc::EPIPE) => Some(Outcome::Reset),
                _ => {
                    tally.error("read", &error);
                    Some(Outcome::Error)
                }
            },
        }
    }

    /// Compares what came with the answers that are due.
    fn check(&mut self, plan: &Plan, table: &Table, mut bytes: &[u8], tally: &mut Tally) {
        let header = match plan.protocol {
            Protocol::Echo => 0,
            Protocol::Framed => ANSWER_HEADER as u64,
        };
        while !bytes.is_empty() {
            if self.answered == self.requests {
                // An answer that nobody has asked for.
                tally.bytes_wrong += bytes.len() as u64;
                return;
            }
            let due = (plan.answer_bytes() - self.into_answer) as usize;
            let (now, later) = bytes.split_at(due.min(bytes.len()));
            let wrong = self.wrong_bytes(plan, table, header, now);
            tally.bytes_wrong += wrong;
            self.into_answer += now.len() as u64;
            bytes = later;
            if self.into_answer == plan.answer_bytes() {
                self.into_answer = 0;
                self.answered += 1;
                tally.answered += 1;
                let begun = self.begun.pop_front().expect("a request was begun");
                tally.slowest = tally.slowest.max(begun.elapsed());
            }
        }
    }

    /// How many of `bytes`, which lie within the current answer, are wrong.
    fn wrong_bytes(&self, plan: &Plan, table: &Table, header: u64, bytes: &[u8]) -> u64 {
        let mut wrong = 0;
        let mut at = self.into_answer;
        let mut left = bytes;
        if at < header {
            let expected = self.request(plan, self.answered).answer_header();
            let expected = &expected[at as usize..];
            let count = expected.len().min(left.len());
            wrong += differences(&expected[..count], &left[..count]);
            at += count as u64;
            left = &left[count..];
        }
        let start = body_at(self.number, self.answered);
        while !left.is_empty() {
            // The answer's body is the request's, repeated.
            let into_body = (at - header) % u64::from(plan.size);
            let rest = (u64::from(plan.size) - into_body) as usize;
            let expected = table.piece(start + into_body, rest.min(left.len()));
            wrong += differences(expected, &left[..expected.len()]);
            at += expected.len() as u64;
            left = &left[expected.len()..];
        }
        wrong
    }

    /// Remembers what the server's kernel has acknowledged, and asks no more.
    pub(crate) fn mark(&mut self) -> io::Result<u64> {
        let acknowledged = self.sent - sys::unacknowledged(self.fd())?;
        self.marked = Some(acknowledged);
        // The request under way is still written to its end, so that the
        // server is never left with a part of one.
        self.done_asking = true;
        Ok(acknowledged)
    }

    /// Counts how this connection ended.
    pub(crate) fn close(self, plan: &Plan, outcome: Outcome, tally: &mut Tally) {
        match outcome {
            Outcome::Fin => tally.fin += 1,
            Outcome::Reset => tally.reset += 1,
            Outcome::ResetHere => tally.reset_here += 1,
            Outcome::Error => {}
        }
        let open = self.requests - self.answered;
        let torn = u64::from(self.into_answer > 0);
        tally.torn += torn;
        tally.unanswered += open - torn;
        tally.bytes_owed += self.owed(plan);
    }

    /// Bytes of answers to what was acknowledged at the mark that never came.
    fn owed(&self, plan: &Plan) -> u64 {
        let Some(marked) = self.marked else { return 0 };
        let due = match plan.protocol {
            Protocol::Echo => marked,
            Protocol::Framed => marked / plan.request_bytes() * plan.answer_bytes(),
        };
        due.saturating_sub(self.received)
    }
}

/// In how many places two slices of equal length differ.
fn differences(expected: &[u8], found: &[u8]) -> u64 {
    if expected == found {
        return 0;
    }
    let pairs = expected.iter().zip(found);
    pairs.filter(|(a, b)| a != b).count() as u64
}
