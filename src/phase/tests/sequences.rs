//! Every sequence of inputs up to a length, and long random ones: what must hold
//! after each step, whatever came before.

use super::model::Model;
use super::*;
use proptest::prelude::*;

const TURN: u64 = 50 * MS;

/// When an input comes.
#[derive(Clone, Copy, Debug)]
enum When {
    /// So many nanoseconds after the last.
    After(u64),
    /// When the next tick is due, and so much later.
    Due(u64),
}

type Letter = (When, Input);

const NOW: When = When::After(0);

/// Everything that can happen, with the distances that matter.
const LETTERS: [Letter; 16] = [
    (NOW, Input::Trigger),
    (NOW, Input::Signal(SIGTERM)),
    (When::After(400 * MS), Input::Signal(SIGTERM)),
    (NOW, Input::Within(Duration::ZERO)),
    (NOW, Input::Within(Duration::from_millis(30))),
    (
        When::After(10 * MS),
        Input::Within(Duration::from_millis(700)),
    ),
    (NOW, Input::Within(Duration::from_secs(20))),
    (When::After(MS), Input::Force),
    (When::After(MS), Input::FirstHook),
    (NOW, Input::AllQuiet),
    (When::After(20 * MS), Input::HooksDone),
    (NOW, Input::AllClosed),
    (When::Due(70 * MS), Input::Suspended(90 * MS)),
    (When::After(20 * MS), Input::Tick),
    (When::Due(0), Input::Tick),
    (When::Due(30_000 * MS), Input::Tick),
];

/// The ones a longer stop is made of.
const STORY: [Letter; 8] = [
    (NOW, Input::Trigger),
    (When::After(400 * MS), Input::Signal(SIGTERM)),
    (
        When::After(10 * MS),
        Input::Within(Duration::from_millis(700)),
    ),
    (NOW, Input::FirstHook),
    (NOW, Input::AllQuiet),
    (NOW, Input::HooksDone),
    (When::Due(70 * MS), Input::Suspended(90 * MS)),
    (When::Due(0), Input::Tick),
];

fn configs() -> [Shutdown; 7] {
    let config = Shutdown::default;
    [
        config(),
        config().notice(ms(500)).quiet(ms(100)),
        config().timeout(Duration::ZERO),
        config().quiet(ms(1)).timeout(ms(1)),
        config().quiet(ms(2_000)).timeout(ms(2_000)),
        config().notice(ms(300)).timeout(ms(300)),
        config().hooks_reserve(ms(8_000)).close_reserve(ms(1_000)),
    ]
}

/// A machine, the model beside it, and what was seen so far.
#[derive(Clone)]
struct Watch {
    machine: Machine,
    model: Model,
    now: u64,
    published: Option<Instants>,
    entered: Vec<Phase>,
    cuts: u32,
    hook_cuts: u32,
    gave_up: u32,
}

impl Watch {
    fn new(config: &Shutdown) -> Watch {
        Watch {
            machine: Machine::new(config),
            model: Model::new(config),
            now: START,
            published: None,
            entered: vec![Phase::Running],
            cuts: 0,
            hook_cuts: 0,
            gave_up: 0,
        }
    }

    fn phase(&self) -> Phase {
        self.entered[self.entered.len() - 1]
    }

    #[track_caller]
    fn step(&mut self, (when, input): Letter) -> Vec<Action> {
        let due = self.machine.next_wake().unwrap_or(self.now).max(self.now);
        self.now = match when {
            When::After(ns) => self.now + ns,
            When::Due(late_ns) => due + late_ns,
        };
        let actions = self.machine.step(self.now, input);
        self.model.step(self.now, input);
        for (index, action) in actions.iter().enumerate() {
            self.saw(*action, input, &actions[index + 1..]);
        }
        self.holds();
        actions
    }

    #[track_caller]
    fn saw(&mut self, action: Action, input: Input, rest: &[Action]) {
        match action {
            Action::Publish(instants) => {
                assert_ne!(self.published, Some(instants), "published twice");
                self.published = Some(instants);
            }
            Action::Enter(phase) => self.entered(phase),
            Action::Cut => {
                self.cuts += 1;
                assert!(self.phase() < Phase::Hooks, "cut after Draining");
                assert_eq!(rest.first(), Some(&enter(Phase::Hooks)));
            }
            Action::CutHooks => {
                self.hook_cuts += 1;
                assert_eq!(self.phase(), Phase::Hooks);
                assert_eq!(input, Input::Tick);
            }
            Action::GiveUp => {
                self.gave_up += 1;
                assert_eq!((self.phase(), input), (Phase::Closing, Input::Tick));
                assert!(self.published.is_some_and(|i| i.hard_deadline <= self.now));
                assert_eq!(rest, [enter(Phase::Terminated)]);
            }
            Action::Exit(code) => {
                assert_eq!(code, 128 + SIGTERM);
                assert!(matches!(input, Input::Signal(_)) && rest.is_empty());
            }
        }
    }

