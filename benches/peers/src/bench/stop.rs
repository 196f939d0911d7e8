//! The stop: from SIGTERM to the last FIN and to the end of the process, as the clients see it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::time::Duration;

use serde_json::Value;

use crate::bench::page::{Table, number, ratio};
use crate::bench::plot::{self, Point};
use crate::bench::sample::Sample;
use crate::bench::{Progress, Setting};
use crate::load::crowd::{Crowd, Seen};
use crate::serve::{Kind, Mode, Plan};
use crate::sys;

/// Longer than any budget of a stop.
const LIMIT: Duration = Duration::from_secs(20);

/// Who is connected, and to how many cores.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Connections that wait.
    idle: usize,
    /// Connections that ask all the time.
    busy: usize,
    /// Whether the server has both processors, and the clients share them.
    both: bool,
}

/// One stop.
struct Round {
    /// What the clients saw.
    seen: Seen,
    /// What the server used from the trigger on.
    cpu: Duration,
    /// How it ended.
    code: i32,
    /// Each core's own phases, where the server tells.
    cores: Vec<String>,
}

/// The rounds of one case, by server.
type Rounds = BTreeMap<Kind, Vec<io::Result<Round>>>;

impl Case {
    /// All cases that the limit of descriptors allows.
    fn all(quick: bool, nofile: u64) -> Vec<Case> {
        let idle = [0, 500, 1_000, 10_000, 50_000].map(|idle| (idle, 0));
        let busy = [(0, 64), (0, 1_000), (10_000, 64)];
        let mut cases = Vec::new();
        for both in [false, true] {
            for (idle, busy) in idle.into_iter().chain(busy) {
                cases.push(Case { idle, busy, both });
            }
        }
        let most = if quick {
            10_000
        } else {
            (nofile as usize).saturating_sub(1_000)
        };
        cases.retain(|case| case.idle + case.busy <= most + 64);
        cases
    }

    /// Its name in tables.
    fn name(self) -> String {
        let cores = if self.both { "both cores" } else { "one core" };
        format!("{} idle and {} busy, {cores}", self.idle, self.busy)
    }

    /// Whether this server takes part: `ANY|ALL` is quadratic, so it is measured where that does no
    /// harm, and nowhere else.
    fn takes(self, kind: Kind) -> bool {
        let harmless = matches!(self.idle, 500 | 1_000) && self.busy == 0 && !self.both;
        kind != Kind::BareRingAny || harmless
    }

    /// One stop of one server.
    fn measure(self, kind: Kind, setting: &Setting) -> io::Result<Round> {
        let plan = Plan {
            cpus: setting.cpus(self.both),
            mode: Mode::Echo,
            graceful: true,
            alone: false,
        };
        let mut server = setting.start(kind, &plan, &[])?;
        let mut crowd = Crowd::connect(server.port, self.idle, self.busy)?;
        // The last connects are old by then: a stop right after one waits for its window.
        crowd.warm(Duration::from_millis(1_200))?;
        let before = server.usage()?;
        let seen = crowd.watch_stop(server.pid(), LIMIT)?;
        let end = server.wait(Duration::from_secs(1))?;
        Ok(Round {
            seen,
            cpu: Duration::from_micros(end.usage.since(before).total_us()),
            code: end.code,
            cores: end.lines.iter().flat_map(|line| cores(line)).collect(),
        })
    }
}

/// Each core's phases, from the line with the report.
fn cores(line: &str) -> Vec<String> {
    let Some(json) = line.strip_prefix("report ") else {
        return Vec::new();
    };
    let Ok(report) = serde_json::from_str::<Value>(json) else {
        return Vec::new();
    };
    let core = |core: &Value| {
        let phases = core["phases"].as_array().into_iter().flatten();
        let spans = phases.map(|phase| {
            let [start, end] = ["start_ms", "end_ms"].map(|key| phase[key].as_f64().unwrap_or(0.0));
            format!(
                "{} {start:.1}–{end:.1}",
                phase["name"].as_str().unwrap_or("?")
            )
        });
        let spans: Vec<String> = spans.collect();
        format!("core {}: {}", core["core"], spans.join(", "))
    };
    let list = report["cores"].as_array().into_iter().flatten();
    list.map(core).collect()
}

