//! SIGTERM: the server ends in time, and nobody loses a byte by it.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use crate::args::Args;
use crate::process::{Program, WATCHDOG, say};
use crate::promise::{Count, heavy, load, promises};
use crate::report::Report;
use crate::server::{Setup, answer_all, conclude, host};
use crate::wire::Request;

promises![
    an_idle_server_is_gone_in_milliseconds,
    sigint_stops_as_sigterm_does,
    a_signal_to_a_thread_that_has_it_unblocked_stops_as_well,
    a_stop_can_come_from_a_foreign_thread,
    open_connections_between_requests_end_at_once,
    connections_that_never_sent_a_byte_end_by_fin,
    a_closed_loop_sees_whole_answers_and_fin,
    connects_going_on_change_nothing,
    unread_writers_and_slow_readers_get_what_was_acknowledged,
    bytes_of_unread_writers_come_back_from_the_echo,
    twenty_stops_under_load_are_all_clean,
    a_request_in_work_is_answered,
    a_request_in_the_middle_is_read_to_its_end,
    two_sigterms_at_once_are_one,
    the_first_signal_after_an_api_trigger_cuts_nothing,
    later_signals_do_what_they_did_before,
];

/// A stop that waits for nothing takes a few milliseconds; tenfold slack, and
/// more for starting and reaping processes on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

#[track_caller]
fn at_once(report: &Report) {
    let elapsed_ms = report.elapsed_ms();
    assert!(
        elapsed_ms < AT_ONCE.as_secs_f64() * 1e3,
        "took {elapsed_ms} ms"
    );
}

fn an_idle_server_is_gone_in_milliseconds() {
    let mut server = Program::role("echo", &[]);
    server.address();
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = ended.report(0);
    report.loses_nothing();
    at_once(&report);
    assert!(ended.waited < AT_ONCE, "took {:?}", ended.waited);
    assert_eq!(report.part("triggers")[0]["signal"], libc::SIGTERM);
    assert_eq!(report.part("triggers")[0]["pid"], std::process::id());
}

fn sigint_stops_as_sigterm_does() {
    let mut server = Program::role("echo", &[]);
    server.address();
    server.signal(libc::SIGINT);
    let report = server.finish().report(0);
    at_once(&report);
    assert_eq!(report.part("triggers")[0]["signal"], libc::SIGINT);
}

/// The kernel may choose any thread that does not block the signal.
fn a_signal_to_a_thread_that_has_it_unblocked_stops_as_well() {
    let mut server = Program::role("echo", &["early_thread=true"]);
    server.address();
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    at_once(&report);
    assert_eq!(report.part("triggers")[0]["kind"], "signal");
}

fn a_stop_can_come_from_a_foreign_thread() {
    let mut server = Program::role("echo", &[]);
    server.address();
    server.tell("shutdown");
    let report = server.finish().report(0);
    at_once(&report);
    assert_eq!(report.part("triggers")[0]["kind"], "api");
}

fn open_connections_between_requests_end_at_once() {
    let mut server = Program::role("echo", &[]);
    let mut load = load(&server.address(), "connections=64 each=3 warm=192 end=stay");
    load.line("warm");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    let count = Count::of(load);
    count.ended_well();
    assert_eq!(count.number("unanswered"), 0);
    report.loses_nothing();
    at_once(&report);
    assert_eq!(report.sum("connections", "at_start"), 64);
    assert_eq!(report.sum("connections", "drained"), 64);
}

fn connections_that_never_sent_a_byte_end_by_fin() {
    let mut server = Program::role("echo", &[]);
    let mut load = load(&server.address(), "connections=64 each=0 end=stay");
    load.line("open");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    let count = Count::of(load);
    count.ended_well();
    report.loses_nothing();
    let accepted = report.sum("connections", "accepted_total");
    assert_eq!(accepted, count.number("established"));
    // The backlog window is at most a second here.
    assert!(report.elapsed_ms() < 5_000.0);
}

