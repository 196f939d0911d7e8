//! The phases of a stop, and the machine that steps through them.
//!
//! Pure: it reads no clock and makes no call. The coordinator feeds it what
//! happened and the time (`now`, nanoseconds of the monotonic clock), and carries
//! out the actions it gets back, in their order. The rules are those of the
//! contract; each is a test in `phase/tests.rs`.
//!
//! ```text
//!                 Running
//!                    │ Trigger, Signal (1st), Within(d)
//!          ┌─────────┴──────────┐                    Force, or a timeout of 0:
//!          │ notice > 0         │ notice = 0         Enter(Draining) and the cut
//!          ▼                    ▼                    in one step
//!       Notice ──── Tick ───▶ Draining
//!          │   at notice_end    │       │
//!          │                    │       │ AllQuiet
//!          │ Tick at            │ same  │
//!          │ drain_deadline,    │       │
//!          │ Force, Signal (2nd)│       │
//!          └───────┬────────────┘       │
//!              Cut │                    │
//!                  └──────▶ Hooks ◀─────┘
//!                             │ HooksDone, or Tick at hook_deadline: CutHooks
//!                             ▼
//!                          Closing
//!                             │ AllClosed, or Tick at hard_deadline: GiveUp
//!                             ▼
//!                         Terminated
//!
//!   without leaving the phase:  Within (other instants), FirstHook (drain_deadline
//!   earlier), Suspended (a turn for everybody), Force in Hooks and Closing (less
//!   time).  In every phase:  Signal (3rd and later): Exit.
//! ```
//!
//! Only a `Tick` ends a phase by its deadline, so the caller decides the order in
//! which it tells things: what it knows first (`Suspended`, then `AllQuiet` and its
//! like), the tick last. An input that does not belong to the phase is ignored, not
//! remembered: whoever counts quiet cores asks again after each `Enter`.
//!
//! A phase that is entered late has a turn (50 ms) all the same: Hooks where a hook
//! exists, and Closing always. Only where the reserves are smaller than that, because
//! the timeout is tiny or `quiet` takes all of it, can this move the hard deadline,
//! by two turns at the most.
#![forbid(unsafe_code)]

mod escalation;
mod instants;
mod stop;

pub(crate) use instants::Instants;

use crate::config::{CLOSE_FLOOR, FORCE_BUDGET, Shutdown};
use escalation::{Escalation, Rung};
use std::fmt;
use std::time::Duration;
use stop::Stop;

/// Where a runtime is in its life. Phases only ever move forward, in this order;
/// `Notice` is left out where none is configured, and `Draining` where a force ends
/// the notice.
///
/// # Examples
///
/// ```
/// use evenfall::Phase;
///
/// assert!(Phase::Draining < Phase::Hooks);
/// assert_eq!(Phase::Closing.to_string(), "closing");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// No stop has been asked for.
    Running = 0,
    /// Serving as before, but not ready any more: load balancers may look away.
    Notice = 1,
    /// No new connections; what was begun is finished.
    Draining = 2,
    /// The hooks run.
    Hooks = 3,
    /// Nothing new is taken; operations end, buffers come back, sockets close.
    Closing = 4,
    /// The cores have ended.
    Terminated = 5,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A stop was asked for, or its cause came about: an API call, the end of the
    /// last main future, a core that failed.
    Trigger,
    /// A signal was delivered.
    Signal(i32),
    /// A stop within this time was asked for.
    Within(Duration),
    /// A forced stop was asked for.
    Force,
    /// The first hook of the runtime was registered.
    FirstHook,
    /// All cores are quiet together. Counts in Draining.
    AllQuiet,
    /// All hooks have run. Counts in Hooks.
    HooksDone,
    /// All cores have ended. Counts in Closing.
    AllClosed,
    /// The process was suspended for so many nanoseconds, until now. Told before
    /// the tick that would cut for it.
    Suspended(u64),
    /// Time has passed.
    Tick,
}

/// What the coordinator has to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Store the instants where the cores look, and set the dead-man. Always before
    /// the `Enter` or `Cut` they belong to.
    Publish(Instants),
    /// Tell the cores and the subscribers the phase.
    Enter(Phase),
    /// Cores name their stragglers, cut connections, drop essential tasks.
    Cut,
    /// A hook that still runs has overrun.
    CutHooks,
    /// The hard deadline: return with what there is, naming what is left.
    GiveUp,
    /// Leave the process with this code, now.
    Exit(i32),
}

/// One phase of a stop, for the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Which; never `Running` or `Terminated`.
    pub(crate) phase: Phase,
    /// When it was entered, in nanoseconds.
    pub(crate) start: u64,
    /// When it was left; `None` while it lasts.
    pub(crate) end: Option<u64>,
    /// `goal`, `deadline` or `force`; empty while it lasts.
    pub(crate) ended_by: &'static str,
}

/// The stop of one runtime, from before it was asked for until it is over.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The numbers the runtime was built with.
    config: Shutdown,
    /// Whether a hook was registered while Running; the stop counts on from it.
    hook_exists: bool,
    /// Signals so far, in any phase.
    escalation: Escalation,
    /// The latest `now` seen. Time does not go back: clock readings of different
    /// sources may arrive out of order.
    latest: u64,
    /// `None` is Running.
    stop: Option<Stop>,
}

