//! Where in its closing a connection is, and what it notes there.
//!
//! Drawn in [`closing`](super::closing). A connection that is open has none of it, so the notes are
//! made when closing begins: 48 bytes less for each that is idle.

#![forbid(unsafe_code)]

use super::tally::End;
use crate::clock::ns;
use crate::config::LINGER_CHECK_MIN;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Stage(
    /// `None`: in use.
    Option<Box<Step>>,
);

/// One step of closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nobody writes any more; the kernel has not taken all that was queued.
    Flushing(Linger),
    /// Our FIN is sent; the peer has not acknowledged all, or has not ended its side.
    FinSent(Linger),
    /// Over; waits for the last completion that names the socket.
    Ending(Last),
    /// The descriptor is closed; waits for the last handle.
    Closed(Last),
}

/// How a peer that is slow to take what it is owed is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Linger {
    /// What the peer had acknowledged when it was last looked at; `None` before the first look.
    pub(super) acked: Option<u64>,
    /// When `acked` last went up, and at first when closing began (ns).
    pub(super) progress_ns: u64,
    /// When our FIN was sent (ns); 0 before.
    pub(super) fin_ns: u64,
    /// The wait before the next look; doubles up to `LINGER_CHECK_MAX` (ns).
    pub(super) check_ns: u64,
}

impl Linger {
    /// Closing begins.
    pub(super) fn begin(now_ns: u64) -> Linger {
        Linger {
            acked: None,
            progress_ns: now_ns,
            fin_ns: 0,
            check_ns: ns(LINGER_CHECK_MIN),
        }
    }
}

/// How it ended, and what was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Last {
    /// The reason, for the report.
    pub(super) end: End,
    /// Queued bytes the kernel never took.
    pub(super) unsent: u64,
    /// Bytes the peer never acknowledged.
    pub(super) unacked: u64,
    /// Whether the reset failed: then the socket still knows what was not acknowledged, and a send
    /// that comes back later may have added to it. One that was reset knows of nothing any more:
    /// what it answers is no count.
    pub(super) still_connected: bool,
}

impl Last {
    /// An end that lost nothing.
    pub(super) fn clean(end: End) -> Last {
        Last {
            end,
            unsent: 0,
            still_connected: false,
            unacked: 0,
        }
    }
}

impl Stage {
    /// Whether it is in use.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// The step it is at, once closing has begun.
    #[inline]
    pub(super) fn step(&self) -> Option<Step> {
        self.0.as_deref().copied()
    }

    /// Goes to `step`.
    pub(super) fn go(&mut self, step: Step) {
        match &mut self.0 {
            Some(place) => **place = step,
            None => self.0 = Some(Box::new(step)),
        }
    }

    /// Whether it is over, but for operations that are still in the kernel, and its socket was not
    /// reset although it should have been.
    pub(super) fn is_over_but_connected(&self) -> bool {
        matches!(self.step(), Some(Step::Ending(last)) if last.still_connected)
    }

    /// All was over already, and so many bytes turn out to be not acknowledged.
    pub(super) fn raise_unacked(&mut self, unacked: u64) {
        if let Some(Step::Ending(last)) = self.0.as_deref_mut() {
            last.unacked = last.unacked.max(unacked);
        }
    }

    /// Whether a receive may be armed.
    pub(super) fn receives(&self) -> bool {
        !self.is_over()
    }

    /// Whether its peer is looked at every now and then.
    pub(super) fn lingers(&self) -> bool {
        !self.is_open() && !self.is_over()
    }

    /// Whether nothing more will happen.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        matches!(self.step(), Some(Step::Ending(_) | Step::Closed(_)))
    }

    /// How it ended, once the descriptor is closed.
    pub(super) fn closed(&self) -> Option<Last> {
        match self.step() {
            Some(Step::Closed(last)) => Some(last),
            _ => None,
        }
    }
}
