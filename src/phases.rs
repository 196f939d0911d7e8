//! The phases of a runtime as a subscription, for tasks and for threads.

#![forbid(unsafe_code)]

use std::future::poll_fn;

use crate::board::Board;
use crate::context;
use crate::error::Result;
use crate::feed::Subscription;
use crate::phase::Phase;

/// The phases of a runtime after [`Phase::Running`]: each once, in order. Made by
/// [`Handle::phases`](crate::Handle::phases).
///
/// Whoever subscribes during a stop gets those that have begun first, without waiting: the first
/// phase it gets always is the one that the stop began with. So no phase is missed by a subscription
/// that is made a moment late, and to wait for one needs no look at
/// [`Handle::phase`](crate::Handle::phase) before:
///
/// ```
/// # async fn example(handle: evenfall::Handle) {
/// let mut phases = handle.phases();
/// while phases.next().await.is_some_and(|phase| phase < evenfall::Phase::Draining) {}
/// // The drain has begun.
/// # }
/// ```
///
/// # Shutdown
///
/// The last one is [`Phase::Terminated`]. A task of the runtime itself does not see it: it is
/// dropped before, at the cut or when Closing begins.
#[derive(Debug)]
pub struct Phases {
    /// Where they are announced.
    subscription: Subscription<Phase>,
}

impl Phases {
    /// All phases: those that have begun, and then those that come.
    pub(crate) fn of(board: &Board) -> Phases {
        Phases {
            subscription: board.phases.subscribe_to_all(),
        }
    }

    /// The next phase, for a task on any executor; `None` after the last.
    ///
    /// # Cancellation
    ///
    /// Dropping it loses no phase.
    pub async fn next(&mut self) -> Option<Phase> {
        poll_fn(|context| self.subscription.poll_next(context)).await
    }

    /// The next phase, for a thread: blocks until it comes; `None` after the last.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WrongThread`](crate::ErrorKind::WrongThread) on a core: to block there would
    /// hold up the very stop that is waited for.
    pub fn wait_next(&mut self) -> Result<Option<Phase>> {
        context::not_on_a_core("Phases::wait_next", "await Phases::next")?;
        Ok(self.subscription.wait_next())
    }
}