impl Phase {
    /// The name in reports, lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Notice => "notice",
            Phase::Draining => "draining",
            Phase::Hooks => "hooks",
            Phase::Closing => "closing",
            Phase::Terminated => "terminated",
        }
    }

    /// The phase with this number, for state kept in an atomic.
    pub(crate) const fn from_u8(number: u8) -> Option<Phase> {
        match number {
            0 => Some(Phase::Running),
            1 => Some(Phase::Notice),
            2 => Some(Phase::Draining),
            3 => Some(Phase::Hooks),
            4 => Some(Phase::Closing),
            5 => Some(Phase::Terminated),
            _ => None,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Machine {
    /// A machine in Running.
    pub(crate) fn new(config: &Shutdown) -> Machine {
        Machine {
            config: config.clone(),
            hook_exists: false,
            escalation: Escalation::default(),
            latest: 0,
            stop: None,
        }
    }

    /// Takes what happened at `now`, and gives what is to be done about it.
    #[must_use]
    pub(crate) fn step(&mut self, now: u64, input: Input) -> Vec<Action> {
        let now = self.latest.max(now);
        self.latest = now;
        let mut actions = Vec::new();
        match input {
            Input::Trigger => self.trigger(now, &mut actions),
            Input::Signal(signal) => self.signal(now, signal, &mut actions),
            Input::Within(timeout) => self.within(now, timeout, &mut actions),
            Input::Force => self.force(now, &mut actions),
            Input::FirstHook => self.first_hook(now, &mut actions),
            Input::AllQuiet => self.during(|stop| stop.all_quiet(now, &mut actions)),
            Input::HooksDone => self.during(|stop| stop.hooks_done(now, &mut actions)),
            Input::AllClosed => self.during(|stop| stop.all_closed(now, &mut actions)),
            Input::Suspended(ns) => self.during(|stop| stop.suspended(now, ns, &mut actions)),
            Input::Tick => self.during(|stop| stop.tick(now, &mut actions)),
        }
        actions
    }

    /// Where the runtime is.
    pub(crate) fn phase(&self) -> Phase {
        self.stop.as_ref().map_or(Phase::Running, Stop::phase)
    }

    /// When the next tick is due; in the past where it is overdue. `None` while
    /// Running and when Terminated: nothing happens by itself.
    pub(crate) fn next_wake(&self) -> Option<u64> {
        self.stop.as_ref().and_then(Stop::next_wake)
    }

    /// The instants of the stop; `None` while Running.
    pub(crate) fn instants(&self) -> Option<Instants> {
        self.stop.as_ref().map(Stop::instants)
    }

    /// The phases from the trigger on.
    pub(crate) fn spans(&self) -> &[Span] {
        self.stop.as_ref().map_or(&[], Stop::spans)
    }

    /// Whether Notice or Draining ended in a cut.
    #[cfg(test)]
    pub(crate) fn was_cut(&self) -> bool {
        self.stop.as_ref().is_some_and(Stop::was_cut)
    }

    /// Whether the stop was forced: by a second signal, a call, or a timeout of 0.
    #[cfg(test)]
    pub(crate) fn was_forced(&self) -> bool {
        self.stop.as_ref().is_some_and(Stop::was_forced)
    }

    /// Whether a hook may have been cut by the hook deadline.
    #[cfg(test)]
    pub(crate) fn hooks_were_cut(&self) -> bool {
        self.stop.as_ref().is_some_and(Stop::hooks_were_cut)
    }

    /// Whether the hard deadline came before all cores had closed.
    #[cfg(test)]
    pub(crate) fn gave_up(&self) -> bool {
        self.stop.as_ref().is_some_and(Stop::gave_up)
    }

    /// For how long the process was suspended since the trigger, in nanoseconds.
    pub(crate) fn suspended_ns(&self) -> u64 {
        self.stop.as_ref().map_or(0, Stop::suspended_ns)
    }

    /// The first trigger starts the stop; it needs no second.
    fn trigger(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.stop.is_none() {
            self.begin(now, self.config.clone(), None, actions);
        }
    }

    /// A signal asks, forces, or leaves; one close to the last counted is the same.
    fn signal(&mut self, now: u64, signal: i32, actions: &mut Vec<Action>) {
        match self.escalation.count(now) {
            None => {}
            Some(Rung::Ask) => self.trigger(now, actions),
            Some(Rung::Force) => self.force(now, actions),
            Some(Rung::Leave) => actions.push(Action::Exit(signal.saturating_add(128))),
        }
    }

    /// Starts a stop within a time, or gives the present one that time from now on.
    fn within(&mut self, now: u64, timeout: Duration, actions: &mut Vec<Action>) {
        match &mut self.stop {
            Some(stop) => stop.within(now, timeout, actions),
            None => self.begin(now, self.config.within(timeout), None, actions),
        }
    }

    /// Ends Draining now, also where nothing had begun.
    fn force(&mut self, now: u64, actions: &mut Vec<Action>) {
        match &mut self.stop {
            Some(stop) => stop.force(now, FORCE_BUDGET, actions),
            None => self.begin(now, self.config.clone(), Some(FORCE_BUDGET), actions),
        }
    }

    /// From now on time is kept for hooks.
    fn first_hook(&mut self, now: u64, actions: &mut Vec<Action>) {
        match &mut self.stop {
            Some(stop) => stop.first_hook(now, actions),
            None => self.hook_exists = true,
        }
    }

    /// What means something during a stop only.
    fn during(&mut self, edge: impl FnOnce(&mut Stop)) {
        if let Some(stop) = &mut self.stop {
            edge(stop);
        }
    }

    /// Leaves Running. A timeout of zero is a force that has one turn.
    fn begin(
        &mut self,
        now: u64,
        budget: Shutdown,
        limit: Option<Duration>,
        actions: &mut Vec<Action>,
    ) {
        let limit = if budget.timeout_ns() == 0 {
            Some(CLOSE_FLOOR)
        } else {
            limit
        };
        let hook_exists = self.hook_exists;
        let stop = Stop::begin(now, &self.config, budget, hook_exists, limit, actions);
        self.stop = Some(stop);
    }
}

#[cfg(test)]
mod tests;
