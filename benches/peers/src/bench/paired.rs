//! evenfall between the two bare loops, closely paired.
//!
//! What a shared machine has for one measurement of a second it may not have for the next. Here the
//! servers of a round live at the same time, and each in its turn gets a slice of a tenth of a
//! second, from rest to rest, while the others sleep. A round's figure is that of all its slices;
//! each round has new processes. In the whole matrix a ratio's quartiles are some 15 % apart from its
//! median, here 3 %.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use crate::bench::book::Book;
use crate::bench::echo::cell::{Cell, Work};
use crate::bench::echo::versus::{self, Better, OURS};
use crate::bench::page::{Table, number, ratio};
use crate::bench::{Progress, Setting, goals, names_of};
use crate::child::Server;
use crate::load::closed::Closed;
use crate::load::stream::Streams;
use crate::serve::{Kind, Mode, Plan};
use crate::sys::{self, Usage};

/// How long a server is under load before it is another's turn.
const SLICE: Duration = Duration::from_millis(100);

/// More than so many connections at once are not held open: the servers follow each other then.
const CONNECTIONS_MOST: usize = 16_000;

/// The names of a round's figures in the kept file.
const FIGURES: [&str; 5] = ["rate", "cpu_us", "user_us", "busy", "load"];

/// The kept figures.
pub fn book(setting: &Setting) -> io::Result<Book> {
    Book::open(&setting.path("paired.csv"), &FIGURES)
}

/// Measures, prints, and keeps `paired.csv` and `paired.md`.
pub fn run(setting: &Setting) -> io::Result<()> {
    sys::raise_nofile(200_000)?;
    let mut setting = setting.clone();
    setting
        .kinds
        .retain(|kind| *kind == Kind::Evenfall || versus::is_bare(&kind.name()));
    let mut book = book(&setting)?;
    let mut all = Cell::all();
    all.retain(|cell| Cell::compares(&cell.name));
    let names: Vec<String> = all.iter().map(|cell| cell.name.clone()).collect();
    let chosen = setting.chosen(&names)?;
    let cells = all.iter().filter(|cell| chosen.contains(&cell.name));
    let total = chosen.len() * setting.rounds;
    // Besides the slices: the starts, up to 10,100 connects, the warm-ups, and what is under way
    // at the end of a slice.
    let each = setting.length.mul_f64(1.5) + Duration::from_secs(2);
    let bound = each * setting.kinds.len() as u32;
    let mut progress = Progress::begin("paired", total, bound);
    for cell in cells {
        book.forget(&cell.name);
        for round in 0..setting.rounds {
            let kinds = setting.order(round);
            let groups = match cell.connections() * kinds.len() {
                ..=CONNECTIONS_MOST => vec![kinds],
                _ => kinds.into_iter().map(|kind| vec![kind]).collect(),
            };
            let mut words = String::new();
            for group in groups {
                for (kind, outcome) in measure(cell, &group, &setting)? {
                    let name = kind.name();
                    match &outcome {
                        Ok(values) => write!(words, " {name} {:.0}/s", values[0]).ok(),
                        Err(error) => write!(words, " {name} {error}").ok(),
                    };
                    let values = outcome.map(|values| (values.map(Some).to_vec(), String::new()));
                    let values = values.map_err(|error| error.to_string());
                    book.add(&cell.name, &name, round, values);
                }
            }
            progress.step(&format!("{}:{words}", cell.name));
        }
        book.arrange(&names, &names_of(&Kind::ALL));
        // After each cell, so that an interrupted bench leaves what it has.
        setting.keep("paired.csv", &book.text())?;
    }
    progress.end();
    pages(&setting)?;
    print!("{}", page(&book));
    Ok(())
}

/// Makes the table from what is kept.
pub fn pages(setting: &Setting) -> io::Result<()> {
    let book = book(setting)?;
    if book.cells().is_empty() {
        return Ok(());
    }
    setting.keep("paired.md", &page(&book))?;
    goals::run(setting)
}

/// What is put on a server.
enum Load {
    /// Requests and replies.
    Closed(Box<Closed>),
    /// One way; a request is a MiB.
    Streams(Box<Streams>),
}

/// A server, its load, and what the slices gave up to now.
struct Lane {
    server: Server,
    load: Load,
    requests: f64,
    elapsed: Duration,
    load_us: u64,
}

