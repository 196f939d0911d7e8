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

/// The requests of the two runs.
const COUNTS: [u64; 2] = [5_000, 25_000];

/// How many blocks of instructions lie between two sums: what is left over at the end of a run is
/// below three instructions a request.
const BLOCKS: u64 = 10_000;

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
            if let [few, many] = totals[..] {
                each[place] = Some((many as f64 - few as f64) / (COUNTS[1] - COUNTS[0]) as f64);
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

/// All that a server executed in user mode until it had answered so many requests.
fn count_run(kind: Kind, setting: &Setting, active: usize, requests: u64) -> io::Result<u64> {
    let folder = std::env::temp_dir().join(format!("callgrind-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let counted = count_into(&folder, kind, setting, active, requests);
    fs::remove_dir_all(&folder)?;
    counted
}

/// The same, with a folder for what callgrind writes.
fn count_into(
    folder: &Path,
    kind: Kind,
    setting: &Setting,
    active: usize,
    requests: u64,
) -> io::Result<u64> {
    // Below valgrind a signal does not end a ring's wait, so the sums are written all along, and the
    // server is killed.
    let wrapper = [
        "valgrind".to_owned(),
        "--quiet".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--dump-every-bb={BLOCKS}"),
        format!("--callgrind-out-file={}", folder.join("out").display()),
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
    if tally.requests < requests {
        let text = format!("{} of {requests} requests in time", tally.requests);
        return Err(io::Error::other(text));
    }
    drop(server);
    total(folder)
}

/// The sum of what callgrind wrote.
fn total(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let text = fs::read_to_string(entry?.path())?;
        let totals = text
            .lines()
            .filter_map(|line| line.strip_prefix("totals: "));
        // The last file may be cut off, as the server is killed; then it has no sum.
        sum += totals
            .filter_map(|sum| sum.trim().parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(sum)
}
