//! The coordinator: hears, steps the phase machine, orders.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::Duration;

use crate::clock::ns;
use crate::config::{HEARTBEAT, LAST_WORDS, OLD_TURN_SEEN, SIGNALS_AT_ONCE, SUSPENSION_MIN};
use crate::hooks::unrun;
use crate::io::listening::TurnedAway;
use crate::phase::{Action, Input, Machine, Phase};
use crate::report::{Report, Straggler, Trigger, TriggerKind, ms_from};
use crate::ring::sys::dead_man::DeadMan;
use crate::ring::sys::event::wait_readable;
use crate::ring::sys::signal::exit_now;
use crate::ring::sys::thread;
use crate::shared::{Request, Shared, Station, progress};
use crate::shutdown::autopsy::{self, Asked};
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

    /// Cores that were given up find that order at their next turn and leave their report. One
    /// that does not in this time is in the middle of a turn that does not end: it is stuck. But
    /// one that had no processor has not been asked yet, and is given that time once more; unless it
    /// had the time of a whole stuck turn before.
    fn wait_for_last_words(&mut self) {
        self.ask_for_last_words();
        if self.all_leave_within_last_words() {
            return;
        }
        let mut stations = self.shared.stations.iter().zip(&self.asked);
        if stations.any(|(station, asked)| !is_gone(station) && asked.is_starved(station)) {
            let _all = self.all_leave_within_last_words();
        }
    }

    /// Notes how far each core is whose last words are waited for. One that is gone has none left,
    /// and no thread: to look it up took a tenth of a stop of nothing, and might find another's.
    fn ask_for_last_words(&mut self) {
        let ask = |(station, watch): (&Station, &Watch)| match is_gone(station) || watch.is_stuck()
        {
            true => Asked::default(),
            false => Asked::now(station),
        };
        let stations = self.shared.stations.iter();
        self.asked = stations.zip(&self.watches).map(ask).collect();
    }

    /// Waits for the last words of every core. Whether all came.
    fn all_leave_within_last_words(&self) -> bool {
        let until_ns = self.shared.clock.now_ns() + ns(LAST_WORDS);
        loop {
            if self.shared.stations.iter().all(is_gone) {
                return true;
            }
            let left_ns = until_ns.saturating_sub(self.shared.clock.now_ns());
            if left_ns == 0 {
                return false;
            }
            let left = Duration::from_nanos(left_ns);
            // An error here only makes the wait a busy one, and it ends by the clock.
            let _again = wait_readable(&[self.shared.bell.as_fd()], Some(left));
            self.shared.bell.clear();
        }
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

    /// A process that was stopped and continued finds its deadlines past. It is no fault of the
    /// cores: each phase gets a turn before it is cut.
    fn notice_suspension(&mut self, now_ns: u64) {
        let slept_ns = now_ns.saturating_sub(self.looked_ns);
        self.looked_ns = now_ns;
        if let Some(stalls) = &mut self.stalls {
            if slept_ns > ns(stalls.period()) + ns(SUSPENSION_MIN) {
                stalls.resume(now_ns);
            }
        }
        let stopping = self.machine.phase() != Phase::Running;
        if stopping && slept_ns > ns(HEARTBEAT) + ns(SUSPENSION_MIN) {
            let lost_ns = slept_ns - ns(HEARTBEAT);
            self.watches
                .iter_mut()
                .for_each(|watch| watch.resume(now_ns));
            self.input(now_ns, Input::Suspended(lost_ns));
        }
    }

    /// Reads the signals that are there.
    fn hear_signals(&mut self, now_ns: u64) {
        for _ in 0..SIGNALS_AT_ONCE {
            let Some(came) = self.signals.as_ref().and_then(Signals::next) else {
                return;
            };
            let pid = (came.pid != 0).then_some(came.pid);
            self.triggers
                .push((Trigger::signal(came.signal, pid, 0.0), now_ns));
            self.input(now_ns, Input::Signal(came.signal));
            self.bound_triggers();
        }
    }

    /// Takes what handles have asked for.
    fn hear_requests(&mut self, now_ns: u64) {
        for request in self.shared.take_requests() {
            let (kind, input) = match request {
                Request::Shutdown => (TriggerKind::Api, Input::Trigger),
                Request::Within(limit) => (TriggerKind::Api, Input::Within(limit)),
                Request::Force => (TriggerKind::Force, Input::Force),
            };
            self.triggers.push((Trigger::new(kind, 0.0), now_ns));
            self.input(now_ns, input);
            self.bound_triggers();
        }
    }

    /// A storm of triggers is reported by its first ones.
    fn bound_triggers(&mut self) {
        self.triggers.truncate(crate::config::TRIGGERS_KEPT);
    }

    /// Looks for turns that are too long, where that was asked for.
    fn watch_turns(&mut self, now_ns: u64) {
        let running = self.machine.phase() == Phase::Running;
        if let Some(stalls) = &mut self.stalls {
            for event in stalls.look(now_ns, &self.shared.stations, running) {
                self.shared.board.stalls.push(event);
            }
        }
    }

    /// Looks at each core's heartbeat.
    fn watch_cores(&mut self, now_ns: u64) {
        if self.machine.phase() == Phase::Running {
            return;
        }
        let stuck_after_ns = self.shared.config.stuck_after_ns();
        // Before Draining a core that is stuck may yet serve who waits for it.
        let drains = self.machine.phase() >= Phase::Draining;
        let start_ns = self.machine.instants().map_or(0, |instants| instants.start);
        let stations = self.shared.stations.iter().enumerate();
        for ((core, station), watch) in stations.zip(&mut self.watches) {
            let turn_ns = station.pulse.turn_ns();
            let cpu_ns = || station.pulse.thread().map_or(0, thread::cpu_ns_of);
            watch.weigh(now_ns, turn_ns, cpu_ns, || autopsy::is_ready(station));
            // Nobody looked before the stop: the process may have been suspended until just now, in
            // the middle of a turn that has looked long ever since.
            let is_older = turn_ns.is_some_and(|began_ns| began_ns < start_ns);
            let seen_for = if is_older { OLD_TURN_SEEN } else { HEARTBEAT };
            if watch.look(now_ns, turn_ns, stuck_after_ns, ns(seen_for)) && drains {
                let away = station.listening.turn_away();
                let away = away.into_iter().filter(|away| away.connections > 0);
                self.turned_away.extend(away.map(|away| (core, away)));
            }
        }
    }

    /// Looks at how far each core is.
    fn hear_cores(&mut self, now_ns: u64) {
        let mut new = 0;
        for (station, seen) in self.shared.stations.iter().zip(&mut self.seen) {
            let bits = station.progress();
            new |= bits & !*seen;
            *seen = bits;
        }
        let has_hook = new & progress::HAS_HOOK != 0 || self.shared.process_hooks.ever_added();
        if has_hook && !self.knows_hook {
            self.knows_hook = true;
            self.input(now_ns, Input::FirstHook);
        }
        self.hear_ends(now_ns, new);
        // In this order: no guard is taken after the last look at the cores.
        if self.machine.phase() == Phase::Draining
            && self.guards_are_quiet(now_ns)
            && self.all_quiet()
            && self.shared.guards.close_if_free()
        {
            self.leave_out_stuck();
            self.input(now_ns, Input::AllQuiet);
        }
        if self.machine.phase() == Phase::Hooks && self.all(progress::HOOKS_DONE) {
            self.run_process_hooks();
            if self.shared.process_hooks.are_done() {
                self.input(now_ns, Input::HooksDone);
            }
        }
        if self.all(progress::GONE) {
            self.input(now_ns, Input::AllClosed);
        }
    }

    /// Tells the cores that are stuck that the others leave Draining without them.
    fn leave_out_stuck(&self) {
        for (station, watch) in self.shared.stations.iter().zip(&self.watches) {
            if watch.is_stuck() {
                station.leave_out();
            }
        }
    }

    /// When no guard will have been held for the quiet period (ns); `None` while one is held.
    fn guards_quiet_at_ns(&self) -> Option<u64> {
        let quiet_ns = self.machine.instants()?.quiet_ns;
        let released_ns = self.shared.guards.released_ns()?;
        // With none ever taken there is no period to wait for.
        Some(match released_ns {
            0 => 0,
            _ => released_ns.saturating_add(quiet_ns),
        })
    }

    /// Whether no guard has been held for the quiet period.
    fn guards_are_quiet(&self, now_ns: u64) -> bool {
        self.guards_quiet_at_ns()
            .is_some_and(|at_ns| now_ns >= at_ns)
    }

    /// Sends the hooks of the process to the lowest core that lives; and those that are left to the
    /// next one, should that core fail.
    fn run_process_hooks(&mut self) {
        let is_gone = |core: usize| self.seen[core] & progress::GONE != 0;
        let has_them = self.process_hooks_on.is_some_and(|core| !is_gone(core));
        if has_them || self.shared.process_hooks.are_done() {
            return;
        }
        let start_ns = self.machine.instants().map_or(0, |instants| instants.start);
        let at_ms = ms_from(start_ns, self.shared.clock.now_ns());
        self.shared.process_hooks.note_unended(at_ms);
        for (core, station) in self.shared.stations.iter().enumerate() {
            if is_gone(core) || self.watches[core].is_stuck() {
                continue;
            }
            let letter = Box::new(crate::core::run_process_hooks);
            if station
                .mailbox
                .post(letter, &self.shared.foreign_letters)
                .is_ok()
            {
                self.process_hooks_on = Some(core);
                return;
            }
        }
        // No core lives to run them: the report will say that their turn never came.
        while let Some(hook) = self.shared.process_hooks.next() {
            let unrun = unrun(hook.name, at_ms);
            self.shared.process_hooks.note(unrun);
        }
    }

    /// Ends of mains and of cores are triggers.
    fn hear_ends(&mut self, now_ns: u64, new: u32) {
        let all_ended = self
            .seen
            .iter()
            .all(|bits| bits & progress::MAIN_ENDED != 0);
        let kind = if new & progress::FAILED != 0 {
            TriggerKind::CoreFailed
        } else if new & progress::MAIN_FAILED != 0 {
            TriggerKind::MainFailed
        } else if new & progress::MAIN_ENDED != 0 && all_ended {
            TriggerKind::MainEnded
        } else {
            return;
        };
        if self.machine.phase() == Phase::Running {
            self.triggers.push((Trigger::new(kind, 0.0), now_ns));
        }
        self.input(now_ns, Input::Trigger);
    }

    /// Whether every core has `bits`, or is gone, or stuck.
    fn all(&self, bits: u32) -> bool {
        self.seen.iter().zip(&self.watches).all(|(seen, watch)| {
            seen & bits == bits || seen & progress::GONE != 0 || watch.is_stuck()
        })
    }

    /// Whether all cores are quiet at one moment: each says so, every letter is handled, and the
    /// same is read again. A letter between two cores breaks the quiet of its reader before it
    /// counts as handled, so it cannot hide between the readings. A core that is stuck is not
    /// asked: nobody knows when it will read its letters.
    fn all_quiet(&self) -> bool {
        let read = || -> Option<Vec<u64>> {
            self.shared
                .stations
                .iter()
                .zip(self.seen.iter().zip(&self.watches))
                .map(|(station, (seen, watch))| {
                    let gone = seen & progress::GONE != 0;
                    if gone || watch.is_stuck() {
                        Some(0)
                    } else {
                        station.quiet_reading()
                    }
                })
                .collect()
        };
        match read() {
            Some(first) => read() == Some(first),
            None => false,
        }
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

/// Whether a core has left its last word.
fn is_gone(station: &Station) -> bool {
    station.progress() & progress::GONE != 0
}

/// Tells the service manager, if there is one (systemd's NOTIFY_SOCKET), that the stop has begun.
fn tell_service_manager() {
    // Nobody to tell, or nobody who listens: the stop goes on either way.
    let _nobody = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
}

#[cfg(test)]
mod tests;