fn a_closed_loop_sees_whole_answers_and_fin() {
    let _alone = heavy();
    let mut server = Program::role("framed", &[]);
    let words = "protocol=framed connections=64 size=500 answer=3000 warm=20000";
    let mut load = load(&server.address(), words);
    load.line("warm");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = ended.report(0);
    report.loses_nothing();
    let count = Count::of(load);
    count.ended_well();
    assert_eq!(report.sum("connections", "accepted_total"), 64);
    both_sides_agree(&report, &[count]);
    assert_eq!(ended.json("facts ")["connections"], 64);
}

/// What both can see is equal: connections accepted, connections ended by
/// FIN, whole answers, bytes of answers.
#[track_caller]
fn both_sides_agree(report: &Report, counts: &[Count]) {
    let total = |name: &str| -> u64 { counts.iter().map(|c| c.number(name)).sum() };
    let accepted = report.sum("connections", "accepted_total");
    assert_eq!(accepted, total("established"), "connections");
    // No client was reset, so those that ended earlier ended by FIN as well.
    let by_fin = report.ended_before() + report.ended_by_fin();
    assert_eq!(by_fin, total("fin"), "ends by FIN");
    assert_eq!(report.sum("requests", "begun"), total("answered"));
    assert_eq!(report.sum("requests", "answered"), total("answered"));
    assert_eq!(report.sum("bytes", "sent"), total("bytes_received"));
    let received = report.sum("bytes", "received");
    assert!(received <= total("bytes_sent"), "bytes out of nowhere");
}

/// Stops a server while one load goes on in a closed loop and another one
/// keeps connecting: nothing is lost, and all three count the same.
#[track_caller]
fn stopped_under_arrivals(steady: &str, arriving: &str) -> Report {
    let mut server = Program::role("framed", &[]);
    let address = server.address();
    let mut steady = load(&address, steady);
    let mut arriving = load(&address, arriving);
    steady.line("warm");
    arriving.line("warm");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    arriving.tell("stop");
    let counts = [Count::of(steady), Count::of(arriving)];
    for count in &counts {
        count.ended_well();
    }
    report.loses_nothing();
    both_sides_agree(&report, &counts);
    report
}

fn connects_going_on_change_nothing() {
    let _alone = heavy();
    stopped_under_arrivals(
        "protocol=framed connections=64 size=500 answer=3000 warm=20000",
        "protocol=framed per_second=500 each=1 size=100 answer=2000 warm=300",
    );
}

fn unread_writers_and_slow_readers_get_what_was_acknowledged() {
    let _alone = heavy();
    let mut server = Program::role("framed", &["timeout=60000"]);
    let address = server.address();
    let words = "protocol=framed connections=48 size=500 answer=3000 warm=10000";
    let mut steady = load(&address, words);
    let words = "protocol=framed connections=8 size=16384 window=100000 receive_buffer=262144 \
                 silent=true stall=300";
    let mut unread = load(&address, words);
    let words = "protocol=framed connections=8 size=64 answer=1000000 receive_buffer=65536 \
                 read_bytes=16384 read_every=5 heard=1000000";
    let mut slow = load(&address, words);
    steady.line("warm");
    slow.line("heard");
    unread.line("stalled");
    unread.tell("mark");
    let marked: u64 = unread.line("marked ").parse().expect("a number of bytes");
    assert!(marked > 1_000_000, "only {marked} bytes were acknowledged");
    server.signal(libc::SIGTERM);
    unread.tell("read");
    let report = server.finish().report(0);
    let counts = [Count::of(steady), Count::of(unread), Count::of(slow)];
    for count in &counts {
        count.ended_well();
    }
    report.loses_nothing();
    both_sides_agree(&report, &counts);
}

fn bytes_of_unread_writers_come_back_from_the_echo() {
    let _alone = heavy();
    let mut server = Program::role("echo", &["timeout=60000"]);
    let words = "connections=8 size=16384 window=100000 receive_buffer=262144 \
                 silent=true stall=300";
    let mut unread = load(&server.address(), words);
    unread.line("stalled");
    unread.tell("mark");
    unread.line("marked ");
    server.signal(libc::SIGTERM);
    unread.tell("read");
    let report = server.finish().report(0);
    report.loses_nothing();
    let count = Count::of(unread);
    assert_eq!(count.number("bytes_owed"), 0);
    assert_eq!(count.number("reset"), 0);
    assert_eq!(report.sum("bytes", "sent"), count.number("bytes_received"));
}

