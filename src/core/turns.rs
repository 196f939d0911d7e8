//! How long the turns of a stop were.
//!
//! ```text
//!        begin                    end      begin
//!          │ orders … sends         │ enter  │
//!  ────────┼────────────────────────┼────────┼──▶
//!          ├────── wall clock ──────┤        │
//!          ├── processor time, less waiting ─┤
//! ```
//! The wall clock is what a client that waits for its answer sees, and what a busy machine takes
//! from it. The processor's is what this core did itself; it has the system call in it, in which
//! the kernel does its share, and neither the waiting nor what other threads took. Steps are what it
//! did, counted: the same on every machine.

#![forbid(unsafe_code)]

use crate::report::{self, ms};
use crate::ring::sys::thread;

/// The turns of one core, from the first that knows of the stop.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Turns that began.
    count: u64,
    /// The longest so far (ns).
    longest_ns: u64,
    /// The one that took most processor time so far (ns).
    longest_cpu_ns: u64,
    /// The most steps that one took so far.
    most_steps: u64,
    /// The thread's processor time when the turn under way began (ns); 0 before the first.
    cpu_ns: u64,
    /// The core's steps when the turn under way began.
    steps: u64,
}

impl Turns {
    /// A turn of a stop begins, and the one before is over, after so many steps of the core.
    pub(super) fn begin(&mut self, steps: u64) {
        self.lap(steps);
        self.count += 1;
    }

    /// All but the system call of the turn is done. Counts only turns that began here.
    pub(super) fn end(&mut self, begun_ns: u64, now_ns: u64) {
        if self.count > 0 {
            self.longest_ns = self.longest_ns.max(now_ns.saturating_sub(begun_ns));
        }
    }

    /// Whether the stop has begun, and turns count.
    pub(super) fn count_now(&self) -> bool {
        self.count > 0
    }

    /// The turn before ends with this one's begin, or with the core.
    fn lap(&mut self, steps: u64) {
        let cpu_ns = thread::cpu_ns();
        if self.count > 0 {
            let used_ns = cpu_ns.saturating_sub(self.cpu_ns);
            self.longest_cpu_ns = self.longest_cpu_ns.max(used_ns);
            self.most_steps = self.most_steps.max(steps.saturating_sub(self.steps));
        }
        self.cpu_ns = cpu_ns;
        self.steps = steps;
    }

    /// The figures, when the last turn is over.
    pub(super) fn report(&mut self, steps: u64) -> report::Turns {
        self.lap(steps);
        report::Turns {
            count: self.count,
            longest_ms: ms(self.longest_ns),
            longest_cpu_ms: ms(self.longest_cpu_ns),
            most_steps: self.most_steps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_counts_before_the_first_turn_of_the_stop() {
        let mut turns = Turns::default();
        turns.end(0, 1_000_000);
        assert!(!turns.count_now());
        assert_eq!(turns.report(9), report::Turns::default());
    }

    #[test]
    fn the_longest_turn_stays() {
        let mut turns = Turns::default();
        for (begun_ns, ended_ns) in [
            (0, 2_000_000),
            (5_000_000, 12_000_000),
            (13_000_000, 13_500_000),
        ] {
            turns.begin(0);
            turns.end(begun_ns, ended_ns);
        }
        let figures = turns.report(0);
        assert_eq!((figures.count, figures.longest_ms), (3, 7.0));
    }

    #[test]
    fn the_most_steps_are_those_of_one_turn() {
        let mut turns = Turns::default();
        // Before the stop, then three turns of it.
        for steps in [1_000, 1_007, 1_030] {
            turns.begin(steps);
        }
        assert_eq!(turns.report(1_035).most_steps, 23);
        assert_eq!(turns.report(1_090).most_steps, 55, "the last turn counts");
    }

    #[test]
    fn processor_time_is_what_was_done_and_not_what_was_waited() {
        let mut turns = Turns::default();
        turns.begin(0);
        // Time is the subject: a wait of which nothing may be in the figure.
        std::thread::sleep(std::time::Duration::from_millis(40));
        turns.begin(0);
        assert!(turns.longest_cpu_ns < 20_000_000, "{turns:?}");
        let begun_ns = thread::cpu_ns();
        while thread::cpu_ns() - begun_ns < 3_000_000 {}
        assert!(turns.report(0).longest_cpu_ms >= 3.0, "{turns:?}");
    }
}
