//! Stops as they happen, made by hand, which the other tests look at.
#![forbid(unsafe_code)]

use crate::report::*;

/// Nobody was connected.
pub(super) fn idle() -> Report {
    let mut report = stopped(12_312_000, Trigger::signal(15, Some(4242), 0.0));
    report.phases = phases(&[("draining", 0, 10_120), ("closing", 10_120, 12_312)]);
    report.cores = (0..2).map(|i| core(i, &report.phases)).collect();
    report
}

/// Two cores that drained some hundred connections.
pub(super) fn busy() -> Report {
    let mut report = stopped(412_738_000, Trigger::signal(15, Some(4242), 0.0));
    report.phases = phases(&[
        ("notice", 0, 100_000),
        ("draining", 100_000, 379_900),
        ("hooks", 379_900, 400_100),
        ("closing", 400_100, 412_700),
    ]);
    report.cores = (0..2).map(|i| busy_core(i, &report.phases)).collect();
    report.hooks = vec![at(381.8, hook("deregister", HookOutcome::Ok, None, 18_250))];
    report.foreign_letters = 3;
    report.cores[1].letters.handled += 3;
    report
}

/// So many open connections at the trigger, one less at each equal part of the
/// time up to the end of the second phase.
fn falling(open: u64, phases: &[PhaseSpan]) -> Vec<(f64, u64)> {
    let end_ms = phases[1].end_ms;
    let at = |i: u64| (end_ms * i as f64 / (open + 1) as f64, open - i);
    (0..=open).map(at).collect()
}

fn busy_core(i: usize, phases: &[PhaseSpan]) -> CoreReport {
    let mut core = core(i, phases);
    let n = i as u64;
    core.connections = Connections {
        accepted_total: 12_034 + n,
        at_start: 118 + 2 * n,
        accepted: 14 - 3 * n,
        drained: 101 + n,
        closed_by_peer: 30 - 2 * n,
        closed_by_handler: 1,
        ..Connections::default()
    };
    core.open_connections = falling(118 + 2 * n, phases);
    core.turns = Turns {
        count: 604 - n,
        longest_ms: ms(1_204_000 + 20_000 * n),
        longest_cpu_ms: ms(870_000),
        most_steps: 211 + n,
    };
    core.requests = Requests {
        begun: 240_127 + 5 * n,
        answered: 240_127 + 5 * n,
    };
    core.bytes.received = 21_612_030 + n;
    core.bytes.sent = 1_921_612_030 - n;
    core.timers.fired = 12;
    core.letters = Letters {
        sent: 40,
        handled: 40,
        returned: 0,
    };
    core.listeners = vec![ListenerReport {
        addr: "0.0.0.0:8080".to_owned(),
        gate: Gate::Bpf,
        no_gate: None,
        window_ms: 200.0,
        drained: 14 - 3 * n,
        pauses: 0,
        paused_by: None,
        policy: Some(PolicyReport {
            spread_ms: Some(2_500.0),
            ..PolicyReport::default()
        }),
    }];
    let flush = hook("flush-metrics", HookOutcome::Ok, None, 1_900 + n);
    core.hooks = vec![at(phases[phases.len() - 2].start_ms, flush)];
    core
}

/// A second signal, two stragglers, a hook that failed and one that overran.
pub(super) fn forced() -> Report {
    let mut report = busy();
    report.elapsed_ms = ms(4_612_000_000);
    report
        .triggers
        .push(Trigger::signal(2, Some(4242), ms(3_612_000_000)));
    report.suspended_ms = 750.5;
    report.phases = phases(&[
        ("draining", 0, 3_612_000),
        ("hooks", 3_612_000, 4_600_000),
        ("closing", 4_600_000, 4_612_000),
    ]);
    report.phases[0].ended_by = "force".to_owned();
    report.phases[1].ended_by = "deadline".to_owned();
    for core in &mut report.cores {
        core.phases = report.phases.clone();
    }
    let first = &mut report.cores[0];
    first.connections.drained -= 2;
    first.connections.forced = 2;
    first.requests.answered -= 2;
    first.bytes.unsent = 131_072;
    first.bytes.unacked = 2_448;
    first.tasks.spawned += 2;
    first.tasks.dropped += 2;
    first.stragglers = vec![
        straggler(
            "task",
            "upload",
            Some("src/handlers/upload.rs:42:9"),
            "in recv",
        ),
        straggler(
            "connection",
            "203.0.113.77:51324",
            None,
            "131,072 bytes unsent",
        ),
    ];
    first.hooks[0].start_ms = 3_612.0;
    let error = "connection reset by peer (os error 104) while the pool sent its last COMMIT";
    let pool = hook(
        "close-database-pool",
        HookOutcome::Failed,
        Some(error),
        12_400,
    );
    first.hooks.push(at(3_614.0, pool));
    report.cores[1].hooks[0].start_ms = 3_612.0;
    report.hooks[0].start_ms = 3_640.0;
    let upload = hook("upload-logs", HookOutcome::Overran, None, 900_000);
    report.hooks.push(at(3_660.0, upload));
    report.deadlines = DeadlinesReport {
        drain_ms: 3_612.0,
        hooks_ms: 4_562.0,
        hard_ms: 4_612.0,
    };
    report.verdict = verdict_of(&report);
    report
}

