//! The instants of a stop, and the arithmetic that moves them.
//!
//! Always `start <= notice_end <= drain_deadline <= hook_deadline <=
//! hard_deadline`. Whoever moves one keeps the order: what is moved later is moved
//! from the far end, and [`Instants::settle`] pulls the near ones in afterwards. An
//! instant of a phase that is over has no effect any more and only follows.
#![forbid(unsafe_code)]

use crate::config::{CLOSE_FLOOR, Shutdown, nanos};
use crate::phase::Phase;
use std::time::Duration;

/// One turn, in nanoseconds: what a phase has before it is cut.
const TURN_NS: u64 = nanos(CLOSE_FLOOR);

/// When what ends, in nanoseconds of the monotonic clock, and the quiet period that
/// goes with it. Published to the cores before the phase they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instants {
    /// The trigger.
    pub(crate) start: u64,
    /// The end of Notice; `start` without one.
    pub(crate) notice_end: u64,
    /// The end of Draining: stragglers are named and cut.
    pub(crate) drain_deadline: u64,
    /// The end of Hooks: a hook that runs is cut.
    pub(crate) hook_deadline: u64,
    /// The end of the stop, whatever is left. The dead-man counts from here.
    pub(crate) hard_deadline: u64,
    /// Quiescence that ends Draining, counted from `start` at the earliest. A
    /// duration: it travels with the instants because one call changes both.
    pub(crate) quiet_ns: u64,
}

impl Instants {
    /// The instants of a stop that begins at `start` with this budget.
    pub(super) fn planned(start: u64, budget: &Shutdown, hook_exists: bool) -> Instants {
        let mut instants = Instants {
            start,
            notice_end: start.saturating_add(budget.notice_ns()),
            drain_deadline: 0,
            hook_deadline: 0,
            hard_deadline: 0,
            quiet_ns: budget.quiet_ns(),
        };
        instants.spend_from(start, budget, hook_exists);
        instants
    }

    /// Computes everything anew from a budget that begins `now`, during `phase`.
    pub(super) fn budgeted(
        &mut self,
        now: u64,
        phase: Phase,
        budget: &Shutdown,
        hook_exists: bool,
    ) {
        let before = *self;
        self.quiet_ns = budget.quiet_ns();
        self.spend_from(now, budget, hook_exists);
        if phase > Phase::Draining {
            self.drain_deadline = before.drain_deadline;
        }
        if phase > Phase::Hooks {
            self.hook_deadline = before.hook_deadline;
        }
        self.settle();
        if phase == Phase::Notice {
            // A notice that ate the whole of a shortened budget would end in a cut.
            let half = self.drain_deadline.saturating_sub(now) / 2;
            self.notice_end = self.notice_end.min(now.saturating_add(half));
        }
    }

    /// Makes `now` the drain deadline and `limit` the budget of what is left, which
    /// is a turn at the least. For the first call only: it may move the hard
    /// deadline later, and a second one would do so again.
    pub(super) fn forced(&mut self, now: u64, phase: Phase, config: &Shutdown, limit: Duration) {
        let latest = now.saturating_add(nanos(limit));
        self.hard_deadline = self.hard_deadline.min(latest).max(a_turn_after(now));
        self.spend_forced(now, phase, config);
    }

    /// Brings the hard deadline of a forced stop nearer, never further away.
    pub(super) fn shortened(&mut self, now: u64, phase: Phase, config: &Shutdown, limit: Duration) {
        let latest = now.saturating_add(nanos(limit)).max(a_turn_after(now));
        self.hard_deadline = self.hard_deadline.min(latest);
        self.spend_forced(now, phase, config);
    }

    /// Makes room for a first hook: Draining ends earlier, never in the past.
    pub(super) fn reserved_for_hooks(&mut self, now: u64, hooks_ns: u64) {
        let earlier = self.hook_deadline.saturating_sub(hooks_ns).max(now);
        self.drain_deadline = self.drain_deadline.min(earlier);
        self.settle();
    }

    /// Gives the phase that runs, and those after it, a turn from `now` on.
    pub(super) fn resumed(&mut self, now: u64, phase: Phase, hook_exists: bool) {
        let mut closing_from = now;
        if phase <= Phase::Draining {
            self.drain_deadline = self.drain_deadline.max(a_turn_after(now));
            let hooks_from = self.drain_deadline;
            let hooks_end = if hook_exists {
                a_turn_after(hooks_from)
            } else {
                hooks_from
            };
            self.hook_deadline = self.hook_deadline.max(hooks_end);
            closing_from = self.hook_deadline;
        } else if phase == Phase::Hooks {
            self.hook_deadline = self.hook_deadline.max(a_turn_after(now));
            closing_from = self.hook_deadline;
        }
        self.hard_deadline = self.hard_deadline.max(a_turn_after(closing_from));
    }

    /// Gives a phase that is being entered at least one turn before its cut: a hook
    /// that is ready can finish, and what is ours can be closed. Where the reserves
    /// hold a turn each, as the default ones of half a second do, nothing moves.
    pub(super) fn entered(&mut self, now: u64, phase: Phase, hook_exists: bool) {
        if phase == Phase::Hooks && hook_exists {
            self.hook_deadline = self.hook_deadline.max(a_turn_after(now));
            self.hard_deadline = self.hard_deadline.max(self.hook_deadline);
        } else if phase == Phase::Closing {
            self.hard_deadline = self.hard_deadline.max(a_turn_after(now));
        }
    }

    /// When this phase ends at the latest.
    pub(super) fn end_of(&self, phase: Phase) -> Option<u64> {
        match phase {
            Phase::Notice => Some(self.notice_end),
            Phase::Draining => Some(self.drain_deadline),
            Phase::Hooks => Some(self.hook_deadline),
            Phase::Closing => Some(self.hard_deadline),
            Phase::Running | Phase::Terminated => None,
        }
    }

    /// Lays the deadlines out, a budget that begins at `from`.
    fn spend_from(&mut self, from: u64, budget: &Shutdown, hook_exists: bool) {
        let timeout_ns = budget.timeout_ns();
        let reserves = budget.reserves(hook_exists);
        let hooks_end = from.saturating_add(timeout_ns - reserves.close_ns);
        self.hard_deadline = from.saturating_add(timeout_ns.max(TURN_NS));
        self.hook_deadline = hooks_end;
        self.drain_deadline = hooks_end.saturating_sub(reserves.hooks_ns);
        self.settle();
    }

    /// Ends Draining now and divides what is left between Hooks and Closing. Hooks
    /// lose by it, or keep what they had: a force never lengthens anything.
    fn spend_forced(&mut self, now: u64, phase: Phase, config: &Shutdown) {
        if phase <= Phase::Hooks {
            let left_ns = self.hard_deadline.saturating_sub(now);
            let budget = config.within(Duration::from_nanos(left_ns));
            let close_ns = budget.reserves(true).close_ns.max(TURN_NS);
            let hooks_end = self.hard_deadline - close_ns.min(left_ns);
            self.hook_deadline = self.hook_deadline.min(hooks_end).max(now);
        }
        if phase <= Phase::Draining {
            self.drain_deadline = now;
        }
        self.settle();
    }

    /// Pulls what must not be later than its successor in to it.
    fn settle(&mut self) {
        self.hook_deadline = self.hook_deadline.min(self.hard_deadline);
        self.drain_deadline = self.drain_deadline.min(self.hook_deadline);
        self.notice_end = self.notice_end.min(self.drain_deadline);
    }
}

/// The end of a turn that begins at `now`.
fn a_turn_after(now: u64) -> u64 {
    now.saturating_add(TURN_NS)
}
