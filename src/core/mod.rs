//! One core: its turn, from the first to the last.
//!
//! ```text
//!  clock ─▶ orders ─▶ letters ─▶ completions ─▶ timers ─▶ tasks ─▶ stop ─▶ sends ─▶ enter ─┐
//!    ▲                                                                                     │
//!    └─────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Time is read once, and at the end again while a stop counts its turns. The stop's orders come
//! first, then letters, then what the kernel has done, then what that made ready, up to a budget.
//! Sends of a turn leave together in the one system call that also waits, unless a task is ready: an
//! enter brings some twenty receives, and to hand the answers over after each 8 or 16 of them was no
//! faster beyond the noise (0.93 to 1.14 of the rate in five cells). A
//! core that waited takes the completions before the clock is read: see [`sleep`].

#![forbid(unsafe_code)]

mod hooks;
#[cfg(all(test, loom))]
mod models;
pub(crate) mod quiet;
mod report;
#[cfg(test)]
mod schedules;
mod sleep;
mod stop;
mod stragglers;
mod turns;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use crate::config::{CoreConfig, LETTER_BUDGET, TASK_BUDGET};
use crate::context::{self, Local};
use crate::error::{Error, ErrorKind};
use crate::hooks::HookList;
use crate::io::{Io, Leftovers};
use crate::kept;
use crate::panics::{panic_text, quietly};
use crate::report::{CoreOutcome, CoreReport, Letters};
use crate::ring::driver::Driver;
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
    /// What it is made with.
    pub(crate) config: CoreConfig,
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
    // Not the turn's own: a user's destructor that ran while the turn unwinds, and panics too, would
    // be the end of the process.
    let mut leftovers = Leftovers::default();
    let run = || run(&local, &mut stop, &mut leftovers);
    let failure = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("the ring failed: {error}")),
        Err(payload) => Some(in_words("the turn panicked", payload)),
    };
    let report = match failure {
        None => stop.report(&local),
        Some(error) => fail_at_all(&local, &mut stop, &mut leftovers, error),
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
        config,
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
    let driver = Driver::open_with(alarm.clone(), config.features, config.queues)?;
    let station = &shared.stations[index];
    station.pulse.begin(thread::current_id());
    let linger = Duration::from_nanos(shared.config.linger_ns());
    let mut io = Io::new(
        driver,
        station.listening.clone(),
        shared.clock.now_ns(),
        linger,
    );
    io.configure(config.connections_most, config.peers);
    Ok(Rc::new(Local {
        index,
        cpu,
        shared: shared.clone(),
        station: station.clone(),
        main: RefCell::new(None),
        main_ended: Cell::new(false),
        tasks: Tasks::new(station.bell.clone(), station.pulse.clone()),
        io: RefCell::new(io),
        hooks: HookList::default(),
        closed: Cell::new(false),
        rejected: Cell::new(0),
        timers_cancelled: Cell::new(0),
    }))
}

/// Turns until the stop says that this core is done.
fn run(local: &Rc<Local>, stop: &mut CoreStop, leftovers: &mut Leftovers) -> io::Result<()> {
    let mut woke_ns = None;
    while !stop.is_over() {
        woke_ns = turn(local, stop, leftovers, woke_ns)?;
    }
    Ok(())
}

