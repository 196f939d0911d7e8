//! The table of numbers: one row for each core, one column for each counter
//! that is not zero everywhere.
//!
//! There is a part for connections and one for traffic. Where the columns of
//! a part do not fit side by side, the rest stands below: a number is never
//! cut.
#![forbid(unsafe_code)]

use super::words::{WIDTH, byte_count, columns, count, fit, right};
use super::{CoreOutcome, CoreReport};

/// The width of the first column, which names the core.
pub(super) const NAME_WIDTH: usize = 5;

/// The space between two columns.
const GAP: usize = 2;

/// A counter that may become a column.
struct Counter {
    /// The head of the column.
    head: &'static str,
    /// Where the number stands.
    read: fn(&CoreReport) -> u64,
    /// How the number is written, in at most nine columns.
    write: fn(u128) -> String,
}

/// How the connections of a core ended.
const CONNECTIONS: [Counter; 9] = [
    plain("open", |core| core.connections.at_start),
    plain("accepted", |core| core.connections.accepted),
    plain("drained", |core| core.connections.drained),
    plain("by peer", |core| core.connections.closed_by_peer),
    plain("by us", |core| core.connections.closed_by_handler),
    plain("aborted", |core| core.connections.aborted),
    plain("reset", |core| core.connections.peer_reset),
    plain("forced", |core| core.connections.forced),
    plain("abandoned", |core| core.connections.abandoned),
];

/// What went over the connections of a core in its life.
const TRAFFIC: [Counter; 8] = [
    plain("requests", |core| core.requests.begun),
    plain("answered", |core| core.requests.answered),
    amount("received", |core| core.bytes.received),
    amount("sent", |core| core.bytes.sent),
    amount("unsent", |core| core.bytes.unsent),
    amount("unacked", |core| core.bytes.unacked),
    amount("given up", |core| core.bytes.aborted),
    amount("late", |core| core.bytes.late),
];

const fn plain(head: &'static str, read: fn(&CoreReport) -> u64) -> Counter {
    Counter {
        head,
        read,
        write: count,
    }
}

const fn amount(head: &'static str, read: fn(&CoreReport) -> u64) -> Counter {
    Counter {
        head,
        read,
        write: byte_count,
    }
}

/// A column as it is written: the head, one cell for each row, all of them
/// of the same width.
struct Column {
    /// The head and then the cells, all `width` columns wide.
    cells: Vec<String>,
    /// The width of every cell.
    width: usize,
}

impl Column {
    fn new(texts: Vec<String>) -> Column {
        let width = texts.iter().map(|text| columns(text)).max().unwrap_or(0);
        Column {
            cells: texts.iter().map(|text| right(text, width)).collect(),
            width,
        }
    }
}

/// The tables, each with its title: the cores with these indices, and the sum
/// over *all* cores where there is more than one.
pub(super) fn parts(cores: &[CoreReport], shown: &[usize]) -> Vec<Vec<String>> {
    let mut connections = columns_of(&CONNECTIONS, cores, shown);
    connections.extend(outcome_column(cores, shown));
    let traffic = columns_of(&TRAFFIC, cores, shown);
    let names = name_column(cores, shown);
    let titled = [
        (
            "connections: open at the trigger, accepted since, and how they ended",
            connections,
        ),
        ("traffic since the start", traffic),
    ];
    titled
        .into_iter()
        .filter(|(_, columns)| !columns.is_empty())
        .map(|(title, columns)| {
            let mut lines = vec![title.to_owned()];
            lines.extend(part(&names, &columns));
            lines
        })
        .collect()
}

/// One part of the table, parted further where it is still too wide.
fn part(names: &Column, columns: &[Column]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut rest = columns;
    while !rest.is_empty() {
        let mut fitting = rest.len();
        while fitting > 1 && row_width(&rest[..fitting]) > WIDTH - NAME_WIDTH {
            fitting -= 1;
        }
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend((0..names.cells.len()).map(|row| one_line(names, &rest[..fitting], row)));
        rest = &rest[fitting..];
    }
    lines
}

fn one_line(names: &Column, columns: &[Column], row: usize) -> String {
    let mut line = names.cells[row].clone();
    for column in columns {
        line.push_str(&" ".repeat(GAP));
        line.push_str(&column.cells[row]);
    }
    line
}

/// The width of these columns, each with the gap before it.
fn row_width(columns: &[Column]) -> usize {
    columns.iter().map(|column| column.width + GAP).sum()
}

fn name_column(cores: &[CoreReport], shown: &[usize]) -> Column {
    let mut names = vec![right("core", NAME_WIDTH)];
    names.extend(shown.iter().map(|&i| core_name(&cores[i])));
    if cores.len() > 1 {
        names.push("all".to_owned());
    }
    Column::new(names)
}

/// The core's number, within the first column.
pub(super) fn core_name(core: &CoreReport) -> String {
    right(&fit(&core.core.to_string(), NAME_WIDTH), NAME_WIDTH)
}

/// The columns of those counters that are not zero on every core.
fn columns_of(counters: &[Counter], cores: &[CoreReport], shown: &[usize]) -> Vec<Column> {
    let column = |counter: &Counter| {
        let total: u128 = cores
            .iter()
            .map(|core| u128::from((counter.read)(core)))
            .sum();
        if total == 0 {
            return None;
        }
        let mut texts = vec![counter.head.to_owned()];
        texts.extend(shown.iter().map(|&i| match (counter.read)(&cores[i]) {
            0 => "·".to_owned(),
            n => (counter.write)(n.into()),
        }));
        if cores.len() > 1 {
            texts.push((counter.write)(total));
        }
        Some(Column::new(texts))
    };
    counters.iter().filter_map(column).collect()
}

/// How the cores ended, if one did not finish.
fn outcome_column(cores: &[CoreReport], shown: &[usize]) -> Option<Column> {
    if cores
        .iter()
        .all(|core| core.outcome == CoreOutcome::Finished)
    {
        return None;
    }
    let mut texts = vec!["outcome".to_owned()];
    texts.extend(shown.iter().map(|&i| cores[i].outcome.word().to_owned()));
    if cores.len() > 1 {
        texts.push(String::new());
    }
    Some(Column::new(texts))
}
