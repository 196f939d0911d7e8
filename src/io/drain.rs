//! What a stop does to the sockets of one core, before any deadline.
//!
//! Listeners take their ways ([`sweep`](super::sweep)). Accepted connections are told that nothing
//! more will be asked of them ([`telling`](super::telling)). That goes in batches, so that
//! connections at work are not starved, and for listeners that want it spread over a window
//! ([`spread`](super::spread)).

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Io;
use super::conn::Origin;
use super::spread::Spread;
use super::tally::End;
use super::timer::{Timer, tick};
use crate::clock::ns;
use crate::config::{DRAIN_BATCH, FIRST_BYTE_TTL_MIN, RETRANSMISSION, SEE_ROUNDS, WINDOW_MIN};
use crate::report::Gate;
use crate::ring::port::Wait;

/// After how many timers a core that looks through all it has shows that it goes on.
pub(super) const TIMERS_BETWEEN: u64 = 1024;

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

    /// Nobody waits for a turn any more: all are cut.
    pub(super) fn forget_spread(&mut self) {
        self.spread.clear();
    }
}

/// How long to wait for a first byte (ns), by the window and the gate: the hop-count gate drops
/// what a client sends before the accept, and the client sends it again after one round trip and
/// 200 ms. Only the sum tells: 300 ms were too short for 89 of 1,103 clients 100 ms away.
pub(super) fn first_byte_wait_ns(window_ns: u64, gate: Gate) -> u64 {
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
        self.draining = Some(Box::new(Draining {
            started_ns: self.now_ns,
            idle_grace_ns: ns(idle_grace),
            first_byte_ns,
            late_first_byte_ns,
            to_tell,
            spread,
        }));
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
        self.step_listeners();
        self.call_in_turn();
        self.see_all();
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

    /// Takes the completions that are there, before connections are told, where some are to be: as long
    /// as there are any, nobody is known to be between requests. A core with short queues that is busy
    /// always has some at this place, and told nobody until the deadline cut them all.
    fn see_all(&mut self) {
        let is_wanted = |draining: &Draining| !draining.to_tell.is_empty();
        if !self.draining.as_deref().is_some_and(is_wanted) {
            return;
        }
        for _ in 0..SEE_ROUNDS {
            if !self.driver.has_unseen() {
                return;
            }
            self.reap();
            if self.driver.has_unseen() {
                // They did not fit their queue. An error is met again by the turn's own enter.
                let _later = self.driver.enter(Wait::No);
            }
        }
    }

    /// When the drain wants a turn, if nothing else brings one (ns).
    pub(crate) fn drain_wake_ns(&self) -> Option<u64> {
        let turn_ns = self.draining.as_ref().and_then(|d| d.spread.next_ns());
        self.window_ends_ns().into_iter().chain(turn_ns).min()
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
        self.steps += open.len() as u64;
        for index in &open {
            self.cut(*index, End::Forced);
        }
        open.len() as u64
    }

    /// Cancels delayed spawns that are due after `deadline_ns`, and ends intervals. The spawns
    /// come back: their destructors are user code. `goes_on` is called now and then.
    pub(crate) fn end_late_timers(&mut self, deadline_ns: u64, goes_on: &dyn Fn()) -> Vec<Timer> {
        let deadline = tick(deadline_ns);
        let mut looked = 0;
        let mut ended = self.wheel.extract(&mut |at, timer| {
            looked += 1;
            if looked % TIMERS_BETWEEN == 0 {
                goes_on();
            }
            match timer {
                Timer::Spawn(_) => at > deadline,
                Timer::Interval(_) => true,
                _ => false,
            }
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
