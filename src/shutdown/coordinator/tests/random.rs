//! Random stops: against what each phase's end must be, worked out in plain numbers; and with
//! everything that can go wrong, against what holds in any stop.

use super::scripted::{Ask, MS, NEVER, Part, Stopped, stop};
use super::*;
use proptest::prelude::*;

const TURN: u64 = 50 * MS;

/// When the phases of a stop in no hurry end (ns), and by what.
fn worked_out(config: &Shutdown, parts: &[Part]) -> Vec<(Phase, u64, u64, &'static str)> {
    let has_hook = parts.iter().any(|part| part.hook.is_some());
    let reserves = config.reserves(has_hook);
    let hooks_by = config.timeout_ns() - reserves.close_ns;
    let drain_by = hooks_by - reserves.hooks_ns;
    let mut hard = config.timeout_ns().max(TURN);
    let mut spans = Vec::new();
    let mut begins = 0;
    let mut end = |phase, begins: &mut u64, ends: u64, by| {
        spans.push((phase, *begins, ends, by));
        *begins = ends;
    };
    let notice = config.notice_ns().min(drain_by);
    if config.notice_ns() > 0 {
        end(Notice, &mut begins, notice, "deadline");
    }
    if config.notice_ns() == 0 || notice < drain_by {
        let quiet = all_quiet(config, parts, begins);
        // With no time at all for it, nobody is asked.
        let by = if quiet <= drain_by && begins < drain_by {
            "goal"
        } else {
            "deadline"
        };
        end(Draining, &mut begins, quiet.min(drain_by), by);
    }
    let hooks = parts.iter().filter_map(|part| part.hook).map(|hook| hook.1);
    let done = begins + hooks.max().unwrap_or(0) * MS;
    let hooks_by = match has_hook {
        true => hooks_by.max(begins + TURN),
        false => done,
    };
    hard = hard.max(hooks_by);
    let by = if done <= hooks_by { "goal" } else { "deadline" };
    end(Hooks, &mut begins, done.min(hooks_by), by);
    hard = hard.max(begins + TURN);
    let closes = parts.iter().map(|part| part.closes).max().unwrap_or(0);
    let done = begins + closes * MS;
    let by = if done <= hard { "goal" } else { "deadline" };
    end(Closing, &mut begins, done.min(hard), by);
    spans
}

/// The first instant from `begins` on at which every core has been quiet for long enough.
fn all_quiet(config: &Shutdown, parts: &[Part], begins: u64) -> u64 {
    let since = |part: &Part, now: u64| {
        let happened = part.happens.iter().map(|ms| ms * MS);
        let happened = happened.filter(|at| *at <= now).max().unwrap_or(0);
        happened.max(part.works * MS).max(begins)
    };
    let mut now = begins;
    loop {
        let quiet = |part: &Part| since(part, now) + config.quiet_ns();
        let at = parts.iter().map(quiet).max().expect("a core");
        if at <= now {
            return now;
        }
        now = at;
    }
}

prop_compose! {
    fn any_config()(
        timeout in 1..12_000_u64,
        quiet in prop_oneof![Just(0), 0..100_u64],
        notice in prop_oneof![Just(0), 0..=100_u64],
    ) -> Shutdown {
        let config = Shutdown::default().timeout(ms(timeout));
        config.quiet(ms(timeout * quiet / 100)).notice(ms(timeout * notice / 100))
    }
}

/// How long something takes: mostly not for ever.
fn takes(most: u64) -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 6 => 0..most, 1 => Just(NEVER)]
}

prop_compose! {
    fn any_part()(
        works in takes(8_000),
        happens in proptest::collection::vec(0..4_000_u64, 0..6),
        hook in proptest::option::of(takes(4_000)),
        closes in takes(600),
    ) -> Part {
        Part { works, happens, hook: hook.map(|takes| (0, takes)), closes, ..Part::default() }
    }
}

fn any_ask() -> impl Strategy<Value = (u64, Ask)> {
    let ask = prop_oneof![
        2 => Just(Ask::Shutdown),
        1 => (0..15_000_u64).prop_map(Ask::Within),
        1 => Just(Ask::Force),
        1 => Just(Ask::Hold),
        2 => Just(Ask::LetGo),
        // A shorter one is a late wake, and no suspension.
        1 => (300..20_000_u64).prop_map(Ask::Suspend),
    ];
    (0..10_000_u64, ask)
}

prop_compose! {
    /// Parts with letters, hooks that come late and turns that last.
    fn any_troubled_part(cores: usize)(
        part in any_part(),
        posts in proptest::collection::vec((0..4_000_u64, 0..cores), 0..4),
        reads_after in 0..200_u64,
        hook_at in 0..9_000_u64,
        hangs in proptest::option::of((0..3_000_u64, takes(3_000))),
    ) -> Part {
        Part {
            posts,
            reads_after,
            hook: part.hook.map(|(_, takes)| (hook_at, takes)),
            hangs: hangs.map(|(from, takes)| (from, from + takes)),
            ..part
        }
    }
}

fn any_troubled_stop() -> impl Strategy<Value = (Vec<Part>, Vec<(u64, Ask)>)> {
    (1..5_usize).prop_flat_map(|cores| {
        let parts = proptest::collection::vec(any_troubled_part(cores), cores);
        (parts, proptest::collection::vec(any_ask(), 0..6))
    })
}

/// What holds in any stop.
#[track_caller]
fn holds(config: &Shutdown, asks: &[(u64, Ask)], stopped: &Stopped) {
    for pair in stopped.spans.windows(2) {
        assert!(pair[0].0 < pair[1].0, "{stopped:?}");
        assert_eq!(pair[0].2, pair[1].1, "no time between two phases");
    }
    let hard_ns = stopped.instants.hard_deadline - stopped.instants.start;
    assert!(stopped.end_ns() <= hard_ns, "{stopped:?}");
    let moved = |ask: &Ask| matches!(ask, Ask::Within(_) | Ask::Suspend(_));
    if !asks.iter().any(|(_, ask)| moved(ask)) {
        let most_ns = config.timeout_ns().max(TURN) + 2 * TURN;
        assert!(hard_ns <= most_ns, "{stopped:?}");
    }
    let cut = stopped.spans.iter().any(|&(phase, _, _, by)| {
        let drains = phase == Draining && by != "goal";
        drains || (phase == Notice && stopped.order.is_cut())
    });
    assert_eq!(stopped.order.is_cut(), cut, "{stopped:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_phase_of_a_random_stop_ends_in_the_instant_worked_out(
        config in any_config(),
        parts in proptest::collection::vec(any_part(), 1..6),
    ) {
        prop_assert!(config.validate().is_ok());
        let stopped = stop(&config, &parts, CALLED);
        prop_assert_eq!(&stopped.spans, &worked_out(&config, &parts));
        holds(&config, CALLED, &stopped);
    }

    #[test]
    fn random_stops_with_all_troubles_end_by_their_hard_deadline(
        config in any_config(),
        (parts, more) in any_troubled_stop(),
    ) {
        let asks = [&[(0, Ask::Shutdown)], &more[..]].concat();
        let stopped = stop(&config, &parts, &asks);
        holds(&config, &asks, &stopped);
    }
}
