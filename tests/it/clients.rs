//! Difficult clients across a stop: each in its own process, counting on its
//! own side, in the middle of what makes it difficult when SIGTERM comes.
//!
//! Bytes in a client's own receive buffer count as acknowledged, so a client
//! first takes what its kernel has; then what it has, what the server's kernel
//! never took (`unsent`) and what it was never told of (`unacked`) are together
//! what was written. On the loopback the equation is exact.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evenfall::net::TcpStream;
use evenfall::time::sleep;
use serde_json::{Value, json};

use crate::args::Args;
use crate::process::{Ended, Program, say};
use crate::promise::promises;
use crate::report::Report;
use crate::server::{Setup, conclude, host, read_request};

promises![
    a_slow_reader_whose_rest_fits_the_budget_gets_all,
    a_slow_reader_whose_rest_does_not_fit_is_cut_and_each_byte_is_accounted_for,
    a_handler_stuck_in_a_write_to_a_deaf_client_is_cut_and_each_byte_is_accounted_for,
    a_deaf_client_is_abandoned_after_linger_and_each_byte_is_accounted_for,
    linger_counts_from_the_last_acknowledged_byte,
    a_half_closed_client_gets_its_whole_answer,
    bytes_that_come_after_our_fin_are_thrown_away_and_cost_no_byte_of_the_answer,
    bytes_sent_when_our_fin_was_seen_cost_no_byte_of_the_answer,
    requests_written_at_once_are_all_answered_when_the_stop_comes_between_them,
    an_upload_with_pauses_longer_than_idle_grace_is_answered,
    an_upload_that_pauses_for_ever_is_cut_at_the_deadline_and_named,
];

/// About 1 KiB a second. The two kernels hold some KiB between them.
const SLOW: &str = "receive_buffer=4096 segment=536 read_bytes=256 read_every=250 heard=512";

/// A client that reads nothing until it is told to, with a small buffer.
const DEAF: &str = "receive_buffer=65536 deaf=true";

/// Starts the server of these tests, and a difficult client of it.
fn started(server: &[&str], client: &str) -> (Program, Program) {
    let words: Vec<&str> = ["tell=true"].iter().chain(server).copied().collect();
    let mut server = Program::role("pours", &words);
    let address = format!("addr={}", server.address());
    let words: Vec<&str> = [&*address]
        .into_iter()
        .chain(client.split_whitespace())
        .collect();
    (server, Program::role("single", &words))
}

/// What a client has counted; all of it was right.
#[track_caller]
fn counted(client: Program) -> Value {
    let ended = client.finish();
    ended.exited(0);
    let count = ended.json("done ");
    assert_eq!(count["right"], true, "other bytes came: {count}");
    count
}

#[track_caller]
fn bytes(count: &Value, name: &str) -> u64 {
    let number = count[name].as_u64();
    number.unwrap_or_else(|| panic!("no number {name} in {count}"))
}

/// The client has every byte that was written, and ended by a FIN.
#[track_caller]
fn has_all(ended: &Ended, client: Program) -> Report {
    let report = ended.report(0);
    report.loses_nothing();
    let count = counted(client);
    assert_eq!(count["end"], "fin", "{count}");
    assert_eq!(count["received"], count["due"], "{count}");
    assert_eq!(ended.json("facts ")["written"], count["received"]);
    assert_eq!(report.sum("bytes", "sent"), bytes(&count, "received"));
    assert_eq!(report.ended_by_fin(), 1);
    report
}

/// What the client misses is what the report says is lost, to the byte.
#[track_caller]
fn misses_what_the_report_says(ended: &Ended, report: &Report, client: Program) {
    assert_eq!(report.sum("ops", "leaked"), 0, "an op was leaked");
    assert_eq!(report.sum("buffers", "lent"), 0, "a buffer is not back");
    let count = counted(client);
    assert_eq!(count["end"], "reset", "{count}");
    let written = bytes(&ended.json("facts "), "written");
    let received = bytes(&count, "received");
    let (unsent, unacked) = (
        report.sum("bytes", "unsent"),
        report.sum("bytes", "unacked"),
    );
    assert!(received < written, "nothing was lost: {count}");
    let words = format!("{received} + {unsent} unsent + {unacked} unacked of {written}");
    assert_eq!(received + unsent + unacked, written, "{words}");
    assert_eq!(report.sum("bytes", "sent") + unsent, written, "{words}");
}

