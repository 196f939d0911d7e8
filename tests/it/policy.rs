//! Policies: each listener's connections end as it was told they should.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as Peer};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use evenfall::net::{DrainPolicy, TcpListener, TcpStream};
use evenfall::time::sleep;
use evenfall::{Core, Phase};
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, WATCHDOG, say};
use crate::promise::{Count, load, promises};
use crate::report::Report;
use crate::server::{Setup, answer_all, answer_plainly, conclude, connect, host_group};

promises![
    a_listener_that_cuts_resets_at_once_and_its_neighbour_drains_in_order,
    a_policy_given_on_the_core_holds_as_well,
    what_a_cut_leaves_behind_is_given_up_and_not_lost,
    a_cut_reaches_connections_that_nobody_has_taken,
    idle_connections_end_evenly_over_the_window,
    connections_that_know_no_requests_end_evenly_as_well,
    streams_that_never_end_are_asked_to_end_evenly_as_well,
    cuts_can_be_spread_too,
    a_window_longer_than_the_budget_is_shortened,
    a_deadline_that_comes_closer_shortens_the_window,
    a_request_before_its_turn_is_answered_and_ends_the_connection,
    a_listeners_grace_is_its_own_be_it_shorter_or_longer,
    a_listeners_linger_caps_its_close_and_not_the_runtimes,
];

/// Connections whose ends are watched, each by a thread of its own.
const CROWD: usize = 40;

/// The server of these tests, on one core: its listener with the policy that
/// `words` say, and the other one, which has none.
#[track_caller]
fn server(words: &[&str]) -> (Program, String, String) {
    let words: Vec<&str> = ["cores=1"].iter().chain(words).copied().collect();
    let mut server = Program::role("policies", &words);
    let address = server.line("policy at ");
    let other = server.line("other at ");
    (server, address, other)
}

/// A connection that has been served once and is idle now.
#[track_caller]
fn served(address: &str) -> Peer {
    let mut peer = Peer::connect(address).expect("it listens");
    peer.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    ask(&mut peer);
    peer
}

/// One request and its answer.
#[track_caller]
fn ask(peer: &mut Peer) {
    peer.write_all(b"?").expect("it reads");
    let mut answer = [0];
    peer.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"?");
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Fin,
    Reset,
}

