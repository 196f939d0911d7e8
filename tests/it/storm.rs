//! Many triggers at once: a storm of signals, and callers from many threads.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use evenfall::time::sleep;
use evenfall::{Cores, Handle, Phase, Shutdown};
use serde_json::{Value, json};

use crate::args::Args;
use crate::process::{Program, say};
use crate::promise::{heavy, promises};
use crate::server::conclude;
use crate::sys;

promises![
    a_short_storm_is_one_stop_with_one_report,
    a_short_storm_on_a_foreign_thread_is_one_stop_with_one_report,
    a_storm_of_two_seconds_leaves_by_a_signal_of_it,
    a_signal_after_the_last_look_ends_nobody,
    a_storm_that_goes_on_keeps_nobody_in_run,
    each_signal_that_may_be_chosen_stops,
    a_stop_from_64_threads_is_one_stop,
    a_stop_from_64_threads_has_the_budget_of_one_of_them,
];

/// All signals that may stop a runtime.
const ALL: [i32; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Between two signals: 10,000 a second.
const EVERY: Duration = Duration::from_micros(100);

/// Sends mixed signals to `program` for `length`, by the clock: what a late
/// wake has missed is made up for. Gives how many.
fn storm(program: &Program, length: Duration) -> u32 {
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < length {
        let due = EVERY * sent;
        match due.checked_sub(began.elapsed()) {
            Some(early) if !early.is_zero() => std::thread::sleep(early),
            _ => {
                program.signal(ALL[sent as usize % ALL.len()]);
                sent += 1;
            }
        }
    }
    sent
}

/// A hook holds the stop for 900 ms; after 300 ms the next signal would count. So the storm lasts for
/// half of that: the last one may be sent late, and be heard late, on a machine that is busy.
#[track_caller]
fn one_stop(words: &[&str]) {
    let _alone = heavy();
    let mut server = Program::role("stormy", words);
    server.line("running");
    let sent = storm(&server, Duration::from_millis(length_ms()));
    assert!(
        u64::from(sent) > 4 * length_ms(),
        "that was no storm: {sent}"
    );
    let ended = server.finish();
    let report = ended.report(0);
    report.loses_nothing();
    assert!(report.elapsed_ms() >= 900.0, "{} ms", report.elapsed_ms());
    let hook = ("hold".to_owned(), "ok".to_owned());
    assert_eq!(report.hooks(), [hook]);
    let reports = ended.said.iter().filter(|l| l.starts_with("report "));
    assert_eq!(reports.count(), 1);
    let triggers = report.part("triggers").as_array().expect("a list");
    assert!(
        triggers.iter().all(|t| t["pid"] == std::process::id()),
        "{triggers:?}"
    );
}

/// How long the storm lasts that is to be one stop (ms). A signal that is heard 300 ms after the first
/// one counts as a second, so that of a longer storm a coordinator that is kept from its processor
/// hears two: up to 290 is for a machine with nothing else to do.
fn length_ms() -> u64 {
    let asked = std::env::var("EVENFALL_STORM_MS").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(150)
}

fn a_short_storm_is_one_stop_with_one_report() {
    one_stop(&["hook=900"]);
}

fn a_short_storm_on_a_foreign_thread_is_one_stop_with_one_report() {
    one_stop(&["hook=900", "foreign=true"]);
}

fn a_storm_of_two_seconds_leaves_by_a_signal_of_it() {
    let _alone = heavy();
    for words in [&["hook=900"][..], &["hook=900", "foreign=true"]] {
        let mut server = Program::role("stormy", words);
        server.line("running");
        storm(&server, Duration::from_secs(2));
        let ended = server.finish();
        let code = ended.status.code().map(|code| code - 128);
        assert!(
            code.is_some_and(|signal| ALL.contains(&signal)),
            "{}",
            ended.told("no way out by the third signal")
        );
        assert!(!ended.said.iter().any(|line| line.starts_with("report ")));
    }
}

/// A core's thread sends the signal when the coordinator has heard all: it
/// was meant for the runtime, and the report must not be lost to it.
fn a_signal_after_the_last_look_ends_nobody() {
    for words in [&["last=true"][..], &["last=true", "foreign=true"]] {
        let mut server = Program::role("stormy", words);
        server.line("running");
        server.signal(libc::SIGTERM);
        server.line("sent at last");
        server.finish().report(0).loses_nothing();
    }
}

/// While it lasts `run` returns, though the thread that sends them is always at work, and for all one
/// can see from outside on its way to a handler.
fn a_storm_that_goes_on_keeps_nobody_in_run() {
    let _alone = heavy();
    for _ in 0..3 {
        let ended = Program::role("beset", &[]).finish();
        let took_ms = ended.json("facts ")["took_ms"].as_f64().expect("a time");
        let most_ms = BESET.as_secs_f64() * 1e3 / 2.0;
        assert!(took_ms < most_ms, "{}", ended.told("it took too long"));
    }
}

/// How long the signals go on at most, and the time from one to the next: less than the kernel's slack
/// of 50 µs, by which a sleep grows that is taken up again after each.
const BESET: Duration = Duration::from_secs(2);
const CLOSELY: Duration = Duration::from_micros(20);

/// Stops itself by signals that go on until `run` is over, and says how long that took.
pub(crate) fn beset(args: Args) -> ExitCode {
    args.finish();
    // Those that come when all is over do nothing.
    sys::catch(libc::SIGTERM).expect("a handler of SIGTERM");
    let runtime = crate::process::builder()
        .cores(Cores::Count(1))
        .build()
        .expect("a runtime");
    let over = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&over);
    let storm = std::thread::spawn(move || {
        let began = Instant::now();
        while !asked.load(Ordering::Relaxed) && began.elapsed() < BESET {
            let sent = Instant::now();
            sys::kill(std::process::id(), libc::SIGTERM).expect("this process lives");
            while sent.elapsed() < CLOSELY {
                std::hint::spin_loop();
            }
        }
        began
    });
    let result = runtime.run(|core| {
        let handle = core.handle();
        async move {
            until_draining(&handle).await;
            Ok(())
        }
    });
    let returned = Instant::now();
    over.store(true, Ordering::Relaxed);
    let began = storm.join().expect("it only sends");
    let took_ms = (returned - began).as_secs_f64() * 1e3;
    conclude(result, &json!({ "took_ms": took_ms }))
}

