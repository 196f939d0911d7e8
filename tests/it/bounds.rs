//! What a peer can make a server hold, and where that ends: each of these peers
//! attacks, and what it takes is measured.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream as Peer;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use evenfall::{Handle, Phase};
use serde_json::json;

use crate::args::Args;
use crate::limits::{FLOOD, answered, ask, asking, survived_the_flood};
use crate::path::Path;
use crate::process::{Program, WATCHDOG, say};
use crate::promise::{heavy, promises};
use crate::server::{Setup, conclude, host};
use crate::wire::Request;

promises![
    of_a_flood_a_core_takes_as_many_as_it_may_and_serves_the_others_in_turn,
    a_stop_at_the_limit_serves_whoever_is_in_the_backlog,
    senders_that_nobody_reads_are_held_to_their_bound_each,
    a_peer_that_talks_on_behind_our_fin_is_let_go_when_it_has_lingered,
];

/// Connections a core may have.
const MOST: usize = 8;

/// The sockets that a process has open.
fn sockets(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it is alive");
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

fn of_a_flood_a_core_takes_as_many_as_it_may_and_serves_the_others_in_turn() {
    let words = ["cores=1", &format!("most={MOST}")];
    let mut server = Program::role("echo", &words);
    let address = server.address();
    let before = sockets(server.pid());
    let mut peers: Vec<Peer> = (0..FLOOD).map(|number| asking(&address, number)).collect();
    for (number, peer) in peers.iter_mut().enumerate().take(MOST) {
        answered(peer, number);
        ask(peer, number);
    }
    // Each that goes makes room for one more, and never for two.
    for (number, mut peer) in peers.into_iter().enumerate() {
        answered(&mut peer, number);
        let open = sockets(server.pid()) - before;
        assert!(open <= MOST, "{open} connections at once");
    }
    let _report = survived_the_flood(server, "max_connections");
}

/// They know that they are connected, and have asked.
fn a_stop_at_the_limit_serves_whoever_is_in_the_backlog() {
    let mut server = Program::role("echo", &["cores=1", "most=2"]);
    let address = server.address();
    let mut peers: Vec<Peer> = (0..10).map(|number| asking(&address, number)).collect();
    for (number, peer) in peers.iter_mut().enumerate().take(2) {
        answered(peer, number);
    }
    server.signal(libc::SIGTERM);
    for (number, peer) in peers.iter_mut().enumerate().skip(2) {
        answered(peer, number);
    }
    for mut peer in peers {
        assert_eq!(peer.read(&mut [0]).expect("an end by FIN"), 0);
    }
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "accepted_total"), 10);
}

/// Peers that send without an end to a server that never reads.
const SENDERS: usize = 64;

/// What a core may hold of one connection's bytes on its heap: 128 KiB, the rest of a buffer, and the
/// record.
const HELD_EACH: u64 = 128 * 1024 + 2 * 16 * 1024;

fn senders_that_nobody_reads_are_held_to_their_bound_each() {
    let mut server = Program::role("hoards", &["cores=1"]);
    let address = server.address();
    let before = lent_bytes(&mut server);
    let mut peers: Vec<Peer> = (0..SENDERS).map(|_| pouring(&address)).collect();
    let block = vec![7; 1 << 20];
    let mut sent = 0;
    for peer in &mut peers {
        // Until neither kernel takes more for a while.
        let mut last = Instant::now();
        while last.elapsed() < Duration::from_millis(50) {
            match peer.write(&block) {
                Ok(count) => {
                    sent += count as u64;
                    last = Instant::now();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    }
    let grown = lent_bytes(&mut server).saturating_sub(before);
    let most = SENDERS as u64 * HELD_EACH;
    assert!(sent > 2 * most, "{sent} bytes are no attack");
    assert!(grown <= most, "{grown} bytes are held, of {sent}");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.leaves_nothing();
    let received = report.sum("bytes", "received");
    assert!(received <= most, "{received} bytes were taken of {sent}");
    drop(peers);
}

/// A peer that waits a millisecond at most for room.
fn pouring(address: &str) -> Peer {
    let peer = Peer::connect(address).expect("it listens");
    let moment = Duration::from_millis(1);
    peer.set_write_timeout(Some(moment)).expect("not zero");
    peer
}

/// What the server's heap has lent.
fn lent_bytes(server: &mut Program) -> u64 {
    server.tell("lent");
    server.json("lent ")["bytes"].as_u64().expect("a number")
}

/// Takes connections and reads none of what comes. At the stop they are reset: to read them to the
/// end is not what this is about.
pub(crate) fn hoards(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |_core, listener| async move {
        let hoard = async |stream: evenfall::net::TcpStream| {
            let mut phases = Handle::current().phases();
            while phases
                .next()
                .await
                .is_some_and(|phase| phase < Phase::Draining)
            {}
            stream.abort();
            Ok(())
        };
        listener.serve(hoard).await
    });
    conclude(result, &json!({}))
}

/// Shorter than the default, to save time.
const LINGER: Duration = Duration::from_millis(600);

/// What a peer's path takes there and back. Two of it without a byte are a silence that ends a close,
/// too: so long no machine keeps a peer from saying something.
const ROUND_TRIP: Duration = Duration::from_millis(200);

/// How often it says something.
const DRIP: Duration = Duration::from_millis(5);

fn a_peer_that_talks_on_behind_our_fin_is_let_go_when_it_has_lingered() {
    let _alone = heavy();
    let ended = Program::role("talks_on", &[]).finish();
    ended.exited(0);
    let kept = ended.said.iter().any(|line| line == "kept");
    assert!(kept, "{}", ended.told("it kept nothing"));
}

/// At both ends of a path of its own: a server that answers once and closes, and a peer that has
/// acknowledged all it was sent, but is never silent.
pub(crate) fn talks_on(args: Args) -> ExitCode {
    args.finish();
    let path = Path::lay(ROUND_TRIP);
    let linger = format!("linger={}", LINGER.as_millis());
    let address = format!("addr={}", Path::server_address(false));
    let words = ["cores=1", &address, &linger, "end=drop"];
    let mut server = path.as_server(|| Program::role("answers_once", &words));
    let address = server.address();
    let before = sockets(server.pid());
    let mut peer = path.as_client(|| answered_and_ended(&address));
    let since = Instant::now();
    while peer.write_all(b"on and on").is_ok() {
        assert!(since.elapsed() < WATCHDOG / 2, "it may talk for ever");
        // Time is the subject: so often is never silent.
        std::thread::sleep(DRIP);
    }
    let took = since.elapsed();
    assert!(took >= LINGER, "it was let go after {took:?}");
    let until = Instant::now() + WATCHDOG;
    while sockets(server.pid()) > before {
        assert!(Instant::now() < until, "its descriptor stays");
    }
    server.signal(libc::SIGTERM);
    server.finish().report(0).leaves_nothing();
    say("kept");
    ExitCode::SUCCESS
}

/// A peer that was answered, and has met the FIN behind the answer.
fn answered_and_ended(address: &str) -> Peer {
    let mut peer = Peer::connect(address).expect("it listens");
    peer.set_nodelay(true).expect("it is connected");
    peer.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    let request = Request {
        size: 1,
        answer: 1,
        delay_ms: 0,
        number: 0,
    };
    peer.write_all(&request.header()).expect("it is read");
    peer.write_all(b"?").expect("it is read");
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer)
        .expect("an answer, then the FIN");
    peer
}
