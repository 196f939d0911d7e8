//! The page as people see it.
#![forbid(unsafe_code)]

use super::samples;
use crate::report::*;

#[test]
fn an_idle_stop_takes_three_lines() {
    let text = samples::idle().to_string();
    assert_eq!(
        text,
        "\
clean (exit 0): stopped in 12.3 ms of 9 s, by SIGTERM from pid 4242
phases    draining 10.1 ms, closing 2.19 ms
cores     2 were idle: no connection was open, none came"
    );
}

#[test]
fn a_stop_before_any_core_was_up_takes_two_lines() {
    assert_eq!(
        Report::default().to_string(),
        "clean (exit 0): stopped in 0 ms\ncores     none had started"
    );
}

#[test]
fn a_forced_stop_says_why_and_shows_when() {
    let text = samples::forced().to_string();
    assert_eq!(
        text,
        "\
forced (exit 81): stopped in 4.61 s of 9 s, by SIGTERM from pid 4242
then      by SIGINT from pid 4242 at 3.61 s
suspended 750.5 ms in which the process stood still
lost      2 connections cut by a reset on core 0
          131,072 bytes not sent on core 0
          at most 2,448 bytes not acknowledged on core 0
phases    draining 3.61 s (force), hooks 988 ms (deadline), closing 12 ms
served    24,069 connections, 480,259 requests since the start
tasks     8 spawned, 4 completed, 4 dropped (2 in the background)
timers    24 fired
letters   80 sent by cores, 3 sent from outside, 83 handled
turns     1,207 in the stop, at most 1.22 ms
listeners 0.0.0.0:8080 bpf gate, spread over 2.5 s, window 200 ms, 25 from the
          backlog

connections: open at the trigger, accepted since, and how they ended
 core  open  accepted  drained  by peer  by us  forced
    0   118        14       99       30      1       2
    1   120        11      102       28      1       ·
  all   238        25      201       58      2       2

traffic since the start
 core  requests  answered  received    sent    unsent  unacked
    0   240,127   240,125   21.6 MB  1.9 GB  131.1 kB   2.4 kB
    1   240,132   240,132   21.6 MB  1.9 GB         ·        ·
  all   480,259   480,257   43.2 MB  3.8 GB  131.1 kB   2.4 kB

 core  0 ─────────────── 1.15 s ────────── 2.31 s ────────── 3.46 s ───── 4.61 s
                                                                ▼
    0  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓█
    1  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓█
  all  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓█
       ▒ draining  ▓ hooks  █ closing  ▼ trigger

hooks
  ok        flush-metrics        2 times     1.9 ms at most
  failed    close-database-pool  core 0     12.4 ms
            connection reset by peer (os error 104) while the pool sent its last
            COMMIT
  ok        deregister           process    18.2 ms
  overran   upload-logs          process     900 ms

stragglers
  core 0   task        upload              in recv, spawned at
                                           src/handlers/upload.rs:42:9
  core 0   connection  203.0.113.77:51324  131,072 bytes unsent"
    );
}

#[test]
fn a_stuck_core_is_named_with_its_task_and_its_error_with_its_core() {
    let text = samples::stuck().to_string();
    let top: Vec<&str> = text.lines().take(4).collect();
    assert_eq!(
        top,
        [
            "stuck (exit 82): left after 9.05 s of 9 s, because a main future failed",
            "stuck     core 2: in resize-image since 80 ms, spawned at",
            "          src/handlers/images.rs:107:13; state R (running)",
            "failed    core 3: Address already in use (os error 98)",
        ]
    );
    assert!(text.contains("    2  ▒×××"), "{text}");
}

#[test]
fn of_many_cores_those_are_shown_that_tell_most() {
    let text = samples::wide().to_string();
    assert!(text.contains("90 bytes not sent on core 41"), "{text}");
    assert!(text.contains("\n   41  "), "{text}");
    assert!(text.contains("… 48 more cores, in the sums only"), "{text}");
    assert!(text.contains("\n  all  7,744 "), "{text}");
}

#[test]
fn columns_without_a_number_are_left_out() {
    let text = samples::busy().to_string();
    for head in ["aborted", "reset", "forced", "abandoned", "unsent", "late"] {
        assert!(!text.contains(head), "{head} in {text}");
    }
}

#[test]
fn sums_that_do_not_add_up_are_said() {
    let mut report = samples::busy();
    report.cores[1].ops.submitted = 3;
    let text = report.to_string();
    assert!(
        text.contains("mismatch  core 1: ops: submitted 3 = completed 0 + leaked 0"),
        "{text}"
    );
}

#[test]
fn a_phase_of_microseconds_is_seen_beside_one_of_seconds() {
    let mut report = samples::stuck();
    report.cores.truncate(1);
    report.cores[0].phases = vec![
        PhaseSpan::new("draining", 0.0, 9_000.0, "goal"),
        PhaseSpan::new("hooks", 4_500.0, 4_500.01, "goal"),
    ];
    let text = report.to_string();
    assert!(text.contains("▒▓▒"), "{text}");
}

#[test]
fn a_stop_that_took_no_time_has_no_timeline() {
    let mut report = samples::busy();
    report.elapsed_ms = 0.0;
    let text = report.to_string();
    assert!(!text.contains('▒') && !text.contains('─'), "{text}");
}

#[track_caller]
fn check_headline(trigger: Trigger, end: &str) {
    let mut report = samples::idle();
    report.triggers = vec![trigger];
    let text = report.to_string();
    let line = text.lines().next().unwrap_or_default();
    assert_eq!(
        line,
        format!("clean (exit 0): stopped in 12.3 ms of 9 s, {end}")
    );
}

#[test]
fn the_first_line_says_who_called_for_the_stop() {
    check_headline(Trigger::signal(2, None, 0.0), "by SIGINT");
    check_headline(Trigger::signal(34, Some(7), 0.0), "by signal 34 from pid 7");
    check_headline(Trigger::new(TriggerKind::Api, 0.0), "by a handle");
    check_headline(Trigger::new(TriggerKind::Force, 0.0), "forced by a handle");
    check_headline(
        Trigger::new(TriggerKind::MainEnded, 0.0),
        "because every main future ended",
    );
    check_headline(
        Trigger::new(TriggerKind::CoreFailed, 0.0),
        "because a core failed",
    );
}

#[test]
fn stalls_before_the_stop_are_counted_and_the_longest_named() {
    let mut report = samples::idle();
    report.stalls = vec![samples::stall()];
    report.stalls_total = 3;
    let text = report.to_string();
    let told = "stalled   3 turns too long before the stop, the longest:\n          \
                core 1: 1.2 s in task 7, spawned at src/main.rs:7:5; state S\n          \
                (sleeping) in clock_nanosleep";
    assert!(text.contains(told), "{text}");
}

#[test]
fn an_accept_that_paused_is_told_once_for_each_address() {
    let mut report = samples::busy();
    for core in &mut report.cores {
        core.listeners[0].pauses = 6;
        core.listeners[0].paused_by = Some("Too many open files (os error 24)".to_owned());
    }
    let text = report.to_string();
    let told: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("paused"))
        .collect();
    assert_eq!(
        told,
        ["paused    0.0.0.0:8080 accepted nobody for a while, 12 times, last for: Too many"]
    );
    assert!(text.contains("open files (os error 24)"), "{text}");
}
