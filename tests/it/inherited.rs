//! Signals as a process finds them and as it leaves them: what was ignored at
//! its start, what its children get, and what is there again after `run`.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use evenfall::time::sleep;
use evenfall::{Core, Cores, ErrorKind};
use serde_json::{Value, json};

use crate::args::Args;
use crate::process::{Ended, Program, ROLE, say};
use crate::promise::promises;
use crate::server::conclude;
use crate::sys;

promises![
    nohups_ignored_sighup_does_not_stop_though_it_is_a_trigger,
    a_background_jobs_ignored_sigint_and_sigquit_do_not_stop,
    an_ignored_sigterm_stops_all_the_same_and_is_ignored_again_afterwards,
    a_child_with_clean_signals_has_mask_and_dispositions_of_before,
    a_child_without_them_inherits_the_blocked_mask,
    a_signal_to_a_clean_child_before_its_program_begins_is_not_lost,
    mask_and_dispositions_are_as_before_after_run,
    an_earlier_handler_is_called_again_after_run,
    a_second_runtime_that_wants_the_signals_is_refused_and_told_how,
    runtimes_one_after_another_hear_the_signals_each,
];

/// Starts the role `inherits`, with `ignored` ignored by whoever starts it.
fn inheriting(ignored: &'static [i32], words: &[&str]) -> Program {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, "inherits").args(words);
    sys::begin_ignoring(&mut command, ignored);
    let mut program = Program::start(&format!("inherits {}", words.join(" ")), command);
    program.line("running");
    program
}

/// SIGTERM stops it, and was the first signal that it has heard.
#[track_caller]
fn stops_by_sigterm_only(program: Program) -> Ended {
    program.signal(libc::SIGTERM);
    let ended = program.finish();
    let report = ended.report(0);
    report.loses_nothing();
    let triggers = report.part("triggers").as_array().expect("a list");
    assert_eq!(triggers.len(), 1, "{triggers:?}");
    assert_eq!(triggers[0]["signal"], libc::SIGTERM);
    ended
}

/// The real nohup, and a signal as a closing terminal sends it.
fn nohups_ignored_sighup_does_not_stop_though_it_is_a_trigger() {
    let mut command = Command::new("nohup");
    command.arg(std::env::current_exe().expect("this program"));
    command.env(ROLE, "inherits").arg("all=true");
    let mut server = Program::start("nohup inherits", command);
    server.line("running");
    server.signal(libc::SIGHUP);
    stops_by_sigterm_only(server);
}

fn a_background_jobs_ignored_sigint_and_sigquit_do_not_stop() {
    let server = inheriting(&[libc::SIGINT, libc::SIGQUIT], &["all=true"]);
    server.signal(libc::SIGINT);
    server.signal(libc::SIGQUIT);
    stops_by_sigterm_only(server);
}

/// It is the one word that a supervisor has before it kills.
fn an_ignored_sigterm_stops_all_the_same_and_is_ignored_again_afterwards() {
    let server = inheriting(&[libc::SIGTERM], &["afterwards=15"]);
    let ended = stops_by_sigterm_only(server);
    assert_eq!(ended.json("facts ")["survived"], true);
}

fn a_child_with_clean_signals_has_mask_and_dispositions_of_before() {
    let ended = inheriting(&[libc::SIGHUP], &["children=true"]);
    let ended = stops_by_sigterm_only(ended);
    let facts = ended.json("facts ");
    let before = &facts["before"];
    assert_eq!(before["SigIgn"], json!([libc::SIGHUP, libc::SIGPIPE]));
    // The standard library gives its children SIGPIPE's default back.
    assert_eq!(facts["clean"]["SigIgn"], json!([libc::SIGHUP]), "{facts}");
    assert_eq!(facts["clean"]["SigBlk"], json!([]), "{facts}");
    assert_eq!(facts["clean"]["SigCgt"], json!([]), "{facts}");
}

fn a_child_without_them_inherits_the_blocked_mask() {
    let ended = inheriting(&[], &["children=true"]);
    let ended = stops_by_sigterm_only(ended);
    let facts = ended.json("facts ");
    let blocked = json!([libc::SIGINT, libc::SIGTERM]);
    assert_eq!(facts["plain"]["SigBlk"], blocked, "{facts}");
    assert_eq!(facts["plain"]["SigCgt"], json!([]), "{facts}");
}

/// Between fork and exec it still has its parent's handlers.
fn a_signal_to_a_clean_child_before_its_program_begins_is_not_lost() {
    let ended = stops_by_sigterm_only(inheriting(&[], &["children=true"]));
    let facts = ended.json("facts ");
    assert_eq!(facts["early"], libc::SIGTERM, "{facts}");
}

fn mask_and_dispositions_are_as_before_after_run() {
    let ended = stops_by_sigterm_only(inheriting(&[libc::SIGHUP], &["all=true"]));
    let facts = ended.json("facts ");
    for mask in ["SigBlk", "SigIgn"] {
        assert_eq!(facts["before"][mask], facts["after"][mask], "{facts}");
        assert_ne!(facts["before"], facts["during"], "{facts}");
    }
    // A handler of the registry's stays, and does what was done before: the
    // test `stop::later_signals_do_what_they_did_before` looks at that.
    let taken = json!([
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGTERM
    ]);
    let caught = |when: &str| -> Vec<i32> {
        let list = facts[when]["SigCgt"].clone();
        serde_json::from_value(list).expect("numbers")
    };
    let before = caught("before");
    let added = caught("after").into_iter().filter(|s| !before.contains(s));
    assert_eq!(json!(added.collect::<Vec<_>>()), taken, "{facts}");
}

