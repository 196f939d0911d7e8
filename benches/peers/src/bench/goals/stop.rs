//! The goals that the stops show.

use super::Goal;
use crate::bench::book::Book;
use crate::bench::echo::versus::OURS;
use crate::bench::sample::Sample;
use crate::serve::Kind;

/// All of them.
pub fn goals(book: &Book) -> Vec<Goal> {
    let mut goals = Vec::new();
    for cores in ["one core", "both cores"] {
        let many = format!("10000 idle and 0 busy, {cores}");
        let of = |cell: &str, server: &str, figure: &str| book.sample(cell, server, figure);
        let over = |cell: &str| of(cell, OURS, "over_ms");
        let bare = of(&many, &Kind::BareEpoll.name(), "over_ms");
        let ratio = |one: Sample, base: &Sample| one.over(base).median();
        goals.push(Goal::of(
            &format!("stop of 10,000 idle, to the bare loop that does the same, {cores}"),
            "1.2 at most",
            ratio(over(&many), &bare),
            2,
            |ratio| ratio <= 1.2,
        ));
        goals.push(linear(book, cores));
        let nothing = format!("0 idle and 0 busy, {cores}");
        for (figure, whose) in [
            ("returned_ms", "from outside"),
            ("report_ms", "by the report"),
        ] {
            goals.push(Goal::of(
                &format!("stop of nothing, trigger to return of run, {whose}, {cores}"),
                "below 1 ms",
                of(&nothing, OURS, figure).median(),
                3,
                |ms| ms < 1.0,
            ));
        }
    }
    goals
}

/// Five times as many connections take five times as long. Where descriptors did not allow so many,
/// the growth to the largest case says something, but not enough.
fn linear(book: &Book, cores: &str) -> Goal {
    let idle = |cell: &String| {
        let count = cell.strip_suffix(&format!(" idle and 0 busy, {cores}"))?;
        count.parse::<u32>().ok().filter(|count| *count > 10_000)
    };
    let most = book.cells().iter().filter_map(idle).max();
    let median = |idle: u32| {
        let cell = format!("{idle} idle and 0 busy, {cores}");
        // Medians, as the two cases are not measured in the same rounds.
        book.sample(&cell, OURS, "over_ms").median()
    };
    let growth = || Some(median(most?)? / median(10_000)? / (f64::from(most?) / 1e4));
    let mut goal = Goal::of(
        &format!("stop of 50,000 idle, each to one of 10,000, {cores}"),
        "1.2 at most (linear)",
        growth(),
        2,
        |growth| growth <= 1.2,
    );
    if let (Some(most), true) = (most.filter(|most| *most < 50_000), goal.reached.is_some()) {
        goal.measured = format!("{} with {most}, more do not fit here", goal.measured);
        goal.reached = None;
    }
    goal
}
