//! Timers with many others live: set, taken back, moved, and fired, beside tokio's.
//!
//! A sleep is inserted when it is first polled, so each is polled once with a waker that does
//! nothing. All lie minutes ahead, spread over an hour, as time-outs of connections do. The others
//! are made once for each cell, and the places that sleeps are put into are made before the clock
//! is read: what is measured is the timer, not the allocator.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Bencher, BenchmarkId, Criterion};

use crate::rig::{measure, measure_tokio_on, tokio};

/// How many are live.
const LIVE: [usize; 3] = [1_000, 100_000, 1_000_000];

/// Set and taken back in one batch; the clock is read around the halves.
const BATCH: usize = 1_000;

/// Timers that are due at one moment.
const DUE: usize = 1_000;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Making a sleep and its first poll.
    Insert,
    /// Dropping it.
    Cancel,
    /// Both, for one of the live ones picked at random: what a connection's time-out costs that
    /// begins anew with each request. Memory that nothing has touched for long is in it.
    Move,
    /// Many that are due at one moment, from that moment to the last one's end.
    Fire,
}

/// A place for a sleep that never moves.
type Place<S> = Pin<Box<Option<S>>>;

thread_local! {
    /// evenfall's live timers, on the core that measures.
    static OTHERS: RefCell<Vec<Place<evenfall::time::Sleep>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn bench(criterion: &mut Criterion) {
    for (what, name) in [
        (What::Insert, "timer insert"),
        (What::Cancel, "timer cancel"),
        (What::Move, "timer moved at random"),
        (What::Fire, "timer fire, 1,000 due at once"),
    ] {
        let mut group = criterion.benchmark_group(name);
        for live in LIVE {
            group.bench_function(BenchmarkId::new("evenfall", live), |bencher| {
                of_evenfall(bencher, live, what);
            });
            group.bench_function(BenchmarkId::new("tokio", live), |bencher| {
                of_tokio(bencher, live, what);
            });
        }
        group.finish();
    }
}

fn of_evenfall(bencher: &mut Bencher<'_>, live: usize, what: What) {
    let crowd = |live: usize| {
        measure(move || async move {
            OTHERS.set(places(live, evenfall::time::sleep));
            Duration::ZERO
        })
    };
    crowd(live);
    bencher.iter_custom(|count| {
        measure(move || async move {
            if what == What::Fire {
                return evenfall_fires(count).await;
            }
            OTHERS.with_borrow_mut(|others| measured(count, what, others, evenfall::time::sleep))
        })
    });
    crowd(0);
}

fn of_tokio(bencher: &mut Bencher<'_>, live: usize, what: What) {
    let runtime = tokio();
    let mut others = {
        let _entered = runtime.enter();
        places(live, tokio::time::sleep)
    };
    bencher.iter_custom(|count| {
        if what == What::Fire {
            return measure_tokio_on(&runtime, tokio_fires(count));
        }
        let mut lent = std::mem::take(&mut others);
        let (give_back, back) = std::sync::mpsc::channel();
        let elapsed = measure_tokio_on(&runtime, async move {
            let elapsed = measured(count, what, &mut lent, tokio::time::sleep);
            give_back.send(lent).expect("it is waited for");
            elapsed
        });
        others = back.recv().expect("they are given back");
        elapsed
    });
}

/// The `index`-th delay: never due while the bench runs.
fn delay(index: u64) -> Duration {
    // A multiplicative walk over an hour, so that neighbours in time are none in the wheel.
    Duration::from_millis(600_000 + index.wrapping_mul(2_654_435_761) % 3_600_000)
}

/// Inserts one, without waiting for it.
fn insert<S: Future>(place: &mut Place<S>, sleep: fn(Duration) -> S, index: u64) {
    place.as_mut().set(Some(sleep(delay(index))));
    let mut context = Context::from_waker(Waker::noop());
    let polled = place.as_mut().as_pin_mut().map(|it| it.poll(&mut context));
    assert!(matches!(polled, Some(Poll::Pending)));
}

/// As many places, each with a live timer.
fn places<S: Future>(live: usize, sleep: fn(Duration) -> S) -> Vec<Place<S>> {
    let mut places = empty(live);
    for (index, place) in places.iter_mut().enumerate() {
        insert(place, sleep, index as u64);
    }
    places
}

/// As many places with nothing in them.
fn empty<S>(count: usize) -> Vec<Place<S>> {
    (0..count).map(|_| Box::pin(None)).collect()
}

/// The time of `count` times `what`, with `others` live.
fn measured<S: Future>(
    count: u64,
    what: What,
    others: &mut [Place<S>],
    sleep: fn(Duration) -> S,
) -> Duration {
    if what == What::Move {
        return moves(count, others, sleep);
    }
    let mut batch = empty(BATCH);
    let mut elapsed = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let size = left.min(BATCH as u64);
        let batch = &mut batch[..size as usize];
        let start = Instant::now();
        for (index, place) in batch.iter_mut().enumerate() {
            insert(place, sleep, index as u64 * 31 + left);
        }
        let inserted = start.elapsed();
        let start = Instant::now();
        for place in batch {
            place.as_mut().set(None);
        }
        elapsed += match what {
            What::Insert => inserted,
            _ => start.elapsed(),
        };
        left -= size;
    }
    elapsed
}

/// The time of `count` moves of any of `others`.
fn moves<S: Future>(count: u64, others: &mut [Place<S>], sleep: fn(Duration) -> S) -> Duration {
    let start = Instant::now();
    let mut at = 1_u64;
    for index in 0..count {
        at = at
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let place = (at >> 33) as usize % others.len();
        insert(&mut others[place], sleep, index);
    }
    start.elapsed()
}

/// The time from the moment when many are due to the last one's end, `count` times.
async fn evenfall_fires(count: u64) -> Duration {
    let mut elapsed = Duration::ZERO;
    for _ in 0..count {
        let due = Instant::now() + AHEAD;
        let tasks: Vec<_> = (0..DUE)
            .map(|_| evenfall::spawn(evenfall::time::sleep_until(due)))
            .collect();
        for task in tasks {
            task.await.expect("it does not panic");
        }
        elapsed += due.elapsed();
    }
    elapsed
}

/// The same on tokio.
async fn tokio_fires(count: u64) -> Duration {
    let mut elapsed = Duration::ZERO;
    for _ in 0..count {
        let due = Instant::now() + AHEAD;
        let tasks: Vec<_> = (0..DUE)
            .map(|_| tokio::task::spawn_local(tokio::time::sleep_until(due.into())))
            .collect();
        for task in tasks {
            task.await.expect("it does not panic");
        }
        elapsed += due.elapsed();
    }
    elapsed
}

/// How far ahead they are due: all must be waiting by then.
const AHEAD: Duration = Duration::from_millis(5);
