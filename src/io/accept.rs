//! The multishot accept of a listener: what puts it into the kernel, what it brings, and what calls
//! it back.
//!
//! ```text
//!            arm                 queue full, drain: stop
//!  Off ────────────────▶ Armed ─────────────────────────▶ Stopping
//!   ▲ ▲                    │                                  │
//!   │ └─ last completion ──┴─────────── last completion ──────┘
//!   │                      │ last completion: no descriptor left, or one failure after the other
//!   └── timer, a close ── Backoff
//! ```
//! Its last completion may carry a connection, too.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::SockRef;

use super::conn::Origin;
use super::errors::Refusal;
use super::listener::Pause;
use super::listening::Open;
use super::sweep::Drain;
use super::timer::{Timer, tick};
use super::{Io, gate};
use crate::clock::ns;
use crate::config::{ACCEPT_BACKOFF, ACCEPT_FAILURES_MOST};
use crate::report::Gate;
use crate::ring::driver::Completion;
use crate::ring::entry::Sqe;
use crate::ring::sys::socket;
use crate::ring::token::{Kind, Token};
use crate::wheel::Key;

/// See the module's diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    /// No accept is in the kernel.
    Off,
    /// The accept of this generation is in the kernel.
    Armed(u32),
    /// As `Armed`, and a cancel has been sent.
    Stopping(u32),
    /// No accept is in the kernel, for want of descriptors; the timer arms it again.
    Backoff(Key),
}

/// What completions and the turn do to a listener.
impl Io {
    /// Puts the accept into the kernel, if there is none and there is room.
    pub(super) fn arm_accept(&mut self, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        let wanted = listener.accept == Accept::Off
            && listener.failed.is_none()
            && listener.queue.len() < self.untaken_most
            && matches!(listener.drain, Drain::No | Drain::Window { .. });
        let (true, Some(fd)) = (wanted, listener.fd.as_ref()) else {
            return;
        };
        if self.tally.open >= self.connections_most {
            return listener.wait_at_limit();
        }
        let fd = fd.as_fd().as_raw_fd();
        // A multishot one takes in whoever is in the backlog, however few there is room for.
        let multi = self.connections_most == u64::MAX;
        let generation = self.generations.advance();
        listener.accept = Accept::Armed(generation);
        listener.at_limit = false;
        self.driver.submit(
            Sqe::Accept { fd, multi },
            Token {
                kind: Kind::Accept,
                index,
                generation,
            },
        );
    }

    /// Takes the accept out of the kernel, if it is there.
    pub(super) fn stop_accept(&mut self, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        match listener.accept {
            Accept::Armed(generation) => {
                listener.accept = Accept::Stopping(generation);
                self.driver.cancel(Token {
                    kind: Kind::Accept,
                    index,
                    generation,
                });
            }
            Accept::Backoff(timer) => {
                self.wheel.cancel(timer);
                listener.accept = Accept::Off;
            }
            Accept::Off | Accept::Stopping(_) => {}
        }
    }

    /// One completion of an accept. The last one may carry a connection, too.
    pub(super) fn on_accept(&mut self, completion: Completion) {
        let Completion {
            token,
            result,
            more,
            fd,
            ..
        } = completion;
        let listener = match self.listeners.get_mut(token.index as usize) {
            Some(listener)
                if matches!(listener.accept, Accept::Armed(g) | Accept::Stopping(g)
                    if g == token.generation) =>
            {
                listener
            }
            _ => return self.driver.stale(token.pack()),
        };
        if !more {
            listener.accept = Accept::Off;
        }
        match fd {
            Some(fd) => self.accepted(token.index, fd),
            None => self.on_accept_error(token.index, -result),
        }
        if !more {
            self.after_last_accept(token.index);
        }
    }

    /// The accept is out of the kernel: a listener that closes takes its backlog, another arms
    /// again.
    fn after_last_accept(&mut self, index: u32) {
        match self.listeners.get(index as usize) {
            Some(listener) if listener.drain == Drain::Sweep => self.sweep(index),
            Some(_) => self.arm_accept(index),
            None => {}
        }
    }

