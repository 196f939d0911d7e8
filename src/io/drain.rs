//! What a stop does to the sockets of one core, before any deadline.
//!
//! A listener:
//! ```text
//!       begin_drain          window over        last completion,
//!       (gate down)          (cancel accept)    accept4 until empty, close
//!  No ─────────────▶ Window ─────────────▶ Sweep ─────────────▶ Done
//!  └────────────── begin_sweep ─────────────▲ (no window; last handle gone)
//! ```
//! Accepted connections are told that nothing more will be asked of them
//! ([`telling`](super::telling)). That goes in batches, so that connections at work are not starved,
//! and for listeners that want it spread over a window ([`spread`](super::spread)).

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;
use std::time::Duration;

use super::Io;
use super::conn::Origin;
use super::listener::{Accept, Listener};
use super::listening::Swept;
use super::spread::Spread;
use super::tally::End;
use super::timer::{Timer, tick};
use crate::clock::ns;
use crate::config::{
    DRAIN_BATCH, FIRST_BYTE_TTL_MIN, HANDSHAKE_RECENT, RETRANSMISSION, SWEEP_RETRY, WINDOW_MAX,
    WINDOW_MIN,
};
use crate::report::{Gate, NoGate, Straggler};
use crate::ring::sys::socket;

/// Where in the stop a listener is. See the module's diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drain {
    /// It accepts as ever.
    No,
    /// The gate is down; handshakes under way may complete until then (ns).
    Window { until_ns: u64 },
    /// The accept is called back; then the backlog is emptied.
    Sweep,
    /// Closed; no connection was left behind in it.
    Done,
}

/// The drain of one core's connections.
#[derive(Debug)]
pub(crate) struct Draining {
    /// When it began (ns).
    pub(super) started_ns: u64,
    /// How much silence ends a connection whose handler never asks, where its listener's policy
    /// does not say (ns).
    pub(super) idle_grace_ns: u64,
    /// How long a connection that never received a byte may wait for its first (ns).
    pub(super) first_byte_ns: u64,
    /// The same for connections accepted since the drain began: never zero.
    pub(super) late_first_byte_ns: u64,
    /// Records that are still to be looked at.
    to_tell: VecDeque<u32>,
    /// Records that are to be looked at later. Each has `waits_its_turn` set, or has been served
    /// or freed meanwhile.
    spread: Spread,
}

impl Draining {
    /// Looks at a connection again, behind those that wait.
    pub(super) fn tell_soon(&mut self, index: u32) {
        self.to_tell.push_back(index);
    }
}

/// How long to wait for a first byte (ns), by the window and the gate: the hop-count gate drops
/// what a client sends before the accept, and the client sends it again after one round trip and
/// 200 ms. Only the sum tells: 300 ms were too short for 89 of 1,103 clients 100 ms away.
fn first_byte_wait_ns(window_ns: u64, gate: Gate) -> u64 {
    match gate {
        Gate::MinTtl => ns(FIRST_BYTE_TTL_MIN).max(window_ns + ns(RETRANSMISSION)),
        Gate::Bpf | Gate::None => window_ns,
    }
}

impl Io {
    /// The drain begins: gates down, windows open, every accepted connection on a list. Again: its
    /// deadline may have moved.
    pub(crate) fn begin_drain(&mut self, idle_grace: Duration, deadline_ns: u64) {
        if let Some(draining) = &mut self.draining {
            return draining.spread.fit(self.now_ns, deadline_ns);
        }
        let listeners: Vec<u32> = self
            .listeners
            .iter()
            .map(|(index, _)| index as u32)
            .collect();
        let mut first_byte_ns = 0;
        let mut late_first_byte_ns = ns(WINDOW_MIN);
        for index in listeners {
            let (window_ns, gate) = self.close_gate(index);
            let with_gate_ns = first_byte_wait_ns(window_ns, gate);
            if window_ns > 0 {
                first_byte_ns = first_byte_ns.max(with_gate_ns);
            }
            late_first_byte_ns = late_first_byte_ns.max(with_gate_ns);
        }
        let (to_tell, spread) = self.plan_telling(deadline_ns);
        self.draining = Some(Draining {
            started_ns: self.now_ns,
            idle_grace_ns: ns(idle_grace),
            first_byte_ns,
            late_first_byte_ns,
            to_tell,
            spread,
        });
    }

    /// Who is told now, and who when its turn has come: of a listener that spreads, those that are
    /// idle, or all of them where they are cut.
    fn plan_telling(&mut self, deadline_ns: u64) -> (VecDeque<u32>, Spread) {
        let mut now = VecDeque::with_capacity(self.conns.len());
        let mut windows: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (index, conn) in &mut self.conns {
            if conn.origin != Origin::Accepted {
                continue;
            }
            let policy = conn.policy.as_ref();
            let window_ns = policy.map_or(0, |policy| policy.spread_ns());
            let waits = conn.stage.is_open() && (conn.is_to_be_cut() || !conn.in_request);
            if window_ns > 0 && waits {
                conn.waits_its_turn = true;
                windows.entry(window_ns).or_default().push(index as u32);
            } else {
                now.push_back(index as u32);
            }
        }
        (now, Spread::plan(windows, self.now_ns, deadline_ns))
    }

