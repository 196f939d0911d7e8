//! The watch over the cores' turns while nothing stops, for whoever has asked for it.
//!
//! ```text
//!        its turn has lasted for stall_after          another turn, or none
//!  Well ─────────────────────────────────────▶ Stalled ────────────────────▶ Well
//!                   Began                                    Ended
//! ```
//! The cores are looked at four times in `stall_after`, from the coordinator's thread: a core pays
//! nothing for being watched. So a turn is found between `stall_after` and a quarter more after it
//! has begun, and what is told of its length is what was seen, never more than it took.
//!
//! Where nobody has asked, there is no such watch, and the coordinator sleeps until it is called.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::autopsy;
use super::watch::Watch;
use crate::clock::ns;
use crate::config::{STALL_LOOK_MAX, STALL_LOOK_MIN, STALLS_KEPT};
use crate::report::{StallReport, ms, ms_from};
use crate::shared::Station;
use crate::stall::{Stall, StallEvent};
use crate::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct StallWatch {
    /// The length of a turn that is too long (ns).
    after_ns: u64,
    /// What is known of each core, by its index.
    cores: Vec<Core>,
    /// How many stalls there were.
    total: u64,
    /// The longest of those that are over; at most `STALLS_KEPT`.
    longest: Vec<Seen>,
}

/// One core.
#[derive(Debug, Default)]
struct Core {
    /// The watch over its turns.
    watch: Watch,
    /// Its stall, while there is one.
    stall: Option<Seen>,
}

/// A stall that was seen.
#[derive(Clone, Debug)]
struct Seen {
    /// When the turn began (ns), which is also its name.
    began_ns: u64,
    /// What was announced of it; `lasted` is kept up to date.
    stall: Stall,
}

impl StallWatch {
    /// A watch over `cores` cores for turns of `after`.
    pub(super) fn new(after: Duration, cores: usize) -> StallWatch {
        StallWatch {
            after_ns: ns(after),
            cores: std::iter::repeat_with(Core::default).take(cores).collect(),
            total: 0,
            longest: Vec::new(),
        }
    }

    /// How often the cores are looked at.
    pub(super) fn period(&self) -> Duration {
        Duration::from_nanos(self.after_ns / 4).clamp(STALL_LOOK_MIN, STALL_LOOK_MAX)
    }

    /// Looks at every core. With `begins` off, only for stalls that are over.
    pub(super) fn look(
        &mut self,
        now_ns: u64,
        stations: &[Arc<Station>],
        begins: bool,
    ) -> Vec<StallEvent> {
        debug_assert_eq!(stations.len(), self.cores.len());
        let mut events = Vec::new();
        for (core, station) in stations.iter().enumerate().take(self.cores.len()) {
            let turn_ns = station.pulse.turn_ns();
            if let Some(stall) = self.over(core, now_ns, turn_ns) {
                events.push(StallEvent::Ended(stall));
            }
            if !begins {
                continue;
            }
            if let Some(began_ns) = self.is_too_long(core, now_ns, turn_ns) {
                let stall = stall_of(core, station, began_ns, now_ns);
                // It may have moved while it was looked at; then nothing of that is right.
                if station.pulse.turn_ns() == Some(began_ns) {
                    self.begin(core, began_ns, &stall);
                    events.push(StallEvent::Began(stall));
                }
            }
        }
        events
    }

    /// The process was suspended, until now: no turn is to be blamed for that.
    pub(super) fn resume(&mut self, now_ns: u64) {
        for core in &mut self.cores {
            core.watch.resume(now_ns);
        }
    }

    /// Looks at one core, whose turn began at `turn_ns`. That of a turn that is too long, unless it
    /// is known.
    fn is_too_long(&mut self, core: usize, now_ns: u64, turn_ns: Option<u64>) -> Option<u64> {
        let seen_for_ns = ns(self.period()) / 2;
        let core = &mut self.cores[core];
        let long = core.watch.look(now_ns, turn_ns, self.after_ns, seen_for_ns);
        turn_ns.filter(|_| long && core.stall.is_none())
    }

    /// The stall of a core begins.
    fn begin(&mut self, core: usize, began_ns: u64, stall: &Stall) {
        self.total += 1;
        let stall = stall.clone();
        self.cores[core].stall = Some(Seen { began_ns, stall });
    }

    /// The stall of a core, if that has moved since; otherwise it is longer now.
    fn over(&mut self, core: usize, now_ns: u64, turn_ns: Option<u64>) -> Option<Stall> {
        let place = &mut self.cores[core].stall;
        let seen = place.as_mut()?;
        if turn_ns == Some(seen.began_ns) {
            seen.stall.lasted = Duration::from_nanos(now_ns.saturating_sub(seen.began_ns));
            return None;
        }
        let seen = place.take()?;
        self.longest.push(seen.clone());
        keep_longest(&mut self.longest);
        Some(seen.stall)
    }

    /// How many stalls there were, and the longest of them: those that are over, and those that
    /// are not.
    pub(super) fn report(&self, start_ns: u64) -> (u64, Vec<StallReport>) {
        let under_way = self.cores.iter().filter_map(|core| core.stall.clone());
        let over = self.longest.iter().cloned().map(|seen| (seen, true));
        let mut all: Vec<(Seen, bool)> = over.chain(under_way.map(|seen| (seen, false))).collect();
        all.sort_by_key(|(seen, _)| std::cmp::Reverse(seen.stall.lasted));
        all.truncate(STALLS_KEPT);
        let reports = all.into_iter().map(|(seen, over)| StallReport {
            core: seen.stall.core,
            task: seen.stall.task,
            spawned_at: seen.stall.spawned_at,
            began_ms: ms_from(start_ns, seen.began_ns),
            lasted_ms: ms(ns(seen.stall.lasted)),
            over,
            state: seen.stall.state,
            wchan: seen.stall.wchan,
        });
        (self.total, reports.collect())
    }
}