impl Lane {
    /// Starts a server, and leaves it at rest, and warm.
    fn start(kind: Kind, cell: &Cell, setting: &Setting) -> io::Result<Lane> {
        let plan = Plan {
            cpus: setting.cpus(cell.both),
            mode: match cell.work {
                Work::Stream(_) => Mode::Sink,
                Work::Closed(_) | Work::Beside(_) => Mode::Echo,
            },
            graceful: false,
            alone: false,
        };
        let server = setting.start(kind, &plan, &[])?;
        let warm_up = kind.warm_up(setting.length);
        let load = match cell.work {
            Work::Closed(spec) | Work::Beside(spec) => {
                let mut load = Closed::connect(server.port, &spec)?;
                load.run(warm_up, u64::MAX)?;
                load.rest()?;
                Load::Closed(Box::new(load))
            }
            Work::Stream(count) => {
                let mut load = Streams::connect(server.port, count)?;
                load.run(warm_up)?;
                load.rest()?;
                Load::Streams(Box::new(load))
            }
        };
        Ok(Lane {
            server,
            load,
            requests: 0.0,
            elapsed: Duration::ZERO,
            load_us: 0,
        })
    }

    /// One slice.
    fn slice(&mut self) -> io::Result<()> {
        let (requests, elapsed, used) = match &mut self.load {
            Load::Closed(load) => {
                let tally = load.slice(SLICE)?;
                (tally.requests as f64, tally.elapsed, tally.load)
            }
            Load::Streams(load) => {
                let flow = load.slice(SLICE)?;
                (
                    flow.bytes as f64 / f64::from(1 << 20),
                    flow.elapsed,
                    flow.load,
                )
            }
        };
        self.requests += requests;
        self.elapsed += elapsed;
        self.load_us += used.total_us();
        Ok(())
    }

    /// The figures of all slices, of which the server used so much.
    fn end(self, used: Usage, cores: f64) -> io::Result<[f64; FIGURES.len()]> {
        if let Load::Streams(load) = self.load {
            load.finish()?;
        }
        let elapsed_us = self.elapsed.as_secs_f64() * 1e6;
        Ok([
            self.requests / elapsed_us * 1e6,
            used.total_us() as f64 / self.requests,
            used.user_us as f64 / self.requests,
            used.total_us() as f64 / elapsed_us / cores,
            self.load_us as f64 / elapsed_us,
        ])
    }
}

/// What became of a server's round.
type Outcome = io::Result<[f64; FIGURES.len()]>;

/// One round of these servers, side by side.
fn measure(cell: &Cell, kinds: &[Kind], setting: &Setting) -> io::Result<Vec<(Kind, Outcome)>> {
    let mut lanes = Vec::new();
    for &kind in kinds {
        lanes.push((kind, Lane::start(kind, cell, setting)));
    }
    let mut before = Vec::new();
    for (_, lane) in &mut lanes {
        before.push(match lane {
            Ok(lane) => lane.server.usage()?,
            Err(_) => Usage::default(),
        });
    }
    let slices = setting.length.as_nanos().div_ceil(SLICE.as_nanos()) as usize;
    for slice in 0..slices {
        for place in 0..lanes.len() {
            // Forwards and backwards in turn, so that nobody always follows the same one.
            let place = match slice % 2 {
                0 => place,
                _ => lanes.len() - 1 - place,
            };
            let lane = &mut lanes[place].1;
            if let Ok(running) = lane
                && let Err(error) = running.slice()
            {
                *lane = Err(error);
            }
        }
    }
    let cores = if cell.both { 2.0 } else { 1.0 };
    let mut outcomes = Vec::new();
    for ((kind, lane), before) in lanes.into_iter().zip(before) {
        let outcome = lane.and_then(|mut lane| {
            let used = lane.server.usage()?.since(before);
            lane.end(used, cores)
        });
        outcomes.push((kind, outcome));
    }
    Ok(outcomes)
}

/// The table.
fn page(book: &Book) -> String {
    let head = [
        "cell",
        "requests/s: bare ring",
        "bare epoll",
        OURS,
        "to the better loop",
        "CPU µs: bare ring",
        "bare epoll",
        OURS,
        "to the better loop",
        "user µs: bare ring",
        "bare epoll",
        OURS,
        "measured",
    ];
    let mut table = Table::new(head.map(String::from));
    let servers = names_of(&[Kind::BareRing, Kind::BareEpoll, Kind::Evenfall]);
    for cell in book.cells() {
        let mut row = vec![cell.clone()];
        for (figure, better, digits) in [
            ("rate", Some(Better::More), 0),
            ("cpu_us", Some(Better::Less), 2),
            ("user_us", None, 3),
        ] {
            let medians = servers
                .iter()
                .map(|server| book.sample(&cell, server, figure).median());
            row.extend(medians.map(|median| number(median, digits)));
            if let Some(better) = better {
                row.push(ratio(versus::to_loop(book, &cell, figure, OURS, better)));
            }
        }
        row.push(book.origin(&cell).trim_end_matches('.').to_owned());
        table.row(row);
    }
    format!(
        "# evenfall between the bare loops\n\nIn slices of a tenth of a second, which alternate \
         between servers that live at the same time; a request of a stream is a MiB.\n\n{table}"
    )
}
