//! A stop in virtual time: the coordinator and its machine as they are, and cores that are played.
//!
//! A played core says at its station what a core says there, and when is in its [`Part`]. It hears
//! an order in the instant in which it is given. Nothing waits: when all that is due has happened,
//! the clock jumps to what is next.

use super::*;
use crate::config::Shutdown;
use crate::core::quiet::Quiet;
use crate::guard::Guard;
use crate::kept;
use crate::mailbox::Letter;
use crate::phase::Instants;
use crate::ring::sys::clock::Clock;
use crate::ring::sys::event::EventFd;
use crate::shared::{Deadlines, Order};
use crate::sync::atomic::{AtomicU64, Ordering};

pub(super) const MS: u64 = 1_000_000;
/// When the stop is called for (ns): a clock does not begin at 0.
pub(super) const START: u64 = 1_000_000 * MS;
/// An instant that no stop lives to see (ms).
pub(super) const NEVER: u64 = 1_000_000_000;
/// More instants than any stop here has.
const INSTANTS_MOST: u32 = 20_000;
/// More rounds than it takes until everybody has heard everybody, in one instant.
const ROUNDS_MOST: u32 = 16;

/// What one core does; all times are milliseconds from the call for the stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    /// Until when it has a task.
    pub(super) works: u64,
    /// When something happens on it that leaves nothing behind: a poll, an accept.
    pub(super) happens: Vec<u64>,
    /// When it posts a letter, and to which core.
    pub(super) posts: Vec<(u64, usize)>,
    /// How long it takes until a letter wakes it; it does nothing else before.
    pub(super) reads_after: u64,
    /// When it registers its hook, 0 being before the call, and how long that takes.
    pub(super) hook: Option<(u64, u64)>,
    /// How long its operations take to end.
    pub(super) closes: u64,
    /// From when until when it does not leave its turn.
    pub(super) hangs: Option<(u64, u64)>,
    /// How much earlier that turn had begun: the process stood still for so long.
    pub(super) stood_still: u64,
}

/// What somebody wants.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Shutdown,
    Within(u64),
    Force,
    Signal,
    /// A guard is taken.
    Hold,
    /// And let go.
    LetGo,
    /// The process stands still for so long.
    Suspend(u64),
}

/// How a stop went; all times are nanoseconds from the call for it.
#[derive(Debug)]
pub(super) struct Stopped {
    /// The phases: start, end, and what ended them.
    pub(super) spans: Vec<(Phase, u64, u64, &'static str)>,
    /// The instants as they were in the end.
    pub(super) instants: Instants,
    /// What the cores were told last.
    pub(super) order: Order,
    /// For each core: the letters it ever got, and whether the others left it out.
    pub(super) cores: Vec<(u64, bool)>,
    /// The guards that were held at the cut.
    pub(super) held: Vec<String>,
    /// In how many instants the coordinator was awake.
    pub(super) instants_awake: u32,
    pub(super) suspended_ns: u64,
}

impl Stopped {
    /// The phases, in whole milliseconds.
    pub(super) fn spans_ms(&self) -> Vec<(Phase, u64, u64, &'static str)> {
        let ms = |&(phase, start, end, by): &_| (phase, start / MS, end / MS, by);
        self.spans.iter().map(ms).collect()
    }

    /// When it was over.
    pub(super) fn end_ns(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.2)
    }
}

/// A stop under way.
pub(super) struct Stage {
    clock: &'static AtomicU64,
    pub(super) shared: Arc<Shared>,
    pub(super) coordinator: Coordinator,
    cores: Vec<Played>,
    /// In their order; taken from the front.
    asks: Vec<(u64, Ask)>,
    guard: Option<Guard>,
    instants_awake: u32,
}

/// Plays a stop to its end.
#[track_caller]
pub(super) fn stop(config: &Shutdown, parts: &[Part], asks: &[(u64, Ask)]) -> Stopped {
    Stage::set(config, parts).plays(asks)
}

impl Stage {
    pub(super) fn set(config: &Shutdown, parts: &[Part]) -> Stage {
        let clock = kept::for_ever(AtomicU64::new(START - MS));
        let eventfd = || Arc::new(EventFd::new().expect("an eventfd"));
        let alarms: Vec<_> = parts.iter().map(|_| eventfd()).collect();
        let cpus: Vec<usize> = (0..parts.len()).collect();
        let clock_of_all = Clock::scripted(clock);
        let shared = Shared::new(clock_of_all, config.clone(), eventfd(), &alarms, &cpus);
        let shared = Arc::new(shared);
        Stage {
            clock,
            coordinator: Coordinator::new(shared.clone(), None, None, None),
            shared,
            cores: parts.iter().cloned().map(Played::of).collect(),
            asks: Vec::new(),
            guard: None,
            instants_awake: 0,
        }
    }

