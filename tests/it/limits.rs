//! What a process may have, and what a user may ask for, has limits: at each the
//! runtime serves on, or says which it met.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as Peer};
use std::process::ExitCode;
use std::time::Duration;

use evenfall::net::{Chunk, DrainPolicy, TcpListener, TcpStream};
use evenfall::report::Verdict;
use evenfall::time::{interval, sleep, spawn_after, timeout, try_spawn_after};
use evenfall::{Core, Cores, ErrorKind, Shutdown, spawn, spawn_on};
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, WATCHDOG, builder};
use crate::promise::promises;
use crate::report::Report;
use crate::server::{Setup, answer_all, conclude, host, joined, pair, soon};
use crate::sys;

promises![
    a_flood_beyond_the_descriptors_is_served_in_turn_and_nobody_is_lost,
    too_little_locked_memory_is_named_with_its_remedy_and_enough_of_it_is_enough,
    durations_and_counts_at_their_ends_are_refused_in_words_or_do_what_they_say,
];

/// Connections a server at its limit has descriptors for, about.
const ROOM: u64 = 16;

/// Clients that come at once.
pub(crate) const FLOOD: usize = 100;

fn a_flood_beyond_the_descriptors_is_served_in_turn_and_nobody_is_lost() {
    let mut server = Program::role("at_the_limit", &["cores=1"]);
    let address = server.address();
    let mut peers: Vec<Peer> = (0..FLOOD).map(|number| asking(&address, number)).collect();
    // The first is served on while the others wait.
    for _ in 0..3 {
        answered(&mut peers[0], 0);
        ask(&mut peers[0], 0);
    }
    // Time is the subject: an accept that is armed again at once would spin meanwhile.
    std::thread::sleep(Duration::from_millis(300));
    // In the order in which they came; each that goes makes room for one more.
    for (number, mut peer) in peers.into_iter().enumerate() {
        answered(&mut peer, number);
    }
    let report = survived_the_flood(server, "os error 24");
    let submitted = report.sum("ops", "submitted");
    assert!(submitted < 20 * FLOOD as u64, "{submitted} operations");
}

/// Stops a server that a flood has met: it took all of it and lost nobody, and its listener paused
/// because of `why`.
#[track_caller]
pub(crate) fn survived_the_flood(server: Program, why: &str) -> Report {
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "accepted_total"), FLOOD as u64);
    let listener = &report.all("listeners")[0];
    assert!(listener["pauses"].as_u64() > Some(0), "{listener}");
    let paused_by = listener["paused_by"].as_str().unwrap_or_default();
    assert!(paused_by.contains(why), "{listener}");
    report
}

/// A client that has asked.
pub(crate) fn asking(address: &str, number: usize) -> Peer {
    let mut peer = Peer::connect(address).expect("the backlog has room");
    peer.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    ask(&mut peer, number);
    peer
}

pub(crate) fn ask(peer: &mut Peer, number: usize) {
    let words = format!("{number:04}");
    peer.write_all(words.as_bytes()).expect("it is connected");
}

#[track_caller]
pub(crate) fn answered(peer: &mut Peer, number: usize) {
    let mut answer = [0; 4];
    peer.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, format!("{number:04}").as_bytes());
}

/// An echo with descriptors for some `ROOM` connections.
pub(crate) fn at_the_limit(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |_core, listener| async move {
        sys::limit_fds(sys::open_fds() as u64 + ROOM)?;
        listener.serve(answer_all).await
    });
    conclude(result, &json!({}))
}

/// Locked memory from none to more than a ring needs, page by page.
fn too_little_locked_memory_is_named_with_its_remedy_and_enough_of_it_is_enough() {
    let mut was_enough = None;
    for kib in (0..=200).step_by(4) {
        let ended = Program::role("little_memory", &[&format!("kib={kib}")]).finish();
        if ended.status.code() == Some(0) {
            ended.report(0).loses_nothing();
            was_enough.get_or_insert(kib);
            continue;
        }
        ended.exited(2);
        let bytes = format!("{} bytes", kib * 1024);
        for words in ["locked-memory limit", "ulimit -l", "(os error 12)", &bytes] {
            let said = ended.stderr.contains(words);
            assert!(said, "{}", ended.told(&format!("no word of {words}")));
        }
        // More than enough is not too little.
        assert_eq!(was_enough, None, "{}", ended.told("less was enough"));
    }
    assert!(was_enough.is_some(), "200 KiB hold a ring");
    // Otherwise nothing counts against the limit here, and no word of the error was looked at.
    assert!(was_enough > Some(0), "a ring was made of no memory at all");
}

