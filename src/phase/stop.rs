//! One stop under way: its instants, and the edges between its phases.
//!
//! Every edge goes through [`Stop::enter`], which closes the span of the phase that
//! is left, publishes the instants if they moved, and only then enters: no core ever
//! sees a phase without its budget.
#![forbid(unsafe_code)]

use crate::config::{CLOSE_FLOOR, Shutdown};
use crate::phase::instants::Instants;
use crate::phase::{Action, Phase, Span};
use std::time::Duration;

/// How a phase ended.
#[derive(Clone, Copy)]
enum EndedBy {
    /// What it waited for came.
    Goal,
    /// Its time was over.
    Deadline,
    /// A second signal, `Handle::force`, or a timeout of zero.
    Force,
}

/// A stop from its trigger on.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    /// The numbers the runtime was built with.
    config: Shutdown,
    /// What `instants` were computed from: `config`, or `config` within the time a
    /// call named.
    budget: Shutdown,
    /// Never `Running`; only ever moves forward.
    phase: Phase,
    /// In order, each no later than the next.
    instants: Instants,
    /// What the cores were told last; equal to `instants` after every step.
    published: Option<Instants>,
    /// Whether any hook was ever registered.
    hook_exists: bool,
    /// Whether the stop was forced: it is then never extended again, and a second
    /// force does nothing.
    forced: bool,
    /// Whether `Cut` was emitted.
    cut: bool,
    /// Whether `CutHooks` was emitted while a hook existed.
    hooks_cut: bool,
    /// Whether `GiveUp` was emitted.
    gave_up: bool,
    /// Time the process was suspended since the trigger.
    suspended_ns: u64,
    /// One for each phase entered but `Terminated`, in order; only the last is open.
    spans: Vec<Span>,
}

impl Stop {
    /// The first trigger: lays out the instants and enters the first phase. With a
    /// `limit` it is a force: there is no notice to give, and Draining is passed
    /// through, so that a stop that cuts has always told its cores to drain.
    pub(super) fn begin(
        now: u64,
        config: &Shutdown,
        budget: Shutdown,
        hook_exists: bool,
        limit: Option<Duration>,
        actions: &mut Vec<Action>,
    ) -> Stop {
        let noticed = budget.notice_ns() > 0;
        let mut stop = Stop {
            config: config.clone(),
            instants: Instants::planned(now, &budget, hook_exists),
            budget,
            phase: Phase::Running,
            published: None,
            hook_exists,
            forced: false,
            cut: false,
            hooks_cut: false,
            gave_up: false,
            suspended_ns: 0,
            spans: Vec::with_capacity(4),
        };
        match limit {
            Some(limit) => {
                stop.forced = true;
                let config = &stop.config;
                stop.instants.forced(now, Phase::Running, config, limit);
                stop.enter(now, Phase::Draining, EndedBy::Goal, actions);
                stop.cut(now, EndedBy::Force, actions);
            }
            None if noticed => stop.enter(now, Phase::Notice, EndedBy::Goal, actions),
            None => stop.enter(now, Phase::Draining, EndedBy::Goal, actions),
        }
        stop
    }

    /// Ends Notice or Draining at once and leaves `limit` for the rest. Only the
    /// first one counts.
    pub(super) fn force(&mut self, now: u64, limit: Duration, actions: &mut Vec<Action>) {
        if self.forced || self.phase == Phase::Terminated {
            return;
        }
        self.forced = true;
        self.instants.forced(now, self.phase, &self.config, limit);
        if self.phase <= Phase::Draining {
            self.cut(now, EndedBy::Force, actions);
        }
        self.publish(actions);
    }

    /// Gives the rest of the stop another budget. A forced stop is only shortened.
    pub(super) fn within(&mut self, now: u64, timeout: Duration, actions: &mut Vec<Action>) {
        if self.phase == Phase::Terminated {
            return;
        }
        if self.forced {
            let config = &self.config;
            self.instants.shortened(now, self.phase, config, timeout);
        } else if timeout.is_zero() {
            return self.force(now, CLOSE_FLOOR, actions);
        } else {
            self.budget = self.config.within(timeout);
            let budget = &self.budget;
            self.instants
                .budgeted(now, self.phase, budget, self.hook_exists);
        }
        self.publish(actions);
    }

    /// The first hook. Before Hooks its reserve is taken from Draining; in Hooks it
    /// has at least a turn.
    pub(super) fn first_hook(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.hook_exists {
            return;
        }
        self.hook_exists = true;
        if self.phase <= Phase::Draining {
            let hooks_ns = self.budget.reserves(true).hooks_ns;
            self.instants.reserved_for_hooks(now, hooks_ns);
        } else if self.phase == Phase::Hooks {
            self.instants.entered(now, self.phase, true);
        }
        self.publish(actions);
    }

    /// Every core is quiet, and no letter is under way.
    pub(super) fn all_quiet(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.phase == Phase::Draining {
            self.enter(now, Phase::Hooks, EndedBy::Goal, actions);
        }
    }

