//! How an accepted connection hears of a stop.
//!
//! ```text
//!               spread: not its turn yet
//!                       ┌──┐
//!                       │  ▼   asks: between requests, socket found empty
//!  begin_drain ──▶ watch_in_drain ──────────────────────────────────────▶ told ──▶ ends by FIN
//!                    │  ▲    └── never asks: silent for its grace ──────────▲
//!                    │  └─────── on_drain_timer: not yet
//!                    └── policy `cut` ──▶ reset
//! ```
//! Told, its handler's `next_request` gives false and its `recv` the end of the stream. Whatever
//! was received before is delivered and answered first.

#![forbid(unsafe_code)]

use super::Io;
use super::conn::{Conn, Incoming, Origin};
use super::drain::Draining;
use super::tally::End;
use crate::clock::ns;
use crate::config::WINDOW_MIN;
use crate::ring::sys::socket;

impl Io {
    /// Whether the stop asks a connection to end: one that was accepted, in the drain, and not
    /// before its turn where its listener spreads.
    pub(crate) fn is_asked_to_end(&self, index: u32) -> bool {
        let drains = self.draining.is_some() || self.last_sweep;
        let conn = self.conns.get(index as usize);
        drains && conn.is_some_and(|c| c.origin == Origin::Accepted && !c.waits_its_turn)
    }

    /// Looks at one accepted connection in the drain: tells it, or sees to it that it is looked
    /// at again.
    pub(super) fn watch_in_drain(&mut self, index: u32) {
        self.steps += 1;
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        let done = !conn.stage.is_open() || conn.told || conn.origin != Origin::Accepted;
        if done || self.draining.is_none() || conn.waits_its_turn {
            return;
        }
        if conn.is_to_be_cut() {
            self.cut_as_asked(index);
        } else if conn.between {
            self.tell_between(index);
            if let Some(conn) = self.conns.get_mut(index as usize) {
                if conn.told {
                    conn.reader.wake(&mut self.wakers);
                }
            }
        } else if !conn.asks && conn.timer.is_none() {
            self.tell_silent(index);
        }
    }

    /// Resets a connection because its listener's policy says so.
    fn cut_as_asked(&mut self, index: u32) {
        if self.conn(index).is_some_and(|conn| conn.queued) {
            // Nobody gives it out any more: its record goes with the reset.
            self.leave_queue(index);
        }
        self.cut(index, End::Aborted);
    }

    /// Tells a connection that is between requests, if nothing of a next one is here: completions
    /// that nobody has seen and bytes in the socket are delivered and answered first.
    pub(super) fn tell_between(&mut self, index: u32) {
        let unseen = self.driver.has_unseen();
        let now_ns = self.now_ns;
        let (Some(conn), Some(draining)) = (self.conns.get(index as usize), &mut self.draining)
        else {
            return;
        };
        if conn.origin != Origin::Accepted || conn.waits_its_turn {
            return;
        }
        let until_ns = conn.first_byte_until_ns(draining);
        if now_ns < until_ns {
            return self.set_conn_timer(index, until_ns);
        }
        if unseen {
            draining.tell_soon(index);
            return;
        }
        let unread = conn
            .borrow()
            .and_then(|fd| socket::unread(fd).ok())
            .unwrap_or(0);
        if unread > 0 {
            // Its completion is on the way, unless the receive was paused.
            return self.arm_recv(index);
        }
        if let Some(conn) = self.conn(index) {
            conn.told = true;
            conn.no_longer_plain();
            conn.between = false;
        }
    }

    /// Tells a connection whose handler never asks, if it has been silent for long enough; else
    /// looks again when it will have been.
    fn tell_silent(&mut self, index: u32) {
        let now_ns = self.now_ns;
        let (Some(conn), Some(draining)) = (self.conns.get(index as usize), &self.draining) else {
            return;
        };
        let silent_at_ns = conn.silent_at_ns(draining);
        if now_ns < silent_at_ns {
            return self.set_conn_timer(index, silent_at_ns);
        }
        let unread = conn
            .borrow()
            .and_then(|fd| socket::unread(fd).ok())
            .unwrap_or(0);
        if unread > 0 || conn.has_inbound() {
            let soon_ns = conn.grace_ns(draining).max(ns(WINDOW_MIN));
            return self.set_conn_timer(index, now_ns.saturating_add(soon_ns));
        }
        if let Some(conn) = self.conns.get_mut(index as usize) {
            conn.told = true;
            conn.no_longer_plain();
            conn.reader.wake(&mut self.wakers);
        }
    }

    /// The timer of an open connection: its first byte or its silence is due. It is looked at with
    /// the others, batch by batch: the silence of ten thousand may end at the same moment.
    pub(super) fn on_drain_timer(&mut self, index: u32) {
        if let Some(draining) = &mut self.draining {
            draining.tell_soon(index);
        }
    }
}

impl Conn {
    /// How much silence ends it where its handler never asks (ns).
    fn grace_ns(&self, draining: &Draining) -> u64 {
        let own_ns = self
            .policy
            .as_ref()
            .and_then(|policy| policy.idle_grace_ns());
        own_ns.unwrap_or(draining.idle_grace_ns)
    }

    /// When it will have been silent for so long (ns), if nothing comes.
    fn silent_at_ns(&self, draining: &Draining) -> u64 {
        let since_ns = draining.started_ns.max(self.active_ns);
        since_ns.saturating_add(self.grace_ns(draining))
    }

    /// Until when a connection that never received a byte is waited for (ns).
    fn first_byte_until_ns(&self, draining: &Draining) -> u64 {
        if self.first_byte || self.incoming != Incoming::Open {
            0
        } else if self.opened_ns >= draining.started_ns {
            self.opened_ns + draining.late_first_byte_ns
        } else {
            draining.started_ns + draining.first_byte_ns
        }
    }
}
