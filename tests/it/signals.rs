//! Signals: who sent them is in the report, one wish counts once, and it does
//! not matter which thread the kernel chooses.
#![forbid(unsafe_code)]

use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use evenfall::time::sleep;
use evenfall::{Handle, spawn_background};
use serde_json::{Value, json};

use crate::args::Args;
use crate::process::{Ended, Program, say};
use crate::promise::promises;
use crate::report::Report;
use crate::server::{Setup, answer_all, conclude, host};
use crate::sys;

promises![
    the_report_names_the_process_that_sent_the_signal,
    a_signal_of_the_process_itself_is_its_own,
    a_signal_that_nobody_sent_names_nobody,
    a_thread_that_unblocks_a_signal_later_forwards_it,
    two_sigterms_before_the_first_is_read_are_one,
    within_300_ms_signals_of_all_kinds_are_one_and_after_that_two,
    after_an_api_trigger_the_third_signal_leaves_with_its_number,
    a_stop_across_sigstop_makes_no_straggler,
    after_sigcont_each_phase_has_a_turn,
];

/// At most one signal counts in this time.
const DEDUP: Duration = Duration::from_millis(300);

/// This is not a wait for something to happen, it makes the next signal
/// another one.
const APART: Duration = DEDUP.saturating_add(Duration::from_millis(50));

#[track_caller]
fn triggers(report: &Report) -> Vec<Value> {
    let triggers = report.part("triggers").as_array();
    triggers.expect("a list").clone()
}

/// Asserts that one signal of `signal` from process `pid` stopped the server.
#[track_caller]
fn one_signal_from(ended: &Ended, signal: i32, pid: u32) {
    let report = ended.report(0);
    report.loses_nothing();
    let triggers = triggers(&report);
    assert_eq!(triggers.len(), 1, "{triggers:?}");
    assert_eq!(triggers[0]["kind"], "signal");
    assert_eq!(triggers[0]["signal"], signal);
    assert_eq!(triggers[0]["pid"], pid, "{triggers:?}");
}

fn the_report_names_the_process_that_sent_the_signal() {
    for how in ["kill", "queue", "thread"] {
        for words in [&[][..], &["early_thread=true"]] {
            let mut server = Program::role("signalled", words);
            server.address();
            let target = format!("pid={}", server.pid());
            let words = [target.as_str(), &format!("how={how}"), "signal=2"];
            let sender = Program::role("sends", &words);
            let pid = sender.pid();
            sender.finish().exited(0);
            one_signal_from(&server.finish(), libc::SIGINT, pid);
        }
    }
}

fn a_signal_of_the_process_itself_is_its_own() {
    let mut server = Program::role("signalled", &["own=true"]);
    server.address();
    let pid = server.pid();
    one_signal_from(&server.finish(), libc::SIGTERM, pid);
}

/// A handler finds a timer's number where a sender's would be.
fn a_signal_that_nobody_sent_names_nobody() {
    let server = Program::role("signalled", &["timer=true"]);
    let report = server.finish().report(0);
    let triggers = triggers(&report);
    assert_eq!(triggers[0]["signal"], libc::SIGTERM);
    assert_eq!(triggers[0]["pid"], Value::Null, "{triggers:?}");
}

/// A user's thread that was started while the runtime ran, and takes signals.
fn a_thread_that_unblocks_a_signal_later_forwards_it() {
    for to_the_thread in [false, true] {
        let mut server = Program::role("signalled", &["late_thread=true"]);
        let thread: u32 = server.line("thread ").parse().expect("its number");
        let pid = server.pid();
        let sent = match to_the_thread {
            true => sys::kill_thread(pid, thread, libc::SIGTERM),
            false => sys::kill(pid, libc::SIGTERM),
        };
        sent.expect("a live thread of a child");
        one_signal_from(&server.finish(), libc::SIGTERM, std::process::id());
    }
}

