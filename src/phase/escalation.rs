//! How signals escalate: ask, force, leave.
//!
//! A terminal signals the whole group, a supervisor signals the parent, the parent
//! passes it on: one wish arrives as several signals. So at most one is counted per
//! [`SIGNAL_DEDUP`], measured from the last one that *was* counted; measured from
//! the last one seen, a steady storm would never escalate at all.
#![forbid(unsafe_code)]

use crate::config::{SIGNAL_DEDUP, nanos};

/// What a counted signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rung {
    /// The first: stop, if nothing else has asked for it yet.
    Ask,
    /// The second: end Draining at once.
    Force,
    /// The third and any later one: leave the process.
    Leave,
}

/// Counts signals. API triggers do not pass through here: the first signal after
/// one is the first.
#[derive(Clone, Debug, Default)]
pub(super) struct Escalation {
    /// When the last counted signal came, and its rung; `None` before the first.
    last: Option<(u64, Rung)>,
}

impl Escalation {
    /// Counts a signal, or gives `None` for one that belongs to the last.
    #[must_use]
    pub(super) fn count(&mut self, now: u64) -> Option<Rung> {
        let rung = match self.last {
            None => Rung::Ask,
            Some((at, _)) if now.saturating_sub(at) < nanos(SIGNAL_DEDUP) => return None,
            Some((_, Rung::Ask)) => Rung::Force,
            Some((_, Rung::Force | Rung::Leave)) => Rung::Leave,
        };
        self.last = Some((now, rung));
        Some(rung)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn rungs(times_ms: &[u64]) -> Vec<Option<Rung>> {
        let mut escalation = Escalation::default();
        let count = |ms: &u64| escalation.count(ms * MS);
        times_ms.iter().map(count).collect()
    }

    #[test]
    fn three_signals_apart_climb_three_rungs_and_stay_on_the_last() {
        let expected = [Rung::Ask, Rung::Force, Rung::Leave, Rung::Leave].map(Some);
        assert_eq!(rungs(&[0, 300, 600, 900]), expected);
    }

    #[test]
    fn a_group_and_its_parent_count_once() {
        assert_eq!(rungs(&[7, 7, 8, 306]), [Some(Rung::Ask), None, None, None]);
    }

    #[test]
    fn a_steady_storm_still_escalates() {
        let storm: Vec<u64> = (0..=60).map(|step| step * 10).collect();
        let climbed = rungs(&storm).into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(climbed, [Rung::Ask, Rung::Force, Rung::Leave]);
    }

    #[test]
    fn a_clock_read_early_is_not_a_later_signal() {
        assert_eq!(rungs(&[500, 100]), [Some(Rung::Ask), None]);
    }
}
