//! What a runtime announces to whoever wants to know: its phases, one after the other, turns that
//! are too long, and at the end its report.

#![forbid(unsafe_code)]

use crate::config::STALLS_ANNOUNCED;
use crate::feed::Feed;
use crate::phase::Phase;
use crate::report::Report;
use crate::stall::StallEvent;
use crate::sync::{Arc, Condvar, Mutex, lock, wait};

/// The announcements of one runtime.
#[derive(Debug)]
pub(crate) struct Board {
    /// Every phase that is entered after Running; it ends with the last one.
    pub(crate) phases: Arc<Feed<Phase>>,
    /// Turns that are too long, if they are watched.
    pub(crate) stalls: Arc<Feed<StallEvent>>,
    /// The outcome, once there is one.
    outcome: Mutex<Option<Arc<Report>>>,
    /// Rung when the outcome is there, for threads that wait.
    concluded: Condvar,
}

/// Every phase after Running is kept: whoever subscribes, and be it in the last one, sees them all.
const PHASES: usize = Phase::Terminated as usize;

impl Default for Board {
    fn default() -> Board {
        Board {
            phases: Arc::new(Feed::new(PHASES)),
            stalls: Arc::new(Feed::new(STALLS_ANNOUNCED)),
            outcome: Mutex::default(),
            concluded: Condvar::default(),
        }
    }
}

impl Board {
    /// Announces a phase.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phases.push(phase);
        if phase == Phase::Terminated {
            self.phases.end();
            self.stalls.end();
        }
    }

    /// Announces the outcome.
    pub(crate) fn conclude(&self, report: &Report) {
        *lock(&self.outcome) = Some(Arc::new(report.clone()));
        self.concluded.notify_all();
    }

    /// Waits until the outcome is announced.
    pub(crate) fn outcome(&self) -> Report {
        let mut outcome = lock(&self.outcome);
        loop {
            if let Some(report) = &*outcome {
                return Report::clone(report);
            }
            outcome = wait(&self.concluded, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_seen_once_and_in_order_by_every_subscriber() {
        let board = Arc::new(Board::default());
        let all = [
            Phase::Notice,
            Phase::Draining,
            Phase::Hooks,
            Phase::Closing,
            Phase::Terminated,
        ];
        let mut early = board.phases.subscribe_to_all();
        board.enter(all[0]);
        let mut late = board.phases.subscribe_to_all();
        let thread = std::thread::spawn(move || {
            std::iter::from_fn(|| early.wait_next()).collect::<Vec<_>>()
        });
        all[1..].iter().for_each(|phase| board.enter(*phase));
        assert_eq!(thread.join().expect("the subscriber"), all);
        let mut last = board.phases.subscribe_to_all();
        for late in [&mut late, &mut last] {
            let seen: Vec<_> = std::iter::from_fn(|| late.wait_next()).collect();
            assert_eq!(seen, all, "also those that had begun");
            assert_eq!(late.missed(), 0);
        }
    }

    #[test]
    fn everybody_who_waits_gets_the_outcome_also_afterwards() {
        let board = Arc::new(Board::default());
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let board = board.clone();
                std::thread::spawn(move || board.outcome())
            })
            .collect();
        let report = Report::default();
        board.conclude(&report);
        for thread in waiting {
            assert_eq!(thread.join().expect("a waiter"), report);
        }
        assert_eq!(board.outcome(), report);
    }
}
