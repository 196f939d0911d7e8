//! Start and stop again and again in one process, and side by side: nothing
//! is left behind.
#![forbid(unsafe_code)]

use std::future::pending;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use evenfall::net::{TcpListener, TcpStream};
use evenfall::{Cores, Report, Shutdown, spawn, spawn_background};
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, WATCHDOG, say, threads};
use crate::promise::promises;
use crate::report;
use crate::server::{Setup, answer_all, host};
use crate::sys;

promises![
    after_a_hundred_rounds_descriptors_threads_and_buffers_are_back,
    destructors_of_parked_tasks_run_at_a_cut,
    two_runtimes_run_in_one_process_and_one_owns_the_signals,
];

const ROUNDS: usize = 100;

fn after_a_hundred_rounds_descriptors_threads_and_buffers_are_back() {
    let ended = Program::role("rounds", &[]).finish();
    ended.exited(0);
    let reports = ended
        .said
        .iter()
        .filter_map(|line| line.strip_prefix("report "));
    let mut count = 0;
    for line in reports {
        let json = serde_json::from_str(line).expect("a report is JSON");
        let report = report::Report::new(json);
        report.adds_up();
        report.loses_nothing();
        count += 1;
    }
    assert_eq!(count, ROUNDS);
    let facts = ended.json("facts ");
    assert_eq!(facts["fds_after"], facts["fds_before"], "{facts}");
    assert_eq!(facts["threads_after"], facts["threads_before"], "{facts}");
    assert_eq!(facts["parked"], 0, "futures of parked tasks are dropped");
}

fn destructors_of_parked_tasks_run_at_a_cut() {
    let mut server = Program::role("parks", &["timeout=500"]);
    server.address();
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = ended.report(81);
    report.leaves_nothing();
    let facts = ended.json("facts ");
    assert_eq!(facts["parked"], 0, "{facts}");
    assert!(report.sum("tasks", "dropped") >= 100);
}

fn two_runtimes_run_in_one_process_and_one_owns_the_signals() {
    let mut server = Program::role("two", &[]);
    let second: SocketAddr = server.line("second on ").parse().expect("an address");
    let first: SocketAddr = server.address().parse().expect("an address");
    echoed(first);
    echoed(second);
    server.signal(libc::SIGTERM);
    let json = server.json("report ");
    report::Report::new(json).adds_up();
    // The first is gone, and the second serves as if nothing had happened.
    echoed(second);
    server.tell("shutdown");
    server.finish().report(0).loses_nothing();
}

#[track_caller]
fn echoed(address: SocketAddr) {
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    stream.write_all(b"still here").expect("it reads");
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"still here");
}

/// Counts the futures that are alive.
struct Parked(Arc<AtomicI64>);

impl Parked {
    fn new(count: &Arc<AtomicI64>) -> Parked {
        count.fetch_add(1, Ordering::Relaxed);
        Parked(Arc::clone(count))
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A hundred times: start, park tasks, echo over a connection, stop.
pub(crate) fn rounds(args: Args) -> ExitCode {
    args.finish();
    let parked = Arc::new(AtomicI64::new(0));
    // The first round makes what is made once in a process.
    let warm = round(&parked);
    assert!(warm.is_ok(), "{:?}", warm.err());
    let (fds_before, threads_before) = (sys::open_fds(), threads());
    for _ in 0..ROUNDS {
        match round(&parked) {
            Ok(report) => say(&format!("report {}", report.to_json())),
            Err(error) => panic!("{error}"),
        }
    }
    let facts = json!({
        "fds_before": fds_before,
        "fds_after": sys::open_fds(),
        "threads_before": threads_before,
        "threads_after": threads(),
        "parked": parked.load(Ordering::Relaxed),
    });
    say(&format!("facts {facts}"));
    ExitCode::SUCCESS
}

fn round(parked: &Arc<AtomicI64>) -> evenfall::Result<Report> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = cpus.min(2);
    let mut runtime = crate::process::builder()
        .cores(Cores::Count(cores))
        .build()?;
    let listener = runtime.bind("127.0.0.1:0")?;
    let parked = Arc::clone(parked);
    let at_work = Arc::new(AtomicUsize::new(cores));
    runtime.run(move |core| {
        let listener = listener.on(&core);
        let (parked, at_work) = (Arc::clone(&parked), Arc::clone(&at_work));
        async move {
            park_and_talk(listener, &parked).await?;
            // The last one stops all: no connect may meet a gate.
            if at_work.fetch_sub(1, Ordering::AcqRel) == 1 {
                core.handle().shutdown();
            }
            Ok(())
        }
    })
}

async fn park_and_talk(listener: TcpListener, parked: &Arc<AtomicI64>) -> io::Result<()> {
    for _ in 0..10 {
        let guard = Parked::new(parked);
        drop(spawn_background(async move {
            let _guard = guard;
            pending::<()>().await;
        }));
    }
    let address = listener.local_addr();
    drop(spawn(async move { listener.serve(answer_all).await }));
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"round and round").await?;
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"round and round");
    Ok(())
}

/// A hundred tasks on each core that wait forever, and that the stop must cut.
pub(crate) fn parks(args: Args) -> ExitCode {
    let parked = Arc::new(AtomicI64::new(0));
    let counted = Arc::clone(&parked);
    let result = host(Setup::only(args), move |_core, listener| {
        let parked = Arc::clone(&counted);
        async move {
            for _ in 0..100 {
                let guard = Parked::new(&parked);
                drop(spawn(async move {
                    let _guard = guard;
                    pending::<()>().await;
                }));
            }
            listener.serve(answer_all).await
        }
    });
    let parked = parked.load(Ordering::Relaxed);
    crate::server::conclude(result, &json!({ "parked": parked }))
}

/// One runtime with the signals, and one without them on another thread.
pub(crate) fn two(args: Args) -> ExitCode {
    args.finish();
    let (started, first_may_start) = std::sync::mpsc::channel();
    let second = std::thread::spawn(move || {
        let mut runtime = crate::process::builder()
            .cores(Cores::Count(1))
            .signals([])
            .shutdown(Shutdown::default().timeout(Duration::from_secs(5)))
            .build()?;
        let listener = runtime.bind("127.0.0.1:0")?;
        say(&format!("second on {}", listener.local_addr()));
        started
            .send(runtime.handle())
            .expect("the main thread waits");
        runtime.run(move |core| {
            let listener = listener.on(&core);
            async move { listener.serve(answer_all).await }
        })
    });
    let handle = first_may_start.recv().expect("the second one starts");
    let first = host_first();
    say(&format!("report {}", first.to_json()));
    let mut line = String::new();
    io::stdin()
        .read_line(&mut line)
        .expect("the test says when");
    handle.shutdown();
    let second = second.join().expect("it does not panic");
    crate::server::conclude(second, &json!({}))
}

fn host_first() -> Report {
    let mut runtime = crate::process::builder()
        .cores(Cores::Count(1))
        .build()
        .expect("a ring");
    let listener = runtime.bind("127.0.0.1:0").expect("a port");
    let report = runtime.run(move |core| {
        let on_core = listener.on(&core);
        let address = listener.local_addr();
        async move {
            say(&format!("listening on {address}"));
            on_core.serve(answer_all).await
        }
    });
    report.expect("the first runtime runs")
}
