//! The stop, as one core carries it out.
//!
//! ```text
//!           Notice/Draining          Hooks, or cut            Closing             all ended, or
//!           ordered: begin           ordered                  ordered: close      given up
//!  Running ─────────────▶ Draining ─────────────▶ Hooks ────────────────▶ Closing ──────────▶ Over
//! ```
//! The coordinator orders, through the word in [`Orders`](crate::shared::Orders); the core obeys
//! at the beginning of its turn ([`CoreStop::obey`]), does its share near the end of it
//! ([`CoreStop::step`]), and says at its station how far it is.

#![forbid(unsafe_code)]

mod ending;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::hooks;
use super::quiet::Quiet;
use super::report::{self, Facts};
use super::stragglers;
use super::turns::Turns;
use crate::clock::ns;
use crate::config::HEARTBEAT;
use crate::context::Local;
use crate::io::Io;
use crate::io::conn::Origin;
use crate::panics::{last_words, quietly};
use crate::phase::Phase;
use crate::report::{CoreOutcome, CoreReport, Straggler};
use crate::shared::{Deadlines, Order, progress};
use crate::task::{JoinHandle, Kind};
use ending::drop_timers;

/// How far a core's stop is, and what it has noted for the report.
#[derive(Debug)]
pub(crate) struct CoreStop {
    /// The orders that were obeyed last.
    seen: Order,
    /// The deadlines that came with them.
    deadlines: Deadlines,
    /// See the module's diagram.
    stage: Stage,
    /// Why the main future failed, if it did.
    main_error: Option<String>,
    /// Since when it is quiet. Looked at in Draining only.
    quiet: Quiet,
    /// Whether the cut was carried out.
    cut_done: bool,
    /// The task that runs the hooks.
    hooks: Option<JoinHandle<()>>,
    /// Operations still out when the ring was closed.
    leaked: u64,
    /// Letters that were accepted and not run.
    returned: u64,
    /// What was alive at the cut.
    stragglers: Vec<Straggler>,
    /// The phases of this core; the last one is open while the core runs.
    phases: Vec<(Phase, u64)>,
    /// When the core was done (ns).
    ended_ns: u64,
    /// Its turns, from the first that knew of the stop.
    turns: Turns,
    /// Whether there is something new for the coordinator, whose bell was not rung for it yet.
    news: bool,
}

/// See the module's diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No order to drain yet.
    Running,
    /// Draining; whether the coordinator has been told that this core is quiet.
    Draining { quiet: bool },
    /// The hooks run; whether they are done.
    Hooks { done: bool },
    /// Everything ends; what is still open is reset from then on (ns).
    Closing { cut_ns: u64 },
    /// Nothing is left.
    Over,
}

impl CoreStop {
    /// A core that was not told to stop.
    pub(crate) fn new() -> CoreStop {
        CoreStop {
            seen: Order::default(),
            deadlines: Deadlines::default(),
            stage: Stage::Running,
            main_error: None,
            quiet: Quiet::default(),
            cut_done: false,
            hooks: None,
            leaked: 0,
            returned: 0,
            stragglers: Vec::new(),
            phases: Vec::new(),
            ended_ns: 0,
            turns: Turns::default(),
            news: false,
        }
    }

    /// Whether the core is done.
    pub(crate) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether Draining has begun.
    pub(crate) fn is_under_way(&self) -> bool {
        self.stage != Stage::Running
    }

