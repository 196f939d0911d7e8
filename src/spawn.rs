//! Tasks: how they begin.

#![forbid(unsafe_code)]

use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::context;
use crate::phase::Phase;
use crate::remote::{self, Promise, RemoteHandle};
use crate::shared::Shared;
use crate::sync::Arc;
use crate::task::{JoinHandle, Kind};

/// A future that was not taken, because the core's stop has come to its end, or comes to it before
/// the future would begin.
///
/// It gives the future back: nothing that was handed over is lost.
pub struct Refused<F> {
    /// What was not taken.
    future: F,
    /// Why.
    why: Refusal,
}

/// Why something was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// There is no core of that index.
    NoCore,
    /// The stop is that far, and has that long.
    Stopping(Phase, Duration),
    /// The same, and it will have drained before the task is due.
    DueLate(Phase, Duration),
}

impl<F> Refused<F> {
    /// The future, or the closure, that was not taken.
    pub fn into_inner(self) -> F {
        self.future
    }

    /// The phase the runtime was in.
    pub fn phase(&self) -> Option<Phase> {
        match self.why {
            Refusal::NoCore => None,
            Refusal::Stopping(phase, _) | Refusal::DueLate(phase, _) => Some(phase),
        }
    }

    /// How long the stop had, at most, when it refused; where the runtime was over early, the time
    /// that it did not use. `None` where no stop was the reason.
    pub fn time_left(&self) -> Option<Duration> {
        match self.why {
            Refusal::NoCore => None,
            Refusal::Stopping(_, left) | Refusal::DueLate(_, left) => Some(left),
        }
    }

    /// What the runtime of `shared` refuses now.
    pub(crate) fn stopping(future: F, shared: &Shared) -> Refused<F> {
        let why = Refusal::Stopping(shared.orders.read().phase(), shared.time_left());
        Refused { future, why }
    }

    /// What is due when the runtime of `shared` will have drained.
    pub(crate) fn due_late(future: F, shared: &Shared) -> Refused<F> {
        let why = Refusal::DueLate(shared.orders.read().phase(), shared.time_left());
        Refused { future, why }
    }
}

impl<F> std::fmt::Debug for Refused<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refused")
    }
}

impl<F> std::fmt::Display for Refused<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.why {
            Refusal::NoCore => f.write_str("not taken: the runtime has no core of that index"),
            Refusal::Stopping(phase, left) => write!(
                f,
                "not taken: the core is at the end of its stop (phase {phase}, {left:?} left); \
                 begin work before Closing, in a hook at the latest"
            ),
            Refusal::DueLate(phase, left) => write!(
                f,
                "not taken: it is due after the drain deadline of the stop (phase {phase}, \
                 {left:?} left); choose an earlier time, or do it in a hook"
            ),
        }
    }
}

impl<F> std::error::Error for Refused<F> {}

/// Spawns an essential task on this core: a stop waits for it.
///
/// The future never leaves this thread, so it need not be `Send`. It is first polled when the
/// caller gives way.
///
/// # Examples
///
/// ```no_run
/// # async fn example() {
/// let answer = evenfall::spawn(async { 6 * 7 }).await;
/// assert_eq!(answer.ok(), Some(42));
/// # }
/// ```
///
/// # Panics
///
/// Outside of a core.
///
/// # Cancellation
///
/// Dropping the [`JoinHandle`] detaches the task: it goes on. [`JoinHandle::abort`] ends it.
///
/// # Shutdown
///
/// Taken in every phase up to and including the hooks. In Closing the future is dropped at once
/// and the handle says so ([`JoinError::is_dropped`](crate::JoinError::is_dropped)); use
/// [`try_spawn`] to get it back. At the drain deadline essential tasks that are left are named in
/// the report and dropped.
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    spawn_or_drop(future, Kind::Essential, Location::caller())
}

/// Spawns a background task on this core: housekeeping that no stop waits for.
///
/// # Panics
///
/// Outside of a core.
///
/// # Cancellation
///
/// As for [`spawn`].
///
/// # Shutdown
///
/// Nothing it does counts as activity. It runs until Closing begins, through the hooks, and is
/// dropped then.
#[track_caller]
pub fn spawn_background<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    spawn_or_drop(future, Kind::Background, Location::caller())
}