    #[track_caller]
    fn entered(&mut self, phase: Phase) {
        let last = self.phase();
        assert!(phase > last, "{phase} after {last}");
        assert!(self.published.is_some(), "entered without a budget");
        let skipped = (last as u8 + 1..phase as u8).filter_map(Phase::from_u8);
        for left_out in skipped {
            let by_cut = last == Phase::Notice && left_out == Phase::Draining && self.cuts == 1;
            assert!(left_out == Phase::Notice || by_cut, "{left_out} left out");
        }
        self.entered.push(phase);
    }

    /// What holds between any two steps.
    #[track_caller]
    fn holds(&self) {
        assert_eq!(self.machine.phase(), self.phase());
        assert_eq!(
            self.machine.phase(),
            self.model.phase,
            "the model disagrees"
        );
        assert_eq!(self.machine.instants(), self.model.instants());
        assert_eq!(self.machine.instants(), self.published);
        assert!(self.cuts <= 1 && self.hook_cuts <= 1 && self.gave_up <= 1);
        assert_eq!(self.machine.was_cut(), self.cuts == 1);
        assert_eq!(self.machine.gave_up(), self.gave_up == 1);
        if let Some(instants) = self.published {
            self.ordered(instants);
        }
        self.spans_are_whole();
    }

    #[track_caller]
    fn ordered(&self, at: Instants) {
        assert!(at.start <= at.notice_end && at.notice_end <= at.drain_deadline);
        assert!(at.drain_deadline <= at.hook_deadline && at.hook_deadline <= at.hard_deadline);
        assert!(at.hard_deadline - at.start >= TURN);
        if self.phase() == Phase::Closing {
            let entered = self.machine.spans().last().map(|span| span.start);
            assert!(entered.is_some_and(|from| at.hard_deadline >= from + TURN));
        }
    }

    #[track_caller]
    fn spans_are_whole(&self) {
        let spans = self.machine.spans();
        let phases: Vec<Phase> = spans.iter().map(|span| span.phase).collect();
        let expected: Vec<Phase> = self.entered.clone();
        let expected = expected.strip_prefix(&[Phase::Running]).unwrap_or(&[]);
        let expected = expected
            .strip_suffix(&[Phase::Terminated])
            .unwrap_or(expected);
        assert_eq!(phases, expected);
        for pair in spans.windows(2) {
            assert_eq!(pair[0].end, Some(pair[1].start));
        }
        for (index, span) in spans.iter().enumerate() {
            let open = index + 1 == spans.len() && self.phase() != Phase::Terminated;
            assert_eq!(span.end.is_none(), open);
            let words = ["goal", "deadline", "force"];
            assert!(open || words.contains(&span.ended_by));
        }
    }

    /// From here on only time passes: the stop ends, each tick on the way.
    #[track_caller]
    fn ends_by_ticks_alone(mut self) {
        if self.phase() == Phase::Running {
            return;
        }
        while self.phase() != Phase::Terminated {
            let before = self.phase();
            let _ = self.step((When::Due(0), Input::Tick));
            assert!(self.phase() > before, "a due tick did nothing in {before}");
        }
        assert_eq!(self.machine.next_wake(), None);
        for input in [Input::Tick, Input::Trigger, Input::Force, Input::AllClosed] {
            assert_eq!(self.step((When::After(TURN), input)), []);
        }
    }

    /// From here on the user insists: two more signals force, a third leaves.
    #[track_caller]
    fn leaves_by_signals(mut self) {
        let mut last = Vec::new();
        for _ in 0..3 {
            last = self.step((When::After(300 * MS), Input::Signal(SIGTERM)));
        }
        assert_eq!(last, [Action::Exit(128 + SIGTERM)]);
    }
}

/// Runs every sequence of `letters` that is `depth` long, and all its beginnings.
fn enumerate(watch: &Watch, letters: &[Letter], depth: u32, seen: &mut u64) {
    *seen += 1;
    watch.clone().ends_by_ticks_alone();
    watch.clone().leaves_by_signals();
    if depth == 0 {
        return;
    }
    for letter in letters {
        let mut next = watch.clone();
        let _ = next.step(*letter);
        enumerate(&next, letters, depth - 1, seen);
    }
}