/// One core of four hangs in a task, another failed.
pub(super) fn stuck() -> Report {
    let mut report = stopped(9_052_000_000, Trigger::new(TriggerKind::MainFailed, 0.0));
    report.phases = phases(&[
        ("draining", 0, 1_100_000),
        ("closing", 1_100_000, 9_052_000),
    ]);
    report.phases[1].ended_by = "deadline".to_owned();
    report.cores = (0..4).map(|i| busy_core(i, &report.phases)).collect();
    for core in &mut report.cores {
        core.phases[1].end_ms = 1_310.5;
    }
    report.cores[2].outcome = CoreOutcome::Stuck;
    report.cores[2].phases = phases(&[("draining", 0, 80_000)]);
    report.cores[2].stuck = Some(Stuck {
        task: "resize-image".to_owned(),
        spawned_at: Some("src/handlers/images.rs:107:13".to_owned()),
        since_ms: ms_from(1_000_000_000, 1_080_000_000),
        state: "R (running)".to_owned(),
        wchan: None,
    });
    report.cores[3].outcome = CoreOutcome::Failed;
    report.cores[3].error = Some("Address already in use (os error 98)".to_owned());
    report.verdict = verdict_of(&report);
    report
}

/// Sixty-four cores, one of them with a loss.
pub(super) fn wide() -> Report {
    let mut report = busy();
    report.cores = (0..64).map(|i| busy_core(i % 4, &report.phases)).collect();
    for (i, core) in report.cores.iter_mut().enumerate() {
        core.core = i;
        core.phases[1].end_ms -= (i * 3) as f64;
    }
    report.cores[41].bytes.unsent = 90;
    report.foreign_letters = 0;
    report.verdict = verdict_of(&report);
    report
}

fn stopped(elapsed_ns: u64, trigger: Trigger) -> Report {
    Report {
        triggers: vec![trigger],
        config: ConfigReport {
            timeout_ms: 9_000.0,
            close_ms: 500.0,
            ..ConfigReport::default()
        },
        deadlines: DeadlinesReport {
            drain_ms: 8_000.0,
            hooks_ms: 8_500.0,
            hard_ms: 9_000.0,
        },
        elapsed_ms: ms(elapsed_ns),
        ..Report::default()
    }
}

/// Phases that met their goals, from names and microseconds.
fn phases(spans: &[(&str, u64, u64)]) -> Vec<PhaseSpan> {
    let span = |&(name, from, to)| PhaseSpan::new(name, ms(from * 1_000), ms(to * 1_000), "goal");
    spans.iter().map(span).collect()
}

fn core(i: usize, phases: &[PhaseSpan]) -> CoreReport {
    CoreReport {
        core: i,
        cpu: i,
        phases: phases.to_vec(),
        tasks: Tasks {
            spawned: 3,
            completed: 2,
            dropped: 1,
            background_dropped: 1,
            ..Tasks::default()
        },
        ..CoreReport::default()
    }
}

pub(super) fn hook(name: &str, outcome: HookOutcome, error: Option<&str>, us: u64) -> HookReport {
    HookReport {
        name: name.to_owned(),
        outcome,
        error: error.map(str::to_owned),
        start_ms: 0.0,
        elapsed_ms: ms(us * 1_000),
    }
}

/// The hook, begun at this time.
fn at(start_ms: f64, hook: HookReport) -> HookReport {
    HookReport { start_ms, ..hook }
}

pub(super) fn straggler(kind: &str, name: &str, site: Option<&str>, detail: &str) -> Straggler {
    Straggler {
        kind: kind.to_owned(),
        name: name.to_owned(),
        spawned_at: site.map(str::to_owned),
        detail: detail.to_owned(),
    }
}

/// A core that slept in the middle of its turn, long before the stop.
pub(super) fn stall() -> StallReport {
    StallReport {
        core: 1,
        task: "task 7".to_owned(),
        spawned_at: Some("src/main.rs:7:5".to_owned()),
        began_ms: -60_000.0,
        lasted_ms: 1_200.0,
        over: true,
        state: "S (sleeping) in clock_nanosleep".to_owned(),
        wchan: Some("hrtimer_nanosleep".to_owned()),
    }
}
