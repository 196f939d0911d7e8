//! Timers with many others live: set, taken back, and fired, beside tokio's.
//!
//! A sleep is inserted when it is first polled, so each is polled once with a waker that does
//! nothing. All lie minutes ahead, spread over an hour, as time-outs of connections do.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};

use crate::rig::{measure, measure_tokio};

/// How many are live.
const LIVE: [usize; 3] = [1_000, 100_000, 1_000_000];

/// Set and taken back in one batch; the clock is read around the halves.
const BATCH: u64 = 1_000;

/// What is measured of a batch.
#[derive(Clone, Copy)]
enum Half {
    /// Making the sleep and its first poll.
    Insert,
    /// Dropping it.
    Cancel,
}

pub(crate) fn bench(criterion: &mut Criterion) {
    for (half, name) in [
        (Half::Insert, "timer insert"),
        (Half::Cancel, "timer cancel"),
    ] {
        let mut group = criterion.benchmark_group(name);
        for live in LIVE {
            group.bench_function(BenchmarkId::new("evenfall", live), |bencher| {
                bencher.iter_custom(|count| {
                    measure(
                        move || async move { batches(count, live, half, evenfall::time::sleep) },
                    )
                });
            });
            group.bench_function(BenchmarkId::new("tokio", live), |bencher| {
                bencher.iter_custom(|count| {
                    measure_tokio(async move { batches(count, live, half, tokio::time::sleep) })
                });
            });
        }
        group.finish();
    }
    fire(criterion);
}

/// The `index`-th delay: never due while the bench runs.
fn delay(index: u64) -> Duration {
    // A multiplicative walk over an hour, so that neighbours in time are none in the wheel.
    Duration::from_millis(600_000 + index.wrapping_mul(2_654_435_761) % 3_600_000)
}

/// Inserts one, without waiting for it.
fn insert<S: Future>(sleep: fn(Duration) -> S, index: u64) -> Pin<Box<S>> {
    let mut sleep = Box::pin(sleep(delay(index)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(sleep.as_mut().poll(&mut context), Poll::Pending));
    sleep
}

/// The time of `count` inserts or cancels, with `live` others there.
fn batches<S: Future>(count: u64, live: usize, half: Half, sleep: fn(Duration) -> S) -> Duration {
    let others: Vec<_> = (0..live as u64).map(|index| insert(sleep, index)).collect();
    let mut elapsed = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let size = left.min(BATCH);
        let start = Instant::now();
        let batch: Vec<_> = (0..size)
            .map(|index| insert(sleep, index * 31 + left))
            .collect();
        let inserted = start.elapsed();
        let start = Instant::now();
        drop(batch);
        elapsed += match half {
            Half::Insert => inserted,
            Half::Cancel => start.elapsed(),
        };
        left -= size;
    }
    drop(others);
    elapsed
}

/// Timers that are due at one moment, from that moment to the last one's end.
fn fire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer fire, 1,000 due at once");
    const DUE: u64 = 1_000;
    let ahead = Duration::from_millis(5);
    group.bench_function("evenfall", |bencher| {
        bencher.iter_custom(|count| {
            measure(move || async move {
                let mut elapsed = Duration::ZERO;
                for _ in 0..count {
                    let due = Instant::now() + ahead;
                    let sleeping = move |_| evenfall::spawn(evenfall::time::sleep_until(due));
                    let tasks: Vec<_> = (0..DUE).map(sleeping).collect();
                    for task in tasks {
                        task.await.expect("it does not panic");
                    }
                    elapsed += due.elapsed();
                }
                elapsed
            })
        });
    });
    group.bench_function("tokio", |bencher| {
        bencher.iter_custom(|count| {
            measure_tokio(async move {
                let mut elapsed = Duration::ZERO;
                for _ in 0..count {
                    let due = Instant::now() + ahead;
                    let sleep = move || tokio::time::sleep_until(due.into());
                    let tasks: Vec<_> = (0..DUE)
                        .map(|_| tokio::task::spawn_local(sleep()))
                        .collect();
                    for task in tasks {
                        task.await.expect("it does not panic");
                    }
                    elapsed += due.elapsed();
                }
                elapsed
            })
        });
    });
    group.finish();
}