fn each_signal_that_may_be_chosen_stops() {
    for signal in ALL {
        let mut server = Program::role("stormy", &[]);
        server.line("running");
        server.signal(signal);
        let report = server.finish().report(0);
        report.loses_nothing();
        assert_eq!(report.part("triggers")[0]["signal"], signal);
    }
}

/// Runs the 64 callers; each has waited for the report.
#[track_caller]
fn many_callers(how: &str, code: i32) -> (Value, crate::report::Report) {
    let ended = Program::role("is_called_by_many", &[&format!("how={how}")]).finish();
    let report = ended.report(code);
    let facts = ended.json("facts ");
    assert_eq!(facts["same"], CALLERS, "each has the one report: {facts}");
    let phases = json!(["draining", "hooks", "closing", "terminated"]);
    assert_eq!(facts["phases"], phases, "each phase once: {facts}");
    let of_report = report.part("phases").as_array().expect("a list").len();
    assert_eq!(of_report, 3, "{}", report.part("phases"));
    let triggers = report.part("triggers").as_array().expect("a list");
    assert!(triggers.iter().all(|t| t["kind"] == "api"), "{triggers:?}");
    (facts, report)
}

fn a_stop_from_64_threads_is_one_stop() {
    let (_, report) = many_callers("shutdown", 81);
    assert_cut_at(&report, &[CONFIGURED]);
}

/// The last word on the time is one caller's, whole.
fn a_stop_from_64_threads_has_the_budget_of_one_of_them() {
    for how in ["within", "mixed"] {
        let (_, report) = many_callers(how, 81);
        assert_cut_at(&report, &[CONFIGURED, SHORT, LONG]);
    }
}

/// Callers at once.
const CALLERS: usize = 64;

/// The configured time, and two that callers ask for. They are so far apart
/// that a busy machine cannot make one look like the other.
const CONFIGURED: Duration = Duration::from_millis(2_000);
const SHORT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_millis(3_500);