/// The server stands still while both are sent.
fn two_sigterms_before_the_first_is_read_are_one() {
    let mut server = Program::role("signalled", &[]);
    server.address();
    server.signal(libc::SIGSTOP);
    server.signal(libc::SIGTERM);
    server.signal(libc::SIGTERM);
    server.signal(libc::SIGCONT);
    one_signal_from(&server.finish(), libc::SIGTERM, std::process::id());
}

fn within_300_ms_signals_of_all_kinds_are_one_and_after_that_two() {
    let mut server = Program::role("signalled", &["hang=true", "timeout=60000"]);
    server.address();
    server.signal(libc::SIGTERM);
    server.signal(libc::SIGINT);
    std::thread::sleep(DEDUP / 3);
    server.signal(libc::SIGTERM);
    std::thread::sleep(APART);
    server.signal(libc::SIGINT);
    let report = server.finish().report(81);
    let triggers = triggers(&report);
    let signals: Vec<_> = triggers.iter().map(|t| t["signal"].clone()).collect();
    // The kernel hands out what is pending by number, not by time.
    assert_eq!(signals.len(), 4, "{triggers:?}");
    assert_eq!(signals[2..], [libc::SIGTERM, libc::SIGINT]);
    let phases = report.part("phases").as_array().expect("a list");
    let draining = phases.iter().find(|phase| phase["name"] == "draining");
    let draining = draining.expect("a stop drains");
    assert_eq!(draining["ended_by"], "force");
    let cut_ms = draining["end_ms"].as_f64().expect("a time");
    let last_ms = triggers[3]["at_ms"].as_f64().expect("a time");
    assert!(
        cut_ms >= last_ms && last_ms >= 300.0,
        "cut at {cut_ms} ms: {triggers:?}"
    );
}

fn after_an_api_trigger_the_third_signal_leaves_with_its_number() {
    let words = ["hang=true", "timeout=60000", "hook=30000", "tell=true"];
    let mut server = Program::role("signalled", &words);
    server.address();
    server.tell("shutdown");
    server.line("draining");
    // So far from the call that it would count as the second if that did.
    std::thread::sleep(APART);
    server.signal(libc::SIGTERM);
    std::thread::sleep(APART);
    server.signal(libc::SIGTERM);
    // The second signal cuts: it is the first one that a hook can follow.
    server.line("hook began");
    std::thread::sleep(APART);
    server.signal(libc::SIGINT);
    let ended = server.finish();
    ended.exited(128 + libc::SIGINT);
    assert!(!ended.said.iter().any(|line| line.starts_with("report ")));
}

/// Stops `server` and suspends it for a while from `draining` on. Of the times
/// in its report only lower bounds are asked: nobody knows when a busy machine
/// lets it go on.
#[track_caller]
fn suspended_in_the_stop(words: &[&str], code: i32) -> Report {
    let mut server = Program::role("signalled", words);
    server.address();
    server.signal(libc::SIGTERM);
    server.line("task waits");
    server.signal(libc::SIGSTOP);
    // The point of the test is that time goes by.
    std::thread::sleep(SUSPENDED);
    server.signal(libc::SIGCONT);
    let report = server.finish().report(code);
    let suspended_ms = report.part("suspended_ms").as_f64().expect("a time");
    assert!(suspended_ms > 2_000.0, "{suspended_ms} ms");
    report
}

/// How long a stop stands still.
const SUSPENDED: Duration = Duration::from_millis(2_500);

/// A core that stood still for longer than makes one stuck was not; what it
/// had to do it does.
fn a_stop_across_sigstop_makes_no_straggler() {
    let words = ["task=200", "timeout=30000", "hook=1"];
    let report = suspended_in_the_stop(&words, 0);
    report.loses_nothing();
    assert!(report.all("stragglers").is_empty());
    let hook = ("hold".to_owned(), "ok".to_owned());
    assert_eq!(report.hooks(), [hook]);
}

