//! What the project wants to reach, and whether the kept figures say that it has.
//!
//! Each goal is a limit and a way to read a figure from the kept files; nothing here knows a result.
//! A goal that concerns every cell is reached when all cells were measured and all of them hold.

mod echo;
mod parts;
mod stop;

use std::io;

use crate::bench::page::Table;
use crate::bench::sample::Spread;
use crate::bench::{Setting, instructions, memory, micro, syscalls};

/// One goal and what became of it.
#[derive(Debug, PartialEq)]
pub struct Goal {
    /// What is wanted.
    what: String,
    /// How much of it.
    limit: String,
    /// The figure, or where it is missing.
    measured: String,
    /// Whether that is enough; none where it was not measured.
    reached: Option<bool>,
}

impl Goal {
    /// One figure that has to satisfy `enough`.
    fn of(
        what: &str,
        limit: &str,
        figure: Option<f64>,
        digits: usize,
        enough: impl FnOnce(f64) -> bool,
    ) -> Goal {
        Goal {
            what: what.to_owned(),
            limit: limit.to_owned(),
            measured: figure.map_or("not measured".to_owned(), |figure| {
                format!("{figure:.digits$}")
            }),
            reached: figure.map(enough),
        }
    }

    /// The word in the last column.
    fn word(&self) -> &'static str {
        match self.reached {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "–",
        }
    }
}

/// What was found in each cell that a goal concerns: the cell, the figure, and whether it holds.
struct Cells {
    /// How many cells there should be.
    wanted: usize,
    /// Those that were measured.
    found: Vec<(String, Spread, bool)>,
}

impl Cells {
    /// The goal over all of them: the worst cell, and how many hold.
    fn goal(mut self, what: &str, limit: &str, worst_is_low: bool) -> Goal {
        self.found
            .sort_by(|one, other| one.1.median.total_cmp(&other.1.median));
        if !worst_is_low {
            self.found.reverse();
        }
        let holding = self.found.iter().filter(|(_, _, holds)| *holds).count();
        let measured = match self.found.first() {
            None => "not measured".to_owned(),
            Some((cell, spread, _)) => {
                let Spread { low, median, high } = spread;
                let count = self.found.len();
                let missing = match self.wanted.saturating_sub(count) {
                    0 => String::new(),
                    missing => format!("; {missing} not measured"),
                };
                format!(
                    "worst {median:.3} ({low:.2}–{high:.2}) in {cell}; {holding} of {count} \
                     cells{missing}"
                )
            }
        };
        let all = self.found.len() >= self.wanted;
        let fails = holding < self.found.len();
        Goal {
            what: what.to_owned(),
            limit: limit.to_owned(),
            measured,
            reached: match (fails, all) {
                (true, _) => Some(false),
                (false, true) => Some(true),
                (false, false) => None,
            },
        }
    }
}

/// Reads what is kept, and keeps `goals.md`.
pub fn run(setting: &Setting) -> io::Result<()> {
    let echo = crate::bench::echo::book(setting)?;
    let paired = crate::bench::paired::book(setting)?;
    let mut goals = echo::goals(&echo, &paired);
    goals.extend(parts::instructions(&instructions::book(setting)?));
    goals.extend(parts::system_calls(&syscalls::book(setting)?));
    goals.extend(parts::memory(&memory::book(setting)?));
    goals.extend(parts::micro(&micro::book(setting)?));
    goals.extend(stop::goals(&crate::bench::stop::book(setting)?));
    setting.keep("goals.md", &page(&goals))
}

/// The table.
fn page(goals: &[Goal]) -> String {
    let head = ["goal", "to reach", "measured", "reached"];
    let mut table = Table::left(head.map(String::from));
    for goal in goals {
        table.row([
            goal.what.clone(),
            goal.limit.clone(),
            goal.measured.clone(),
            goal.word().to_owned(),
        ]);
    }
    let reached = goals
        .iter()
        .filter(|goal| goal.reached == Some(true))
        .count();
    let missed = goals
        .iter()
        .filter(|goal| goal.reached == Some(false))
        .count();
    format!(
        "# Goals\n\n{reached} of {} reached, {missed} missed, the others not measured in full. \
         Computed from the kept figures by each run; a ratio is a median of the rounds' own ratios, \
         with its quartiles.\n\n{table}",
        goals.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(medians: &[f64], wanted: usize) -> Cells {
        let spread = |median| Spread {
            low: median,
            median,
            high: median,
        };
        let found = medians
            .iter()
            .map(|&median| (format!("c{median}"), spread(median), median >= 0.97));
        Cells {
            wanted,
            found: found.collect(),
        }
    }

    #[test]
    fn a_goal_over_all_cells_needs_all_of_them() {
        let reached = |medians: &[f64], wanted| cells(medians, wanted).goal("", "", true).reached;
        assert_eq!(reached(&[1.0, 0.98], 2), Some(true));
        assert_eq!(reached(&[1.0, 0.98], 3), None);
        assert_eq!(reached(&[1.0, 0.96], 3), Some(false));
        assert_eq!(reached(&[], 3), None);
    }

    #[test]
    fn the_worst_cell_is_named() {
        let goal = cells(&[1.0, 0.9, 0.98], 3).goal("", "", true);
        assert!(
            goal.measured
                .starts_with("worst 0.900 (0.90–0.90) in c0.9; 2 of 3 cells")
        );
    }
}
