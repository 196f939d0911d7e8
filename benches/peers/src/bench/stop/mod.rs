//! The stop: from SIGTERM to the last FIN and to the end of the process, as the clients see it.

mod page;
mod told;

use std::io;
use std::time::Duration;

use crate::bench::book::Book;
use crate::bench::{Progress, Setting, goals, names_of};
use crate::load::crowd::Crowd;
use crate::serve::{Kind, Mode, Plan};
use crate::sys;
use told::Told;

/// Longer than any budget of a stop.
const LIMIT: Duration = Duration::from_secs(20);

/// The names of the figures in the kept file; all times in ms from just before SIGTERM is sent.
const FIGURES: [&str; 14] = [
    // When it was over for the clients; with none, for the process.
    "over_ms",
    // The last connection's end.
    "last_end_ms",
    // The process's end.
    "exit_ms",
    // When the server's `run` returned.
    "returned_ms",
    // The same, as evenfall's own report has it.
    "report_ms",
    // What the server used.
    "cpu_ms",
    // How long a busy connection waited at most.
    "wait_ms",
    // The longest turn, where the server tells.
    "turn_ms",
    "finished",
    "reset",
    "torn",
    "lost",
    "left",
    "code",
];

/// Who is connected, and to how many cores.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Connections that wait.
    idle: usize,
    /// Connections that ask all the time.
    busy: usize,
    /// Whether the server has both processors, and the clients share them.
    both: bool,
}

impl Case {
    /// All cases. The largest is 50,000 idle connections, or as many thousands as the limit of
    /// descriptors allows, of which a server and the clients each need one for a connection.
    pub fn all(nofile: u64) -> Vec<Case> {
        let most = (nofile as usize / 1_000).saturating_sub(1) * 1_000;
        let who = [
            (0, 0),
            (500, 0),
            (1_000, 0),
            (10_000, 0),
            (most.min(50_000), 0),
            (0, 64),
            (0, 1_000),
        ];
        let mut cases = Vec::new();
        for both in [false, true] {
            for (idle, busy) in who {
                cases.push(Case { idle, busy, both });
            }
        }
        // There only for the comparison with `ANY|ALL`.
        cases.retain(|case| case.idle != 500 || !case.both);
        // Where the limit is low, the largest may be one of the others.
        cases.dedup_by_key(|case| (case.idle, case.busy, case.both));
        cases
    }

    /// Its name in tables.
    pub fn name(self) -> String {
        let cores = if self.both { "both cores" } else { "one core" };
        format!("{} idle and {} busy, {cores}", self.idle, self.busy)
    }

    /// Whether the limit of descriptors allows it.
    fn fits(self, nofile: u64) -> bool {
        self.idle + self.busy + 100 <= nofile as usize
    }

    /// Whether this server takes part. `ANY|ALL` is quadratic, so it is measured where that does no
    /// harm, and nowhere else; 500 are there for that comparison alone.
    fn takes(self, kind: Kind) -> bool {
        let harmless = matches!(self.idle, 500 | 1_000) && self.busy == 0 && !self.both;
        match kind {
            Kind::BareRingAny => harmless,
            Kind::BareRing | Kind::BareEpoll | Kind::Evenfall => true,
            _ => self.idle != 500,
        }
    }

