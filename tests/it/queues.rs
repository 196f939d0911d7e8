//! Queues that are too short for what goes through them: all of it goes through.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream as Peer};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use evenfall::net::TcpStream;
use evenfall::{Handle, yield_now};
use serde_json::json;

use crate::args::Args;
use crate::limits::{answered, asking};
use crate::process::{Program, WATCHDOG, say};
use crate::promise::{Count, heavy, load, promises};
use crate::server::{Setup, conclude, host};

promises![
    hundreds_of_connections_on_queues_of_8_and_16_lose_nothing,
    a_stop_of_hundreds_of_connections_on_queues_of_8_and_16_is_clean,
    sixty_four_streams_that_run_out_of_buffers_lose_no_byte,
    of_sixty_four_streams_that_run_out_of_buffers_none_is_left_behind,
    who_asks_behind_hundreds_that_have_nothing_to_say_is_answered,
];

/// A server on one core, whose ring has room for 8 submissions and 16 completions.
fn cramped() -> Program {
    let words = ["cores=1", "submissions=8", "completions=16"];
    Program::role("echo", &words)
}

fn hundreds_of_connections_on_queues_of_8_and_16_lose_nothing() {
    let _alone = heavy();
    let mut server = cramped();
    let count = Count::of(load(
        &server.address(),
        "connections=400 size=300 total=40000",
    ));
    count.ended_well();
    assert_eq!(count.number("answered"), 40_000);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("bytes", "sent"), 300 * 40_000);
    // That both happened is the point.
    for counter in ["waited", "overflows"] {
        assert!(report.sum("ops", counter) > 0, "no {counter}");
    }
}

fn a_stop_of_hundreds_of_connections_on_queues_of_8_and_16_is_clean() {
    let _alone = heavy();
    let mut server = cramped();
    let mut load = load(&server.address(), "connections=400 size=300 warm=2000");
    load.line("warm");
    server.signal(libc::SIGTERM);
    let count = Count::of(load);
    count.ended_well();
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "accepted_total"), 400);
}

/// Each brings more in a turn than all buffers that the kernel has at first.
fn sixty_four_streams_that_run_out_of_buffers_lose_no_byte() {
    let _alone = heavy();
    let mut server = Program::role("echo", &["cores=1"]);
    let words = "connections=64 each=128 size=16384 window=128";
    let count = Count::of(load(&server.address(), words));
    count.ended_well();
    assert_eq!(count.number("answered"), 64 * 128);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("bytes", "received"), 64 * 128 * 16_384);
    assert!(report.sum("buffers", "ran_out") > 0, "no want of buffers");
}

/// All of them are accepted in one turn. The first take the few buffers there are at first, so that
/// none of the others can be armed; and when some are, nothing more happens on this core by itself.
fn who_asks_behind_hundreds_that_have_nothing_to_say_is_answered() {
    const FIRST: usize = 32;
    const SILENT: usize = 400;
    const LAST: usize = 20;
    let _alone = heavy();
    let mut server = Program::role("echo", &["cores=1"]);
    let address = server.address();
    stop_for_now(&server);
    let mut first: Vec<Peer> = (0..FIRST).map(|number| asking(&address, number)).collect();
    let silent: Vec<Peer> = (0..SILENT)
        .map(|_| Peer::connect(&address).expect("the backlog has room"))
        .collect();
    let mut last: Vec<Peer> = (0..LAST).map(|number| asking(&address, number)).collect();
    server.signal(libc::SIGCONT);
    for peers in [&mut first, &mut last] {
        for (number, peer) in peers.iter_mut().enumerate() {
            answered(peer, number);
        }
    }
    drop((first, silent, last));
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert!(report.sum("buffers", "ran_out") > 0, "no want of buffers");
}

/// Returns when none of its threads runs any more.
fn stop_for_now(server: &Program) {
    server.signal(libc::SIGSTOP);
    let until = Instant::now() + WATCHDOG;
    while !is_stopped(server.pid()) {
        assert!(Instant::now() < until, "it runs on");
        std::thread::yield_now();
    }
}

/// Whether all threads of a process are stopped.
fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it is alive");
    let mut status = threads.map(|thread| {
        let thread = thread.expect("a thread").path();
        fs::read_to_string(thread.join("status")).unwrap_or_default()
    });
    status.all(|status| status.contains("State:\tT"))
}

/// Streams that all have plenty to say.
const STREAMS: usize = 64;

/// When the core has had so many bytes of them all, those of each are looked at.
const FED: u64 = 512 << 20;

/// Which of them find a buffer is not the same in each run, so there are a few.
const RUNS: usize = 5;

fn of_sixty_four_streams_that_run_out_of_buffers_none_is_left_behind() {
    let _alone = heavy();
    for _ in 0..RUNS {
        let mut server = Program::role("feeds", &["cores=1"]);
        let slowest = server.json("fed ")["slowest"].as_u64().expect("a count");
        let report = server.finish().report(0);
        report.leaves_nothing();
        assert!(report.sum("buffers", "ran_out") > 0, "no want of buffers");
        let mean = FED / STREAMS as u64;
        assert!(slowest >= mean / 4, "{slowest} of {mean} bytes");
    }
}

/// What a core was fed.
#[derive(Debug)]
struct Fed {
    /// How many streams have come.
    streams: Cell<usize>,
    /// The bytes of each.
    bytes: Vec<Cell<u64>>,
}

impl Fed {
    fn total(&self) -> u64 {
        self.bytes.iter().map(Cell::get).sum()
    }
}

/// Reads all streams, each as fast as it comes, until all have brought `FED`. Then it resets them, for
/// they would never end, and stops.
pub(crate) fn feeds(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |_core, listener| {
        let address = listener.local_addr();
        for _ in 0..STREAMS {
            std::thread::spawn(move || pour(address));
        }
        let fed = Rc::new(Fed {
            streams: Cell::new(0),
            bytes: vec![Cell::new(0); STREAMS],
        });
        async move {
            listener
                .serve(move |stream| take(stream, Rc::clone(&fed)))
                .await
        }
    });
    conclude(result, &json!({}))
}

/// Sends until nobody reads any more.
fn pour(address: SocketAddr) {
    let mut socket = Peer::connect(address).expect("the server listens");
    let block = vec![1; 1 << 20];
    while socket.write_all(&block).is_ok() {}
}

/// Takes one stream, from when all are there.
async fn take(mut stream: TcpStream, fed: Rc<Fed>) -> io::Result<()> {
    let number = fed.streams.replace(fed.streams.get() + 1);
    while fed.streams.get() < STREAMS {
        yield_now().await;
    }
    let bytes = &fed.bytes[number];
    while fed.total() < FED {
        let chunk = stream.recv().await?;
        let before = fed.total();
        bytes.set(bytes.get() + chunk.len() as u64);
        if before < FED && fed.total() >= FED {
            let slowest = fed.bytes.iter().map(Cell::get).min();
            say(&format!("fed {}", json!({"slowest": slowest})));
            Handle::current().shutdown();
        }
    }
    stream.abort();
    Ok(())
}
