//! What the cores, the coordinator and foreign threads of one runtime share: the stop's orders, a
//! station for each core, and requests to the coordinator.
//!
//! A shutdown letter is a word, not a message: it cannot queue behind other letters, get lost or
//! arrive twice, and a core reads it first thing in every turn.

#![forbid(unsafe_code)]

#[cfg(all(test, loom))]
mod models;

use std::time::Duration;

use crate::board::Board;
use crate::config::Shutdown;
use crate::guard::Guards;
use crate::hooks::ProcessHooks;
use crate::io::listening::Listening;
use crate::mailbox::{Bell, Mailbox};
use crate::panics::quietly;
use crate::phase::{Instants, Phase};
use crate::report::CoreReport;
use crate::ring::sys::clock::Clock;
use crate::ring::sys::event::EventFd;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};
use crate::task::Pulse;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The runtime's time.
    pub(crate) clock: Clock,
    /// How to stop.
    pub(crate) config: Shutdown,
    /// What the coordinator has ordered.
    pub(crate) orders: Orders,
    /// One for each core, by its index.
    pub(crate) stations: Vec<Arc<Station>>,
    /// The sockets that listen since their bind and that no core has taken.
    pub(crate) untaken: Arc<Listening>,
    /// Wakes the coordinator.
    pub(crate) bell: Arc<EventFd>,
    /// What is announced: phases and the outcome.
    pub(crate) board: Arc<Board>,
    /// What a stop waits for besides tasks and connections.
    pub(crate) guards: Arc<Guards>,
    /// The hooks of the process.
    pub(crate) process_hooks: ProcessHooks,
    /// What was asked of the coordinator and it has not seen.
    requests: Mutex<Vec<Request>>,
    /// Letters posted by threads that are no core of this runtime.
    pub(crate) foreign_letters: AtomicU64,
}

/// What a handle can ask of the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Begin the stop.
    Shutdown,
    /// Begin the stop, or change its time, to end within this.
    Within(Duration),
    /// End draining at once.
    Force,
}

impl Shared {
    /// The shared part of a runtime whose cores are woken by `alarms`, each on its one of `cpus`.
    pub(crate) fn new(
        clock: Clock,
        config: Shutdown,
        bell: Arc<EventFd>,
        alarms: &[Arc<EventFd>],
        cpus: &[usize],
    ) -> Shared {
        Shared {
            clock,
            config,
            orders: Orders::default(),
            stations: std::iter::zip(alarms, cpus)
                .map(|(alarm, cpu)| Arc::new(Station::new(alarm.clone(), *cpu)))
                .collect(),
            untaken: Arc::default(),
            board: Arc::default(),
            guards: Arc::new(Guards::new(bell.clone(), clock)),
            process_hooks: ProcessHooks::default(),
            bell,
            requests: Mutex::new(Vec::new()),
            foreign_letters: AtomicU64::new(0),
        }
    }

    /// How long the stop has until its hard deadline; nothing when that is past. A stop
    /// that is over early has the rest of its time all the same: whoever saw it sees its deadline.
    pub(crate) fn time_left(&self) -> Duration {
        let hard_ns = self.orders.deadlines().hard;
        Duration::from_nanos(hard_ns.saturating_sub(self.clock.now_ns()))
    }

    /// Asks something of the coordinator.
    pub(crate) fn request(&self, request: Request) {
        lock(&self.requests).push(request);
        self.bell.ring();
    }

    /// Takes what was asked.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut *lock(&self.requests))
    }

    /// Makes every core look at its orders.
    pub(crate) fn ring_all(&self) {
        for station in &self.stations {
            station.bell.ring();
        }
    }
}

