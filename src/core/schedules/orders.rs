//! The stop's orders, given as a coordinator gives them, at moments that dice choose.

#![forbid(unsafe_code)]

use crate::context::Local;
use crate::phase::{Instants, Phase};
use crate::ring::fake::Script;
use crate::ring::fake::dice::Dice;
use crate::shared::progress;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A millisecond (ns).
const MS: u64 = 1_000_000;

/// The one who gives the orders.
#[derive(Debug)]
pub(super) struct Coordinator {
    /// What decides.
    dice: Dice,
    /// What stands for the kernel.
    script: Script,
    /// The core's time, which moves to a deadline when nothing else can happen.
    clock: &'static AtomicU64,
    /// The turn after which the stop begins, if nobody sleeps for good before.
    begins_after: u64,
    /// In how many of a thousand turns of Draining the cut comes early.
    hurries: u64,
    /// Whether it gives the core up soon after Closing has begun.
    gives_up: bool,
    /// The instants, once the stop has begun.
    instants: Instants,
}

impl Coordinator {
    /// One of these dice.
    pub(super) fn new(mut dice: Dice, script: Script, clock: &'static AtomicU64) -> Coordinator {
        Coordinator {
            script,
            clock,
            begins_after: dice.below(60),
            hurries: if dice.chance(200) { 100 } else { 0 },
            gives_up: dice.chance(3),
            instants: Instants {
                start: 0,
                notice_end: 0,
                drain_deadline: 0,
                hook_deadline: 0,
                hard_deadline: 0,
                quiet_ns: 0,
            },
            dice,
        }
    }

    /// Looks at the core between two turns. `called`: it slept with nothing else to wake it, so
    /// that nothing but a deadline can end the phase.
    pub(super) fn look(&mut self, local: &Local, turns: u64, called: bool) {
        match local.shared.orders.read().phase() {
            Phase::Running if called || turns >= self.begins_after => self.begin(local),
            Phase::Running => {}
            Phase::Notice => local.shared.orders.enter(Phase::Draining),
            Phase::Draining => self.look_at_drain(local, called),
            Phase::Hooks => self.look_at_hooks(local, called),
            Phase::Closing | Phase::Terminated => {
                if self.gives_up && self.dice.chance(300) {
                    if self.dice.chance(500) {
                        self.script.borrow_mut().fall_silent();
                    }
                    local.shared.orders.give_up();
                }
            }
        }
    }

    /// The stop begins.
    fn begin(&mut self, local: &Local) {
        let dice = &mut self.dice;
        let start = self.clock.load(Ordering::Relaxed);
        let drain_deadline = start + dice.pick(&[1, 20, 400, 3_000]) * MS;
        let hook_deadline = drain_deadline + dice.pick(&[1, 50]) * MS;
        self.instants = Instants {
            start,
            notice_end: start,
            drain_deadline,
            hook_deadline,
            hard_deadline: hook_deadline + dice.pick(&[50, 500]) * MS,
            quiet_ns: dice.pick(&[0, 0, 10]) * MS,
        };
        local.shared.orders.publish(&self.instants);
        let phase = dice.pick(&[Phase::Notice, Phase::Draining]);
        local.shared.orders.enter(phase);
    }

    /// Whether `deadline_ns` is past; where it is all there is to wait for, it is now.
    fn is_past(&self, deadline_ns: u64, called: bool) -> bool {
        if called {
            self.clock.fetch_max(deadline_ns, Ordering::Relaxed);
        }
        self.clock.load(Ordering::Relaxed) >= deadline_ns
    }

    /// Ends Draining, if it is time.
    fn look_at_drain(&mut self, local: &Local, called: bool) {
        let orders = &local.shared.orders;
        let late = self.is_past(self.instants.drain_deadline, called);
        if local.station().quiet_reading().is_some() {
            orders.enter(Phase::Hooks);
        } else if late || self.dice.chance(self.hurries) {
            orders.cut();
            orders.enter(Phase::Hooks);
        }
    }

    /// Ends the hooks, if it is time.
    fn look_at_hooks(&mut self, local: &Local, called: bool) {
        let orders = &local.shared.orders;
        let late = self.is_past(self.instants.hook_deadline, called);
        if local.station().progress() & progress::HOOKS_DONE != 0 {
            orders.enter(Phase::Closing);
        } else if late {
            orders.cut_hooks();
            orders.enter(Phase::Closing);
        }
    }
}
