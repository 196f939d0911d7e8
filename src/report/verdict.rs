//! The verdict: one word and one exit code for a whole stop.
//!
//! The rules stand in one function, `verdict_of`, that reads nothing but
//! the facts of the report. The verdict is the worst that applies:
//!
//! | verdict    | exit | when                                                       |
//! |------------|------|------------------------------------------------------------|
//! | `Stuck`    | 82   | a core never came back from a turn                         |
//! | `Failed`   | 83   | a main future ended in an error, or a turn failed          |
//! | `Forced`   | 81   | a connection was cut, or something was alive at a deadline |
//! | `Degraded` | 80   | in time, but a hook failed or something was lost           |
//! | `Clean`    | 0    | none of these                                              |
//!
//! The order is that of the damage, not of the exit codes. A stuck core is
//! worse than a failed one: its thread still runs, its destructors did not,
//! and its counters prove nothing. A failed core is worse than a forced stop:
//! a cut follows the configuration, a failure nobody asked for.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use serde::Serialize;

use super::{CoreOutcome, CoreReport, HookOutcome, HookReport, Report};

/// How a stop went, in one word; ordered from the best to the worst.
///
/// # Examples
///
/// The order follows the damage, so that the worst of several verdicts is
/// their maximum:
///
/// ```
/// use evenfall::report::Verdict;
///
/// assert!(Verdict::Stuck > Verdict::Failed);
/// assert_eq!(Verdict::Forced.max(Verdict::Degraded).code(), 81);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Everything ended by itself, and nothing was lost.
    #[default]
    Clean,
    /// In time, but a hook did not succeed or something was lost.
    Degraded,
    /// Something was still alive at the deadline, or at a force, and was cut.
    Forced,
    /// A core's main future ended in an error, or its turn failed.
    Failed,
    /// A core did not come back from a turn, and `run` returned without it.
    Stuck,
}

impl Verdict {
    /// The exit code a process should leave with: 0, or 80 to 83.
    pub fn code(self) -> u8 {
        match self {
            Verdict::Clean => 0,
            Verdict::Degraded => 80,
            Verdict::Forced => 81,
            Verdict::Stuck => 82,
            Verdict::Failed => 83,
        }
    }

    /// The word that JSON and `Display` use.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Degraded => "degraded",
            Verdict::Forced => "forced",
            Verdict::Stuck => "stuck",
            Verdict::Failed => "failed",
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.word())
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> ExitCode {
        ExitCode::from(verdict.code())
    }
}

/// The verdict that the facts of a report call for.
///
/// What stands in `report.verdict` is not looked at: whoever puts the report
/// together calls this last and stores the answer there.
pub(crate) fn verdict_of(report: &Report) -> Verdict {
    let of_cores = report.cores.iter().map(verdict_of_core).max();
    let of_held = match report.stragglers.is_empty() {
        true => Verdict::Clean,
        false => Verdict::Forced,
    };
    of_cores
        .unwrap_or_default()
        .max(of_held)
        .max(verdict_of_hooks(&report.hooks))
}

/// The worst that happened on one core.
fn verdict_of_core(core: &CoreReport) -> Verdict {
    if core.outcome == CoreOutcome::Stuck {
        return Verdict::Stuck;
    }
    if core.outcome == CoreOutcome::Failed || core.error.is_some() {
        return Verdict::Failed;
    }
    if core.connections.forced > 0 || !core.stragglers.is_empty() {
        return Verdict::Forced;
    }
    if lost_something(core) {
        return Verdict::Degraded;
    }
    verdict_of_hooks(&core.hooks)
}

/// Whether anything of the application's was lost on this core.
///
/// Left out on purpose: a task that panicked (its `JoinHandle` was told), a
/// rejected spawn or a returned letter (the sender has it back), a cancelled
/// timer (it was due after the stop), bytes that came after our end of stream
/// (nothing was promised for them), and buffers the user still holds.
fn lost_something(core: &CoreReport) -> bool {
    core.connections.abandoned > 0
        || core.bytes.unsent > 0
        || core.bytes.unacked > 0
        || core.ops.leaked > 0
}

/// A hook that did not succeed degrades a stop and never does more: hooks run
/// inside time that is kept for them, and the next one runs all the same.
fn verdict_of_hooks(hooks: &[HookReport]) -> Verdict {
    if hooks.iter().all(|hook| hook.outcome == HookOutcome::Ok) {
        Verdict::Clean
    } else {
        Verdict::Degraded
    }
}