    /// Puts on the list whose turn has come.
    fn call_in_turn(&mut self) {
        let Some(draining) = &mut self.draining else {
            return;
        };
        while let Some(index) = draining.spread.pop_due(self.now_ns) {
            if let Some(conn) = self.conns.get_mut(index as usize) {
                conn.waits_its_turn = false;
            }
            draining.to_tell.push_back(index);
        }
    }

    /// A listener that comes while the drain is under way drains like those before it: its first
    /// clients may be in its backlog already.
    pub(super) fn join_drain(&mut self, index: u32) {
        if self.draining.is_none() {
            return;
        }
        let (window_ns, gate) = self.close_gate(index);
        if let Some(draining) = &mut self.draining {
            let first_byte_ns = first_byte_wait_ns(window_ns, gate);
            draining.late_first_byte_ns = draining.late_first_byte_ns.max(first_byte_ns);
        }
    }

    /// The drain's share of a turn. Whether it wants another turn at once.
    #[must_use]
    pub(crate) fn step_drain(&mut self) -> bool {
        let listeners: Vec<u32> = self
            .listeners
            .iter()
            .filter(|(_, listener)| listener.drain != Drain::Done)
            .map(|(index, _)| index as u32)
            .collect();
        for index in listeners {
            self.step_listener(index);
        }
        self.call_in_turn();
        for _ in 0..DRAIN_BATCH {
            let next = self
                .draining
                .as_mut()
                .and_then(|draining| draining.to_tell.pop_front());
            match next {
                Some(index) => self.watch_in_drain(index),
                None => break,
            }
        }
        self.draining
            .as_ref()
            .is_some_and(|draining| !draining.to_tell.is_empty())
    }

    /// When the drain wants a turn, if nothing else brings one (ns).
    pub(crate) fn drain_wake_ns(&self) -> Option<u64> {
        let windows = self
            .listeners
            .iter()
            .filter_map(|(_, listener)| match listener.drain {
                Drain::Window { until_ns } => Some(until_ns),
                _ => None,
            });
        let turn_ns = self.draining.as_ref().and_then(|d| d.spread.next_ns());
        windows.chain(turn_ns).min()
    }

    /// Whether every listener is closed.
    pub(crate) fn listeners_closed(&self) -> bool {
        self.listeners
            .iter()
            .all(|(_, listener)| listener.fd.is_none())
    }

    /// Ends listening for good: what can be taken of the backlogs is taken, and closed in order;
    /// for the cut and the end of a core.
    pub(crate) fn begin_last_sweeps(&mut self) {
        self.last_sweep = true;
        if let Some(draining) = &mut self.draining {
            draining.spread.clear();
        }
        let listeners: Vec<u32> = self
            .listeners
            .iter()
            .map(|(index, _)| index as u32)
            .collect();
        for index in listeners {
            self.close_untaken(index);
            self.begin_sweep(index);
        }
    }

    /// Takes the list of listeners that were closed with clients in their backlog.
    pub(crate) fn take_refused(&mut self) -> Vec<Straggler> {
        std::mem::take(&mut self.refused)
    }
}