/// The place where a core and the others meet.
#[derive(Debug)]
pub(crate) struct Station {
    /// Letters for this core.
    pub(crate) mailbox: Mailbox,
    /// Wakes this core.
    pub(crate) bell: Arc<Bell>,
    /// Its listening sockets.
    pub(crate) listening: Arc<Listening>,
    /// Its heartbeat.
    pub(crate) pulse: Arc<Pulse>,
    /// The processor it is pinned to.
    pub(crate) cpu: usize,
    /// Letters this core posted to others, or to itself.
    pub(crate) sent: AtomicU64,
    /// Letters this core has taken out of its mailbox and run.
    pub(crate) handled: AtomicU64,
    /// How far the core is: a set of `progress` bits, added to only, but for `HOOKS_DONE`.
    progress: AtomicU32,
    /// Set by the coordinator when the others left Draining without this core, before the order.
    left_out: AtomicBool,
    /// The lowest bit: the core is quiet. The others count how often its quiet was broken, so two
    /// equal readings mean that it was not broken in between.
    quiet: AtomicU64,
    /// The core's last word, there when `progress::GONE` is.
    report: Mutex<Option<CoreReport>>,
}

/// After how many letters a core that gives them up shows that it goes on.
const LETTERS_BETWEEN: u64 = 16;

/// The bits of a core's progress.
pub(crate) mod progress {
    /// The main future has ended.
    pub(crate) const MAIN_ENDED: u32 = 1;
    /// It ended in an error or a panic; set together with `MAIN_ENDED`.
    pub(crate) const MAIN_FAILED: u32 = 1 << 1;
    /// A hook was registered.
    pub(crate) const HAS_HOOK: u32 = 1 << 2;
    /// All hooks have run; never before the order to run them. Taken back when one is registered
    /// after that and Closing was not ordered yet.
    pub(crate) const HOOKS_DONE: u32 = 1 << 3;
    /// The ring is closed and the report is there; the thread only has to return.
    pub(crate) const GONE: u32 = 1 << 4;
    /// The turn itself failed: a defect or a dying kernel; set before `GONE`.
    pub(crate) const FAILED: u32 = 1 << 5;
}

impl Station {
    /// The station of a core that has not started.
    pub(crate) fn new(alarm: Arc<EventFd>, cpu: usize) -> Station {
        let bell = Arc::new(Bell::new(alarm));
        Station {
            mailbox: Mailbox::new(bell.clone()),
            bell,
            listening: Arc::default(),
            pulse: Arc::default(),
            cpu,
            sent: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            progress: AtomicU32::new(0),
            left_out: AtomicBool::new(false),
            quiet: AtomicU64::new(0),
            report: Mutex::new(None),
        }
    }

    /// Adds `bits`; whether any of them is new.
    #[must_use]
    pub(crate) fn advance(&self, bits: u32) -> bool {
        // Release: whoever sees the bits sees what led to them, the report above all.
        self.progress.fetch_or(bits, Ordering::AcqRel) & bits != bits
    }

    /// Takes `bits` back. Only the core does, and only before it is gone.
    pub(crate) fn retract(&self, bits: u32) {
        self.progress.fetch_and(!bits, Ordering::AcqRel);
    }

    /// How far the core is.
    pub(crate) fn progress(&self) -> u32 {
        self.progress.load(Ordering::Acquire)
    }

    /// Says that the others go on without this core: it was stuck.
    pub(crate) fn leave_out(&self) {
        // The order that follows is what publishes it.
        self.left_out.store(true, Ordering::Relaxed);
    }

