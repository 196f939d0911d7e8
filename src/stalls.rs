//! Turns that are too long as a subscription, for tasks and for threads.

#![forbid(unsafe_code)]

use std::future::poll_fn;

use crate::board::Board;
use crate::context;
use crate::error::Result;
use crate::feed::Subscription;
use crate::stall::StallEvent;

/// The begin and the end of each turn that is too long, as they come. Made by
/// [`Handle::stalls`](crate::Handle::stalls).
///
/// The last 64 events are kept for whoever is slow: who has fallen behind goes on with the oldest
/// that is left, and [`missed`](Stalls::missed) says how many are gone.
///
/// # Shutdown
///
/// No stall begins once a stop has; one that is under way then may still end. After that it is for
/// the stop to deal with a core that hangs.
#[derive(Debug)]
pub struct Stalls {
    /// Where they are announced.
    subscription: Subscription<StallEvent>,
}

impl Stalls {
    /// The events that come from now on.
    pub(crate) fn of(board: &Board) -> Stalls {
        Stalls {
            subscription: board.stalls.subscribe(),
        }
    }

    /// The next event, for a task on any executor; `None` when the runtime has ended. A task of the
    /// core that stalls hears of it when that is over; better watch from another core or a thread.
    ///
    /// # Cancellation
    ///
    /// Dropping it loses no event.
    pub async fn next(&mut self) -> Option<StallEvent> {
        poll_fn(|context| self.subscription.poll_next(context)).await
    }

    /// The next event, for a thread: blocks until it comes; `None` when the runtime has ended.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WrongThread`](crate::ErrorKind::WrongThread) on a core: to block there would
    /// itself be a stall.
    pub fn wait_next(&mut self) -> Result<Option<StallEvent>> {
        context::not_on_a_core("Stalls::wait_next", "await Stalls::next")?;
        Ok(self.subscription.wait_next())
    }

    /// How many events were gone before this subscription came to read them.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.subscription.missed()
    }
}
