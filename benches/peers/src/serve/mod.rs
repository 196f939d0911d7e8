//! The same echo server on everything one would take: one pinned thread a core, each with a
//! listener of its own.
//!
//! All say `ready PORT` when they listen, answer questions on standard input, and end at SIGTERM.

mod bare_epoll;
mod bare_ring;
mod compio;
mod evenfall;
mod glommio;
mod monoio;
mod tokio;
mod tokio_uring;

use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use ::evenfall::Report;
use clap::ValueEnum;
use socket2::{Domain, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::sys;

/// The bytes of one buffer, on all servers that have one for each connection or for all.
const BUFFER_BYTES: usize = 16 * 1024;

/// What the echo server is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// io_uring and nothing else: the limit.
    BareRing,
    /// epoll and nothing else.
    BareEpoll,
    /// This project.
    Evenfall,
    /// A current-thread runtime for each core.
    TokioCurrent,
    /// One work-stealing runtime.
    TokioMulti,
    /// See its name.
    Monoio,
    /// See its name.
    Glommio,
    /// See its name.
    Compio,
    /// See its name.
    TokioUring,
    /// On the JVM: a process of its own program, which this one starts only.
    Netty,
    /// The bare ring, stopped by one `ANY|ALL`: quadratic, for a thousand connections at most.
    BareRingAny,
}

impl Kind {
    /// All, in the order of the tables.
    pub const ALL: [Kind; 11] = [
        Kind::BareRing,
        Kind::BareEpoll,
        Kind::Evenfall,
        Kind::TokioCurrent,
        Kind::TokioMulti,
        Kind::Monoio,
        Kind::Glommio,
        Kind::Compio,
        Kind::TokioUring,
        Kind::Netty,
        Kind::BareRingAny,
    ];

    /// All that take part in every bench on this machine.
    pub fn here() -> Vec<Kind> {
        let here = |kind: &Kind| match kind {
            Kind::BareRingAny => false,
            Kind::Netty => netty_classes().is_some(),
            _ => true,
        };
        Kind::ALL.into_iter().filter(here).collect()
    }

    /// Its name on the command line and in the tables.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no kind is hidden");
        value.get_name().to_owned()
    }

    /// Whether it waits in a ring of io_uring's.
    pub fn has_ring(self) -> bool {
        use Kind::{BareEpoll, Netty, TokioCurrent, TokioMulti};
        !matches!(self, BareEpoll | TokioCurrent | TokioMulti | Netty)
    }

    /// How long it is under load before it is measured for `length`. A JVM compiles what it runs
    /// often, and is not itself before that.
    pub fn warm_up(self, length: Duration) -> Duration {
        match self {
            Kind::Netty => Duration::from_secs(3),
            _ => length / 5,
        }
    }

    /// The buffer that each idle connection holds.
    pub fn held_bytes(self) -> u64 {
        match self {
            Kind::BareRing | Kind::BareRingAny | Kind::BareEpoll | Kind::Evenfall => 0,
            // Taken from a pool for each read, and given back after it.
            Kind::Netty => 0,
            _ => BUFFER_BYTES as u64,
        }
    }
}

/// What a server does with the bytes it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Sends them back.
    Echo,
    /// Counts them, and sends the count when the peer has finished.
    Sink,
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Processors, one thread each.
    pub cpus: Vec<usize>,
    /// What to do with the bytes.
    pub mode: Mode,
    /// Whether SIGTERM has to end the connections in order. Where a framework pays for that with
    /// every read, the echo bench leaves it out, in the framework's favour.
    pub graceful: bool,
    /// Whether to serve on the main thread, to answer no questions, and to let SIGTERM kill: below
    /// valgrind, a thread that waits in a ring lets no other thread run.
    pub alone: bool,
}

/// What one core's thread gets.
struct Seat {
    /// Listens already.
    listener: TcpListener,
    /// See [`Plan::mode`].
    mode: Mode,
    /// See [`Plan::graceful`].
    graceful: bool,
    /// Cancelled at SIGTERM.
    stop: CancellationToken,
    /// Rung at SIGTERM, for loops without futures.
    bell: OwnedFd,
}