    /// Whether nothing new is begun.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing { .. } | Stage::Over)
    }

    /// The orders that were obeyed.
    pub(crate) fn seen(&self) -> Order {
        self.seen
    }

    /// Letters that were accepted and not run, so far.
    pub(crate) fn returned(&self) -> u64 {
        self.returned
    }

    /// Reads the orders and does what is new in them.
    #[inline]
    pub(crate) fn obey(&mut self, local: &Rc<Local>) {
        let order = local.shared.orders.read();
        if order.phase() >= Phase::Notice {
            self.turns.begin(local.io.borrow().steps);
        }
        if order != self.seen {
            self.obey_new(local, order);
        }
    }

    /// Does what is new in `order`.
    fn obey_new(&mut self, local: &Rc<Local>, order: Order) {
        let before = std::mem::replace(&mut self.seen, order);
        self.deadlines = local.shared.orders.deadlines();
        let now_ns = local.io.borrow().now_ns;
        if order.phase() != before.phase() {
            self.phases.push((order.phase(), now_ns));
        }
        if order.phase() >= Phase::Notice {
            local.io.borrow_mut().tally.begin_stop(now_ns);
        }
        if order.phase() >= Phase::Draining {
            self.drain(local);
        }
        if order.is_cut() && !self.cut_done && order.phase() >= Phase::Hooks {
            self.cut(local);
        }
        if order.phase() >= Phase::Hooks {
            self.run_hooks(local);
        }
        // Its deadline may have moved, or come.
        local.hooks.wake_runner();
        if order.phase() >= Phase::Closing {
            self.close(local);
        }
    }

    /// The stop's share of a turn. Whether it wants another turn at once.
    #[inline]
    pub(crate) fn step(&mut self, local: &Rc<Local>) -> bool {
        if local.main_has_ended() {
            self.read_main(local);
        }
        let again = self.stage != Stage::Running && self.step_stage(local);
        if self.news {
            // Once for all that is new: a coordinator on this core's own processor takes that from
            // it at once, and would find the half of it.
            self.news = false;
            local.shared.bell.ring();
        }
        again
    }

    /// The share of the stage it is in.
    fn step_stage(&mut self, local: &Rc<Local>) -> bool {
        match self.stage {
            Stage::Running | Stage::Over => false,
            Stage::Draining { quiet } => {
                let again = local.io.borrow_mut().step_drain();
                self.look_for_quiet(local, quiet);
                again
            }
            Stage::Hooks { done } => {
                // A cut leaves listeners and connections behind that still have to end.
                let again = local.io.borrow_mut().step_drain();
                if done && local.hooks.any_waiting() {
                    // Registered after the others had run: they go on.
                    local.station().retract(progress::HOOKS_DONE);
                    self.spawn_hooks(local);
                    return true;
                }
                let over = self.hooks.as_ref().is_none_or(JoinHandle::is_finished);
                if over && !done {
                    self.stage = Stage::Hooks { done: true };
                    self.say(local, progress::HOOKS_DONE);
                }
                again
            }
            Stage::Closing { cut_ns } => {
                self.step_closing(local, cut_ns);
                false
            }
        }
    }

    /// All of a turn but its system call is done: a stop counts how long it took.
    #[inline]
    pub(crate) fn end_turn(&mut self, begun_ns: u64, local: &Local) {
        if self.turns.count_now() {
            self.turns.end(begun_ns, local.now_ns());
        }
    }

    /// When the stop wants a turn, if nothing else brings one (ns).
    pub(crate) fn wake_ns(&self, io: &Io) -> Option<u64> {
        match self.stage {
            Stage::Running | Stage::Over => None,
            Stage::Draining { quiet: true } | Stage::Hooks { .. } => io.drain_wake_ns(),
            Stage::Draining { quiet: false } => {
                let quiet_at = self.quiet_at_ns(io.activity_ns);
                io.drain_wake_ns().into_iter().chain(quiet_at).min()
            }
            Stage::Closing { cut_ns } if io.now_ns < cut_ns => Some(cut_ns),
            Stage::Closing { .. } => Some(io.now_ns + ns(HEARTBEAT)),
        }
    }

    /// Reads the main future's result, which is there.
    fn read_main(&mut self, local: &Rc<Local>) {
        local.main_ended.set(false);
        let Some(mut main) = local.main.take() else {
            return;
        };
        let mut context = Context::from_waker(Waker::noop());
        let error = match Pin::new(&mut main).poll(&mut context) {
            Poll::Pending | Poll::Ready(Ok(Ok(()))) => None,
            Poll::Ready(Ok(Err(error))) => Some(words_of(error)),
            Poll::Ready(Err(error)) if error.is_dropped() => None,
            Poll::Ready(Err(error)) => Some(match error.into_panic() {
                Ok(payload) => format!("the main future panicked: {}", last_words(payload)),
                Err(error) => error.to_string(),
            }),
        };
        let failed = if error.is_some() {
            progress::MAIN_FAILED
        } else {
            0
        };
        self.main_error = error;
        self.say(local, progress::MAIN_ENDED | failed);
    }

    /// Tells the coordinator something, if it is new, at the end of this turn's step.
    fn say(&mut self, local: &Local, bits: u32) {
        self.news |= local.station().advance(bits);
    }
}

/// The phases.
impl CoreStop {
    /// Draining begins, or its deadline has moved.
    fn drain(&mut self, local: &Rc<Local>) {
        if self.stage == Stage::Running {
            self.stage = Stage::Draining { quiet: false };
        }
        let grace = Duration::from_nanos(local.shared.config.idle_grace_ns());
        local
            .io
            .borrow_mut()
            .begin_drain(grace, self.deadlines.drain);
        let deadline_ns = self.deadlines.drain;
        let cancelled = local
            .io
            .borrow_mut()
            .end_late_timers(deadline_ns, &|| local.goes_on());
        let count = local.timers_cancelled.get() + cancelled.len() as u64;
        local.timers_cancelled.set(count);
        drop_timers(local, cancelled);
    }