/// Waits for the end of an idle connection.
fn end_of(peer: &mut Peer) -> End {
    match peer.read(&mut [0]) {
        Ok(0) => End::Fin,
        Ok(_) => panic!("an answer that nobody has asked for"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
        Err(error) => panic!("no end: {error}"),
    }
}

/// When each of the connections has ended, from now on, the earliest first;
/// `then` is done when all are watched.
fn ends(peers: Vec<Peer>, end: End, then: impl FnOnce()) -> Vec<Duration> {
    let since = Instant::now();
    let watch = |mut peer: Peer| {
        std::thread::spawn(move || {
            assert_eq!(end_of(&mut peer), end);
            since.elapsed()
        })
    };
    let watched: Vec<_> = peers.into_iter().map(watch).collect();
    then();
    let join = |thread: std::thread::JoinHandle<Duration>| thread.join().expect("an end");
    let mut ends: Vec<Duration> = watched.into_iter().map(join).collect();
    ends.sort();
    ends
}

/// The ends of `CROWD` connections were spread over the window: none came before
/// its place in it, and so there are few in any part of it. How late they came
/// is only bounded by what a busy machine may do.
#[track_caller]
fn are_spread_over(ends: &[Duration], window: Duration) {
    assert_eq!(ends.len(), CROWD);
    for (place, end) in (0..).zip(ends) {
        let due = window * place / CROWD as u32;
        assert!(*end >= due, "end {place} of {ends:?} is due at {due:?}");
    }
    let last = ends[CROWD - 1];
    assert!(last < window + Duration::from_secs(2), "the last: {last:?}");
}

/// Stops a server whose connections end one after the other over `window`.
#[track_caller]
fn is_spread(words: &[&str], end: End, window: Duration) -> Report {
    let (server, address, _) = server(words);
    let crowd: Vec<Peer> = (0..CROWD).map(|_| served(&address)).collect();
    let ends = ends(crowd, end, || server.signal(libc::SIGTERM));
    are_spread_over(&ends, window);
    let report = server.finish().report(0);
    report.loses_nothing();
    report
}

fn a_listener_that_cuts_resets_at_once_and_its_neighbour_drains_in_order() {
    cuts_beside_a_neighbour(&["cut=true"]);
}

fn a_policy_given_on_the_core_holds_as_well() {
    cuts_beside_a_neighbour(&["cut=true", "on_core=true"]);
}

#[track_caller]
fn cuts_beside_a_neighbour(words: &[&str]) {
    let (server, address, other) = server(words);
    let mut cut = load(&address, "connections=70 each=2 warm=140 end=stay");
    cut.line("warm");
    let mut drained = load(&other, "connections=30 each=2 warm=60 end=stay");
    drained.line("warm");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    let cut = Count::of(cut);
    assert_eq!(cut.number("reset"), 70);
    Count::of(drained).ended_well();
    report.loses_nothing();
    assert_eq!(report.sum("connections", "aborted"), 70);
    assert_eq!(report.sum("connections", "drained"), 30);
    let listeners = report.all("listeners");
    let policy = |cut: bool| {
        listeners
            .iter()
            .filter(|l| l["policy"]["cut"] == cut)
            .count()
    };
    assert_eq!((policy(true), listeners.len()), (1, 2), "{listeners:?}");
}

/// In the middle of an answer that its peer does not read.
fn what_a_cut_leaves_behind_is_given_up_and_not_lost() {
    let (server, address, _) = server(&["cut=true", "plain=true"]);
    let mut peer = connect(address.parse().expect("an address")).expect("it listens");
    fill(&mut peer);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "aborted"), 1);
    assert!(report.sum("bytes", "aborted") > 0, "{:?}", report.cores());
    let end = io::copy(&mut peer, &mut io::sink()).map_err(|error| error.kind());
    assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
}

/// Writes until the echo, which nobody reads, stands still.
#[track_caller]
fn fill(peer: &mut Peer) {
    let still = Duration::from_millis(300);
    peer.set_write_timeout(Some(still)).expect("not zero");
    let block = vec![7; 64 * 1024];
    loop {
        match peer.write(&block) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => panic!("it reads: {error}"),
        }
    }
}

fn a_cut_reaches_connections_that_nobody_has_taken() {
    let (server, address, _) = server(&["cut=true", "accepts=false"]);
    let peers: Vec<Peer> = (0..CROWD)
        .map(|_| Peer::connect(&address).expect("it listens"))
        .collect();
    for peer in &peers {
        peer.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    }
    ends(peers, End::Reset, || server.signal(libc::SIGTERM));
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "aborted"), CROWD as u64);
}

fn idle_connections_end_evenly_over_the_window() {
    let report = is_spread(&["spread=2000"], End::Fin, Duration::from_secs(2));
    assert_eq!(report.sum("connections", "drained"), CROWD as u64);
    let listeners = report.all("listeners");
    let windows = listeners.iter().map(|l| &l["policy"]["spread_ms"]);
    assert!(windows.eq([&json!(null), &json!(2000.0)]), "{listeners:?}");
}

fn connections_that_know_no_requests_end_evenly_as_well() {
    let words = ["spread=2000", "plain=true", "idle_grace=50"];
    is_spread(&words, End::Fin, Duration::from_secs(2));
}

