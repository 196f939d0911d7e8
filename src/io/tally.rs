//! What a core counts about its connections, for the report.

#![forbid(unsafe_code)]

use crate::io::course::Course;

/// How an accepted connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Closed by us, in order, because the stop asked for it.
    Drained,
    /// The peer's FIN came first; then we closed in order.
    ByPeer,
    /// Its handler dropped or closed it; no stop was involved.
    ByHandler,
    /// Its handler reset it, or its listener's policy did.
    Aborted,
    /// The peer reset it.
    PeerReset,
    /// Cut at a deadline.
    Forced,
    /// The peer acknowledged nothing for the time of `linger`: reset.
    Abandoned,
}

/// One count for each way to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// See [`End::Drained`].
    pub(crate) drained: u64,
    /// See [`End::ByPeer`].
    pub(crate) by_peer: u64,
    /// See [`End::ByHandler`].
    pub(crate) by_handler: u64,
    /// See [`End::Aborted`].
    pub(crate) aborted: u64,
    /// See [`End::PeerReset`].
    pub(crate) peer_reset: u64,
    /// See [`End::Forced`].
    pub(crate) forced: u64,
    /// See [`End::Abandoned`].
    pub(crate) abandoned: u64,
}

impl Ends {
    /// Counts one end.
    pub(crate) fn count(&mut self, end: End) {
        let place = match end {
            End::Drained => &mut self.drained,
            End::ByPeer => &mut self.by_peer,
            End::ByHandler => &mut self.by_handler,
            End::Aborted => &mut self.aborted,
            End::PeerReset => &mut self.peer_reset,
            End::Forced => &mut self.forced,
            End::Abandoned => &mut self.abandoned,
        };
        *place += 1;
    }
}

/// The books of all connections of one core.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Connections accepted since the start.
    pub(crate) accepted_total: u64,
    /// Accepted connections that are open now.
    pub(crate) open: u64,
    /// How many were open when, from the trigger on.
    pub(crate) course: Course,
    /// Accepted connections that were open at the trigger.
    pub(crate) at_start: u64,
    /// Connections accepted since the trigger.
    pub(crate) accepted: u64,
    /// How accepted connections ended since the trigger.
    pub(crate) ends: Ends,
    /// Requests whose first byte was handed to a handler.
    pub(crate) requests_begun: u64,
    /// Bytes that came.
    pub(crate) received: u64,
    /// Bytes the kernel took for sending.
    pub(crate) sent: u64,
    /// Bytes that were queued and never given to the kernel, since the trigger.
    pub(crate) unsent: u64,
    /// Bytes the peer's kernel had not acknowledged when its connection was reset or abandoned,
    /// since the trigger.
    pub(crate) unacked: u64,
    /// Both of these kinds, of connections that were reset because the application said so; they
    /// are not in the other two.
    pub(crate) given_up: u64,
    /// Requests whose handler came back for the next one or closed. Not beside those begun: two sums
    /// in one vector register took twice as many instructions as one after the other.
    pub(crate) requests_answered: u64,
    /// Bytes that came after our end of the connection was closed, and were thrown away.
    pub(crate) late: u64,
    /// Receives that found no buffer.
    pub(crate) ran_out: u64,
    /// Whether the stop has begun: what counts "since the trigger" counts from then on.
    pub(crate) stopping: bool,
}

impl Tally {
    /// The stop begins: what is open now is what it has to bring to an end.
    pub(crate) fn begin_stop(&mut self, now_ns: u64) {
        if !self.stopping {
            self.stopping = true;
            self.at_start = self.open;
            self.course.note(now_ns, self.open);
        }
    }

    /// A connection was accepted.
    pub(crate) fn opened(&mut self, now_ns: u64) {
        self.accepted_total += 1;
        self.open += 1;
        if self.stopping {
            self.accepted += 1;
            self.course.note(now_ns, self.open);
        }
    }

    /// An accepted connection is closed.
    pub(crate) fn closed(&mut self, now_ns: u64, end: End) {
        self.open -= 1;
        if self.stopping {
            self.ends.count(end);
            self.course.note(now_ns, self.open);
        }
    }

    /// A connection is closed, accepted or outgoing: what it leaves behind is lost, or was given
    /// up by whoever reset it.
    pub(crate) fn lost(&mut self, end: End, unsent: u64, unacked: u64) {
        if !self.stopping {
            return;
        }
        if end == End::Aborted {
            self.given_up += unsent + unacked;
        } else {
            self.unsent += unsent;
            self.unacked += unacked;
        }
    }
}
