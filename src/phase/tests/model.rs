//! The same rules a second time, written down flat: one table of phase and input,
//! the deadlines as plain numbers. It shares nothing with the machine but the
//! arithmetic of the configuration, which has tests of its own.

use super::*;
use crate::config::nanos;

const TURN: u64 = 50 * MS;
const SECOND: u64 = 1_000 * MS;

#[derive(Clone)]
pub(super) struct Model {
    config: Shutdown,
    budget: Shutdown,
    hook: bool,
    forced: bool,
    signals: (u32, u64),
    pub(super) phase: Phase,
    start: u64,
    notice: u64,
    drain: u64,
    hooks: u64,
    hard: u64,
}

impl Model {
    pub(super) fn new(config: &Shutdown) -> Model {
        Model {
            config: config.clone(),
            budget: config.clone(),
            hook: false,
            forced: false,
            signals: (0, 0),
            phase: Phase::Running,
            start: 0,
            notice: 0,
            drain: 0,
            hooks: 0,
            hard: 0,
        }
    }

    pub(super) fn instants(&self) -> Option<Instants> {
        (self.phase != Phase::Running).then(|| Instants {
            start: self.start,
            notice_end: self.notice,
            drain_deadline: self.drain,
            hook_deadline: self.hooks,
            hard_deadline: self.hard,
            quiet_ns: self.budget.quiet_ns(),
        })
    }

    pub(super) fn step(&mut self, now: u64, input: Input) {
        use Phase::{Closing, Draining, Hooks, Notice, Running, Terminated};
        match (self.phase, input) {
            (_, Input::Signal(_)) => self.signal(now),
            (Running, Input::Trigger) => self.begin(now, self.config.clone()),
            (Running, Input::Within(d)) => self.begin(now, self.config.within(d)),
            (Running, Input::Force) => {
                self.lay_out(now, self.config.clone());
                self.phase = Draining;
                self.force(now, SECOND);
            }
            (Running, Input::FirstHook) => self.hook = true,
            (Running, _) | (Terminated, _) | (_, Input::Trigger) => {}
            (_, Input::Force) => self.force(now, SECOND),
            (_, Input::Within(d)) if self.forced => {
                self.hard = self.hard.min(now + nanos(d).max(TURN));
                self.share_rest(now);
            }
            (_, Input::Within(Duration::ZERO)) => self.force(now, TURN),
            (_, Input::Within(d)) => self.rebudget(now, d),
            (_, Input::FirstHook) => self.first_hook(now),
            (Draining, Input::AllQuiet) => self.enter_hooks(now),
            (Hooks, Input::HooksDone) => self.enter_closing(now),
            (Closing, Input::AllClosed) => self.phase = Terminated,
            (_, Input::AllQuiet | Input::HooksDone | Input::AllClosed) => {}
            (phase, Input::Suspended(_)) => {
                if phase <= Draining {
                    self.drain = self.drain.max(now + TURN);
                    self.hooks = self.hooks.max(self.drain + u64::from(self.hook) * TURN);
                }
                if phase == Hooks {
                    self.hooks = self.hooks.max(now + TURN);
                }
                let last = if phase == Closing { now } else { self.hooks };
                self.hard = self.hard.max(last + TURN);
            }
            (_, Input::Tick) => {
                if self.phase == Notice && now >= self.notice && now < self.drain {
                    self.phase = Draining;
                }
                if self.phase < Hooks && now >= self.drain {
                    self.enter_hooks(now);
                }
                if self.phase == Hooks && now >= self.hooks {
                    self.enter_closing(now);
                }
                if self.phase == Closing && now >= self.hard {
                    self.phase = Terminated;
                }
            }
        }
    }

    fn signal(&mut self, now: u64) {
        let (count, last) = self.signals;
        if count > 0 && now - last < 300 * MS {
            return;
        }
        self.signals = (count + 1, now);
        match count {
            0 => self.step(now, Input::Trigger),
            1 => self.step(now, Input::Force),
            _ => {}
        }
    }

    fn begin(&mut self, now: u64, budget: Shutdown) {
        self.lay_out(now, budget);
        self.phase = if self.budget.notice_ns() > 0 {
            Phase::Notice
        } else {
            Phase::Draining
        };
        if self.budget.timeout_ns() == 0 {
            self.phase = Phase::Draining;
            self.force(now, TURN);
        }
    }

    fn lay_out(&mut self, now: u64, budget: Shutdown) {
        let reserves = budget.reserves(self.hook);
        let timeout = budget.timeout_ns();
        self.start = now;
        self.hard = now + timeout.max(TURN);
        self.hooks = now + timeout - reserves.close_ns;
        self.drain = self.hooks - reserves.hooks_ns;
        self.notice = (now + budget.notice_ns()).min(self.drain);
        self.budget = budget;
    }

    fn rebudget(&mut self, now: u64, d: Duration) {
        self.budget = self.config.within(d);
        let reserves = self.budget.reserves(self.hook);
        let hooks = now + nanos(d) - reserves.close_ns;
        let drain = hooks - reserves.hooks_ns;
        self.hard = now + nanos(d).max(TURN);
        match self.phase {
            Phase::Notice => {
                self.hooks = hooks;
                self.drain = drain;
                self.notice = self.notice.min(now + (drain - now) / 2);
            }
            Phase::Draining => {
                self.hooks = hooks;
                self.drain = drain;
            }
            Phase::Hooks => self.hooks = hooks,
            _ => {}
        }
        self.follow();
    }

    fn first_hook(&mut self, now: u64) {
        if self.hook {
            return;
        }
        self.hook = true;
        match self.phase {
            Phase::Notice | Phase::Draining => {
                let reserve = self.budget.reserves(true).hooks_ns;
                self.drain = self.drain.min((self.hooks - reserve).max(now));
                self.follow();
            }
            Phase::Hooks => {
                self.hooks = self.hooks.max(now + TURN);
                self.hard = self.hard.max(self.hooks);
            }
            _ => {}
        }
    }

    fn force(&mut self, now: u64, limit: u64) {
        if self.forced {
            return;
        }
        self.forced = true;
        self.hard = self.hard.min(now + limit).max(now + TURN);
        if self.phase < Phase::Hooks {
            self.drain = now;
        }
        self.share_rest(now);
        if self.phase < Phase::Hooks {
            self.enter_hooks(now);
        }
    }

    fn share_rest(&mut self, now: u64) {
        if self.phase <= Phase::Hooks {
            let left = self.hard.saturating_sub(now);
            let budget = self.config.within(Duration::from_nanos(left));
            let close = budget.reserves(true).close_ns.clamp(TURN, left.max(TURN));
            let end = self.hard.saturating_sub(close).max(now);
            self.hooks = self.hooks.min(end).max(now);
        }
        self.follow();
    }

    fn enter_hooks(&mut self, now: u64) {
        self.phase = Phase::Hooks;
        if self.hook {
            self.hooks = self.hooks.max(now + TURN);
            self.hard = self.hard.max(self.hooks);
        }
    }

    fn enter_closing(&mut self, now: u64) {
        self.phase = Phase::Closing;
        self.hard = self.hard.max(now + TURN);
    }

    fn follow(&mut self) {
        self.hooks = self.hooks.min(self.hard);
        self.drain = self.drain.min(self.hooks);
        self.notice = self.notice.min(self.drain);
    }
}