/// As [`spawn`], but a core that takes no task any more gives the future back.
///
/// # Errors
///
/// [`Refused`], with the future, in Closing.
///
/// # Panics
///
/// Outside of a core.
#[track_caller]
pub fn try_spawn<F>(future: F) -> Result<JoinHandle<F::Output>, Refused<F>>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let local = context::here();
    local
        .spawn(future, Kind::Essential, Location::caller())
        .map_err(|future| Refused::stopping(future, &local.shared))
}

/// Spawns on this core, or makes a handle that says the future was dropped.
#[track_caller]
fn spawn_or_drop<F>(
    future: F,
    kind: Kind,
    site: &'static Location<'static>,
) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    match context::with_here(|local| local.spawn(future, kind, site)) {
        Ok(handle) => handle,
        // Here and not in there: its destructor is a user's.
        Err(future) => {
            drop(future);
            JoinHandle::dropped(site)
        }
    }
}

/// Spawns an essential task on another core of this runtime (or on this one): `start` travels
/// there and makes the future, which stays there and need not be `Send`. So nothing of this core's
/// goes with it:
/// ```compile_fail,E0277
/// fn elsewhere(stream: evenfall::net::TcpStream) {
///     let task = evenfall::spawn_on(1, move || async move { drop(stream) });
///     drop(task);
/// }
/// ```
/// ```
/// fn elsewhere(stream: evenfall::net::TcpStream) {
///     let peer = stream.peer_addr();
///     let task = evenfall::spawn_on(1, move || async move { drop(peer) });
///     drop(task);
/// }
/// ```
///
/// # Errors
///
/// [`Refused`], with the closure, if there is no core of that index or it takes no letter any
/// more.
///
/// # Panics
///
/// Outside of a core.
///
/// # Cancellation
///
/// Dropping the [`RemoteHandle`] detaches the task.
///
/// # Shutdown
///
/// Taken in every phase up to and including the hooks; refused in Closing. A task that was taken
/// always has an outcome: if it is dropped before it ends, the handle says so.
#[track_caller]
pub fn spawn_on<F, Fut>(core: usize, start: F) -> Result<RemoteHandle<Fut::Output>, Refused<F>>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let local = context::here();
    post_spawn(
        &local.shared,
        Some(local.index),
        core,
        start,
        Location::caller(),
    )
}

/// Posts a spawn to `core`, on behalf of the core `from` or of a foreign thread.
pub(crate) fn post_spawn<F, Fut>(
    shared: &Arc<Shared>,
    from: Option<usize>,
    core: usize,
    start: F,
    site: &'static Location<'static>,
) -> Result<RemoteHandle<Fut::Output>, Refused<F>>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let Some(station) = shared.stations.get(core) else {
        let why = Refusal::NoCore;
        return Err(Refused { future: start, why });
    };
    let sent = match from {
        Some(index) => &shared.stations[index].sent,
        None => &shared.foreign_letters,
    };
    // Asked for before the closure is in the letter, so that it can be given back out of hand.
    let Some(admitted) = station.mailbox.admit() else {
        return Err(Refused::stopping(start, shared));
    };
    let begin = move |promise: Promise<Fut::Output>| {
        let Some(local) = context::current() else {
            return;
        };
        let task = promise.keep(async move { start().await });
        // Refused: the promise is dropped with the future and says so to the handle.
        let _refused = local.spawn(task, Kind::Essential, site);
    };
    let (letter, handle) = remote::pair(begin, site);
    admitted.post(letter, sent);
    Ok(handle)
}

/// Gives way once: every task that is ready gets its turn first.
///
/// # Cancellation
///
/// Dropping it has no effect.
///
/// # Shutdown
///
/// The same in every phase.
pub async fn yield_now() {
    /// Pending once.
    struct Yield(bool);
    impl Future for Yield {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }
    Yield(false).await;
}