    /// Whether the others left Draining without this core.
    pub(crate) fn was_left_out(&self) -> bool {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Says that the core is quiet. Only the core says so.
    pub(crate) fn set_quiet(&self) {
        self.quiet.fetch_or(1, Ordering::SeqCst);
    }

    /// Says that the core is not quiet any more. Only the core says so, and before it counts the
    /// letter that broke it as handled.
    pub(crate) fn break_quiet(&self) {
        if self.quiet.load(Ordering::Relaxed) & 1 == 1 {
            // From 2n+1 to 2n+2: not quiet, and a count that was not there before.
            self.quiet.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Takes no letter any more, and drops those that were not run. How many. `goes_on` is called
    /// now and then in between.
    pub(crate) fn give_back_letters(&self, goes_on: &mut dyn FnMut()) -> u64 {
        self.mailbox.close();
        let mut returned = 0;
        while let Some(letter) = self.mailbox.take() {
            returned += 1;
            quietly(|| drop(letter));
            if returned % LETTERS_BETWEEN == 0 {
                goes_on();
            }
        }
        returned
    }

    /// The reading of the quiet word, if it says quiet and every letter is handled.
    pub(crate) fn quiet_reading(&self) -> Option<u64> {
        // The word last: a letter that is handled between the two looks has then broken it. The other
        // way round it is balanced again, and the word is one from before it came.
        let balanced = self.handled.load(Ordering::SeqCst) == self.mailbox.received();
        let reading = self.quiet.load(Ordering::SeqCst);
        (reading & 1 == 1 && balanced).then_some(reading)
    }

    /// Leaves the core's last word.
    pub(crate) fn leave_report(&self, report: CoreReport) {
        *lock(&self.report) = Some(report);
    }

    /// Takes the core's last word.
    pub(crate) fn take_report(&self) -> Option<CoreReport> {
        lock(&self.report).take()
    }
}

/// What the coordinator has ordered. The instants are written before the word, so no core ever
/// sees a stop without its budget.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// The lowest byte is the phase; above it the `order` bits and a count of publications.
    word: AtomicU32,
    /// When the stop began (ns).
    start: AtomicU64,
    /// See [`Instants`] (ns).
    drain_deadline: AtomicU64,
    /// See [`Instants`] (ns).
    hook_deadline: AtomicU64,
    /// See [`Instants`] (ns).
    hard_deadline: AtomicU64,
    /// See [`Instants`] (ns).
    quiet: AtomicU64,
}

/// The deadlines a core needs (ns).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deadlines {
    /// When the stop began.
    pub(crate) start: u64,
    /// When draining ends by a cut.
    pub(crate) drain: u64,
    /// When hooks are given up.
    pub(crate) hooks: u64,
    /// When the core is given up.
    pub(crate) hard: u64,
    /// How long quiescence must last; a duration.
    pub(crate) quiet: u64,
}

/// One reading of the orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order(u32);

/// Set when draining ended by a cut; never taken back.
const CUT: u32 = 1 << 8;
/// Set when the hooks' time is over; never taken back.
const CUT_HOOKS: u32 = 1 << 9;
/// Set when the core's time is over; never taken back.
const GIVE_UP: u32 = 1 << 10;
/// One publication of instants.
const PUBLICATION: u32 = 1 << 11;

impl Order {
    /// The phase.
    pub(crate) fn phase(self) -> Phase {
        Phase::from_u8(self.0 as u8).unwrap_or(Phase::Terminated)
    }

    /// Whether draining ended by a cut.
    pub(crate) fn is_cut(self) -> bool {
        self.0 & CUT != 0
    }

    /// Whether the hooks' time is over.
    pub(crate) fn hooks_are_cut(self) -> bool {
        self.0 & CUT_HOOKS != 0
    }

    /// Whether the core's time is over.
    pub(crate) fn gives_up(self) -> bool {
        self.0 & GIVE_UP != 0
    }
}

impl Orders {
    /// The orders now.
    pub(crate) fn read(&self) -> Order {
        Order(self.word.load(Ordering::Acquire))
    }

    /// The deadlines of the last publication this thread has read an order of, or later ones.
    pub(crate) fn deadlines(&self) -> Deadlines {
        Deadlines {
            start: self.start.load(Ordering::Relaxed),
            drain: self.drain_deadline.load(Ordering::Relaxed),
            hooks: self.hook_deadline.load(Ordering::Relaxed),
            hard: self.hard_deadline.load(Ordering::Relaxed),
            quiet: self.quiet.load(Ordering::Relaxed),
        }
    }

