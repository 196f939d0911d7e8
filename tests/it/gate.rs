//! The gate: during a stop no new handshake begins, and those under way end
//! well. It takes privilege, or a net namespace, to see both of its rungs, so
//! these tests run themselves again in namespaces of their own.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use crate::args::Args;
use crate::process::{Program, say};
use crate::promise::{Count, heavy, load, promises};
use crate::sys;

promises![
    with_the_privilege_the_gate_is_a_packet_filter,
    without_privilege_the_gate_is_a_hop_count,
];

fn with_the_privilege_the_gate_is_a_packet_filter() {
    in_namespaces("bpf", "privileged=true");
}

fn without_privilege_the_gate_is_a_hop_count() {
    in_namespaces("min_ttl", "privileged=false");
}

#[track_caller]
fn in_namespaces(rung: &str, server: &str) {
    let _alone = heavy();
    let words = [format!("rung={rung}"), server.to_owned()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = Program::role("namespaces", &words).finish();
    ended.exited(0);
    assert!(ended.said.iter().any(|line| line == "kept"));
}

/// The test's second half, alone with its own loopback.
pub(crate) fn namespaces(mut args: Args) -> ExitCode {
    let rung: String = args.take("rung").expect("rung is what the report says");
    let privileged: bool = args.take("privileged").expect("the server is or is not");
    args.finish();
    if let Err(why) = sys::enter_namespaces() {
        panic!("{why}");
    }
    for round in 0..3 {
        connects_during_the_stop_are_not_reset(&rung, privileged, round);
    }
    say("kept");
    ExitCode::SUCCESS
}

fn connects_during_the_stop_are_not_reset(rung: &str, privileged: bool, round: u32) {
    let privilege = format!("privileged={privileged}");
    let mut server = Program::role("gated", &[&privilege]);
    let address = server.address();
    let words = "protocol=framed per_second=1500 each=1 size=100 answer=500 warm=500";
    let mut arriving = load(&address, words);
    arriving.line("warm");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    arriving.tell("stop");
    let count = Count::of(arriving);
    count.ended_well();
    report.loses_nothing();
    for listener in report.all("listeners") {
        assert_eq!(listener["gate"], rung, "round {round}: {listener}");
    }
    let accepted = report.sum("connections", "accepted_total");
    assert_eq!(accepted, count.number("established"), "round {round}");
}

/// The framed server, as an ordinary user would run it unless `privileged`.
pub(crate) fn gated(mut args: Args) -> ExitCode {
    if !args.number("privileged", false) {
        sys::drop_capabilities().expect("capabilities can be given up");
    }
    crate::server::framed(args)
}