    /// Every hook has run, or none exists.
    pub(super) fn hooks_done(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.phase == Phase::Hooks {
            self.enter(now, Phase::Closing, EndedBy::Goal, actions);
        }
    }

    /// Every core has emptied its ring and its thread has ended.
    pub(super) fn all_closed(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.phase == Phase::Closing {
            self.enter(now, Phase::Terminated, EndedBy::Goal, actions);
        }
    }

    /// The process did not run for this long, until now.
    pub(super) fn suspended(&mut self, now: u64, for_ns: u64, actions: &mut Vec<Action>) {
        if self.phase == Phase::Terminated {
            return;
        }
        self.suspended_ns = self.suspended_ns.saturating_add(for_ns);
        self.instants.resumed(now, self.phase, self.hook_exists);
        self.publish(actions);
    }

    /// Ends every phase whose time is over. At most one after the other, and never
    /// both into Closing and out of it, because entering it gives it a turn.
    pub(super) fn tick(&mut self, now: u64, actions: &mut Vec<Action>) {
        while self.instants.end_of(self.phase).is_some_and(|at| at <= now) {
            match self.phase {
                Phase::Notice if now < self.instants.drain_deadline => {
                    self.enter(now, Phase::Draining, EndedBy::Deadline, actions);
                }
                Phase::Notice | Phase::Draining => self.cut(now, EndedBy::Deadline, actions),
                Phase::Hooks => self.cut_hooks(now, actions),
                Phase::Closing => self.give_up(now, actions),
                Phase::Running | Phase::Terminated => return,
            }
        }
    }

    /// The phase the stop is in.
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// The instants as they stand.
    pub(super) fn instants(&self) -> Instants {
        self.instants
    }

    /// When a tick would end the phase.
    pub(super) fn next_wake(&self) -> Option<u64> {
        self.instants.end_of(self.phase)
    }

    /// The phases so far.
    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whether `Cut` was emitted.
    #[cfg(test)]
    pub(super) fn was_cut(&self) -> bool {
        self.cut
    }

    /// Whether the stop was forced.
    #[cfg(test)]
    pub(super) fn was_forced(&self) -> bool {
        self.forced
    }

    /// Whether the hook deadline came before the hooks were done.
    #[cfg(test)]
    pub(super) fn hooks_were_cut(&self) -> bool {
        self.hooks_cut
    }

    /// Whether the hard deadline came before the cores had closed.
    #[cfg(test)]
    pub(super) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// Time the process was suspended since the trigger.
    pub(super) fn suspended_ns(&self) -> u64 {
        self.suspended_ns
    }

    /// Ends Notice or Draining with a cut.
    fn cut(&mut self, now: u64, by: EndedBy, actions: &mut Vec<Action>) {
        self.cut = true;
        self.instants.entered(now, Phase::Hooks, self.hook_exists);
        self.publish(actions);
        actions.push(Action::Cut);
        self.enter(now, Phase::Hooks, by, actions);
    }

    /// Ends Hooks with a cut. Where no hook exists there was nothing to wait for,
    /// and the span says so; the cores are told all the same, because a hook may
    /// just have been registered on one of them.
    fn cut_hooks(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.hooks_cut = self.hook_exists;
        actions.push(Action::CutHooks);
        let by = if self.hook_exists {
            EndedBy::Deadline
        } else {
            EndedBy::Goal
        };
        self.enter(now, Phase::Closing, by, actions);
    }

    /// Ends the stop with something still alive.
    fn give_up(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.gave_up = true;
        actions.push(Action::GiveUp);
        self.enter(now, Phase::Terminated, EndedBy::Deadline, actions);
    }

    /// Leaves the present phase and enters the next.
    fn enter(&mut self, now: u64, phase: Phase, left_by: EndedBy, actions: &mut Vec<Action>) {
        debug_assert!(phase > self.phase, "{} after {}", phase, self.phase);
        if let Some(span) = self.spans.last_mut() {
            span.end = Some(now);
            span.ended_by = left_by.name();
        }
        if phase != Phase::Terminated {
            self.spans.push(Span {
                phase,
                start: now,
                end: None,
                ended_by: "",
            });
        }
        self.phase = phase;
        self.instants.entered(now, phase, self.hook_exists);
        self.publish(actions);
        actions.push(Action::Enter(phase));
    }

    /// Tells the cores the instants, if they moved.
    fn publish(&mut self, actions: &mut Vec<Action>) {
        if self.published != Some(self.instants) {
            self.published = Some(self.instants);
            actions.push(Action::Publish(self.instants));
        }
    }
}

impl EndedBy {
    /// The word of the report.
    const fn name(self) -> &'static str {
        match self {
            EndedBy::Goal => "goal",
            EndedBy::Deadline => "deadline",
            EndedBy::Force => "force",
        }
    }
}
