//! The watch over one core's heartbeats.
//!
//! ```text
//!            its turn has lasted for stuck_after,
//!            and was seen some time ago: look
//!  Well ────────────────────────────────────────▶ Stuck
//!   ▲                                               │
//!   └───────── another turn, or none: look ─────────┘
//! ```
//! A stuck core is left out of what the cores agree on, so that the others stop as if it were not
//! there; one that moves again belongs to them again. Pure: it reads no clock.
//!
//! A turn counts only from when the process last came back from a suspension, and is never held
//! against a core at first sight; one that is older than the stop is seen for two heartbeats first,
//! because before a stop nobody looks, and nobody notices a suspension. Otherwise whoever continues a process that was stopped in the
//! middle of a turn would find a core that had been at it for hours.

#![forbid(unsafe_code)]

/// The watch over one core.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    /// The turn it was in when it was looked at last, if it was in one.
    turn: Option<Turn>,
    /// When the process last came back from a suspension (ns); 0 before that. No turn's length
    /// counts from earlier, whether it was seen before or not.
    resumed_ns: u64,
}

/// A turn that was seen.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// When it began (ns), which is also its name.
    began_ns: u64,
    /// When it was first seen (ns).
    seen_ns: u64,
    /// Whether it was found too long. Stays until the turn is over.
    stuck: bool,
}

impl Watch {
    /// Looks at a core whose turn began at `turn_ns`, if it is in one. Whether it is stuck: its
    /// turn has lasted for `stuck_after_ns`, and was seen first `seen_for_ns` ago.
    pub(crate) fn look(
        &mut self,
        now_ns: u64,
        turn_ns: Option<u64>,
        stuck_after_ns: u64,
        seen_for_ns: u64,
    ) -> bool {
        let Some(began_ns) = turn_ns else {
            self.turn = None;
            return false;
        };
        let turn = match &mut self.turn {
            Some(turn) if turn.began_ns == began_ns => turn,
            place => place.insert(Turn {
                began_ns,
                seen_ns: now_ns,
                stuck: false,
            }),
        };
        let lasts_ns = now_ns.saturating_sub(began_ns.max(self.resumed_ns));
        let watched_ns = now_ns.saturating_sub(turn.seen_ns);
        turn.stuck |= lasts_ns >= stuck_after_ns && watched_ns >= seen_for_ns;
        turn.stuck
    }

    /// The process was suspended, until now.
    pub(crate) fn resume(&mut self, now_ns: u64) {
        self.resumed_ns = now_ns;
    }

    /// Whether the core was stuck when it was looked at last.
    pub(crate) fn is_stuck(&self) -> bool {
        self.turn.is_some_and(|turn| turn.stuck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const AFTER: u64 = 1_000 * MS;
    const HEARTBEAT: u64 = 50 * MS;

    #[test]
    fn a_turn_is_stuck_when_it_is_long_and_was_seen_a_heartbeat_ago() {
        let mut watch = Watch::default();
        assert!(
            !watch.look(5_000 * MS, Some(MS), AFTER, HEARTBEAT),
            "at first sight"
        );
        assert!(!watch.look(5_049 * MS, Some(MS), AFTER, HEARTBEAT));
        assert!(watch.look(5_050 * MS, Some(MS), AFTER, HEARTBEAT));
        assert!(watch.is_stuck());
    }

    #[test]
    fn a_short_turn_is_not_stuck_however_often_it_is_seen() {
        let mut watch = Watch::default();
        for at_ms in (10..1_010).step_by(50) {
            assert!(
                !watch.look(at_ms * MS, Some(10 * MS), AFTER, HEARTBEAT),
                "{at_ms}"
            );
        }
        assert!(watch.look(1_010 * MS, Some(10 * MS), AFTER, HEARTBEAT));
    }

    #[test]
    fn another_turn_or_none_is_well_again() {
        for next in [None, Some(1_500 * MS)] {
            let mut watch = Watch::default();
            let _first = watch.look(0, Some(0), AFTER, HEARTBEAT);
            assert!(watch.look(1_400 * MS, Some(0), AFTER, HEARTBEAT));
            assert!(!watch.look(1_600 * MS, next, AFTER, HEARTBEAT), "{next:?}");
            assert!(!watch.is_stuck());
        }
    }

    #[test]
    fn a_suspension_is_not_held_against_a_turn_but_frees_none_that_is_stuck() {
        let mut watch = Watch::default();
        assert!(!watch.look(10 * MS, Some(0), AFTER, HEARTBEAT));
        watch.resume(90_000 * MS);
        assert!(!watch.look(90_999 * MS, Some(0), AFTER, HEARTBEAT));
        assert!(watch.look(91_000 * MS, Some(0), AFTER, HEARTBEAT));
        watch.resume(95_000 * MS);
        assert!(watch.look(95_001 * MS, Some(0), AFTER, HEARTBEAT));
    }

    #[test]
    fn a_suspension_is_not_held_against_a_turn_that_nobody_had_seen() {
        let mut watch = Watch::default();
        watch.resume(90_000 * MS);
        assert!(!watch.look(90_000 * MS, Some(MS), AFTER, HEARTBEAT));
        assert!(!watch.look(90_050 * MS, Some(MS), AFTER, HEARTBEAT));
        assert!(watch.look(91_000 * MS, Some(MS), AFTER, HEARTBEAT));
    }
}
