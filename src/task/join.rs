//! What whoever spawned a task holds: the handle that waits for it or aborts it, and the error that
//! says why there is no output.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::raw::Task;
use crate::panics::Payload;

/// A spawned task, to be awaited or aborted.
///
/// Awaiting the handle gives the task's output, or a [`JoinError`] that says why there is none.
/// Dropping the handle *detaches* the task: it runs on, and its output is dropped when it ends.
///
/// The handle stays on the core of its task, as everything the task is made of does; it is neither
/// `Send` nor `Sync`.
/// ```compile_fail,E0277
/// fn elsewhere(handle: evenfall::JoinHandle<u32>) {
///     std::thread::spawn(move || drop(handle));
/// }
/// ```
/// That of a task on another core is a [`RemoteHandle`](crate::RemoteHandle), and may go anywhere:
/// ```
/// fn elsewhere(handle: evenfall::RemoteHandle<u32>) {
///     std::thread::spawn(move || drop(handle));
/// }
/// ```
///
/// # Panics
///
/// Like most futures, a handle must not be polled again after it gave its result; it panics then.
///
/// # Cancellation
///
/// Dropping the handle, while it is awaited or before, does nothing to the task. A `select` or a
/// timeout over `&mut handle` loses nothing and may await it again.
///
/// To end the task instead, call [`abort`](JoinHandle::abort).
///
/// # Shutdown
///
/// A stop waits for tasks from `spawn`, in Notice and Draining, up to the drain deadline; their
/// handles give the output as at any other time. Tasks still alive at that deadline are dropped:
/// then the handle, if some hook or background task awaits it, gives an error whose
/// [`is_dropped`](JoinError::is_dropped) is true. So do the handles of background tasks, which are
/// dropped when Closing begins.
#[must_use = "a task whose handle is dropped runs on, but its output and its panic are lost"]
pub struct JoinHandle<T> {
    /// The task, whose future has the output `T`. The handle holds one of its references, and is
    /// the only one to take the output. `None` if the task was never taken.
    task: Option<Task>,
    /// Where it was spawned.
    site: &'static Location<'static>,
    /// The handle gives a `T` and holds none, so it can be moved whatever `T` is.
    output: PhantomData<fn() -> T>,
}

impl<T> JoinHandle<T> {
    /// The handle of a new task, which was spawned at `site`.
    ///
    /// # Safety
    ///
    /// The task was just allocated, for a future whose output is `T`, and gets no other handle.
    #[inline]
    pub(super) unsafe fn of(task: Task, site: &'static Location<'static>) -> JoinHandle<T> {
        JoinHandle {
            task: Some(task),
            site,
            output: PhantomData,
        }
    }

    /// The handle of a task that was not taken: its future is dropped already.
    pub(crate) fn dropped(site: &'static Location<'static>) -> JoinHandle<T> {
        JoinHandle {
            task: None,
            site,
            output: PhantomData,
        }
    }

    /// Ends the task without its output.
    ///
    /// A task that waits is dropped before this returns; a task that calls this on itself is
    /// dropped when the poll under way returns, unless that poll finishes it. In a destructor that
    /// itself runs because of an abort, the task is dropped at its next turn. Awaiting the handle
    /// then gives an error whose [`is_cancelled`](JoinError::is_cancelled) is true. A panic in a
    /// destructor of the dropped future is reported by the panic hook and goes no further.
    ///
    /// Does nothing to a task that has ended.
    ///
    /// # Cancellation
    ///
    /// The task's future is dropped at the await it stands at, with what that means for each
    /// operation it waits for. A connection it held flushes and closes by itself.
    ///
    /// # Shutdown
    ///
    /// Works in every phase. An aborted task counts as cancelled, not as dropped by the stop.
    pub fn abort(&self) {
        if let Some(task) = self.task {
            task.local().abort(task);
        }
    }

