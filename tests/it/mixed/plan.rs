//! What happens in one mixed stop: all of it from one number.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use evenfall::report::Verdict;

/// One stop.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The whole budget.
    pub(super) timeout_ms: u64,
    /// The length of a turn that makes a core a stuck one.
    pub(super) stuck_after_ms: u64,
    /// What calls for the stop.
    pub(super) trigger: Trigger,
    /// For how long after the trigger a guard is held.
    pub(super) guard: Option<Lasts>,
    /// For how long after the trigger the process may open no descriptor, if it is kept from it:
    /// those who connected just before wait in the backlog.
    pub(super) limited_ms: Option<u64>,
    /// Whether the coordinator hangs once it has ordered the drain.
    pub(super) wedged: bool,
    /// What each core has to cope with.
    pub(super) cores: Vec<Vec<Trouble>>,
}

/// What calls for the stop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trigger {
    /// SIGTERM.
    Signal,
    /// `Handle::shutdown`.
    Api,
    /// SIGTERM, and again after so many milliseconds.
    TwoSignals(u64),
    /// SIGTERM and SIGINT as often as it can be done in a time in which they count once.
    Storm,
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasts {
    /// So many milliseconds.
    Ms(u64),
    /// Longer than the process.
    ForEver,
}

/// Something that makes a stop difficult for one core. What blocks it begins
/// with Draining, or with the hook it is in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    /// A task that computes.
    Spins(Lasts),
    /// A task in a blocking sleep.
    Sleeps(Lasts),
    /// A hook in a blocking sleep.
    HookSleeps(Lasts),
    /// A task that waits for ever.
    NeverEnds,
    /// A task that spawns its like when it ends, as does that one.
    Resubmits,
    /// A task that panics.
    Panics,
    /// A client that asks for more than fits and reads nothing.
    DeafClient,
    /// A client that resets its connection in the middle of a request.
    VanishingClient,
    /// Clients that send more than the pool has buffers, and a handler that holds all of it.
    Hoards,
    /// The kernel refuses all that the core asks of it from Draining on.
    CoreDies,
    /// The main future ends in an error.
    MainFails,
    /// A `spawn_after` that is due in the drain, and one that is not.
    Timers,
    /// Letters from core to core, for so many milliseconds.
    Letters(u64),
    /// A hook that returns an error.
    HookFails,
    /// A hook that panics.
    HookPanics,
    /// A hook that does not end in its budget.
    HookOverruns,
}

/// How long a core is blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Blocked {
    /// Not, or for so short a time that nobody need notice.
    Hardly,
    /// So long that it may be left out, and may come back.
    Long,
    /// It is stuck.
    ForEver,
}

impl Plan {
    /// The plan that `seed` stands for, on a machine of so many processors.
    pub(super) fn of(seed: u64, cpus: usize) -> Plan {
        let mut dice = Dice { state: seed };
        let timeout_ms = dice.within(300..=900);
        let stuck_after_ms = [100, 150, 250][dice.below(3)];
        let cores = (2 + dice.below(3)).min(cpus);
        let mut plan = Plan {
            timeout_ms,
            stuck_after_ms,
            trigger: match dice.below(5) {
                0 | 1 => Trigger::Signal,
                2 => Trigger::Api,
                3 => Trigger::Storm,
                // More than the 300 ms in which two signals count as one.
                _ => Trigger::TwoSignals(dice.within(310..=380)),
            },
            guard: match dice.below(8) {
                0 => Some(Lasts::ForEver),
                1 | 2 => Some(Lasts::Ms(dice.within(20..=40))),
                _ => None,
            },
            limited_ms: (dice.below(4) == 0).then(|| dice.within(20..=60)),
            wedged: dice.below(14) == 0,
            cores: Vec::new(),
        };
        for _ in 0..cores {
            let troubles = plan.core(&mut dice);
            plan.cores.push(troubles);
        }
        if plan.wedged {
            // So that there is a drain to hang in.
            plan.cores[0] = vec![Trouble::NeverEnds];
        }
        plan
    }

