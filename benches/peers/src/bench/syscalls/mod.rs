//! System calls of an echo on the server's side, and of a letter on its sender's.

mod counter;
mod letters;

use std::io;
use std::time::Duration;

use crate::bench::book::Book;
use crate::bench::page::{Table, number};
use crate::bench::{Progress, Setting, goals, names_of};
use crate::load::closed::{Closed, Spec};
use crate::serve::{Kind, Mode, Plan};
use counter::{Counter, Whom};

/// The cells, which are the echo matrix's, and their connections.
pub const CELLS: [(&str, usize); 2] = [("64 B × 1", 1), ("64 B × 64", 64)];

/// The names of the figures in the kept file.
const FIGURES: [&str; 2] = ["calls", "requests"];

/// The cell of the letters to a core that never sleeps.
pub const LETTERS: &str = "letter to a busy core";

/// The kept figures.
pub fn book(setting: &Setting) -> io::Result<Book> {
    Book::open(&setting.path("syscalls.csv"), &FIGURES)
}

/// Counts, prints, and keeps `syscalls.csv` and `syscalls.md`.
pub fn run(setting: &Setting) -> io::Result<()> {
    let mut book = book(setting)?;
    let mut names = CELLS.map(|(name, _)| name.to_owned()).to_vec();
    names.push(LETTERS.to_owned());
    let Some(counter) = Counter::here() else {
        println!("Neither perf nor strace can count system calls here.");
        return Ok(());
    };
    let total = (CELLS.len() * setting.kinds.len() + 1) * setting.rounds;
    let bound = setting.length.mul_f64(1.2) + Duration::from_secs(3);
    let mut progress = Progress::begin("syscalls", total, bound);
    for (name, active) in CELLS {
        book.forget(name);
        for round in 0..setting.rounds {
            for kind in setting.order(round) {
                let counted = count(kind, setting, counter, active);
                progress.step(&format!("{name}: {} {counted:?}", kind.name()));
                book.add(name, &kind.name(), round, values(counted, counter));
            }
        }
        book.arrange(&names, &names_of(&Kind::ALL));
        setting.keep("syscalls.csv", &book.text())?;
    }
    book.forget(LETTERS);
    for round in 0..setting.rounds {
        let counted = letters::count(setting, counter);
        progress.step(&format!("{LETTERS}: {counted:?}"));
        let ours = Kind::Evenfall.name();
        book.add(LETTERS, &ours, round, values(counted, counter));
    }
    book.arrange(&names, &names_of(&Kind::ALL));
    setting.keep("syscalls.csv", &book.text())?;
    progress.end();
    let text = page(&book);
    println!("{text}");
    setting.keep("syscalls.md", &text)?;
    super::echo::pages(setting)?;
    goals::run(setting)
}

/// Calls, and what they were made for, as the book has them.
fn values(
    counted: io::Result<(u64, u64)>,
    counter: Counter,
) -> Result<(Vec<Option<f64>>, String), String> {
    let (calls, requests) = counted.map_err(|error| error.to_string())?;
    let (calls, requests) = (calls as f64, requests as f64);
    let note = format!("{counter:?}").to_lowercase();
    Ok((vec![Some(calls / requests), Some(requests)], note))
}

/// The table, and the letters.
fn page(book: &Book) -> String {
    let mut head = vec!["system calls a request".to_owned()];
    head.extend(CELLS.map(|(name, _)| name.to_owned()));
    head.extend(CELLS.map(|(name, _)| format!("requests a call, {name}")));
    head.push("counted by".to_owned());
    let mut table = Table::new(head);
    for server in book.servers(CELLS[0].0) {
        let calls = CELLS.map(|(name, _)| book.sample(name, &server, "calls").median());
        let mut row = vec![server.clone()];
        row.extend(calls.map(|calls| number(calls, 3)));
        row.extend(calls.map(|calls| number(calls.map(|calls| 1.0 / calls), 1)));
        let notes = book.rows(CELLS[0].0, &server).map(|row| row.note.clone());
        row.push(notes.last().unwrap_or_default());
        table.row(row);
    }
    let origin = book.origin(CELLS[0].0);
    let letter = book.sample(LETTERS, &Kind::Evenfall.name(), "calls");
    let letter = number(letter.median(), 5);
    format!("# System calls\n\n{origin}\n\n{table}\nA {LETTERS} takes its sender {letter} calls.\n")
}

/// The calls and the requests of one run.
fn count(kind: Kind, setting: &Setting, counter: Counter, active: usize) -> io::Result<(u64, u64)> {
    let plan = Plan {
        cpus: setting.cpus(false),
        mode: Mode::Echo,
        graceful: false,
        alone: false,
    };
    let server = setting.start(kind, &plan, &[])?;
    let spec = Spec {
        active,
        idle: 0,
        size: 64,
        depth: 1,
    };
    let mut load = Closed::connect(server.port, &spec)?;
    load.run(kind.warm_up(setting.length), u64::MAX)?;
    // The counter gives no sign when it has begun. Nothing is asked of the server meanwhile, and a server
    // that sleeps calls nothing, so what is counted before the load is nothing.
    let (calls, tally) = counter.around(Whom::Process(server.pid()), || {
        load.run(setting.length, u64::MAX)
    })?;
    Ok((calls, tally.requests))
}
