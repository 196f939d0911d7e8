//! What a load program is asked to do.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::Duration;

use crate::args::Args;
use crate::wire::{ANSWER_HEADER, REQUEST_HEADER};

/// The shape of requests and answers; see `wire`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Echo,
    Framed,
}

/// What a connection does when it has sent all its requests and has all its
/// answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Says that it will send no more, and waits for the server's end.
    HalfClose,
    /// As soon as its requests are written, says that it will send no more.
    EarlyHalfClose,
    /// Resets the connection.
    Reset,
    /// Stays as it is until the server ends it.
    Stay,
}

/// The parameters of a load, each a word of the command line.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// `addr`: where the server listens.
    pub(crate) address: SocketAddr,
    /// `protocol`: echo or framed.
    pub(crate) protocol: Protocol,
    /// `connections`: opened at once.
    pub(crate) connections: u64,
    /// `per_second`: opened in addition, until `stop`.
    pub(crate) per_second: u64,
    /// `size`: bytes of body in a request.
    pub(crate) size: u32,
    /// `answer`: bytes of body in an answer; framed only.
    pub(crate) answer: u32,
    /// `delay`: milliseconds the server waits before it answers; framed only.
    pub(crate) delay_ms: u32,
    /// `window`: requests a connection has unanswered at most.
    pub(crate) window: u64,
    /// `total`: requests of all connections together.
    pub(crate) total: u64,
    /// `each`: requests of one connection.
    pub(crate) each: u64,
    /// `silent`: reads nothing before it is told `read`.
    pub(crate) silent: bool,
    /// `stall`: milliseconds without a byte written after which a silent
    /// load says `stalled`; with `stall_reads` it then reads by itself.
    pub(crate) stall: Option<Duration>,
    /// `stall_reads=true`
    pub(crate) stall_reads: bool,
    /// `read_bytes`: bytes taken at a time by a slow reader.
    pub(crate) read_bytes: usize,
    /// `read_every`: milliseconds between two readings of a slow reader.
    pub(crate) read_every: Option<Duration>,
    /// `receive_buffer`: of each socket, in bytes.
    pub(crate) receive_buffer: Option<usize>,
    /// `end`: half_close, early_half_close, reset or stay.
    pub(crate) end: End,
    /// `warm`: answers after which the load says `warm`.
    pub(crate) warm: u64,
    /// `fds`: descriptors that the load needs; it ends at once where it may not
    /// have as many.
    pub(crate) fds: u64,
    /// `heard`: bytes received after which the load says `heard`.
    pub(crate) heard: u64,
}

impl Plan {
    pub(crate) fn read(mut args: Args) -> Plan {
        let protocol: String = args.number("protocol", "echo".to_owned());
        let end: String = args.number("end", "half_close".to_owned());
        let size = args.number("size", 64);
        let plan = Plan {
            address: args.take("addr").expect("addr is where the server listens"),
            protocol: match protocol.as_str() {
                "echo" => Protocol::Echo,
                "framed" => Protocol::Framed,
                other => panic!("no protocol {other}"),
            },
            connections: args.number("connections", 0),
            per_second: args.number("per_second", 0),
            size,
            answer: args.number("answer", size),
            delay_ms: args.number("delay", 0),
            window: args.number("window", 1),
            total: args.number("total", u64::MAX),
            each: args.number("each", u64::MAX),
            silent: args.number("silent", false),
            stall: args.millis("stall"),
            stall_reads: args.number("stall_reads", false),
            read_bytes: args.number("read_bytes", 256 * 1024),
            read_every: args.millis("read_every"),
            receive_buffer: args.take("receive_buffer"),
            end: match end.as_str() {
                "half_close" => End::HalfClose,
                "early_half_close" => End::EarlyHalfClose,
                "reset" => End::Reset,
                "stay" => End::Stay,
                other => panic!("no end {other}"),
            },
            warm: args.number("warm", u64::MAX),
            fds: args.number("fds", 0),
            heard: args.number("heard", u64::MAX),
        };
        args.finish();
        plan
    }

    /// The length of one whole request.
    pub(crate) fn request_bytes(&self) -> u64 {
        match self.protocol {
            Protocol::Echo => u64::from(self.size),
            Protocol::Framed => REQUEST_HEADER as u64 + u64::from(self.size),
        }
    }

    /// The length of one whole answer.
    pub(crate) fn answer_bytes(&self) -> u64 {
        match self.protocol {
            Protocol::Echo => u64::from(self.size),
            Protocol::Framed => ANSWER_HEADER as u64 + u64::from(self.answer),
        }
    }
}