    /// Publishes instants. Coordinator only, as are all that follow.
    pub(crate) fn publish(&self, instants: &Instants) {
        self.start.store(instants.start, Ordering::Relaxed);
        self.drain_deadline
            .store(instants.drain_deadline, Ordering::Relaxed);
        self.hook_deadline
            .store(instants.hook_deadline, Ordering::Relaxed);
        self.hard_deadline
            .store(instants.hard_deadline, Ordering::Relaxed);
        self.quiet.store(instants.quiet_ns, Ordering::Relaxed);
        self.word.fetch_add(PUBLICATION, Ordering::Release);
    }

    /// Orders the next phase.
    pub(crate) fn enter(&self, phase: Phase) {
        let word = self.word.load(Ordering::Relaxed);
        self.word
            .store((word & !0xff) | u32::from(phase as u8), Ordering::Release);
    }

    /// Orders the cut.
    pub(crate) fn cut(&self) {
        self.word.fetch_or(CUT, Ordering::Release);
    }

    /// Orders the end of hooks.
    pub(crate) fn cut_hooks(&self) {
        self.word.fetch_or(CUT_HOOKS, Ordering::Release);
    }

    /// Orders the end, whatever is still out.
    pub(crate) fn give_up(&self) {
        self.word.fetch_or(GIVE_UP, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::Letter;

    fn station() -> Station {
        Station::new(Arc::new(EventFd::new().expect("an eventfd")), 0)
    }

    #[test]
    fn a_letter_breaks_the_quiet_before_it_counts_as_handled() {
        let station = station();
        station.set_quiet();
        let first = station.quiet_reading().expect("quiet, no letters");
        assert!(
            station
                .mailbox
                .post(Letter::of(|| {}), &station.sent)
                .is_ok()
        );
        assert_eq!(station.quiet_reading(), None, "a letter waits");
        station.mailbox.take().expect("the letter").run();
        station.break_quiet();
        station.handled.fetch_add(1, Ordering::SeqCst);
        assert_eq!(station.quiet_reading(), None, "its work may go on");
        station.set_quiet();
        assert_ne!(
            station.quiet_reading(),
            Some(first),
            "the quiet was broken in between"
        );
    }

    /// The order of the writes is the promise: the instants, then the word with a release, which is
    /// the one thing that readers look at first.
    #[test]
    fn whoever_reads_a_phase_reads_its_instants() {
        for round in 1..=2_000_u64 {
            let orders = Arc::new(Orders::default());
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let orders = orders.clone();
                    std::thread::spawn(move || {
                        while orders.read().phase() == Phase::Running {
                            std::hint::spin_loop();
                        }
                        orders.deadlines()
                    })
                })
                .collect();
            orders.publish(&instants(round));
            orders.enter(Phase::Draining);
            for reader in readers {
                let read = reader.join().expect("a reader");
                let all = [read.start, read.drain, read.hooks, read.hard, read.quiet];
                assert_eq!(all, [round; 5]);
            }
        }
    }

    /// Instants that all have the same value.
    fn instants(ns: u64) -> Instants {
        Instants {
            start: ns,
            notice_end: ns,
            drain_deadline: ns,
            hook_deadline: ns,
            hard_deadline: ns,
            quiet_ns: ns,
        }
    }

    #[test]
    fn an_order_keeps_the_bits_of_earlier_ones() {
        let orders = Orders::default();
        assert_eq!(orders.read().phase(), Phase::Running);
        orders.enter(Phase::Draining);
        orders.cut();
        orders.enter(Phase::Hooks);
        let order = orders.read();
        assert_eq!((order.phase(), order.is_cut()), (Phase::Hooks, true));
        assert!(!order.hooks_are_cut() && !order.gives_up());
    }
}
