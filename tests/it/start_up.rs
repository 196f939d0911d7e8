//! Signals and failures before the cores are up: each start ends in one of the
//! ways that it may, and leaves nothing behind.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use evenfall::{Cores, ErrorKind, spawn_on};
use serde_json::json;

use crate::args::Args;
use crate::port::bind_with_reuseaddr_only;
use crate::process::{Ended, Program, WATCHDOG, say, threads};
use crate::promise::{heavy, promises};
use crate::server::{answer_all, conclude};
use crate::sys;

promises![
    sigterm_at_every_point_of_the_start_ends_it_well,
    a_signal_between_build_and_run_is_heard_and_the_backlog_answered,
    a_signal_for_a_runtime_that_never_ran_does_what_it_did_before,
    an_earlier_handler_hears_once_of_a_signal_for_a_runtime_that_never_ran,
    a_core_that_fails_to_start_fails_build_and_leaves_nothing,
    every_core_begins_its_main_before_what_another_main_sends_it,
];

/// Starts that are swept.
const STARTS: u32 = 200;

/// An address of its own, as in `port`.
const ADDRESS: &str = "addr=127.0.0.41:0";

/// From the first instruction of the program until it listens, and a little
/// further. It dies of the signal, which is the default, until the runtime
/// takes it; from then on there is a report.
fn sigterm_at_every_point_of_the_start_ends_it_well() {
    let _alone = heavy();
    let began = Instant::now();
    let mut server = Program::role("echo", &[ADDRESS]);
    server.address();
    let step = began.elapsed() * 5 / 4 / STARTS;
    drop(server);
    let (mut died, mut reported) = (0, 0);
    for start in 0..STARTS {
        let server = Program::role("echo", &[ADDRESS]);
        wait_for(step * start);
        server.signal(libc::SIGTERM);
        match server.finish() {
            ended if ended.status.signal() == Some(libc::SIGTERM) => {
                let runs = |line: &String| line.starts_with("listening") || is_report(line);
                let too_late = ended.said.iter().any(runs);
                assert!(!too_late, "{}", ended.told("it died while it ran"));
                died += 1;
            }
            ended => {
                stopped_well(&ended);
                reported += 1;
            }
        }
    }
    assert_eq!(died + reported, STARTS);
    // Otherwise the sweep has missed the moments that it is about.
    assert!(
        died > 0 && reported > 0,
        "{died} died, {reported} with a report"
    );
}

fn is_report(line: &str) -> bool {
    line.starts_with("report ")
}

/// Waits by the clock: what is waited for is time itself, in steps that are
/// too small to sleep.
fn wait_for(length: Duration) {
    let began = Instant::now();
    while began.elapsed() < length {
        std::hint::spin_loop();
    }
}

/// It stopped by the signal, and its port can be bound.
#[track_caller]
fn stopped_well(ended: &Ended) {
    let report = ended.report(0);
    report.loses_nothing();
    assert_eq!(report.part("triggers")[0]["signal"], libc::SIGTERM);
    assert_eq!(report.part("triggers")[0]["pid"], std::process::id());
    let address = ended
        .said
        .iter()
        .find_map(|line| line.strip_prefix("listening on "));
    let address = address.expect("the mains are begun before they are stopped");
    let address: SocketAddr = address.parse().expect("an address");
    bind_with_reuseaddr_only(address).expect("the port is free");
}

fn a_signal_between_build_and_run_is_heard_and_the_backlog_answered() {
    let ended = Program::role("starts", &["case=before_run"]).finish();
    let report = ended.report(0);
    report.loses_nothing();
    assert_eq!(ended.json("facts ")["answer"], "evening");
    assert_eq!(report.part("triggers")[0]["signal"], libc::SIGTERM);
}

/// Nobody has heard it, so it is not lost: it ends the process, as it would
/// have done without a runtime.
fn a_signal_for_a_runtime_that_never_ran_does_what_it_did_before() {
    for case in ["case=dropped", "case=dropped_foreign"] {
        let ended = Program::role("starts", &[case]).finish();
        let signal = ended.status.signal();
        assert_eq!(signal, Some(libc::SIGTERM), "{}", ended.told(case));
    }
}

/// It may be called at the delivery or when the runtime is dropped, but not both times.
fn an_earlier_handler_hears_once_of_a_signal_for_a_runtime_that_never_ran() {
    for case in ["case=dropped_handled", "case=dropped_handled_foreign"] {
        let ended = Program::role("starts", &[case]).finish();
        ended.exited(0);
        assert_eq!(ended.said, ["deliveries 1"], "{}", ended.told(case));
    }
}

/// Each descriptor that a start needs is refused once, so the second core
/// fails at every point at which it can, after the first is up.
fn a_core_that_fails_to_start_fails_build_and_leaves_nothing() {
    let ended = Program::role("starts", &["case=refused"]).finish();
    let report = ended.report(0);
    report.loses_nothing();
    let facts = ended.json("facts ");
    assert_eq!(facts["left_behind"], json!([]), "{facts}");
    let refused: Vec<String> = serde_json::from_value(facts["refused"].clone()).expect("words");
    // The last descriptor that a start needs is that of the last core's ring.
    let last = refused.last().expect("a limit that was too low");
    assert!(last.contains("a ring"), "{refused:?}");
    assert!(
        refused.iter().all(|error| error.contains("(os error 24)")),
        "the cause is not named: {refused:?}"
    );
}

