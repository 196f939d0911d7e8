//! The stop of a runtime in virtual time: when each phase ends, whatever the cores do, and what
//! that costs. A budget of nine seconds takes no time here.

use super::*;

mod random;
mod scripted;

use crate::config::Shutdown;
use crate::hooks::StartAnywhere;
use crate::shared::{Request, Station, progress};
use Phase::{Closing, Draining, Hooks, Notice};
use scripted::{Ask, MS, NEVER, Part, Stage, stop};

/// The asks of a stop in no hurry.
const CALLED: &[(u64, Ask)] = &[(0, Ask::Shutdown)];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A core that works for so long.
fn works(ms: u64) -> Part {
    Part {
        works: ms,
        ..Part::default()
    }
}

/// A core that ends nothing by itself: no work, no hook, no operation.
fn never_ends() -> Part {
    Part {
        works: NEVER,
        hook: Some((0, NEVER)),
        closes: NEVER,
        ..Part::default()
    }
}

#[test]
fn a_stop_of_idle_cores_takes_no_time_at_all() {
    let stopped = stop(&Shutdown::default(), &[works(0), works(0)], CALLED);
    let at_once = [Draining, Hooks, Closing].map(|phase| (phase, 0, 0, "goal"));
    assert_eq!(stopped.spans, at_once);
    assert_eq!(stopped.instants_awake, 1);
}

#[test]
fn draining_ends_in_the_instant_in_which_the_last_core_is_quiet() {
    let config = Shutdown::default().quiet(ms(300));
    let stopped = stop(&config, &[works(100), works(2_500), works(0)], CALLED);
    assert_eq!(stopped.spans_ms()[0], (Draining, 0, 2_800, "goal"));
}

#[test]
fn whatever_happens_on_any_core_starts_the_quiet_again() {
    let config = Shutdown::default().quiet(ms(300));
    let part = Part {
        happens: vec![299, 500, 799],
        ..works(0)
    };
    let stopped = stop(&config, &[part, works(0)], CALLED);
    assert_eq!(stopped.spans_ms()[0], (Draining, 0, 1_099, "goal"));
}

#[test]
fn a_letter_on_its_way_is_waited_for() {
    let posts = Part {
        posts: vec![(1_000, 1)],
        ..works(0)
    };
    let reads = Part {
        reads_after: 70,
        ..works(0)
    };
    let stopped = stop(&Shutdown::default(), &[posts, reads], CALLED);
    assert_eq!(stopped.spans_ms()[0], (Draining, 0, 1_070, "goal"));
    assert_eq!(stopped.cores[1].0, 1);
}

#[test]
fn a_guard_is_waited_for_and_quiet_counts_from_its_end() {
    let config = Shutdown::default().quiet(ms(317));
    let asks = [(0, Ask::Shutdown), (0, Ask::Hold), (4_013, Ask::LetGo)];
    let stopped = stop(&config, &[works(100)], &asks);
    assert_eq!(stopped.spans_ms()[0], (Draining, 0, 4_330, "goal"));
    assert!(stopped.held.is_empty());
}

#[test]
fn a_guard_that_is_held_at_the_deadline_is_named() {
    let asks = [(0, Ask::Shutdown), (0, Ask::Hold)];
    let stopped = stop(&Shutdown::default(), &[works(0)], &asks);
    assert_eq!(stopped.spans_ms()[0], (Draining, 0, 8_500, "deadline"));
    assert_eq!(stopped.held, ["played"]);
}

#[test]
fn what_never_ends_is_cut_at_each_deadline_to_the_nanosecond() {
    let stopped = stop(&Shutdown::default(), &[never_ends(), works(0)], CALLED);
    let spans = [
        (Draining, 0, 5_500 * MS, "deadline"),
        (Hooks, 5_500 * MS, 8_500 * MS, "deadline"),
        (Closing, 8_500 * MS, 9_000 * MS, "deadline"),
    ];
    assert_eq!(stopped.spans, spans);
    let order = stopped.order;
    assert!(order.is_cut() && order.hooks_are_cut() && order.gives_up());
}

#[test]
fn a_notice_lasts_its_time_and_draining_has_the_rest() {
    let config = Shutdown::default().notice(ms(2_000));
    let stopped = stop(&config, &[works(NEVER)], CALLED);
    let spans = [
        (Notice, 0, 2_000, "deadline"),
        (Draining, 2_000, 8_500, "deadline"),
    ];
    assert_eq!(stopped.spans_ms()[..2], spans);
}

