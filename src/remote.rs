//! The outcome of a task on another core, awaited from anywhere.

#![forbid(unsafe_code)]

use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::mailbox::{Letter, Work};
use crate::panics::quietly;
use crate::sync::{Arc, Mutex, lock};
use crate::task::JoinError;

/// What the letter, the task and the handle share.
struct Posted<B, T> {
    /// What each of them leaves for the others.
    inside: Mutex<Inside<B, T>>,
    /// Where the task was spawned.
    site: &'static Location<'static>,
}

/// See [`Posted`].
struct Inside<B, T> {
    /// Begins the task, until the letter is read.
    begin: Option<B>,
    /// The outcome, or who waits for it.
    state: State<T>,
}

/// See [`Inside`].
enum State<T> {
    /// The task has not ended.
    Pending(Option<Waker>),
    /// It has, and nobody has looked.
    Ended(Result<T, JoinError>),
    /// Somebody has looked.
    Taken,
}

/// The task's and the handle's view of [`Posted`], which do not know what it began with.
trait Outcome<T>: Send + Sync {
    /// The outcome, if it is there.
    ///
    /// # Panics
    ///
    /// When it was taken before.
    fn take(&self) -> Option<Result<T, JoinError>>;

    /// Leaves a waker for the outcome, unless that came meanwhile.
    fn leave(&self, waker: Waker) -> Poll<Result<T, JoinError>>;

    /// Hands the outcome over, once.
    fn settle(&self, outcome: Result<T, JoinError>);

    /// Whether the outcome is there, or was.
    fn is_settled(&self) -> bool;
}

impl<B: Send, T: Send> Outcome<T> for Posted<B, T> {
    fn take(&self) -> Option<Result<T, JoinError>> {
        let state = &mut lock(&self.inside).state;
        if let State::Pending(_) = *state {
            return None;
        }
        match std::mem::replace(state, State::Taken) {
            State::Ended(outcome) => Some(outcome),
            _ => panic!("a RemoteHandle was polled again after it was ready"),
        }
    }

    fn leave(&self, waker: Waker) -> Poll<Result<T, JoinError>> {
        let mut inside = lock(&self.inside);
        let State::Pending(kept) = &mut inside.state else {
            drop(inside);
            return self.take().map_or(Poll::Pending, Poll::Ready);
        };
        let replaced = kept.replace(waker);
        // A waker's destructor may be anything: not under the lock.
        drop(inside);
        drop(replaced);
        Poll::Pending
    }

    fn settle(&self, outcome: Result<T, JoinError>) {
        let before = std::mem::replace(&mut lock(&self.inside).state, State::Ended(outcome));
        if let State::Pending(Some(waker)) = before {
            // It may be a foreign one, and this a destructor while the task unwinds.
            quietly(|| waker.wake());
        }
    }

    fn is_settled(&self) -> bool {
        !matches!(lock(&self.inside).state, State::Pending(_))
    }
}

impl<B, T> Work for Posted<B, T>
where
    B: FnOnce(Promise<T>) + Send + 'static,
    T: Send + 'static,
{
    fn run(self: Arc<Self>) {
        let (begin, promise) = self.open();
        if let Some(begin) = begin {
            begin(promise);
        }
    }

    fn forgo(self: Arc<Self>) {
        let (begin, promise) = self.open();
        // First: what is in there is a user's, and may panic.
        drop(promise);
        drop(begin);
    }
}

impl<B, T> Posted<B, T>
where
    B: Send + 'static,
    T: Send + 'static,
{
    /// What begins the task, and the promise to give it.
    fn open(self: Arc<Self>) -> (Option<B>, Promise<T>) {
        let begin = lock(&self.inside).begin.take();
        let (site, outcome) = (self.site, Some(self as Arc<dyn Outcome<T>>));
        (begin, Promise { outcome, site })
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
    /// Shared with the letter, and then with the promise.
    outcome: Arc<dyn Outcome<T>>,
    /// Where the task was spawned.
    site: &'static Location<'static>,
}

/// The task's side: keeps the word given to the handle, whatever happens.
pub(crate) struct Promise<T> {
    /// Shared with the handle; `None` once the outcome is there.
    outcome: Option<Arc<dyn Outcome<T>>>,
    /// Where the task was spawned.
    site: &'static Location<'static>,
}

// As where the handle held what it shares by its name: all of that is behind a lock.
impl<T> UnwindSafe for RemoteHandle<T> {}
impl<T> RefUnwindSafe for RemoteHandle<T> {}

/// A letter that lets `begin` keep a promise, and the handle to its outcome. A letter that nobody reads
/// breaks it.
pub(crate) fn pair<B, T>(begin: B, site: &'static Location<'static>) -> (Letter, RemoteHandle<T>)
where
    B: FnOnce(Promise<T>) + Send + 'static,
    T: Send + 'static,
{
    let state = State::Pending(None);
    let begin = Some(begin);
    let inside = Mutex::new(Inside { begin, state });
    let posted = Arc::new(Posted { inside, site });
    let outcome = posted.clone();
    (Letter::share(posted), RemoteHandle { outcome, site })
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
        if let Some(shared) = self.outcome.take() {
            shared.settle(outcome);
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
        self.outcome.is_settled()
    }
}

impl<T> Future for RemoteHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    ///
    /// When polled again after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.outcome.take() {
            return Poll::Ready(outcome);
        }
        // A waker's clone may be anything: not under the lock.
        self.outcome.leave(context.waker().clone())
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
        let (letter, handle) = pair(drop::<Promise<()>>, Location::caller());
        assert!(handle.outcome.take().is_none());
        drop(letter);
        assert!(handle.outcome.leave(Waker::noop().clone()).is_ready());
    }

    /// The other thread settles anywhere in the poll: before it, while the waker is cloned, after.
    #[test]
    fn an_outcome_that_comes_in_the_midst_of_a_poll_is_never_missed() {
        let waker = Waker::from(std::sync::Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let (send, letters) = std::sync::mpsc::channel::<Letter>();
        let settling = thread::spawn(move || letters.into_iter().for_each(Letter::run));
        for round in 0..20_000_u32 {
            let (letter, mut handle) = pair(drop::<Promise<()>>, Location::caller());
            send.send(letter).expect("the thread settles");
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