#[test]
fn all_sequences_of_all_inputs_keep_the_contract() {
    let mut seen = 0;
    for config in configs() {
        enumerate(&Watch::new(&config), &LETTERS, 3, &mut seen);
    }
    assert_eq!(seen, 7 * (1 + 16 + 256 + 4_096));
}

#[test]
fn all_longer_sequences_of_the_inputs_of_a_stop_keep_the_contract() {
    let mut seen = 0;
    for config in &configs()[..2] {
        for first in [Input::Trigger, Input::Signal(SIGTERM), Input::FirstHook] {
            let mut watch = Watch::new(config);
            let _ = watch.step((NOW, first));
            enumerate(&watch, &STORY, 5, &mut seen);
        }
    }
    assert_eq!(seen, 6 * (8_u64.pow(6) - 1) / 7);
}

#[test]
fn a_stop_without_haste_ends_at_its_timeout_to_the_nanosecond() {
    for timeout_ms in [500, 777, 2_000, 9_000, 100_000] {
        for hook_exists in [false, true] {
            let mut watch = Watch::new(&Shutdown::default().timeout(ms(timeout_ms)));
            if hook_exists {
                let _ = watch.step((NOW, Input::FirstHook));
            }
            let _ = watch.step((NOW, Input::Trigger));
            while watch.phase() != Phase::Terminated {
                let _ = watch.step((When::Due(0), Input::Tick));
            }
            assert_eq!(watch.now, START + timeout_ms * MS);
        }
    }
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        2 => Just(Input::Trigger),
        2 => Just(Input::Signal(SIGTERM)),
        1 => (0..30_000_u64).prop_map(|d| Input::Within(ms(d))),
        1 => Just(Input::Force),
        1 => Just(Input::FirstHook),
        2 => Just(Input::AllQuiet),
        2 => Just(Input::HooksDone),
        1 => Just(Input::AllClosed),
        1 => (0..1_000 * MS).prop_map(Input::Suspended),
        4 => Just(Input::Tick),
    ]
}

fn any_letter() -> impl Strategy<Value = Letter> {
    let when = prop_oneof![
        3 => (0..200 * MS).prop_map(When::After),
        1 => (0..4_000 * MS).prop_map(When::After),
        1 => (0..100 * MS).prop_map(When::Due),
    ];
    (when, any_input())
}

prop_compose! {
    /// Any configuration that would pass the check at build.
    fn any_config()(
        timeout in prop_oneof![0..200_u64, 0..20_000_u64],
        quiet in 0..=100_u64,
        notice in 0..=100_u64,
        reserves in prop_oneof![
            2 => Just((None, None)),
            1 => (0..=100_u64, 0..=100_u64).prop_map(|(h, c)| (Some(h), Some(c))),
            1 => (0..=100_u64).prop_map(|h| (Some(h), None)),
            1 => (0..=100_u64).prop_map(|c| (None, Some(c))),
        ],
    ) -> Shutdown {
        let kept = quiet.max(notice);
        let mut config = Shutdown::default()
            .timeout(ms(timeout))
            .quiet(ms(timeout * quiet / 100))
            .notice(ms(timeout * notice / 100));
        let room = timeout - timeout * kept / 100;
        if let Some(hooks) = reserves.0 {
            config = config.hooks_reserve(ms(room * hooks / 200));
        }
        if let Some(close) = reserves.1 {
            config = config.close_reserve(ms(room * close / 200));
        }
        config
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn long_random_sequences_keep_the_contract(
        config in any_config(),
        letters in proptest::collection::vec(any_letter(), 0..60),
    ) {
        prop_assert!(config.validate().is_ok());
        let mut watch = Watch::new(&config);
        for letter in letters {
            let _ = watch.step(letter);
        }
        watch.clone().ends_by_ticks_alone();
        watch.leaves_by_signals();
    }

    #[test]
    fn ticks_on_time_end_any_stop_within_two_turns_of_its_timeout(
        config in any_config(),
        hook_exists: bool,
        forced: bool,
    ) {
        let mut watch = Watch::new(&config);
        if hook_exists {
            let _ = watch.step((NOW, Input::FirstHook));
        }
        let first = if forced { Input::Force } else { Input::Trigger };
        let _ = watch.step((NOW, first));
        while watch.phase() != Phase::Terminated {
            let _ = watch.step((When::Due(0), Input::Tick));
        }
        let mut limit = config.timeout_ns().max(TURN);
        if forced {
            limit = limit.min(1_000 * MS);
        }
        prop_assert!(watch.now - START <= limit + 2 * TURN);
        let reserves = config.reserves(hook_exists);
        let roomy = reserves.close_ns >= TURN && (!hook_exists || reserves.hooks_ns >= TURN);
        if roomy {
            prop_assert!(watch.now - START <= limit);
        }
    }
}
