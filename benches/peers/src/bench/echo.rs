//! The echo matrix.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::time::Duration;

use crate::bench::cell::{Cell, Round};
use crate::bench::page::{Table, number, ratio};
use crate::bench::plot::{self, Point};
use crate::bench::sample::{Sample, geometric_mean};
use crate::bench::{Progress, Setting};
use crate::serve::Kind;
use crate::sys;

/// The rounds of one cell, by server.
type Rounds = BTreeMap<Kind, Vec<io::Result<Round>>>;

/// Measures, prints, and keeps `echo.md`, `echo.csv` and `echo.svg`.
pub fn run(setting: &Setting, only: &[String]) -> io::Result<()> {
    sys::raise_nofile(200_000)?;
    let mut cells = Cell::all();
    cells.retain(|cell| only.is_empty() || only.iter().any(|part| cell.name.contains(part)));
    let total = cells.len() * setting.rounds * setting.kinds.len();
    // Besides the measurement: the start, up to 10,100 connects, and the warm-up.
    let bound = setting.length.mul_f64(1.2) + Duration::from_secs(2);
    let mut progress = Progress::begin("echo", total, bound);
    let mut measured = Vec::new();
    for cell in &cells {
        let mut rounds = Rounds::new();
        for round in 0..setting.rounds {
            for kind in setting.order(round) {
                let outcome = cell.measure(kind, setting);
                let rate = match &outcome {
                    Ok(round) => format!("{:.0}/s", round.rate),
                    Err(error) => error.to_string(),
                };
                progress.step(&format!("{}: {} {rate}", cell.name, kind.name()));
                rounds.entry(kind).or_default().push(outcome);
            }
        }
        measured.push((cell.clone(), rounds));
        // After each cell, so that an interrupted bench leaves what it has.
        setting.keep("echo.csv", &raw(&measured))?;
    }
    progress.end();
    let text = page(&measured);
    println!("{text}");
    setting.keep("echo.md", &text)?;
    setting.keep("echo.svg", &picture(&measured)?)
}

/// One figure of one server over the rounds.
fn sample(rounds: &Rounds, kind: Kind, figure: fn(&Round) -> Option<f64>) -> Sample {
    let rounds = rounds.get(&kind).map(Vec::as_slice).unwrap_or_default();
    Sample::of(
        rounds
            .iter()
            .map(|round| round.as_ref().ok().and_then(figure)),
    )
}

/// The rate of one server relative to the bare ring's, round by round.
fn share(rounds: &Rounds, kind: Kind) -> Sample {
    let rate = |kind| sample(rounds, kind, |round| Some(round.rate));
    rate(kind).over(&rate(Kind::BareRing))
}

/// All rounds, for whoever wants to look closer.
fn raw(measured: &[(Cell, Rounds)]) -> String {
    let mut text =
        String::from("cell,server,round,rate,cpu_us,user_us,p50_us,p99_us,busy,load,error\n");
    let optional = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.1}"));
    for (cell, rounds) in measured {
        for (kind, outcomes) in rounds {
            for (index, outcome) in outcomes.iter().enumerate() {
                let name = format!("\"{}\",{},{index}", cell.name, kind.name());
                let line = match outcome {
                    Ok(round) => format!(
                        "{name},{:.1},{:.4},{:.4},{},{},{:.3},{:.3},",
                        round.rate,
                        round.cpu_us,
                        round.user_us,
                        optional(round.p50_us),
                        optional(round.p99_us),
                        round.busy,
                        round.load,
                    ),
                    Err(error) => format!("{name},,,,,,,,\"{error}\""),
                };
                text.push_str(&line);
                text.push('\n');
            }
        }
    }
    text
}

/// The tables.
fn page(measured: &[(Cell, Rounds)]) -> String {
    let mut text = String::from("# Echo\n\n");
    text.push_str(&overview(measured));
    for (cell, rounds) in measured {
        write!(text, "\n## {}\n\n{}", cell.name, details(cell, rounds)).ok();
    }
    text
}

