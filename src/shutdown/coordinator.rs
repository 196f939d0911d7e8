//! The coordinator: hears, steps the phase machine, orders.

#![forbid(unsafe_code)]

mod agreement;
mod hearing;
mod last_words;

use std::os::fd::AsFd;
use std::time::Duration;

use crate::clock::ns;
use crate::config::HEARTBEAT;
use crate::io::listening::TurnedAway;
use crate::phase::{Action, Input, Machine, Phase};
use crate::report::{Report, Straggler, Trigger};
use crate::ring::sys::dead_man::DeadMan;
use crate::ring::sys::event::wait_readable;
use crate::ring::sys::signal::exit_now;
use crate::shared::Shared;
use crate::shutdown::autopsy::Asked;
use crate::shutdown::signals::Signals;
use crate::shutdown::stalls::StallWatch;
use crate::shutdown::watch::Watch;
use crate::sync::Arc;

/// See the module.
pub(crate) struct Coordinator {
    /// What it shares with the cores.
    pub(super) shared: Arc<Shared>,
    /// The signals, if this runtime has them.
    signals: Option<Signals>,
    /// Ends the process if this does not. Armed for the hard deadline while there is one.
    dead_man: Option<DeadMan>,
    /// Decides.
    pub(super) machine: Machine,
    /// What each core's progress was when last looked at.
    pub(super) seen: Vec<u32>,
    /// The watch over each core. Used during a stop only.
    pub(super) watches: Vec<Watch>,
    /// The watch over long turns while nothing stops, where it was asked for.
    pub(super) stalls: Option<StallWatch>,
    /// Who was in the backlogs of cores that were stuck, with the core.
    pub(super) turned_away: Vec<(usize, TurnedAway)>,
    /// Who was in the backlogs that no core had taken.
    pub(super) untaken: Vec<TurnedAway>,
    /// What began and hurried the stop, and when (ns).
    pub(super) triggers: Vec<(Trigger, u64)>,
    /// When the coordinator last looked at the clock (ns).
    looked_ns: u64,
    /// Whether the machine knows that there is a hook.
    pub(super) knows_hook: bool,
    /// The core to which the hooks of the process were sent, once they were.
    process_hooks_on: Option<usize>,
    /// What was held when the drain was cut.
    pub(super) held: Vec<Straggler>,
    /// For each core, how far it was when its last words were asked for. Empty before.
    pub(super) asked: Vec<Asked>,
}

/// What keeps watch over the process until the cores' threads are joined: their last destructors
/// are a user's, and may hang, or send a signal.
pub(crate) struct Keepers {
    /// Until this is dropped a signal that nobody reads any more ends nobody. Dropped before the
    /// report is announced: who has waited for that may want the signals for a runtime of its own.
    pub(crate) signals: Option<Signals>,
    /// Dropped last.
    pub(crate) dead_man: Option<DeadMan>,
}

impl Coordinator {
    /// A coordinator for a runtime that was just built.
    pub(crate) fn new(
        shared: Arc<Shared>,
        signals: Option<Signals>,
        dead_man: Option<DeadMan>,
        stall_after: Option<Duration>,
    ) -> Coordinator {
        let cores = shared.stations.len();
        Coordinator {
            machine: Machine::new(&shared.config),
            seen: vec![0; cores],
            watches: vec![Watch::default(); cores],
            stalls: stall_after.map(|after| StallWatch::new(after, cores)),
            turned_away: Vec::new(),
            untaken: Vec::new(),
            triggers: Vec::new(),
            looked_ns: shared.clock.now_ns(),
            knows_hook: false,
            process_hooks_on: None,
            held: Vec::new(),
            asked: Vec::new(),
            shared,
            signals,
            dead_man,
        }
    }

    /// Coordinates until every core is gone or given up.
    pub(crate) fn run(mut self) -> (Report, Keepers) {
        if let Some(signals) = &mut self.signals {
            signals.hear();
        }
        while !self.step() {
            self.wait();
        }
        self.wait_for_last_words();
        let keepers = Keepers {
            signals: self.signals.take(),
            dead_man: self.dead_man.take(),
        };
        (self.report(), keepers)
    }

