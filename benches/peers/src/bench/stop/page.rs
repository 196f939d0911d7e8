//! The stops' tables and picture.

use std::fmt::Write;
use std::io;

use crate::bench::book::Book;
use crate::bench::page::{Table, number, ratio};
use crate::bench::plot::{self, Chart, Point, Scale};
use crate::serve::Kind;

/// The tables of these cases.
pub fn tables(book: &Book, cells: &[String]) -> String {
    let mut text = String::new();
    for cell in book.cells().iter().filter(|cell| cells.contains(cell)) {
        let table = details(book, cell);
        write!(text, "\n## {cell}\n\n{}\n\n{table}", book.origin(cell)).ok();
        let ours = Kind::Evenfall.name();
        let last = book
            .rows(cell, &ours)
            .filter(|row| row.values[0].is_some())
            .last();
        if let Some(row) = last.filter(|row| !row.note.is_empty()) {
            write!(
                text,
                "\nevenfall's cores in its last stop, in ms: {}.\n",
                row.note
            )
            .ok();
        }
    }
    text
}

/// All figures of one case.
fn details(book: &Book, cell: &str) -> String {
    let head = [
        "server",
        "last end ms",
        "to bare epoll",
        "run returned ms",
        "by its report ms",
        "exit ms",
        "CPU ms",
        "longest wait ms",
        "longest turn ms",
        "reset",
        "torn",
        "lost",
        "left",
        "exit codes",
        "failed",
    ];
    let mut table = Table::new(head.map(String::from));
    for server in book.servers(cell) {
        let of = |figure: &str| book.sample(cell, &server, figure);
        let median = |figure: &str| number(of(figure).median(), 2);
        let sum = |figure: &str| format!("{:.0}", of(figure).sum());
        let base = book.sample(cell, &Kind::BareEpoll.name(), "over_ms");
        let mut codes: Vec<String> = book
            .rows(cell, &server)
            .filter_map(|row| row.values.last().copied().flatten())
            .map(|code| format!("{code:.0}"))
            .collect();
        codes.sort();
        codes.dedup();
        let failed = book
            .rows(cell, &server)
            .filter(|row| row.values[0].is_none());
        table.row([
            server.clone(),
            median("last_end_ms"),
            ratio(of("over_ms").over(&base).spread()),
            median("returned_ms"),
            median("report_ms"),
            median("exit_ms"),
            median("cpu_ms"),
            number(of("wait_ms").max(), 2),
            number(of("turn_ms").max(), 2),
            sum("reset"),
            sum("torn"),
            sum("lost"),
            sum("left"),
            codes.join(" "),
            failed.count().to_string(),
        ]);
    }
    table.to_string()
}

/// The time to the last end, on a logarithmic axis.
pub fn picture(book: &Book) -> io::Result<String> {
    let cells = book.cells();
    let mut points = Vec::new();
    for (place, cell) in cells.iter().enumerate() {
        for series in book.servers(cell) {
            if let Some(spread) = book.sample(cell, &series, "over_ms").spread() {
                points.push(Point {
                    series,
                    place,
                    spread,
                });
            }
        }
    }
    let columns: Vec<String> = cells
        .iter()
        .map(|cell| cell.replace(" and ", ", "))
        .collect();
    plot::points(&Chart {
        title: "Stop: ms from SIGTERM to the last FIN, of nothing to the exit (lower is better)",
        columns: &columns,
        points: &points,
        scale: Scale::Logarithmic,
    })
}
