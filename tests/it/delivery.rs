//! Written bytes belong to the connection: neither the end of a handler nor
//! the end of the runtime loses one.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use evenfall::net::TcpStream;
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::{Count, load, promises};
use crate::report::Report;
use crate::server::{Setup, conclude, host, read_request};

promises![
    an_answer_of_8_mib_being_read_slowly_at_sigterm_arrives_whole,
    a_handler_that_ends_right_after_write_all_loses_no_byte,
    a_handler_that_ends_with_requests_unread_loses_no_byte,
    an_end_right_after_write_all_loses_no_byte_in_a_stop,
    close_is_ok_only_when_every_byte_is_acknowledged,
    abort_is_a_reset,
    requests_before_a_half_close_are_answered,
    requests_before_a_half_close_are_answered_in_a_stop,
];

const LARGE: &str = "answer=8388608 receive_buffer=65536 read_bytes=65536 read_every=8";

/// Stops the server when a load has heard as much as `words` say: the stop is
/// clean, the load ends well, and its count and the report are given.
#[track_caller]
fn stopped_when_heard(mut server: Program, words: &str) -> (Count, Report) {
    let mut load = load(&server.address(), words);
    load.line("heard");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    let count = Count::of(load);
    count.ended_well();
    report.loses_nothing();
    (count, report)
}

fn an_answer_of_8_mib_being_read_slowly_at_sigterm_arrives_whole() {
    let server = Program::role("framed", &["timeout=60000"]);
    let words = format!("protocol=framed connections=1 each=1 end=stay heard=200000 {LARGE}");
    let (count, report) = stopped_when_heard(server, &words);
    assert_eq!(count.number("answered"), 1);
    assert_eq!(report.sum("bytes", "sent"), count.number("bytes_received"));
    let elapsed_ms = report.elapsed_ms();
    assert!(
        elapsed_ms > 100.0,
        "{elapsed_ms} ms: it was not read slowly"
    );
}

fn a_handler_that_ends_right_after_write_all_loses_no_byte() {
    let mut server = Program::role("answers_once", &["timeout=60000"]);
    let words = "protocol=framed connections=32 each=1 end=stay answer=1000000";
    let count = Count::of(load(&server.address(), words));
    count.ended_well();
    assert_eq!(count.number("answered"), 32);
    server.signal(libc::SIGTERM);
    server.finish().report(0).loses_nothing();
}

/// A close with bytes unread makes Linux send a reset, which destroys what
/// the peer has not read yet. So the rest must be read and thrown away.
fn a_handler_that_ends_with_requests_unread_loses_no_byte() {
    let mut server = Program::role("answers_once", &["timeout=60000"]);
    let words = "protocol=framed connections=16 each=8 window=8 end=stay size=4096 \
                 answer=300000 receive_buffer=65536 read_bytes=16384 read_every=1";
    let count = Count::of(load(&server.address(), words));
    count.ended_well();
    assert_eq!(count.number("answered"), 16);
    assert_eq!(count.number("unanswered"), 16 * 7);
    server.signal(libc::SIGTERM);
    server.finish().report(0).loses_nothing();
}

fn an_end_right_after_write_all_loses_no_byte_in_a_stop() {
    let server = Program::role("answers_once", &["timeout=60000"]);
    let words = format!("protocol=framed connections=2 each=1 end=stay heard=200000 {LARGE}");
    let (count, report) = stopped_when_heard(server, &words);
    assert_eq!(count.number("answered"), 2);
    assert_eq!(report.sum("bytes", "sent"), count.number("bytes_received"));
}

fn close_is_ok_only_when_every_byte_is_acknowledged() {
    let mut server = Program::role("answers_once", &["timeout=60000", "end=close"]);
    let words = format!("protocol=framed connections=1 each=1 end=stay heard=200000 {LARGE}");
    let mut load = load(&server.address(), &words);
    load.line("heard");
    server.line("closed");
    // The answer was acknowledged but for what the client's kernel holds.
    let count = Count::of(load);
    count.ended_well();
    assert_eq!(count.number("answered"), 1);
    server.signal(libc::SIGTERM);
    server.finish().report(0).loses_nothing();
}

fn abort_is_a_reset() {
    let mut server = Program::role("answers_once", &["end=abort"]);
    let words = "protocol=framed connections=8 each=1 end=stay answer=100";
    let count = Count::of(load(&server.address(), words));
    assert_eq!(count.number("reset"), 8);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    assert_eq!(report.verdict(), "clean");
    report.leaves_nothing();
}

/// The client's FIN is in the server's kernel before most of its requests are
/// read there.
const PIPELINED: &str = "protocol=framed connections=16 each=30 window=30 size=8000 answer=60000 \
                         end=early_half_close read_bytes=65536 read_every=1";

fn requests_before_a_half_close_are_answered() {
    let mut server = Program::role("framed", &[]);
    let count = Count::of(load(&server.address(), PIPELINED));
    count.ended_well();
    assert_eq!(count.number("answered"), 16 * 30);
    server.signal(libc::SIGTERM);
    server.finish().report(0).loses_nothing();
}

fn requests_before_a_half_close_are_answered_in_a_stop() {
    let server = Program::role("framed", &["timeout=60000"]);
    let words = format!("{PIPELINED} heard=2000000");
    let (count, report) = stopped_when_heard(server, &words);
    assert_eq!(count.number("answered"), count.number("requests"));
    assert_eq!(report.sum("bytes", "sent"), count.number("bytes_received"));
}

/// Answers one request and ends: `end` is drop, close or abort.
pub(crate) fn answers_once(mut args: Args) -> ExitCode {
    let end: String = args.number("end", "drop".to_owned());
    let result = host(Setup::only(args), move |_core, listener| {
        let end = end.clone();
        async move {
            listener
                .serve(move |stream| answer_once(stream, end.clone()))
                .await
        }
    });
    conclude(result, &json!({}))
}

async fn answer_once(mut stream: TcpStream, end: String) -> io::Result<()> {
    if !stream.next_request().await? {
        return Ok(());
    }
    let (request, body) = read_request(&mut stream).await?;
    if end == "abort" {
        stream.abort();
        return Ok(());
    }
    stream.write_all(&request.answer(&body)).await?;
    if end == "close" {
        stream.close().await?;
        crate::process::say("closed");
    }
    Ok(())
}
