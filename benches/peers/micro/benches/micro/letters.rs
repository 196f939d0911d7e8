//! From thread to thread: many letters to a core that is busy, and a wake of a core that sleeps.

use std::fs::File;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

use crate::rig::{HERE, bell, handle, hear, measure, on_the_core, ring, there};

/// Letters of one burst.
const BURST: u64 = 64;

/// Letters that wait at most for a core that is busy. Without a bound the sender, which is faster, has
/// hundreds of thousands of them wait, and pays for that much cold memory: 1,600 to 2,300 ns each where
/// it is 210 to 370 with this.
const BACKLOG: u64 = 1_000;

pub(crate) fn bench(criterion: &mut Criterion) {
    burst(criterion);
    foreign_wake(criterion);
    busy_core(criterion);
}

/// Many at once: all but the first find the core busy.
fn burst(criterion: &mut Criterion) {
    let there = there();
    let mut group = criterion.benchmark_group("letters, 64 at once");
    group.throughput(Throughput::Elements(BURST));
    group.bench_function("evenfall, spawn_on", |bencher| {
        bencher.iter_custom(|count| {
            measure(move || async move {
                let start = Instant::now();
                for _ in 0..count {
                    let tasks: Vec<_> = (0..BURST)
                        .map(|_| evenfall::spawn_on(there, || async {}))
                        .map(|task| task.unwrap_or_else(|refused| panic!("{refused}")))
                        .collect();
                    for task in tasks {
                        task.await.expect("it does not panic");
                    }
                }
                start.elapsed()
            })
        });
    });
    group.finish();
}

/// A thread that wakes whatever it is sent.
fn waking_thread<W: Send + 'static>(wake: fn(W)) -> Sender<W> {
    let (send, asleep) = channel::<W>();
    thread::spawn(move || asleep.into_iter().for_each(wake));
    send
}

/// A task asks a foreign thread to wake it, and sleeps: two sleeping threads, one wake each way.
/// Beside it the same with a thread that sleeps in a read of an eventfd, on the same processor: the
/// least that this costs.
fn foreign_wake(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wake from a foreign thread");
    let waking = Arc::new(Mutex::new(waking_thread(Waker::wake)));
    group.bench_function("evenfall", |bencher| {
        bencher.iter_custom(|count| {
            let waking = waking.lock().expect("nobody panicked").clone();
            measure(move || async move {
                let start = Instant::now();
                for _ in 0..count {
                    let mut asked = false;
                    poll_fn(|context| {
                        if asked {
                            return Poll::Ready(());
                        }
                        asked = true;
                        let sent = waking.send(context.waker().clone());
                        sent.expect("the thread lives as long as the bench");
                        Poll::Pending
                    })
                    .await;
                }
                start.elapsed()
            })
        });
    });
    group.bench_function("eventfd", |bencher| {
        bencher.iter_custom(|count| on_the_core(move || wakes_by_eventfd(count)));
    });
    group.finish();
}

/// The same number of wakes of the calling thread, which sleeps in a read.
fn wakes_by_eventfd(count: u64) -> Duration {
    let bell = Arc::new(bell());
    let waking = waking_thread(|bell: Arc<File>| ring(&bell));
    let start = Instant::now();
    for _ in 0..count {
        let sent = waking.send(bell.clone());
        sent.expect("the thread lives as long as the bench");
        hear(&bell);
    }
    start.elapsed()
}

/// What the sender pays for a letter to a core that never sleeps and keeps up, beside one write of an
/// eventfd: whoever makes no system call is cheaper than that.
fn busy_core(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("letter to a busy core");
    group.bench_function("evenfall", |bencher| {
        bencher.iter_custom(wake_busy);
    });
    group.bench_function("eventfd write", |bencher| {
        let bell = bell();
        bencher.iter(|| ring(&bell));
    });
    group.finish();
}

/// The sender's time for so many letters.
fn wake_busy(count: u64) -> Duration {
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let spinning = {
        let stop = stop.clone();
        handle().spawn_on(HERE, move || async move {
            while !stop.load(Ordering::Relaxed) {
                evenfall::yield_now().await;
            }
        })
    };
    drop(spinning.unwrap_or_else(|refused| panic!("{refused}")));
    let mut elapsed = Duration::ZERO;
    let mut sent = 0;
    while sent < count {
        let start = Instant::now();
        for _ in 0..(count - sent).min(BACKLOG) {
            let done = done.clone();
            let count_it = move || async move {
                done.fetch_add(1, Ordering::Relaxed);
            };
            drop(
                handle()
                    .spawn_on(HERE, count_it)
                    .unwrap_or_else(|refused| panic!("{refused}")),
            );
            sent += 1;
        }
        elapsed += start.elapsed();
        // The core keeps up: what waits is not part of what a letter costs.
        while done.load(Ordering::Relaxed) < sent {
            thread::yield_now();
        }
    }
    stop.store(true, Ordering::Relaxed);
    elapsed
}
