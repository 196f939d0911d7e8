//! One core: its turn, from the first to the last.
//!
//! ```text
//!  clock ─▶ orders ─▶ letters ─▶ completions ─▶ timers ─▶ tasks ─▶ stop ─▶ sends ─▶ enter ─┐
//!    ▲                                                                                     │
//!    └─────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Time is read once, and at the end again while a stop counts its turns. The stop's orders come
//! first, then letters, then what the kernel has done, then what that made ready, up to a budget.
//! Sends of a turn leave together in the one system call that also waits, unless a task is ready.

#![forbid(unsafe_code)]

mod hooks;
pub(crate) mod quiet;
mod report;
mod stop;
mod turns;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::config::{LETTER_BUDGET, TASK_BUDGET};
use crate::context::{self, Local};
use crate::error::{Error, ErrorKind};
use crate::hooks::HookList;
use crate::io::{Io, Leftovers};
use crate::panics::{panic_text, quietly};
use crate::report::{CoreOutcome, CoreReport};
use crate::ring::driver::Driver;
use crate::ring::port::Wait;
use crate::ring::sys::event::EventFd;
use crate::ring::sys::thread;
use crate::shared::{Shared, progress};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::task::Tasks;
use stop::CoreStop;

/// What a core needs to begin.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Its index in the runtime.
    pub(crate) index: usize,
    /// The processor to pin it to.
    pub(crate) cpu: usize,
    /// What its ring polls and its bell rings.
    pub(crate) alarm: Arc<EventFd>,
    /// The runtime's shared part.
    pub(crate) shared: Arc<Shared>,
}

/// The life of a core's thread: says through `started` whether it could begin, runs until the
/// stop has ended it, and leaves its report at its station.
pub(crate) fn life(setup: &Setup, started: impl FnOnce(Result<(), Error>)) {
    let local = match begin(setup) {
        Ok(local) => local,
        Err(error) => return started(Err(error)),
    };
    started(Ok(()));
    let entered = context::enter(local.clone());
    let mut stop = CoreStop::new();
    let run = || run(&local, &mut stop);
    let failure = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("the ring failed: {error}")),
        Err(payload) => Some(format!("the turn panicked: {}", panic_text(&*payload))),
    };
    let report = match failure {
        None => stop.report(&local),
        Some(error) => fail(&local, &mut stop, error),
    };
    drop(entered);
    let station = local.station();
    station.leave_report(report);
    let _new = station.advance(progress::GONE);
    local.shared.bell.ring();
}

/// Pins the thread and makes the core's ring.
fn begin(setup: &Setup) -> Result<Rc<Local>, Error> {
    let Setup {
        index,
        cpu,
        ref alarm,
        ref shared,
    } = *setup;
    if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        return Err(Error::new(
            ErrorKind::Cores,
            format!(
                "cannot pin a thread to processor {cpu}: it went offline or was taken from this \
                 process; choose others"
            ),
        ));
    }
    let driver = Driver::open(alarm.clone())?;
    let station = &shared.stations[index];
    station.pulse.begin(thread::current_id());
    let linger = Duration::from_nanos(shared.config.linger_ns());
    Ok(Rc::new(Local {
        index,
        cpu,
        shared: shared.clone(),
        main: RefCell::new(None),
        tasks: Tasks::new(station.bell.clone(), station.pulse.clone()),
        io: RefCell::new(Io::new(
            driver,
            station.listening.clone(),
            shared.clock.now_ns(),
            linger,
        )),
        hooks: HookList::default(),
        closed: Cell::new(false),
        rejected: Cell::new(0),
        timers_cancelled: Cell::new(0),
    }))
}

/// Turns until the stop says that this core is done.
fn run(local: &Rc<Local>, stop: &mut CoreStop) -> io::Result<()> {
    let mut leftovers = Leftovers::default();
    while !stop.is_over() {
        turn(local, stop, &mut leftovers)?;
    }
    Ok(())
}

