//! A turn that panics, by a defect that is played, on the real kernel: it ends its own core and
//! nobody else's.

#![forbid(unsafe_code)]

mod driver;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as Peer};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::config::{Features, Shutdown};
use crate::handle::{Core, Handle};
use crate::net::{Listener, TcpStream};
use crate::phase::Phase;
use crate::report::{CoreOutcome, HookOutcome, Report, TriggerKind, Verdict};
use crate::ring::fake::{self, Place};
use crate::ring::tests::features;
use crate::runtime::Runtime;
use crate::{spawn, time};

/// The bound on every wait of a peer's.
const PATIENCE: Duration = Duration::from_secs(20);

/// Peers that connect: each core gets some of them.
const PEERS: usize = 64;

/// The core whose turn panics.
const STRUCK: usize = 0;

/// Two cores that serve, and a foreign thread that does `acts` with the handle and the address.
fn run<T: Send + 'static>(
    begin: impl Fn(&Core) + Send + Sync + 'static,
    acts: impl FnOnce(Handle, SocketAddr) -> T + Send + 'static,
) -> (Report, T) {
    let mut runtime = Runtime::builder()
        .cores("0-1".parse().expect("a list"))
        .signals([])
        .shutdown(Shutdown::default().timeout(PATIENCE))
        .as_on_oldest_kernel(features() == Features::Oldest)
        .build()
        .expect("two processors, and memory for two rings");
    let listener = runtime.bind("127.0.0.1:0").expect("a port");
    let (handle, address) = (runtime.handle(), listener.local_addr());
    let (listens, both) = mpsc::channel();
    let acting = std::thread::spawn(move || {
        // A core that does not listen yet gets no peer.
        (0..2).for_each(|_core| both.recv().expect("both cores come up"));
        acts(handle, address)
    });
    let began = Instant::now();
    let report = runtime.run(move |core| {
        begin(&core);
        let serving = serve(&listener, &core);
        listens.send(()).expect("the thread waits for two");
        serving
    });
    let report = report.expect("a report");
    let in_time = began.elapsed() < PATIENCE / 2;
    assert!(in_time, "a deadline was waited for: {report}");
    (report, acting.join().expect("the thread ends well"))
}

/// Answers each request with the number of the core; a long one not at once.
fn serve(listener: &Listener, core: &Core) -> impl Future<Output = io::Result<()>> + use<> {
    let (listener, index) = (listener.on(core), core.index() as u8);
    let answer = move |mut stream: TcpStream| async move {
        while stream.next_request().await? {
            match stream.recv().await?.as_ref() {
                LONG => time::sleep(Duration::from_millis(300)).await,
                STRIKES => fake::strike_at(Place::Submit),
                _ => {}
            }
            stream.write_all(&[index]).await?;
        }
        Ok(())
    };
    async move { listener.serve(answer).await }
}

/// A request that takes its time.
const LONG: &[u8] = b"L";

/// A request in whose turn the driver panics, as it sends.
const STRIKES: &[u8] = b"S";

/// What a peer gets: the core it is served by, or how its connection has ended.
fn answer(peer: &mut Peer) -> io::Result<usize> {
    let mut answer = [0];
    peer.read_exact(&mut answer)?;
    Ok(answer[0].into())
}

/// Peers that have all been answered, each with the core it is served by.
fn peers(address: SocketAddr) -> Vec<(Peer, usize)> {
    let peer = |_| {
        let mut peer = Peer::connect(address).expect("it listens");
        peer.set_read_timeout(Some(PATIENCE)).expect("not zero");
        peer.write_all(b"?").expect("it is connected");
        let core = answer(&mut peer).expect("an answer");
        (peer, core)
    };
    (0..PEERS).map(peer).collect()
}

/// Lets the next reap of the struck core panic, and so many in all.
fn strike(handle: &Handle, times: u32) {
    let struck = handle.spawn_on(STRUCK, move || strike_and_wait(times));
    drop(struck.expect("the core lives"));
}

/// Lets the next reaps of this core panic, and makes sure that there is one.
async fn strike_and_wait(times: u32) -> io::Result<()> {
    fake::strike_after(0, times);
    loop {
        time::sleep(Duration::from_millis(1)).await;
    }
}

/// As `failed`, and no operation was left to the kernel.
#[track_caller]
fn failed_alone(report: &Report) {
    failed(report);
    let leaked: u64 = report.cores.iter().map(|core| core.ops.leaked).sum();
    assert_eq!(leaked, 0, "{report}");
}

/// The struck core has failed and says why, its sibling ended well, and what can be said adds up.
#[track_caller]
fn failed(report: &Report) {
    assert_eq!(report.verdict, Verdict::Failed, "{report}");
    assert_eq!(report.imbalances(), Vec::<String>::new());
    let (struck, sibling) = (&report.cores[STRUCK], &report.cores[1 - STRUCK]);
    assert_eq!(struck.outcome, CoreOutcome::Failed);
    let error = struck.error.as_deref().unwrap_or_default();
    assert!(error.starts_with("the turn panicked"), "{error}");
    assert_eq!(sibling.outcome, CoreOutcome::Finished, "{report}");
}

