//! What `Runtime::run` returns: everything that is known about one stop.
//!
//! Pure data. Nothing here reads a clock, a thread-local or the kernel; the
//! coordinator and the cores fill the fields from counters that they keep
//! anyway, and `verdict_of` reads the verdict off the facts.
//!
//! ```text
//!   counters of the cores ──▶ CoreReport ┐
//!   phases, hooks, triggers ─────────────┴▶ Report ──▶ verdict_of ──▶ exit code
//!                                             ├──▶ Display     people, 80 columns
//!                                             ├──▶ to_json     programs
//!                                             ├──▶ to_svg      a picture
//!                                             └──▶ imbalances  tests
//! ```
//!
//! All times are milliseconds from the trigger with three decimals, made by
//! `ms` and `ms_from`. The names of the fields are the names in JSON and
//! part of the contract: a field may be added, none is renamed or removed.
//!
//! `verdict` has the rules, `balance` the sums that must add up, `per_core`
//! the part of one core, `text` what people see and `picture` what they look at.
#![forbid(unsafe_code)]

mod balance;
mod page;
mod per_core;
mod picture;
mod reasons;
mod table;
mod text;
mod timeline;
mod verdict;
mod words;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

use serde::Serialize;

pub use per_core::{
    Buffers, Bytes, Connections, CoreOutcome, CoreReport, Gate, Letters, ListenerReport, NoGate,
    Ops, PolicyReport, Requests, Straggler, Stuck, Tasks, Timers, Turns,
};
pub use verdict::Verdict;
pub(crate) use verdict::verdict_of;

/// What happened between the trigger of a stop and its end.
///
/// `Display` writes it for people, at most 80 columns wide and in a bounded
/// number of lines; [`to_json`](Report::to_json) has every detail.
///
/// # Examples
///
/// ```
/// # let report = evenfall::Report::default();
/// // let report = runtime.run(main)?;
/// eprintln!("{report}");
/// let _leave_with = report.exit_code();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// How the stop went, in one word.
    pub verdict: Verdict,
    /// What called for the stop. The first one began it, at 0 ms.
    pub triggers: Vec<Trigger>,
    /// The times that the stop was given.
    pub config: ConfigReport,
    /// When each part of the stop would have been cut.
    pub deadlines: DeadlinesReport,
    /// From the trigger until the report was made.
    pub elapsed_ms: f64,
    /// How long the whole process stood still in between (`SIGSTOP`).
    pub suspended_ms: f64,
    /// The phases as the coordinator saw them, in order.
    pub phases: Vec<PhaseSpan>,
    /// One part for each core, in the order of their numbers.
    pub cores: Vec<CoreReport>,
    /// The process-wide hooks, in the order in which they ran.
    pub hooks: Vec<HookReport>,
    /// What was held by no core when the drain was cut: guards.
    pub stragglers: Vec<Straggler>,
    /// The longest of the turns that were too long while nothing stopped, the
    /// longest first; at most 16. Empty unless `Builder::stall_after` has asked
    /// for the watch.
    pub stalls: Vec<StallReport>,
    /// How many such turns there were.
    pub stalls_total: u64,
    /// Letters that threads outside the runtime sent to cores, in its whole
    /// life. Those that were refused at the sender's side do not count.
    pub foreign_letters: u64,
}

impl Report {
    /// The exit code of the verdict, to be returned from `main`.
    pub fn exit_code(&self) -> ExitCode {
        self.verdict.into()
    }

    /// The whole report as one line of JSON, without a line break at its end.
    pub fn to_json(&self) -> String {
        // Only a map with keys that are not strings, or a `Serialize` written
        // by hand, can make this fail. There is neither in a report; the test
        // `every_generated_report_is_one_line_of_json` keeps it so.
        serde_json::to_string(self).expect("a report is made of plain fields")
    }
}

/// Something that called for the stop, or for more haste.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Trigger {
    /// Where it came from.
    pub kind: TriggerKind,
    /// The signal's number, if it was a signal.
    pub signal: Option<i32>,
    /// The process that sent the signal, where the kernel says so.
    pub pid: Option<u32>,
    /// When it came; 0 for the first.
    pub at_ms: f64,
}

impl Trigger {
    /// A trigger that is not a signal.
    pub(crate) fn new(kind: TriggerKind, at_ms: f64) -> Trigger {
        Trigger {
            kind,
            signal: None,
            pid: None,
            at_ms,
        }
    }

    /// A signal, with its sender where the kernel named one.
    pub(crate) fn signal(signal: i32, pid: Option<u32>, at_ms: f64) -> Trigger {
        Trigger {
            kind: TriggerKind::Signal,
            signal: Some(signal),
            pid,
            at_ms,
        }
    }
}