fn streams_that_never_end_are_asked_to_end_evenly_as_well() {
    let (server, address, _) = server(&["spread=1500", "streams=true"]);
    let crowd: Vec<Peer> = (0..CROWD).map(|_| streaming(&address)).collect();
    let since = Instant::now();
    let watch = |mut peer: Peer| {
        std::thread::spawn(move || {
            io::copy(&mut peer, &mut io::sink()).expect("an end by FIN");
            since.elapsed()
        })
    };
    let watched: Vec<_> = crowd.into_iter().map(watch).collect();
    server.signal(libc::SIGTERM);
    let ends = watched.into_iter().map(|thread| thread.join());
    let mut ends: Vec<Duration> = ends.map(|end| end.expect("an end")).collect();
    ends.sort();
    are_spread_over(&ends, Duration::from_millis(1500));
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "closed_by_handler"), CROWD as u64);
}

/// A connection whose stream has begun.
#[track_caller]
fn streaming(address: &str) -> Peer {
    let mut peer = Peer::connect(address).expect("it listens");
    peer.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    peer.read_exact(&mut [0]).expect("it streams");
    peer
}

fn cuts_can_be_spread_too() {
    let words = ["spread=1500", "cut=true"];
    let report = is_spread(&words, End::Reset, Duration::from_millis(1500));
    assert_eq!(report.sum("connections", "aborted"), CROWD as u64);
}

/// Of 6 s half a second is kept for Closing, and of the rest nine tenths are the
/// room.
fn a_window_longer_than_the_budget_is_shortened() {
    let room = Duration::from_millis(4950);
    let report = is_spread(&["spread=3600000", "timeout=6000"], End::Fin, room);
    assert_eq!(report.sum("connections", "drained"), CROWD as u64);
}

fn a_deadline_that_comes_closer_shortens_the_window() {
    let (mut server, address, _) = server(&["spread=80000", "timeout=95000"]);
    let mut crowd: Vec<Peer> = (0..CROWD).map(|_| served(&address)).collect();
    server.signal(libc::SIGTERM);
    // The first one's place is the beginning, the second's two seconds later.
    assert_eq!(end_of(&mut crowd.remove(0)), End::Fin);
    ends(crowd, End::Fin, || server.tell("within 8000"));
    let report = server.finish().report(0);
    report.loses_nothing();
    assert!(report.elapsed_ms() < 8_000.0, "{} ms", report.elapsed_ms());
}

fn a_request_before_its_turn_is_answered_and_ends_the_connection() {
    let (server, address, _) = server(&["spread=80000", "timeout=95000"]);
    let (mut first, mut second) = (served(&address), served(&address));
    server.signal(libc::SIGTERM);
    assert_eq!(end_of(&mut first), End::Fin);
    // It would have 40 s, but is not idle any more.
    ask(&mut second);
    assert_eq!(end_of(&mut second), End::Fin);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("requests", "answered"), 3);
    assert!(report.elapsed_ms() < 30_000.0, "{}", report.elapsed_ms());
}

fn a_listeners_grace_is_its_own_be_it_shorter_or_longer() {
    let (quick, address, _) = server(&[
        "plain=true",
        "grace=100",
        "idle_grace=60000",
        "timeout=95000",
    ]);
    let peer = served(&address);
    ends(vec![peer], End::Fin, || quick.signal(libc::SIGTERM));
    let report = quick.finish().report(0);
    report.loses_nothing();
    assert!(report.elapsed_ms() < 30_000.0, "{}", report.elapsed_ms());

    let (slow, address, _) = server(&["plain=true", "grace=1000", "idle_grace=10"]);
    let peer = served(&address);
    let ends = ends(vec![peer], End::Fin, || slow.signal(libc::SIGTERM));
    assert!(ends[0] >= Duration::from_secs(1), "{ends:?}");
    slow.finish().report(0).loses_nothing();
}