#[test]
fn a_phase_that_ends_early_leaves_its_time_to_the_next() {
    let part = Part {
        hook: Some((0, 7_900)),
        closes: 400,
        ..works(600)
    };
    let stopped = stop(&Shutdown::default(), &[part], CALLED);
    let spans = [
        (Draining, 0, 600, "goal"),
        (Hooks, 600, 8_500, "goal"),
        (Closing, 8_500, 8_900, "goal"),
    ];
    assert_eq!(stopped.spans_ms(), spans);
}

#[test]
fn a_second_signal_cuts_and_leaves_one_second_for_hooks_and_closing() {
    let asks = [(0, Ask::Signal), (1_000, Ask::Signal)];
    let stopped = stop(&Shutdown::default(), &[never_ends()], &asks);
    let spans = stopped.spans_ms();
    assert_eq!(spans[0], (Draining, 0, 1_000, "force"));
    assert_eq!((spans[1].0, spans[1].3), (Hooks, "deadline"));
    assert!(spans[1].2 > 1_600, "hooks run all the same: {spans:?}");
    assert_eq!(stopped.end_ns(), 2_000 * MS);
}

#[test]
fn a_force_in_any_phase_ends_the_stop_within_a_second() {
    for at_ms in [0, 1, 1_999, 2_000, 5_500, 7_000, 8_600, 8_990] {
        for ask in [Ask::Force, Ask::Signal] {
            let config = Shutdown::default().notice(ms(2_000));
            let asks = [(0, Ask::Signal), (at_ms.max(300), ask)];
            let stopped = stop(&config, &[never_ends(), never_ends()], &asks);
            let end_ms = (at_ms.max(300) + 1_000).min(9_000);
            let late_ns = stopped.end_ns().saturating_sub(end_ms * MS);
            assert!(late_ns <= 50 * MS, "{ask:?} at {at_ms}: {stopped:?}");
        }
    }
}

#[test]
fn shutdown_within_moves_what_is_to_come_and_reopens_nothing() {
    let shorter = [(0, Ask::Shutdown), (1_000, Ask::Within(2_000))];
    let stopped = stop(&Shutdown::default(), &[never_ends()], &shorter);
    assert_eq!(stopped.end_ns(), 3_000 * MS);
    assert!(stopped.spans.iter().all(|span| span.3 == "deadline"));
    let longer = [(0, Ask::Shutdown), (6_000, Ask::Within(30_000))];
    let stopped = stop(&Shutdown::default(), &[never_ends()], &longer);
    assert_eq!(stopped.spans_ms()[0], (Draining, 0, 5_500, "deadline"));
    assert_eq!(stopped.end_ns(), 36_000 * MS);
}

#[test]
fn a_first_hook_during_the_stop_moves_the_drain_deadline_earlier_not_into_the_past() {
    for (registered, cut) in [(3_000, 5_500), (7_000, 7_000)] {
        let part = Part {
            hook: Some((registered, 10)),
            ..works(NEVER)
        };
        let stopped = stop(&Shutdown::default(), &[works(0), part], CALLED);
        assert_eq!(stopped.spans_ms()[0], (Draining, 0, cut, "deadline"));
        assert_eq!(stopped.spans_ms()[1], (Hooks, cut, cut + 10, "goal"));
    }
}

#[test]
fn a_stuck_core_is_left_out_of_every_phase() {
    let stuck = Part {
        hangs: Some((0, NEVER)),
        ..never_ends()
    };
    let sibling = Part {
        hook: Some((0, 200)),
        closes: 100,
        ..works(400)
    };
    let stopped = stop(&Shutdown::default(), &[stuck, sibling], CALLED);
    let spans = [
        (Draining, 0, 1_000, "goal"),
        (Hooks, 1_000, 1_200, "goal"),
        (Closing, 1_200, 1_300, "goal"),
    ];
    assert_eq!(stopped.spans_ms(), spans);
    assert_eq!(stopped.cores[0], (0, true));
    assert_eq!(stopped.cores[1], (0, false));
}

#[test]
fn a_core_that_moves_again_belongs_to_the_others_again() {
    let part = Part {
        hangs: Some((0, 2_000)),
        hook: Some((0, 500)),
        closes: 30,
        ..works(0)
    };
    // The sibling's work outlasts the hanging: the agreement is one of both.
    let stopped = stop(&Shutdown::default(), &[part, works(3_000)], CALLED);
    let spans = [
        (Draining, 0, 3_000, "goal"),
        (Hooks, 3_000, 3_500, "goal"),
        (Closing, 3_500, 3_530, "goal"),
    ];
    assert_eq!(stopped.spans_ms(), spans);
    assert!(!stopped.cores[0].1, "nobody has left it out");
}

