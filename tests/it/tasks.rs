//! Tasks and timers, over the real ring: what a unit test with a scripted
//! kernel cannot see.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use evenfall::time::{interval, sleep, sleep_until, timeout};
use evenfall::{Core, spawn, spawn_background, yield_now};
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::promises;
use crate::server::{Setup, conclude, host};

promises![
    a_future_spawned_on_another_core_runs_there,
    an_aborted_task_is_dropped_and_its_handle_told,
    a_panic_reaches_the_join_handle,
    sleeps_are_never_short_and_end_in_order,
    a_timeout_ends_what_is_late_and_only_that,
    an_interval_keeps_its_period,
    an_interval_whose_work_takes_longer_than_its_period_leaves_others_their_turns,
    an_interval_ends_with_none_in_a_stop,
    a_wake_from_a_foreign_thread_is_never_lost,
    a_task_that_yields_lets_others_run,
    a_background_task_is_not_waited_for_and_is_dropped,
];

#[track_caller]
fn passes(check: &str) -> crate::report::Report {
    let program = Program::role("tasks", &[&format!("check={check}")]);
    let report = program.finish().report(0);
    report.loses_nothing();
    report
}

fn a_future_spawned_on_another_core_runs_there() {
    let report = passes("spawn_on");
    assert!(report.sum("letters", "handled") > 0);
}

fn an_aborted_task_is_dropped_and_its_handle_told() {
    let report = passes("abort");
    assert_eq!(report.sum("tasks", "cancelled"), 1);
}

fn a_panic_reaches_the_join_handle() {
    let report = passes("panic");
    assert_eq!(report.sum("tasks", "panicked"), 1);
}

fn sleeps_are_never_short_and_end_in_order() {
    passes("sleep");
}

fn a_timeout_ends_what_is_late_and_only_that() {
    passes("timeout");
}

fn an_interval_keeps_its_period() {
    passes("interval");
}

fn an_interval_whose_work_takes_longer_than_its_period_leaves_others_their_turns() {
    passes("interval_late");
}

fn an_interval_ends_with_none_in_a_stop() {
    let report = passes("interval_stop");
    assert!(report.elapsed_ms() < 1_000.0);
}

fn a_wake_from_a_foreign_thread_is_never_lost() {
    passes("wake");
}

fn a_task_that_yields_lets_others_run() {
    passes("yield");
}

fn a_background_task_is_not_waited_for_and_is_dropped() {
    let report = passes("background");
    assert_eq!(report.sum("tasks", "background_dropped"), 1);
    assert!(report.elapsed_ms() < 1_000.0);
}

/// Runs one check in the main future of core 0.
pub(crate) fn tasks(mut args: Args) -> ExitCode {
    let check: String = args.take("check").expect("check names one");
    let result = host(Setup::only(args), move |core, _listener| {
        let check = check.clone();
        async move {
            if core.index() > 0 {
                return Ok(());
            }
            match check.as_str() {
                "spawn_on" => check_spawn_on(&core).await,
                "abort" => check_abort().await,
                "panic" => check_panic().await,
                "sleep" => check_sleep().await,
                "timeout" => check_timeout().await,
                "interval" => check_interval().await,
                "interval_late" => check_interval_late().await,
                "interval_stop" => check_interval_stop(&core).await,
                "wake" => check_wake().await,
                "yield" => check_yield().await,
                "background" => check_background(),
                other => panic!("no check {other}"),
            }
            Ok(())
        }
    });
    conclude(result, &json!({}))
}

/// A value that one thread gives and a task of another waits for.
#[derive(Debug)]
struct Given<T> {
    /// The value, and who waits for it.
    inside: Mutex<(Option<T>, Option<Waker>)>,
}

impl<T> Given<T> {
    fn new() -> Arc<Given<T>> {
        let inside = Mutex::new((None, None));
        Arc::new(Given { inside })
    }

