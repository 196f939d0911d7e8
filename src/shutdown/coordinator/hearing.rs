//! What the coordinator hears and sees in a step: signals, requests, how far the cores are, how long
//! their turns take, and that the process was suspended. Each becomes an input of the machine.

#![forbid(unsafe_code)]

use super::Coordinator;
use crate::clock::ns;
use crate::config::{HEARTBEAT, OLD_TURN_SEEN, SIGNALS_AT_ONCE, SUSPENSION_MIN};
use crate::phase::{Input, Phase};
use crate::report::{Trigger, TriggerKind};
use crate::ring::sys::thread;
use crate::shared::{Request, progress};
use crate::shutdown::autopsy;
use crate::shutdown::signals::Signals;

impl Coordinator {
    /// A process that was stopped and continued finds its deadlines past. It is no fault of the
    /// cores: each phase gets a turn before it is cut.
    pub(super) fn notice_suspension(&mut self, now_ns: u64) {
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
    pub(super) fn hear_signals(&mut self, now_ns: u64) {
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
    pub(super) fn hear_requests(&mut self, now_ns: u64) {
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
    pub(super) fn watch_turns(&mut self, now_ns: u64) {
        let running = self.machine.phase() == Phase::Running;
        if let Some(stalls) = &mut self.stalls {
            for event in stalls.look(now_ns, &self.shared.stations, running) {
                self.shared.board.stalls.push(event);
            }
        }
    }

    /// Looks at each core's heartbeat.
    pub(super) fn watch_cores(&mut self, now_ns: u64) {
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
    pub(super) fn hear_cores(&mut self, now_ns: u64) {
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
}
