//! The rules of the numbers, by example and over a grid.

use super::*;

const MS: u64 = 1_000_000;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn stop(quiet_ms: u64, timeout_ms: u64) -> Shutdown {
    Shutdown::default()
        .quiet(ms(quiet_ms))
        .timeout(ms(timeout_ms))
}

fn reserves_ms(config: &Shutdown, hook_exists: bool) -> (u64, u64) {
    let reserves = config.reserves(hook_exists);
    (reserves.hooks_ns / MS, reserves.close_ns / MS)
}

#[track_caller]
fn refused_naming(config: &Shutdown, words: &[&str]) {
    let error = config.validate().expect_err("these numbers are refused");
    assert_eq!(error.kind(), ErrorKind::Config);
    let line = error.to_string();
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
}

#[test]
fn the_defaults_are_those_of_the_contract_and_valid() {
    let config = Shutdown::default();
    assert!(config.validate().is_ok());
    assert_eq!((config.notice_ns(), config.quiet_ns()), (0, 0));
    assert_eq!(config.timeout_ns(), 9_000 * MS);
    assert_eq!(config.idle_grace_ns(), 1_000 * MS);
    assert_eq!(config.linger_ns(), 2_000 * MS);
    assert_eq!(config.stuck_after_ns(), 1_000 * MS);
    assert_eq!(reserves_ms(&config, false), (0, 500));
    assert_eq!(reserves_ms(&config, true), (3_000, 500));
}

#[test]
fn closing_is_kept_its_turn_of_a_short_timeout() {
    assert_eq!(reserves_ms(&stop(0, 349), true), (116, 50));
    assert_eq!(reserves_ms(&stop(0, 120), true), (40, 50));
    // There is not so much, or a wait is wanted more.
    assert_eq!(reserves_ms(&stop(0, 30), false), (0, 30));
    assert_eq!(reserves_ms(&stop(100, 120), false), (0, 20));
}

#[test]
fn a_quiet_longer_than_the_timeout_is_refused_with_both_numbers() {
    refused_naming(
        &stop(3_000, 2_000),
        &["quiet (3s)", "timeout (2s)", "raise"],
    );
}

#[test]
fn a_notice_longer_than_the_timeout_is_refused_with_both_numbers() {
    let config = stop(0, 2_000).notice(ms(2_500));
    refused_naming(&config, &["notice (2.5s)", "timeout (2s)", "lower notice"]);
}

#[test]
fn reserves_given_by_hand_that_do_not_fit_are_refused_with_all_numbers() {
    let config = stop(5_000, 9_000)
        .hooks_reserve(ms(4_000))
        .close_reserve(ms(1_000));
    refused_naming(
        &config,
        &["4s", "1s", "quiet (5s)", "timeout (9s)", "at least 10s"],
    );
    let fits = stop(4_000, 9_000)
        .hooks_reserve(ms(4_000))
        .close_reserve(ms(1_000));
    assert!(fits.validate().is_ok());
    assert_eq!(reserves_ms(&fits, true), (4_000, 1_000));
}

#[test]
fn quiet_equal_to_timeout_and_zero_zero_are_legal_and_keep_nothing() {
    for config in [stop(2_000, 2_000), stop(1, 1), stop(0, 0)] {
        assert!(config.validate().is_ok());
        assert_eq!(reserves_ms(&config, true), (0, 0));
        assert_eq!(reserves_ms(&config, false), (0, 0));
    }
}

#[test]
fn default_reserves_shrink_in_proportion_but_leave_closing_its_floor() {
    assert_eq!(reserves_ms(&stop(8_000, 9_000), true), (857, 142));
    assert_eq!(reserves_ms(&stop(8_900, 9_000), true), (50, 50));
    assert_eq!(reserves_ms(&stop(8_970, 9_000), true), (0, 30));
}

#[test]
fn a_reserve_given_by_hand_is_exact_and_the_default_one_takes_the_rest() {
    let hooks = stop(8_000, 9_000).hooks_reserve(ms(900));
    assert_eq!(reserves_ms(&hooks, true), (900, 100));
    let close = stop(8_000, 9_000).close_reserve(ms(900));
    assert_eq!(reserves_ms(&close, true), (100, 900));
}

#[test]
fn nothing_is_kept_for_hooks_where_none_exists() {
    let config = stop(0, 9_000).hooks_reserve(ms(4_000));
    assert_eq!(reserves_ms(&config, false), (0, 500));
    assert_eq!(reserves_ms(&config, true), (4_000, 500));
}

#[test]
fn durations_beyond_a_century_are_clamped_and_never_overflow() {
    let config = Shutdown::default()
        .notice(Duration::MAX)
        .quiet(Duration::MAX)
        .timeout(Duration::MAX)
        .idle_grace(Duration::MAX)
        .linger(Duration::MAX)
        .stuck_after(Duration::MAX);
    assert!(config.validate().is_ok());
    assert!(config.timeout_ns().checked_add(u64::MAX / 4).is_some());
    let greedy = config
        .hooks_reserve(Duration::MAX)
        .close_reserve(Duration::MAX);
    refused_naming(&greedy, &["do not fit"]);
    assert_eq!(
        greedy.reserves(true),
        Reserves {
            hooks_ns: 0,
            close_ns: 0
        }
    );
}

#[test]
fn a_turn_shorter_than_a_heartbeat_is_never_stuck() {
    let config = Shutdown::default().stuck_after(Duration::ZERO);
    assert_eq!(config.stuck_after_ns(), nanos(HEARTBEAT));
}

#[test]
fn a_shorter_timeout_keeps_the_proportions_and_leaves_time_to_drain() {
    let config = stop(5_000, 10_000)
        .notice(ms(5_000))
        .hooks_reserve(ms(4_000))
        .close_reserve(ms(1_000));
    let within = config.within(ms(1_000));
    assert_eq!(reserves_ms(&within, true), (400, 100));
    assert_eq!(within.quiet_ns(), 500 * MS);
    assert_eq!(within.notice_ns(), 250 * MS);
    assert!(within.validate().is_ok());
}

#[test]
fn a_longer_timeout_changes_nothing_else() {
    let config = stop(2_000, 2_000)
        .notice(ms(100))
        .close_reserve(Duration::ZERO);
    let within = config.within(ms(60_000));
    assert_eq!(within, config.timeout(ms(60_000)));
}

#[test]
fn every_pair_of_quiet_and_timeout_that_is_valid_leaves_its_quiet_time() {
    const STEPS_MS: [u64; 9] = [0, 1, 30, 50, 99, 100, 1_000, 9_000, 60_000];
    let mut checked = 0;
    for timeout in STEPS_MS {
        for quiet in STEPS_MS {
            for notice in STEPS_MS {
                let config = stop(quiet, timeout).notice(ms(notice));
                assert_eq!(config.validate().is_ok(), quiet.max(notice) <= timeout);
                if config.validate().is_err() {
                    continue;
                }
                for shorter in STEPS_MS {
                    for hook_exists in [false, true] {
                        leaves_room(&config.within(ms(shorter)), hook_exists);
                    }
                }
                leaves_room(&config, true);
                checked += 1;
            }
        }
    }
    assert!(checked > 200);
}

#[track_caller]
fn leaves_room(config: &Shutdown, hook_exists: bool) {
    let reserves = config.reserves(hook_exists);
    let kept = config.notice_ns().max(config.quiet_ns());
    assert!(config.validate().is_ok());
    assert!(reserves.hooks_ns + reserves.close_ns + kept <= config.timeout_ns());
    assert!(hook_exists || reserves.hooks_ns == 0);
}
