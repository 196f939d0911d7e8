//! Who is told of a stop when, where not all are told at once.
//!
//! ```text
//!  drain begins           ▾ drain deadline, less a tenth
//!  ├─┬─┬─┬─┬─┬─┬─┬─┬─┬─┤  │    one listener's connections, each at its place
//!  ├──┬──┬──┬──┬──┬──┬──┬─┤    another's, whose window was longer
//! ```
//! A plan, made once: no clock, no socket.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

/// How much of the time before the drain deadline a window may take, in parts of
/// [`ROOM_WHOLE`]; the last connection needs some time to end as well.
const ROOM_PARTS: u64 = 9;

/// See [`ROOM_PARTS`].
const ROOM_WHOLE: u64 = 10;

/// The connections whose turn comes later. See the module.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// When (ns) it is whose turn (its place in the table of records), in the order of time.
    turns: VecDeque<(u64, u32)>,
}

impl Spread {
    /// Gives each connection its place: the first of each window at `now_ns`, the others evenly
    /// behind it. `windows` has the connections of each length of window (ns).
    pub(super) fn plan(windows: BTreeMap<u64, Vec<u32>>, now_ns: u64, deadline_ns: u64) -> Spread {
        let room_ns = room_ns(now_ns, deadline_ns);
        let mut turns: Vec<(u64, u32)> = Vec::new();
        for (window_ns, conns) in windows {
            let (window_ns, count) = (window_ns.min(room_ns), conns.len() as u64);
            let places = (0..).map(|place| now_ns + share(window_ns, place, count));
            turns.extend(places.zip(conns));
        }
        // Stable, and nearly in order: each window's places are.
        turns.sort_by_key(|(at_ns, _)| *at_ns);
        Spread {
            turns: turns.into(),
        }
    }

    /// The next connection whose turn has come.
    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<u32> {
        self.next_ns().filter(|at_ns| *at_ns <= now_ns)?;
        self.turns.pop_front().map(|(_, conn)| conn)
    }

    /// When it is the next one's turn (ns).
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.turns.front().map(|(at_ns, _)| *at_ns)
    }

    /// The deadline has moved: turns that would come too late are drawn together, and the others
    /// with them, so that all stay in their order and as even as they were.
    pub(super) fn fit(&mut self, now_ns: u64, deadline_ns: u64) {
        let Some(&(last_ns, _)) = self.turns.back() else {
            return;
        };
        let ahead_ns = last_ns.saturating_sub(now_ns);
        let room_ns = room_ns(now_ns, deadline_ns);
        if ahead_ns <= room_ns {
            return;
        }
        for (at_ns, _) in &mut self.turns {
            *at_ns = now_ns + share(room_ns, at_ns.saturating_sub(now_ns), ahead_ns);
        }
    }

    /// Nobody is told any more.
    pub(super) fn clear(&mut self) {
        self.turns.clear();
    }
}

/// The longest window that may begin at `now_ns` (ns).
fn room_ns(now_ns: u64, deadline_ns: u64) -> u64 {
    let left_ns = deadline_ns.saturating_sub(now_ns);
    share(left_ns, ROOM_PARTS, ROOM_WHOLE)
}

/// `whole * part / parts` without overflow; nothing of no parts.
fn share(whole: u64, part: u64, parts: u64) -> u64 {
    let scaled = u128::from(whole) * u128::from(part) / u128::from(parts.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all in the order of time, with the time of each.
    fn all(mut spread: Spread) -> Vec<(u64, u32)> {
        let mut taken = Vec::new();
        while let Some(at_ns) = spread.next_ns() {
            if at_ns > 0 {
                assert_eq!(spread.pop_due(at_ns - 1), None, "before its turn");
            }
            taken.push((at_ns, spread.pop_due(at_ns).expect("its turn has come")));
        }
        taken
    }

    fn one_window(window_ns: u64, count: u32) -> BTreeMap<u64, Vec<u32>> {
        BTreeMap::from([(window_ns, (0..count).collect())])
    }

    #[test]
    fn places_are_even_from_the_first_moment_on() {
        let spread = Spread::plan(one_window(1_000, 4), 50, 1_000_000);
        assert_eq!(all(spread), [(50, 0), (300, 1), (550, 2), (800, 3)]);
    }

    #[test]
    fn two_windows_run_side_by_side() {
        let windows = BTreeMap::from([(100, vec![1, 2]), (400, vec![3, 4])]);
        let spread = Spread::plan(windows, 0, 1_000_000);
        assert_eq!(all(spread), [(0, 1), (0, 3), (50, 2), (200, 4)]);
    }

    #[test]
    fn a_window_longer_than_the_time_is_shortened_and_the_other_is_not() {
        let windows = BTreeMap::from([(100, vec![1, 2]), (u64::MAX, vec![3, 4])]);
        let spread = Spread::plan(windows, 1_000, 2_000);
        assert_eq!(
            all(spread),
            [(1_000, 1), (1_000, 3), (1_050, 2), (1_450, 4)]
        );
    }

    #[test]
    fn a_deadline_that_comes_closer_draws_all_together_in_their_order() {
        let mut spread = Spread::plan(one_window(1_000, 10), 0, 1_000_000);
        for place in 0..5 {
            assert_eq!(spread.pop_due(450), Some(place));
        }
        assert_eq!(spread.pop_due(450), None);
        spread.fit(450, 550);
        let turns = all(spread);
        assert!(turns.is_sorted(), "{turns:?}");
        assert_eq!(turns.len(), 5);
        assert_eq!(turns[0], (460, 5));
        assert_eq!(turns[4], (540, 9));
    }

    #[test]
    fn a_deadline_that_leaves_room_changes_nothing() {
        let mut spread = Spread::plan(one_window(1_000, 10), 0, 1_000_000);
        spread.fit(0, 1_000);
        assert_eq!(all(spread).last(), Some(&(900, 9)));
    }

    #[test]
    fn with_no_time_left_it_is_everybodys_turn() {
        let mut spread = Spread::plan(one_window(u64::MAX, 3), 500, 500);
        assert_eq!(spread.next_ns(), Some(500));
        spread.fit(500, 0);
        assert_eq!(all(spread), [(500, 0), (500, 1), (500, 2)]);
    }

    #[test]
    fn nobody_to_tell_is_no_turn() {
        assert_eq!(Spread::plan(BTreeMap::new(), 0, 9).next_ns(), None);
        assert_eq!(Spread::plan(one_window(7, 0), 0, 9).next_ns(), None);
    }
}