/// An ordinary user's process, with so much memory to lock.
pub(crate) fn little_memory(mut args: Args) -> ExitCode {
    let kib: u64 = args.take("kib").expect("kib is what may be locked");
    args.finish();
    sys::limit_locked_memory(kib * 1024).expect("a limit may be lowered");
    // Each of these processes another one: a ring that was closed counts for its user until the
    // kernel has freed it.
    sys::become_another_user(61_000 + kib as u32);
    sys::drop_capabilities().expect("a process may give up its capabilities");
    let result = (|| {
        let mut runtime = builder().cores(Cores::Count(1)).build()?;
        let listener = runtime.bind("127.0.0.1:0")?;
        runtime.run(move |core| {
            let listener = listener.on(&core);
            async move {
                let (mut stream, mut peer) = pair(&listener).await?;
                peer.write_all(b"room enough")?;
                assert_eq!(stream.recv().await?.as_ref(), b"room enough");
                Ok(())
            }
        })
    })();
    conclude(result, &json!({}))
}

fn durations_and_counts_at_their_ends_are_refused_in_words_or_do_what_they_say() {
    let report = Program::role("extremes", &[]).finish().report(0);
    report.loses_nothing();
    assert_eq!(report.part("hooks").as_array().map(Vec::len), Some(1));
}

/// Everything that takes a number, with the largest there is and with none.
pub(crate) fn extremes(args: Args) -> ExitCode {
    args.finish();
    for cores in [0, usize::MAX] {
        let error = builder().cores(Cores::Count(cores)).build();
        let error = error.expect_err("neither none nor so many");
        assert_eq!(error.kind(), ErrorKind::Cores, "{error}");
    }
    for none in [builder().max_connections(0), builder().queues(0, u32::MAX)] {
        let error = none.cores(Cores::Count(1)).build();
        assert_eq!(error.expect_err("none").kind(), ErrorKind::Config);
    }
    let processor = builder().cores(Cores::List(vec![usize::MAX])).build();
    assert_eq!(processor.expect_err("none").kind(), ErrorKind::Cores);
    for signal in [i32::MIN, -1, 0, i32::MAX] {
        let error = builder().cores(Cores::Count(1)).signals([signal]).build();
        assert_eq!(error.expect_err("none").kind(), ErrorKind::Signals);
    }
    for shortest in [Duration::ZERO, Duration::from_nanos(1)] {
        let all = all_of(shortest).stuck_after(Duration::from_secs(1));
        let runtime = builder().cores(Cores::Count(1)).shutdown(all).build();
        runtime
            .expect("an empty stop is one")
            .run(|_| async { Ok(()) })
            .expect("a report");
    }
    spread_over_all_time();
    let longest = all_of(Duration::MAX);
    let greedy = longest
        .clone()
        .hooks_reserve(Duration::MAX)
        .close_reserve(Duration::MAX);
    let error = builder().cores(Cores::Count(1)).shutdown(greedy).build();
    assert_eq!(error.expect_err("no room").kind(), ErrorKind::Config);
    // No quiet, for that would be waited for.
    let longest = longest.quiet(Duration::ZERO).notice(Duration::ZERO);
    let result = (|| {
        let mut runtime = builder()
            .cores(Cores::Count(1))
            .shutdown(longest)
            .stall_after(Duration::MAX)
            .max_connections(usize::MAX)
            .queues(32_768, 65_536)
            .build()?;
        let listener = runtime.bind("127.0.0.1:0")?;
        runtime.run(move |core| {
            let listener = listener.on(&core).drain_policy(
                DrainPolicy::new()
                    .idle_grace(Duration::MAX)
                    .spread(Duration::ZERO)
                    .linger(Duration::MAX),
            );
            async move { ask_for_all(&core, listener).await }
        })
    })();
    conclude(result, &json!({}))
}

/// A window longer than the stop is the stop's, however long it is: who idles is told in time.
fn spread_over_all_time() {
    let shutdown = Shutdown::default().timeout(Duration::from_secs(1));
    let one = builder().cores(Cores::Count(1)).shutdown(shutdown);
    let mut runtime = one.build().expect("a runtime");
    let listener = runtime.bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().to_string();
    // The second one's turn is half of the window later than the first one's.
    let mut peers = [7, 8].map(|number| asking(&address, number));
    let handle = runtime.handle();
    let asks = std::thread::spawn(move || {
        for (peer, number) in peers.iter_mut().zip(7..) {
            answered(peer, number);
        }
        handle.shutdown();
        for peer in &mut peers {
            assert_eq!(peer.read(&mut [0]).expect("an end by FIN"), 0);
        }
    });
    let report = runtime.run(move |core| {
        let listener = listener.on(&core).drain_policy(
            DrainPolicy::new()
                .idle_grace(Duration::ZERO)
                .spread(Duration::MAX),
        );
        async move { listener.serve(answer_all).await }
    });
    let report = report.expect("a report");
    asks.join().expect("the peer was answered, and told");
    assert_eq!(report.verdict, Verdict::Clean, "{report}");
}