    /// Whether the task has ended, in whatever way. Awaiting the handle is then immediate.
    ///
    /// # Shutdown
    ///
    /// True for each task that was dropped by the stop.
    #[must_use]
    #[inline]
    pub fn is_finished(&self) -> bool {
        self.task.is_none_or(|task| task.is_over())
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = self.task else {
            return Poll::Ready(Err(JoinError::dropped(self.site)));
        };
        if !task.is_over() {
            task.set_joiner(context.waker());
        }
        // Looked at after the waker is in place, whose clone might have ended the task.
        // SAFETY: `T` is the output of this task's future (the promise of `JoinHandle::of`).
        match unsafe { task.take_output::<T>() } {
            Some(output) => Poll::Ready(output),
            None if task.is_over() => panic!("a JoinHandle was polled after its result"),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            // SAFETY: the handle, which holds the reference, ends here.
            unsafe { task.detach() };
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.task.map(|task| task.header().id()))
            .field("spawned_at", &format_args!("{}", self.site))
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Why a task has no output: it was cancelled, it was dropped by a stop, or it panicked.
pub struct JoinError {
    /// Where the task was spawned.
    site: &'static Location<'static>,
    /// How it ended. A payload is there exactly when it panicked.
    cause: Cause,
}

/// One variant for each way to end without an output.
enum Cause {
    Cancelled,
    Dropped,
    Panicked(Shut),
}

/// What a panic carried, which is `Send` but perhaps not `Sync`. It can be moved out, and looked
/// into only for a message, so that a `JoinError` may be shared and put into an `io::Error`.
struct Shut(Payload);

// SAFETY: through a shared `Shut` the payload is only asked for its type, which reads nothing of
// it, and used as a `&str` or a `String` if it is one (`Shut::message`); both are `Sync`.
unsafe impl Sync for Shut {}

impl Shut {
    /// The message of a panic made by the usual macros.
    fn message(&self) -> Option<&str> {
        let fixed = self.0.downcast_ref::<&'static str>().copied();
        fixed.or_else(|| self.0.downcast_ref::<String>().map(String::as_str))
    }
}

impl JoinError {
    /// The error of a task, or of one still to be spawned, that its handle ended.
    pub(crate) fn cancelled(site: &'static Location<'static>) -> JoinError {
        let cause = Cause::Cancelled;
        JoinError { site, cause }
    }

    /// The error of a task, or of one still to be spawned, that a stop dropped.
    pub(crate) fn dropped(site: &'static Location<'static>) -> JoinError {
        let cause = Cause::Dropped;
        JoinError { site, cause }
    }

    /// The error of a task that panicked, here or on another core.
    pub(crate) fn panicked(
        site: &'static Location<'static>,
        payload: Box<dyn Any + Send>,
    ) -> JoinError {
        let cause = Cause::Panicked(Shut(payload));
        JoinError { site, cause }
    }

    /// Whether the task was ended by [`JoinHandle::abort`].
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.cause, Cause::Cancelled)
    }

    /// Whether the task panicked: in a poll, or in the destructor of its future after the last one.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.cause, Cause::Panicked(_))
    }

    /// Whether the runtime dropped the task, because it was stopping and the task had not ended.
    ///
    /// # Shutdown
    ///
    /// True for tasks alive at the drain deadline, for background tasks when Closing begins, and
    /// for whatever is left when the core ends.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        matches!(self.cause, Cause::Dropped)
    }

    /// What the panic carried, to go on with [`std::panic::resume_unwind`].
    ///
    /// # Errors
    ///
    /// The error itself, if the task did not panic.
    pub fn into_panic(self) -> Result<Box<dyn Any + Send>, JoinError> {
        match self.cause {
            Cause::Panicked(shut) => Ok(shut.0),
            cause => Err(JoinError {
                site: self.site,
                cause,
            }),
        }
    }

    /// Where the task was spawned.
    #[must_use]
    pub fn spawned_at(&self) -> &'static Location<'static> {
        self.site
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task spawned at {} ", self.site)?;
        match &self.cause {
            Cause::Cancelled => f.write_str("was aborted"),
            Cause::Dropped => f.write_str("was dropped by the stop"),
            Cause::Panicked(shut) => match shut.message() {
                Some(message) => write!(f, "panicked: {message}"),
                None => f.write_str("panicked"),
            },
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

impl Error for JoinError {}