/// Nobody has looked at the cores before the stop, so nobody has noticed that the process stood still.
#[test]
fn a_suspension_that_ended_just_before_the_stop_is_not_held_against_a_core() {
    let part = |comes_back| Part {
        hangs: Some((0, comes_back)),
        stood_still: 600_000,
        ..works(0)
    };
    let stopped = stop(&Shutdown::default(), &[part(99), works(0)], CALLED);
    assert_eq!(stopped.spans_ms()[0], (Draining, 0, 99, "goal"));
    assert!(!stopped.cores[0].1, "it was left out");
    let stopped = stop(&Shutdown::default(), &[part(NEVER), works(0)], CALLED);
    assert_eq!(stopped.spans_ms()[0], (Draining, 0, 100, "goal"));
    assert!(
        stopped.cores[0].1,
        "one that does hang is not waited for longer"
    );
}

#[test]
fn with_every_core_stuck_no_deadline_is_waited_for() {
    let stuck = Part {
        hangs: Some((0, NEVER)),
        ..never_ends()
    };
    let stopped = stop(&Shutdown::default(), &[stuck.clone(), stuck], CALLED);
    assert_eq!(stopped.end_ns(), 1_000 * MS);
}

#[test]
fn hooks_of_the_process_go_to_the_lowest_core_that_lives() {
    let config = Shutdown::default();
    let stuck = Part {
        hangs: Some((0, NEVER)),
        ..never_ends()
    };
    let stage = Stage::set(&config, &[stuck, works(0), works(0)]);
    let hook: StartAnywhere = Box::new(|| Box::pin(async { Ok(()) }));
    let site = std::panic::Location::caller();
    let hooks = &stage.shared.process_hooks;
    hooks.add("last word".to_owned(), ms(100), hook, site);
    // The played core takes the letter and never says that they are done.
    let stopped = stage.plays(CALLED);
    let letters: Vec<u64> = stopped.cores.iter().map(|core| core.0).collect();
    assert_eq!(letters, [0, 1, 0]);
    assert_eq!(stopped.spans_ms()[1], (Hooks, 1_000, 8_500, "deadline"));
}

#[test]
fn after_a_suspension_each_phase_has_a_turn_and_the_time_is_told() {
    let part = Part {
        hook: Some((0, 10)),
        ..works(1_020)
    };
    let asks = [(0, Ask::Shutdown), (1_000, Ask::Suspend(60_000))];
    // The work ends while the process stands still: it has not to be cut for that.
    let stopped = stop(&Shutdown::default(), &[part], &asks);
    let spans = [
        (Draining, 0, 61_000, "goal"),
        (Hooks, 61_000, 61_010, "goal"),
        (Closing, 61_010, 61_010, "goal"),
    ];
    assert_eq!(stopped.spans_ms(), spans);
    let stopped = stop(&Shutdown::default(), &[never_ends()], &asks);
    let spans = [
        (Draining, 0, 61_050, "deadline"),
        (Hooks, 61_050, 61_100, "deadline"),
        (Closing, 61_100, 61_150, "deadline"),
    ];
    assert_eq!(stopped.spans_ms(), spans);
    assert!((59_950..=60_000).contains(&(stopped.suspended_ns / MS)));
}

#[test]
fn before_a_stop_the_coordinator_sleeps_and_during_one_it_wakes_each_heartbeat() {
    let config = Shutdown::default();
    let stage = Stage::set(&config, &[works(0)]);
    assert_eq!(stage.coordinator.wake_ns(scripted::START), None);
    let stopped = stop(&config, &[works(NEVER)], CALLED);
    let heartbeats = 8_500 / 50;
    let awake = u64::from(stopped.instants_awake);
    assert!((heartbeats..heartbeats + 3).contains(&awake), "{awake}");
}

#[test]
fn the_kernel_is_asked_about_the_thread_of_a_core_that_is_there_and_of_no_other() {
    let mut stage = Stage::set(&Shutdown::default(), &[works(0), works(0)]);
    for station in &stage.shared.stations {
        station.pulse.begin(crate::ring::sys::thread::current_id());
    }
    assert!(stage.shared.stations[1].advance(progress::GONE));
    stage.coordinator.ask_for_last_words();
    let asked = &stage.coordinator.asked;
    assert_ne!(
        asked[0],
        Asked::default(),
        "the kernel counts (CONFIG_SCHED_INFO)"
    );
    assert_eq!(asked[1], Asked::default(), "it is gone");
}
