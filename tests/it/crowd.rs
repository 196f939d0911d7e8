//! Tasks by the hundred thousand: two cores that wake each other's, and a million on one.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use evenfall::time::spawn_after;
use evenfall::{Core, Cores, Report, Runtime, Shutdown, spawn, yield_now};
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::{heavy, load, promises};
use crate::server::conclude;
use crate::sys;

promises![
    two_cores_that_wake_100_000_of_each_others_tasks_at_once_lose_none,
    a_million_live_tasks_are_woken_and_end,
    a_million_live_tasks_are_cut_in_time_and_the_first_of_them_named,
    a_million_delayed_tasks_are_cancelled_in_time,
    of_1_200_connections_that_are_cut_a_thousand_are_named,
];

/// Tasks of each of two cores that the other wakes.
const EACH: usize = 100_000;

/// Tasks of one core.
const MILLION: usize = 1_000_000;

/// What one of them may take: the smallest block that holds header and future, and its place among
/// the live ones.
const BYTES_EACH: u64 = 200;

/// A report names so many of each kind, and counts the rest.
const NAMED: usize = 1_000;

fn two_cores_that_wake_100_000_of_each_others_tasks_at_once_lose_none() {
    let _alone = heavy();
    let ended = Program::role("crossfire", &[]).finish();
    let report = ended.report(0);
    report.leaves_nothing();
    let facts = ended.json("facts ");
    // Each of them twice: once it goes back to wait, and once it ends.
    assert_eq!(facts["woken"], 4 * EACH, "{facts}");
    assert!(report.sum("tasks", "completed") >= 2 * EACH as u64);
}

fn a_million_live_tasks_are_woken_and_end() {
    let _alone = heavy();
    let ended = Program::role("million", &["how=wake"]).finish();
    let report = ended.report(0);
    report.leaves_nothing();
    let facts = ended.json("facts ");
    assert_eq!(facts["ended"], MILLION, "{facts}");
    let bytes = facts["bytes"].as_u64().expect("a number");
    assert!(bytes <= BYTES_EACH * MILLION as u64, "{facts}");
    assert!(report.sum("tasks", "completed") >= MILLION as u64);
    // All of them are gone by then, and what they took too.
    let left = facts["left"].as_i64().expect("a number");
    assert!(left < MILLION as i64, "{facts}");
}

fn a_million_live_tasks_are_cut_in_time_and_the_first_of_them_named() {
    let _alone = heavy();
    let ended = Program::role("million", &["how=cut"]).finish();
    let report = ended.report(81);
    report.leaves_nothing();
    let facts = ended.json("facts ");
    assert_eq!(facts["ended"], MILLION, "every future is dropped: {facts}");
    assert!(report.sum("tasks", "dropped") >= MILLION as u64);
    // And these are lines that somebody may read.
    let named = report.all("stragglers");
    assert_eq!(named.len(), NAMED + 1, "with the line that counts the rest");
    let rest = named.last().expect("there are some").to_string();
    // The main future is one of those that are named.
    let count = (MILLION + 1 - NAMED).to_string();
    assert!(rest.contains(&count), "{rest}");
}

fn a_million_delayed_tasks_are_cancelled_in_time() {
    let _alone = heavy();
    let ended = Program::role("million", &["how=delay"]).finish();
    let report = ended.report(0);
    report.leaves_nothing();
    let facts = ended.json("facts ");
    assert_eq!(facts["ended"], MILLION, "every future is dropped: {facts}");
    assert_eq!(report.sum("timers", "cancelled"), MILLION as u64);
}

fn of_1_200_connections_that_are_cut_a_thousand_are_named() {
    let _alone = heavy();
    let mut server = Program::role("as_the_example", &["cores=1"]);
    let address = server.address();
    let words = "connections=1200 each=1 warm=1200 end=stay fds=1500";
    let mut crowd = load(&address, words);
    crowd.line("warm");
    server.tell("force");
    let report = server.finish().report(81);
    report.leaves_nothing();
    assert_eq!(report.sum("connections", "forced"), 1_200);
    let all = report.all("stragglers");
    let of_connections = all.iter().filter(|one| one["kind"] == "connection");
    let names: Vec<&str> = of_connections
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names.len(), NAMED + 1);
    assert_eq!(names[NAMED], "200 more");
    // They have met their end too, which is not what this is about.
    crowd.finish().exited(0);
}

