//! The table of the micro bench, from what criterion has written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bench::book::Book;
use crate::bench::page::{Table, number};
use crate::bench::{Setting, goals};

/// The names of the figures in the kept file.
const FIGURES: [&str; 3] = ["median_ns", "from_ns", "to_ns"];

/// The kept figures: each part is a cell of its own, without a server.
pub fn book(setting: &Setting) -> io::Result<Book> {
    Book::open(&setting.path("micro.csv"), &FIGURES)
}

/// Reads criterion's estimates, prints, and keeps `micro.csv` and `micro.md`.
pub fn run(setting: &Setting, estimates: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    collect(estimates, &mut found)?;
    found.sort();
    // All of criterion's, as it keeps those that were not run again too.
    let mut book = Book::parse("", &FIGURES);
    for place in &found {
        let names = read(&place.join("benchmark.json"))?;
        let estimates = read(&place.join("estimates.json"))?;
        let median = &estimates["median"];
        let bounds = &median["confidence_interval"];
        let values = [
            &median["point_estimate"],
            &bounds["lower_bound"],
            &bounds["upper_bound"],
        ];
        let part = names["full_id"].as_str().unwrap_or("?");
        let values = values.map(Value::as_f64).to_vec();
        book.add(part, "", 0, Ok((values, String::new())));
    }
    let alternated = Book::open(&estimates.join("alternated.csv"), &FIGURES)?;
    for part in alternated.cells() {
        for server in alternated.servers(&part) {
            for row in alternated.rows(&part, &server) {
                let outcome = Ok((row.values.clone(), String::new()));
                book.add(&part, &server, row.round, outcome);
            }
        }
    }
    setting.keep("micro.csv", &book.text())?;
    let text = page(&book);
    println!("{text}");
    setting.keep("micro.md", &text)?;
    goals::run(setting)
}

/// The table.
fn page(book: &Book) -> String {
    let head = ["part", "median ns", "from", "to"];
    let mut table = Table::new(head.map(String::from));
    for part in book.cells() {
        for server in book.servers(&part) {
            let median = book.sample(&part, &server, FIGURES[0]).spread();
            let median_of = |name: &str| book.sample(&part, &server, name).median();
            let [from, to] = match median {
                // Criterion's own; of rounds, the quartiles.
                Some(_) if server.is_empty() => [median_of(FIGURES[1]), median_of(FIGURES[2])],
                spread => [
                    spread.map(|spread| spread.low),
                    spread.map(|spread| spread.high),
                ],
            };
            let name = [part.as_str(), &server].join("/");
            let name = name.trim_end_matches('/').to_owned();
            let median = median.map(|spread| spread.median);
            table.row([name, number(median, 1), number(from, 1), number(to, 1)]);
        }
    }
    format!(
        "# Micro\n\nMedians with their intervals of confidence, as criterion gives them; a group \
         of 64 or 1,000 is the time of all. Of the letter round trip, medians and quartiles of \
         rounds that alternate.\n\n{table}"
    )
}

/// The folders with the newest estimates.
fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        if path.ends_with("new") && path.join("estimates.json").exists() {
            found.push(path);
        } else {
            collect(&path, found)?;
        }
    }
    Ok(())
}

/// One file of criterion's.
fn read(path: &Path) -> io::Result<Value> {
    let text = fs::read_to_string(path)?;
    serde_json::from_str(&text).map_err(io::Error::other)
}