#[test]
fn a_turn_that_panics_ends_its_core_alone_and_its_connections_are_accounted_for() {
    let (report, [of_struck, of_sibling]) = run(
        |_| {},
        |handle, address| {
            let mut peers = peers(address);
            for (peer, _) in &mut peers {
                peer.write_all(LONG).expect("it is connected");
            }
            let mut phases = handle.phases();
            strike(&handle, 1);
            assert_eq!(phases.wait_next().ok(), Some(Some(Phase::Draining)));
            let mut counts = [0, 0];
            for (mut peer, core) in peers {
                counts[core] += 1;
                // Nobody hangs: the struck core's are reset, its sibling's are answered, and then
                // closed in order.
                let ends = [answer(&mut peer), answer(&mut peer)].map(|end| match end {
                    Ok(core) => format!("an answer of core {core}"),
                    Err(error) => error.kind().to_string(),
                });
                let [first, second] = ends.each_ref().map(String::as_str);
                match core {
                    STRUCK => assert_eq!(first, "connection reset"),
                    _ => assert_eq!(
                        (first, second),
                        ("an answer of core 1", "unexpected end of file")
                    ),
                }
            }
            counts
        },
    );
    failed_alone(&report);
    assert_eq!(report.triggers[0].kind, TriggerKind::CoreFailed);
    let ends = |core: usize| {
        let ends = &report.cores[core].connections;
        (ends.at_start, ends.forced, ends.drained)
    };
    assert!(of_struck > 0 && of_sibling > 0);
    assert_eq!(ends(STRUCK), (of_struck, of_struck, 0));
    assert_eq!(ends(1 - STRUCK), (of_sibling, 0, of_sibling));
    let address = &report.cores[1 - STRUCK].listeners[0].addr;
    std::net::TcpListener::bind(address).expect("nobody listens there any more");
}

#[test]
fn a_core_that_fails_in_failing_too_is_given_up_and_nobody_waits_for_it() {
    let (report, ended) = run(
        |_| {},
        |handle, address| {
            let mut peers = peers(address);
            strike(&handle, 2);
            let end = |(peer, core): &mut (Peer, usize)| (*core, answer(peer).is_err());
            peers.iter_mut().map(end).collect::<Vec<_>>()
        },
    );
    failed_alone(&report);
    let error = report.cores[STRUCK].error.as_deref().unwrap_or_default();
    assert!(error.contains("its end panicked"), "{error}");
    let address = &report.cores[1 - STRUCK].listeners[0].addr;
    Peer::connect(address).expect_err("nobody listens there any more");
    assert!(ended.iter().all(|(_, over)| *over), "{ended:?}");
}

#[test]
fn hooks_that_a_failed_core_had_are_told_and_those_of_the_process_run_elsewhere() {
    let ran = mpsc::channel();
    let sender = std::sync::Mutex::new(Some(ran.0));
    let (report, ()) = run(
        move |core| {
            if core.index() != STRUCK {
                return;
            }
            let sender = sender.lock().expect("no panic").take();
            let sender = sender.expect("one core registers");
            let handle = core.handle();
            handle.on_shutdown("the second", PATIENCE, move || async move {
                sender
                    .send(Core::current().index())
                    .map_err(io::Error::other)
            });
            handle.on_shutdown("the first", PATIENCE, || async { strike_and_wait(1).await });
        },
        |handle, address| {
            drop(peers(address));
            handle.shutdown();
        },
    );
    failed_alone(&report);
    let hooks: Vec<_> = report
        .hooks
        .iter()
        .map(|hook| (hook.name.as_str(), hook.outcome))
        .collect();
    let expected = [
        ("the first", HookOutcome::Overran),
        ("the second", HookOutcome::Ok),
    ];
    assert_eq!(hooks, expected);
    assert_eq!(ran.1.try_iter().collect::<Vec<_>>(), [1 - STRUCK]);
}

#[test]
fn a_turn_may_panic_in_any_phase_and_the_stop_still_ends() {
    for phase in ["draining", "hooks", "closing"] {
        let (report, ()) = run(
            move |core| {
                if core.index() != STRUCK {
                    return;
                }
                core.on_shutdown("a hook of the core", PATIENCE, async move || match phase {
                    "hooks" => strike_and_wait(1).await,
                    _ => Ok(()),
                });
                let mut phases = core.handle().phases();
                drop(spawn::spawn_background(async move {
                    while let Some(phase_now) = phases.next().await {
                        if phase_now == Phase::Draining && phase == "draining" {
                            fake::strike_after(0, 1);
                        }
                    }
                }));
                drop(spawn::spawn_background(StrikesWhenDropped::at(phase)));
            },
            |handle, address| {
                drop(peers(address));
                handle.shutdown();
            },
        );
        failed_alone(&report);
        let told = report.cores[STRUCK].hooks.len();
        assert_eq!(told, 1, "in {phase} the hook is told of: {report}");
    }
}

/// A background task that waits for ever, and whose drop in Closing strikes.
struct StrikesWhenDropped(bool);

impl StrikesWhenDropped {
    fn at(phase: &str) -> StrikesWhenDropped {
        StrikesWhenDropped(phase == "closing")
    }
}

impl Future for StrikesWhenDropped {
    type Output = ();

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::task::Poll::Pending
    }
}

impl Drop for StrikesWhenDropped {
    fn drop(&mut self) {
        if self.0 {
            fake::strike_after(0, 1);
        }
    }
}