/// Counts the futures that have ended or were dropped.
struct Ends(Rc<Cell<usize>>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Lives with a million tasks, and wakes them all (`how=wake`), or is stopped over them (`how=cut`), or
/// before they begin (`how=delay`).
pub(crate) fn million(mut args: Args) -> ExitCode {
    let how: String = args.take("how").expect("wake or cut");
    args.finish();
    // Long enough for a busy machine to drop them in.
    let shutdown = Shutdown::default()
        .timeout(Duration::from_secs(41))
        .close_reserve(Duration::from_secs(40))
        .stuck_after(Duration::from_secs(1));
    let built = Runtime::builder().cores(Cores::Count(1)).shutdown(shutdown);
    let runtime = built.build().expect("a runtime");
    let facts = Arc::new(Mutex::new(json!({})));
    let told = Arc::clone(&facts);
    let before = sys::lent().1;
    let result = runtime.run(move |core| live_with_a_million(core, how.clone(), Arc::clone(&told)));
    let mut facts = facts.lock().expect("no panic holds it").clone();
    facts["left"] = (sys::lent().1 as i64 - before as i64).into();
    facts["ended"] = ENDED.load(Ordering::Relaxed).into();
    conclude(result, &facts)
}

/// What the core's counter of ended futures was when its main was gone.
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// Tells how many have ended when it is dropped, with the core's last tasks.
struct Teller(Rc<Cell<usize>>);

impl Drop for Teller {
    fn drop(&mut self) {
        ENDED.store(self.0.get(), Ordering::Relaxed);
    }
}

thread_local! {
    /// Dropped when all tasks are.
    static TELLER: RefCell<Option<Teller>> = const { RefCell::new(None) };
}

async fn live_with_a_million(
    core: Core,
    how: String,
    facts: Arc<Mutex<serde_json::Value>>,
) -> io::Result<()> {
    let ended = Rc::new(Cell::new(0));
    TELLER.set(Some(Teller(Rc::clone(&ended))));
    if how == "delay" {
        delay_a_million(&ended).await;
        core.handle().shutdown();
        return Ok(());
    }
    let wakers = Rc::new(RefCell::new(Vec::with_capacity(MILLION)));
    let before = sys::lent().1;
    for number in 1..=MILLION {
        drop(spawn(woken_once(
            Rc::clone(&wakers),
            Ends(Rc::clone(&ended)),
        )));
        if number % 1_000 == 0 {
            yield_now().await;
        }
    }
    while wakers.borrow().len() < MILLION {
        yield_now().await;
    }
    let bytes = sys::lent().1 - before;
    facts.lock().expect("no panic holds it")["bytes"] = bytes.into();
    if how == "cut" {
        // Otherwise the last task's end would be that of a million wakers, all in one destructor.
        while !wakers.borrow().is_empty() {
            let kept = wakers.borrow().len().saturating_sub(1_000);
            wakers.borrow_mut().truncate(kept);
            yield_now().await;
        }
        core.handle().shutdown();
        return pending().await;
    }
    for (number, waker) in wakers.take().into_iter().enumerate() {
        waker.wake();
        // Not before all are queued at once for a good part of them.
        if number % 300_000 == 0 {
            yield_now().await;
        }
    }
    while ended.get() < MILLION {
        yield_now().await;
    }
    Ok(())
}

/// Tasks that would begin long after the stop.
async fn delay_a_million(ended: &Rc<Cell<usize>>) {
    for number in 1..=MILLION {
        let ends = Ends(Rc::clone(ended));
        drop(spawn_after(Duration::from_secs(3_600), async move {
            drop(ends);
        }));
        if number % 1_000 == 0 {
            yield_now().await;
        }
    }
}

/// Leaves its waker, and ends when it is woken.
async fn woken_once(wakers: Rc<RefCell<Vec<Waker>>>, ends: Ends) {
    let mut left = false;
    poll_fn(|context| {
        if std::mem::replace(&mut left, true) {
            return Poll::Ready(());
        }
        wakers.borrow_mut().push(context.waker().clone());
        Poll::Pending
    })
    .await;
    drop(ends);
}

/// What the two cores of the crossfire share.
#[derive(Default)]
struct Field {
    /// For each core, the targets on it, once all are there.
    targets: [Mutex<Vec<Target>>; 2],
    /// Cores whose targets are there.
    up: AtomicUsize,
    /// Wakes that arrived.
    woken: AtomicUsize,
}

/// One task, as the other core sees it.
struct Target {
    waker: Waker,
    /// How far the other core has come with it.
    said: Arc<[AtomicBool; 2]>,
}

/// Two cores that wake all of each other's tasks, both at once, twice.
pub(crate) fn crossfire(args: Args) -> ExitCode {
    args.finish();
    let field = Arc::new(Field::default());
    let shared = Arc::clone(&field);
    let built = Runtime::builder().cores(Cores::Count(2));
    let runtime = built.build().expect("two processors");
    let result: evenfall::Result<Report> =
        runtime.run(move |core| wake_the_other(core.index(), Arc::clone(&shared)));
    let woken = field.woken.load(Ordering::Relaxed);
    conclude(result, &json!({"woken": woken}))
}

async fn wake_the_other(own: usize, field: Arc<Field>) -> io::Result<()> {
    let mut tasks = Vec::with_capacity(EACH);
    for number in 1..=EACH {
        tasks.push(spawn(woken_twice(own, Arc::clone(&field))));
        if number % 1_000 == 0 {
            yield_now().await;
        }
    }
    let there = || field.targets[own].lock().expect("no panic holds it").len();
    while there() < EACH {
        yield_now().await;
    }
    field.up.fetch_add(1, Ordering::AcqRel);
    while field.up.load(Ordering::Acquire) < 2 {
        yield_now().await;
    }
    let other = std::mem::take(&mut *field.targets[1 - own].lock().expect("no panic holds it"));
    for round in 0..2 {
        for (number, target) in other.iter().enumerate() {
            // Relaxed: the wake alone makes it visible.
            target.said[round].store(true, Ordering::Relaxed);
            target.waker.wake_by_ref();
            if number % 5_000 == 0 {
                yield_now().await;
            }
        }
    }
    drop(other);
    for task in tasks {
        task.await.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Ends when it has seen both of what the other core says to it.
async fn woken_twice(own: usize, field: Arc<Field>) {
    let said: Arc<[AtomicBool; 2]> = Arc::default();
    let mut seen = 0;
    let mut shown = false;
    poll_fn(|context| {
        if !std::mem::replace(&mut shown, true) {
            let target = Target {
                waker: context.waker().clone(),
                said: Arc::clone(&said),
            };
            let mut targets = field.targets[own].lock().expect("no panic holds it");
            targets.push(target);
        }
        while seen < 2 && said[seen].load(Ordering::Relaxed) {
            seen += 1;
            field.woken.fetch_add(1, Ordering::Relaxed);
        }
        match seen {
            2 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}
