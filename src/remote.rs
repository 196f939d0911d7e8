//! The outcome of a task on another core, awaited from anywhere.

#![forbid(unsafe_code)]

use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::panics::quietly;
use crate::sync::{Arc, Mutex, lock};
use crate::task::JoinError;

/// What the task and its handle share.
struct Cell<T> {
    /// The outcome, or who waits for it.
    state: Mutex<State<T>>,
}

/// See [`Cell`].
enum State<T> {
    /// The task has not ended.
    Pending(Option<Waker>),
    /// It has, and nobody has looked.
    Ended(Result<T, JoinError>),
    /// Somebody has looked.
    Taken,
}

impl<T> Cell<T> {
    /// The outcome, if it is there.
    ///
    /// # Panics
    ///
    /// When it was taken before.
    fn take_outcome(&self) -> Option<Result<T, JoinError>> {
        let mut state = lock(&self.state);
        if let State::Pending(_) = *state {
            return None;
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Ended(outcome) => Some(outcome),
            _ => panic!("a RemoteHandle was polled again after it was ready"),
        }
    }

    /// Leaves a waker for the outcome, unless that came meanwhile.
    fn leave(&self, waker: Waker) -> Poll<Result<T, JoinError>> {
        let mut state = lock(&self.state);
        let State::Pending(kept) = &mut *state else {
            drop(state);
            return self.take_outcome().map_or(Poll::Pending, Poll::Ready);
        };
        let replaced = kept.replace(waker);
        // A waker's destructor may be anything: not under the lock.
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

/// A handle to a task on another core. `Send`: it can be awaited on any thread.
///
/// # Cancellation
///
/// Dropping it detaches the task: it goes on.
///
/// # Shutdown
///
/// A task that the stop drops before it ended resolves to an error that
/// [is dropped](JoinError::is_dropped); every task that was taken has an outcome.
#[must_use = "a dropped handle detaches the task; say `drop` if that is meant"]
pub struct RemoteHandle<T> {
    /// Shared with the promise.
    cell: Arc<Cell<T>>,
    /// Where the task was spawned.
    site: &'static Location<'static>,
}

/// The task's side: keeps the word given to the handle, whatever happens.
pub(crate) struct Promise<T> {
    /// Shared with the handle; `None` once the outcome is there.
    cell: Option<Arc<Cell<T>>>,
    /// Where the task was spawned.
    site: &'static Location<'static>,
}

/// A promise and its handle.
pub(crate) fn pair<T>(site: &'static Location<'static>) -> (Promise<T>, RemoteHandle<T>) {
    let cell = Arc::new(Cell {
        state: Mutex::new(State::Pending(None)),
    });
    (
        Promise {
            cell: Some(cell.clone()),
            site,
        },
        RemoteHandle { cell, site },
    )
}

impl<T> Promise<T> {
    /// Runs `future` and hands its outcome over; also a panic, which is then raised again for the
    /// core's own books.
    pub(crate) async fn keep(mut self, future: impl Future<Output = T>) {
        let mut future = std::pin::pin!(future);
        let outcome = std::future::poll_fn(|context| {
            let poll = || future.as_mut().poll(context);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll)) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
                Err(payload) => Poll::Ready(Err(payload)),
            }
        })
        .await;
        match outcome {
            Ok(value) => self.settle(Ok(value)),
            Err(payload) => {
                self.settle(Err(JoinError::panicked(self.site, payload)));
                std::panic::resume_unwind(Box::new("the task's panic went to its RemoteHandle"));
            }
        }
    }

    /// Hands the outcome over, once.
    fn settle(&mut self, outcome: Result<T, JoinError>) {
        let Some(cell) = self.cell.take() else {
            return;
        };
        let before = std::mem::replace(&mut *lock(&cell.state), State::Ended(outcome));
        if let State::Pending(Some(waker)) = before {
            // It may be a foreign one, and this a destructor while the task unwinds.
            quietly(|| waker.wake());
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.settle(Err(JoinError::dropped(self.site)));
    }
}

impl<T> RemoteHandle<T> {
    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !matches!(*lock(&self.cell.state), State::Pending(_))
    }
}

impl<T> Future for RemoteHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// When polled again after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.cell.take_outcome() {
            return Poll::Ready(outcome);
        }
        // A waker's clone may be anything: not under the lock.
        self.cell.leave(context.waker().clone())
    }
}

impl<T> std::fmt::Debug for RemoteHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteHandle")
            .field("spawned_at", &format_args!("{}", self.site))
            .field("finished", &self.is_finished())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;
    use std::thread::{self, Thread};

    use super::*;

    /// Wakes a thread.
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn an_outcome_that_came_while_the_waker_was_cloned_is_taken_at_once() {
        let (promise, handle) = pair::<()>(Location::caller());
        assert!(handle.cell.take_outcome().is_none());
        drop(promise);
        assert!(handle.cell.leave(Waker::noop().clone()).is_ready());
    }

    /// The other thread settles anywhere in the poll: before it, while the waker is cloned, after.
    #[test]
    fn an_outcome_that_comes_in_the_midst_of_a_poll_is_never_missed() {
        let waker = Waker::from(std::sync::Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let (send, promises) = std::sync::mpsc::channel::<Promise<()>>();
        let settling = thread::spawn(move || promises.into_iter().for_each(drop));
        for round in 0..20_000_u32 {
            let (promise, mut handle) = pair::<()>(Location::caller());
            send.send(promise).expect("the thread settles");
            for _ in 0..round % 64 {
                std::hint::spin_loop();
            }
            let began = std::time::Instant::now();
            let outcome = loop {
                if let Poll::Ready(outcome) = Pin::new(&mut handle).poll(&mut context) {
                    break outcome;
                }
                thread::park_timeout(std::time::Duration::from_secs(20));
                assert!(began.elapsed().as_secs() < 20, "nobody woke it");
            };
            assert!(outcome.is_err_and(|error| error.is_dropped()));
        }
        drop(send);
        settling.join().expect("it settles all");
    }
}
