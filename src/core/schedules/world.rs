//! One schedule: the core, what is around it, and what must be true when it is over.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::orders::Coordinator;
use super::users::{self, Book};
use crate::config::{Features, Peers, Shutdown};
use crate::context::{self, Local};
use crate::core::stop::CoreStop;
use crate::core::{fail, turn};
use crate::hooks::HookList;
use crate::io::{Io, Leftovers};
use crate::kept;
use crate::report::{CoreReport, Report};
use crate::ring::driver::Driver;
use crate::ring::fake::dice::Dice;
use crate::ring::fake::kernel::Kernel;
use crate::ring::fake::met::{Case, Met};
use crate::ring::fake::peer::Peer;
use crate::ring::fake::{self, Script, Struck};
use crate::ring::sys::clock::Clock;
use crate::ring::sys::event::EventFd;
use crate::shared::Shared;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::task::Tasks;

/// Turns that no schedule needs: one that is not over by then never will be.
const TURNS_MOST: u64 = 20_000;

/// Turns between two looks at the records, which take as long as a turn.
const TURNS_BETWEEN_LOOKS: u64 = 3;

/// Peers of each kind that come at most: those that connect, and those that are connected to.
pub(super) const PEERS_MOST: u64 = 20;

/// Mixed into a seed for the dice that decide whether a turn panics.
const STRIKES: u64 = 0x5eed_0f57;

/// Mixed into a seed for the dice that decide whether connections have a limit.
const LIMITS: u64 = 0x5eed_0cab;

/// Mixed into a seed for the dice that decide how many may wait to be taken.
const QUEUES: u64 = 0x5eed_04e0;

/// A schedule that was as it should be.
#[derive(Debug)]
pub(super) struct Played {
    /// What it met.
    pub(super) met: Met,
    /// The same for two that went the same way.
    pub(super) digest: u64,
    /// How many turns it took.
    pub(super) turns: u64,
}

/// How a core ended.
#[derive(Debug)]
struct Ended {
    /// How many turns it took.
    turns: u64,
    /// Whether its turn failed, or it was given up: then its records are not let go one by one.
    early: bool,
    /// How many operations it has left behind.
    leaked: u64,
}

thread_local! {
    /// The time of the schedules of this thread. A clock wants it for ever.
    static CLOCK: &'static AtomicU64 = kept::for_ever(AtomicU64::new(0));
}

/// Plays the schedule of `seed` to its end. What it met, or what went wrong.
pub(super) fn play(seed: u64, peers_most: u64) -> Result<Played, String> {
    let clock = CLOCK.with(|clock| *clock);
    clock.store(1_000_000, Ordering::Relaxed);
    let mut dice = Dice::new(seed);
    let arrivals = peers(0, peers_most, &mut dice.fork());
    let hosts = peers(100, peers_most, &mut dice.fork());
    let kernel = Kernel::new(dice.fork(), clock, arrivals, hosts);
    let installed = fake::install(kernel);
    let script = &installed.0;
    let book = Rc::new(Book::new(dice.fork(), script.clone()));
    let local = core(clock, &mut dice);
    // Dice of its own: the schedules without it are the same as before there was such a thing.
    let mut limit = Dice::new(seed ^ LIMITS);
    if limit.chance(200) {
        let most = 1 + limit.below(4) as usize;
        local.io.borrow_mut().configure(most, Peers::Masked);
        script.borrow_mut().limited = true;
    }
    // As above.
    let mut queue = Dice::new(seed ^ QUEUES);
    if queue.chance(100) {
        let most = 1 + queue.below(4) as usize;
        local.io.borrow_mut().limit_untaken(most);
        script.borrow_mut().limited = true;
    }
    let coordinator = Coordinator::new(dice.fork(), script.clone(), clock);
    let fails_at = dice.chance(4).then(|| dice.below(80));
    // As above.
    let mut strike = Dice::new(seed ^ STRIKES);
    if strike.chance(10) {
        fake::strike_after(strike.below(80), 1);
    }
    let ended = run(&local, script, &book, coordinator, fails_at);
    fake::strike_after(0, 0);
    let ended = ended?;
    if dice.chance(700) {
        book.let_go();
    }
    nothing_is_left(&local, &ended, script, &book)?;
    drop(local);
    book.settle(ended.leaked)?;
    let kernel = script.borrow();
    Ok(Played {
        met: kernel.met.clone(),
        digest: kernel.digest(),
        turns: ended.turns,
    })
}

/// A few peers, with names from `first` on.
fn peers(first: u8, most: u64, dice: &mut Dice) -> Vec<Peer> {
    let many = if dice.chance(40) { PEERS_MOST } else { 4 };
    let count = dice.below(many).min(most) as u8;
    (0..count)
        .map(|at| Peer::rolled(first + at, dice))
        .collect()
}