fn an_earlier_handler_is_called_again_after_run() {
    let ended = stops_by_sigterm_only(inheriting(&[], &["handler=true", "afterwards=15"]));
    let facts = ended.json("facts ");
    assert_eq!(facts["survived"], true);
    assert_eq!(facts["deliveries"], json!([0, 1]), "before and after");
}

fn a_second_runtime_that_wants_the_signals_is_refused_and_told_how() {
    let ended = stops_by_sigterm_only(inheriting(&[], &["second=true"]));
    let refused = ended.json("facts ")["second"].clone();
    assert_eq!(refused["kind"], "Signals", "{refused}");
    let text = refused["text"].as_str().expect("an error");
    assert!(text.contains(".signals([])"), "{text}");
}

fn runtimes_one_after_another_hear_the_signals_each() {
    let mut program = inheriting(&[], &["rounds=3"]);
    for _ in 0..2 {
        program.signal(libc::SIGTERM);
        crate::report::Report::new(program.json("report ")).loses_nothing();
        program.line("running");
    }
    stops_by_sigterm_only(program);
}

/// What a run looks at and does besides.
struct Besides {
    /// `all`: all signals are triggers.
    all: bool,
    /// `children`: their masks are looked at.
    children: bool,
    /// `second`: another runtime wants the signals.
    second: bool,
}

/// Runs a runtime (with `rounds`, one after another) until it is stopped, and
/// says what became of the signals; with `afterwards` it sends itself that
/// signal then, with `handler` it has one for SIGTERM from the beginning.
pub(crate) fn inherits(mut args: Args) -> ExitCode {
    let besides = Besides {
        all: args.number("all", false),
        children: args.number("children", false),
        second: args.number("second", false),
    };
    let handler = args.number("handler", false);
    let rounds: u32 = args.number("rounds", 1);
    let afterwards: Option<i32> = args.take("afterwards");
    args.finish();
    if handler {
        sys::count_deliveries(libc::SIGTERM).expect("a handler");
    }
    for _ in 1..rounds {
        let (result, _facts) = round(&besides);
        let report = result.expect("a runtime that ran");
        say(&format!("report {}", report.to_json()));
    }
    let (result, mut facts) = round(&besides);
    let counted = sys::deliveries();
    if let Some(signal) = afterwards {
        sys::kill(std::process::id(), signal).expect("this process lives");
        // A signal to one's own process is delivered before kill returns.
        facts["survived"] = json!(true);
    }
    facts["deliveries"] = json!([counted, sys::deliveries()]);
    conclude(result, &facts)
}

/// One runtime's life, and the masks before, in and after it.
fn round(besides: &Besides) -> (evenfall::Result<evenfall::Report>, Value) {
    let own = std::process::id();
    let before = masks(own);
    let mut builder = crate::process::builder().cores(Cores::Count(1));
    if besides.all {
        let (stops, others) = ([libc::SIGTERM, libc::SIGINT], [libc::SIGQUIT, libc::SIGHUP]);
        let users = [libc::SIGUSR1, libc::SIGUSR2];
        builder = builder.signals([stops, others, users].into_iter().flatten());
    }
    let runtime = builder.build().expect("a runtime");
    let during = masks(own);
    let mut facts = json!({});
    if besides.children {
        facts = children();
    }
    if besides.second {
        facts["second"] = second();
    }
    let result = runtime.run(|core: Core| async move {
        say("running");
        while core.handle().is_ready() {
            sleep(Duration::from_millis(1)).await;
        }
        Ok::<(), io::Error>(())
    });
    facts["before"] = before;
    facts["during"] = during;
    facts["after"] = masks(own);
    (result, facts)
}

fn second() -> Value {
    let error = crate::process::builder().build().expect_err("one has them");
    let kind: ErrorKind = error.kind();
    json!({ "kind": format!("{kind:?}"), "text": error.to_string() })
}

fn masks(pid: u32) -> Value {
    let mask = |name: &str| (name.to_owned(), json!(sys::signals_in(pid, name)));
    Value::Object(
        ["SigBlk", "SigIgn", "SigCgt"]
            .map(mask)
            .into_iter()
            .collect(),
    )
}

/// The masks of children, and how one ends that gets a signal early.
fn children() -> Value {
    let mut plain = sleeper();
    let mut clean = sleeper();
    evenfall::process::with_clean_signals(&mut clean).expect("signals");
    let mut early = sleeper();
    evenfall::process::with_clean_signals(&mut early).expect("signals");
    sys::signal_before_exec(&mut early, libc::SIGTERM);
    let masks_of = |command: &mut Command| {
        let mut child = command.spawn().expect("sleep is there");
        let masks = masks(child.id());
        end(&mut child);
        masks
    };
    // It may die before its program begins, and then it is not started.
    let early = early.spawn().map(|mut child| end(&mut child));
    json!({
        "plain": masks_of(&mut plain),
        "clean": masks_of(&mut clean),
        "early": early.ok().flatten(),
    })
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("100").stdin(Stdio::null());
    sys::die_with_starter(&mut command);
    command
}

/// Kills a child that still runs; the signal that ended it.
fn end(child: &mut Child) -> Option<i32> {
    // Fails for one that has ended already.
    let _ended = child.kill();
    child.wait().expect("an own child").signal()
}