    fn give(&self, value: T) {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.0 = Some(value);
        let waker = inside.1.take();
        drop(inside);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn taken(&self) -> impl Future<Output = T> {
        poll_fn(|cx| {
            let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
            match inside.0.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    inside.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }
}

/// Counts its own drop.
struct Guard(Arc<AtomicU64>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

async fn check_spawn_on(core: &Core) {
    let here = std::thread::current().id();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // With one CPU there is one core, and a letter to itself arrives as well.
    let target = 1.min(cores - 1);
    for round in 0..100 {
        let given = Given::new();
        let gives = Arc::clone(&given);
        let there = core.handle().spawn_on(target, move || async move {
            yield_now().await;
            gives.give((round, std::thread::current().id()));
        });
        assert!(there.is_ok(), "core {target} takes letters");
        let (answered, thread) = given.taken().await;
        assert_eq!(answered, round);
        assert_eq!(thread != here, target == 1);
    }
}

async fn check_abort() {
    let dropped = Arc::new(AtomicU64::new(0));
    let guard = Guard(Arc::clone(&dropped));
    let task = spawn(async move {
        let _guard = guard;
        pending::<()>().await;
    });
    yield_now().await;
    task.abort();
    let error = task.await.expect_err("it was aborted");
    assert!(error.is_cancelled(), "{error:?}");
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

async fn check_panic() {
    let task = spawn(async { panic!("a task of its own accord") });
    let told: Result<(), _> = task.await;
    let error = told.expect_err("it panicked");
    assert!(error.is_panic(), "{error:?}");
}

async fn check_sleep() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let began = Instant::now();
    let sleepers: Vec<_> = [70, 10, 90, 30, 50]
        .map(|millis| {
            let order = Arc::clone(&order);
            spawn(async move {
                sleep(Duration::from_millis(millis)).await;
                assert!(began.elapsed() >= Duration::from_millis(millis));
                order.lock().expect("nobody panicked").push(millis);
            })
        })
        .into();
    for sleeper in sleepers {
        sleeper.await.expect("it woke in time");
    }
    assert_eq!(
        *order.lock().expect("nobody panicked"),
        [10, 30, 50, 70, 90]
    );
    let until = Instant::now() + Duration::from_millis(20);
    sleep_until(until).await;
    assert!(Instant::now() >= until);
    assert!(began.elapsed() < Duration::from_secs(2));
}

async fn check_timeout() {
    let late = timeout(Duration::from_millis(20), pending::<()>()).await;
    assert!(late.is_err(), "it was late");
    let early = timeout(Duration::from_secs(50), async {
        sleep(Duration::from_millis(5)).await;
        7
    });
    assert_eq!(early.await.ok(), Some(7));
}

async fn check_interval() {
    let began = Instant::now();
    let mut ticks = interval(Duration::from_millis(10));
    for _ in 0..10 {
        assert!(ticks.tick().await.is_some(), "no stop is under way");
    }
    let took = began.elapsed();
    // The first tick may come at once.
    assert!(took >= Duration::from_millis(90), "{took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

async fn check_interval_late() {
    const TICKS: u32 = 50;
    let turns = Rc::new(Cell::new(0_u32));
    let counted = Rc::clone(&turns);
    let other = spawn(async move {
        loop {
            counted.set(counted.get() + 1);
            yield_now().await;
        }
    });
    let mut ticks = interval(Duration::from_millis(1));
    for number in 0..TICKS {
        let before = turns.get();
        assert!(ticks.tick().await.is_some(), "no stop is under way");
        assert!(turns.get() > before, "no turn before tick {number}");
        let began = Instant::now();
        // Time is the subject: the next tick is due long before this ends.
        while began.elapsed() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
    }
    other.abort();
}

async fn check_interval_stop(core: &Core) {
    let mut ticks = interval(Duration::from_millis(5));
    assert!(ticks.tick().await.is_some(), "no stop is under way");
    core.handle().shutdown();
    // A tick that was due already may still come.
    while ticks.tick().await.is_some() {}
}

/// The core goes to sleep before each wake, or is about to: both must work.
async fn check_wake() {
    for round in 0..2_000_u32 {
        let given = Given::new();
        let gives = Arc::clone(&given);
        let thread = std::thread::spawn(move || {
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            gives.give(round);
        });
        assert_eq!(given.taken().await, round);
        thread.join().expect("it only gives");
    }
}

async fn check_yield() {
    let done = Arc::new(AtomicU64::new(0));
    let other = Arc::clone(&done);
    let task = spawn(async move {
        sleep(Duration::from_millis(5)).await;
        other.store(1, Ordering::Relaxed);
    });
    // Busy without a rest: only the budget of the turn lets the timer in.
    while done.load(Ordering::Relaxed) == 0 {
        yield_now().await;
    }
    task.await.expect("it only sleeps");
}

fn check_background() {
    // Detached, and still parked when the main future ends.
    drop(spawn_background(pending::<()>()));
}