    /// Plays it to its end, with these asks.
    #[track_caller]
    pub(super) fn plays(mut self, asks: &[(u64, Ask)]) -> Stopped {
        self.asks = asks.to_vec();
        self.asks.sort_by_key(|(at, _)| *at);
        loop {
            self.instants_awake += u32::from(self.now_ns() >= START);
            assert!(self.instants_awake < INSTANTS_MOST, "it does not end");
            self.ask_what_is_due();
            if self.is_over_when_all_have_heard() {
                return self.stopped();
            }
            let now_ns = self.now_ns();
            let next_ns = self.next_ns(now_ns);
            let late = "what is due does not happen, and would be waited for without a rest";
            assert!(next_ns > now_ns, "{late}: {} ms", since_start(now_ns) / MS);
            self.clock.store(next_ns, Ordering::Relaxed);
        }
    }

    fn now_ns(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn ask_what_is_due(&mut self) {
        while self
            .asks
            .first()
            .is_some_and(|(ms, _)| at(*ms) <= self.now_ns())
        {
            let (_, ask) = self.asks.remove(0);
            let now_ns = self.now_ns();
            match ask {
                Ask::Shutdown => self.shared.request(Request::Shutdown),
                Ask::Within(ms) => {
                    let limit = Duration::from_millis(ms);
                    self.shared.request(Request::Within(limit));
                }
                Ask::Force => self.shared.request(Request::Force),
                Ask::Signal => self.coordinator.input(now_ns, Input::Signal(15)),
                Ask::Hold => {
                    let site = std::panic::Location::caller();
                    self.guard = self.shared.guards.hold("played".to_owned(), site, None);
                }
                Ask::LetGo => self.guard = None,
                Ask::Suspend(ms) => self.clock.store(now_ns + ms * MS, Ordering::Relaxed),
            }
        }
    }

    /// Lets everybody do what is due until nothing moves any more. Whether all is over.
    #[track_caller]
    fn is_over_when_all_have_heard(&mut self) -> bool {
        let now_ns = self.now_ns();
        for _ in 0..ROUNDS_MOST {
            let before = self.glimpse();
            for (index, core) in self.cores.iter_mut().enumerate() {
                core.act(index, now_ns, &self.shared);
            }
            if self.coordinator.step() {
                return true;
            }
            if self.glimpse() == before {
                return false;
            }
        }
        panic!("it spins at {} ms", since_start(now_ns) / MS);
    }

    /// All that one says to another.
    fn glimpse(&self) -> (Order, Vec<(u32, Option<u64>, u64)>) {
        let of = |station: &Arc<Station>| {
            let letters = station.mailbox.received();
            (station.progress(), station.quiet_reading(), letters)
        };
        let stations = self.shared.stations.iter().map(of).collect();
        (self.shared.orders.read(), stations)
    }

    fn next_ns(&self, now_ns: u64) -> u64 {
        let cores = self.cores.iter().filter_map(|core| core.wake_ns(now_ns));
        let asks = self.asks.first().map(|(ms, _)| at(*ms));
        let coordinator = self.coordinator.wake_ns(now_ns);
        let next = cores.chain(asks).chain(coordinator).min();
        next.expect("somebody wants something")
    }

    fn stopped(self) -> Stopped {
        let machine = &self.coordinator.machine;
        let instants = machine.instants().expect("it has stopped");
        let since = |at_ns: u64| at_ns - instants.start;
        let spans = machine.spans().iter().map(|span| {
            let end_ns = span.end.expect("all are over");
            (span.phase, since(span.start), since(end_ns), span.ended_by)
        });
        let core = |station: &Arc<Station>| (station.mailbox.received(), station.was_left_out());
        Stopped {
            spans: spans.collect(),
            instants,
            order: self.shared.orders.read(),
            cores: self.shared.stations.iter().map(core).collect(),
            held: self
                .coordinator
                .held
                .iter()
                .map(|held| held.name.clone())
                .collect(),
            instants_awake: self.instants_awake,
            suspended_ns: machine.suspended_ns(),
        }
    }
}

/// How far a played core is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scene {
    Running,
    Draining,
    /// Its hook ends then (ns).
    Hooks(u64),
    /// Its hook has ended.
    Waiting,
    /// Its last operation ends then (ns).
    Closing(u64),
    Gone,
}

/// A core and what it remembers.
struct Played {
    part: Part,
    scene: Scene,
    quiet: Quiet,
    /// When the last thing happened (ns).
    activity_ns: u64,
    /// When it will have been quiet for long enough (ns); from its last look in Draining.
    quiet_ns: Option<u64>,
    /// When it reads its letters, if it has any (ns).
    reads_ns: Option<u64>,
}

impl Played {
    fn of(part: Part) -> Played {
        Played {
            part,
            scene: Scene::Running,
            quiet: Quiet::default(),
            activity_ns: 0,
            quiet_ns: None,
            reads_ns: None,
        }
    }

    /// All that is due.
    fn act(&mut self, index: usize, now_ns: u64, shared: &Shared) {
        let station = &shared.stations[index];
        if let Some(since_ns) = self.hangs_since(now_ns) {
            return station.pulse.begin_turn(since_ns);
        }
        station.pulse.rest();
        if self.sleeps_on_a_letter(now_ns, station) {
            return;
        }
        let hook = self.part.hook.map(|(ms, _)| ms);
        if hook.is_some_and(|ms| ms == 0 || at(ms) <= now_ns) {
            let _new = station.advance(progress::HAS_HOOK);
        }
        self.obey(now_ns, station, shared.orders.read());
        self.read_letters(now_ns, station);
        self.post_letters(now_ns, station, shared);
        if self.scene == Scene::Draining {
            self.look_for_quiet(now_ns, station, shared.orders.deadlines());
        }
    }