/// One turn. See the module.
fn turn(local: &Rc<Local>, stop: &mut CoreStop, leftovers: &mut Leftovers) -> io::Result<()> {
    let now_ns = local.now_ns();
    local.station().pulse.begin_turn(now_ns);
    local.io.borrow_mut().now_ns = now_ns;
    stop.obey(local);
    read_letters(local);
    {
        let mut io = local.io.borrow_mut();
        io.reap();
        io.expire(leftovers);
    }
    local.settle(leftovers);
    local.tasks.collect_foreign();
    let ran = local.tasks.run(TASK_BUDGET);
    local.settle(leftovers);
    if ran.essential > 0 {
        let mut io = local.io.borrow_mut();
        io.activity_ns = io.now_ns;
    }
    let again = stop.step(local);
    local.settle(leftovers);
    if stop.is_over() {
        stop.end_turn(now_ns, local);
        return Ok(());
    }
    let mut io = local.io.borrow_mut();
    io.feed_starved();
    io.flush_sends();
    if !stop.is_closing() {
        io.driver.watch_alarm();
    }
    let busy = again || local.tasks.has_ready() || io.has_leftovers();
    stop.end_turn(now_ns, local);
    let mut entered = enter(local, &mut io, stop, busy);
    if stop.is_under_way() && entered.is_ok() {
        entered = io.driver.catch_up();
    }
    local.station().bell.is_awake();
    entered
}

/// Runs the letters that are there, up to a budget.
fn read_letters(local: &Local) {
    let station = local.station();
    for _ in 0..LETTER_BUDGET {
        let Some(letter) = station.mailbox.take() else {
            return;
        };
        station.break_quiet();
        {
            let mut io = local.io.borrow_mut();
            io.activity_ns = io.now_ns;
        }
        // Letters are the crate's own closures round a user's; a panic in one is that user's.
        quietly(letter);
        station.handled.fetch_add(1, Ordering::SeqCst);
    }
}

/// Submits, and sleeps if there is nothing to do: until a completion, a ring of the bell, or the
/// next time something is due.
fn enter(local: &Local, io: &mut Io, stop: &CoreStop, busy: bool) -> io::Result<()> {
    if busy {
        return io.driver.enter(Wait::No);
    }
    let station = local.station();
    station.bell.will_sleep();
    let called =
        !station.mailbox.is_empty() || local.tasks.foreign_pending() || stop.has_new_orders(local);
    if called {
        return io.driver.enter(Wait::No);
    }
    let due_ns = [io.timer_wake_ns(), stop.wake_ns(io)]
        .into_iter()
        .flatten()
        .min();
    let wait = match due_ns.map(|due_ns| due_ns.saturating_sub(local.now_ns())) {
        None => Wait::Completion,
        Some(0) => Wait::No,
        Some(left_ns) => Wait::AtMost(Duration::from_nanos(left_ns)),
    };
    station.pulse.rest();
    io.driver.enter(wait)
}

/// Runs the hooks of the process on the core this is.
pub(crate) fn run_process_hooks() {
    let Some(local) = context::current() else {
        return;
    };
    let run = hooks::run_process(local.clone());
    let site = std::panic::Location::caller();
    // Refused only in Closing: then the report says that their turn never came.
    let _refused = local.spawn(run, crate::task::Kind::Hook, site);
}

/// The end of a core whose turn failed: its mailbox is closed, its tasks are dropped, its sockets
/// closed, what the kernel holds ended or leaked; then its report says so.
fn fail(local: &Rc<Local>, stop: &mut CoreStop, error: String) -> CoreReport {
    let station = local.station();
    station.pulse.begin_turn(local.now_ns());
    if station.advance(progress::FAILED) {
        local.shared.bell.ring();
    }
    stop.abandon(local);
    let mut report = stop.report(local);
    report.outcome = CoreOutcome::Failed;
    report.error = Some(error);
    report
}