/// All deadlines pass while it stands still. Each phase has its turn of 50 ms
/// all the same before it is cut.
fn after_sigcont_each_phase_has_a_turn() {
    let words = ["task=60000", "timeout=1000", "hook=30000"];
    let report = suspended_in_the_stop(&words, 81);
    let phases = report.part("phases").as_array().expect("a list");
    let ms = |phase: usize, at: &str| phases[phase][at].as_f64().expect("a time");
    let continued_ms = SUSPENDED.as_secs_f64() * 1e3;
    assert!(ms(0, "end_ms") >= continued_ms + 50.0, "{phases:?}");
    assert_eq!(phases[1]["name"], "hooks");
    let hooks_ms = ms(1, "end_ms") - ms(1, "start_ms");
    assert!(hooks_ms >= 50.0, "{phases:?}");
}

/// Sends `signal` to process `pid`, in the way that is asked for.
pub(crate) fn sends(mut args: Args) -> ExitCode {
    let pid: u32 = args.take("pid").expect("pid is a process");
    let signal: i32 = args.take("signal").expect("signal is a number");
    let how: String = args.take("how").expect("how is kill, queue or thread");
    args.finish();
    let sent = match how.as_str() {
        "kill" => sys::kill(pid, signal),
        "queue" => sys::queue(pid, signal),
        // The first thread has the number of its process.
        "thread" => sys::kill_thread(pid, pid, signal),
        _ => panic!("nobody sends by {how}"),
    };
    sent.expect("the test has not reaped that process");
    ExitCode::SUCCESS
}

/// What the core of index 0 does besides serving.
#[derive(Clone, Debug)]
struct Besides {
    /// `hook`: it has a hook that takes so long.
    hook: Option<Duration>,
    /// `task`: it has a task that ends so long after the stop has begun.
    task: Option<Duration>,
    /// `hang`: its main future never ends.
    hang: bool,
    /// `own`: it sends its own process SIGTERM.
    own: bool,
    /// `late_thread`: it starts a thread that takes SIGTERM.
    late_thread: bool,
    /// `timer`: such a thread, and a timer sends it that.
    timer: bool,
}

/// An echo server.
pub(crate) fn signalled(mut args: Args) -> ExitCode {
    let besides = Besides {
        hook: args.millis("hook"),
        task: args.millis("task"),
        hang: args.number("hang", false),
        own: args.number("own", false),
        late_thread: args.number("late_thread", false),
        timer: args.number("timer", false),
    };
    let result = host(Setup::only(args), move |core, listener| {
        let besides = besides.clone();
        async move {
            if core.index() == 0 {
                begin(&core, &besides);
            }
            if core.index() == 0 && besides.hang {
                pending::<()>().await;
            }
            listener.serve(answer_all).await
        }
    });
    conclude(result, &json!({}))
}

fn begin(core: &evenfall::Core, besides: &Besides) {
    if let Some(hook) = besides.hook {
        core.on_shutdown("hold", hook + Duration::from_secs(1), async move || {
            say("hook began");
            sleep(hook).await;
            Ok::<(), io::Error>(())
        });
    }
    if let Some(after) = besides.task {
        drop(evenfall::spawn(end_after(core.handle(), after)));
    }
    if besides.own {
        drop(spawn_background(async {
            // The address is said first: the test waits for it.
            sleep(Duration::from_millis(50)).await;
            sys::kill(std::process::id(), libc::SIGTERM).expect("this process lives");
        }));
    }
    if besides.late_thread || besides.timer {
        let timer = besides.timer;
        std::thread::spawn(move || take_sigterm(timer));
    }
}

/// A thread that has SIGTERM unblocked, and perhaps a timer that sends it.
fn take_sigterm(timer: bool) {
    sys::unblock(libc::SIGTERM).expect("a thread's mask is its own");
    if timer {
        let left = Duration::from_millis(50);
        sys::signal_by_timer(libc::SIGTERM, left).expect("a timer");
    }
    say(&format!("thread {}", sys::this_thread()));
    loop {
        std::thread::park();
    }
}

/// Ends so long after the stop has begun. When it says that it waits, its time
/// is running.
async fn end_after(handle: Handle, after: Duration) {
    while handle.is_ready() {
        sleep(Duration::from_millis(1)).await;
    }
    let rest = sleep(after);
    say("task waits");
    rest.await;
}
