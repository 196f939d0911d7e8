//! A process ends by the hard deadline even if the thread that sees to it does not
//! move any more; and not because the process was stopped for a while.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use evenfall::time::sleep;
use evenfall::{Core, Cores, Handle, Phase, Shutdown, spawn_background};
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, say};
use crate::promise::promises;
use crate::server::conclude;
use crate::sys;

promises![
    a_wedged_coordinator_ends_by_the_dead_man,
    the_end_of_another_runtime_disarms_nothing,
    a_stop_that_ended_in_time_is_not_ended_again,
    a_stop_across_sigstop_is_not_ended_by_the_dead_man,
];

/// Stops the server and wedges its coordinator; the dead-man must end it.
#[track_caller]
fn ends_by_the_dead_man(words: &[&str]) {
    let mut server = Program::role("wedged", words);
    server.line("running");
    let began = Instant::now();
    server.signal(libc::SIGTERM);
    server.line("wedged");
    let ended = server.finish();
    ended.exited(82);
    assert!(
        !ended.said.iter().any(|line| line.starts_with("report ")),
        "{}",
        ended.told("a wedged coordinator gives no report")
    );
    let took = began.elapsed();
    // The hard deadline and four heartbeats, and room for a busy machine.
    assert!(took >= Duration::from_millis(1_200), "{took:?}");
    assert!(took < Duration::from_millis(3_000), "{took:?}");
}

fn a_wedged_coordinator_ends_by_the_dead_man() {
    ends_by_the_dead_man(&["timeout=1000", "wedge=true"]);
}

/// They share one signal: the first to end must leave it to the other.
fn the_end_of_another_runtime_disarms_nothing() {
    ends_by_the_dead_man(&["timeout=1000", "wedge=true", "another=true"]);
}

/// It lives on for longer than it would have been given, and its signals do
/// what they did before.
fn a_stop_that_ended_in_time_is_not_ended_again() {
    let mut server = Program::role("wedged", &["timeout=300", "live_on=1500"]);
    server.line("running");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    ended.report(0);
    let caught = ended.json("caught ");
    assert_eq!(caught["after"], caught["before"], "real-time signals");
    assert_ne!(caught["during"], caught["before"], "one of them is taken");
}

/// It stands still from before its hard deadline until long after the last
/// tick; then a task that hangs is cut, and the report is given.
fn a_stop_across_sigstop_is_not_ended_by_the_dead_man() {
    let mut server = Program::role("wedged", &["timeout=1000", "hang=true"]);
    server.line("running");
    server.signal(libc::SIGTERM);
    server.line("draining");
    server.signal(libc::SIGSTOP);
    // The point of the test is that time goes by.
    std::thread::sleep(Duration::from_millis(3_000));
    server.signal(libc::SIGCONT);
    let report = server.finish().report(81);
    let suspended_ms = report.part("suspended_ms").as_f64().expect("a time");
    assert!(suspended_ms > 2_500.0, "{suspended_ms} ms");
}

/// Says `draining` when that has begun, and with `wedge` wedges the
/// coordinator, which is the first thread of this process.
async fn in_draining(handle: Handle, wedge: bool) {
    while matches!(handle.phase(), Phase::Running | Phase::Notice) {
        sleep(Duration::from_millis(1)).await;
    }
    say("draining");
    if wedge {
        sys::wedge_first_thread().expect("a thread of this process");
        say("wedged");
    }
}

/// A runtime without a listener whose main futures wait for the stop (with
/// `wedge` or `hang` in vain). `another` runs and ends while it is there; with
/// `live_on` the process is there for so long after its runtime.
pub(crate) fn wedged(mut args: Args) -> ExitCode {
    let timeout = args.millis("timeout").expect("timeout is a time");
    let wedge = args.number("wedge", false);
    let hang = args.number("hang", false);
    let another = args.number("another", false);
    let live_on = args.millis("live_on").unwrap_or_default();
    args.finish();
    if wedge {
        sys::prepare_to_wedge().expect("a handler of SIGUSR2");
    }
    let before = sys::caught_real_time_signals();
    let runtime = crate::process::builder()
        .cores(Cores::Count(1))
        .shutdown(Shutdown::default().timeout(timeout))
        .build()
        .expect("a runtime");
    let during = sys::caught_real_time_signals();
    if another {
        let run = || -> evenfall::Result<_> {
            let another = crate::process::builder()
                .cores(Cores::Count(1))
                .signals([])
                .build()?;
            another.run(|_core| async { Ok(()) })
        };
        let ran = std::thread::spawn(run).join().expect("no panic");
        assert_eq!(ran.expect("a second runtime").verdict.code(), 0);
    }
    let result = runtime.run(move |core: Core| async move {
        let handle = core.handle();
        drop(spawn_background(in_draining(handle.clone(), wedge)));
        say("running");
        while wedge || hang || handle.is_ready() {
            sleep(Duration::from_millis(1)).await;
        }
        Ok::<(), io::Error>(())
    });
    let after = sys::caught_real_time_signals();
    say(&format!(
        "caught {}",
        json!({ "before": before, "during": during, "after": after })
    ));
    // Not a wait for something: nothing must happen meanwhile.
    std::thread::sleep(live_on);
    conclude(result, &json!({}))
}
