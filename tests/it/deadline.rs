//! What does not end by itself is cut: at the drain deadline, by the second
//! signal, by `force`; and the third signal leaves at once.
#![forbid(unsafe_code)]

use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use evenfall::net::TcpStream;
use evenfall::time::sleep;
use serde_json::{Value, json};

use crate::args::Args;
use crate::process::{Ended, Program, say};
use crate::promise::{Count, load, promises};
use crate::report::Report;
use crate::server::{Setup, conclude, host};

promises![
    a_handler_that_never_ends_is_cut_at_the_drain_deadline_and_named,
    a_main_future_that_never_ends_is_cut_and_named,
    a_second_sigterm_cuts_at_once,
    force_from_a_foreign_thread_cuts_at_once,
    a_third_sigterm_leaves_with_143,
    a_timeout_of_zero_is_force,
];

/// At most one signal counts in 300 ms; this is not a wait for something to
/// happen, it is what makes the next signal another one.
const APART: Duration = Duration::from_millis(350);

/// A server in whose handlers one connection hangs.
fn hanging(words: &[&str]) -> (Program, Program) {
    let mut server = Program::role("hangs", words);
    let load = load(&server.address(), "connections=1 each=1 end=stay");
    server.line("hanging");
    (server, load)
}

/// Asserts a cut: the connection by RST, the hook run, the straggler named.
#[track_caller]
fn cut(ended: &Ended, load: Program) -> Report {
    let report = ended.report(81);
    assert_eq!(report.verdict(), "forced");
    assert_eq!(report.sum("connections", "forced"), 1);
    report.leaves_nothing();
    let hook = ("say so".to_owned(), "ok".to_owned());
    assert!(report.hooks().contains(&hook), "{:?}", report.hooks());
    assert!(ended.said.iter().any(|line| line == "hook ran"));
    let count = Count::of(load);
    assert_eq!(count.number("reset"), 1, "{count:?}");
    report
}

/// The place of a straggler of kind `task` that was spawned in this file.
#[track_caller]
fn task_of_this_file(report: &Report) -> Value {
    let stragglers = report.all("stragglers");
    let named = stragglers.iter().find(|straggler| {
        let site = straggler["spawned_at"].as_str().unwrap_or_default();
        straggler["kind"] == "task" && site.contains("deadline.rs:")
    });
    named
        .unwrap_or_else(|| panic!("no task of this file in {stragglers:?}"))
        .clone()
}

fn a_handler_that_never_ends_is_cut_at_the_drain_deadline_and_named() {
    let (server, load) = hanging(&["timeout=1500"]);
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = cut(&ended, load);
    task_of_this_file(&report);
    let elapsed_ms = report.elapsed_ms();
    // The deadline is the timeout less what is kept for hooks and closing.
    assert!(elapsed_ms > 700.0, "cut too early: {elapsed_ms} ms");
    assert!(elapsed_ms < 2_500.0, "cut too late: {elapsed_ms} ms");
    let draining = phase(&report, "draining");
    assert_eq!(draining["ended_by"], "deadline");
}

#[track_caller]
fn phase(report: &Report, name: &str) -> Value {
    let phases = report.part("phases").as_array().expect("a list").clone();
    let found = phases.iter().find(|phase| phase["name"] == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {phases:?}"))
        .clone()
}

fn a_main_future_that_never_ends_is_cut_and_named() {
    let mut server = Program::role("hangs", &["timeout=600", "main_hangs=true"]);
    server.address();
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = ended.report(81);
    assert!(!report.all("stragglers").is_empty(), "nobody is named");
    assert!(ended.said.iter().any(|line| line == "hook ran"));
    report.leaves_nothing();
}

fn a_second_sigterm_cuts_at_once() {
    let (server, load) = hanging(&["timeout=60000"]);
    server.signal(libc::SIGTERM);
    std::thread::sleep(APART);
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = cut(&ended, load);
    task_of_this_file(&report);
    let triggers = report.part("triggers").as_array().expect("a list");
    assert_eq!(triggers.len(), 2, "{triggers:?}");
    let second_ms = triggers[1]["at_ms"].as_f64().expect("a time");
    let told_ms = report.elapsed_ms() - second_ms;
    assert!(told_ms < 1_500.0, "{told_ms} ms after the second signal");
}

fn force_from_a_foreign_thread_cuts_at_once() {
    let (mut server, load) = hanging(&["timeout=60000"]);
    server.tell("force");
    let ended = server.finish();
    let report = cut(&ended, load);
    assert!(report.elapsed_ms() < 1_500.0);
}

fn a_third_sigterm_leaves_with_143() {
    let (server, _load) = hanging(&["timeout=60000", "hook_hangs=true"]);
    for _ in 0..2 {
        server.signal(libc::SIGTERM);
        std::thread::sleep(APART);
    }
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    ended.exited(128 + libc::SIGTERM);
    assert!(!ended.said.iter().any(|line| line.starts_with("report ")));
}

fn a_timeout_of_zero_is_force() {
    let (server, load) = hanging(&["timeout=0"]);
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = ended.report(81);
    report.leaves_nothing();
    assert!(report.elapsed_ms() < 1_500.0);
    assert_eq!(Count::of(load).number("reset"), 1);
}

/// Handlers (with `main_hangs` the main futures) wait forever; a hook says
/// that it ran, and with `hook_hangs` another waits for half a minute.
pub(crate) fn hangs(mut args: Args) -> ExitCode {
    let main_hangs = args.number("main_hangs", false);
    let hook_hangs = args.number("hook_hangs", false);
    let result = host(Setup::only(args), move |core, listener| async move {
        core.on_shutdown("say so", Duration::from_secs(1), async || {
            say("hook ran");
            Ok::<(), io::Error>(())
        });
        if hook_hangs {
            core.on_shutdown("hang", Duration::from_secs(30), async || {
                sleep(Duration::from_secs(30)).await;
                Ok::<(), io::Error>(())
            });
        }
        if main_hangs {
            pending::<()>().await;
        }
        listener.serve(hang).await
    });
    conclude(result, &json!({}))
}

async fn hang(mut stream: TcpStream) -> io::Result<()> {
    stream.next_request().await?;
    say("hanging");
    pending().await
}
