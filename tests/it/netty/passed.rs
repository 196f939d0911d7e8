//! Past the prior art: one case for each defect that was measured in it.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::future::pending;
use std::io::Read;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use evenfall::net::TcpListener;
use evenfall::report::{CoreOutcome, HookOutcome, Report, Verdict};
use evenfall::time::{sleep, spawn_after};
use evenfall::{Handle, Phase, Shutdown, spawn};

use super::{
    Running, built, cases, elapsed, gracefully, is_clean, millis, ran, takes_a_task, until,
    until_stopped,
};
use crate::process::{Program, WATCHDOG};
use crate::promise::{Count, heavy, load};
use crate::server::joined;

cases![
    messages_written_before_the_stop_all_arrive_before_the_quiet_period_counts,
    an_idle_stop_takes_milliseconds_and_no_tick_of_a_clock,
    a_quiet_period_of_10_ms_takes_about_10_ms,
    quiet_before_the_trigger_does_not_count,
    a_task_that_submits_itself_again_ends_by_the_deadline,
    a_core_that_blocks_is_left_by_the_deadline,
    a_second_call_can_shorten,
    a_second_call_can_lengthen,
    whoever_sees_the_stop_sees_its_deadline,
    hooks_have_an_order_a_result_and_a_deadline,
    a_timer_that_is_due_in_time_fires,
    the_stop_gives_a_report,
];

/// Theirs closed every channel in the first turn of the stop, before the quiet
/// wait: of 200 flushed messages 141 were lost.
fn messages_written_before_the_stop_all_arrive_before_the_quiet_period_counts() {
    const MESSAGES: usize = 200;
    const BYTES: usize = 64 * 1024;
    let runtime = built(1, gracefully(millis(100), Duration::from_secs(60)));
    let report = ran(runtime, |core| async move {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(std::io::Error::other)?;
        let address = listener.local_addr();
        let handle = core.handle();
        let client = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("it listens");
            // Nothing is read before the stop has begun.
            until("the drain", || handle.phase() >= Phase::Draining);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("an end by FIN");
            let right = |(number, message): (usize, &[u8])| message == [number as u8; BYTES];
            (all.len(), all.chunks(BYTES).enumerate().all(right))
        });
        let stream = listener.accept().await?;
        let mut stream = stream.expect("no stop has begun");
        for message in 0..MESSAGES {
            if message == 1 {
                core.handle().shutdown();
            }
            stream.send(vec![message as u8; BYTES]).await?;
        }
        // What is written belongs to the connection; nobody needs its handle.
        drop(stream);
        assert_eq!(joined(client).await, (MESSAGES * BYTES, true));
        Ok(())
    });
    is_clean(&report);
    assert!(elapsed(&report) >= millis(100), "{report}");
}

/// Of 24,076 requests that theirs had received 14,650 were answered. No case of
/// its own, for it takes two processes: the clients count on their side.
pub(super) fn every_request_received_is_answered() {
    let _alone = heavy();
    let mut server = Program::role("framed", &["quiet=200", "timeout=60000"]);
    let words = "protocol=framed connections=64 size=500 answer=3000 warm=10000";
    let mut load = load(&server.address(), words);
    load.line("warm");
    server.signal(libc::SIGTERM);
    let report = server.finish().report(0);
    report.loses_nothing();
    let count = Count::of(load);
    count.ended_well();
    let (begun, answered) = (
        report.sum("requests", "begun"),
        report.sum("requests", "answered"),
    );
    assert!(begun >= 10_000, "{begun} requests");
    assert_eq!((begun, begun), (answered, count.number("answered")));
}

/// The shortest of a hundred stops, as far as one of them has to be looked for
/// that is shorter than `most`. What waits for the tick of a clock waits in each
/// of them; a busy machine, which has slowed down ten, does not slow down all.
fn shortest(quiet: Duration, most: Duration) -> Duration {
    let stop = || {
        let running = Running::idle(2, gracefully(quiet, Duration::from_secs(60)));
        running.has_begun();
        running.handle.shutdown();
        let report = running.ended();
        is_clean(&report);
        elapsed(&report)
    };
    let mut shortest = Duration::MAX;
    for _ in 0..100 {
        shortest = shortest.min(stop());
        if shortest < most {
            break;
        }
    }
    shortest
}