/// The thread that sends the mains loses its processor to the first core as soon as that has one.
fn every_core_begins_its_main_before_what_another_main_sends_it() {
    for _ in 0..5 {
        let ended = Program::role("starts", &["case=mains"]).finish();
        ended.report(0).loses_nothing();
        assert_eq!(ended.json("facts ")["begun"], true);
    }
}

/// Builds and perhaps runs a runtime, as the case says.
pub(crate) fn starts(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case is what happens");
    args.finish();
    match case.as_str() {
        "before_run" => before_run(),
        "dropped" => dropped(),
        "dropped_foreign" => {
            foreign_thread();
            dropped()
        }
        "dropped_handled" => dropped_handled(),
        "dropped_handled_foreign" => {
            foreign_thread();
            dropped_handled()
        }
        "refused" => refused(),
        "mains" => mains(),
        _ => panic!("no case {case}"),
    }
}

/// A thread that has all signals unblocked.
fn foreign_thread() {
    std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });
}

fn one_core() -> evenfall::Builder {
    crate::process::builder().cores(Cores::Count(1))
}

fn before_run() -> ExitCode {
    let mut runtime = one_core().build().expect("a runtime");
    sys::kill(std::process::id(), libc::SIGTERM).expect("this process lives");
    let listener = runtime.bind("127.0.0.1:0").expect("a port");
    let mut client = TcpStream::connect(listener.local_addr()).expect("a backlog");
    client.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    client.write_all(b"evening").expect("a backlog");
    let result = runtime.run(move |core| {
        let listener = listener.on(&core);
        async move { listener.serve(answer_all).await }
    });
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an end by FIN");
    conclude(result, &json!({ "answer": answer }))
}

fn dropped() -> ExitCode {
    let runtime = one_core().build().expect("a runtime");
    sys::kill(std::process::id(), libc::SIGTERM).expect("this process lives");
    drop(runtime);
    // A signal to a foreign thread may take a moment; the test's wait ends it.
    std::thread::sleep(Duration::from_secs(2));
    ExitCode::SUCCESS
}

/// As `dropped`, in a process that has a handler of its own.
fn dropped_handled() -> ExitCode {
    sys::count_deliveries(libc::SIGTERM).expect("a handler may be set");
    let runtime = one_core().build().expect("a runtime");
    sys::kill(std::process::id(), libc::SIGTERM).expect("this process lives");
    // A foreign thread may take a moment to hear of it; without one nobody does before the drop.
    wait_for(Duration::from_millis(200));
    drop(runtime);
    // Time is the subject: what must not come twice has the time to come.
    std::thread::sleep(Duration::from_millis(200));
    say(&format!("deliveries {}", sys::deliveries()));
    ExitCode::SUCCESS
}

fn two_cores() -> evenfall::Builder {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(cpus >= 2, "this test needs two processors");
    crate::process::builder().cores(Cores::Count(2))
}

/// The main of core 0 looks, on core 1, whether that core's main has begun, and keeps its processor
/// until it knows.
fn mains() -> ExitCode {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    let seen = Arc::new(OnceLock::new());
    let found = seen.clone();
    let runtime = two_cores().build().expect("a runtime");
    let first = core_affinity::get_core_ids().expect("this process may run somewhere")[0];
    assert!(core_affinity::set_for_current(first), "where core 0 is");
    sys::run_only_when_idle().expect("a thread may want less");
    let result = runtime.run(move |core| {
        if core.index() == 1 {
            BEGUN.store(true, Ordering::Release);
        }
        let found = found.clone();
        async move {
            if core.index() == 0 {
                let looks = found.clone();
                let look = move || async move { looks.set(BEGUN.load(Ordering::Acquire)) };
                drop(spawn_on(1, look).expect("no stop has begun"));
                let began = Instant::now();
                while found.get().is_none() && began.elapsed() < WATCHDOG {
                    std::hint::spin_loop();
                }
            }
            Ok(())
        }
    });
    conclude(result, &json!({ "begun": seen.get() }))
}

/// Builds with ever more descriptors allowed, until it is enough.
fn refused() -> ExitCode {
    // What is made once in a process's life is made here.
    drop(two_cores().build().expect("a runtime"));
    let own = std::process::id();
    let before = left_behind();
    let blocked = sys::signals_in(own, "SigBlk");
    let (mut wrong, mut refused) = (Vec::new(), Vec::new());
    for limit in 3..200u64 {
        sys::limit_fds_for_now(limit).expect("a soft limit");
        let built = two_cores().build();
        // Enough to look at what is left.
        sys::limit_fds_for_now(1_000).expect("a soft limit");
        match built {
            Ok(runtime) => {
                let result = runtime.run(|_core| async { Ok(()) });
                let facts = json!({ "left_behind": wrong, "refused": refused });
                return conclude(result, &facts);
            }
            Err(error) => refused.push(told(&error)),
        }
        let after = left_behind();
        if after != before || sys::signals_in(own, "SigBlk") != blocked {
            wrong.push(json!({ "limit": limit, "before": before, "after": after }));
        }
    }
    panic!("200 descriptors are not enough: {refused:?}");
}

/// Descriptors and threads of this process.
fn left_behind() -> (usize, usize) {
    (sys::open_fds(), threads())
}

/// An error with its causes.
fn told(error: &evenfall::Error) -> String {
    assert_ne!(error.kind(), ErrorKind::Cores, "{error}");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