fn a_slow_reader_whose_rest_fits_the_budget_gets_all() {
    let words = format!("answer=9000 {SLOW}");
    let (server, mut client) = started(&["timeout=30000"], &words);
    client.line("heard");
    server.signal(libc::SIGTERM);
    let report = has_all(&server.finish(), client);
    let elapsed_ms = report.elapsed_ms();
    assert!(elapsed_ms > 1_000.0, "{elapsed_ms} ms: nothing was owed");
}

fn a_slow_reader_whose_rest_does_not_fit_is_cut_and_each_byte_is_accounted_for() {
    let words = format!("answer=200000 {SLOW}");
    let (server, mut client) = started(&["timeout=2000"], &words);
    client.line("heard");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = ended.report(81);
    misses_what_the_report_says(&ended, &report, client);
    at_the_drain_deadline(&report);
}

/// One connection was cut, not before the drain deadline, and the stop was in
/// its budget.
#[track_caller]
fn at_the_drain_deadline(report: &Report) {
    assert_eq!(report.sum("connections", "forced"), 1);
    let at_ms = |name: &str| report.part("deadlines")[name].as_f64().expect("a time");
    let elapsed_ms = report.elapsed_ms();
    assert!(
        elapsed_ms >= at_ms("drain_ms"),
        "{elapsed_ms} ms: too early"
    );
    // With room for a busy machine.
    assert!(elapsed_ms < at_ms("hard_ms") + 500.0, "{elapsed_ms} ms");
}

/// More than the kernels and the connection's own queue hold.
fn a_handler_stuck_in_a_write_to_a_deaf_client_is_cut_and_each_byte_is_accounted_for() {
    let words = format!("answer=16000000 {DEAF}");
    let (mut server, mut client) = started(&["timeout=1000"], &words);
    client.line("sent");
    server.line("writing");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    client.tell("read");
    let report = ended.report(81);
    assert!(report.sum("bytes", "unsent") > 0, "its queue was full");
    misses_what_the_report_says(&ended, &report, client);
    at_the_drain_deadline(&report);
    named(&report, "connection", "inside a request");
    named(&report, "task", "had not ended");
}

/// Some straggler of this kind says these words of itself.
#[track_caller]
fn named(report: &Report, kind: &str, words: &str) {
    let stragglers = report.all("stragglers");
    let found = stragglers.iter().any(|straggler| {
        let detail = straggler["detail"].as_str().unwrap_or_default();
        straggler["kind"] == kind && detail.contains(words)
    });
    assert!(found, "no {kind} that was {words} in {stragglers:?}");
}

fn a_deaf_client_is_abandoned_after_linger_and_each_byte_is_accounted_for() {
    let words = format!("answer=1000000 {DEAF}");
    let server = ["timeout=30000", "linger=700", "once=true"];
    let (mut server, mut client) = started(&server, &words);
    client.line("sent");
    server.line("ended");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    client.tell("read");
    // In time, but something was lost.
    let report = ended.report(80);
    misses_what_the_report_says(&ended, &report, client);
    assert_eq!(report.sum("connections", "abandoned"), 1);
    assert!(report.elapsed_ms() < 10_000.0, "{}", report.elapsed_ms());
}

/// The client takes a part when some of linger is over. From then on it has
/// all of it again.
fn linger_counts_from_the_last_acknowledged_byte() {
    const LINGER_MS: f64 = 1_500.0;
    let words = format!("answer=1000000 {DEAF}");
    let server = ["timeout=30000", "linger=1500", "once=true"];
    let (mut server, mut client) = started(&server, &words);
    client.line("sent");
    server.line("ended");
    server.signal(libc::SIGTERM);
    server.line("draining");
    // The point of the test is that time goes by.
    std::thread::sleep(Duration::from_millis(900));
    client.tell("take 300000");
    client.line("took");
    let ended = server.finish();
    client.tell("read");
    let report = ended.report(80);
    misses_what_the_report_says(&ended, &report, client);
    let elapsed_ms = report.elapsed_ms();
    let least_ms = 900.0 + LINGER_MS;
    assert!(elapsed_ms >= least_ms, "{elapsed_ms} of {least_ms} ms");
}

fn a_half_closed_client_gets_its_whole_answer() {
    let words = "answer=300000 delay=400 half_close=true";
    let (server, mut client) = started(&["timeout=30000"], words);
    client.line("sent");
    server.signal(libc::SIGTERM);
    has_all(&server.finish(), client);
}

