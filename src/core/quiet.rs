//! Since when a core is quiet: it has nothing left to wait for, and nothing has happened on it.
//!
//! Pure: it reads no clock. The core says, once a turn, whether anything is left; what counts as
//! activity it keeps itself, as the time of the last.

#![forbid(unsafe_code)]

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    /// Since when nothing was left to wait for (ns), while that is so.
    quiescent_since_ns: Option<u64>,
}

impl Quiet {
    /// Notes whether anything is left to wait for now.
    pub(crate) fn look(&mut self, now_ns: u64, quiescent: bool) {
        if quiescent {
            self.quiescent_since_ns.get_or_insert(now_ns);
        } else {
            self.quiescent_since_ns = None;
        }
    }

    /// When the core will have been quiet for `quiet_ns` (ns), if nothing happens until then; the
    /// last that happened was at `activity_ns`. `None` while something is left to wait for.
    ///
    /// It counts from the trigger, `start_ns`, at the earliest. With no quiet asked for it is
    /// reached at once.
    pub(crate) fn at_ns(&self, activity_ns: u64, start_ns: u64, quiet_ns: u64) -> Option<u64> {
        let since_ns = self.quiescent_since_ns?.max(activity_ns).max(start_ns);
        Some(since_ns.saturating_add(quiet_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_counts_from_when_the_last_thing_was_gone() {
        let mut quiet = Quiet::default();
        quiet.look(100, false);
        assert_eq!(quiet.at_ns(0, 0, 30), None);
        quiet.look(200, true);
        quiet.look(210, true);
        assert_eq!(quiet.at_ns(0, 0, 30), Some(230));
    }

    #[test]
    fn whatever_comes_or_happens_starts_it_again() {
        let mut quiet = Quiet::default();
        quiet.look(100, true);
        assert_eq!(quiet.at_ns(120, 0, 30), Some(150), "a poll, or a letter");
        quiet.look(130, false);
        quiet.look(140, true);
        assert_eq!(
            quiet.at_ns(120, 0, 30),
            Some(170),
            "a task, or a connection"
        );
    }

    #[test]
    fn quiet_before_the_trigger_does_not_count() {
        let mut quiet = Quiet::default();
        quiet.look(100, true);
        assert_eq!(quiet.at_ns(50, 500, 30), Some(530));
    }

    #[test]
    fn with_no_quiet_asked_for_it_is_reached_at_once() {
        let mut quiet = Quiet::default();
        quiet.look(700, true);
        assert_eq!(quiet.at_ns(650, 500, 0), Some(700));
        assert_eq!(quiet.at_ns(650, 500, u64::MAX), Some(u64::MAX));
    }
}
