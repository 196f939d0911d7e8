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
        let waker = context.waker().clone();
        let mut state = lock(&self.cell.state);
        let replaced = match std::mem::replace(&mut *state, State::Taken) {
            State::Ended(outcome) => return Poll::Ready(outcome),
            State::Taken => panic!("a RemoteHandle was polled again after it was ready"),
            State::Pending(replaced) => replaced,
        };
        *state = State::Pending(Some(waker));
        // A waker's destructor may be anything: not under the lock.
        drop(state);
        drop(replaced);
        Poll::Pending
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
