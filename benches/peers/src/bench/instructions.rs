//! Instructions in user mode for one echo, counted by callgrind: the same on every run, whatever
//! else the machine does.
//!
//! Two runs with different counts of requests; the difference is the requests' own. Servers with a
//! ring are all run with the `polled` library before them, see its source for why; what is executed
//! in it, and by what it calls, is taken out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bench::book::Book;
use crate::bench::page::{Table, number};
use crate::bench::{Progress, Setting, goals, names_of};
use crate::load::closed::{Closed, Spec};
use crate::serve::{Kind, Mode, Plan};
use crate::sys;

/// The requests of the two runs.
const COUNTS: [u64; 2] = [5_000, 25_000];

/// A run under valgrind is slow, but not slower.
const LIMIT: Duration = Duration::from_secs(60);

/// The cells, which are the echo matrix's, and their connections.
pub const CELLS: [(&str, usize); 2] = [("64 B × 1", 1), ("64 B × 64", 64)];

/// The names of the figures in the kept file.
const FIGURES: [&str; 1] = ["instructions"];

/// The kept figures.
pub fn book(setting: &Setting) -> io::Result<Book> {
    Book::open(&setting.path("instructions.csv"), &FIGURES)
}

/// Counts, prints, and keeps `instructions.csv` and `instructions.md`.
pub fn run(setting: &Setting) -> io::Result<()> {
    let mut book = book(setting)?;
    let mut kinds = setting.kinds.clone();
    // Valgrind runs no JVM to speak of.
    kinds.retain(|kind| *kind != Kind::Netty);
    let names = CELLS.map(|(name, _)| name.to_owned());
    let chosen = setting.chosen(&names)?;
    let total = kinds.len() * chosen.len() * COUNTS.len();
    let mut progress = Progress::begin("instructions", total, LIMIT);
    for (name, active) in CELLS {
        if !chosen.iter().any(|chosen| chosen == name) {
            continue;
        }
        book.forget(name);
        for &kind in &kinds {
            let counted = difference(kind, setting, active, &mut progress);
            let counted = counted.inspect_err(|error| eprintln!("{}: {error}", kind.name()));
            let values = counted.map(|count| (vec![Some(count)], String::new()));
            let values = values.map_err(|error| error.to_string());
            book.add(name, &kind.name(), 0, values);
        }
        book.arrange(&names, &names_of(&Kind::ALL));
        setting.keep("instructions.csv", &book.text())?;
    }
    progress.end();
    let text = page(&book);
    println!("{text}");
    setting.keep("instructions.md", &text)?;
    goals::run(setting)
}

/// The table.
fn page(book: &Book) -> String {
    let mut head = vec!["instructions a request".to_owned()];
    head.extend(CELLS.map(|(name, _)| name.to_owned()));
    head.extend(CELLS.map(|(name, _)| format!("{name}, beyond the bare ring")));
    let mut table = Table::new(head);
    let of = |name: &str, server: &str| book.sample(name, server, FIGURES[0]).median();
    for server in book.servers(CELLS[0].0) {
        let counts = CELLS.map(|(name, _)| of(name, &server));
        let ring = Kind::BareRing.name();
        let beyond = CELLS.map(|(name, _)| Some(of(name, &server)? - of(name, &ring)?));
        let mut row = vec![server.clone()];
        row.extend(
            counts
                .into_iter()
                .chain(beyond)
                .map(|count| number(count, 0)),
        );
        table.row(row);
    }
    format!("# Instructions\n\n{}\n\n{table}", book.origin(CELLS[0].0))
}

/// What one request costs.
fn difference(
    kind: Kind,
    setting: &Setting,
    active: usize,
    progress: &mut Progress,
) -> io::Result<f64> {
    let mut totals = [0; 2];
    for (place, count) in COUNTS.into_iter().enumerate() {
        let counted = count_run(kind, setting, active, count);
        progress.step(&format!("{} × {active}", kind.name()));
        totals[place] = counted?;
    }
    Ok((totals[1] as f64 - totals[0] as f64) / (COUNTS[1] - COUNTS[0]) as f64)
}

