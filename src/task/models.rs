//! Every order of the steps of a core and of threads that hold wakers of its tasks.
//!
//! What each model shows besides what it asserts, by `Header::life`: the last reference frees the
//! task, exactly once, no use of it by any thread comes after that or without being ordered before
//! it, and at the end of the model no task is left. Futures die on the core's thread: they hold what
//! cannot be sent.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use loom::sync::Notify;
use loom::thread;

use super::*;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::sync::model;

/// As the bell of a core does, it rings only where the core says that it sleeps.
struct Bell {
    asleep: AtomicBool,
    rung: Notify,
}

impl Alarm for Bell {
    fn ring(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.rung.notify();
        }
    }
}

/// The tasks of one core, and what wakes it.
struct Core {
    tasks: Tasks,
    bell: Arc<Bell>,
}

/// Where a task leaves its waker.
type Place = Rc<RefCell<Option<Waker>>>;

impl Core {
    fn new() -> Core {
        let bell = Arc::new(Bell {
            asleep: AtomicBool::new(false),
            rung: Notify::new(),
        });
        let tasks = Tasks::new(bell.clone(), Arc::default());
        Core { tasks, bell }
    }

    /// A task that ends when `sum` is at `goal`, and has left its waker.
    fn add(&self, sum: &Arc<AtomicUsize>, goal: usize) -> (JoinHandle<usize>, Waker) {
        let (place, sum) = (Place::default(), sum.clone());
        let left = place.clone();
        let future = poll_fn(move |context| {
            if left.borrow().is_none() {
                *left.borrow_mut() = Some(context.waker().clone());
            }
            match sum.load(Ordering::Relaxed) {
                reached if reached == goal => Poll::Ready(reached),
                _ => Poll::Pending,
            }
        });
        let site = std::panic::Location::caller();
        let handle = self.tasks.spawn(future, Kind::Essential, site);
        self.turn();
        // It is the place's no more, so the future has none to drop.
        let waker = place.borrow_mut().replace(Waker::noop().clone());
        (handle, waker.expect("it was polled"))
    }

    /// One turn.
    fn turn(&self) {
        self.tasks.collect_foreign();
        let _ran = self.tasks.run(4);
    }

    /// Turns and sleeps until the task is over.
    fn finish(&self, handle: &JoinHandle<usize>) {
        loop {
            self.turn();
            if handle.is_finished() {
                return;
            }
            self.bell.asleep.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if !self.tasks.foreign_pending() {
                self.bell.rung.wait();
            }
            self.bell.asleep.store(false, Ordering::Relaxed);
        }
    }

    /// The core ends. What became of its tasks.
    fn end(self) -> (Counters, Arc<Bell>) {
        self.tasks.collect_foreign();
        let counters = self.tasks.counters();
        drop(self.tasks);
        (counters, self.bell)
    }
}

/// Adds one, and wakes. Relaxed: the wake alone makes the sum visible to the poll that follows.
fn add_and_wake(sum: &AtomicUsize, waker: Waker) {
    sum.fetch_add(1, Ordering::Relaxed);
    waker.wake();
}

/// Nobody holds the core any more: every task was freed.
fn assert_freed(bell: &Arc<Bell>) {
    assert_eq!(
        Arc::strong_count(bell),
        1,
        "a task is left, and with it the core"
    );
}

#[test]
fn a_wake_from_another_thread_is_never_lost_and_brings_what_was_written_before() {
    model(None, || {
        let (core, sum) = (Core::new(), Arc::new(AtomicUsize::new(0)));
        let (handle, waker) = core.add(&sum, 1);
        let thread = thread::spawn(move || add_and_wake(&sum, waker));
        core.finish(&handle);
        drop(handle);
        let (counters, bell) = core.end();
        assert_eq!((counters.spawned, counters.completed), (1, 1));
        thread.join().expect("it ends");
        assert_freed(&bell);
    });
}

// Two wakers, the owner and the second reference of each clone: all orders would take minutes.
#[test]
fn two_threads_that_wake_at_once_lose_neither_wake() {
    model(Some(2), || {
        let (core, sum) = (Core::new(), Arc::new(AtomicUsize::new(0)));
        let (handle, waker) = core.add(&sum, 2);
        let threads = [waker.clone(), waker].map(|waker| {
            let sum = sum.clone();
            thread::spawn(move || add_and_wake(&sum, waker))
        });
        core.finish(&handle);
        drop(handle);
        for thread in threads {
            thread.join().expect("it ends");
        }
        let (counters, bell) = core.end();
        assert_eq!((counters.spawned, counters.completed), (1, 1));
        assert_freed(&bell);
    });
}