    /// The troubles of one core; of those that block it, and its death, at most one: it would depend
    /// on their order which of them is seen.
    fn core(&self, dice: &mut Dice) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        if dice.below(2) == 0 {
            let lasts = self.lasts(dice);
            troubles.push(match dice.below(7) {
                0 | 1 => Trouble::Spins(lasts),
                2 | 3 => Trouble::Sleeps(lasts),
                4 | 5 => Trouble::HookSleeps(lasts),
                _ => Trouble::CoreDies,
            });
        }
        for _ in 0..dice.below(4) {
            troubles.push(match dice.below(16) {
                15 => Trouble::Hoards,
                0 => Trouble::NeverEnds,
                1 => Trouble::Resubmits,
                2 | 3 => Trouble::Panics,
                4 => Trouble::DeafClient,
                5 | 6 => Trouble::VanishingClient,
                7 => Trouble::MainFails,
                8 | 9 => Trouble::Timers,
                10 | 11 => Trouble::Letters(dice.within(10..=40)),
                12 => Trouble::HookFails,
                13 => Trouble::HookPanics,
                _ => Trouble::HookOverruns,
            });
        }
        troubles
    }

    /// Well below `stuck_after` and the shortest drain, or well above.
    fn lasts(&self, dice: &mut Dice) -> Lasts {
        match dice.below(5) {
            0 => Lasts::ForEver,
            1 | 2 => Lasts::Ms(dice.within(10..=40)),
            _ => Lasts::Ms(dice.within(self.stuck_after_ms + 100..=self.timeout_ms + 300)),
        }
    }

    /// Whether this core's turn fails.
    pub(super) fn dies(&self, core: usize) -> bool {
        let all = &self.cores[core];
        all.iter()
            .any(|trouble| matches!(trouble, Trouble::CoreDies))
    }

    /// For how long this core is blocked.
    pub(super) fn blocked(&self, core: usize) -> Blocked {
        let of_one = |trouble: &Trouble| match trouble.blocks() {
            None => Blocked::Hardly,
            Some(Lasts::ForEver) => Blocked::ForEver,
            Some(Lasts::Ms(ms)) if ms < self.stuck_after_ms => Blocked::Hardly,
            Some(Lasts::Ms(_)) => Blocked::Long,
        };
        let all = self.cores[core].iter().map(of_one);
        all.max().unwrap_or(Blocked::Hardly)
    }

    /// The hard deadline, from the trigger on. Whoever forces a stop near its end
    /// leaves it one turn of 50 ms.
    pub(super) fn hard_ms(&self) -> u64 {
        match self.trigger {
            Trigger::TwoSignals(apart_ms) if apart_ms < self.timeout_ms + 50 => {
                self.timeout_ms.max(apart_ms + 50)
            }
            _ => self.timeout_ms,
        }
    }

    /// The best and the worst verdict that these troubles allow.
    pub(super) fn verdicts(&self) -> RangeInclusive<Verdict> {
        let held = match self.guard {
            Some(Lasts::ForEver) => Verdict::Forced,
            _ => Verdict::Clean,
        };
        let (mut least, mut most) = (held, held);
        for core in 0..self.cores.len() {
            let of_core = self.verdicts_of(core);
            least = least.max(*of_core.start());
            most = most.max(*of_core.end());
        }
        least..=most
    }

    fn verdicts_of(&self, core: usize) -> RangeInclusive<Verdict> {
        let troubles = &self.cores[core];
        let worst = |least: bool| {
            let all = troubles.iter().map(|trouble| trouble.verdicts());
            let ends = all.map(|range| if least { *range.start() } else { *range.end() });
            ends.max().unwrap_or(Verdict::Clean)
        };
        match self.blocked(core) {
            Blocked::Hardly => worst(true)..=worst(false),
            // What it was to fail by may have been cut, and what was cut never
            // have begun; but neither has ended well.
            Blocked::Long => worst(true).min(Verdict::Forced)..=Verdict::Stuck,
            Blocked::ForEver => Verdict::Stuck..=Verdict::Stuck,
        }
    }
}

impl Trouble {
    /// For how long it blocks its core.
    pub(super) fn blocks(&self) -> Option<Lasts> {
        match self {
            Trouble::Spins(lasts) | Trouble::Sleeps(lasts) | Trouble::HookSleeps(lasts) => {
                Some(*lasts)
            }
            _ => None,
        }
    }

    /// What it makes of a core that is not blocked for long.
    fn verdicts(&self) -> RangeInclusive<Verdict> {
        match self {
            Trouble::NeverEnds | Trouble::Resubmits | Trouble::DeafClient => {
                Verdict::Forced..=Verdict::Forced
            }
            Trouble::MainFails | Trouble::CoreDies => Verdict::Failed..=Verdict::Failed,
            Trouble::HookFails | Trouble::HookPanics | Trouble::HookOverruns => {
                Verdict::Degraded..=Verdict::Degraded
            }
            // Whatever of an answer was on its way is lost.
            Trouble::VanishingClient => Verdict::Clean..=Verdict::Degraded,
            Trouble::Spins(_)
            | Trouble::Sleeps(_)
            | Trouble::HookSleeps(_)
            | Trouble::Panics
            | Trouble::Hoards
            | Trouble::Timers
            | Trouble::Letters(_) => Verdict::Clean..=Verdict::Clean,
        }
    }

    /// Its name, without its numbers.
    pub(super) fn name(&self) -> String {
        let words = format!("{self:?}");
        let end = words.find('(').unwrap_or(words.len());
        words[..end].to_owned()
    }
}

/// Splitmix64: each number follows from the state alone.
struct Dice {
    state: u64,
}

impl Dice {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }
}
