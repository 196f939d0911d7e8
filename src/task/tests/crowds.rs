//! One task with a million wakers, wherever they are made and dropped.

use std::sync::mpsc;
use std::thread;

use super::*;

const MILLION: usize = 1_000_000;

const THREADS: usize = 4;

/// Runs `with` on some threads, each with a share of what is in `all`.
fn spread<T: Send>(all: Vec<T>, with: impl Fn(Vec<T>) + Sync) {
    let mut all = all.into_iter();
    let share = all.len() / THREADS;
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let part: Vec<T> = all.by_ref().take(share).collect();
            scope.spawn(|| with(part));
        }
    });
    assert!(all.next().is_none(), "a share for each");
}

/// A task that waits, its waker, and how often it and its memory are gone.
fn waiting() -> (Tasks, Arc<Bell>, Arc<Drops>, JoinHandle<()>, Waker) {
    let (tasks, bell) = core();
    let (drops, place) = (Drops::new(), Rc::default());
    let handle = tasks.go(park(drops.probe(), &place));
    tasks.settle();
    let waker = place.take().unwrap();
    (tasks, bell, drops, handle, waker)
}

/// The bell is held by the core, and by each task whose memory is there.
#[track_caller]
fn assert_freed(bell: &Arc<Bell>) {
    assert_eq!(Arc::strong_count(bell), 1, "a task's memory is there yet");
}

#[test]
fn a_million_wakers_made_here_are_dropped_elsewhere_while_the_task_lives() {
    let (tasks, bell, drops, handle, waker) = waiting();
    spread(vec![waker.clone(); MILLION], drop);
    drops.assert(0);
    waker.wake_by_ref();
    assert_eq!(
        tasks.run(10).polled,
        1,
        "the last one wakes as the first did"
    );
    drop((handle, waker));
    drop(tasks);
    drops.assert(1);
    assert_freed(&bell);
}

#[test]
fn a_million_wakers_made_here_are_dropped_elsewhere_after_the_core() {
    let (tasks, bell, drops, handle, waker) = waiting();
    let crowd = vec![waker; MILLION];
    drop((handle, tasks));
    drops.assert(1);
    spread(crowd, |part| {
        for waker in part {
            waker.wake();
        }
    });
    assert_freed(&bell);
}

#[test]
fn a_million_wakers_made_elsewhere_are_dropped_here() {
    for outlive in [false, true] {
        let (tasks, bell, drops, handle, waker) = waiting();
        let (give, given) = mpsc::channel();
        spread(vec![waker; THREADS], |part| {
            let give = give.clone();
            for waker in part {
                give.send(vec![waker; MILLION / THREADS]).unwrap();
            }
        });
        drop(give);
        let crowd: Vec<Waker> = given.into_iter().flatten().collect();
        assert_eq!(crowd.len(), MILLION);
        if outlive {
            drop((handle, tasks));
            drops.assert(1);
            drop(crowd);
        } else {
            drop(crowd);
            drops.assert(0);
            drop((handle, tasks));
            drops.assert(1);
        }
        assert_freed(&bell);
    }
}

#[test]
fn a_million_wakers_that_wake_at_once_from_everywhere_poll_and_are_freed() {
    let (tasks, bell, drops, handle, waker) = waiting();
    let crowd = vec![waker; MILLION];
    let done = Arc::new(AtomicUsize::new(0));
    let tell = done.clone();
    let elsewhere = thread::spawn(move || {
        spread(crowd, |part| {
            for waker in part {
                waker.wake();
            }
        });
        tell.store(1, Ordering::Release);
    });
    let mut polls = 0;
    while done.load(Ordering::Acquire) == 0 {
        tasks.collect_foreign();
        polls += tasks.run(8).polled;
    }
    elsewhere.join().unwrap();
    tasks.collect_foreign();
    polls += tasks.run(8).polled;
    assert!(polls > 0, "a wake that nobody heard");
    assert!(!tasks.has_ready() && !tasks.foreign_pending());
    drops.assert(0);
    drop((handle, tasks));
    drops.assert(1);
    assert_freed(&bell);
}