/// A core without a thread.
pub(super) fn core(clock: &'static AtomicU64, dice: &mut Dice) -> Rc<Local> {
    let ms = |ms: u64| Duration::from_millis(ms);
    let config = Shutdown::default()
        .linger(ms(dice.pick(&[1, 20, 200])))
        .idle_grace(ms(dice.pick(&[0, 5, 100])));
    let alarm = Arc::new(EventFd::new().expect("a descriptor"));
    let bell = Arc::new(EventFd::new().expect("a descriptor"));
    let clock = Clock::scripted(clock);
    let alarms = std::slice::from_ref(&alarm);
    let shared = Arc::new(Shared::new(clock, config, bell, alarms, &[0]));
    let driver = Driver::open(alarm.clone(), Features::All).expect("a script refuses nothing");
    let station = &shared.stations[0];
    let linger = Duration::from_nanos(shared.config.linger_ns());
    let io = Io::new(driver, station.listening.clone(), clock.now_ns(), linger);
    Rc::new(Local {
        station: station.clone(),
        index: 0,
        cpu: 0,
        main: RefCell::new(None),
        main_ended: Cell::new(false),
        tasks: Tasks::new(station.bell.clone(), station.pulse.clone()),
        io: RefCell::new(io),
        hooks: HookList::default(),
        closed: Cell::new(false),
        rejected: Cell::new(0),
        timers_cancelled: Cell::new(0),
        shared: shared.clone(),
    })
}

/// Turns until the stop has ended the core, or its turn fails.
fn run(
    local: &Rc<Local>,
    script: &Script,
    book: &Rc<Book>,
    mut coordinator: Coordinator,
    fails_at: Option<u64>,
) -> Result<Ended, String> {
    let _entered = context::enter(local.clone());
    let main = users::main(book.clone());
    assert!(local.begin_main(main, Location::caller()));
    let mut stop = CoreStop::new();
    let mut leftovers = Leftovers::default();
    let (mut woke_ns, mut calls) = (None, 0);
    for turns in 0..TURNS_MOST {
        let struck = match struck(|| turn(local, &mut stop, &mut leftovers, woke_ns)) {
            Some(turned) => {
                woke_ns = turned.map_err(|error| format!("the ring failed: {error}"))?;
                false
            }
            None => true,
        };
        as_promised(script, book)?;
        if turns % TURNS_BETWEEN_LOOKS == 0 && !stop.is_over() && !struck {
            sound(local)?;
            if local.io.borrow().holds_back() {
                script.borrow_mut().met.count(Case::AcceptHeldBack);
            }
        }
        let fails = struck || fails_at == Some(turns);
        if let Some(report) = last_word(local, &mut stop, &mut leftovers, fails) {
            let given_up = local.shared.orders.read().gives_up();
            return Ok(Ended {
                turns,
                early: given_up || fails,
                leaked: adds_up(report)?,
            });
        }
        let called = script.borrow().calls > calls;
        calls = script.borrow().calls;
        coordinator.look(local, turns, called);
    }
    Err(format!("it does not end: {stop:?}"))
}

/// What `turn` gives; `None` if it was struck in its midst.
fn struck<T>(turn: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(turn)) {
        Ok(turned) => Some(turned),
        Err(payload) if payload.is::<Struck>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// The report of a core that is over, or whose turn fails now.
fn last_word(
    local: &Rc<Local>,
    stop: &mut CoreStop,
    leftovers: &mut Leftovers,
    fails: bool,
) -> Option<CoreReport> {
    if stop.is_over() {
        Some(stop.report(local))
    } else if fails {
        Some(fail(
            local,
            stop,
            leftovers,
            "as the dice want it".to_owned(),
        ))
    } else {
        None
    }
}

/// Whether the law of the ring was kept so far, and the users got what they were promised.
fn as_promised(script: &Script, book: &Book) -> Result<(), String> {
    match script.borrow().broken() {
        Some(what) => Err(what.to_owned()),
        None => book.look(),
    }
}

/// Whether the records are.
fn sound(local: &Local) -> Result<(), String> {
    let contradiction = local.io.borrow().contradiction();
    contradiction.map_or(Ok(()), Err)
}

/// Whether the report adds up. How many operations were left behind.
pub(super) fn adds_up(report: CoreReport) -> Result<u64, String> {
    let report = Report {
        cores: vec![report],
        ..Report::default()
    };
    let imbalances = report.imbalances();
    if imbalances.is_empty() {
        Ok(report.cores[0].ops.leaked)
    } else {
        Err(imbalances.join("; "))
    }
}

/// Whether the core is as empty as it was at first.
fn nothing_is_left(
    local: &Local,
    ended: &Ended,
    script: &Script,
    book: &Book,
) -> Result<(), String> {
    local.settle(&mut Leftovers::default());
    let mut io = local.io.borrow_mut();
    if !ended.early && ended.leaked > 0 {
        return Err(format!("{} operations were left behind", ended.leaked));
    }
    if ended.leaked == 0 {
        counted_right(&io, script)?;
    }
    let lent = u64::from(io.driver.pool().lent());
    let kept = book.kept_in_pool();
    let left = [
        ("stale completions", io.driver.counts().stale),
        ("records", io.conns.len() as u64),
        ("slots", io.driver.slots().taken() as u64),
        ("timers", u64::from(!io.wheel.is_empty())),
        ("listeners", u64::from(!io.listeners_closed())),
        ("buffers", lent.saturating_sub(kept)),
    ];
    let looked_at = if ended.early { 1 } else { left.len() };
    match left[..looked_at].iter().find(|(_, count)| *count > 0) {
        Some((what, count)) => Err(format!("at the end {count} {what} are left")),
        None => Ok(()),
    }
}

/// Whether what the core has counted is what happened.
fn counted_right(io: &Io, script: &Script) -> Result<(), String> {
    let kernel = script.borrow();
    let happened = (kernel.accepted(), kernel.bytes());
    let tally = &io.tally;
    let counted = (tally.accepted_total, (tally.received, tally.sent));
    if counted == happened {
        Ok(())
    } else {
        Err(format!("counted were {counted:?}, and it was {happened:?}"))
    }
}
