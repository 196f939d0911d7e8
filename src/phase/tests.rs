//! The contract of the phases: one promise a test, then all sequences of inputs up
//! to a length, then long random ones against a naive model.

use super::*;

mod model;
mod sequences;

const MS: u64 = 1_000_000;
const SIGTERM: i32 = 15;
/// A clock does not begin at 0.
const START: u64 = 1_000_000 * MS;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A machine with its clock, in milliseconds from `START`.
struct Bench {
    machine: Machine,
}

impl Bench {
    fn new(config: &Shutdown) -> Bench {
        Bench {
            machine: Machine::new(config),
        }
    }

    /// Steps, and gives the actions without the instants.
    fn at(&mut self, at_ms: u64, input: Input) -> Vec<Action> {
        let mut actions = self.machine.step(START + at_ms * MS, input);
        actions.retain(|action| !matches!(action, Action::Publish(_)));
        actions
    }

    fn instants_ms(&self) -> [u64; 4] {
        let instants = self.machine.instants().expect("a stop is under way");
        [
            instants.notice_end,
            instants.drain_deadline,
            instants.hook_deadline,
            instants.hard_deadline,
        ]
        .map(|at| (at - START) / MS)
    }

    fn wake_ms(&self) -> u64 {
        let at = self.machine.next_wake().expect("a tick is due some time");
        (at - START) / MS
    }

    /// The spans that are closed.
    fn spans_ms(&self) -> Vec<(Phase, u64, u64, &'static str)> {
        let closed = |span: &Span| {
            let (start, end) = (span.start - START, span.end? - START);
            Some((span.phase, start / MS, end / MS, span.ended_by))
        };
        self.machine.spans().iter().filter_map(closed).collect()
    }
}

fn enter(phase: Phase) -> Action {
    Action::Enter(phase)
}

#[test]
fn an_idle_stop_passes_all_phases_without_waiting() {
    let mut bench = Bench::new(&Shutdown::default());
    assert_eq!(bench.at(0, Input::Trigger), [enter(Phase::Draining)]);
    assert_eq!(bench.at(1, Input::AllQuiet), [enter(Phase::Hooks)]);
    assert_eq!(bench.at(1, Input::HooksDone), [enter(Phase::Closing)]);
    assert_eq!(bench.at(2, Input::AllClosed), [enter(Phase::Terminated)]);
    let expected = [
        (Phase::Draining, 0, 1, "goal"),
        (Phase::Hooks, 1, 1, "goal"),
        (Phase::Closing, 1, 2, "goal"),
    ];
    assert_eq!(bench.spans_ms(), expected);
    assert!(!bench.machine.was_cut() && !bench.machine.gave_up());
}

#[test]
fn the_default_deadlines_are_those_of_the_contract() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    assert_eq!(bench.instants_ms(), [0, 8_500, 8_500, 9_000]);
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::FirstHook);
    let _ = bench.at(0, Input::Trigger);
    assert_eq!(bench.instants_ms(), [0, 5_500, 8_500, 9_000]);
}

#[test]
fn the_budget_is_published_before_the_state() {
    let mut machine = Machine::new(&Shutdown::default());
    let actions = machine.step(START, Input::Trigger);
    let instants = machine.instants().expect("a stop is under way");
    let expected = [Action::Publish(instants), enter(Phase::Draining)];
    assert_eq!(actions, expected);
}

#[test]
fn a_second_trigger_changes_nothing() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    let before = bench.instants_ms();
    assert_eq!(bench.machine.step(START + MS, Input::Trigger), []);
    assert_eq!(bench.instants_ms(), before);
}

#[test]
fn nothing_happens_by_itself_before_the_trigger() {
    let mut bench = Bench::new(&Shutdown::default());
    for input in [
        Input::Tick,
        Input::AllQuiet,
        Input::HooksDone,
        Input::AllClosed,
        Input::Suspended(MS),
    ] {
        assert_eq!(bench.at(5, input), []);
    }
    assert_eq!(bench.machine.phase(), Phase::Running);
    assert_eq!(bench.machine.next_wake(), None);
    assert_eq!(bench.machine.instants(), None);
}