/// Where a trigger came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TriggerKind {
    /// A signal to the process.
    Signal,
    /// `Handle::shutdown`, or one of its relatives with a budget.
    Api,
    /// `Handle::force`.
    Force,
    /// The main future of every core has ended.
    MainEnded,
    /// The main future of a core ended in an error.
    MainFailed,
    /// The turn of a core failed.
    CoreFailed,
}

/// The times that the stop was given, as they were in force at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ConfigReport {
    /// How long the process serves on while it says that it is not ready.
    pub notice_ms: f64,
    /// How long nothing may happen before a core counts as quiet.
    pub quiet_ms: f64,
    /// The whole budget.
    pub timeout_ms: f64,
    /// Silence after which a connection that knows no requests is ended.
    pub idle_grace_ms: f64,
    /// How long a close waits for the peer to acknowledge more bytes.
    pub linger_ms: f64,
    /// The length from which a turn counts as stuck.
    pub stuck_after_ms: f64,
    /// What is kept back from `timeout_ms` for hooks.
    pub hooks_ms: f64,
    /// What is kept back from `timeout_ms` for closing.
    pub close_ms: f64,
}

/// When the parts of the stop would have been cut, as it was in force at its
/// end: a force, a call with a shorter budget and a suspension move them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DeadlinesReport {
    /// The end of Draining: what is alive is cut.
    pub drain_ms: f64,
    /// The end of Hooks: a hook that runs is given up.
    pub hooks_ms: f64,
    /// The end of the whole stop.
    pub hard_ms: f64,
}

/// One phase of the stop, from when to when.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PhaseSpan {
    /// The phase in lower case: `notice`, `draining`, `hooks` or `closing`.
    pub name: String,
    /// When it began.
    pub start_ms: f64,
    /// When it ended.
    pub end_ms: f64,
    /// Why it ended: `goal` when there was no more to do in it, else what cut
    /// it short, such as `deadline` or `force`.
    pub ended_by: String,
}

impl PhaseSpan {
    /// A span with all its fields; `end_ms` is not before `start_ms`.
    pub(crate) fn new(name: &str, start_ms: f64, end_ms: f64, ended_by: &str) -> PhaseSpan {
        PhaseSpan {
            name: name.to_owned(),
            start_ms,
            end_ms,
            ended_by: ended_by.to_owned(),
        }
    }
}

/// What became of one hook.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HookReport {
    /// The name it was registered under.
    pub name: String,
    /// How it ended.
    pub outcome: HookOutcome,
    /// The error it returned, or the message of its panic.
    pub error: Option<String>,
    /// When it began; for one whose turn never came, when that was known.
    pub start_ms: f64,
    /// How long it ran.
    pub elapsed_ms: f64,
}

/// How a hook ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HookOutcome {
    /// It returned `Ok`.
    #[default]
    Ok,
    /// It returned an error.
    Failed,
    /// It panicked.
    Panicked,
    /// Its budget, or the time of the phase, was over before it was done.
    Overran,
}

impl HookOutcome {
    /// The word that JSON and `Display` use.
    pub(crate) fn word(self) -> &'static str {
        match self {
            HookOutcome::Ok => "ok",
            HookOutcome::Failed => "failed",
            HookOutcome::Panicked => "panicked",
            HookOutcome::Overran => "overran",
        }
    }
}

/// A turn of one core that was too long while nothing stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StallReport {
    /// The number of the core.
    pub core: usize,
    /// The task whose code ran when the turn was found too long, by the name
    /// it has among the stragglers. Empty outside of any.
    pub task: String,
    /// Where in the source that task was spawned.
    pub spawned_at: Option<String>,
    /// When the turn began, from the trigger: a negative time.
    pub began_ms: f64,
    /// How long it had lasted when it was seen last.
    pub lasted_ms: f64,
    /// Whether it was over before the end of the stop.
    pub over: bool,
    /// The state of the thread, and the system call it was in, from `/proc`.
    pub state: String,
    /// What the thread waited for in the kernel, from `/proc`.
    pub wchan: Option<String>,
}

/// Nanoseconds as milliseconds, rounded to three decimals.
///
/// Rounded as an integer and divided once, so that the value prints with at
/// most three decimals, where rounding an `f64` could leave a tail of nines.
pub(crate) fn ms(ns: u64) -> f64 {
    let us = ns / 1_000 + u64::from(ns % 1_000 >= 500);
    us as f64 / 1_000.0
}

/// The instant `at_ns` in milliseconds from the trigger; negative when it was
/// before, as the begin of a turn that hung already when the stop was called.
pub(crate) fn ms_from(trigger_ns: u64, at_ns: u64) -> f64 {
    match at_ns.checked_sub(trigger_ns) {
        Some(after_ns) => ms(after_ns),
        None => -ms(trigger_ns - at_ns),
    }
}
