//! A core without a ring: tasks, an alarm that can be waited for, and probes that tell where and
//! how often they were dropped.

mod crowds;
mod endings;
mod life;
mod pulse;
mod spare;
mod threads;

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Condvar;
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use super::*;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// An alarm that counts, and that can be waited for.
#[derive(Default)]
struct Bell {
    rings: AtomicUsize,
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Alarm for Bell {
    fn ring(&self) {
        self.rings.fetch_add(1, Ordering::Relaxed);
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

impl Bell {
    /// Until the next ring, or since the last wait.
    fn wait(&self) {
        let rung = self.rung.lock().unwrap();
        let limit = Duration::from_secs(60);
        let (mut rung, waited) = self
            .changed
            .wait_timeout_while(rung, limit, |rung| !*rung)
            .unwrap();
        assert!(!waited.timed_out(), "nobody rang");
        *rung = false;
    }
}

fn core() -> (Tasks, Arc<Bell>) {
    let bell = Arc::new(Bell::default());
    (Tasks::new(bell.clone(), Arc::default()), bell)
}

impl Tasks {
    #[track_caller]
    fn go<F: Future + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        self.spawn(future, Kind::Essential, Location::caller())
    }

    /// Runs until nothing is ready.
    fn settle(&self) {
        self.collect_foreign();
        while self.has_ready() {
            let _ = self.run(64);
            self.collect_foreign();
        }
    }

    /// Runs, and sleeps, until the task is over.
    fn finish<T>(&self, bell: &Bell, handle: &JoinHandle<T>) {
        while !handle.is_finished() {
            self.collect_foreign();
            let _ = self.run(8);
            if !handle.is_finished() && !self.has_ready() && !self.foreign_pending() {
                bell.wait();
            }
        }
    }

    /// The sum that holds whenever no task is alive.
    #[track_caller]
    fn assert_balanced(&self) {
        for kind in Kind::ALL {
            assert_eq!(self.live(kind), 0, "{kind:?}");
        }
        let is = self.counters();
        let ended = is.completed + is.cancelled + is.panicked + is.dropped;
        assert_eq!(is.spawned, ended, "{is:?}");
    }
}

/// Polls a handle from outside of any task.
fn look<T>(handle: &mut JoinHandle<T>) -> Poll<Result<T, JoinError>> {
    Pin::new(handle).poll(&mut Context::from_waker(Waker::noop()))
}

/// The result of a task that is over.
#[track_caller]
fn result<T>(mut handle: JoinHandle<T>) -> Result<T, JoinError> {
    assert!(handle.is_finished());
    match look(&mut handle) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("finished, and yet pending"),
    }
}

/// The error of a task that is over.
#[track_caller]
fn error<T>(handle: JoinHandle<T>) -> JoinError {
    match result(handle) {
        Ok(_) => panic!("an output where an error was expected"),
        Err(error) => error,
    }
}

/// Where probes tell of their end.
struct Drops {
    owner: ThreadId,
    here: AtomicUsize,
    astray: AtomicUsize,
}

impl Drops {
    fn new() -> Arc<Drops> {
        Arc::new(Drops {
            owner: std::thread::current().id(),
            here: AtomicUsize::new(0),
            astray: AtomicUsize::new(0),
        })
    }

    fn probe(self: &Arc<Drops>) -> Probe {
        Probe(self.clone())
    }

    /// So many drops, all of them on the owner's thread.
    #[track_caller]
    fn assert(&self, count: usize) {
        assert_eq!(self.astray.load(Ordering::SeqCst), 0, "on other threads");
        assert_eq!(self.here.load(Ordering::SeqCst), count);
    }
}

/// Tells of its drop; never panics in it, for the panic would be caught and the test pass.
struct Probe(Arc<Drops>);

impl Drop for Probe {
    fn drop(&mut self) {
        let place = if std::thread::current().id() == self.0.owner {
            &self.0.here
        } else {
            &self.0.astray
        };
        place.fetch_add(1, Ordering::SeqCst);
    }
}

/// Runs code when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A panic payload whose destructor panics, with such a payload again. Of no size, so that the one
/// that has to be leaked in the end costs nothing.
struct Nasty;

impl Drop for Nasty {
    fn drop(&mut self) {
        std::panic::panic_any(Nasty);
    }
}

/// Waits for ever, holding `held`, and leaves its waker in the place.
fn park<T: 'static>(
    held: T,
    place: &Rc<RefCell<Option<Waker>>>,
) -> impl Future<Output = ()> + use<T> {
    let place = place.clone();
    async move {
        let _held = held;
        poll_fn(|context| {
            *place.borrow_mut() = Some(context.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }
}

/// Pending once, after waking itself.
fn turn() -> impl Future<Output = ()> {
    let mut waited = false;
    poll_fn(move |context| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
}
