//! What was measured, kept: a file of comma-separated values for each part of the benches.
//!
//! A run replaces the cells that it measures, and leaves the others as they were, each with the day
//! it was measured on. A cell is replaced as a whole: its ratios are taken within a round, so rounds
//! of different runs must not meet. All tables, pictures and verdicts are made from these files
//! alone.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bench::sample::Sample;

/// The columns before the figures, and the one after them.
const FIRST: [&str; 5] = ["cell", "server", "round", "date", "tcp"];
const LAST: &str = "note";

/// One part's measurements.
pub struct Book {
    /// The names of the figures, as in the file's head.
    figures: Vec<String>,
    /// All of them, in the order of the tables.
    rows: Vec<Row>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured.
    pub cell: String,
    /// On what.
    pub server: String,
    /// Its place in the alternation: equal ones were measured close together.
    pub round: usize,
    /// The day.
    pub date: String,
    /// TCP's congestion control; empty where none was noted.
    pub tcp: String,
    /// One for each of the book's figures; none where there is no such thing, or where it failed.
    pub values: Vec<Option<f64>>,
    /// Why it failed, or what else there is to say.
    pub note: String,
}

impl Book {
    /// What is kept in `path`; nothing if there is no such file. Figures are found by their names.
    pub fn open(path: &Path, figures: &[&str]) -> io::Result<Book> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        Ok(Book::parse(&text, figures))
    }

    /// A line that lacks its cell, server or round is passed over.
    pub fn parse(text: &str, figures: &[&str]) -> Book {
        let mut lines = text.lines().map(fields);
        let head = lines.next().unwrap_or_default();
        let place = |name: &str| head.iter().position(|field| field == name);
        let columns: Vec<Option<usize>> = figures.iter().map(|name| place(name)).collect();
        let places = FIRST.map(place);
        let note = place(LAST);
        let row = |line: Vec<String>| {
            let field = |place: Option<usize>| line.get(place?).cloned();
            let [cell, server, round, date, tcp] = places.map(field);
            Some(Row {
                cell: cell?,
                server: server?,
                round: round?.parse().ok()?,
                date: date.unwrap_or_default(),
                tcp: tcp.unwrap_or_default(),
                values: columns
                    .iter()
                    .map(|column| field(*column)?.parse().ok())
                    .collect(),
                note: field(note).unwrap_or_default(),
            })
        };
        Book {
            figures: figures.iter().map(|name| (*name).to_owned()).collect(),
            rows: lines.filter_map(row).collect(),
        }
    }

    /// Removes a cell that is about to be measured again.
    pub fn forget(&mut self, cell: &str) {
        self.rows.retain(|row| row.cell != cell);
    }

    /// Adds a measurement of today.
    pub fn add(
        &mut self,
        cell: &str,
        server: &str,
        round: usize,
        outcome: Result<(Vec<Option<f64>>, String), String>,
    ) {
        let nothing = |note| (vec![None; self.figures.len()], note);
        let (values, note) = outcome.unwrap_or_else(nothing);
        assert_eq!(values.len(), self.figures.len(), "a value for each figure");
        self.rows.push(Row {
            cell: cell.to_owned(),
            server: server.to_owned(),
            round,
            date: today(),
            tcp: congestion_control(),
            values,
            note,
        });
    }

    /// Puts the cells and the servers in this order; what is not named comes last.
    pub fn arrange(&mut self, cells: &[String], servers: &[String]) {
        let place = |list: &[String], name: &String| {
            let found = list.iter().position(|known| known == name);
            found.unwrap_or(list.len())
        };
        self.rows.sort_by_key(|row| {
            let cell = place(cells, &row.cell);
            (cell, place(servers, &row.server), row.round)
        });
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut head: Vec<&str> = FIRST.to_vec();
        head.extend(self.figures.iter().map(String::as_str));
        head.push(LAST);
        let mut text = head.join(",");
        text.push('\n');
        for row in &self.rows {
            let values = row
                .values
                .iter()
                .map(|value| value.map_or(String::new(), short));
            let values: Vec<String> = values.collect();
            text.push_str(&format!(
                "{},{},{},{},{},{},{}\n",
                quoted(&row.cell),
                quoted(&row.server),
                row.round,
                row.date,
                row.tcp,
                values.join(","),
                quoted(&row.note),
            ));
        }
        text
    }

    /// The cells there are, in order.
    pub fn cells(&self) -> Vec<String> {
        let mut cells: Vec<String> = self.rows.iter().map(|row| row.cell.clone()).collect();
        cells.dedup();
        cells
    }

    /// The servers of a cell, in order.
    pub fn servers(&self, cell: &str) -> Vec<String> {
        let rows = self.rows.iter().filter(|row| row.cell == cell);
        let mut servers: Vec<String> = rows.map(|row| row.server.clone()).collect();
        let mut seen = std::collections::BTreeSet::new();
        servers.retain(|server| seen.insert(server.clone()));
        servers
    }

    /// The rounds of one server in one cell.
    pub fn rows<'a>(&'a self, cell: &'a str, server: &'a str) -> impl Iterator<Item = &'a Row> {
        let of = move |row: &&Row| row.cell == cell && row.server == server;
        self.rows.iter().filter(of)
    }

    /// One figure of one server in one cell, by round.
    pub fn sample(&self, cell: &str, server: &str, figure: &str) -> Sample {
        let column = self.figures.iter().position(|name| name == figure);
        let column = column.expect("a figure of this book");
        let mut values = Vec::new();
        for row in self.rows(cell, server) {
            if values.len() <= row.round {
                values.resize(row.round + 1, None);
            }
            values[row.round] = row.values[column];
        }
        Sample::of(values)
    }

    /// When a cell was measured, in how many rounds and over which TCP, as a sentence.
    pub fn origin(&self, cell: &str) -> String {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.cell == cell).collect();
        let rounds = rows.iter().map(|row| row.round + 1).max().unwrap_or(0);
        let date = rows.iter().map(|row| row.date.as_str()).max();
        let date = date
            .filter(|date| !date.is_empty())
            .unwrap_or("an unknown day");
        let tcp = rows.iter().map(|row| row.tcp.as_str()).max();
        let tcp = match tcp.filter(|tcp| !tcp.is_empty()) {
            Some(tcp) => format!(", TCP with {tcp}"),
            None => String::new(),
        };
        let plural = if rounds == 1 { "round" } else { "rounds" };
        format!("{rounds} {plural}, {date}{tcp}.")
    }
}