#[test]
fn notice_lasts_its_time_and_leaves_the_rest_to_draining() {
    let mut bench = Bench::new(&Shutdown::default().notice(ms(2_000)));
    assert_eq!(bench.at(0, Input::Trigger), [enter(Phase::Notice)]);
    assert_eq!(bench.at(10, Input::AllQuiet), []);
    assert_eq!(bench.wake_ms(), 2_000);
    assert_eq!(bench.at(2_000, Input::Tick), [enter(Phase::Draining)]);
    assert_eq!(bench.wake_ms(), 8_500);
}

#[test]
fn a_notice_that_takes_the_whole_timeout_ends_in_the_cut() {
    let config = Shutdown::default().notice(ms(300)).timeout(ms(300));
    let mut bench = Bench::new(&config);
    let _ = bench.at(0, Input::Trigger);
    let actions = bench.at(300, Input::Tick);
    assert_eq!(actions[..2], [Action::Cut, enter(Phase::Hooks)]);
    assert_eq!(bench.spans_ms()[0], (Phase::Notice, 0, 300, "deadline"));
}

#[test]
fn the_drain_deadline_cuts_and_hooks_run_all_the_same() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::FirstHook);
    let _ = bench.at(0, Input::Trigger);
    assert_eq!(bench.at(5_499, Input::Tick), []);
    let cut = [Action::Cut, enter(Phase::Hooks)];
    assert_eq!(bench.at(5_500, Input::Tick), cut);
    assert!(bench.machine.was_cut() && !bench.machine.was_forced());
    assert_eq!(bench.wake_ms(), 8_500);
    let overrun = [Action::CutHooks, enter(Phase::Closing)];
    assert_eq!(bench.at(8_500, Input::Tick), overrun);
    assert!(bench.machine.hooks_were_cut());
    let end = [Action::GiveUp, enter(Phase::Terminated)];
    assert_eq!(bench.at(9_000, Input::Tick), end);
    assert!(bench.machine.gave_up());
    assert_eq!(bench.at(9_500, Input::Tick), []);
}

#[test]
fn a_short_stop_that_uses_all_its_time_keeps_its_hard_deadline() {
    let mut bench = Bench::new(&Shutdown::default().timeout(ms(349)));
    bench.at(0, Input::FirstHook);
    bench.at(0, Input::Trigger);
    let [_, drain_ms, hooks_ms, _] = bench.instants_ms();
    // A tick in the millisecond after, for the deadlines are rounded down.
    bench.at(drain_ms + 1, Input::Tick);
    bench.at(hooks_ms, Input::Tick);
    assert_eq!(bench.machine.phase(), Phase::Closing);
    assert_eq!(bench.instants_ms()[3], 349);
}

#[test]
fn without_a_hook_the_cut_leads_straight_to_closing() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    let expected = [
        Action::Cut,
        enter(Phase::Hooks),
        Action::CutHooks,
        enter(Phase::Closing),
    ];
    assert_eq!(bench.at(8_500, Input::Tick), expected);
    assert!(!bench.machine.hooks_were_cut());
    assert_eq!(bench.machine.spans()[1].ended_by, "goal");
}

#[test]
fn an_early_phase_leaves_its_time_to_the_next() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::FirstHook);
    let _ = bench.at(0, Input::Trigger);
    let _ = bench.at(100, Input::AllQuiet);
    assert_eq!(bench.wake_ms(), 8_500);
    let _ = bench.at(200, Input::HooksDone);
    assert_eq!(bench.wake_ms(), 9_000);
}

#[test]
fn a_second_signal_cuts_and_leaves_one_second() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::FirstHook);
    let draining = [enter(Phase::Draining)];
    assert_eq!(bench.at(0, Input::Signal(SIGTERM)), draining);
    assert_eq!(bench.at(299, Input::Signal(SIGTERM)), []);
    let cut = [Action::Cut, enter(Phase::Hooks)];
    assert_eq!(bench.at(300, Input::Signal(SIGTERM)), cut);
    assert_eq!(bench.instants_ms(), [0, 300, 1_200, 1_300]);
    assert_eq!(bench.machine.spans()[0].ended_by, "force");
}

