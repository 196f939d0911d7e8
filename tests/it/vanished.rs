//! A client that is gone without a word: its packets vanish from some moment
//! on. The stop does not wait for it beyond its budget, and what the report
//! says was lost is what the client misses.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::args::Args;
use crate::path::{Path, Way};
use crate::process::{Program, say};
use crate::promise::{heavy, promises};
use crate::report::Report;
use crate::wire::{ANSWER_HEADER, Request};

promises![
    what_a_vanished_client_misses_is_unsent_and_unacknowledged,
    a_vanished_client_is_cut_at_the_deadline_when_that_comes_before_the_linger,
    a_vanished_client_that_was_idle_is_lingered_for_and_misses_nothing,
];

fn what_a_vanished_client_misses_is_unsent_and_unacknowledged() {
    kept("answer");
}

fn a_vanished_client_is_cut_at_the_deadline_when_that_comes_before_the_linger() {
    kept("deadline");
}

fn a_vanished_client_that_was_idle_is_lingered_for_and_misses_nothing() {
    kept("idle");
}

#[track_caller]
fn kept(case: &str) {
    let _alone = heavy();
    let ended = Program::role("vanished", &[&format!("case={case}")]).finish();
    ended.exited(0);
    let kept = ended.said.iter().any(|line| line == "kept");
    assert!(kept, "{}", ended.told("it kept nothing"));
}

/// One case, at both ends of a path of its own.
pub(crate) fn vanished(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case names one");
    args.finish();
    let mut path = Path::lay(Duration::from_millis(10));
    match case.as_str() {
        "answer" => in_the_middle_of_an_answer(&mut path, 700, 5_000),
        "deadline" => in_the_middle_of_an_answer(&mut path, 5_000, 1_000),
        "idle" => idle(&mut path),
        other => panic!("no case {other}"),
    }
    say("kept");
    ExitCode::SUCCESS
}

/// An answer that the server's handler has written whole: it fits what a
/// connection queues, though not what a kernel takes for a client that reads
/// nothing.
const ANSWER_BYTES: u32 = 240 * 1024;

/// The client vanishes when the first bytes of a large answer have come. The
/// shorter of the two times, which are in milliseconds, ends the stop: by
/// giving the client up, or by a cut.
fn in_the_middle_of_an_answer(path: &mut Path, linger: u64, timeout: u64) {
    let (server, mut client) = met(path, linger, timeout);
    ask(&mut client, ANSWER_BYTES);
    let mut first = [0; 1024];
    client.read_exact(&mut first).expect("the answer begins");
    // What the client acknowledges still gets through, so that the server
    // knows what has arrived.
    path.drop_packets(Way::ToClient);
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    let report = ended.report(if linger < timeout { 80 } else { 81 });
    let received = first.len() as u64 + all_that_came(&mut client);
    let answer = ANSWER_HEADER as u64 + u64::from(ANSWER_BYTES);
    let (unsent, unacked) = (
        report.sum("bytes", "unsent"),
        report.sum("bytes", "unacked"),
    );
    assert_eq!(unsent + unacked, answer - received, "{received} have come");
    assert!(unacked > 0, "a part was under way");
    reset_by(&report, linger, timeout);
}

/// The client vanishes between two requests.
fn idle(path: &mut Path) {
    let (server, mut client) = met(path, 700, 5_000);
    ask(&mut client, 100);
    let mut answer = [0; ANSWER_HEADER + 100];
    client.read_exact(&mut answer).expect("an answer");
    path.drop_packets(Way::Both);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(80);
    assert_eq!(all_that_came(&mut client), 0);
    assert_eq!(report.sum("bytes", "unsent"), 0);
    assert_eq!(report.sum("bytes", "unacked"), 0, "the FIN is none of ours");
    reset_by(&report, 700, 5_000);
}

/// One connection was reset, not before its time and within the budget, and
/// counted by what it was that ended it. Both times are in milliseconds.
#[track_caller]
fn reset_by(report: &Report, linger: u64, timeout: u64) {
    assert_eq!(report.sum("ops", "leaked"), 0);
    assert_eq!(report.sum("buffers", "lent"), 0);
    let given_up = u64::from(linger < timeout);
    assert_eq!(report.sum("connections", "abandoned"), given_up);
    assert_eq!(report.sum("connections", "forced"), 1 - given_up);
    let elapsed_ms = report.elapsed_ms();
    // Of the timeout a tenth is kept for the end.
    let least_ms = linger.min(timeout) as f64 * 0.9;
    let most_ms = timeout as f64 + 50.0;
    assert!((least_ms..=most_ms).contains(&elapsed_ms), "{elapsed_ms}");
}

/// A server, and a client that it has accepted, with a small buffer.
fn met(path: &Path, linger: u64, timeout: u64) -> (Program, TcpStream) {
    let times = [format!("linger={linger}"), format!("timeout={timeout}")];
    let address = format!("addr={}", Path::server_address(false));
    let words = ["cores=1", &address, &times[0], &times[1]];
    let mut server = path.as_server(|| Program::role("framed", &words));
    let address: std::net::SocketAddr = server.address().parse().expect("an address");
    let socket = path.as_client(|| Socket::new(Domain::for_address(address), Type::STREAM, None));
    let socket = socket.expect("a socket can be made");
    let small = socket.set_recv_buffer_size(16 * 1024);
    small.expect("a buffer may be small");
    socket.connect(&address.into()).expect("the server listens");
    (server, socket.into())
}

/// Asks for an answer of so many bytes of body.
fn ask(client: &mut TcpStream, answer: u32) {
    let request = Request {
        size: 1,
        answer,
        delay_ms: 0,
        number: 0,
    };
    let mut bytes = request.header().to_vec();
    bytes.push(b'x');
    client.write_all(&bytes).expect("a request is small");
}

/// How many bytes the client's kernel has. More cannot come: the server is
/// gone, and the path drops all.
fn all_that_came(client: &mut TcpStream) -> u64 {
    let soon = Some(Duration::from_millis(100));
    client.set_read_timeout(soon).expect("a time can be set");
    let mut room = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        match client.read(&mut room) {
            Ok(0) => panic!("the server's FIN came through"),
            Ok(count) => bytes += count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return bytes,
            Err(error) => panic!("the path lets something through: {error}"),
        }
    }
}