/// All that a server executed in user mode until it had answered so many requests.
fn count_run(kind: Kind, setting: &Setting, active: usize, requests: u64) -> io::Result<u64> {
    let folder = std::env::temp_dir().join(format!("callgrind-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let counted = count_into(&folder, kind, setting, active, requests);
    fs::remove_dir_all(&folder)?;
    counted
}

/// The library that has the servers' waits polled.
const POLLED: &str = "libevenfall_polled.so";

/// Where it is: beside this program.
fn polled() -> io::Result<PathBuf> {
    let library = std::env::current_exe()?.with_file_name(POLLED);
    if !library.exists() {
        let text = format!("{} is not built", library.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(library)
}

/// The same, with a folder for what callgrind writes.
fn count_into(
    folder: &Path,
    kind: Kind,
    setting: &Setting,
    active: usize,
    requests: u64,
) -> io::Result<u64> {
    let mut wrapper = Vec::new();
    if kind.has_ring() {
        wrapper.push("env".to_owned());
        wrapper.push(format!("LD_PRELOAD={}", polled()?.display()));
    }
    wrapper.extend(["valgrind", "--quiet", "--tool=callgrind"].map(String::from));
    wrapper.push(format!(
        "--callgrind-out-file={}",
        folder.join("out").display()
    ));
    let plan = Plan {
        cpus: setting.cpus(false),
        mode: Mode::Echo,
        graceful: false,
        alone: true,
    };
    let server = setting.start(kind, &plan, &wrapper)?;
    let spec = Spec {
        active,
        idle: 0,
        size: 64,
        depth: 1,
    };
    let mut load = Closed::connect(server.port, &spec)?;
    let tally = load.run(LIMIT, requests)?;
    if tally.requests < requests {
        let text = format!("{} of {requests} requests in time", tally.requests);
        return Err(io::Error::other(text));
    }
    // SIGTERM kills the server, and callgrind writes its sum at that.
    sys::terminate(server.pid())?;
    server.wait(LIMIT)?;
    total(folder)
}

/// The sum of what callgrind wrote, without what the `polled` library did.
fn total(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let text = fs::read_to_string(entry?.path())?;
        let totals = text
            .lines()
            .filter_map(|line| line.strip_prefix("totals: "));
        sum += totals
            .filter_map(|sum| sum.trim().parse::<u64>().ok())
            .sum::<u64>();
        sum -= in_polled(&text);
    }
    if sum == 0 {
        return Err(io::Error::other("callgrind wrote no sum"));
    }
    Ok(sum)
}

/// What was executed in calls into the `polled` library, from callgrind's format: the line after a
/// `calls=` has their cost, and a `cob=` before it their object, whose name stands there once.
fn in_polled(text: &str) -> u64 {
    let mut polled = None;
    let mut into_polled = false;
    let mut sum = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(object) = line
            .strip_prefix("cob=")
            .or_else(|| line.strip_prefix("ob="))
        {
            let (id, name) = object.split_once(' ').unwrap_or((object, ""));
            if name.ends_with(POLLED) {
                polled = Some(id.to_owned());
            }
            into_polled = line.starts_with("cob=") && polled.as_deref() == Some(id);
        } else if line.starts_with("calls=") {
            let cost = lines.next().and_then(|line| line.split(' ').nth(1));
            if into_polled {
                sum += cost.and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
            }
            into_polled = false;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_calls_into_the_library_cost_is_taken_out_and_nothing_else() {
        let text = "ob=(1) /bin/serve\nfn=(1) main\n10 5\ncob=(2) /x/libc.so.6\ncfn=(2) read\n\
            calls=3 7\n10 300\ncob=(3) /x/libevenfall_polled.so\ncfn=(3) syscall\ncalls=2 9\n\
            11 40\ncfn=(4) inner\ncalls=1 12\n12 6\ncob=(3)\ncfn=(3)\ncalls=1 9\n13 2\n\
            ob=(3)\nfn=(3)\n9 8\ncob=(2)\ncfn=(5) poll\ncalls=1 1\n9 34\ntotals: 400\n";
        assert_eq!(in_polled(text), 42);
    }
}