/// A stop all of whose times are this one.
fn all_of(time: Duration) -> Shutdown {
    Shutdown::default()
        .notice(time)
        .quiet(time)
        .timeout(time)
        .idle_grace(time)
        .linger(time)
        .stuck_after(time)
}

async fn ask_for_all(core: &Core, listener: TcpListener) -> io::Result<()> {
    let nothing = async || Ok::<(), io::Error>(());
    core.handle().on_shutdown("once", Duration::MAX, nothing);
    assert!(core.on_shutdown("twice", Duration::ZERO, nothing).remove());
    times().await;
    let nobody = core.handle().spawn_on(usize::MAX, async || {});
    assert!(nobody.is_err() && spawn_on(usize::MAX, async || {}).is_err());
    let address = listener.local_addr();
    for limit in [0, usize::MAX] {
        serves(
            TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?,
            limit,
        )
        .await?;
    }
    connects(address, &listener).await?;
    core.handle().shutdown_within(Duration::MAX);
    Ok(())
}

/// What waits for ever waits, and what waits for nothing does not.
async fn times() {
    let moment = Duration::from_millis(1);
    assert!(timeout(moment, sleep(Duration::MAX)).await.is_err());
    soon("a sleep of nothing", sleep(Duration::ZERO)).await;
    let done = timeout(Duration::MAX, async { 7 }).await;
    assert_eq!(done.ok(), Some(7));
    let never = spawn_after(Duration::MAX, async {});
    never.abort();
    drop(never.await);
    let never = try_spawn_after(Duration::MAX, async {}).expect("nothing stops");
    never.abort();
    let at_once = spawn_after(Duration::ZERO, async { 7 });
    assert_eq!(soon("a delay of nothing", at_once).await.ok(), Some(7));
    for period in [Duration::ZERO, Duration::from_nanos(1)] {
        let mut ticks = interval(period);
        for _ in 0..3 {
            assert!(soon("a tick", ticks.tick()).await.is_some());
        }
    }
    let mut ticks = interval(Duration::MAX);
    let _first = timeout(moment, ticks.tick()).await;
    assert!(timeout(moment, ticks.tick()).await.is_err());
}

/// Places beyond the end are the end.
fn parts(chunk: &mut Chunk) {
    for past in [5, usize::MAX] {
        assert_eq!(chunk.slice(..past).len(), 4);
        assert_eq!(chunk.slice(past..).len(), 0);
        let mut part = chunk.clone();
        part.truncate(past);
        assert_eq!(part.split_to(past).len(), 4);
        assert_eq!(part.len(), 0);
        chunk.clone().advance(past);
    }
    assert_eq!(chunk.split_to(0).len(), 0);
    chunk.advance(0);
    chunk.truncate(0);
    assert_eq!(chunk.slice(usize::MAX..=usize::MAX).len(), 0);
}

/// No handler at a time counts as one.
async fn serves(listener: TcpListener, limit: usize) -> io::Result<()> {
    let address = listener.local_addr();
    let serving = spawn(async move { listener.serve_limited(limit, answer_all).await });
    let peer = std::thread::spawn(move || {
        let mut peer = asking(&address.to_string(), 7);
        answered(&mut peer, 7);
    });
    joined(peer).await;
    serving.abort();
    Ok(())
}

async fn connects(address: SocketAddr, listener: &TcpListener) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(address, Duration::MAX).await?;
    let accepted = soon("an accept", listener.accept()).await?;
    let mut accepted = accepted.expect("nobody stops the runtime");
    let mut stream = stream;
    stream.write_all(b"four").await?;
    parts(&mut soon("four bytes", accepted.recv()).await?);
    drop(accepted);
    // As long as it likes to be looked after: as the kernel likes, or not at all.
    for idle in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
        if let Err(error) = stream.set_keepalive(Some(idle)) {
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        }
    }
    stream.close().await?;
    let none = TcpStream::connect_timeout(address, Duration::ZERO).await;
    match none {
        // It may be there at once.
        Ok(stream) => stream.abort(),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}"),
    }
    Ok(())
}