    fn hangs_since(&self, now_ns: u64) -> Option<u64> {
        let (from, to) = self.part.hangs?;
        (at(from) <= now_ns && now_ns < at(to)).then(|| at(from) - self.part.stood_still * MS)
    }

    fn sleeps_on_a_letter(&mut self, now_ns: u64, station: &Station) -> bool {
        let wakes_ns = now_ns + self.part.reads_after * MS;
        !station.mailbox.is_empty() && *self.reads_ns.get_or_insert(wakes_ns) > now_ns
    }

    fn obey(&mut self, now_ns: u64, station: &Station, order: Order) {
        if order.phase() >= Phase::Draining && self.scene == Scene::Running {
            self.scene = Scene::Draining;
        }
        if order.phase() >= Phase::Hooks && self.scene == Scene::Draining {
            let takes = self.part.hook.map_or(0, |(_, takes)| takes);
            self.scene = Scene::Hooks(now_ns + takes * MS);
        }
        if let Scene::Hooks(end_ns) = self.scene {
            if now_ns >= end_ns || order.hooks_are_cut() {
                self.scene = Scene::Waiting;
                let _new = station.advance(progress::HOOKS_DONE);
            }
        }
        if order.phase() >= Phase::Closing && self.scene == Scene::Waiting {
            self.scene = Scene::Closing(now_ns + self.part.closes * MS);
            station.mailbox.close();
        }
        if let Scene::Closing(end_ns) = self.scene {
            if now_ns >= end_ns || order.gives_up() {
                self.scene = Scene::Gone;
                let _new = station.advance(progress::GONE);
            }
        }
    }

    /// A letter breaks the quiet before it counts as handled.
    fn read_letters(&mut self, now_ns: u64, station: &Station) {
        self.reads_ns = None;
        while station.mailbox.take().is_some() {
            station.break_quiet();
            station.handled.fetch_add(1, Ordering::SeqCst);
            self.activity_ns = now_ns;
        }
    }

    fn post_letters(&mut self, now_ns: u64, station: &Station, shared: &Shared) {
        let due = |(ms, _): &(u64, usize)| at(*ms) <= now_ns;
        let (now, later) = self.part.posts.iter().partition(|post| due(post));
        self.part.posts = later;
        let now: Vec<(u64, usize)> = now;
        for (_, to) in now {
            // Refused in Closing, as it should be.
            let _refused = shared.stations[to]
                .mailbox
                .post(Letter::of(|| {}), &station.sent);
        }
    }

    /// As `CoreStop::look_for_quiet` does.
    fn look_for_quiet(&mut self, now_ns: u64, station: &Station, deadlines: Deadlines) {
        let happened = self.part.happens.iter().map(|ms| at(*ms));
        let happened = happened.filter(|at_ns| *at_ns <= now_ns).max();
        self.activity_ns = self.activity_ns.max(happened.unwrap_or(0));
        let works = at(self.part.works) > now_ns || !self.part.posts.is_empty();
        self.quiet
            .look(now_ns, !works && station.mailbox.is_empty());
        let quiet_ns = self
            .quiet
            .at_ns(self.activity_ns, deadlines.start, deadlines.quiet);
        if quiet_ns.is_some_and(|at_ns| at_ns <= now_ns) {
            station.set_quiet();
        } else {
            station.break_quiet();
        }
        self.part.happens.retain(|ms| at(*ms) > now_ns);
        self.quiet_ns = quiet_ns;
    }

    /// When it does something, if nobody calls (ns).
    fn wake_ns(&self, now_ns: u64) -> Option<u64> {
        if self.hangs_since(now_ns).is_some() {
            return self.part.hangs.map(|(_, to)| at(to));
        }
        let Part {
            works,
            happens,
            posts,
            hook,
            hangs,
            ..
        } = &self.part;
        let scripted = [
            Some(*works),
            hook.map(|(ms, _)| ms),
            hangs.map(|(from, _)| from),
        ];
        let scripted = scripted.into_iter().flatten();
        let scripted = scripted.chain(happens.iter().copied());
        let scripted = scripted.chain(posts.iter().map(|(ms, _)| *ms)).map(at);
        let ends = match self.scene {
            Scene::Hooks(end_ns) | Scene::Closing(end_ns) => Some(end_ns),
            Scene::Draining => self.quiet_ns,
            _ => None,
        };
        let all = scripted.chain(ends).chain(self.reads_ns);
        all.filter(|at_ns| *at_ns > now_ns).min()
    }
}

/// The instant so many milliseconds after the call (ns).
fn at(ms: u64) -> u64 {
    START + ms * MS
}

fn since_start(at_ns: u64) -> u64 {
    at_ns.saturating_sub(START)
}