/// Measures, prints, and keeps `stop.md` and `stop.svg`.
pub fn run(setting: &Setting, only: &[String]) -> io::Result<()> {
    let nofile = sys::raise_nofile(200_000)?;
    let mut setting = setting.clone();
    if setting.kinds == Kind::ALL {
        setting.kinds.push(Kind::BareRingAny);
    }
    let mut cases = Case::all(setting.quick, nofile);
    cases.retain(|case| only.is_empty() || only.iter().any(|part| case.name().contains(part)));
    let takes = |case: &Case| {
        setting
            .kinds
            .iter()
            .filter(|kind| case.takes(**kind))
            .count()
    };
    let total = cases.iter().map(takes).sum::<usize>() * setting.rounds;
    // Connecting, the wait, the stop at its worst.
    let bound = Duration::from_secs(8) + LIMIT;
    let mut progress = Progress::begin("stop", total, bound);
    let mut measured = Vec::new();
    for case in cases {
        let mut rounds = Rounds::new();
        for round in 0..setting.rounds {
            for kind in setting.order(round) {
                if !case.takes(kind) {
                    continue;
                }
                let outcome = case.measure(kind, &setting);
                let text = match &outcome {
                    Ok(round) => format!("{:.1} ms", millis(round.seen.last_end)),
                    Err(error) => error.to_string(),
                };
                progress.step(&format!("{}: {} {text}", case.name(), kind.name()));
                rounds.entry(kind).or_default().push(outcome);
            }
        }
        measured.push((case, rounds));
        setting.keep("stop.md", &page(&measured))?;
    }
    progress.end();
    println!("{}", page(&measured));
    setting.keep("stop.svg", &picture(&measured)?)
}

/// A duration in ms.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
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

/// When it was over for the clients; with none, for the process.
fn over(round: &Round) -> Option<f64> {
    let clients = round.seen.finished + round.seen.reset;
    match (clients, round.seen.exit) {
        (0, exit) => exit.map(millis),
        _ => Some(millis(round.seen.last_end)),
    }
}

/// The tables.
fn page(measured: &[(Case, Rounds)]) -> String {
    let mut text = String::from("# Stop\n");
    for (case, rounds) in measured {
        write!(text, "\n## {}\n\n{}", case.name(), details(*case, rounds)).ok();
        let told = rounds.values().flatten().rev().flatten();
        if let Some(round) = told.into_iter().find(|round| !round.cores.is_empty()) {
            write!(
                text,
                "\nThe cores of the last stop, in ms: {}.\n",
                round.cores.join("; ")
            )
            .ok();
        }
    }
    text
}

/// All figures of one case.
fn details(case: Case, rounds: &Rounds) -> String {
    let head = [
        "server",
        "last end ms",
        "to bare epoll",
        "exit ms",
        "CPU ms",
        "longest wait ms",
        "reset",
        "torn",
        "lost",
        "left",
        "exit codes",
    ];
    let mut table = Table::new(head.map(String::from));
    for (&kind, outcomes) in rounds {
        let of = |figure: fn(&Round) -> Option<f64>| sample(rounds, kind, figure);
        let base = sample(rounds, Kind::BareEpoll, over);
        let sum = |figure: fn(&Seen) -> u64| {
            let seen = outcomes.iter().flatten().map(|round| figure(&round.seen));
            seen.sum::<u64>().to_string()
        };
        let mut codes: Vec<String> = outcomes
            .iter()
            .map(|round| {
                round
                    .as_ref()
                    .map_or("failed".to_owned(), |round| round.code.to_string())
            })
            .collect();
        codes.sort();
        codes.dedup();
        let last_end: fn(&Round) -> Option<f64> = |round| Some(millis(round.seen.last_end));
        let longest: fn(&Round) -> Option<f64> = |round| Some(millis(round.seen.longest_wait));
        let no_clients = case.idle + case.busy == 0;
        table.row([
            kind.name(),
            number(of(last_end).median().filter(|_| !no_clients), 2),
            ratio(of(over).over(&base).spread()),
            number(of(|round| round.seen.exit.map(millis)).median(), 2),
            number(of(|round| Some(millis(round.cpu))).median(), 2),
            number(of(longest).median().filter(|_| case.busy > 0), 2),
            sum(|seen| seen.reset),
            sum(|seen| seen.torn),
            sum(|seen| seen.lost),
            sum(|seen| seen.left),
            codes.join(" "),
        ]);
    }
    table.to_string()
}

/// The time to the last end, on a logarithmic axis.
fn picture(measured: &[(Case, Rounds)]) -> io::Result<String> {
    let mut points = Vec::new();
    for (place, (_, rounds)) in measured.iter().enumerate() {
        for &kind in rounds.keys() {
            if let Some(spread) = sample(rounds, kind, over).spread() {
                points.push(Point {
                    series: kind.name(),
                    place,
                    spread,
                });
            }
        }
    }
    let name = |case: &Case| {
        let cores = if case.both { "both cores" } else { "one core" };
        format!("{} idle, {} busy, {cores}", case.idle, case.busy)
    };
    let names: Vec<String> = measured.iter().map(|(case, _)| name(case)).collect();
    plot::points(
        "Stop: ms from SIGTERM to the last FIN (lower is better)",
        &names,
        &points,
        true,
    )
}
