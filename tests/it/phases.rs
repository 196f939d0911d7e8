//! The phases, as users and clients see them.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evenfall::net::TcpStream as Stream;
use evenfall::time::sleep;
use evenfall::{Cores, Handle, Phase, Shutdown, spawn_background};
use serde_json::{Value, json};

use crate::args::Args;
use crate::process::{Program, WATCHDOG};
use crate::promise::{Count, load, promises};
use crate::report::Report;
use crate::server::{Setup, answer_all, answer_plainly, conclude, host};

promises![
    in_notice_it_is_not_ready_and_serves_as_before,
    a_handler_that_knows_no_requests_is_ended_after_its_silence,
    quiet_is_counted_from_the_last_activity,
    a_listener_taken_during_the_stop_is_drained_as_well,
    a_background_task_is_no_activity_and_lives_until_closing,
    a_stream_that_never_ends_sees_the_drain_and_ends_in_order,
];

/// One phase of the whole stop.
#[track_caller]
fn phase(report: &Report, name: &str) -> Value {
    let phases = report.part("phases").as_array().expect("a list of phases");
    let found = phases.iter().find(|phase| phase["name"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {phases:?}"))
        .clone()
}

/// Its length.
#[track_caller]
fn length_ms(report: &Report, name: &str) -> f64 {
    let phase = phase(report, name);
    let time = |key: &str| phase[key].as_f64().expect("a time");
    time("end_ms") - time("start_ms")
}

/// One question over a connection of its own.
fn is_ready(address: &str) -> bool {
    let mut stream = TcpStream::connect(address).expect("it accepts");
    stream.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    stream.write_all(b"?").expect("it reads");
    let mut answer = [0];
    stream.read_exact(&mut answer).expect("it answers");
    answer[0] == b'y'
}

fn in_notice_it_is_not_ready_and_serves_as_before() {
    let mut server = Program::role("tells_readiness", &["notice=2000", "timeout=30000"]);
    let address = server.address();
    assert!(is_ready(&address));
    server.signal(libc::SIGTERM);
    let until = Instant::now() + WATCHDOG;
    // Each answer is a connection that was accepted and served.
    while is_ready(&address) {
        assert!(Instant::now() < until, "it stays ready");
    }
    assert!(!is_ready(&address), "it is ready again");
    let report = server.finish().report(0);
    report.loses_nothing();
    let notice_ms = length_ms(&report, "notice");
    assert!((1_990.0..4_000.0).contains(&notice_ms), "{notice_ms} ms");
}

/// A reader that calls `recv` and never `next_request`.
fn a_handler_that_knows_no_requests_is_ended_after_its_silence() {
    let words = ["idle_grace=300", "timeout=30000"];
    let mut server = Program::role("knows_no_requests", &words);
    let mut load = load(&server.address(), "connections=8 each=3 warm=24 end=stay");
    load.line("warm");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    let count = Count::of(load);
    count.ended_well();
    assert_eq!(count.number("unanswered"), 0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "drained"), 8);
    let elapsed_ms = report.elapsed_ms();
    assert!(elapsed_ms < 3_000.0, "{elapsed_ms} ms");
}

fn quiet_is_counted_from_the_last_activity() {
    let mut server = Program::role("framed", &["quiet=400", "timeout=30000"]);
    let mut load = load(
        &server.address(),
        "protocol=framed connections=1 each=2 delay=300 warm=1",
    );
    // The second request is on its way, and 300 ms of work, when it stops.
    load.line("warm");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    Count::of(load).ended_well();
    report.loses_nothing();
    let draining_ms = length_ms(&report, "draining");
    assert!((395.0..4_000.0).contains(&draining_ms), "{draining_ms} ms");
}

fn a_listener_taken_during_the_stop_is_drained_as_well() {
    let report = Program::role("listens_late", &[]).finish().report(0);
    report.loses_nothing();
    assert!(report.elapsed_ms() < 3_000.0, "{} ms", report.elapsed_ms());
}

fn a_background_task_is_no_activity_and_lives_until_closing() {
    let ended = Program::role("housekeeps", &[]).finish();
    let report = ended.report(0);
    report.loses_nothing();
    let draining = &report.part("phases")[0];
    assert_eq!(draining["ended_by"], "goal", "{draining}");
    assert!(length_ms(&report, "draining") >= 300.0, "{draining}");
    assert_eq!(report.sum("tasks", "background_dropped"), 1);
    let facts = ended.json("facts ");
    assert_eq!(facts["in_the_hook"], true, "{facts}");
}

/// Whoever is accepted sees it, by the stream and by its halves; whoever was connected to does not.
fn a_stream_that_never_ends_sees_the_drain_and_ends_in_order() {
    let mut server = Program::role("streams", &["notice=1000", "timeout=30000"]);
    let mut peer = TcpStream::connect(server.address()).expect("it listens");
    peer.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    peer.read_exact(&mut [0; 64]).expect("it streams");
    server.signal(libc::SIGTERM);
    let mut rest = String::new();
    peer.read_to_string(&mut rest)
        .expect("an end by FIN, not by RST");
    let farewell = rest.trim_start_matches('.');
    assert_eq!(
        farewell,
        "bye running=false notice=false now=true out=false"
    );
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "closed_by_handler"), 1);
    assert!(
        length_ms(&report, "notice") >= 990.0,
        "notice was cut short"
    );
}

