//! Queues that are too short for what goes through them: all of it goes through.
#![forbid(unsafe_code)]

use crate::process::Program;
use crate::promise::{Count, heavy, load, promises};

promises![
    hundreds_of_connections_on_queues_of_8_and_16_lose_nothing,
    a_stop_of_hundreds_of_connections_on_queues_of_8_and_16_is_clean,
    sixty_four_streams_that_run_out_of_buffers_lose_no_byte,
];

/// A server on one core, whose ring has room for 8 submissions and 16 completions.
fn cramped() -> Program {
    let words = ["cores=1", "submissions=8", "completions=16"];
    Program::role("echo", &words)
}

fn hundreds_of_connections_on_queues_of_8_and_16_lose_nothing() {
    let _alone = heavy();
    let mut server = cramped();
    let count = Count::of(load(
        &server.address(),
        "connections=400 size=300 total=40000",
    ));
    count.ended_well();
    assert_eq!(count.number("answered"), 40_000);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("bytes", "sent"), 300 * 40_000);
    // That both happened is the point.
    for counter in ["waited", "overflows"] {
        assert!(report.sum("ops", counter) > 0, "no {counter}");
    }
}

fn a_stop_of_hundreds_of_connections_on_queues_of_8_and_16_is_clean() {
    let _alone = heavy();
    let mut server = cramped();
    let mut load = load(&server.address(), "connections=400 size=300 warm=2000");
    load.line("warm");
    server.signal(libc::SIGTERM);
    let count = Count::of(load);
    count.ended_well();
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "accepted_total"), 400);
}

/// Each brings more in a turn than all buffers that the kernel has at first.
fn sixty_four_streams_that_run_out_of_buffers_lose_no_byte() {
    let _alone = heavy();
    let mut server = Program::role("echo", &["cores=1"]);
    let words = "connections=64 each=128 size=16384 window=128";
    let count = Count::of(load(&server.address(), words));
    count.ended_well();
    assert_eq!(count.number("answered"), 64 * 128);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("bytes", "received"), 64 * 128 * 16_384);
    assert!(report.sum("buffers", "ran_out") > 0, "no want of buffers");
}