/// The drain lasted for one of `timeouts` less the tenth kept for closing.
#[track_caller]
fn assert_cut_at(report: &crate::report::Report, timeouts: &[Duration]) {
    let draining = &report.part("phases")[0];
    assert_eq!(draining["ended_by"], "deadline", "{draining}");
    let end_ms = draining["end_ms"].as_f64().expect("a time");
    let fits = |timeout: &Duration| {
        let drain_ms = timeout.as_secs_f64() * 900.0;
        (drain_ms..drain_ms + 700.0).contains(&end_ms)
    };
    assert!(timeouts.iter().any(fits), "cut at {end_ms} ms");
}

/// Stops a runtime whose mains never end, from 64 threads at once.
pub(crate) fn is_called_by_many(mut args: Args) -> ExitCode {
    let how: String = args.take("how").expect("how is shutdown, within or mixed");
    args.finish();
    let runtime = crate::process::builder()
        .cores(Cores::Count(1))
        .shutdown(Shutdown::default().timeout(CONFIGURED))
        .build()
        .expect("a runtime");
    let mut phases = runtime.handle().phases();
    let watcher = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while let Some(phase) = phases.wait_next().expect("no core") {
            seen.push(phase.to_string());
        }
        seen
    });
    let barrier = Arc::new(Barrier::new(CALLERS));
    let callers: Vec<_> = (0..CALLERS)
        .map(|index| {
            let (handle, barrier) = (runtime.handle(), Arc::clone(&barrier));
            let within = how == "within" || how == "mixed" && index % 2 == 0;
            std::thread::spawn(move || {
                barrier.wait();
                match within {
                    true if index % 4 < 2 => handle.shutdown_within(SHORT),
                    true => handle.shutdown_within(LONG),
                    false => handle.shutdown(),
                }
                handle.wait().expect("no core").to_json()
            })
        })
        .collect();
    let result = runtime.run(|_core| async {
        pending::<()>().await;
        Ok(())
    });
    let own = result.as_ref().map(evenfall::Report::to_json).ok();
    let waited = callers.into_iter().map(|caller| caller.join().ok());
    let same = waited.filter(|waited| *waited == own).count();
    let phases = watcher.join().expect("no panic");
    conclude(result, &json!({ "same": same, "phases": phases }))
}

/// When a thread's destructors run its core is gone, and all that is left to
/// the coordinator is to join it.
struct LastWord;

impl Drop for LastWord {
    fn drop(&mut self) {
        // The coordinator must have looked for the last time by then, and
        // there is no event that says so.
        std::thread::sleep(Duration::from_millis(100));
        sys::kill(std::process::id(), libc::SIGTERM).expect("this process lives");
        say("sent at last");
    }
}

thread_local! {
    static LAST_WORD: RefCell<Option<LastWord>> = const { RefCell::new(None) };
}

/// A runtime that takes all signals, and waits for the stop. Options: a
/// `hook` that takes so long; a `foreign` thread that has the signals
/// unblocked; a signal at the very `last`.
pub(crate) fn stormy(mut args: Args) -> ExitCode {
    let hook = args.millis("hook");
    let foreign = args.number("foreign", false);
    let last = args.number("last", false);
    args.finish();
    if foreign {
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
    }
    let runtime = crate::process::builder()
        .cores(Cores::Count(1))
        .signals(ALL)
        .build()
        .expect("a runtime");
    let result = runtime.run(move |core| {
        if let Some(hook) = hook {
            core.on_shutdown("hold", Duration::from_secs(5), async move || {
                sleep(hook).await;
                Ok::<(), io::Error>(())
            });
        }
        if last {
            LAST_WORD.with_borrow_mut(|word| *word = Some(LastWord));
        }
        let handle = core.handle();
        async move {
            say("running");
            until_draining(&handle).await;
            Ok(())
        }
    });
    conclude(result, &json!({}))
}

async fn until_draining(handle: &Handle) {
    while handle.phase() == Phase::Running {
        sleep(Duration::from_millis(1)).await;
    }
}
