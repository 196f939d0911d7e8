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
//! because before a stop nobody looks, and nobody notices a suspension. Otherwise whoever continues a
//! process that was stopped in the middle of a turn would find a core that had been at it for hours.
//!
//! Nor does the time count in which the core's thread was ready and had no processor, as far as
//! somebody looked ([`weigh`](Watch::weigh)): such a core hangs in nobody's code.

#![forbid(unsafe_code)]

/// A thread that had less than one in so many parts of the time between two looks, and wanted more,
/// was starved. One that computes has its share of a busy processor: more than that, up to a dozen
/// rivals, and a turn that computes for too long is too long.
const STARVED_PART: u64 = 16;

/// A thread is weighed again no sooner than after this (ns). A stop of nothing is over by then: without
/// it, each of its steps read the clock of each core that was in a turn, and now and then a file of
/// the kernel's, a tenth of a millisecond.
const WEIGHED_APART: u64 = 10_000_000;

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
    /// When its thread's processor time was last read (ns), and what it was then (ns).
    weighed: Option<(u64, u64)>,
    /// How long its thread was seen to be kept from its processor (ns).
    starved_ns: u64,
    /// Whether it was found too long. Stays until the turn is over.
    stuck: bool,
}

impl Watch {
    /// Before a look: the thread of a core whose turn began at `turn_ns` has used `cpu_ns` of
    /// processor time so far. If it had hardly any since the last look, `is_ready` says whether it
    /// wants some, or sleeps.
    pub(crate) fn weigh(
        &mut self,
        now_ns: u64,
        turn_ns: Option<u64>,
        cpu_ns: impl FnOnce() -> u64,
        is_ready: impl FnOnce() -> bool,
    ) {
        let Some(began_ns) = turn_ns else {
            return;
        };
        let turn = self.see(now_ns, began_ns);
        if turn.stuck {
            return;
        }
        let gone_ns = turn
            .weighed
            .map(|(looked_ns, _)| now_ns.saturating_sub(looked_ns));
        if gone_ns.is_some_and(|gone_ns| gone_ns < WEIGHED_APART) {
            return;
        }
        let cpu_ns = cpu_ns();
        if let (Some(gone_ns), Some((_, before_ns))) = (gone_ns, turn.weighed) {
            let had_ns = cpu_ns.saturating_sub(before_ns);
            if had_ns < gone_ns / STARVED_PART && is_ready() {
                turn.starved_ns += gone_ns;
            }
        }
        turn.weighed = Some((now_ns, cpu_ns));
    }

    /// The turn that began at `began_ns`, seen before or not.
    fn see(&mut self, now_ns: u64, began_ns: u64) -> &mut Turn {
        let known = self.turn.filter(|turn| turn.began_ns == began_ns);
        self.turn.insert(known.unwrap_or(Turn {
            began_ns,
            seen_ns: now_ns,
            weighed: None,
            starved_ns: 0,
            stuck: false,
        }))
    }

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
        let resumed_ns = self.resumed_ns;
        let turn = self.see(now_ns, began_ns);
        let starved_ns = turn.starved_ns;
        let since = |at_ns: u64| now_ns.saturating_sub(at_ns).saturating_sub(starved_ns);
        let (lasts_ns, watched_ns) = (since(began_ns.max(resumed_ns)), since(turn.seen_ns));
        turn.stuck |= lasts_ns >= stuck_after_ns && watched_ns >= seen_for_ns;
        turn.stuck
    }

    /// The process was suspended, until now.
    pub(crate) fn resume(&mut self, now_ns: u64) {
        self.resumed_ns = now_ns;
        if let Some(turn) = &mut self.turn {
            // What it lacked before does not count with the time before, and nobody had a processor
            // meanwhile.
            turn.starved_ns = 0;
            turn.weighed = None;
        }
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

    /// Looks at a turn that began at 0 each heartbeat for `AFTER` and two heartbeats more, at a thread
    /// that is ready or not and has this much of each heartbeat. Whether it was found stuck.
    fn found_stuck(ready: bool, had_ns: u64) -> bool {
        let mut watch = Watch::default();
        let looks = AFTER / HEARTBEAT + 2;
        (0..=looks).any(|look| {
            let now_ns = look * HEARTBEAT;
            watch.weigh(now_ns, Some(0), || look * had_ns, || ready);
            watch.look(now_ns, Some(0), AFTER, HEARTBEAT)
        })
    }

    #[test]
    fn a_core_that_wants_a_processor_and_has_none_is_not_stuck() {
        assert!(!found_stuck(true, 0));
        assert!(!found_stuck(true, HEARTBEAT / STARVED_PART - 1));
    }

    #[test]
    fn a_core_that_sleeps_or_computes_is_stuck() {
        assert!(found_stuck(false, 0), "it sleeps");
        assert!(found_stuck(true, HEARTBEAT), "it computes");
        assert!(
            found_stuck(true, HEARTBEAT / STARVED_PART),
            "it has its share"
        );
    }

    #[test]
    fn looks_close_to_each_other_weigh_once_and_what_they_saw_adds_up() {
        let mut watch = Watch::default();
        let (mut clocks, mut files) = (0, 0);
        for look in 0..=1_000 {
            let cpu_ns = || {
                clocks += 1;
                0
            };
            let is_ready = || {
                files += 1;
                true
            };
            watch.weigh(look * MS / 10, Some(0), cpu_ns, is_ready);
        }
        assert_eq!((clocks, files), (11, 10), "in 100 ms");
        let starved_ns = watch.turn.map(|turn| turn.starved_ns);
        assert_eq!(starved_ns, Some(100 * MS));
    }

    #[test]
    fn a_core_that_was_starved_is_stuck_that_much_later() {
        let mut watch = Watch::default();
        let lean = 10;
        let stuck_at = (0..200u64).find(|look| {
            let now_ns = look * HEARTBEAT;
            let cpu_ns = || now_ns.saturating_sub(lean * HEARTBEAT);
            watch.weigh(now_ns, Some(0), cpu_ns, || true);
            watch.look(now_ns, Some(0), AFTER, HEARTBEAT)
        });
        let later = stuck_at.map(|look| look * HEARTBEAT - AFTER);
        assert_eq!(later, Some(lean * HEARTBEAT));
    }

    #[test]
    fn a_suspension_is_not_counted_twice() {
        let mut watch = Watch::default();
        watch.weigh(0, Some(0), || 0, || true);
        let _seen = watch.look(0, Some(0), AFTER, HEARTBEAT);
        watch.resume(90_000 * MS);
        watch.weigh(90_000 * MS, Some(0), || 0, || true);
        watch.weigh(91_000 * MS, Some(0), || 1_000 * MS, || true);
        assert!(watch.look(91_000 * MS, Some(0), AFTER, HEARTBEAT));
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