/// The answer is larger than the client's buffer, so our FIN waits behind it
/// while the client writes what nobody will read.
fn bytes_that_come_after_our_fin_are_thrown_away_and_cost_no_byte_of_the_answer() {
    let words = format!("answer=600000 delay=300 {DEAF}");
    let server = ["timeout=30000", "linger=20000", "idle_grace=20000"];
    let (mut server, mut client) = started(&server, &words);
    client.line("sent");
    server.signal(libc::SIGTERM);
    server.line("ended");
    client.tell("pour 1048576");
    client.line("poured");
    client.tell("read");
    let report = has_all(&server.finish(), client);
    assert_eq!(report.sum("bytes", "late"), 1_048_576);
}

/// The answer is in the client's kernel, and so is our FIN. When the silence
/// that follows has been long enough the connection may be gone, and what
/// comes then is refused; the answer is not touched by that.
fn bytes_sent_when_our_fin_was_seen_cost_no_byte_of_the_answer() {
    let words = "answer=200000 delay=300 receive_buffer=2097152 pours=1048576";
    let (server, mut client) = started(&["timeout=30000"], words);
    client.line("sent");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = ended.report(0);
    report.loses_nothing();
    let count = counted(client);
    assert_eq!(count["received"], count["due"], "{count}");
    assert_eq!(report.ended_by_fin(), 1);
    let most = 1_048_576 - bytes(&count, "refused");
    assert!(report.sum("bytes", "late") <= most, "{count}");
}

/// They are all in the server's kernel, and a dozen are answered.
fn requests_written_at_once_are_all_answered_when_the_stop_comes_between_them() {
    let words = "requests=64 size=900 answer=1000 delay=10 heard=12096";
    let (server, mut client) = started(&["timeout=30000"], words);
    client.line("sent");
    client.line("heard");
    server.signal(libc::SIGTERM);
    let report = has_all(&server.finish(), client);
    assert_eq!(report.sum("requests", "begun"), 64);
    assert_eq!(report.sum("requests", "answered"), 64);
    let elapsed_ms = report.elapsed_ms();
    assert!(elapsed_ms > 200.0, "{elapsed_ms} ms: none was left");
}

fn an_upload_with_pauses_longer_than_idle_grace_is_answered() {
    let words = "size=400000 answer=400000 parts=4 pause=400";
    let (server, mut client) = started(&["timeout=30000", "idle_grace=100"], words);
    client.line("part 1");
    server.signal(libc::SIGTERM);
    let report = has_all(&server.finish(), client);
    let elapsed_ms = report.elapsed_ms();
    assert!(elapsed_ms > 1_000.0, "{elapsed_ms} ms: there was no pause");
}

fn an_upload_that_pauses_for_ever_is_cut_at_the_deadline_and_named() {
    let words = "size=400000 parts=4 gives_up=true";
    let (server, mut client) = started(&["timeout=1000", "idle_grace=100"], words);
    client.line("part 1");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(81);
    report.leaves_nothing();
    at_the_drain_deadline(&report);
    named(&report, "connection", "inside a request");
    named(&report, "task", "had not ended");
    let count = counted(client);
    assert_eq!(
        (&count["end"], &count["received"]),
        (&json!("reset"), &json!(0))
    );
}

/// Answers requests in blocks, and counts the bytes that the connection has
/// taken. Says `writing` before each answer, and `ended` when a handler has, which
/// with `once` is after one answer.
pub(crate) fn pours(mut args: Args) -> ExitCode {
    let once = args.number("once", false);
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    let result = host(Setup::only(args), move |_core, listener| {
        let counter = Arc::clone(&counter);
        async move {
            let handler = move |stream| pour(stream, once, Arc::clone(&counter));
            listener.serve(handler).await
        }
    });
    let written = written.load(Ordering::Relaxed);
    conclude(result, &json!({ "written": written }))
}

async fn pour(mut stream: TcpStream, once: bool, written: Arc<AtomicU64>) -> io::Result<()> {
    const BLOCK_BYTES: usize = 32 * 1024;
    while stream.next_request().await? {
        let (request, body) = read_request(&mut stream).await?;
        sleep(Duration::from_millis(request.delay_ms.into())).await;
        say("writing");
        for block in request.answer(&body).chunks(BLOCK_BYTES) {
            // What waits was not taken; once it is ready all of it was.
            stream.send(block.to_vec()).await?;
            written.fetch_add(block.len() as u64, Ordering::Relaxed);
        }
        if once {
            break;
        }
    }
    drop(stream);
    say("ended");
    Ok(())
}