/// Where the compiled server for netty and its jars are, as a class path; `benches/run` sets it where
/// there are a JDK and netty's jars.
pub fn netty_classes() -> Option<String> {
    std::env::var("EVENFALL_NETTY_CLASSES").ok()
}

/// Serves until SIGTERM, and then says when that was over.
pub fn serve(kind: Kind, plan: &Plan) -> io::Result<()> {
    sys::raise_nofile(200_000)?;
    let report = serve_on(kind, plan)?;
    let returned_ns = sys::monotonic_ns();
    // After that: no other server has a report to make a line of.
    let said = report.map_or_else(String::new, |report| format!("report {}", report.to_json()));
    let mut out = io::stdout().lock();
    writeln!(out, "returned {returned_ns}\n{said}")
}

/// Serves on one of them; gives its report, if it has one.
fn serve_on(kind: Kind, plan: &Plan) -> io::Result<Option<Report>> {
    let run = match kind {
        Kind::Evenfall => return evenfall::serve(plan).map(Some),
        Kind::TokioMulti => return tokio::serve_on_many(plan).map(|()| None),
        Kind::Netty => return Err(io::Error::other("netty is a program of its own")),
        Kind::BareRing => bare_ring::serve,
        Kind::BareRingAny => bare_ring::serve_and_cancel_all,
        Kind::BareEpoll => bare_epoll::serve,
        Kind::TokioCurrent => tokio::serve_on_one,
        Kind::Monoio => monoio::serve,
        Kind::Glommio => glommio::serve,
        Kind::Compio => compio::serve,
        Kind::TokioUring => tokio_uring::serve,
    };
    on_every_core(plan, run).map(|()| None)
}

/// Runs one thread a core until all have ended.
fn on_every_core(plan: &Plan, run: fn(Seat) -> io::Result<()>) -> io::Result<()> {
    if !plan.alone {
        sys::block_term()?;
    }
    let stop = CancellationToken::new();
    let mut bells = Vec::new();
    let mut threads = Vec::new();
    let listeners = listeners(plan.cpus.len())?;
    let address = listeners[0].local_addr()?;
    for (&cpu, listener) in plan.cpus.iter().zip(listeners) {
        let bell = sys::bell()?;
        bells.push(bell.try_clone()?);
        let seat = Seat {
            listener,
            mode: plan.mode,
            graceful: plan.graceful,
            stop: stop.clone(),
            bell,
        };
        if plan.alone {
            sys::pin(&[cpu])?;
            say_ready(address)?;
            return run(seat);
        }
        threads.push(thread::spawn(move || {
            sys::pin(&[cpu])?;
            run(seat)
        }));
    }
    answer_questions();
    say_ready(address)?;
    sys::wait_for_term()?;
    stop.cancel();
    bells.iter().try_for_each(sys::ring_bell)?;
    for thread in threads {
        thread.join().expect("a core's thread panicked")?;
    }
    Ok(())
}

/// One listener for each core, all on one port of the kernel's choice.
fn listeners(count: usize) -> io::Result<Vec<TcpListener>> {
    let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut listeners = Vec::new();
    for _ in 0..count {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Inherited by what is accepted, so that it costs nobody a call for each connection.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Says where the server listens.
fn say_ready(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "ready {}", address.port())?;
    out.flush()
}

/// Answers `usage` and `heap` on a thread that sleeps otherwise.
fn answer_questions() {
    thread::spawn(|| {
        for question in io::stdin().lock().lines() {
            let Ok(question) = question else { return };
            let answer = match question.as_str() {
                "usage" => sys::usage(sys::Who::Process)
                    .map(|usage| format!("{} {}", usage.user_us, usage.sys_us)),
                _ => Ok(sys::heap_bytes().to_string()),
            };
            // Whoever asked may be gone; then nobody misses the answer.
            let Ok(answer) = answer else { return };
            let mut out = io::stdout().lock();
            if writeln!(out, "{answer}")
                .and_then(|()| out.flush())
                .is_err()
            {
                return;
            }
        }
    });
}

/// What a sink says at the end.
fn receipt(bytes: u64) -> [u8; 8] {
    bytes.to_be_bytes()
}