#[test]
fn a_task_that_ends_while_its_wakers_are_cloned_and_dropped_elsewhere_is_freed_once() {
    model(None, || {
        let (core, sum) = (Core::new(), Arc::new(AtomicUsize::new(0)));
        let (handle, waker) = core.add(&sum, 1);
        let thread = thread::spawn(move || drop((waker.clone(), waker)));
        handle.abort();
        drop(handle);
        let (counters, bell) = core.end();
        assert_eq!((counters.spawned, counters.cancelled), (1, 1));
        thread.join().expect("it ends");
        assert_freed(&bell);
    });
}

#[test]
fn of_the_last_two_references_on_two_threads_one_frees() {
    model(None, || {
        let (core, sum) = (Core::new(), Arc::new(AtomicUsize::new(0)));
        let (handle, waker) = core.add(&sum, 1);
        let threads = [waker.clone(), waker].map(|waker| thread::spawn(move || drop(waker)));
        drop(handle);
        let (counters, bell) = core.end();
        assert_eq!((counters.spawned, counters.completed), (1, 0));
        for thread in threads {
            thread.join().expect("it ends");
        }
        assert_freed(&bell);
    });
}

#[test]
fn a_wake_that_races_with_the_conclusion_leaves_nothing_in_the_foreign_queue() {
    model(None, || {
        let (core, sum) = (Core::new(), Arc::new(AtomicUsize::new(0)));
        let (handle, waker) = core.add(&sum, 1);
        let own = waker.clone();
        let thread = thread::spawn(move || {
            waker.wake_by_ref();
            waker.wake();
        });
        // It is woken here too, and so in the run queue when it ends.
        own.wake();
        handle.abort();
        drop(handle);
        core.turn();
        let (counters, bell) = core.end();
        assert_eq!((counters.spawned, counters.cancelled), (1, 1));
        thread.join().expect("it ends");
        assert_freed(&bell);
    });
}

#[test]
fn a_wake_while_the_core_ends_is_taken_back_or_cleared_away() {
    model(None, || {
        let (core, sum) = (Core::new(), Arc::new(AtomicUsize::new(0)));
        let (handle, waker) = core.add(&sum, 1);
        let thread = thread::spawn(move || {
            waker.wake_by_ref();
            drop(waker.clone());
            waker.wake();
        });
        let (_, bell) = core.end();
        assert!(handle.is_finished(), "it went with the core");
        drop(handle);
        thread.join().expect("it ends");
        assert_freed(&bell);
    });
}

// Three threads at one stack: bounded, or it would take minutes.
#[test]
fn two_tasks_woken_by_two_threads_while_the_core_ends_are_both_freed() {
    model(Some(3), || {
        let (core, sum) = (Core::new(), Arc::new(AtomicUsize::new(0)));
        let threads = [(), ()].map(|()| {
            let (handle, waker) = core.add(&sum, 1);
            drop(handle);
            thread::spawn(move || waker.wake())
        });
        let (_, bell) = core.end();
        for thread in threads {
            thread.join().expect("it ends");
        }
        assert_freed(&bell);
    });
}

#[test]
fn wakers_are_used_cloned_and_dropped_on_two_threads_after_the_core_is_gone() {
    model(None, || {
        let (core, sum) = (Core::new(), Arc::new(AtomicUsize::new(0)));
        let (handle, waker) = core.add(&sum, 1);
        drop(handle);
        let (_, bell) = core.end();
        let threads = [waker.clone(), waker].map(|waker| {
            thread::spawn(move || {
                drop(waker.clone());
                waker.wake();
            })
        });
        for thread in threads {
            thread.join().expect("it ends");
        }
        assert_freed(&bell);
    });
}

#[test]
fn a_waker_kept_in_one_word_goes_with_the_last_of_them_wherever_that_is() {
    model(None, || {
        let (core, sum) = (Core::new(), Arc::new(AtomicUsize::new(0)));
        let (handle, waker) = core.add(&sum, 1);
        let kept = Kept::of(&waker);
        let thread = thread::spawn(move || Kept::from(waker).take().map(Waker::wake));
        drop(handle);
        let (_, bell) = core.end();
        drop(kept);
        thread.join().expect("it ends");
        assert_freed(&bell);
    });
}
