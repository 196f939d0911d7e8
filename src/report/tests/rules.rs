//! The rules of the verdict and the sums.
#![forbid(unsafe_code)]

use super::samples::{self, hook, straggler};
use crate::report::*;

/// The verdict on a stop of two cores, one of which is changed.
fn verdict_after(change: impl FnOnce(&mut CoreReport)) -> Verdict {
    let mut report = samples::idle();
    change(&mut report.cores[1]);
    verdict_of(&report)
}

#[test]
fn a_stop_without_trouble_is_clean() {
    assert_eq!(verdict_of(&Report::default()), Verdict::Clean);
    assert_eq!(verdict_of(&samples::idle()), Verdict::Clean);
    assert_eq!(verdict_of(&samples::busy()), Verdict::Clean);
}

#[test]
fn a_core_that_never_came_back_makes_it_stuck() {
    let verdict = verdict_after(|core| core.outcome = CoreOutcome::Stuck);
    assert_eq!(verdict, Verdict::Stuck);
}

#[test]
fn a_core_that_failed_makes_it_failed() {
    let verdict = verdict_after(|core| core.outcome = CoreOutcome::Failed);
    assert_eq!(verdict, Verdict::Failed);
    let verdict = verdict_after(|core| core.error = Some("bind: in use".to_owned()));
    assert_eq!(verdict, Verdict::Failed);
}

#[test]
fn a_connection_that_was_cut_makes_it_forced() {
    let verdict = verdict_after(|core| core.connections.forced = 1);
    assert_eq!(verdict, Verdict::Forced);
}

#[test]
fn a_straggler_makes_it_forced() {
    let verdict = verdict_after(|core| {
        core.stragglers = vec![straggler("task", "upload", None, "")];
    });
    assert_eq!(verdict, Verdict::Forced);
}

#[test]
fn nothing_alive_at_the_deadline_is_not_forced() {
    let mut report = samples::idle();
    report.phases[0].ended_by = "deadline".to_owned();
    assert_eq!(verdict_of(&report), Verdict::Clean);
}

#[test]
fn each_loss_makes_it_degraded() {
    let losses: [fn(&mut CoreReport); 4] = [
        |core| core.connections.abandoned = 1,
        |core| core.bytes.unsent = 1,
        |core| core.bytes.unacked = 1,
        |core| core.ops.leaked = 1,
    ];
    for (i, loss) in losses.into_iter().enumerate() {
        assert_eq!(verdict_after(loss), Verdict::Degraded, "loss {i}");
    }
}

#[test]
fn a_hook_that_did_not_succeed_makes_it_degraded() {
    for outcome in [
        HookOutcome::Failed,
        HookOutcome::Panicked,
        HookOutcome::Overran,
    ] {
        let on_a_core = verdict_after(|core| core.hooks = vec![hook("h", outcome, None, 1)]);
        assert_eq!(on_a_core, Verdict::Degraded);
        let of_the_process = Report {
            hooks: vec![hook("h", outcome, None, 1)],
            ..Report::default()
        };
        assert_eq!(verdict_of(&of_the_process), Verdict::Degraded);
    }
}

#[test]
fn what_its_owner_was_told_of_is_no_loss() {
    let told: [fn(&mut CoreReport); 7] = [
        |core| core.tasks.panicked = 1,
        |core| core.tasks.rejected = 1,
        |core| core.tasks.cancelled = 1,
        |core| core.timers.cancelled = 1,
        |core| core.letters.returned = 1,
        |core| core.bytes.late = 1,
        |core| core.buffers.lent = 1,
    ];
    for (i, change) in told.into_iter().enumerate() {
        assert_eq!(verdict_after(change), Verdict::Clean, "change {i}");
    }
}

#[test]
fn the_worst_verdict_wins() {
    let mut report = samples::idle();
    let mut seen = vec![verdict_of(&report)];
    report.hooks = vec![hook("h", HookOutcome::Failed, None, 1)];
    seen.push(verdict_of(&report));
    report.cores[0].connections.forced = 1;
    seen.push(verdict_of(&report));
    report.cores[1].outcome = CoreOutcome::Failed;
    seen.push(verdict_of(&report));
    report.cores[0].outcome = CoreOutcome::Stuck;
    seen.push(verdict_of(&report));
    use Verdict::{Clean, Degraded, Failed, Forced, Stuck};
    assert_eq!(seen, [Clean, Degraded, Forced, Failed, Stuck]);
    assert!(seen.is_sorted());
}

