//! Bytes arrive, all of them, and memory stays bounded while they do.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use evenfall::net::TcpStream;
use evenfall::time::sleep;
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::{Count, heavy, load, promises};
use crate::server::{Setup, conclude, host};
use crate::sys;
use crate::wire::Table;

promises![
    sixty_four_connections_of_64_bytes_get_200_000_echoes,
    sixty_four_connections_of_16_kib_get_200_000_echoes,
    a_thousand_connections_are_served_at_once,
    an_upload_of_100_mib_to_a_slow_reader_takes_bounded_memory,
    bursts_that_nobody_reads_come_back_whole_in_bounded_memory,
    a_large_answer_arrives_whole,
    at_the_limit_of_descriptors_connections_wait_and_are_served,
];

/// What a server may take in addition to what it had when it began to listen:
/// its pools of buffers, once they are touched, and the queues' bounds.
const MEMORY_BOUND: u64 = 32 * 1024 * 1024;

fn sixty_four_connections_of_64_bytes_get_200_000_echoes() {
    every_echo_is_right("connections=64 size=64 total=200000", 64);
}

fn sixty_four_connections_of_16_kib_get_200_000_echoes() {
    every_echo_is_right("connections=64 size=16384 total=200000", 16_384);
}

fn a_thousand_connections_are_served_at_once() {
    every_echo_is_right("connections=1000 size=100 total=20000", 100);
}

#[track_caller]
fn every_echo_is_right(words: &str, size: u64) {
    let _alone = heavy();
    let mut server = Program::role("echo", &[]);
    let load = load(&server.address(), words);
    let count = Count::of(load);
    count.ended_well();
    assert_eq!(count.number("answered"), count.number("requests"));
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("bytes", "sent"), size * count.number("answered"));
    assert_eq!(
        report.sum("bytes", "received"),
        size * count.number("requests")
    );
    let accepted = report.sum("connections", "accepted_total");
    assert_eq!(accepted, count.number("established"));
}

fn an_upload_of_100_mib_to_a_slow_reader_takes_bounded_memory() {
    let _alone = heavy();
    let bytes: u64 = 100 * 1024 * 1024;
    let mut server = Program::role("slow_reader", &[]);
    let address = format!("addr={}", server.address());
    let before = sys::peak_memory_bytes(server.pid());
    let upload = Program::role("upload", &[&address, &format!("bytes={bytes}")]);
    let done = upload.finish().json("done ");
    assert_eq!(done["sent"], bytes);
    assert_eq!(done["right"], bytes, "the server saw other bytes");
    let grown = sys::peak_memory_bytes(server.pid()) - before;
    assert!(grown < MEMORY_BOUND, "{grown} bytes of memory were taken");
    server.signal(libc::SIGTERM);
    server.finish().report(0).loses_nothing();
}

/// Four connections write 16 MiB each and read nothing until they are stuck.
/// A server that queued what it cannot send would hold most of 64 MiB.
fn bursts_that_nobody_reads_come_back_whole_in_bounded_memory() {
    let _alone = heavy();
    let mut server = Program::role("echo", &[]);
    let address = server.address();
    let before = sys::peak_memory_bytes(server.pid());
    let words = "connections=4 each=1024 size=16384 window=1024 receive_buffer=65536 \
                 silent=true stall=500 stall_reads=true";
    let mut load = load(&address, words);
    load.line("stalled");
    let count = Count::of(load);
    count.ended_well();
    assert_eq!(count.number("bytes_received"), 4 * 16 * 1024 * 1024);
    let grown = sys::peak_memory_bytes(server.pid()) - before;
    assert!(grown < MEMORY_BOUND, "{grown} bytes of memory were taken");
    server.signal(libc::SIGTERM);
    server.finish().report(0).loses_nothing();
}

fn a_large_answer_arrives_whole() {
    let mut server = Program::role("framed", &[]);
    let words = "protocol=framed connections=4 each=3 size=1000 answer=8388608";
    let load = load(&server.address(), words);
    let count = Count::of(load);
    count.ended_well();
    assert_eq!(count.number("answered"), 12);
    server.signal(libc::SIGTERM);
    server.finish().report(0).loses_nothing();
}

/// The kernel takes what the server cannot accept into its backlog.
fn at_the_limit_of_descriptors_connections_wait_and_are_served() {
    let mut server = Program::role("framed", &["fds=48"]);
    let words = "protocol=framed connections=300 each=3 size=100 answer=300 delay=5";
    let count = Count::of(load(&server.address(), words));
    count.ended_well();
    assert_eq!(count.number("answered"), 900);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "accepted_total"), 300);
}

/// Reads 64 KiB at a time with a rest in between, far slower than a client
/// can write, and answers with the number of bytes that were right.
pub(crate) fn slow_reader(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |_core, listener| async move {
        listener.serve(read_slowly).await
    });
    conclude(result, &json!({}))
}

async fn read_slowly(mut stream: TcpStream) -> io::Result<()> {
    let table = Table::new();
    let mut room = vec![0; 64 * 1024];
    let (mut seen, mut right) = (0, 0_u64);
    loop {
        let count = stream.read(&mut room).await?;
        if count == 0 {
            return stream.write_all(&right.to_le_bytes()).await;
        }
        let mut expected = Vec::with_capacity(count);
        table.write(&mut expected, seen, count);
        if expected == room[..count] {
            right += count as u64;
        }
        seen += count as u64;
        sleep(Duration::from_millis(1)).await;
    }
}