/// Theirs looked every 100 ms whether all was quiet.
fn an_idle_stop_takes_milliseconds_and_no_tick_of_a_clock() {
    let took = shortest(Duration::ZERO, millis(50));
    assert!(took < millis(50), "{took:?}");
}

/// As above: there, no quiet period was shorter than that tick.
fn a_quiet_period_of_10_ms_takes_about_10_ms() {
    let took = shortest(millis(10), millis(60));
    assert!((millis(10)..millis(60)).contains(&took), "{took:?}");
}

/// Theirs counted quiet from the last task, however long before the stop.
fn quiet_before_the_trigger_does_not_count() {
    let running = Running::idle(1, gracefully(millis(300), Duration::from_secs(60)));
    running.has_begun();
    std::thread::sleep(millis(400));
    running.handle.shutdown();
    let report = running.ended();
    is_clean(&report);
    assert!(elapsed(&report) >= millis(300), "{report}");
}

/// Spawns itself again, for ever.
fn again() {
    drop(spawn(async { again() }));
}

/// Theirs did not look at the time while tasks were there to run.
fn a_task_that_submits_itself_again_ends_by_the_deadline() {
    let timeout = millis(500);
    let running = Running::idle(1, gracefully(Duration::ZERO, timeout));
    let sent = running.handle.spawn_on(0, || async { again() });
    drop(sent.expect("no stop has begun"));
    running.has_begun();
    running.handle.shutdown();
    let report = running.ended();
    assert_eq!(report.verdict, Verdict::Forced, "{report}");
    assert!(elapsed(&report) < 3 * timeout, "{report}");
    assert!(report.cores[0].tasks.completed > 1_000, "{report}");
}

/// As above, for a task that blocks its thread.
fn a_core_that_blocks_is_left_by_the_deadline() {
    let timeout = millis(600);
    let shutdown = gracefully(Duration::ZERO, timeout).stuck_after(millis(100));
    let runtime = built(2, shutdown);
    let handle = runtime.handle();
    let (tell, told) = mpsc::channel();
    // Never let go of: the thread is left behind when the process ends.
    let (keep, released) = mpsc::channel::<()>();
    let blocks = handle.spawn_on(0, move || async move {
        tell.send(()).expect("somebody waits");
        released.recv().expect("it never comes");
    });
    drop(blocks.expect("no stop has begun"));
    let stops = std::thread::spawn(move || {
        told.recv_timeout(WATCHDOG).expect("the task has begun");
        handle.shutdown();
    });
    let report = runtime.run(|core| until_stopped(core.handle()));
    let report = report.expect("it runs");
    drop(keep);
    stops.join().expect("it only stops");
    assert_eq!(report.verdict, Verdict::Stuck, "{report}");
    assert_eq!(report.cores[0].outcome, CoreOutcome::Stuck, "{report}");
    assert!(elapsed(&report) < 3 * timeout, "{report}");
    assert_eq!(report.imbalances(), Vec::<String>::new());
}

/// The report of a stop of `timeout` with a task of `work` on its only core,
/// during which `again` is called.
fn called_again(timeout: Duration, work: Duration, again: fn(&Handle)) -> Report {
    let runtime = built(1, gracefully(Duration::ZERO, timeout));
    ran(runtime, move |core| async move {
        let handle = core.handle();
        handle.shutdown();
        while handle.phase() < Phase::Draining {
            sleep(millis(1)).await;
        }
        again(&handle);
        sleep(work).await;
        Ok(())
    })
}

/// Theirs took the numbers of the first call for good.
fn a_second_call_can_shorten() {
    let minute = Duration::from_secs(60);
    let report = called_again(minute, minute, |handle| handle.shutdown_within(millis(200)));
    assert_eq!(report.verdict, Verdict::Forced, "{report}");
    assert!(elapsed(&report) < Duration::from_secs(20), "{report}");
    assert_eq!(report.triggers.len(), 2);
}

/// The same, the other way.
fn a_second_call_can_lengthen() {
    let work = millis(700);
    let minute = Duration::from_secs(60);
    let report = called_again(millis(400), work, |handle| {
        handle.shutdown_within(Duration::from_secs(60));
    });
    is_clean(&report);
    assert!((work..minute).contains(&elapsed(&report)), "{report}");
}

