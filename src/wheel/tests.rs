//! The wheel against a naive model: a sorted map of what is pending, and a
//! plain queue of what has expired.

use super::{EXPIRED, Key, LEVELS, NIL, Node, OVERDUE, QUEUES, SLOTS, Wheel, slot_queue};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

/// One call to the wheel, chosen without knowing the state it meets.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Insert at this tick, past or future.
    InsertAt(u64),
    /// Insert this many ticks from now, at most at `u64::MAX`.
    InsertAfter(u64),
    /// Insert this many ticks before now, at least at 0.
    InsertBefore(u64),
    /// Cancel with the key of the insertion counted from the last, dead or live.
    Cancel(usize),
    /// Advance by this many ticks, at most to `u64::MAX`.
    AdvanceBy(u64),
    /// Advance to this tick, past or future.
    AdvanceTo(u64),
    /// Advance to what `next_deadline` says.
    AdvanceToNext,
    /// Pop one.
    Pop,
    /// Extract the pending entries with an odd deadline.
    ExtractOdd,
    /// Places that are vacant were used so often that they can be used only so many times more.
    Age(u32),
}

/// An entry's deadline, and its number in order of insertion: the order of
/// firing, and the identity. The number is also the value in the wheel.
type Entry = (u64, usize);

/// A wheel and the model it has to agree with.
struct Pair {
    wheel: Wheel<usize>,
    now: u64,
    pending: BTreeMap<Entry, ()>,
    expired: VecDeque<Entry>,
    /// Every key ever given, by number of insertion, with its deadline.
    keys: Vec<(Key, u64)>,
}

impl Pair {
    fn new(now: u64) -> Self {
        Self {
            wheel: Wheel::new(now),
            now,
            pending: BTreeMap::new(),
            expired: VecDeque::new(),
            keys: Vec::new(),
        }
    }

    #[track_caller]
    fn step(&mut self, step: Step) {
        match step {
            Step::InsertAt(deadline) => self.insert(deadline),
            Step::InsertAfter(ticks) => self.insert(self.now.saturating_add(ticks)),
            Step::InsertBefore(ticks) => self.insert(self.now.saturating_sub(ticks)),
            Step::Cancel(back) => self.cancel(back),
            Step::AdvanceBy(ticks) => self.advance(self.now.saturating_add(ticks)),
            Step::AdvanceTo(now) => self.advance(now),
            Step::AdvanceToNext => {
                if let Some(next) = self.wheel.next_deadline() {
                    self.advance(next);
                }
            }
            Step::Pop => self.pop(),
            Step::ExtractOdd => self.extract_odd(),
            Step::Age(uses_left) => self.age(uses_left),
        }
        self.check();
    }

    fn insert(&mut self, deadline: u64) {
        let number = self.keys.len();
        self.keys
            .push((self.wheel.insert(deadline, number), deadline));
        self.pending.insert((deadline, number), ());
    }

    #[track_caller]
    fn cancel(&mut self, back: usize) {
        let Some(number) = self.keys.len().checked_sub(back + 1) else {
            return;
        };
        let (key, deadline) = self.keys[number];
        let entry = (deadline, number);
        let waiting = self.expired.len();
        self.expired.retain(|&other| other != entry);
        let live = self.pending.remove(&entry).is_some() || self.expired.len() < waiting;
        assert_eq!(self.wheel.cancel(key), live.then_some(number));
    }

    fn advance(&mut self, now: u64) {
        self.wheel.advance(now);
        self.now = self.now.max(now);
        while let Some(first) = self.pending.first_entry() {
            if first.key().0 > self.now {
                break;
            }
            self.expired.push_back(first.remove_entry().0);
        }
    }

    #[track_caller]
    fn pop(&mut self) {
        let expected = self.expired.pop_front().map(|(_, number)| number);
        assert_eq!(self.wheel.pop_expired(), expected);
    }

    /// Never back: a generation that was used is not used again.
    fn age(&mut self, uses_left: u32) {
        for node in self.wheel.nodes.iter_mut().filter(|n| n.value.is_none()) {
            node.generation = node.generation.max(u32::MAX - uses_left);
        }
    }