    /// Stops at once, without a run: for a runtime that is dropped.
    pub(crate) fn abandon(mut self) -> (Report, Keepers) {
        let now_ns = self.shared.clock.now_ns();
        self.input(now_ns, Input::Force);
        self.run()
    }

    /// Hears everything that is to be heard and does what follows. Whether all is over.
    fn step(&mut self) -> bool {
        let now_ns = self.shared.clock.now_ns();
        self.notice_suspension(now_ns);
        self.hear_signals(now_ns);
        self.hear_requests(now_ns);
        self.watch_turns(now_ns);
        self.watch_cores(now_ns);
        self.hear_cores(now_ns);
        self.input(now_ns, Input::Tick);
        self.machine.phase() == Phase::Terminated
    }

    /// Steps the machine and carries out what it says.
    fn input(&mut self, now_ns: u64, input: Input) {
        let actions = self.machine.step(now_ns, input);
        if actions.is_empty() {
            return;
        }
        let orders = &self.shared.orders;
        for action in actions {
            match action {
                Action::Publish(instants) => {
                    orders.publish(&instants);
                    if let Some(dead_man) = &self.dead_man {
                        let left_ns = instants.hard_deadline.saturating_sub(now_ns);
                        dead_man.arm(Duration::from_nanos(left_ns));
                    }
                }
                Action::Enter(phase) => {
                    if phase == Phase::Closing {
                        // No core takes one any more: who waits there is told so.
                        self.untaken = self.shared.untaken.turn_away();
                    }
                    orders.enter(phase);
                    self.shared.board.enter(phase);
                    if phase == Phase::Notice || phase == Phase::Draining {
                        tell_service_manager();
                    }
                }
                Action::Cut => {
                    let is_stuck = |core: usize| self.watches[core].is_stuck();
                    self.held = self.shared.guards.close(is_stuck);
                    orders.cut();
                }
                Action::CutHooks => orders.cut_hooks(),
                Action::GiveUp => orders.give_up(),
                Action::Exit(code) => exit_now(code),
            }
        }
        self.shared.ring_all();
    }

    /// Sleeps until something is to be heard or the machine wants a tick.
    fn wait(&mut self) {
        let now_ns = self.shared.clock.now_ns();
        let limit = self
            .wake_ns(now_ns)
            .map(|at_ns| Duration::from_nanos(at_ns.saturating_sub(now_ns)));
        let mut polled = vec![self.shared.bell.as_fd()];
        if let Some(signals) = &self.signals {
            polled.extend(signals.polled());
        }
        if wait_readable(&polled, limit).is_err() {
            // ENOMEM, at the worst: the next round tries again, and must not spin.
            std::thread::sleep(HEARTBEAT);
        }
        self.shared.bell.clear();
    }

    /// When it looks again although nothing rings (ns); `None` if it does not.
    fn wake_ns(&self, now_ns: u64) -> Option<u64> {
        // An idle process does not wake, unless it was asked to watch its cores.
        let heartbeat = match &self.stalls {
            _ if self.machine.phase() != Phase::Running => Some(HEARTBEAT),
            stalls => stalls.as_ref().map(StallWatch::period),
        };
        let heartbeat = heartbeat.map(|period| now_ns.saturating_add(ns(period)));
        let guards = self
            .guards_quiet_at_ns()
            .filter(|at_ns| *at_ns > now_ns && self.machine.phase() == Phase::Draining);
        let tick = self.machine.next_wake();
        heartbeat.into_iter().chain(tick).chain(guards).min()
    }
}

/// Tells the service manager, if there is one (systemd's NOTIFY_SOCKET), that the stop has begun.
fn tell_service_manager() {
    // Nobody to tell, or nobody who listens: the stop goes on either way.
    let _nobody = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
}

#[cfg(test)]
mod tests;
