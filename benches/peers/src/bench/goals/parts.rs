//! The goals that instructions, system calls, memory and the parts of a runtime show.

use super::Goal;
use crate::bench::book::Book;
use crate::bench::echo::versus::{self, Better, OURS};
use crate::bench::memory::CELL;
use crate::bench::{instructions as counts, syscalls as calls};
use crate::serve::Kind;

/// Few beyond the bare ring's, and half of any framework's.
pub fn instructions(book: &Book) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (cell, _) in counts::CELLS {
        let of = |server: &str| book.sample(cell, server, "instructions").median();
        let beyond = || Some(of(OURS)? - of(&Kind::BareRing.name())?);
        let what = format!("instructions an echo beyond the bare ring's, {cell}");
        let few = |beyond| beyond <= 500.0;
        goals.push(Goal::of(&what, "500 at most", beyond(), 0, few));
        let best = versus::best_framework(book, cell, "instructions", Better::Less);
        let share = || Some(of(OURS)? / of(best.as_ref()?)?);
        let what = format!("instructions an echo, to the best framework's, {cell}");
        let half = |share| share <= 0.5;
        let mut goal = Goal::of(&what, "0.5 at most", share(), 2, half);
        if let (Some(best), Some(_)) = (&best, goal.reached) {
            goal.measured = format!("{} of {best}", goal.measured);
        }
        goals.push(goal);
    }
    goals
}

/// Two for a lone round trip, and one for many requests where there are many.
pub fn system_calls(book: &Book) -> Vec<Goal> {
    let of = |place: usize| book.sample(calls::CELLS[place].0, OURS, "calls").median();
    // A timer now and then, and the count's own edges, are not part of a round trip.
    let two = |calls: f64| calls <= 2.05;
    let eight = |requests| requests >= 8.0;
    let many = of(1).map(|calls| 1.0 / calls);
    let letter = book.sample(calls::LETTERS, OURS, "calls").median();
    // The sender's thread waits to begin, and tells that it is done.
    let none = |calls: f64| calls < 0.001;
    vec![
        Goal::of(
            "system calls a round trip, 64 B × 1",
            "2 at most",
            of(0),
            2,
            two,
        ),
        Goal::of(
            "requests a system call, 64 B × 64",
            "8 or more",
            many,
            1,
            eight,
        ),
        Goal::of(
            "system calls of the sender of a letter to a busy core",
            "none (below 0.001)",
            letter,
            5,
            none,
        ),
    ]
}

/// Small, and nothing left behind.
pub fn memory(book: &Book) -> Vec<Goal> {
    let of = |figure| book.sample(CELL, OURS, figure).median();
    let small = |bytes| bytes <= 300.0;
    let left = of("left").filter(|_| of("came_and_went").is_some_and(|count| count >= 1e6));
    let none = |bytes: f64| bytes < 0.1;
    let what = "bytes left behind by a connection, over 1,000,000";
    vec![
        Goal::of(
            "user memory of an idle connection",
            "300 bytes at most",
            of("heap"),
            0,
            small,
        ),
        Goal::of(what, "none (below 0.1)", left, 3, none),
    ]
}

/// The parts of a runtime.
pub fn micro(book: &Book) -> Vec<Goal> {
    let of = |part: &str| book.sample(part, "", "median_ns").median();
    let most = |what: &str, part: &str, most_ns: f64| {
        let limit = format!("{most_ns:.0} ns at most");
        Goal::of(what, &limit, of(part), 1, |ns| ns <= most_ns)
    };
    let grown = |part: &str| {
        let many = of(&format!("{part}/evenfall/1000000"))?;
        Some(many / of(&format!("{part}/evenfall/1000"))?)
    };
    // What a search tree would take: the logarithm of the count doubles.
    let steady = |growth| growth < 2.0;
    let trips = |server: &str| book.sample("letter round trip", server, "median_ns");
    let ours = trips("evenfall, spawn_on");
    let to_eventfds = ours.over(&trips("eventfds"));
    let mut asleep = Goal::of(
        "letter to a sleeping core and its answer, to two bare eventfds",
        "1.1 at most",
        to_eventfds.median(),
        2,
        |share| share <= 1.1,
    );
    let to_rings = ours.over(&trips("bare rings"));
    if let (Some(spread), Some(rings)) = (to_eventfds.spread(), to_rings.median()) {
        let (low, high) = (spread.low, spread.high);
        let measured = &mut asleep.measured;
        measured.push_str(&format!(
            " ({low:.2}–{high:.2}); {rings:.2} of two bare rings"
        ));
    }
    vec![
        most("spawn + join", "spawn + join/evenfall", 70.0),
        most(
            "timer insert, 1,000,000 live",
            "timer insert/evenfall/1000000",
            100.0,
        ),
        most(
            "timer cancel, 1,000,000 live",
            "timer cancel/evenfall/1000000",
            100.0,
        ),
        Goal::of(
            "timer insert, 1,000,000 live to 1,000",
            "below 2 (a tree's)",
            grown("timer insert"),
            2,
            steady,
        ),
        Goal::of(
            "timer cancel, 1,000,000 live to 1,000",
            "below 2 (a tree's)",
            grown("timer cancel"),
            2,
            steady,
        ),
        asleep,
    ]
}