    /// One stop of one server.
    fn measure(self, kind: Kind, setting: &Setting) -> io::Result<(Vec<Option<f64>>, String)> {
        let plan = Plan {
            cpus: setting.cpus(self.both),
            mode: Mode::Echo,
            graceful: true,
            alone: false,
        };
        let mut server = setting.start(kind, &plan, &[])?;
        let mut crowd = Crowd::connect(server.port, self.idle, self.busy)?;
        // The last connects are old by then: a stop right after one waits for its window.
        let warm_up = Duration::from_millis(1_200);
        crowd.warm(warm_up.max(kind.warm_up(warm_up)))?;
        let before = server.usage()?;
        let seen = crowd.watch_stop(server.pid(), LIMIT)?;
        let end = server.wait(Duration::from_secs(1))?;
        let told = Told::of(&end.lines);
        let clients = seen.finished + seen.reset;
        let last_end = Some(millis(seen.last_end)).filter(|_| clients > 0);
        let exit = seen.exit.map(millis);
        let returned = told
            .returned_ns
            .map(|at| at.saturating_sub(seen.trigger_ns));
        let used = Duration::from_micros(end.usage.since(before).total_us());
        let count = |count: u64| Some(count as f64);
        let values = vec![
            last_end.or(exit),
            last_end,
            exit,
            returned.map(|ns| ns as f64 / 1e6),
            told.elapsed_ms,
            Some(millis(used)),
            Some(millis(seen.longest_wait)).filter(|_| self.busy > 0),
            told.turn_ms,
            count(seen.finished),
            count(seen.reset),
            count(seen.torn),
            count(seen.lost),
            count(seen.left),
            Some(f64::from(end.code)),
        ];
        Ok((values, told.cores))
    }
}

/// The kept figures.
pub fn book(setting: &Setting) -> io::Result<Book> {
    Book::open(&setting.path("stop.csv"), &FIGURES)
}

/// Measures, prints, and keeps `stop.csv`, `stop.md` and `stop.svg`.
pub fn run(setting: &Setting) -> io::Result<()> {
    let nofile = sys::raise_nofile(200_000)?;
    let mut setting = setting.clone();
    if setting.kinds == Kind::here() {
        setting.kinds.push(Kind::BareRingAny);
    }
    let mut book = book(&setting)?;
    let all = Case::all(nofile);
    let names: Vec<String> = all.iter().map(|case| case.name()).collect();
    let chosen = setting.chosen(&names)?;
    let mut cases = all;
    cases.retain(|case| chosen.contains(&case.name()));
    for case in &cases {
        if !case.fits(nofile) {
            eprintln!(
                "{}: left out, {nofile} descriptors are too few",
                case.name()
            );
        }
    }
    cases.retain(|case| case.fits(nofile) && (!setting.quick || case.idle <= 10_000));
    let takes = |case: &Case| {
        let kinds = setting.kinds.iter();
        kinds.filter(|kind| case.takes(**kind)).count()
    };
    let total = cases.iter().map(takes).sum::<usize>() * setting.rounds;
    // Connecting, the wait, the stop at its worst.
    let bound = Duration::from_secs(8) + LIMIT;
    let mut progress = Progress::begin("stop", total, bound);
    for case in cases {
        let mut outcomes = Vec::new();
        for round in 0..setting.rounds {
            for kind in setting.order(round) {
                if !case.takes(kind) {
                    continue;
                }
                let outcome = case.measure(kind, &setting);
                let text = match &outcome {
                    Ok((values, _)) => format!("{:.1} ms", values[0].unwrap_or(f64::NAN)),
                    Err(error) => error.to_string(),
                };
                progress.step(&format!("{}: {} {text}", case.name(), kind.name()));
                outcomes.push((kind, round, outcome.map_err(|error| error.to_string())));
            }
        }
        book.forget(&case.name());
        for (kind, round, outcome) in outcomes {
            book.add(&case.name(), &kind.name(), round, outcome);
        }
        book.arrange(&names, &names_of(&Kind::ALL));
        setting.keep("stop.csv", &book.text())?;
    }
    progress.end();
    pages(&setting)?;
    print!("{}", page::tables(&book, &chosen));
    Ok(())
}

/// Makes the tables and the picture from what is kept.
pub fn pages(setting: &Setting) -> io::Result<()> {
    let book = book(setting)?;
    let text = format!("# Stop\n{}", page::tables(&book, &book.cells()));
    setting.keep("stop.md", &text)?;
    setting.keep("stop.svg", &page::picture(&book)?)?;
    goals::run(setting)
}

/// A duration in ms.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