/// The rates relative to the bare ring, all cells side by side.
fn overview(measured: &[(Cell, Rounds)]) -> String {
    let mut head = vec!["rate, relative to the bare ring".to_owned()];
    head.extend(measured.iter().map(|(cell, _)| cell.name.clone()));
    head.push("geometric mean".to_owned());
    let mut table = Table::new(head);
    let mut kinds: Vec<Kind> = Vec::new();
    for (_, rounds) in measured {
        kinds.extend(
            rounds
                .keys()
                .filter(|kind| !kinds.contains(kind))
                .copied()
                .collect::<Vec<_>>(),
        );
    }
    for kind in kinds {
        let shares: Vec<Option<f64>> = measured
            .iter()
            .map(|(_, rounds)| share(rounds, kind).median())
            .collect();
        let known: Vec<f64> = shares.iter().flatten().copied().collect();
        let mut row = vec![kind.name()];
        row.extend(shares.iter().map(|share| number(*share, 2)));
        row.push(number(geometric_mean(&known), 3));
        table.row(row);
    }
    table.to_string()
}

/// All figures of one cell.
fn details(cell: &Cell, rounds: &Rounds) -> String {
    let unit = cell.unit();
    let mut table = Table::new([
        "server".to_owned(),
        format!("{unit}s/s"),
        "quartiles".to_owned(),
        "to bare ring".to_owned(),
        format!("CPU µs/{unit}"),
        "to bare ring".to_owned(),
        format!("user µs/{unit}"),
        "p50 µs".to_owned(),
        "p99 µs".to_owned(),
        "busy %".to_owned(),
        "load %".to_owned(),
        "limit".to_owned(),
        "failed".to_owned(),
    ]);
    for (&kind, outcomes) in rounds {
        let of = |figure: fn(&Round) -> Option<f64>| sample(rounds, kind, figure);
        let base = |figure: fn(&Round) -> Option<f64>| sample(rounds, Kind::BareRing, figure);
        let rate = of(|round| Some(round.rate)).spread();
        let cpu: fn(&Round) -> Option<f64> = |round| Some(round.cpu_us);
        let quartiles = rate.map(|rate| format!("{:.0} – {:.0}", rate.low, rate.high));
        table.row([
            kind.name(),
            number(rate.map(|rate| rate.median), 0),
            quartiles.unwrap_or_default(),
            ratio(share(rounds, kind).spread()),
            number(of(cpu).median(), 2),
            ratio(of(cpu).over(&base(cpu)).spread()),
            number(of(|round| Some(round.user_us)).median(), 3),
            number(of(|round| round.p50_us).median(), 0),
            number(of(|round| round.p99_us).median(), 0),
            number(of(|round| Some(round.busy * 100.0)).median(), 0),
            number(of(|round| Some(round.load * 100.0)).median(), 0),
            limit(rounds, kind).to_owned(),
            outcomes
                .iter()
                .filter(|round| round.is_err())
                .count()
                .to_string(),
        ]);
    }
    table.to_string()
}

/// What held the rate down. Where it was the load, rates are equal by nature, and the processor
/// time of a request is what to compare.
fn limit(rounds: &Rounds, kind: Kind) -> &'static str {
    let full = |figure: fn(&Round) -> Option<f64>| {
        sample(rounds, kind, figure)
            .median()
            .is_some_and(|share| share >= 0.95)
    };
    if full(|round| Some(round.busy)) {
        "server"
    } else if full(|round| Some(round.load)) {
        "load"
    } else {
        "neither"
    }
}

/// The rates relative to the bare ring, as points with their quartiles.
fn picture(measured: &[(Cell, Rounds)]) -> io::Result<String> {
    let mut points = Vec::new();
    for (place, (_, rounds)) in measured.iter().enumerate() {
        for &kind in rounds.keys() {
            if let Some(spread) = share(rounds, kind).spread() {
                points.push(Point {
                    series: kind.name(),
                    place,
                    spread,
                });
            }
        }
    }
    let names: Vec<String> = measured.iter().map(|(cell, _)| cell.name.clone()).collect();
    plot::points(
        "Echo rate, relative to the bare ring (higher is better)",
        &names,
        &points,
        false,
    )
}
