//! What a runtime announces to whoever wants to know: its phases, one after the other, and at the
//! end its report.

#![forbid(unsafe_code)]

use std::task::{Context, Poll, Waker};

use crate::panics::quietly;
use crate::phase::Phase;
use crate::report::Report;
use crate::sync::{Arc, Condvar, Mutex, lock, wait};

/// The announcements of one runtime.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// What was announced so far.
    state: Mutex<State>,
    /// Rung at every announcement, for threads that wait.
    changed: Condvar,
}

/// See [`Board`].
#[derive(Debug, Default)]
struct State {
    /// Every phase that was entered after Running, in order. Only ever added to.
    phases: Vec<Phase>,
    /// Tasks that wait for the next one.
    wakers: Vec<Waker>,
    /// The outcome, once there is one.
    report: Option<Arc<Report>>,
}

impl Board {
    /// Announces a phase.
    pub(crate) fn enter(&self, phase: Phase) {
        self.announce(|state| state.phases.push(phase));
    }

    /// Announces the outcome.
    pub(crate) fn conclude(&self, report: &Report) {
        let report = Arc::new(report.clone());
        self.announce(|state| state.report = Some(report));
    }

    /// Changes the board and tells everybody.
    fn announce(&self, change: impl FnOnce(&mut State)) {
        let wakers = {
            let mut state = lock(&self.state);
            change(&mut state);
            std::mem::take(&mut state.wakers)
        };
        self.changed.notify_all();
        // Outside of the lock: a waker may be anything.
        for waker in wakers {
            quietly(|| waker.wake());
        }
    }

    /// How many phases were announced.
    pub(crate) fn count(&self) -> usize {
        lock(&self.state).phases.len()
    }

    /// The phase after the `seen` first ones, which it counts up; `None` after the last.
    pub(crate) fn poll_after(
        &self,
        seen: &mut usize,
        context: &mut Context<'_>,
    ) -> Poll<Option<Phase>> {
        let waker = context.waker().clone();
        let mut state = lock(&self.state);
        if let Some(next) = following(&state.phases, seen) {
            return Poll::Ready(next);
        }
        if !state.wakers.iter().any(|parked| parked.will_wake(&waker)) {
            state.wakers.push(waker);
        }
        Poll::Pending
    }

    /// As [`poll_after`](Board::poll_after), but blocks until the phase comes.
    pub(crate) fn wait_after(&self, seen: &mut usize) -> Option<Phase> {
        let mut state = lock(&self.state);
        loop {
            if let Some(next) = following(&state.phases, seen) {
                return next;
            }
            state = wait(&self.changed, state);
        }
    }

    /// Waits until the outcome is announced.
    pub(crate) fn outcome(&self) -> Report {
        let mut state = lock(&self.state);
        loop {
            if let Some(report) = &state.report {
                return Report::clone(report);
            }
            state = wait(&self.changed, state);
        }
    }
}

/// What follows the `seen` first phases: the next one, `Some(None)` after the last, and `None` if
/// it has not come.
fn following(phases: &[Phase], seen: &mut usize) -> Option<Option<Phase>> {
    if let Some(phase) = phases.get(*seen) {
        *seen += 1;
        return Some(Some(*phase));
    }
    (phases.last() == Some(&Phase::Terminated)).then_some(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_seen_once_and_in_order_by_every_subscriber() {
        let board = Arc::new(Board::default());
        board.enter(Phase::Draining);
        let rest = [Phase::Hooks, Phase::Closing, Phase::Terminated];
        let early = board.clone();
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            std::iter::from_fn(|| early.wait_after(&mut count)).collect::<Vec<_>>()
        });
        let mut late = board.count();
        let mut context = Context::from_waker(Waker::noop());
        assert!(board.poll_after(&mut late, &mut context).is_pending());
        rest.into_iter().for_each(|phase| board.enter(phase));
        let seen = thread.join().expect("the subscriber");
        assert_eq!(seen, [&[Phase::Draining], &rest[..]].concat());
        for phase in rest {
            let next = board.poll_after(&mut late, &mut context);
            assert_eq!(next, Poll::Ready(Some(phase)));
        }
        assert_eq!(board.poll_after(&mut late, &mut context), Poll::Ready(None));
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
