//! System calls of an echo on the server's side.
//!
//! The kernel counts them: `perf stat` on its tracepoint costs the server next to nothing, so that
//! it batches as it does otherwise. Where there is no `perf` or no tracepoint, `strace -c` counts;
//! it stops the server at each call, which makes it slower and its batches larger, and the table
//! says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::bench::book::Book;
use crate::bench::page::{Table, number};
use crate::bench::{Progress, Setting, goals, names_of};
use crate::child::Server;
use crate::load::closed::{Closed, Spec};
use crate::serve::{Kind, Mode, Plan};
use crate::sys;

/// The cells, which are the echo matrix's, and their connections.
pub const CELLS: [(&str, usize); 2] = [("64 B × 1", 1), ("64 B × 64", 64)];

/// The names of the figures in the kept file.
const FIGURES: [&str; 2] = ["calls", "requests"];

/// A counter that does not come or go in this time never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kept figures.
pub fn book(setting: &Setting) -> io::Result<Book> {
    Book::open(&setting.path("syscalls.csv"), &FIGURES)
}

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counter {
    /// `perf stat`.
    Perf,
    /// `strace -c`.
    Strace,
}

impl Counter {
    /// The best that works here.
    fn here() -> Option<Counter> {
        [Counter::Perf, Counter::Strace]
            .into_iter()
            .find(|counter| counter.works())
    }

    /// Whether it counts the calls of a program that does nothing.
    fn works(self) -> bool {
        let mut command = match self {
            Counter::Perf => Command::new("perf"),
            Counter::Strace => Command::new("strace"),
        };
        match self {
            Counter::Perf => command.args(["stat", "-e", "raw_syscalls:sys_enter", "true"]),
            Counter::Strace => command.args(["-c", "-f", "-o", "/dev/null", "true"]),
        };
        let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        ended.is_ok_and(|status| status.success())
    }

    /// Begins to count the calls of all threads of a process.
    fn begin(self, pid: u32, out: &Path) -> io::Result<Child> {
        let mut command = match self {
            Counter::Perf => {
                let mut command = Command::new("perf");
                command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter"]);
                command
            }
            Counter::Strace => {
                let mut command = Command::new("strace");
                command.args(["-c", "-f"]);
                command
            }
        };
        command.arg("-o").arg(out).args(["-p", &pid.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        sys::spawn_tied(&mut command)
    }

    /// The sum in what it wrote.
    fn sum(self, text: &str) -> Option<u64> {
        match self {
            // `1234,,raw_syscalls:sys_enter,…`
            Counter::Perf => {
                let mut lines = text.lines();
                let line = lines.find(|line| line.contains("raw_syscalls"))?;
                line.split(',').next()?.parse().ok()
            }
            // `100.00 0.012 2 1234 5 total`, without the errors' column if there were none.
            Counter::Strace => {
                let line = text.lines().find(|line| line.ends_with("total"))?;
                line.split_whitespace().nth(3)?.parse().ok()
            }
        }
    }
}

/// Counts, prints, and keeps `syscalls.csv` and `syscalls.md`.
pub fn run(setting: &Setting) -> io::Result<()> {
    let mut book = book(setting)?;
    let names = CELLS.map(|(name, _)| name.to_owned());
    let Some(counter) = Counter::here() else {
        println!("Neither perf nor strace can count system calls here.");
        return Ok(());
    };
    let total = CELLS.len() * setting.rounds * setting.kinds.len();
    let bound = setting.length.mul_f64(1.2) + Duration::from_secs(3);
    let mut progress = Progress::begin("syscalls", total, bound);
    for (name, active) in CELLS {
        book.forget(name);
        for round in 0..setting.rounds {
            for kind in setting.order(round) {
                let counted = count(kind, setting, counter, active);
                progress.step(&format!("{name}: {} {counted:?}", kind.name()));
                let note = format!("{counter:?}").to_lowercase();
                let counted = counted.map_err(|error| error.to_string());
                let values = counted.map(|(calls, requests)| {
                    let (calls, requests) = (calls as f64, requests as f64);
                    (vec![Some(calls / requests), Some(requests)], note)
                });
                book.add(name, &kind.name(), round, values);
            }
        }
        book.arrange(&names, &names_of(&Kind::ALL));
        setting.keep("syscalls.csv", &book.text())?;
    }
    progress.end();
    let text = page(&book);
    println!("{text}");
    setting.keep("syscalls.md", &text)?;
    super::echo::pages(setting)?;
    goals::run(setting)
}

/// The table.
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
    format!("# System calls\n\n{}\n\n{table}", book.origin(CELLS[0].0))
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
    let name = format!("evenfall-syscalls-{}", std::process::id());
    let out = std::env::temp_dir().join(name);
    let counted = count_into(&out, &server, &mut load, setting.length, counter);
    fs::remove_file(&out).ok();
    counted
}

/// The same, with a file for what the counter writes.
fn count_into(
    out: &PathBuf,
    server: &Server,
    load: &mut Closed,
    length: Duration,
    counter: Counter,
) -> io::Result<(u64, u64)> {
    let mut counting = counter.begin(server.pid(), out)?;
    // It gives no sign when it has begun. Nothing is asked of the server meanwhile, and a server
    // that sleeps calls nothing, so what it counts before the load is nothing.
    thread::sleep(Duration::from_millis(300));
    let tally = load.run(length, u64::MAX);
    sys::interrupt(counting.id())?;
    let begin = Instant::now();
    while counting.try_wait()?.is_none() {
        if begin.elapsed() > PATIENCE {
            counting.kill()?;
            counting.wait()?;
            return Err(io::Error::other("the counter does not end"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let text = fs::read_to_string(out)?;
    let sum = counter.sum(&text);
    let sum = sum.ok_or_else(|| io::Error::other("the counter gave no sum"))?;
    Ok((sum, tally?.requests))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_found_in_what_the_counter_writes() {
        let perf = "# started on\n\n1234,,raw_syscalls:sys_enter,600,100.00,,\n";
        assert_eq!(Counter::Perf.sum(perf), Some(1234));
        let strace = "% time seconds usecs/call calls errors syscall\n 100.00 0.01 2 99 total\n";
        assert_eq!(Counter::Strace.sum(strace), Some(99));
        assert_eq!(Counter::Strace.sum(""), None);
    }
}