/// A peer that takes nothing of what the handler says at its end.
fn a_listeners_linger_caps_its_close_and_not_the_runtimes() {
    let words = [
        "farewell=12582912",
        "own_linger=300",
        "linger=60000",
        "timeout=95000",
    ];
    let (server, address, _) = server(&words);
    let address: SocketAddr = address.parse().expect("an address");
    let mut peer = connect(address).expect("it listens");
    ask(&mut peer);
    server.signal(libc::SIGTERM);
    let report = server.finish().report(80);
    assert_eq!(report.sum("connections", "abandoned"), 1);
    assert!(report.sum("bytes", "unsent") + report.sum("bytes", "unacked") > 0);
    let elapsed_ms = report.elapsed_ms();
    assert!((300.0..30_000.0).contains(&elapsed_ms), "{elapsed_ms} ms");
}

/// What the role's words ask for.
fn policy(args: &mut Args) -> DrainPolicy {
    let mut policy = DrainPolicy::new();
    if let Some(grace) = args.millis("grace") {
        policy = policy.idle_grace(grace);
    }
    if args.number("cut", false) {
        policy = policy.cut();
    }
    if let Some(window) = args.millis("spread") {
        policy = policy.spread(window);
    }
    if let Some(linger) = args.millis("own_linger") {
        policy = policy.linger(linger);
    }
    policy
}

/// How the role handles the connections of the listener with the policy.
#[derive(Clone, Copy, Debug)]
struct Handling {
    /// `plain=true`: without `next_request`.
    plain: bool,
    /// `streams=true`: without being asked anything, until the stop asks for the end.
    streams: bool,
    /// `accepts=false`: not at all.
    accepts: bool,
    /// `farewell`: so many bytes are sent at the end of a connection.
    farewell: usize,
}

/// An echo at two listeners: one that the runtime has bound, one of the core's
/// own. The policy is the first one's, with `on_core=true` the second one's.
pub(crate) fn policies(mut args: Args) -> ExitCode {
    let policy = policy(&mut args);
    let on_core: bool = args.number("on_core", false);
    let handling = Handling {
        plain: args.number("plain", false),
        streams: args.number("streams", false),
        accepts: args.number("accepts", true),
        farewell: args.number("farewell", 0),
    };
    let result = host_group(Setup::only(args), move |core, listener| {
        let policy = policy.clone();
        async move {
            let own = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
            let (with, without) = if on_core {
                (own.drain_policy(policy), listener.on(&core))
            } else {
                (listener.drain_policy(policy).on(&core), own)
            };
            say(&format!("policy at {}", with.local_addr()));
            say(&format!("other at {}", without.local_addr()));
            let others = evenfall::spawn(async move { without.serve(answer_all).await });
            serve(&core, with, handling).await?;
            others.await.map_err(io::Error::other)?
        }
    });
    conclude(result, &json!({}))
}

async fn serve(core: &Core, listener: TcpListener, handling: Handling) -> io::Result<()> {
    if !handling.accepts {
        let mut phases = core.handle().phases();
        while phases.next().await != Some(Phase::Draining) {}
        // The phase is announced before the cores have heard of it: it is their
        // turns that this waits for.
        sleep(Duration::from_millis(50)).await;
        assert!(listener.accept().await?.is_none(), "given out all the same");
        return Ok(());
    }
    listener
        .serve(move |stream| async move {
            match handling.plain {
                _ if handling.streams => stream_until_asked(stream).await,
                true => answer_plainly(stream).await,
                false => answer_and_part(stream, handling.farewell).await,
            }
        })
        .await
}

/// Takes its leave with so many bytes.
async fn answer_and_part(mut stream: TcpStream, farewell: usize) -> io::Result<()> {
    while stream.next_request().await? {
        let chunk = stream.recv().await?;
        stream.send(chunk).await?;
    }
    if farewell > 0 {
        stream.send(vec![1; farewell]).await?;
    }
    Ok(())
}

/// Has no end of its own.
async fn stream_until_asked(mut stream: TcpStream) -> io::Result<()> {
    while !stream.draining() {
        stream.write_all(b".").await?;
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