#[test]
fn a_third_signal_leaves_the_process_in_every_phase() {
    for phases in 0..4 {
        let mut bench = Bench::new(&Shutdown::default());
        let _ = bench.at(0, Input::Signal(SIGTERM));
        for input in [Input::AllQuiet, Input::HooksDone, Input::AllClosed]
            .into_iter()
            .take(phases)
        {
            let _ = bench.at(1, input);
        }
        let _ = bench.at(300, Input::Signal(SIGTERM));
        let exit = [Action::Exit(130)];
        assert_eq!(bench.at(600, Input::Signal(2)), exit, "{phases}");
        assert_eq!(bench.at(900, Input::Signal(2)), exit, "{phases}");
    }
}

#[test]
fn the_first_signal_after_an_api_trigger_is_the_first() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    assert_eq!(bench.at(400, Input::Signal(SIGTERM)), []);
    assert!(!bench.machine.was_forced());
    let cut = [Action::Cut, enter(Phase::Hooks)];
    assert_eq!(bench.at(800, Input::Signal(SIGTERM)), cut);
}

#[test]
fn a_signal_number_from_anywhere_does_not_overflow() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Signal(i32::MAX));
    let _ = bench.at(300, Input::Signal(i32::MIN));
    let exit = [Action::Exit(i32::MAX)];
    assert_eq!(bench.at(600, Input::Signal(i32::MAX)), exit);
}

#[test]
fn force_never_moves_the_hard_deadline_later_but_to_have_a_turn() {
    for (at, hard) in [(0, 1_000), (8_400, 9_000), (8_490, 9_000)] {
        let mut bench = Bench::new(&Shutdown::default());
        let _ = bench.at(0, Input::Trigger);
        let _ = bench.at(at, Input::Force);
        assert_eq!(bench.instants_ms()[3], hard);
    }
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    let _ = bench.at(8_500, Input::Tick);
    let _ = bench.at(8_980, Input::Force);
    assert_eq!(bench.instants_ms()[3], 9_030);
}

#[test]
fn a_force_after_a_force_buys_no_time() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Force);
    for at in 1..100 {
        assert_eq!(bench.machine.step(START + at * 10 * MS, Input::Force), []);
    }
    assert_eq!(bench.instants_ms()[3], 1_000);
}

#[test]
fn force_before_any_trigger_drains_for_an_instant_and_gives_no_notice() {
    let mut bench = Bench::new(&Shutdown::default().notice(ms(5_000)));
    let expected = [enter(Phase::Draining), Action::Cut, enter(Phase::Hooks)];
    assert_eq!(bench.at(0, Input::Force), expected);
    assert_eq!(bench.instants_ms(), [0, 0, 900, 1_000]);
}

#[test]
fn force_in_notice_goes_straight_to_hooks() {
    let mut bench = Bench::new(&Shutdown::default().notice(ms(5_000)));
    let _ = bench.at(0, Input::Trigger);
    let cut = [Action::Cut, enter(Phase::Hooks)];
    assert_eq!(bench.at(100, Input::Force), cut);
    assert_eq!(bench.spans_ms(), [(Phase::Notice, 0, 100, "force")]);
}

#[test]
fn force_in_hooks_shortens_them_and_they_go_on() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::FirstHook);
    let _ = bench.at(0, Input::Trigger);
    let _ = bench.at(10, Input::AllQuiet);
    assert_eq!(bench.at(100, Input::Force), []);
    assert_eq!(bench.machine.phase(), Phase::Hooks);
    assert_eq!(bench.instants_ms()[2..], [1_000, 1_100]);
    assert!(bench.machine.was_forced() && !bench.machine.was_cut());
}

#[test]
fn a_force_near_the_end_gives_hooks_nothing_of_the_reserve_for_closing() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::FirstHook);
    let _ = bench.at(0, Input::Trigger);
    let _ = bench.at(10, Input::AllQuiet);
    let _ = bench.at(8_400, Input::Force);
    assert_eq!(bench.instants_ms()[2..], [8_500, 9_000]);
}