/// Theirs wrote the parameters after the state, so that a thread could see a
/// stop that had none. Here whoever sees the stop sees its time as well: four
/// threads look at nothing else.
fn whoever_sees_the_stop_sees_its_deadline() {
    let asked = Duration::from_secs(30);
    for _ in 0..100 {
        let running = Running::idle(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
        let looks = |handle: Handle| {
            until("the stop", || handle.phase() > Phase::Running);
            handle.time_left().expect("there is a stop")
        };
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let handle = running.handle.clone();
                std::thread::spawn(move || looks(handle))
            })
            .collect();
        running.handle.shutdown_within(asked);
        is_clean(&running.ended());
        for thread in threads {
            let left = thread.join().expect("it only looks");
            // As long as the machine lets this thread wait for its turn, less.
            assert!((asked / 2..=asked).contains(&left), "{left:?}");
        }
    }
}

/// Theirs ran in no order, with no result and no deadline.
fn hooks_have_an_order_a_result_and_a_deadline() {
    let runtime = built(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
    let report = ran(runtime, |core| {
        let second = Duration::from_secs(1);
        core.on_shutdown("first", second, async || Ok::<(), &str>(()));
        core.on_shutdown("second", second, async || Err("the disk is full"));
        core.on_shutdown("third", millis(50), async || {
            pending::<()>().await;
            Ok::<(), &str>(())
        });
        async move {
            core.handle().shutdown();
            Ok(())
        }
    });
    assert_eq!(report.verdict, Verdict::Degraded, "{report}");
    let hooks = &report.cores[0].hooks;
    let said: Vec<_> = hooks.iter().map(|it| (&*it.name, it.outcome)).collect();
    let expected = [
        ("third", HookOutcome::Overran),
        ("second", HookOutcome::Failed),
        ("first", HookOutcome::Ok),
    ];
    assert_eq!(said, expected);
    assert_eq!(hooks[1].error.as_deref(), Some("the disk is full"));
    assert!((50.0..30_000.0).contains(&hooks[0].elapsed_ms), "{report}");
}

/// Theirs cancelled all timers at the begin. Here one that is due before the
/// drain deadline fires, and the stop waits for it; one that is due later is
/// cancelled at once, so that nobody waits for it.
fn a_timer_that_is_due_in_time_fires() {
    let runtime = built(1, gracefully(Duration::ZERO, Duration::from_secs(60)));
    let delay = Duration::from_secs(1);
    let report = ran(runtime, move |core| async move {
        let fired = Rc::new(Cell::new(false));
        let fires = Rc::clone(&fired);
        // Not the stop's time, which begins later: by a second, if the machine is pleased.
        let begun = Instant::now();
        let in_time = spawn_after(delay, async move { fires.set(true) });
        let late = spawn_after(Duration::from_secs(100), async {});
        core.handle().shutdown();
        let told = late.await.expect_err("it is due after the deadline");
        assert!(told.is_cancelled(), "{told}");
        assert!(!fired.get(), "the late one is told at once");
        in_time.await.expect("it has run");
        assert!(fired.get() && begun.elapsed() >= delay);
        Ok(())
    });
    is_clean(&report);
    let timers = report.cores[0].timers;
    assert_eq!((timers.fired, timers.cancelled), (1, 1));
    assert!(elapsed(&report) < Duration::from_secs(30));
}

/// Theirs ended in a future of nothing.
fn the_stop_gives_a_report() {
    let running = Running::idle(2, Shutdown::default());
    running.has_begun();
    let handle = running.handle.clone();
    handle.shutdown();
    let report = running.ended();
    assert_eq!(handle.wait().expect("this is no core"), report);
    assert!(!takes_a_task(&handle));
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
    assert_eq!(json["verdict"], "clean");
    assert_eq!(json["triggers"][0]["kind"], "api");
    let names = json["phases"].as_array().expect("a list").iter();
    let names: Vec<_> = names.map(|phase| phase["name"].clone()).collect();
    assert_eq!(names, ["draining", "hooks", "closing"]);
    let page = report.to_string();
    assert!(page.starts_with("clean (exit 0): stopped in "), "{page}");
}
