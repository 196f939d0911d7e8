//! The books of a stop: every counter that goes up in one place has another
//! that goes up when the thing ends, and at the end the two sides are equal.
//!
//! A difference is a bug of the runtime, never of its user. That is why it is
//! public: an application's own tests may assert that there is none.
#![forbid(unsafe_code)]

use super::{CoreOutcome, CoreReport, Report};

impl Report {
    /// Every sum in the report that does not add up, each as a sentence that
    /// names the core, the equation and the numbers. Empty when all is well.
    ///
    /// On each core that is not stuck:
    ///
    /// - connections: `at_start + accepted` = the sum of all the ways to end;
    /// - ops: `submitted = completed + leaked`, and `cancelled` is a part of
    ///   `completed`;
    /// - tasks: `spawned = completed + cancelled + panicked + dropped`.
    ///
    /// Over the whole runtime, if no core is stuck: letters sent by cores and
    /// by foreign threads = letters handled + letters returned. There is no
    /// such sum for one core, since a letter ends where it was sent to.
    ///
    /// A stuck core is passed over: its counters were read while it ran.
    ///
    /// # Examples
    ///
    /// ```
    /// # let report = evenfall::Report::default();
    /// // let report = runtime.run(main)?;
    /// assert_eq!(report.imbalances(), Vec::<String>::new());
    /// ```
    pub fn imbalances(&self) -> Vec<String> {
        let mut found = Vec::new();
        for core in self.cores.iter().filter(|core| !is_stuck(core)) {
            let place = format!("core {}", core.core);
            found.extend(equations(core).iter().filter_map(|sum| sum.check(&place)));
            found.extend(cancelled_beyond_completed(core));
        }
        if !self.cores.iter().any(is_stuck) {
            found.extend(self.letter_sum().check("all cores"));
        }
        found
    }

    /// The one equation that holds only over all cores together.
    fn letter_sum(&self) -> Equation {
        let total = |field: fn(&CoreReport) -> u64| -> u128 {
            self.cores.iter().map(|core| u128::from(field(core))).sum()
        };
        Equation {
            of: "letters",
            left: vec![
                ("sent", total(|core| core.letters.sent)),
                ("foreign", u128::from(self.foreign_letters)),
            ],
            right: vec![
                ("handled", total(|core| core.letters.handled)),
                ("returned", total(|core| core.letters.returned)),
            ],
        }
    }
}

/// Two sums that are to be equal. In `u128`, so that no counter, however
/// wrong, makes the check itself overflow.
struct Equation {
    /// What is counted; the first word of the sentence.
    of: &'static str,
    /// What came in.
    left: Vec<(&'static str, u128)>,
    /// What became of it.
    right: Vec<(&'static str, u128)>,
}

impl Equation {
    /// The sentence for this equation, if it does not hold.
    fn check(&self, place: &str) -> Option<String> {
        let total = |side: &[(&str, u128)]| -> u128 { side.iter().map(|(_, n)| n).sum() };
        let (left, right) = (total(&self.left), total(&self.right));
        if left == right {
            return None;
        }
        Some(format!(
            "{place}: {of}: {left_words} = {right_words} does not hold: {left} against {right}",
            of = self.of,
            left_words = side_in_words(&self.left),
            right_words = side_in_words(&self.right),
        ))
    }
}

/// `spawned 12 + rejected 3`: each name with its number.
fn side_in_words(side: &[(&str, u128)]) -> String {
    let terms: Vec<String> = side.iter().map(|(name, n)| format!("{name} {n}")).collect();
    terms.join(" + ")
}

/// The equations of one core.
fn equations(core: &CoreReport) -> [Equation; 3] {
    let ends = &core.connections;
    let (ops, tasks) = (&core.ops, &core.tasks);
    let wide = |terms: &[(&'static str, u64)]| -> Vec<(&'static str, u128)> {
        terms.iter().map(|&(name, n)| (name, n.into())).collect()
    };
    [
        Equation {
            of: "connections",
            left: wide(&[("at_start", ends.at_start), ("accepted", ends.accepted)]),
            right: wide(&[
                ("drained", ends.drained),
                ("closed_by_peer", ends.closed_by_peer),
                ("closed_by_handler", ends.closed_by_handler),
                ("aborted", ends.aborted),
                ("peer_reset", ends.peer_reset),
                ("forced", ends.forced),
                ("abandoned", ends.abandoned),
            ]),
        },
        Equation {
            of: "ops",
            left: wide(&[("submitted", ops.submitted)]),
            right: wide(&[("completed", ops.completed), ("leaked", ops.leaked)]),
        },
        Equation {
            of: "tasks",
            left: wide(&[("spawned", tasks.spawned)]),
            right: wide(&[
                ("completed", tasks.completed),
                ("cancelled", tasks.cancelled),
                ("panicked", tasks.panicked),
                ("dropped", tasks.dropped),
            ]),
        },
    ]
}

/// A cancelled op has completed, so the part can never exceed the whole.
fn cancelled_beyond_completed(core: &CoreReport) -> Option<String> {
    let ops = &core.ops;
    (ops.cancelled > ops.completed).then(|| {
        format!(
            "core {}: ops: cancelled {} is more than completed {}, of which it is a part",
            core.core, ops.cancelled, ops.completed
        )
    })
}

fn is_stuck(core: &CoreReport) -> bool {
    core.outcome == CoreOutcome::Stuck
}