#[test]
fn a_timeout_of_zero_is_a_force_with_one_turn() {
    let config = Shutdown::default().timeout(Duration::ZERO);
    let mut bench = Bench::new(&config);
    let expected = [enter(Phase::Draining), Action::Cut, enter(Phase::Hooks)];
    assert_eq!(bench.at(0, Input::Trigger), expected);
    assert_eq!(bench.instants_ms(), [0, 0, 0, 50]);
    assert!(bench.machine.was_forced());
}

#[test]
fn a_hook_has_a_turn_even_where_the_timeout_is_zero() {
    let config = Shutdown::default().timeout(Duration::ZERO);
    for hook_first in [true, false] {
        let order = [Input::FirstHook, Input::Trigger];
        let mut bench = Bench::new(&config);
        let _ = bench.at(0, order[usize::from(!hook_first)]);
        let _ = bench.at(0, order[usize::from(hook_first)]);
        assert_eq!(bench.at(49, Input::Tick), []);
        let overrun = [Action::CutHooks, enter(Phase::Closing)];
        assert_eq!(bench.at(50, Input::Tick), overrun);
        assert_eq!(bench.wake_ms(), 100);
    }
}

#[test]
fn quiet_equal_to_timeout_drains_to_the_end_and_closing_has_its_turn() {
    let mut bench = Bench::new(&Shutdown::default().quiet(ms(2_000)).timeout(ms(2_000)));
    let _ = bench.at(0, Input::Trigger);
    assert_eq!(bench.instants_ms(), [0, 2_000, 2_000, 2_000]);
    let _ = bench.at(2_000, Input::AllQuiet);
    assert!(!bench.machine.was_cut());
    let _ = bench.at(2_000, Input::HooksDone);
    assert_eq!(bench.at(2_000, Input::Tick), []);
    assert_eq!(bench.wake_ms(), 2_050);
}

#[test]
fn quiet_that_comes_with_the_deadline_is_told_first_and_wins() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    assert_eq!(bench.at(8_600, Input::AllQuiet), [enter(Phase::Hooks)]);
    assert!(!bench.machine.was_cut());
}

#[test]
fn a_first_hook_during_the_stop_moves_the_drain_deadline_earlier() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    let _ = bench.at(1_000, Input::FirstHook);
    assert_eq!(bench.instants_ms(), [0, 5_500, 8_500, 9_000]);
    let _ = bench.at(2_000, Input::FirstHook);
    assert_eq!(bench.instants_ms(), [0, 5_500, 8_500, 9_000]);
}

#[test]
fn a_late_first_hook_moves_the_drain_deadline_never_into_the_past() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    let _ = bench.at(7_000, Input::FirstHook);
    assert_eq!(bench.instants_ms(), [0, 7_000, 8_500, 9_000]);
    let cut = [Action::Cut, enter(Phase::Hooks)];
    assert_eq!(bench.at(7_000, Input::Tick), cut);
    assert_eq!(bench.wake_ms(), 8_500);
}

#[test]
fn shutdown_within_starts_a_stop_with_that_timeout() {
    let mut bench = Bench::new(&Shutdown::default().quiet(ms(5_000)));
    let _ = bench.at(0, Input::FirstHook);
    let draining = [enter(Phase::Draining)];
    assert_eq!(bench.at(0, Input::Within(ms(3_000))), draining);
    assert_eq!(bench.instants_ms(), [0, 1_700, 2_700, 3_000]);
    let instants = bench.machine.instants().expect("a stop is under way");
    assert_eq!(instants.quiet_ns, 1_700 * MS);
}

#[test]
fn shutdown_within_shortens_and_extends_and_reopens_nothing() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    assert_eq!(bench.at(1_000, Input::Within(ms(2_000))), []);
    assert_eq!(bench.instants_ms(), [0, 2_800, 2_800, 3_000]);
    let _ = bench.at(1_500, Input::Within(ms(60_000)));
    assert_eq!(bench.instants_ms(), [0, 61_000, 61_000, 61_500]);
    let _ = bench.at(2_000, Input::AllQuiet);
    let _ = bench.at(3_000, Input::Within(ms(10_000)));
    assert_eq!(bench.instants_ms(), [0, 12_500, 12_500, 13_000]);
    assert_eq!(bench.machine.phase(), Phase::Hooks);
    let _ = bench.at(3_000, Input::HooksDone);
    let _ = bench.at(4_000, Input::Within(ms(100)));
    assert_eq!(bench.instants_ms(), [0, 4_100, 4_100, 4_100]);
    assert_eq!(bench.machine.phase(), Phase::Closing);
}

