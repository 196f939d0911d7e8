//! As PID 1, as in a container: what is not caught is ignored there, and what
//! stops a runtime stops it as everywhere.
//!
//! These tests run a server in a namespace of processes. Its signals come from
//! inside, where its own children live, and from outside, as a container's.
#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use evenfall::time::sleep;
use evenfall::{Core, Cores, spawn_background};
use serde_json::{Value, json};

use crate::args::Args;
use crate::process::{Program, ROLE, say};
use crate::promise::promises;
use crate::report::Report;
use crate::server::conclude;
use crate::sys;

promises![
    a_signal_from_inside_stops_pid_one,
    a_signal_from_outside_stops_pid_one,
    the_third_signal_leaves_pid_one_at_once,
    pid_one_goes_on_at_signals_that_are_not_its_runtimes,
    after_its_runtime_pid_one_ignores_the_signal_and_another_runtime_hears_it,
];

/// Where AddressSanitizer reads its options, if it is in this build. The last word on each counts.
const SANITIZER: &str = "ASAN_OPTIONS";

/// What this program exits with where the first of its namespace was killed
/// by a signal: this and the signal's number. The codes of a report are below.
const KILLED: u8 = 200;

/// A server that is PID 1, by way of a process that starts it.
///
/// No leak checker looks at either. It takes the threads it has to stop from `/proc/<pid>`, where
/// there is no `/proc` but that of the outer namespace, in which number 1 is somebody else. And it
/// forks, which the starter cannot do any more once its first child is gone.
fn first(words: &[&str]) -> (Program, u32) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, "starts_pid_one").args(words);
    if let Ok(options) = std::env::var(SANITIZER) {
        command.env(SANITIZER, format!("{options}:detect_leaks=0"));
    }
    let mut outer = Program::start(&format!("starts_pid_one {}", words.join(" ")), command);
    let pid = outer.line("outside ").parse().expect("a process");
    outer.line("running as 1");
    (outer, pid)
}

#[track_caller]
fn stopped(outer: Program, pid: Value) {
    let report = outer.finish().report(0);
    report.loses_nothing();
    let trigger = &report.part("triggers")[0];
    assert_eq!(trigger["signal"], libc::SIGTERM);
    assert_eq!(trigger["pid"], pid, "{trigger}");
}

fn a_signal_from_inside_stops_pid_one() {
    let (mut outer, _pid) = first(&["child=15"]);
    let child: u32 = outer.line("child ").parse().expect("a process");
    stopped(outer, json!(child));
}

/// A sender that the namespace does not know has no number there.
fn a_signal_from_outside_stops_pid_one() {
    for words in [&[][..], &["foreign=true"]] {
        let (outer, pid) = first(words);
        sys::kill(pid, libc::SIGTERM).expect("nobody has reaped it");
        stopped(outer, Value::Null);
    }
}

fn the_third_signal_leaves_pid_one_at_once() {
    let (mut outer, pid) = first(&["hang=true"]);
    let term = || sys::kill(pid, libc::SIGTERM).expect("nobody has reaped it");
    // At most one counts in 300 ms.
    let apart = Duration::from_millis(350);
    term();
    std::thread::sleep(apart);
    term();
    outer.line("hook began");
    std::thread::sleep(apart);
    term();
    let ended = outer.finish();
    ended.exited(128 + libc::SIGTERM);
    assert!(!ended.said.iter().any(|line| line.starts_with("report ")));
}

/// Of SIGHUP it has no handler.
fn pid_one_goes_on_at_signals_that_are_not_its_runtimes() {
    let (mut outer, pid) = first(&["child=1"]);
    outer.line("child ");
    sys::kill(pid, libc::SIGHUP).expect("nobody has reaped it");
    sys::kill(pid, libc::SIGTERM).expect("nobody has reaped it");
    stopped(outer, Value::Null);
}

/// The default that is raised again ends nobody here, so the handler must
/// still be there afterwards.
fn after_its_runtime_pid_one_ignores_the_signal_and_another_runtime_hears_it() {
    let (mut outer, pid) = first(&["foreign=true", "again=true"]);
    sys::kill(pid, libc::SIGTERM).expect("nobody has reaped it");
    Report::new(outer.json("report ")).adds_up();
    outer.line("between");
    sys::kill(pid, libc::SIGTERM).expect("nobody has reaped it");
    outer.line("running as 1");
    sys::kill(pid, libc::SIGTERM).expect("nobody has reaped it");
    stopped(outer, Value::Null);
}

/// Starts the role `is_pid_one` as the first process of a namespace, with the
/// words it was given itself, and ends as that does.
pub(crate) fn starts_pid_one(_args: Args) -> ExitCode {
    if let Err(why) = sys::make_next_child_pid_one() {
        panic!("{why}");
    }
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .env(ROLE, "is_pid_one")
        .args(std::env::args().skip(1))
        .stdin(Stdio::piped());
    sys::die_with_starter(&mut command);
    let mut child = command.spawn().expect("this program starts");
    say(&format!("outside {}", child.id()));
    // Now it may speak: whoever reads takes the lines in this order.
    drop(child.stdin.take());
    let status = child.wait().expect("an own child");
    let killed = |signal: i32| KILLED.saturating_add(signal.unsigned_abs() as u8);
    let code = status.code().map(|code| code as u8);
    ExitCode::from(code.unwrap_or_else(|| killed(status.signal().unwrap_or_default())))
}

/// A runtime in the first process of a namespace. Options: a `child` that
/// sends it that signal; a `foreign` thread that has the signals unblocked;
/// `hang`: its main future never ends, nor does a hook; `again`: a second runtime after it.
pub(crate) fn is_pid_one(mut args: Args) -> ExitCode {
    let child: Option<i32> = args.take("child");
    let foreign = args.number("foreign", false);
    let hang = args.number("hang", false);
    let again = args.number("again", false);
    args.finish();
    let told = io::stdin().read(&mut [0]).expect("its starter's end");
    assert_eq!(told, 0, "it is closed, and nothing is said");
    if foreign {
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
    }
    if again {
        let report = run(None, false).expect("a runtime that ran");
        say(&format!("report {}", report.to_json()));
        say("between");
        // Nothing shows that a signal was ignored but that nothing happens.
        std::thread::sleep(Duration::from_millis(300));
    }
    conclude(run(child, hang), &json!({}))
}

fn run(child: Option<i32>, hang: bool) -> evenfall::Result<evenfall::Report> {
    let runtime = crate::process::builder().cores(Cores::Count(1)).build()?;
    runtime.run(move |core: Core| async move {
        let handle = core.handle();
        say(&format!("running as {}", std::process::id()));
        if let Some(signal) = child {
            drop(spawn_background(async move { send_by_child(signal) }));
        }
        if hang {
            core.on_shutdown("hang", Duration::from_secs(60), async || {
                say("hook began");
                sleep(Duration::from_secs(30)).await;
                Ok::<(), io::Error>(())
            });
        }
        while hang || handle.is_ready() {
            sleep(Duration::from_millis(1)).await;
        }
        Ok::<(), io::Error>(())
    })
}

/// A process of the namespace sends its first one a signal.
fn send_by_child(signal: i32) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, "sends");
    command.args(["pid=1", "how=kill", &format!("signal={signal}")]);
    sys::die_with_starter(&mut command);
    let mut child = command.spawn().expect("this program starts");
    let sent = child.wait().expect("an own child");
    assert!(sent.success(), "{sent}");
    say(&format!("child {}", child.id()));
}
