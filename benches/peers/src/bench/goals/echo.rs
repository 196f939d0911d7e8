//! The goals that the echo matrix shows.

use super::{Cells, Goal};
use crate::bench::book::Book;
use crate::bench::echo::cell::{BESIDE, Cell};
use crate::bench::echo::versus::{self, Better, OURS};
use crate::bench::sample::{Spread, geometric_mean};

/// All of them. How close it comes to the bare loops is read from the closely `paired` rounds, which
/// tell a hundredth where those of the whole matrix tell a tenth.
pub fn goals(book: &Book, paired: &Book) -> Vec<Goal> {
    vec![
        rate(paired, false),
        rate(paired, true),
        nobody_ahead(
            book,
            "rate",
            Better::More,
            "echo rate beside the frameworks",
        ),
        best_mean(book),
        cpu(paired, false),
        cpu(paired, true),
        user_time(book),
        nobody_ahead(book, "p99_us", Better::Less, "p99 beside the frameworks"),
        beside(book),
    ]
}

/// The cells whose rates compare, with what `spread` finds in them.
fn over_all(
    book: &Book,
    spread: impl Fn(&str) -> Option<Spread>,
    holds: impl Fn(Spread) -> bool,
) -> Cells {
    let mut all: Vec<String> = Cell::all().into_iter().map(|cell| cell.name).collect();
    all.retain(|cell| Cell::compares(cell));
    let measured = book.cells();
    let found = all
        .iter()
        .filter(|cell| measured.contains(cell))
        .filter_map(|cell| {
            let spread = spread(cell)?;
            Some((cell.clone(), spread, holds(spread)))
        });
    Cells {
        wanted: all.len(),
        found: found.collect(),
    }
}

/// The name of a ratio to the bare loops.
fn to_whom(what: &str, lucky: bool) -> String {
    if lucky {
        format!("{what}, to the bare loop that was better in the same round (stricter)")
    } else {
        format!("{what}, to the bare loop with the better median")
    }
}

/// Close to the better bare loop everywhere.
fn rate(book: &Book, lucky: bool) -> Goal {
    let share = |cell: &str| {
        let of = if lucky {
            versus::to_luckier_loop
        } else {
            versus::to_loop
        };
        of(book, cell, "rate", OURS, Better::More)
    };
    let cells = over_all(book, share, |spread| spread.median >= 0.97);
    cells.goal(&to_whom("echo rate", lucky), "0.97 in every cell", true)
}

/// Little more of the processor than the better bare loop.
fn cpu(book: &Book, lucky: bool) -> Goal {
    let share = |cell: &str| {
        let of = if lucky {
            versus::to_luckier_loop
        } else {
            versus::to_loop
        };
        of(book, cell, "cpu_us", OURS, Better::Less)
    };
    let cells = over_all(book, share, |spread| spread.median <= 1.03);
    cells.goal(
        &to_whom("server CPU a request", lucky),
        "1.03 at most in every cell",
        false,
    )
}

/// No framework is better in more than three quarters of the rounds of a cell.
fn nobody_ahead(book: &Book, figure: &str, better: Better, what: &str) -> Goal {
    let measured = |cell: &&Cell| {
        let frameworks = versus::frameworks(book, &cell.name);
        let ours = book.sample(&cell.name, OURS, figure).median();
        ours.is_some() && !frameworks.is_empty()
    };
    let all = Cell::all();
    // Streams have no latency.
    let has = |cell: &&Cell| match figure {
        "rate" => Cell::compares(&cell.name),
        _ => Cell::unit(&cell.name) == "request",
    };
    let wanted: Vec<&Cell> = all.iter().filter(has).collect();
    let cells: Vec<&Cell> = wanted
        .iter()
        .copied()
        .filter(|cell| measured(cell))
        .collect();
    let mut ahead = Vec::new();
    for cell in &cells {
        for (server, spread) in versus::ahead(book, &cell.name, figure, better) {
            let Spread { low, median, high } = spread;
            ahead.push(format!(
                "{server} in {} ({median:.2}, {low:.2}–{high:.2})",
                cell.name
            ));
        }
    }
    let missing = wanted.len() - cells.len();
    let reached = match (ahead.is_empty(), missing) {
        (false, _) => Some(false),
        (true, 0) => Some(true),
        (true, _) => None,
    };
    let who = match ahead.is_empty() {
        true => "nobody is ahead".to_owned(),
        false => format!("ahead: {}", ahead.join(", ")),
    };
    let not = match missing {
        0 => String::new(),
        missing => format!("; {missing} cells not measured"),
    };
    Goal {
        what: what.to_owned(),
        limit: "no framework ahead beyond the paired spread, in any cell".to_owned(),
        measured: format!("{who}{not}"),
        reached,
    }
}

/// Beyond the framework that is the best over all cells.
fn best_mean(book: &Book) -> Goal {
    let what = "echo rate, to the framework with the best geometric mean";
    let limit = "1.03 as a geometric mean over the cells";
    let Some(best) = versus::best_mean(book) else {
        return Goal::of(what, limit, None, 3, |_| false);
    };
    let shares: Vec<f64> = book
        .cells()
        .iter()
        .filter(|cell| Cell::compares(cell))
        .filter_map(|cell| versus::paired(book, cell, "rate", OURS, &best))
        .map(|spread| spread.median)
        .collect();
    let mean = geometric_mean(&shares);
    let mut goal = Goal::of(what, limit, mean, 3, |mean| mean >= 1.03);
    let compares = |cell: &&Cell| Cell::compares(&cell.name);
    let wanted = Cell::all().iter().filter(compares).count();
    goal.measured = format!(
        "{} of {best}, {} of {wanted} cells",
        goal.measured,
        shares.len()
    );
    if shares.len() < wanted {
        goal.reached = None;
    }
    goal
}

/// User time, which the kernel's tick samples.
fn user_time(book: &Book) -> Goal {
    let time = book.sample("64 B × 64", OURS, "user_us").median();
    let limit = "0.15 µs at most";
    Goal::of("user CPU an echo, 64 B × 64", limit, time, 3, |time| {
        time <= 0.15
    })
}

/// A heavy stream costs the others little.
fn beside(book: &Book) -> Goal {
    let of = |figure| book.sample(BESIDE, OURS, figure);
    let spread = of("p99_us").over(&of("p99_alone_us")).spread();
    let what = "p99 of 63 small loops beside a heavy stream, to that without it";
    let ratio = spread.map(|spread| spread.median);
    Goal::of(what, "2 at most", ratio, 2, |ratio| ratio <= 2.0)
}
