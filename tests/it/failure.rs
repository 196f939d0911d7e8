//! What fails is told, and fails alone.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::{Count, heavy, load, promises};
use crate::server::{Setup, answer_all, conclude, host};

promises![
    a_main_future_that_ends_in_an_error_stops_the_runtime,
    a_main_future_that_panics_stops_the_runtime,
    a_panic_in_a_handler_is_not_noticed_by_its_siblings,
    a_reset_by_the_peer_is_an_error_of_that_connection_alone,
    the_runtime_ends_when_every_main_future_has_ended,
    a_core_whose_ring_fails_stops_the_runtime_and_fails_alone,
];

fn a_main_future_that_ends_in_an_error_stops_the_runtime() {
    let mut server = Program::role("fails", &["how=error"]);
    let ended = {
        server.line("failing");
        server.finish()
    };
    let report = ended.report(83);
    assert_eq!(report.verdict(), "failed");
    report.leaves_nothing();
    let errors: Vec<&str> = report
        .cores()
        .iter()
        .filter_map(|c| c["error"].as_str())
        .collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("the disk is on fire"), "{errors:?}");
    assert_eq!(report.part("triggers")[0]["kind"], "main_failed");
}

fn a_main_future_that_panics_stops_the_runtime() {
    let ended = Program::role("fails", &["how=panic"]).finish();
    let report = ended.report(83);
    assert_eq!(report.verdict(), "failed");
    report.leaves_nothing();
    assert!(ended.stderr.contains("the disk is on fire"));
}

fn a_panic_in_a_handler_is_not_noticed_by_its_siblings() {
    let _alone = heavy();
    let mut server = Program::role("framed", &["cores=1", "panic_at=666"]);
    let address = server.address();
    let words = "protocol=framed connections=16 total=20000 warm=2000";
    let mut steady = load(&address, words);
    steady.line("warm");
    let doomed = load(&address, "protocol=framed connections=4 each=1 delay=666");
    let count = Count::of(doomed);
    assert_eq!((count.number("answered"), count.number("torn")), (0, 0));
    let count = Count::of(steady);
    count.ended_well();
    assert_eq!(count.number("answered"), 20_000);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.leaves_nothing();
    assert_eq!(report.sum("tasks", "panicked"), 4);
}

fn a_reset_by_the_peer_is_an_error_of_that_connection_alone() {
    let mut server = Program::role("framed", &["cores=1"]);
    let address = server.address();
    let mut steady = load(&address, "protocol=framed connections=8 warm=1000");
    steady.line("warm");
    let rude = load(&address, "protocol=framed connections=20 each=3 end=reset");
    assert_eq!(Count::of(rude).number("reset_here"), 20);
    // A later connection's end by FIN shows that the resets were handled.
    Count::of(load(&address, "protocol=framed connections=1 each=5")).ended_well();
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.leaves_nothing();
    Count::of(steady).ended_well();
    // These ended before the trigger, and the ways to end count from there.
    assert_eq!(report.sum("connections", "accepted_total"), 29);
    assert_eq!(report.sum("connections", "at_start"), 8);
}

fn the_runtime_ends_when_every_main_future_has_ended() {
    let report = Program::role("fails", &["how=not"]).finish().report(0);
    report.loses_nothing();
    assert_eq!(report.part("triggers")[0]["kind"], "main_ended");
}

/// The kernel refuses all that one core asks of it from some moment on.
fn a_core_whose_ring_fails_stops_the_runtime_and_fails_alone() {
    let report = Program::role("fails", &["how=ring", "cores=2"]).finish();
    let report = report.report(83);
    assert_eq!(report.verdict(), "failed");
    assert_eq!(report.part("triggers")[0]["kind"], "core_failed");
    let [sibling, failed] = report.cores() else {
        panic!("two cores: {:?}", report.cores());
    };
    assert_eq!(failed["outcome"], "failed");
    let error = failed["error"].as_str().unwrap_or_default();
    assert!(error.contains("os error 5"), "{error:?}");
    assert_eq!(sibling["outcome"], "finished");
    assert_eq!(sibling["ops"]["leaked"], 0, "{sibling}");
    // What the kernel still had of the failed one was not freed, but counted.
    assert!(failed["ops"]["leaked"].as_u64() > Some(0), "{failed}");
}

/// The last core's main future ends in an error or a panic while the others
/// serve, or its ring fails; with `how=not` all of them end well.
pub(crate) fn fails(mut args: Args) -> ExitCode {
    let how: String = args.take("how").expect("how is error, panic, ring or not");
    let setup = Setup::only(args);
    let last = setup.cores - 1;
    let result = host(setup, move |core, listener| {
        let how = how.clone();
        async move {
            match how.as_str() {
                "not" => Ok(()),
                _ if core.index() != last => listener.serve(answer_all).await,
                "panic" => panic!("the disk is on fire"),
                "ring" => {
                    crate::sys::refuse_io_uring_enter(libc::EIO).expect("a thread may");
                    std::future::pending().await
                }
                _ => {
                    crate::process::say("failing");
                    Err(io::Error::other("the disk is on fire"))
                }
            }
        }
    });
    conclude(result, &json!({}))
}
