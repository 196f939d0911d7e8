//! Instructions in user mode for one echo, counted by callgrind: the same on every run, whatever
//! else the machine does.
//!
//! Two runs with different counts of requests; the difference is the requests' own.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::bench::page::{Table, number};
use crate::bench::{Progress, Setting};
use crate::load::closed::{Closed, Spec};
use crate::serve::{Kind, Mode, Plan};
use crate::sys;

/// The requests of the two runs.
const COUNTS: [u64; 2] = [5_000, 25_000];

/// A run under valgrind is slow, but not slower.
const LIMIT: Duration = Duration::from_secs(60);

/// Counts, prints, and keeps `instructions.md`.
pub fn run(setting: &Setting) -> io::Result<()> {
    let connections = [1, 64];
    let total = setting.kinds.len() * connections.len() * COUNTS.len();
    let mut progress = Progress::begin("instructions", total, LIMIT);
    let mut head = vec!["instructions a request".to_owned()];
    head.extend(connections.map(|count| format!("{count} connections")));
    head.extend(connections.map(|count| format!("{count}, beyond the bare ring")));
    let mut table = Table::new(head);
    let mut base = [None; 2];
    for &kind in &setting.kinds {
        let mut each = [None; 2];
        for (place, &active) in connections.iter().enumerate() {
            let mut totals = Vec::new();
            for count in COUNTS {
                let counted = count_run(kind, setting, active, count);
                progress.step(&format!("{} × {active}", kind.name()));
                match counted {
                    Ok(counted) => totals.push(counted),
                    Err(error) => eprintln!("{} × {active}: {error}", kind.name()),
                }
            }
            if let [(few, few_requests), (many, many_requests)] = totals[..] {
                let requests = many_requests as f64 - few_requests as f64;
                each[place] = Some((many as f64 - few as f64) / requests);
            }
        }
        if kind == Kind::BareRing {
            base = each;
        }
        let beyond = each
            .iter()
            .zip(base)
            .map(|(each, base)| Some((*each)? - base?));
        let mut row = vec![kind.name()];
        row.extend(each.iter().map(|count| number(*count, 0)));
        row.extend(beyond.map(|count| number(count, 0)));
        table.row(row);
    }
    progress.end();
    let text = format!("# Instructions\n\n{table}");
    println!("{text}");
    setting.keep("instructions.md", &text)
}

/// All that a server executed in user mode, and how many requests it answered: so many at least.
fn count_run(
    kind: Kind,
    setting: &Setting,
    active: usize,
    requests: u64,
) -> io::Result<(u64, u64)> {
    let out = std::env::temp_dir().join(format!("callgrind-{}.out", std::process::id()));
    let wrapper = [
        "valgrind".to_owned(),
        "--quiet".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", out.display()),
    ];
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
    // Below valgrind a signal is looked for now and then only, and not in a ring's wait; so the load
    // goes on until the server is gone, and its requests count too.
    sys::terminate(server.pid())?;
    let requests = tally.requests + load.run_to_the_end(LIMIT);
    // SIGTERM kills it, and valgrind writes its sums all the same.
    let end = server.wait(LIMIT)?;
    if end.code != -libc::SIGTERM {
        return Err(io::Error::other(format!("it ended with {}", end.code)));
    }
    let counted = total(&out);
    fs::remove_file(&out).ok();
    Ok((counted?, requests))
}

/// The sum that callgrind wrote.
fn total(out: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(out)?;
    let sum = text.lines().find_map(|line| {
        let rest = line
            .strip_prefix("summary: ")
            .or(line.strip_prefix("totals: "))?;
        rest.trim().parse().ok()
    });
    sum.ok_or_else(|| io::Error::other("callgrind wrote no sum"))
}