    /// Whether nothing is left that a stop waits for.
    fn is_quiescent(local: &Local) -> bool {
        let io = local.io.borrow();
        local.tasks.live(Kind::Main) == 0
            && local.tasks.live(Kind::Essential) == 0
            && io.tally.open == 0
            && io.listeners_closed()
            && io.delayed_spawns == 0
            && local.station().mailbox.is_empty()
    }

    /// When this core will have been quiet for long enough (ns); `None` while something is left
    /// to wait for.
    fn quiet_at_ns(&self, activity_ns: u64) -> Option<u64> {
        let Deadlines { start, quiet, .. } = self.deadlines;
        self.quiet.at_ns(activity_ns, start, quiet)
    }

    /// Tells the coordinator when quiet is reached, and takes it back when it is broken.
    fn look_for_quiet(&mut self, local: &Local, was_quiet: bool) {
        let (now_ns, activity_ns) = {
            let io = local.io.borrow();
            (io.now_ns, io.activity_ns)
        };
        self.quiet.look(now_ns, CoreStop::is_quiescent(local));
        let quiet = self
            .quiet_at_ns(activity_ns)
            .is_some_and(|at_ns| now_ns >= at_ns);
        let station = local.station();
        if !quiet {
            station.break_quiet();
        } else if !was_quiet || station.quiet_reading().is_none() {
            station.set_quiet();
            self.news = true;
        }
        self.stage = Stage::Draining { quiet };
    }

    /// The drain deadline, or a force: what is alive is named, connections are reset, essential
    /// tasks dropped.
    fn cut(&mut self, local: &Rc<Local>) {
        self.cut_done = true;
        // What was ready before the cut gets its turn: a task accepted by a stop of no time at
        // all has run once. Bounded, for a task may wake itself for ever.
        let mut leftovers = crate::io::Leftovers::default();
        local.tasks.collect_foreign();
        let _ran = local.tasks.run(crate::config::TASK_BUDGET);
        local.settle(&mut leftovers);
        self.read_main(local);
        self.stragglers.append(&mut stragglers::named(local));
        {
            let mut io = local.io.borrow_mut();
            io.begin_last_sweeps();
            io.cut_all(|origin| origin == Origin::Accepted);
        }
        local
            .tasks
            .drop_all(&Kind::is_essential, &|| local.goes_on());
        local.settle(&mut leftovers);
    }

    /// Begins to run the hooks, also when there is none.
    fn run_hooks(&mut self, local: &Rc<Local>) {
        if matches!(self.stage, Stage::Running | Stage::Draining { .. }) {
            self.spawn_hooks(local);
        }
    }

    /// Starts the task that runs the hooks.
    fn spawn_hooks(&mut self, local: &Rc<Local>) {
        self.stage = Stage::Hooks { done: false };
        let run = hooks::run_all(local.clone());
        let site = std::panic::Location::caller();
        self.hooks = local.spawn(run, Kind::Hook, site).ok();
    }

    /// The core's last word.
    pub(crate) fn report(&mut self, local: &Local) -> CoreReport {
        let facts = Facts {
            leaked: self.leaked,
            returned: self.returned,
            phases: std::mem::take(&mut self.phases),
            start_ns: self.start_ns(local),
            ended_ns: self.ended_ns,
            turns: self.turns.report(local.io.borrow().steps),
        };
        let mut stragglers = std::mem::take(&mut self.stragglers);
        stragglers.append(&mut local.io.borrow_mut().take_refused());
        let outcome = match self.main_error {
            Some(_) => CoreOutcome::Failed,
            None => CoreOutcome::Finished,
        };
        CoreReport {
            outcome,
            error: self.main_error.take(),
            stragglers,
            ..report::of(local, &facts)
        }
    }

    /// When the stop began for this core (ns): one that failed before all others does not know when
    /// it will.
    fn start_ns(&self, local: &Local) -> u64 {
        match local.shared.orders.read().phase() {
            Phase::Running => self.ended_ns,
            _ => local.shared.orders.deadlines().start,
        }
    }
}

/// A main's error in words. Its Display and its destructor may be a user's, and may panic.
fn words_of(error: std::io::Error) -> String {
    let mut words = "an error that panicked when it was to be shown".to_owned();
    quietly(|| words = error.to_string());
    quietly(|| drop(error));
    words
}