    /// A connection was accepted.
    pub(super) fn accepted(&mut self, index: u32, fd: OwnedFd) {
        let now_ns = self.now_ns;
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        listener.accepted_ns = Some(now_ns);
        listener.failures = 0;
        let draining = listener.drain != Drain::No;
        listener.drained += u64::from(draining);
        if listener.gate == Gate::MinTtl {
            gate::open_accepted(fd.as_fd(), listener.address.is_ipv6());
        }
        if listener.fd.as_ref().is_some_and(Open::is_shared) {
            // Our own listeners hand it down; this one is not ours to set it on. It fails only on
            // a socket that is gone already, which its first receive will say.
            let _gone = SockRef::from(&fd).set_tcp_nodelay(true);
        }
        // The handshake's own measurement: nothing else was sent on this connection yet.
        if let Ok(transfer) = socket::transfer(fd.as_fd()) {
            listener.handshake_ns = listener.handshake_ns.max(ns(transfer.round_trip));
        }
        // Nor is it given out after a cut, which resets it: its place in the queue would be left to a
        // record that is another's by then.
        let orphaned = listener.handles == 0 || self.last_sweep;
        let policy = listener.policy.clone();
        if draining {
            self.note_accept_in_drain(index);
        }
        let conn = self.adopt(fd, Origin::Accepted);
        if let Some(record) = self.conn(conn) {
            record.policy = policy;
        }
        if orphaned {
            return self.begin_close(conn);
        }
        if let Some(record) = self.conn(conn) {
            record.queued = true;
        }
        if let Some(listener) = self.listeners.get_mut(index as usize) {
            listener.queue.push_back(conn);
            self.wakers.append(&mut listener.wakers);
            if listener.queue.len() >= self.untaken_most {
                self.stop_accept(index);
            }
        }
        if self.tally.open >= self.connections_most {
            self.stop_all_accepts();
        }
        self.activity_ns = now_ns;
        self.watch_in_drain(conn);
    }

    /// The core has as many connections as it may: its other listeners accept nobody either.
    fn stop_all_accepts(&mut self) {
        for index in self.all_listeners() {
            self.stop_accept(index);
            // Notes that it waits, where no accept is on its way out.
            self.arm_accept(index);
        }
    }

    /// A connection has ended: with less than the core may have, its listeners accept again.
    pub(super) fn end_limit(&mut self) {
        if self.connections_most != u64::MAX && self.tally.open < self.connections_most {
            for index in self.all_listeners() {
                self.arm_accept(index);
            }
        }
    }

    /// The places of all listeners.
    fn all_listeners(&self) -> Vec<u32> {
        self.listeners
            .iter()
            .map(|(index, _)| index as u32)
            .collect()
    }

    /// An accept failed: for want of descriptors it waits, for a broken listener it says so, and
    /// for one broken connection it goes on; but it waits, too, where that does not end.
    fn on_accept_error(&mut self, index: u32, errno: i32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        if errno == libc::ECANCELED {
            // Our own doing.
            return;
        }
        listener.failures += 1;
        let shut = listener.fd.as_ref().is_some_and(Open::was_shut);
        let is_accident = listener.failures < ACCEPT_FAILURES_MOST;
        match Refusal::of(errno) {
            // The coordinator has ended the listening while this core was stuck: nobody is left in
            // the backlog. If the core does not know of the stop yet, it will in its next turn.
            Refusal::Listener if shut && errno == libc::EINVAL => {
                if let Drain::Window { .. } = listener.drain {
                    listener.drain = Drain::Sweep;
                }
            }
            Refusal::Listener => {
                listener.failed = Some(errno);
                self.wakers.append(&mut listener.wakers);
            }
            Refusal::Connection | Refusal::Empty if is_accident => {}
            _ if listener.accept == Accept::Off && listener.drain != Drain::Sweep => {
                self.pause_accept(index, errno, ACCEPT_BACKOFF);
            }
            // The sweep that follows meets it again.
            _ => {}
        }
    }

    /// Arms the accept again, or goes on with the sweep, after `pause`; or when descriptors are
    /// freed.
    pub(super) fn pause_accept(&mut self, index: u32, errno: i32, pause: Duration) {
        let at_ns = self.now_ns + ns(pause);
        if let Some(listener) = self.listeners.get_mut(index as usize) {
            let timer = self.wheel.insert(tick(at_ns), Timer::Accept { index });
            listener.accept = Accept::Backoff(timer);
            listener.pauses += 1;
            listener.paused_by = Some(Pause::Errno(errno));
        }
    }

    /// The pause of a listener without descriptors is over.
    pub(super) fn end_backoff(&mut self, index: u32) {
        if let Some(listener) = self.listeners.get_mut(index as usize) {
            if let Accept::Backoff(timer) = listener.accept {
                self.wheel.cancel(timer);
                listener.accept = Accept::Off;
                self.after_last_accept(index);
            }
        }
    }

    /// Descriptors were closed: listeners that wait for some need not wait any longer.
    pub(super) fn end_all_backoffs(&mut self) {
        if !std::mem::take(&mut self.fds_freed) {
            return;
        }
        let waiting: Vec<u32> = self
            .listeners
            .iter()
            .filter(|(_, listener)| matches!(listener.accept, Accept::Backoff(_)))
            .map(|(index, _)| index as u32)
            .collect();
        for index in waiting {
            self.end_backoff(index);
        }
    }
}
