//! What an idle connection costs in user memory, and what many that came and went leave behind.

use std::io;
use std::time::Duration;

use crate::bench::book::Book;
use crate::bench::page::{Table, number};
use crate::bench::{Progress, Setting, goals, names_of};
use crate::child::Server;
use crate::load::crowd::Crowd;
use crate::serve::{Kind, Mode, Plan};
use crate::sys;

/// Idle connections at once.
const CONNECTIONS: usize = 10_000;

/// One measurement, in bytes for a connection.
struct Cost {
    /// What the allocator lent out.
    heap: f64,
    /// Anonymous pages that became resident.
    resident: f64,
    /// What the allocator still lends after many connections came and went, beyond what it did
    /// when the first of them had gone.
    left: f64,
}

/// The cell.
pub const CELL: &str = "10,000 idle";

/// The names of the figures in the kept file.
const FIGURES: [&str; 5] = [
    "heap",
    "heap_without_buffer",
    "resident",
    "left",
    "came_and_went",
];

/// The kept figures.
pub fn book(setting: &Setting) -> io::Result<Book> {
    Book::open(&setting.path("memory.csv"), &FIGURES)
}

/// Measures, prints, and keeps `memory.csv` and `memory.md`.
pub fn run(setting: &Setting) -> io::Result<()> {
    sys::raise_nofile(200_000)?;
    let mut book = book(setting)?;
    // A million that come and go take minutes, and say what this project promises. The others show what
    // an idle connection takes.
    let churn = |kind| match kind {
        Kind::Evenfall if !setting.quick => 100,
        _ => 1,
    };
    // A connect with its request and its end takes some 60 µs.
    let most = setting.kinds.iter().copied().map(churn).max().unwrap_or(1);
    let bound = Duration::from_secs(1) * (most + 5);
    let mut progress = Progress::begin("memory", setting.kinds.len(), bound);
    book.forget(CELL);
    for &kind in &setting.kinds {
        let churn = churn(kind);
        let cost = measure(kind, setting, churn);
        progress.step(&kind.name());
        let cost = cost.inspect_err(|error| eprintln!("{}: {error}", kind.name()));
        let values = cost.map(|cost| {
            let held = kind.held_bytes() as f64;
            let count = f64::from(churn) * CONNECTIONS as f64;
            let values = [cost.heap, cost.heap - held, cost.resident, cost.left, count];
            (values.map(Some).to_vec(), String::new())
        });
        book.add(
            CELL,
            &kind.name(),
            0,
            values.map_err(|error| error.to_string()),
        );
        book.arrange(&[], &names_of(&Kind::ALL));
        setting.keep("memory.csv", &book.text())?;
    }
    progress.end();
    let text = page(&book);
    println!("{text}");
    setting.keep("memory.md", &text)?;
    goals::run(setting)
}

/// The table.
fn page(book: &Book) -> String {
    let mut table = Table::new([
        "server".to_owned(),
        "heap B/connection".to_owned(),
        "without its buffer".to_owned(),
        "resident B/connection".to_owned(),
        "left B/connection".to_owned(),
        "of connections".to_owned(),
    ]);
    for server in book.servers(CELL) {
        let figure = |name, digits| number(book.sample(CELL, &server, name).median(), digits);
        table.row([
            server.clone(),
            figure("heap", 0),
            figure("heap_without_buffer", 0),
            figure("resident", 0),
            figure("left", 3),
            figure("came_and_went", 0),
        ]);
    }
    format!("# Memory\n\n{}\n\n{table}", book.origin(CELL))
}

/// Connects, and looks before and after.
fn measure(kind: Kind, setting: &Setting, churn: u32) -> io::Result<Cost> {
    let plan = Plan {
        cpus: setting.cpus(false),
        mode: Mode::Echo,
        graceful: false,
        alone: false,
    };
    let mut server = setting.start(kind, &plan, &[])?;
    // A few first, so that what a server makes once is not counted.
    drop(Crowd::connect(server.port, 100, 0)?);
    let heap = settled(&mut server)?;
    let resident = server.resident_bytes()?;
    let crowd = Crowd::connect(server.port, CONNECTIONS, 0)?;
    let heap_with = settled(&mut server)?;
    let resident_with = server.resident_bytes()?;
    drop(crowd);
    let after_first = settled(&mut server)?;
    for _ in 0..churn {
        drop(Crowd::connect(server.port, CONNECTIONS, 0)?);
    }
    let after_all = settled(&mut server)?;
    let each = |more: u64, less: u64, count: usize| (more as f64 - less as f64) / count as f64;
    Ok(Cost {
        heap: each(heap_with, heap, CONNECTIONS),
        resident: each(resident_with, resident, CONNECTIONS),
        left: each(after_all, after_first, churn as usize * CONNECTIONS),
    })
}

/// What the allocator has lent out when it does not change any more: the server may still be
/// taking its connections down.
fn settled(server: &mut Server) -> io::Result<u64> {
    let mut before = server.heap_bytes()?;
    let mut equal = 0;
    for _ in 0..200 {
        // The server gives no sign when it is idle, so this looks until some looks are equal.
        std::thread::sleep(Duration::from_millis(30));
        let now = server.heap_bytes()?;
        equal = if now == before { equal + 1 } else { 0 };
        if equal == 8 {
            break;
        }
        before = now;
    }
    Ok(before)
}
