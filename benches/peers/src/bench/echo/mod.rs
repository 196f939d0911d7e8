//! The echo matrix.

pub mod cell;
mod page;
pub mod versus;

use std::io;
use std::time::Duration;

use crate::bench::book::Book;
use crate::bench::{Progress, Setting, goals, names_of};
use crate::serve::Kind;
use crate::sys;
use cell::{Cell, FIGURES};

/// The kept figures.
pub fn book(setting: &Setting) -> io::Result<Book> {
    Book::open(&setting.path("echo.csv"), &FIGURES)
}

/// Measures, prints, and keeps `echo.csv`, `echo.md` and the pictures.
pub fn run(setting: &Setting) -> io::Result<()> {
    sys::raise_nofile(200_000)?;
    let mut book = book(setting)?;
    let all = Cell::all();
    let names: Vec<String> = all.iter().map(|cell| cell.name.clone()).collect();
    let chosen = setting.chosen(&names)?;
    let cells: Vec<&Cell> = all
        .iter()
        .filter(|cell| chosen.contains(&cell.name))
        .collect();
    let total = cells.len() * setting.rounds * setting.kinds.len();
    // Besides the measurement, which is taken twice beside a stream: the start, up to 10,100
    // connects, and the warm-up.
    let bound = setting.length.mul_f64(2.4) + Duration::from_secs(3);
    let mut progress = Progress::begin("echo", total, bound);
    for cell in cells {
        let mut outcomes = Vec::new();
        for round in 0..setting.rounds {
            for kind in setting.order(round) {
                let outcome = cell.measure(kind, setting);
                let rate = match &outcome {
                    Ok(round) => format!("{:.0}/s", round.rate),
                    Err(error) => error.to_string(),
                };
                progress.step(&format!("{}: {} {rate}", cell.name, kind.name()));
                outcomes.push((kind, round, outcome));
            }
        }
        book.forget(&cell.name);
        for (kind, round, outcome) in outcomes {
            let values = outcome.map(|round| (round.values(), String::new()));
            let values = values.map_err(|error| error.to_string());
            book.add(&cell.name, &kind.name(), round, values);
        }
        book.arrange(&names, &names_of(&Kind::ALL));
        // After each cell, so that an interrupted bench leaves what it has.
        setting.keep("echo.csv", &book.text())?;
    }
    progress.end();
    pages(setting)?;
    print!("{}", page::chosen(&book, &chosen));
    Ok(())
}

/// Makes the tables and pictures from what is kept.
pub fn pages(setting: &Setting) -> io::Result<()> {
    let book = book(setting)?;
    let calls = super::syscalls::book(setting)?;
    setting.keep("echo.md", &page::all(&book, &calls))?;
    setting.keep("echo.svg", &page::rates(&book)?)?;
    goals::run(setting)
}
