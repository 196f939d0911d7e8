//! Why a stop went as it did: who called for it, what failed, what was lost.
//!
//! These lines stand at the top of the page, beneath the verdict.
#![forbid(unsafe_code)]

use super::page::Page;
use super::words::{duration, fit, fit_end, plural, signal_name};
use super::{CoreOutcome, CoreReport, Report, StallReport, Stuck, Trigger, TriggerKind, Verdict};

/// `clean (exit 0): stopped in 12.3 ms of 9 s, by SIGTERM from pid 4242`
pub(super) fn headline(report: &Report) -> String {
    let verdict = report.verdict;
    format!("{verdict} (exit {}): {}", verdict.code(), course(report))
}

/// `stopped in 12.3 ms of 9 s, by SIGTERM from pid 4242`
pub(super) fn course(report: &Report) -> String {
    let stopped = match report.verdict {
        Verdict::Stuck => "left after",
        _ => "stopped in",
    };
    let mut line = format!("{stopped} {}", duration(report.elapsed_ms));
    if report.config.timeout_ms > 0.0 {
        line.push_str(&format!(" of {}", duration(report.config.timeout_ms)));
    }
    if let Some(first) = report.triggers.first() {
        line.push_str(&format!(", {}", by_whom(first)));
    }
    line
}

/// What went wrong, one thing a line: the worst first.
pub(super) fn alarms(report: &Report) -> Vec<String> {
    let labelled = |label: &'static str, lines: Vec<String>| {
        lines
            .into_iter()
            .map(move |line| format!("{label}: {line}"))
    };
    let cores = &report.cores;
    labelled("stuck", of_cores(cores, stuck_core))
        .chain(labelled("failed", of_cores(cores, failed_core)))
        .chain(labelled("lost", losses(cores)))
        .chain(labelled("mismatch", report.imbalances()))
        .collect()
}

/// Who called: `by SIGTERM from pid 4242`.
pub(super) fn by_whom(trigger: &Trigger) -> String {
    let mut words = match (trigger.kind, trigger.signal) {
        (TriggerKind::Signal, Some(signal)) => format!("by {}", signal_name(signal)),
        (TriggerKind::Signal, None) => "by a signal".to_owned(),
        (TriggerKind::Api, _) => "by a handle".to_owned(),
        (TriggerKind::Force, _) => "forced by a handle".to_owned(),
        (TriggerKind::MainEnded, _) => "because every main future ended".to_owned(),
        (TriggerKind::MainFailed, _) => "because a main future failed".to_owned(),
        (TriggerKind::CoreFailed, _) => "because a core failed".to_owned(),
    };
    if let Some(pid) = trigger.pid {
        words.push_str(&format!(" from pid {pid}"));
    }
    words
}

impl Page {
    /// Why the verdict is not `Clean`, and whatever else was out of the usual.
    pub(super) fn reasons(&mut self, report: &Report) {
        let later: Vec<String> = report.triggers.iter().skip(1).map(later_trigger).collect();
        self.list("then", &later);
        if report.suspended_ms > 0.0 {
            let span = duration(report.suspended_ms);
            self.labelled(
                "suspended",
                &format!("{span} in which the process stood still"),
            );
        }
        self.list("stuck", &of_cores(&report.cores, stuck_core));
        self.list("failed", &of_cores(&report.cores, failed_core));
        self.list("stalled", &stalls(report));
        self.list("paused", &pauses(&report.cores));
        self.list("lost", &losses(&report.cores));
        self.list("mismatch", &report.imbalances());
    }
}

/// How many stalls are told of by name.
const STALLS_TOLD: usize = 3;

/// How often cores did not move while nothing stopped, and the longest times.
fn stalls(report: &Report) -> Vec<String> {
    if report.stalls_total == 0 {
        return Vec::new();
    }
    let times = plural(report.stalls_total.into(), "turn");
    let head = format!("{times} too long before the stop, the longest:");
    let told = report.stalls.iter().take(STALLS_TOLD).map(stall);
    std::iter::once(head).chain(told).collect()
}

/// `core 1: 1.2 s in task 7, spawned at src/main.rs:7:5; state R (running)`
fn stall(stall: &StallReport) -> String {
    let lasted = duration(stall.lasted_ms);
    let mut words = match stall.task.as_str() {
        "" => format!("core {}: {lasted} outside of any task", stall.core),
        task => format!("core {}: {lasted} in {}", stall.core, fit(task, 40)),
    };
    if let Some(site) = &stall.spawned_at {
        words.push_str(&format!(", spawned at {}", fit_end(site, 60)));
    }
    if !stall.state.is_empty() {
        words.push_str(&format!("; state {}", fit(&stall.state, 40)));
    }
    words
}