/// One turn, which began by waking at `woke_ns` if completions were taken then. See the module.
/// The same for the next turn.
fn turn(
    local: &Rc<Local>,
    stop: &mut CoreStop,
    leftovers: &mut Leftovers,
    woke_ns: Option<u64>,
) -> io::Result<Option<u64>> {
    let station = local.station();
    let now_ns = woke_ns.unwrap_or_else(|| local.read_clock());
    station.pulse.begin_turn(now_ns);
    stop.obey(local);
    if !station.mailbox.is_empty() {
        read_letters(local);
    }
    local.settle_after(leftovers, |io| {
        if woke_ns.is_none() {
            io.reap();
        }
        io.expire();
    });
    local.tasks.collect_foreign();
    let ran = local.tasks.run(TASK_BUDGET);
    local.settle_after(leftovers, |io| {
        io.steps += ran.polled as u64;
        if ran.essential > 0 {
            io.activity_ns = io.now_ns;
        }
    });
    let again = stop.step(local);
    if stop.is_under_way() {
        local.settle(leftovers);
    }
    if stop.is_over() {
        stop.end_turn(now_ns, local);
        return Ok(None);
    }
    let mut io = local.io.borrow_mut();
    let hungry = io.feed_starved();
    let behind = io.waits_for_at_once();
    io.flush_sends();
    if !stop.is_closing() {
        io.driver.watch_alarm();
    }
    let busy = again || hungry || behind || local.tasks.has_ready() || io.has_leftovers();
    stop.end_turn(now_ns, local);
    let woke_ns = sleep::enter(local, &mut io, stop, busy)?;
    if stop.is_under_way() {
        io.driver.catch_up()?;
    }
    station.bell.is_awake();
    Ok(woke_ns)
}

/// Runs the letters that are there, up to a budget.
fn read_letters(local: &Local) {
    let station = local.station();
    for _ in 0..LETTER_BUDGET {
        if station.mailbox.is_empty() {
            return;
        }
        // Perhaps its sender is about to put it in: then the next turn finds it.
        let Some(letter) = station.mailbox.take() else {
            return;
        };
        station.break_quiet();
        {
            let mut io = local.io.borrow_mut();
            io.activity_ns = io.now_ns;
        }
        // Letters are the crate's own closures round a user's; a panic in one is that user's.
        quietly(|| letter.run());
        station.handled.fetch_add(1, Ordering::SeqCst);
    }
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

/// The end of a core whose turn failed, also if it fails once more in ending.
fn fail_at_all(
    local: &Rc<Local>,
    stop: &mut CoreStop,
    leftovers: &mut Leftovers,
    error: String,
) -> CoreReport {
    let end = || fail(local, stop, leftovers, error.clone());
    catch_unwind(AssertUnwindSafe(end)).unwrap_or_else(|payload| {
        let again = in_words("its end panicked, and what it had is not known", payload);
        give_up(local, stop, format!("{error}; {again}"))
    })
}

/// The end of a core whose turn failed: its mailbox is closed, its tasks are dropped, its sockets
/// closed, what the kernel holds ended or leaked; then its report says so.
fn fail(
    local: &Rc<Local>,
    stop: &mut CoreStop,
    leftovers: &mut Leftovers,
    error: String,
) -> CoreReport {
    say_failed(local);
    local.settle_now(leftovers);
    stop.abandon(local);
    let mut report = stop.report(local);
    report.outcome = CoreOutcome::Failed;
    report.error = Some(error);
    report
}

/// Tells the coordinator that this core has failed.
fn say_failed(local: &Local) {
    let station = local.station();
    station.pulse.begin_turn(local.now_ns());
    if station.advance(progress::FAILED) {
        local.shared.bell.ring();
    }
}

/// The last resort: nothing of the core's own is to be trusted, so it is neither used nor freed. Who
/// waits in its backlogs is closed in order, and who has sent it letters gets them back.
fn give_up(local: &Rc<Local>, stop: &CoreStop, error: String) -> CoreReport {
    say_failed(local);
    kept::for_ever(local.clone());
    let station = local.station();
    let _closed = station.listening.turn_away();
    let returned = stop.returned() + station.give_back_letters(&mut || {});
    CoreReport {
        core: local.index,
        cpu: local.cpu,
        outcome: CoreOutcome::Failed,
        error: Some(error),
        letters: Letters {
            sent: station.sent.load(Ordering::Acquire),
            handled: station.handled.load(Ordering::Acquire),
            returned,
        },
        ..CoreReport::default()
    }
}

/// A panic of the core's own, in words.
fn in_words(what: &str, payload: Box<dyn Any + Send>) -> String {
    let words = format!("{what}: {}", panic_text(&*payload));
    // As in `quietly`.
    kept::for_ever(payload);
    words
}