fn twenty_stops_under_load_are_all_clean() {
    let _alone = heavy();
    for round in 0..20 {
        let report = stopped_under_arrivals(
            "protocol=framed connections=32 size=200 answer=5000 warm=500",
            "protocol=framed per_second=1500 each=1 size=100 answer=500 warm=50",
        );
        let elapsed_ms = report.elapsed_ms();
        assert!(elapsed_ms < 2_000.0, "round {round} took {elapsed_ms} ms");
    }
}

/// The client has sent a part of a request when the stop comes, and sends the
/// rest when Draining is under way.
fn a_request_in_the_middle_is_read_to_its_end() {
    let mut server = Program::role("framed", &["tell=true", "timeout=30000"]);
    let address = server.address();
    let request = Request {
        size: 1000,
        answer: 100_000,
        delay_ms: 0,
        number: 7,
    };
    let body = [0x5A; 1000];
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    stream.write_all(&request.header()).expect("it reads");
    stream.write_all(&body[..10]).expect("it reads");
    server.signal(libc::SIGTERM);
    server.line("draining");
    stream.write_all(&body[10..]).expect("it reads on");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an end by FIN");
    assert!(answer == request.answer(&body), "{} bytes", answer.len());
    server.finish().report(0).loses_nothing();
}

/// A load of one connection whose second request is in work for `delay`
/// milliseconds, at a server that says when it drains.
fn in_work(delay: u32) -> (Program, Program) {
    let mut server = Program::role("framed", &["tell=true", "timeout=30000"]);
    let words = format!("protocol=framed connections=1 each=2 delay={delay} warm=1");
    let mut load = load(&server.address(), &words);
    load.line("warm");
    (server, load)
}

#[track_caller]
fn nothing_was_cut(server: Program, load: Program) -> Report {
    let report = server.finish().report(0);
    report.loses_nothing();
    let count = Count::of(load);
    count.ended_well();
    assert_eq!(count.number("unanswered"), 0);
    report
}

/// A terminal and a parent both send: that is not determination.
fn two_sigterms_at_once_are_one() {
    let (mut server, load) = in_work(500);
    server.signal(libc::SIGTERM);
    server.line("draining");
    server.signal(libc::SIGTERM);
    nothing_was_cut(server, load);
}

fn the_first_signal_after_an_api_trigger_cuts_nothing() {
    let (mut server, load) = in_work(500);
    server.tell("shutdown");
    server.line("draining");
    server.signal(libc::SIGTERM);
    let report = nothing_was_cut(server, load);
    assert_eq!(report.part("triggers")[0]["kind"], "api");
}

/// The handler sleeps on a request that it has read when the stop comes.
fn a_request_in_work_is_answered() {
    let mut server = Program::role("framed", &[]);
    let address = server.address();
    let words = "protocol=framed connections=8 delay=1000 each=1 end=stay";
    let mut slow = load(&address, words);
    slow.line("open");
    // The answer to a later request tells that the earlier ones were read.
    let mut quick = load(&address, "protocol=framed connections=8 each=100 warm=800");
    quick.line("warm");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    let count = Count::of(slow);
    count.ended_well();
    assert_eq!(count.number("answered"), 8);
    assert_eq!(count.number("unanswered"), 0);
    Count::of(quick).ended_well();
    report.loses_nothing();
}

/// After `run` the process is as it was: SIGTERM ends it.
fn later_signals_do_what_they_did_before() {
    let mut server = Program::role("lives_on", &[]);
    let address = server.address();
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    stream.write_all(b"x").expect("it reads");
    let mut answer = [0];
    stream.read_exact(&mut answer).expect("it answers");
    server.signal(libc::SIGTERM);
    Report::new(server.json("report ")).adds_up();
    server.line("living on");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let signal = ended.status.signal();
    assert_eq!(signal, Some(libc::SIGTERM), "{}", ended.told("not killed"));
}

/// An echo server that does not exit when its runtime has ended.
pub(crate) fn lives_on(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |_core, listener| async move {
        listener.serve(answer_all).await
    });
    let code = conclude(result, &json!({}));
    say("living on");
    std::thread::sleep(WATCHDOG);
    code
}
