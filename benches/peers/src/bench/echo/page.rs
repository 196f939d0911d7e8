//! The echo matrix's tables and picture.

use std::fmt::Write;
use std::io;

use crate::bench::book::Book;
use crate::bench::echo::cell::{BESIDE, Cell};
use crate::bench::echo::versus::{self, Better};
use crate::bench::page::{Table, number, ratio};
use crate::bench::plot::{self, Chart, Point, Scale};
use crate::serve::Kind;

/// All of it; `calls` is the book of system calls.
pub fn all(book: &Book, calls: &Book) -> String {
    let mut text = String::from("# Echo\n\n");
    text.push_str(&overview(book));
    for cell in book.cells() {
        let table = details(book, calls, &cell);
        write!(text, "\n## {cell}\n\n{}\n\n{table}", book.origin(&cell)).ok();
    }
    text
}

/// The cells of this run, for the terminal.
pub fn chosen(book: &Book, cells: &[String]) -> String {
    let mut text = String::new();
    let none = Book::parse("", &["calls"]);
    for cell in cells {
        write!(text, "\n{cell}\n\n{}", details(book, &none, cell)).ok();
    }
    text
}

/// The rates relative to the bare ring, all cells side by side.
fn overview(book: &Book) -> String {
    let cells = book.cells();
    let mut head = vec!["rate, relative to the bare ring".to_owned()];
    head.extend(cells.clone());
    head.push("geometric mean".to_owned());
    let mut table = Table::new(head);
    let mut servers: Vec<String> = Vec::new();
    for server in cells.iter().flat_map(|cell| book.servers(cell)) {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    let ring = Kind::BareRing.name();
    for server in servers {
        let share = |cell: &String| versus::paired(book, cell, "rate", &server, &ring);
        let shares: Vec<Option<f64>> = cells
            .iter()
            .map(|cell| share(cell).map(|spread| spread.median))
            .collect();
        let mut row = vec![server.clone()];
        row.extend(shares.iter().map(|share| number(*share, 2)));
        row.push(number(versus::mean_rate(book, &server), 3));
        table.row(row);
    }
    table.to_string()
}

/// All figures of one cell.
fn details(book: &Book, calls: &Book, cell: &str) -> String {
    let unit = Cell::unit(cell);
    let mut head = vec![
        "server".to_owned(),
        format!("{unit}s/s"),
        "quartiles".to_owned(),
        "to better bare".to_owned(),
        format!("CPU µs/{unit}"),
        "to better bare".to_owned(),
        format!("user µs/{unit}"),
        "p50 µs".to_owned(),
        "p99 µs".to_owned(),
        "to best framework".to_owned(),
        "busy %".to_owned(),
        "load %".to_owned(),
        "limit".to_owned(),
        "failed".to_owned(),
    ];
    let called = !calls.servers(cell).is_empty();
    if called {
        head.push(format!("calls/{unit}"));
    }
    if cell == BESIDE {
        head.push("p99 to without the stream".to_owned());
        head.push("the stream's MiB/s".to_owned());
    }
    let mut table = Table::new(head);
    for server in book.servers(cell) {
        let mut row = figures(book, cell, &server);
        if called {
            row.push(number(calls.sample(cell, &server, "calls").median(), 3));
        }
        if cell == BESIDE {
            let of = |figure| book.sample(cell, &server, figure);
            row.push(ratio(of("p99_us").over(&of("p99_alone_us")).spread()));
            row.push(number(of("streamed_mib").median(), 0));
        }
        table.row(row);
    }
    table.to_string()
}

/// The columns that all cells have.
fn figures(book: &Book, cell: &str, server: &str) -> Vec<String> {
    let median = |figure| book.sample(cell, server, figure).median();
    let percent = |figure| number(median(figure).map(|share| share * 100.0), 0);
    let to_loop = |figure, better| ratio(versus::to_loop(book, cell, figure, server, better));
    let rate = book.sample(cell, server, "rate").spread();
    let quartiles = rate.map(|rate| format!("{:.0} – {:.0}", rate.low, rate.high));
    let framework = versus::best_framework(book, cell, "p99_us", Better::Less);
    let p99 = framework.and_then(|base| versus::paired(book, cell, "p99_us", server, &base));
    let failed = book
        .rows(cell, server)
        .filter(|row| row.values[0].is_none());
    vec![
        server.to_owned(),
        number(rate.map(|rate| rate.median), 0),
        quartiles.unwrap_or_default(),
        to_loop("rate", Better::More),
        number(median("cpu_us"), 2),
        to_loop("cpu_us", Better::Less),
        number(median("user_us"), 3),
        number(median("p50_us"), 0),
        number(median("p99_us"), 0),
        ratio(p99),
        percent("busy"),
        percent("load"),
        limit(median("busy"), median("load")).to_owned(),
        failed.count().to_string(),
    ]
}

/// What held the rate down. Where it was the load, rates are equal by nature, and the processor
/// time of a request is what to compare.
fn limit(busy: Option<f64>, load: Option<f64>) -> &'static str {
    let full = |share: Option<f64>| share.is_some_and(|share| share >= 0.95);
    match (full(busy), full(load)) {
        (true, _) => "server",
        (_, true) => "load",
        _ => "neither",
    }
}

/// The rates relative to the bare ring, as points with their quartiles.
pub fn rates(book: &Book) -> io::Result<String> {
    let mut points = Vec::new();
    let cells = book.cells();
    let ring = Kind::BareRing.name();
    for (place, cell) in cells.iter().enumerate() {
        for series in book.servers(cell) {
            if let Some(spread) = versus::paired(book, cell, "rate", &series, &ring) {
                points.push(Point {
                    series,
                    place,
                    spread,
                });
            }
        }
    }
    plot::points(&Chart {
        title: "Echo rate, relative to the bare ring (higher is better)",
        columns: &cells,
        points: &points,
        scale: Scale::FromZero,
    })
}