/// Listeners.
impl Io {
    /// Lets the gate down and opens the window; returns both.
    fn close_gate(&mut self, index: u32) -> (u64, Gate) {
        let now_ns = self.now_ns;
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return (0, Gate::None);
        };
        if listener.drain != Drain::No {
            return (0, listener.gate);
        }
        match &listener.fd {
            // A gate is the socket's: it would turn away the clients of whoever else holds it.
            Some(fd) if fd.is_shared() => listener.no_gate = Some(NoGate::Shared),
            Some(fd) => {
                listener.gate = super::gate::close(fd.as_fd(), listener.address.is_ipv6());
                listener.no_gate = (listener.gate == Gate::None).then_some(NoGate::Refused);
            }
            None => {}
        }
        let recent = listener
            .accepted_ns
            .is_some_and(|at_ns| now_ns.saturating_sub(at_ns) <= ns(HANDSHAKE_RECENT));
        // A core that had no turn for a second accepted nothing, and yet somebody may be waiting.
        let waiting = || listener.borrow().and_then(|fd| socket::backlog(fd).ok());
        if !listener.cuts() && (recent || waiting().is_some_and(|connections| connections > 0)) {
            listener.open_window(now_ns);
        } else {
            listener.drain = Drain::Window { until_ns: now_ns };
        }
        (listener.window_ns, listener.gate)
    }

    /// A connection was accepted while a listener drains. One that looked idle when the drain
    /// began was not: what was accepted before it was only reaped now. It gets its window.
    pub(super) fn note_accept_in_drain(&mut self, index: u32) {
        let now_ns = self.now_ns;
        let (Some(listener), Some(draining)) =
            (self.listeners.get_mut(index as usize), &mut self.draining)
        else {
            return;
        };
        let closing = matches!(listener.drain, Drain::Window { .. }) && listener.window_ns == 0;
        if closing && !listener.cuts() {
            listener.open_window(now_ns);
            let wait_ns = first_byte_wait_ns(listener.window_ns, listener.gate);
            draining.late_first_byte_ns = draining.late_first_byte_ns.max(wait_ns);
        }
    }

    /// Takes the listener's next step, if it is due.
    fn step_listener(&mut self, index: u32) {
        let now_ns = self.now_ns;
        let Some(listener) = self.listeners.get(index as usize) else {
            return;
        };
        match listener.drain {
            Drain::Window { until_ns } if now_ns >= until_ns => self.begin_sweep(index),
            _ => {}
        }
    }

    /// Calls the accept back; the backlog is emptied after its last completion.
    pub(super) fn begin_sweep(&mut self, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        if listener.drain == Drain::Done {
            return self.forget_listener(index);
        }
        listener.drain = Drain::Sweep;
        self.stop_accept(index);
        self.sweep(index);
    }

    /// Takes all that is in the backlog, then closes the socket. Only once no accept is in the
    /// kernel: closing with one armed leaves a listener that accepts on, and the port busy.
    pub(super) fn sweep(&mut self, index: u32) {
        let Some(listener) = self.listeners.get(index as usize) else {
            return;
        };
        let (Accept::Off, Some(open)) = (listener.accept, listener.fd.as_ref()) else {
            return;
        };
        let Swept { taken, left_by } = open.sweep();
        for fd in taken {
            self.accepted(index, fd);
        }
        match left_by {
            None => self.close_listener(index),
            Some(errno) if self.last_sweep => self.refuse_backlog(index, errno),
            Some(errno) => self.pause_accept(index, errno, SWEEP_RETRY),
        }
    }

    /// The descriptors ran out and so has the time: whoever is in the backlog is refused, and the
    /// report says so.
    fn refuse_backlog(&mut self, index: u32, errno: i32) {
        let error = std::io::Error::from_raw_os_error(errno);
        if let Some(listener) = self.listeners.get(index as usize) {
            self.refused.push(Straggler {
                kind: "listener".to_owned(),
                name: listener.address.to_string(),
                spawned_at: None,
                detail: format!(
                    "closed with clients in its backlog, who could not be accepted: {error}"
                ),
            });
        }
        self.close_listener(index);
    }

    /// Closes the socket.
    fn close_listener(&mut self, index: u32) {
        let Some(listener) = self.listeners.get_mut(index as usize) else {
            return;
        };
        drop(listener.fd.take());
        listener.drain = Drain::Done;
        self.wakers.append(&mut listener.wakers);
        self.forget_listener(index);
    }

    /// Drops a record nobody knows any more, in Running; a stop keeps it for the report.
    fn forget_listener(&mut self, index: u32) {
        let idle = self.draining.is_none()
            && self
                .listeners
                .get(index as usize)
                .is_some_and(|listener| listener.handles == 0 && listener.fd.is_none());
        if idle {
            self.listeners.remove(index as usize);
        }
    }

    /// Closes the sockets of all listeners without another look, for a core whose time is over.
    pub(crate) fn close_all_listeners(&mut self) {
        for (_, listener) in &mut self.listeners {
            if listener.accept == Accept::Off {
                drop(listener.fd.take());
            }
        }
    }
}

impl Listener {
    /// Whether its connections are reset by the drain. Who completes a handshake only to be reset
    /// loses nothing by being reset at once: there is no window.
    fn cuts(&self) -> bool {
        self.policy().is_some_and(|policy| policy.cuts())
    }

    /// Gives the handshakes under way their time, from `now_ns` on.
    fn open_window(&mut self, now_ns: u64) {
        let window_ns = 3 * self.handshake_ns;
        self.window_ns = window_ns.clamp(ns(WINDOW_MIN), ns(WINDOW_MAX));
        self.drain = Drain::Window {
            until_ns: now_ns + self.window_ns,
        };
    }
}

/// Deadlines.
impl Io {
    /// Resets every connection of `origin` that is not closed, and says how many there were.
    pub(crate) fn cut_all(&mut self, which: impl Fn(Origin) -> bool) -> u64 {
        let open: Vec<u32> = self
            .conns
            .iter()
            .filter(|(_, conn)| which(conn.origin) && !conn.stage.is_over())
            .map(|(index, _)| index as u32)
            .collect();
        for index in &open {
            self.cut(*index, End::Forced);
        }
        open.len() as u64
    }

    /// Cancels delayed spawns that are due after `deadline_ns`, and ends intervals. The spawns
    /// come back: their destructors are user code.
    pub(crate) fn end_late_timers(&mut self, deadline_ns: u64) -> Vec<Timer> {
        let deadline = tick(deadline_ns);
        let mut ended = self.wheel.extract(&mut |at, timer| match timer {
            Timer::Spawn(_) => at > deadline,
            Timer::Interval(_) => true,
            _ => false,
        });
        let mut spawns = Vec::new();
        for timer in ended.drain(..) {
            match timer {
                Timer::Interval(waker) => self.wakers.push(waker),
                other => {
                    self.delayed_spawns -= 1;
                    spawns.push(other);
                }
            }
        }
        spawns
    }
}