    #[track_caller]
    fn extract_odd(&mut self) {
        let mut extracted = self.wheel.extract(&mut |deadline, _| deadline % 2 == 1);
        extracted.sort_unstable();
        let odd = self.pending.keys().filter(|entry| entry.0 % 2 == 1);
        let mut expected: Vec<usize> = odd.map(|entry| entry.1).collect();
        expected.sort_unstable();
        assert_eq!(extracted, expected);
        self.pending.retain(|entry, ()| entry.0 % 2 == 0);
    }

    /// What must hold between any two calls, as far as it is cheap to look at.
    #[track_caller]
    fn check(&self) {
        let len = self.pending.len() + self.expired.len();
        assert_eq!(self.wheel.len(), len);
        assert_eq!(self.wheel.is_empty(), len == 0);
        let earliest = self.pending.keys().next().map(|entry| entry.0);
        match (self.wheel.next_deadline(), earliest) {
            (next, _) if !self.expired.is_empty() => assert_eq!(next, Some(self.now)),
            (next, None) => assert_eq!(next, None),
            (next, Some(earliest)) if earliest <= self.now => assert_eq!(next, Some(self.now)),
            (next, Some(earliest)) => {
                let next = next.expect("something is pending");
                assert!(self.now < next && next <= earliest, "{next} for {earliest}");
                if earliest / 64 == self.now / 64 {
                    assert_eq!(next, earliest, "the lowest level is exact");
                }
            }
        }
    }

    /// Asks for every key ever given, and looks at every entry and queue.
    #[track_caller]
    fn check_all(&mut self) {
        assert_sound(&self.wheel);
        let mut seen = Vec::new();
        self.wheel
            .each(&mut |deadline, &number| seen.push((deadline, number)));
        seen.sort_unstable();
        let mut live: Vec<Entry> = self.pending.keys().copied().collect();
        live.extend(&self.expired);
        live.sort_unstable();
        assert_eq!(seen, live);
        for (number, &(key, deadline)) in self.keys.iter().enumerate() {
            let is_live = live.binary_search(&(deadline, number)).is_ok();
            assert_eq!(self.wheel.deadline(key), is_live.then_some(deadline));
            let mut value = number;
            assert_eq!(
                self.wheel.value_mut(key),
                is_live.then_some(&mut value),
                "entry {number} of {deadline}"
            );
        }
    }

    /// Sleeps until `next_deadline` again and again until nothing is left, and
    /// expects every entry in its very tick, or at once if that had passed.
    #[track_caller]
    fn run_dry(&mut self) {
        let mut wakes_left = (self.wheel.len() + 1) * LEVELS;
        while let Some(next) = self.wheel.next_deadline() {
            assert!(wakes_left > 0, "a wake at {next} made no progress");
            wakes_left -= 1;
            let before = self.now;
            self.step(Step::AdvanceTo(next));
            while let Some(&(deadline, _)) = self.expired.front() {
                let on_time = deadline == self.now || deadline <= before;
                assert!(on_time, "{deadline} fired at {next}");
                self.pop();
            }
        }
        assert_eq!(self.wheel.pop_expired(), None);
        assert!(self.wheel.is_empty());
    }
}

/// Walks all queues: links agree both ways, bits agree with queues, each entry
/// is where its deadline says, and each live node is in exactly one queue.
#[track_caller]
fn assert_sound<T>(wheel: &Wheel<T>) {
    let mut linked = 0;
    for queue in 0..QUEUES {
        let occupied = wheel.occupied[queue / SLOTS] >> (queue % SLOTS) & 1 == 1;
        let fixed_point = wheel.links[queue];
        assert_eq!(occupied, fixed_point.next as usize != queue);
        let (mut prev, mut index) = (queue as u32, fixed_point.next);
        while index as usize != queue {
            let link = wheel.links[index as usize];
            assert_eq!(link.prev, prev);
            assert!(wheel.nodes[index as usize - QUEUES].value.is_some());
            assert!(fixed_point.deadline <= link.deadline);
            match queue {
                OVERDUE | EXPIRED => assert!(link.deadline <= wheel.now),
                _ => assert_eq!(slot_queue(wheel.now, link.deadline), queue),
            }
            linked += 1;
            (prev, index) = (index, link.next);
        }
        assert_eq!(fixed_point.prev, prev);
    }
    assert_eq!(linked, wheel.len);

    let (mut vacant, mut index) = (0, wheel.vacant);
    while index != NIL {
        let node = &wheel.nodes[index as usize - QUEUES];
        assert!(node.value.is_none() && node.generation < u32::MAX);
        vacant += 1;
        index = wheel.links[index as usize].next;
    }
    let worn = |node: &&Node<T>| node.value.is_none() && node.generation == u32::MAX;
    let worn = wheel.nodes.iter().filter(worn).count();
    assert_eq!(linked + vacant + worn, wheel.nodes.len());
    assert_eq!(QUEUES + wheel.nodes.len(), wheel.links.len());
}

