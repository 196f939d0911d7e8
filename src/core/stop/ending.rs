//! How a core ends: Closing, in which everything that is open is ended and what the kernel holds comes
//! back, and the short end of a core whose turn failed.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::time::Duration;

use super::{CoreStop, Stage};
use crate::clock::ns;
use crate::context::Local;
use crate::core::stragglers;
use crate::io::timer::Timer;
use crate::io::{Io, Leftovers};
use crate::panics::quietly;
use crate::ring::port::Wait;

/// After how many timers a core that gives them up shows that it goes on.
const ENDS_BETWEEN: u64 = 16;

/// How long before its end Closing resets what has not closed by itself.
const CLOSING_TAIL: Duration = Duration::from_millis(25);

/// How often a core that failed looks for completions in vain.
const LAST_IDLE_ROUNDS: u32 = 20;

/// The same for a core that was given up: it has to be over within `LAST_WORDS`.
const GIVEN_UP_IDLE_ROUNDS: u32 = 4;

/// How long a core waits for one completion at its very end.
const LAST_WAIT: Duration = Duration::from_millis(5);

impl CoreStop {
    /// Closing begins: nothing new is taken, and everything that is there is ended.
    pub(super) fn close(&mut self, local: &Rc<Local>) {
        let began = self.is_closing();
        let cut_ns = self.closing_cut_ns(local.io.borrow().now_ns);
        // Also when it began before: the deadline may have moved.
        self.stage = Stage::Closing { cut_ns };
        if began {
            return;
        }
        if local.station().was_left_out() && !self.cut_done {
            // It was stuck when the others were done, so nobody has waited for what it has.
            self.stragglers.append(&mut stragglers::named(local));
        }
        self.end_work(local);
        let mut io = local.io.borrow_mut();
        io.begin_all_closes();
        io.begin_last_sweeps();
        io.driver.cancel_slots();
    }

    /// When Closing resets what has not closed by itself (ns): a little before its end, for the
    /// completions of the reset must still be reaped.
    fn closing_cut_ns(&self, now_ns: u64) -> u64 {
        let hard_ns = self.deadlines.hard.max(now_ns);
        hard_ns - ns(CLOSING_TAIL).min((hard_ns - now_ns) / 2)
    }

    /// Ends letters, tasks, hooks and timers; user code runs in their destructors only.
    fn end_work(&mut self, local: &Rc<Local>) {
        local.closed.set(true);
        let station = local.station();
        self.returned += station.give_back_letters(&mut || local.goes_on());
        local.tasks.drop_all(&|_| true, &|| local.goes_on());
        local.hooks.note_all_unrun(local.since_trigger_ms());
        let timers = local.io.borrow_mut().end_all_timers(&|| local.goes_on());
        let spawns = timers.iter().filter(|timer| timer.is_spawn()).count() as u64;
        let cancelled = local.timers_cancelled.get() + spawns;
        local.timers_cancelled.set(cancelled);
        drop_timers(local, timers);
        local.settle(&mut Leftovers::default());
    }

    /// Waits for the last completions; at its time resets what is left, at the last gives up.
    pub(super) fn step_closing(&mut self, local: &Rc<Local>, cut_ns: u64) {
        let mut io = local.io.borrow_mut();
        if io.now_ns >= cut_ns {
            io.cut_all(|_| true);
        }
        let _windows_are_over = io.step_drain();
        if io.is_empty() {
            // Last of all, for until then the coordinator's orders must wake this core.
            io.driver.unwatch_alarm();
        }
        let emptied = io.driver.in_flight() == 0 && io.is_empty();
        if !emptied && !self.seen.gives_up() {
            return;
        }
        if !emptied {
            // This core may have slept past its cut: a cut and some rounds now end what a leak
            // would keep for ever.
            CoreStop::end_operations(&mut io, GIVEN_UP_IDLE_ROUNDS);
        }
        self.leaked = io.close();
        self.stage = Stage::Over;
        self.ended_ns = local.now_ns();
    }

    /// The end of a core whose turn failed: as Closing, without another turn. The kernel gets a
    /// bounded time to end what it holds; what it has not ended then is leaked, and counted.
    pub(crate) fn abandon(&mut self, local: &Rc<Local>) {
        {
            // For this core the failure is the trigger, if no other came before.
            let mut io = local.io.borrow_mut();
            io.now_ns = local.now_ns();
            let now_ns = io.now_ns;
            io.tally.begin_stop(now_ns);
            // Before its handler is dropped: that would end a torn answer as if it were whole.
            io.cut_all(|_| true);
        }
        self.end_work(local);
        let mut io = local.io.borrow_mut();
        CoreStop::end_operations(&mut io, LAST_IDLE_ROUNDS);
        self.leaked = io.close();
        drop(io);
        // What came back with the last completions is a user's: what was to be sent, and who waited.
        local.settle(&mut Leftovers::default());
        self.stage = Stage::Over;
        self.ended_ns = local.now_ns();
    }

    /// Resets and calls back all that is left, and gives the kernel a bounded time to end it.
    fn end_operations(io: &mut Io, idle_rounds_most: u32) {
        io.cut_all(|_| true);
        io.begin_last_sweeps();
        io.driver.cancel_own();
        let mut idle_rounds = 0;
        while io.driver.in_flight() > 0 && idle_rounds < idle_rounds_most {
            let held = io.driver.in_flight();
            if io.driver.enter(Wait::AtMost(LAST_WAIT)).is_err() {
                break;
            }
            io.reap();
            idle_rounds += u32::from(io.driver.in_flight() == held);
        }
        io.close_all_listeners();
    }
}

/// Drops what the wheel had, outside of the borrow: what was to be spawned and who was to be woken
/// are a user's. Each by itself, for a panic that follows another before that is caught ends the
/// process.
pub(super) fn drop_timers(local: &Local, timers: Vec<Timer>) {
    for (number, timer) in timers.into_iter().enumerate() {
        quietly(|| drop(timer));
        if number as u64 % ENDS_BETWEEN == 0 {
            local.goes_on();
        }
    }
}