#[test]
fn the_verdict_that_is_stored_already_is_not_a_fact() {
    let report = Report {
        verdict: Verdict::Stuck,
        ..Report::default()
    };
    assert_eq!(verdict_of(&report), Verdict::Clean);
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    use Verdict::{Clean, Degraded, Failed, Forced, Stuck};
    let codes = [Clean, Degraded, Forced, Stuck, Failed].map(Verdict::code);
    assert_eq!(codes, [0, 80, 81, 82, 83]);
}

#[test]
fn the_exit_code_of_a_report_is_that_of_its_verdict() {
    // `ExitCode` cannot be compared, but its debug form tells codes apart.
    let code = format!("{:?}", samples::forced().exit_code());
    assert_eq!(code, format!("{:?}", ExitCode::from(81)));
    assert_ne!(code, format!("{:?}", ExitCode::from(80)));
}

#[test]
fn the_samples_add_up() {
    for report in [
        samples::idle(),
        samples::busy(),
        samples::forced(),
        samples::stuck(),
        samples::wide(),
    ] {
        assert_eq!(report.imbalances(), Vec::<String>::new());
    }
}

/// The one imbalance of a busy stop after a change to its second core.
#[track_caller]
fn check_imbalance(change: impl FnOnce(&mut CoreReport), sentence: &str) {
    let mut report = samples::busy();
    change(&mut report.cores[1]);
    assert_eq!(report.imbalances(), [sentence]);
}

#[test]
fn a_connection_that_ended_nowhere_is_found() {
    check_imbalance(
        |core| core.connections.drained -= 1,
        "core 1: connections: at_start 120 + accepted 11 = drained 101 + closed_by_peer 28 + \
         closed_by_handler 1 + aborted 0 + peer_reset 0 + forced 0 + abandoned 0 does not hold: \
         131 against 130",
    );
}

#[test]
fn an_op_that_never_completed_is_found() {
    check_imbalance(
        |core| (core.ops.submitted, core.ops.completed, core.ops.leaked) = (9, 7, 1),
        "core 1: ops: submitted 9 = completed 7 + leaked 1 does not hold: 9 against 8",
    );
}

#[test]
fn more_cancelled_ops_than_completed_ones_are_found() {
    check_imbalance(
        |core| core.ops.cancelled = 1,
        "core 1: ops: cancelled 1 is more than completed 0, of which it is a part",
    );
}

#[test]
fn a_task_that_ended_nowhere_is_found() {
    check_imbalance(
        |core| core.tasks.spawned += 1,
        "core 1: tasks: spawned 4 = completed 2 + cancelled 0 + panicked 0 + dropped 1 does not \
         hold: 4 against 3",
    );
}

#[test]
fn a_letter_that_arrived_nowhere_is_found() {
    check_imbalance(
        |core| core.letters.handled -= 1,
        "all cores: letters: sent 80 + foreign 3 = handled 82 + returned 0 does not hold: 83 \
         against 82",
    );
}

#[test]
fn a_letter_may_end_on_another_core_than_it_began() {
    let mut report = samples::busy();
    report.cores[0].letters.sent += 7;
    report.cores[1].letters.handled += 5;
    report.cores[1].letters.returned += 2;
    assert_eq!(report.imbalances(), Vec::<String>::new());
}

#[test]
fn a_stuck_core_is_not_held_to_any_sum() {
    let mut report = samples::stuck();
    let stuck = &mut report.cores[2];
    stuck.connections.at_start += 1;
    stuck.ops.submitted += 1;
    stuck.tasks.spawned += 1;
    stuck.letters.sent += 1;
    assert_eq!(report.imbalances(), Vec::<String>::new());
    // Its siblings are.
    report.cores[0].ops.submitted += 1;
    assert_eq!(report.imbalances().len(), 1);
}

#[test]
fn sums_beyond_any_counter_are_compared_and_do_not_overflow() {
    let mut report = Report {
        cores: vec![CoreReport::default(), CoreReport::default()],
        ..Report::default()
    };
    for core in &mut report.cores {
        core.tasks.completed = u64::MAX;
        core.tasks.dropped = u64::MAX;
        core.letters.sent = u64::MAX;
        core.letters.handled = u64::MAX;
    }
    assert_eq!(report.imbalances().len(), 2);
}