/// Forgets the shortest where there are too many.
fn keep_longest(longest: &mut Vec<Seen>) {
    longest.sort_by_key(|seen| std::cmp::Reverse(seen.stall.lasted));
    longest.truncate(STALLS_KEPT);
}

/// What can be said of a core in the middle of its turn.
fn stall_of(core: usize, station: &Station, began_ns: u64, now_ns: u64) -> Stall {
    let found = autopsy::of(station, autopsy::Asked::default(), began_ns, now_ns);
    Stall {
        core,
        lasted: Duration::from_nanos(now_ns.saturating_sub(began_ns)),
        task: found.task,
        spawned_at: found.spawned_at,
        state: found.state,
        wchan: found.wchan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::sys::event::EventFd;

    const MS: u64 = 1_000_000;

    /// Two cores, watched for turns of 100 ms, which are looked at every 25.
    fn watched() -> (StallWatch, Vec<Arc<Station>>) {
        let alarm = || Arc::new(EventFd::new().expect("an eventfd"));
        let station = || Arc::new(Station::new(alarm(), 0));
        let watch = StallWatch::new(Duration::from_millis(100), 2);
        (watch, vec![station(), station()])
    }

    fn looked(watch: &mut StallWatch, stations: &[Arc<Station>], at_ms: u64) -> Vec<StallEvent> {
        watch.look(at_ms * MS, stations, true)
    }

    #[test]
    fn a_turn_that_is_too_long_begins_and_ends_once() {
        let (mut watch, stations) = watched();
        stations[1].pulse.begin_turn(10 * MS);
        for at_ms in [25, 50, 75, 100] {
            assert_eq!(looked(&mut watch, &stations, at_ms), [], "{at_ms} ms");
        }
        let began = looked(&mut watch, &stations, 125);
        let [StallEvent::Began(stall)] = &began[..] else {
            panic!("{began:?}");
        };
        assert_eq!((stall.core, stall.lasted.as_millis()), (1, 115));
        assert_eq!(looked(&mut watch, &stations, 150), [], "once");
        stations[1].pulse.begin_turn(160 * MS);
        let ended = looked(&mut watch, &stations, 175);
        let [StallEvent::Ended(stall)] = &ended[..] else {
            panic!("{ended:?}");
        };
        // As long as it was seen: it was there at 150.
        assert_eq!(stall.lasted.as_millis(), 140);
        let (total, longest) = watch.report(1_000 * MS);
        assert_eq!((total, longest.len()), (1, 1));
        assert_eq!((longest[0].began_ms, longest[0].over), (-990.0, true));
    }

    #[test]
    fn a_core_that_sleeps_in_its_ring_or_turns_often_does_not_stall() {
        let (mut watch, stations) = watched();
        for at_ms in (0..5_000).step_by(25) {
            stations[0].pulse.begin_turn(at_ms * MS);
            stations[1].pulse.rest();
            assert_eq!(looked(&mut watch, &stations, at_ms + 20), []);
        }
        assert_eq!(watch.report(0), (0, Vec::new()));
    }

    #[test]
    fn a_suspension_of_the_process_is_no_stall() {
        let (mut watch, stations) = watched();
        stations[0].pulse.begin_turn(0);
        assert_eq!(looked(&mut watch, &stations, 25), []);
        watch.resume(9_000 * MS);
        assert_eq!(looked(&mut watch, &stations, 9_025), []);
        assert_eq!(looked(&mut watch, &stations, 9_100).len(), 1);
    }

    #[test]
    fn during_a_stop_stalls_end_and_none_begins() {
        let (mut watch, stations) = watched();
        stations[0].pulse.begin_turn(0);
        let _first = looked(&mut watch, &stations, 75);
        assert_eq!(looked(&mut watch, &stations, 100).len(), 1);
        stations[1].pulse.begin_turn(0);
        for at_ms in (125..500).step_by(25) {
            assert_eq!(watch.look(at_ms * MS, &stations, false), []);
        }
        let (total, longest) = watch.report(0);
        assert_eq!((total, longest[0].over), (1, false), "it goes on");
        stations[0].pulse.rest();
        assert_eq!(watch.look(500 * MS, &stations, false).len(), 1);
    }

    #[test]
    fn of_many_stalls_the_longest_are_kept() {
        let (mut watch, stations) = watched();
        let mut at_ms = 0;
        for round in 0..100 {
            stations[0].pulse.begin_turn(at_ms * MS);
            for _ in 0..6 + round {
                at_ms += 25;
                let _events = looked(&mut watch, &stations, at_ms);
            }
            stations[0].pulse.rest();
            let _ended = looked(&mut watch, &stations, at_ms + 1);
        }
        let (total, longest) = watch.report(at_ms * MS);
        assert_eq!((total, longest.len()), (100, STALLS_KEPT));
        assert_eq!(longest[0].lasted_ms, 25.0 * 105.0);
        assert!(longest.is_sorted_by(|a, b| a.lasted_ms >= b.lasted_ms));
    }

    #[test]
    fn the_cores_are_looked_at_four_times_in_that_time_within_reason() {
        let period = |after_ms| StallWatch::new(Duration::from_millis(after_ms), 1).period();
        assert_eq!(period(100), Duration::from_millis(25));
        assert_eq!(period(1), STALL_LOOK_MIN);
        assert_eq!(period(3_600_000), STALL_LOOK_MAX);
    }
}