/// Everything that has expired, in the order it is handed out.
fn popped<T>(wheel: &mut Wheel<T>) -> Vec<T> {
    std::iter::from_fn(|| wheel.pop_expired()).collect()
}

/// Distances and ticks at which digits carry, and some between.
fn tick() -> impl Strategy<Value = u64> {
    let boundary = (0..u64::BITS, -2i64..=2)
        .prop_map(|(bit, offset)| (1u64 << bit).saturating_add_signed(offset));
    prop_oneof![
        4 => 0..130u64,
        4 => prop::sample::select(vec![62, 63, 64, 65, 127, 128, 4095, 4096, 4097, 262_143, 262_144]),
        3 => boundary,
        1 => (0..3u64).prop_map(|less| u64::MAX - less),
        1 => any::<u64>(),
        2 => 0..20_000u64,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => tick().prop_map(Step::InsertAfter),
        3 => tick().prop_map(Step::InsertAt),
        2 => tick().prop_map(Step::InsertBefore),
        6 => (0..12usize).prop_map(Step::Cancel),
        // Small steps by far the most often: one jump ends most of a schedule.
        6 => (0..70u64).prop_map(Step::AdvanceBy),
        2 => tick().prop_map(Step::AdvanceBy),
        1 => tick().prop_map(Step::AdvanceTo),
        5 => Just(Step::AdvanceToNext),
        6 => Just(Step::Pop),
        1 => Just(Step::ExtractOdd),
        1 => (1..3u32).prop_map(Step::Age),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_history_agrees_with_the_model(
        start in tick(),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut pair = Pair::new(start);
        for step in steps {
            pair.step(step);
            pair.check_all();
        }
        pair.run_dry();
    }

    #[test]
    fn a_crowd_within_few_ticks_keeps_its_order(
        start in tick(),
        crowd in prop::collection::vec((0..6u64, 0..3u64), 0..200),
    ) {
        // The deadlines stay, the time of insertion moves: the same tick is
        // filed from several levels.
        let mut pair = Pair::new(start);
        let base = start.saturating_add(4_160);
        for (ticks, step) in crowd {
            pair.step(Step::InsertAt(base.saturating_add(ticks)));
            pair.step(Step::AdvanceBy(step * 31));
        }
        pair.check_all();
        pair.run_dry();
    }

    #[test]
    fn drain_gives_everything_once_and_spares_the_wheel(
        steps in prop::collection::vec(step(), 0..60),
        after in prop::collection::vec(step(), 0..20),
    ) {
        let mut pair = Pair::new(0);
        for step in steps {
            pair.step(step);
        }
        let mut drained = pair.wheel.drain();
        drained.sort_unstable();
        let live = pair.pending.keys().chain(&pair.expired);
        let mut expected: Vec<usize> = live.map(|entry| entry.1).collect();
        expected.sort_unstable();
        prop_assert_eq!(drained, expected);

        pair.pending.clear();
        pair.expired.clear();
        pair.check_all();
        for step in after {
            pair.step(step);
        }
        pair.run_dry();
    }
}

/// Runs every sequence of `length` steps from each start. Shorter sequences
/// are its prefixes, and each step is checked.
fn enumerate(starts: &[u64], alphabet: &[Step], length: u32) -> usize {
    let sequences = alphabet.len().pow(length);
    for &start in starts {
        for sequence in 0..sequences {
            let mut pair = Pair::new(start);
            let mut rest = sequence;
            for _ in 0..length {
                pair.step(alphabet[rest % alphabet.len()]);
                rest /= alphabet.len();
            }
            pair.run_dry();
        }
    }
    starts.len() * sequences
}

#[test]
fn every_short_history_around_the_first_carry_agrees() {
    let alphabet = [
        Step::InsertAfter(0),
        Step::InsertAfter(1),
        Step::InsertAfter(63),
        Step::InsertAfter(64),
        Step::Cancel(0),
        Step::Cancel(1),
        Step::AdvanceBy(1),
        Step::AdvanceBy(63),
        Step::AdvanceToNext,
        Step::Pop,
    ];
    assert_eq!(enumerate(&[0], &alphabet, 5), 100_000);
}

#[test]
fn every_short_history_around_the_higher_carries_agrees() {
    let alphabet = [
        Step::InsertBefore(1),
        Step::InsertAfter(1),
        Step::InsertAfter(4_095),
        Step::InsertAfter(4_096),
        Step::InsertAt(1 << 36),
        Step::InsertAt(u64::MAX),
        Step::Cancel(1),
        Step::AdvanceBy(4_096),
        Step::AdvanceToNext,
        Step::AdvanceTo(u64::MAX),
    ];
    let starts = [1, (1 << 36) - 64];
    assert_eq!(enumerate(&starts, &alphabet, 4), 20_000);
}

#[test]
fn nothing_fires_early_and_nothing_a_tick_late() {
    for bit in 0..u64::BITS {
        let deadline = 1u64 << bit;
        let mut wheel = Wheel::new(0);
        wheel.insert(deadline, ());
        wheel.advance(deadline - 1);
        assert_eq!(wheel.pop_expired(), None, "{deadline} fired early");
        assert_eq!(wheel.next_deadline(), Some(deadline));
        wheel.advance(deadline);
        assert_eq!(wheel.pop_expired(), Some(()), "{deadline} fired late");
    }
}

#[test]
fn each_level_hands_down_to_those_below_in_order_from_every_side_of_its_boundary() {
    for level in 1..LEVELS as u32 {
        let boundary = 64u64.pow(level);
        for start in [0, boundary - 64, boundary - 1, boundary, 5 * (boundary - 1)] {
            let mut pair = Pair::new(start);
            for of_level in [0, 1, 63, 64] {
                for near in [-65, -64, -1, 0, 1, 63, 64] {
                    let tick = boundary.saturating_mul(of_level);
                    pair.step(Step::InsertAt(tick.saturating_add_signed(near)));
                }
            }
            // Some of them are there no more when their slot is opened.
            (0..28)
                .step_by(5)
                .for_each(|back| pair.step(Step::Cancel(back)));
            pair.step(Step::AdvanceTo(boundary - 1));
            pair.check_all();
            pair.run_dry();
        }
    }
}

#[test]
fn the_last_tick_of_all_is_a_deadline_like_any_other() {
    let mut wheel = Wheel::new(0);
    wheel.insert(u64::MAX, "last");
    wheel.insert(u64::MAX - 1, "last but one");
    wheel.advance(u64::MAX - 1);
    assert_eq!(popped(&mut wheel), ["last but one"]);
    assert_eq!(wheel.next_deadline(), Some(u64::MAX));
    wheel.advance(u64::MAX);
    wheel.insert(u64::MAX, "after the end");
    wheel.advance(u64::MAX);
    assert_eq!(popped(&mut wheel), ["last", "after the end"]);
}

#[test]
fn a_passed_deadline_waits_for_the_next_advance() {
    let mut wheel = Wheel::new(100);
    wheel.insert(100, "now");
    wheel.insert(7, "long ago");
    wheel.insert(101, "soon");
    wheel.insert(7, "as long ago");
    assert_eq!(wheel.pop_expired(), None);
    assert_eq!(wheel.next_deadline(), Some(100));
    wheel.advance(101);
    assert_eq!(
        popped(&mut wheel),
        ["long ago", "as long ago", "now", "soon"]
    );
}

#[test]
fn a_clock_that_steps_back_neither_undoes_nor_delays() {
    let mut wheel = Wheel::new(1_000);
    wheel.insert(1_010, "filed");
    wheel.insert(900, "overdue");
    wheel.advance(5);
    assert_eq!(popped(&mut wheel), ["overdue"]);
    assert_eq!(wheel.next_deadline(), Some(1_010));
    wheel.advance(1_010);
    assert_eq!(popped(&mut wheel), ["filed"]);
}

#[test]
fn an_expired_entry_is_still_there_until_it_is_popped() {
    let mut wheel = Wheel::new(0);
    let first = wheel.insert(5, 1);
    let second = wheel.insert(5, 2);
    let third = wheel.insert(5, 3);
    wheel.advance(5);
    assert_eq!(wheel.next_deadline(), Some(5));
    assert_eq!(wheel.cancel(second), Some(2));
    *wheel.value_mut(third).expect("not popped yet") = 30;
    assert_eq!(wheel.deadline(third), Some(5));
    assert_eq!(popped(&mut wheel), [1, 30]);
    assert_eq!(wheel.cancel(first), None);
    assert_eq!(wheel.next_deadline(), None);
}

#[test]
fn extract_leaves_what_has_expired() {
    let mut wheel = Wheel::new(10);
    wheel.insert(11, "expired");
    wheel.advance(11);
    wheel.insert(3, "overdue");
    wheel.insert(1 << 40, "far");
    wheel.insert(12, "near");
    let mut extracted = wheel.extract(&mut |_, &name| name != "near");
    extracted.sort_unstable();
    assert_eq!(extracted, ["far", "overdue"]);
    wheel.advance(12);
    assert_eq!(popped(&mut wheel), ["expired", "near"]);
}

#[test]
fn a_stale_key_finds_nothing_in_a_place_used_again() {
    let mut wheel = Wheel::new(0);
    let old = wheel.insert(5, "old");
    assert_eq!(wheel.cancel(old), Some("old"));
    let new = wheel.insert(5, "new");
    assert_eq!(old.index, new.index);
    assert_ne!(old, new);
    assert_eq!(wheel.cancel(old), None);
    assert_eq!(wheel.value_mut(old), None);
    assert_eq!(wheel.deadline(old), None);
    assert_eq!(wheel.cancel(new), Some("new"));
}

#[test]
fn a_place_out_of_generations_is_never_used_again() {
    let mut wheel = Wheel::new(0);
    let first = wheel.insert(1, 'a');
    wheel.cancel(first);
    wheel.nodes[0].generation = u32::MAX - 1;
    let last = wheel.insert(1, 'b');
    assert_eq!((last.index, last.generation), (first.index, u32::MAX - 1));
    assert_eq!(wheel.cancel(last), Some('b'));
    let elsewhere = wheel.insert(1, 'c');
    assert_ne!(elsewhere.index, first.index);
    assert_eq!(wheel.cancel(last), None);
    assert_eq!(wheel.cancel(first), None);
    assert_eq!(wheel.drain(), ['c']);
}

#[test]
fn places_are_used_again_so_churn_does_not_grow_the_wheel() {
    let mut wheel = Wheel::new(0);
    let mut keys: VecDeque<Key> = (0..100).map(|tick| wheel.insert(tick, tick)).collect();
    for tick in 100..10_000 {
        let oldest = keys.pop_front().expect("a hundred are live");
        wheel.cancel(oldest).expect("nothing has advanced");
        keys.push_back(wheel.insert(tick, tick));
    }
    assert_eq!(wheel.nodes.len(), 100);
    assert_sound(&wheel);
}

#[test]
fn the_next_deadline_is_exact_at_any_distance() {
    for distance in [1, 63, 64, 4_095, 4_096, 1 << 20, 1 << 36, u64::MAX - 9] {
        let mut wheel = Wheel::new(9);
        wheel.insert((9 + distance).saturating_add(1), ());
        wheel.insert(9 + distance, ());
        assert_eq!(wheel.next_deadline(), Some(9 + distance));
    }
}