#[test]
fn a_shortened_notice_leaves_time_to_drain() {
    let mut bench = Bench::new(&Shutdown::default().notice(ms(5_000)));
    let _ = bench.at(0, Input::Trigger);
    let _ = bench.at(1_000, Input::Within(ms(2_000)));
    assert_eq!(bench.instants_ms(), [1_900, 2_800, 2_800, 3_000]);
}

#[test]
fn shutdown_within_zero_is_a_force_with_one_turn() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    let cut = [Action::Cut, enter(Phase::Hooks)];
    assert_eq!(bench.at(1_000, Input::Within(Duration::ZERO)), cut);
    assert_eq!(bench.instants_ms(), [0, 1_000, 1_000, 1_050]);
}

#[test]
fn a_forced_stop_is_shortened_but_never_extended() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::FirstHook);
    let _ = bench.at(0, Input::Force);
    let _ = bench.at(100, Input::Within(ms(60_000)));
    assert_eq!(bench.instants_ms()[2..], [900, 1_000]);
    let _ = bench.at(200, Input::Within(ms(400)));
    assert_eq!(bench.instants_ms()[2..], [550, 600]);
}

#[test]
fn after_a_suspension_the_phase_has_a_turn_before_its_cut() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::FirstHook);
    let _ = bench.at(0, Input::Trigger);
    let _ = bench.at(20_000, Input::Suspended(19_000 * MS));
    assert_eq!(bench.at(20_000, Input::Tick), []);
    assert_eq!(bench.instants_ms(), [0, 20_050, 20_100, 20_150]);
    let cut = [Action::Cut, enter(Phase::Hooks)];
    assert_eq!(bench.at(20_050, Input::Tick), cut);
    let _ = bench.at(30_000, Input::Suspended(9_000 * MS));
    assert_eq!(bench.at(30_000, Input::Tick), []);
    let _ = bench.at(30_050, Input::Tick);
    let _ = bench.at(40_000, Input::Suspended(9_000 * MS));
    assert_eq!(bench.at(40_000, Input::Tick), []);
    assert_eq!(bench.wake_ms(), 40_050);
    assert_eq!(bench.machine.suspended_ns(), 37_000 * MS);
}

#[test]
fn a_suspension_that_ends_early_moves_nothing() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(0, Input::Trigger);
    let before = bench.instants_ms();
    assert_eq!(
        bench.machine.step(START + 4_000 * MS, Input::Suspended(MS)),
        []
    );
    assert_eq!(bench.instants_ms(), before);
}

#[test]
fn a_clock_read_out_of_order_does_not_turn_time_back() {
    let mut bench = Bench::new(&Shutdown::default());
    let _ = bench.at(100, Input::Trigger);
    let _ = bench.at(50, Input::AllQuiet);
    assert_eq!(bench.machine.spans()[0].end, Some(START + 100 * MS));
}

#[test]
fn the_end_of_the_clock_is_not_the_end_of_the_process() {
    for input in [Input::Trigger, Input::Force, Input::Within(Duration::MAX)] {
        let mut machine = Machine::new(&Shutdown::default().timeout(Duration::MAX));
        for input in [Input::FirstHook, input, Input::Suspended(u64::MAX)] {
            let _ = machine.step(u64::MAX - 1, input);
        }
        for _ in 0..4 {
            let _ = machine.step(u64::MAX, Input::Tick);
        }
        assert_eq!(machine.phase(), Phase::Terminated, "{input:?}");
    }
}

#[test]
fn phases_keep_their_numbers_and_names() {
    let mut names = Vec::new();
    for number in 0..=u8::MAX {
        if let Some(phase) = Phase::from_u8(number) {
            assert_eq!(phase as u8, number);
            names.push(phase.to_string());
        }
    }
    let expected = [
        "running",
        "notice",
        "draining",
        "hooks",
        "closing",
        "terminated",
    ];
    assert_eq!(names, expected);
}