/// Six digits that count: more than any measurement here is worth.
fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = (5 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    format!("{value:.digits$}")
}

/// A field as it stands in the file.
fn quoted(field: &str) -> String {
    let flat = field.replace('\n', " ");
    if flat.contains([',', '"']) {
        return format!("\"{}\"", flat.replace('"', "\"\""));
    }
    flat
}

/// The fields of a line.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut within = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let field = fields.last_mut().expect("there is always one");
        match letter {
            '"' if within && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => within = !within,
            ',' if !within => fields.push(String::new()),
            _ => field.push(letter),
        }
    }
    fields
}

/// The day, in UTC.
fn today() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let days = now.map_or(0, |since| since.as_secs() / 86_400);
    let (year, month, day) = date_of(days);
    format!("{year}-{month:02}-{day:02}")
}

/// What new connections of this network begin with; empty if the kernel does not tell.
fn congestion_control() -> String {
    let read = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    read.map_or(String::new(), |name| name.trim().to_owned())
}

/// The date of a day, counted from 1970-01-01.
fn date_of(mut days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| {
        (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let mut book = Book::parse("", &["rate", "p99_us"]);
        book.add(
            "a, \"b\"",
            "ring",
            0,
            Ok((vec![Some(1.5), None], String::new())),
        );
        book.add(
            "a, \"b\"",
            "ring",
            1,
            Err("it said \"no\", twice".to_owned()),
        );
        let again = Book::parse(&book.text(), &["rate", "p99_us"]);
        assert_eq!(again.rows, book.rows);
    }

    #[test]
    fn a_run_leaves_the_cells_that_it_did_not_measure() {
        let text = "cell,server,round,date,rate,note\none,ring,0,2026-01-01,5,\ntwo,ring,0,2026-01-01,6,\n";
        let mut book = Book::parse(text, &["rate"]);
        book.forget("one");
        book.add("one", "ring", 0, Ok((vec![Some(7.0)], String::new())));
        book.arrange(&["one", "two"].map(String::from), &[]);
        let rates = ["one", "two"].map(|cell| book.sample(cell, "ring", "rate").median());
        assert_eq!(rates, [Some(7.0), Some(6.0)]);
        assert_eq!(book.origin("two"), "1 round, 2026-01-01.");
    }

    #[test]
    fn figures_are_found_by_name_and_not_by_place() {
        let text = "note,rate,cell,round,server\nfine,8,one,0,ring\n";
        let book = Book::parse(text, &["p99_us", "rate"]);
        assert_eq!(book.rows[0].values, [None, Some(8.0)]);
    }

    #[test]
    fn a_day_has_its_date() {
        assert_eq!(date_of(0), (1970, 1, 1));
        assert_eq!(date_of(19_782), (2024, 2, 29));
        assert_eq!(date_of(20_779), (2026, 11, 22));
    }
}