/// `0.0.0.0:8080 accepted nobody for a while, 12 times, last for: Too many open files (os error 24)`, once for
/// each address.
fn pauses(cores: &[CoreReport]) -> Vec<String> {
    let mut by_address: Vec<(&str, u128, &str)> = Vec::new();
    let listeners = cores.iter().flat_map(|core| &core.listeners);
    for listener in listeners.filter(|listener| listener.pauses > 0) {
        let why = listener.paused_by.as_deref().unwrap_or_default();
        let known = by_address
            .iter_mut()
            .find(|(addr, ..)| *addr == listener.addr);
        match known {
            Some((_, pauses, last)) => {
                *pauses += u128::from(listener.pauses);
                *last = why;
            }
            None => by_address.push((&listener.addr, listener.pauses.into(), why)),
        }
    }
    by_address
        .into_iter()
        .map(|(addr, pauses, why)| {
            let (addr, times) = (fit_end(addr, 41), plural(pauses, "time"));
            format!(
                "{addr} accepted nobody for a while, {times}, last for: {}",
                fit(why, 60)
            )
        })
        .collect()
}

fn later_trigger(trigger: &Trigger) -> String {
    format!("{} at {}", by_whom(trigger), duration(trigger.at_ms))
}

/// A sentence for each core that has one.
fn of_cores(cores: &[CoreReport], sentence: fn(&CoreReport) -> Option<String>) -> Vec<String> {
    cores.iter().filter_map(sentence).collect()
}

fn failed_core(core: &CoreReport) -> Option<String> {
    let error = match (&core.error, core.outcome) {
        (Some(error), _) => error,
        (None, CoreOutcome::Failed) => "no error was given",
        (None, _) => return None,
    };
    Some(format!("core {}: {error}", core.core))
}

fn stuck_core(core: &CoreReport) -> Option<String> {
    if core.outcome != CoreOutcome::Stuck {
        return None;
    }
    let Some(stuck) = &core.stuck else {
        return Some(format!("core {}", core.core));
    };
    Some(format!("core {}: {}", core.core, stuck_place(stuck)))
}

/// `in task 7 since 1.2 s, spawned at src/main.rs:7:5; state S, ...`
fn stuck_place(stuck: &Stuck) -> String {
    let since = if stuck.since_ms < 0.0 {
        format!("{} before the stop", duration(-stuck.since_ms))
    } else {
        duration(stuck.since_ms)
    };
    let mut words = match stuck.task.as_str() {
        "" => format!("outside of any task since {since}"),
        task => format!("in {} since {since}", fit(task, 40)),
    };
    if let Some(site) = &stuck.spawned_at {
        words.push_str(&format!(", spawned at {}", fit_end(site, 60)));
    }
    if !stuck.state.is_empty() {
        words.push_str(&format!("; state {}", fit(&stuck.state, 40)));
    }
    if let Some(wchan) = &stuck.wchan {
        words.push_str(&format!("; waits in {}", fit(wchan, 40)));
    }
    words
}

/// Something that may be lost.
struct Loss {
    /// Where it is counted.
    read: fn(&CoreReport) -> u64,
    /// What a number of it is called.
    words: fn(u128) -> String,
}

/// All that a stop can lose; the same that the verdict looks at.
const LOSSES: [Loss; 5] = [
    Loss {
        read: |core| core.connections.forced,
        words: |n| format!("{} cut by a reset", plural(n, "connection")),
    },
    Loss {
        read: |core| core.connections.abandoned,
        words: |n| format!("{} abandoned", plural(n, "connection")),
    },
    Loss {
        read: |core| core.bytes.unsent,
        words: |n| format!("{} not sent", plural(n, "byte")),
    },
    Loss {
        read: |core| core.bytes.unacked,
        words: |n| format!("at most {} not acknowledged", plural(n, "byte")),
    },
    Loss {
        read: |core| core.ops.leaked,
        words: |n| format!("{} leaked, with slot and buffer", plural(n, "op")),
    },
];

/// What was lost, one thing a line, with the cores on which it was.
fn losses(cores: &[CoreReport]) -> Vec<String> {
    LOSSES
        .iter()
        .filter_map(|loss| {
            let total = sum(cores, loss.read);
            (total > 0).then(|| format!("{} {}", (loss.words)(total), on_cores(cores, loss.read)))
        })
        .collect()
}

/// `on core 3`, `on cores 0, 2` or `on 17 cores`.
fn on_cores(cores: &[CoreReport], field: fn(&CoreReport) -> u64) -> String {
    let with = cores.iter().filter(|core| field(core) > 0);
    let names: Vec<String> = with.map(|core| core.core.to_string()).collect();
    match names.len() {
        1 => format!("on core {}", names[0]),
        2..=4 => format!("on cores {}", names.join(", ")),
        n => format!("on {n} cores"),
    }
}

/// The sum of a counter over all cores.
pub(super) fn sum(cores: &[CoreReport], field: fn(&CoreReport) -> u64) -> u128 {
    cores.iter().map(|core| u128::from(field(core))).sum()
}