/// Stops itself with a quiet time, while housekeeping is polled all the time.
/// A hook looks whether that goes on.
pub(crate) fn housekeeps(args: Args) -> ExitCode {
    args.finish();
    let shutdown = Shutdown::default()
        .quiet(Duration::from_millis(300))
        .timeout(Duration::from_secs(30));
    let builder = crate::process::builder().cores(Cores::Count(1));
    let runtime = builder.shutdown(shutdown).build().expect("a ring");
    let polls = Arc::new(AtomicU64::new(0));
    let goes_on = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&goes_on);
    let result = runtime.run(move |core| {
        let (polls, seen) = (Arc::clone(&polls), Arc::clone(&seen));
        async move {
            let counted = Arc::clone(&polls);
            drop(spawn_background(async move {
                loop {
                    counted.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(5)).await;
                }
            }));
            core.on_shutdown("looks", Duration::from_secs(10), async move || {
                let before = polls.load(Ordering::Relaxed);
                while polls.load(Ordering::Relaxed) < before + 3 {
                    sleep(Duration::from_millis(1)).await;
                }
                seen.store(true, Ordering::Relaxed);
                Ok::<(), io::Error>(())
            });
            core.handle().shutdown();
            Ok(())
        }
    });
    let goes_on = goes_on.load(Ordering::Relaxed);
    conclude(result, &json!({ "in_the_hook": goes_on }))
}

/// Stops itself, and takes its listeners when the stop is under way.
pub(crate) fn listens_late(args: Args) -> ExitCode {
    args.finish();
    let mut runtime = crate::process::builder().build().expect("a ring");
    let listener = runtime.bind("127.0.0.1:0").expect("a port");
    let result = runtime.run(move |core| {
        let listener = listener.clone();
        async move {
            core.handle().shutdown();
            while core.handle().phase() == Phase::Running {
                sleep(Duration::from_millis(1)).await;
            }
            // A turn more: the core has heard of it as well.
            sleep(Duration::from_millis(20)).await;
            listener.on(&core).serve(answer_all).await
        }
    });
    conclude(result, &json!({}))
}

/// Answers each byte with `y` while the runtime is ready, and `n` after.
pub(crate) fn tells_readiness(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |core, listener| async move {
        let handle = core.handle();
        listener
            .serve(move |mut stream| {
                let handle = handle.clone();
                async move {
                    while stream.next_request().await? {
                        let asked = stream.recv().await?;
                        let answer = if handle.is_ready() { b"y" } else { b"n" };
                        if !asked.is_empty() {
                            stream.write_all(answer).await?;
                        }
                    }
                    Ok(())
                }
            })
            .await
    });
    conclude(result, &json!({}))
}

/// An echo that waits in `recv` between requests.
pub(crate) fn knows_no_requests(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |_core, listener| async move {
        listener.serve(answer_plainly).await
    });
    conclude(result, &json!({}))
}

/// Streams to whoever connects until it sees the drain, and takes its leave with what it has seen:
/// in each phase, and of a connection that it has made itself.
pub(crate) fn streams(args: Args) -> ExitCode {
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = elsewhere.local_addr().expect("bound");
    let result = host(Setup::only(args), move |core, listener| async move {
        let handle = core.handle();
        listener
            .serve(move |stream| stream_until_drained(handle.clone(), stream, to))
            .await
    });
    conclude(result, &json!({}))
}

async fn stream_until_drained(handle: Handle, stream: Stream, to: SocketAddr) -> io::Result<()> {
    let outgoing = Stream::connect(to).await?;
    let running = stream.draining();
    let (reader, mut writer) = stream.into_split();
    let mut notice = None;
    while !writer.draining() {
        if handle.phase() == Phase::Notice {
            notice = Some(writer.draining());
        }
        writer.write_all(b"................").await?;
        sleep(Duration::from_millis(5)).await;
    }
    let (notice, now) = (notice.unwrap_or(true), reader.draining());
    let out = outgoing.draining();
    let farewell = format!("bye running={running} notice={notice} now={now} out={out}");
    writer.write_all(farewell.as_bytes()).await
}
