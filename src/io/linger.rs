//! What a connection that closes waits for: that its peer takes what it is owed, and for how long.
//!
//! The peer is looked at, for the kernel has no event for "all acknowledged": at growing pauses, and
//! seldom where many are looked at. What it has not acknowledged when the connection ends is lost, and
//! counted.

#![forbid(unsafe_code)]

use super::Io;
use super::conn::Incoming;
use super::stage::{Last, Linger, Step};
use super::tally::End;
use crate::clock::ns;
use crate::config::{LINGER_CHECK_EACH, LINGER_CHECK_MAX, LINGER_QUIET_MIN};
use crate::ring::sys::socket;

/// The peer's side of a close.
impl Io {
    /// Looks at how far the peer is, and ends the connection or looks again later.
    pub(super) fn linger(&mut self, index: u32, mut linger: Linger) {
        let now_ns = self.now_ns;
        let unacked = self.unacknowledged(index);
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        let fin_sent = matches!(conn.stage.step(), Some(Step::FinSent(_)));
        let owed = conn.unsent() as u64 + unacked;
        let end = conn.orderly_end();
        // With the peer's FIN here, only our own may be unacknowledged, where the kernel took one:
        // nothing is left to lose.
        if fin_sent && conn.incoming == Incoming::Ended && owed <= u64::from(conn.fin_sent) {
            return self.end(index, Last::clean(end));
        }
        let transfer = conn
            .borrow()
            .and_then(|fd| socket::transfer(fd).ok())
            .unwrap_or_default();
        let quiet_ns = ns(LINGER_QUIET_MIN.max(2 * transfer.round_trip));
        let silent_since_ns = conn.active_ns.max(linger.fin_ns);
        let silent_ns = now_ns.saturating_sub(silent_since_ns);
        if fin_sent && owed == 0 && silent_ns >= quiet_ns {
            return self.end(index, Last::clean(end));
        }
        // Behind the peer's FIN no receive is there to say that it has reset the connection since: as
        // one does that is sent something when it is gone. Nothing will be acknowledged any more.
        if conn.send.is_none() && transfer.is_over && owed > u64::from(fin_sent) {
            let unsent = conn.unsent();
            let last = self.losses(index, End::PeerReset);
            // It was still open when what it owes was looked at first: with nothing lost it has taken
            // all since then, and ended in order.
            let in_order = unsent == 0 && last.unacked == 0;
            return self.end(index, if in_order { Last::clean(end) } else { last });
        }
        // What is owed says nothing here: a send in flight refills the socket as fast as the peer
        // empties it.
        if linger.acked.is_none_or(|acked| transfer.acked > acked) {
            linger.acked = Some(transfer.acked);
            linger.progress_ns = now_ns;
        } else if now_ns >= linger.progress_ns.saturating_add(self.linger_ns(index)) {
            return self.cut(index, End::Abandoned);
        }
        self.look_again(index, linger);
    }

    /// Sees to it that the peer is looked at after a pause, and by the cap of the linger time.
    pub(super) fn look_again(&mut self, index: u32, mut linger: Linger) {
        // Ten thousand that linger, each looked at every few milliseconds, would be all we do.
        let all_ns = ns(LINGER_CHECK_EACH).saturating_mul(self.lingering);
        let look_ns = self.now_ns + linger.check_ns.max(all_ns);
        linger.check_ns = (linger.check_ns * 2).min(ns(LINGER_CHECK_MAX));
        let cap_ns = linger.progress_ns.saturating_add(self.linger_ns(index));
        let Some(conn) = self.conn(index) else {
            return;
        };
        match conn.stage.step() {
            Some(Step::Flushing(_)) => conn.stage.go(Step::Flushing(linger)),
            Some(Step::FinSent(_)) => conn.stage.go(Step::FinSent(linger)),
            None | Some(Step::Ending(_) | Step::Closed(_)) => return,
        }
        self.set_conn_timer(index, look_ns.min(cap_ns));
    }

    /// How long its peer may acknowledge nothing (ns).
    fn linger_ns(&self, index: u32) -> u64 {
        let conn = self.conns.get(index as usize);
        let policy = conn.and_then(|conn| conn.policy.as_ref());
        let own_ns = policy.and_then(|policy| policy.linger_ns());
        own_ns.unwrap_or(self.linger_ns)
    }

    /// What is lost if the connection ends now; what is unsent is known only when no send is in
    /// flight any more (`finish` in [`closing`](super::closing)).
    pub(super) fn losses(&self, index: u32, end: End) -> Last {
        let unacked = self.unacknowledged(index);
        let fin_sent = self
            .conns
            .get(index as usize)
            .is_some_and(|conn| conn.fin_sent);
        Last {
            end,
            unsent: 0,
            // The FIN counts as one byte in the kernel's sum and is none of ours.
            unacked: unacked.saturating_sub(u64::from(fin_sent)),
            still_connected: false,
        }
    }

    /// A send has come back from a connection that is over and could not be reset: what it brought out
    /// after the last look is in the socket.
    pub(super) fn note_unacked(&mut self, index: u32) {
        let conn = self.conns.get(index as usize);
        if conn.is_some_and(|conn| conn.stage.is_over_but_connected()) {
            let unacked = self.losses(index, End::Abandoned).unacked;
            if let Some(conn) = self.conn(index) {
                conn.stage.raise_unacked(unacked);
            }
        }
    }
}
