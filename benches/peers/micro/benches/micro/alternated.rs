//! What two processors do with each other, in rounds that alternate: how soon one wakes the other
//! changes by a half from one minute to the next, so that only neighbours compare.
//!
//! Two threads, each asleep until the other calls: cores of a runtime (a letter there and its outcome
//! back), threads that sleep in a read of an eventfd, and threads that sleep in a ring which polls
//! one, as a core does. The second is, of all ways to sleep that I/O can end too, the one that wakes
//! soonest; the third is what no runtime with one ring a core can be below.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

use crate::rig::{bell, beside, hear, measure, on_the_core, ring, there};

/// Rounds of each, over some seconds: of fifteen the medians were 1.03 to 1.26 in four runs.
const ROUNDS: usize = 61;

/// Round trips of one round: some tens of milliseconds.
const TRIPS: u32 = 4_000;

/// As in the table.
const CELL: &str = "letter round trip";

/// So many round trips of one kind.
type Trips = fn(u32) -> Duration;

/// Measures all in turn and writes the rounds to `folder`, in the form of the kept files.
pub(crate) fn write(folder: &Path, quick: bool) -> io::Result<()> {
    let (rounds, trips) = if quick { (1, 100) } else { (ROUNDS, TRIPS) };
    let parts: [(&str, Trips); 3] = [
        ("evenfall, spawn_on", letters),
        ("eventfds", eventfds),
        ("bare rings", bare_rings),
    ];
    let mut text = String::from("cell,server,round,median_ns\n");
    for round in 0..rounds {
        for place in 0..parts.len() {
            // Who comes first changes with each round.
            let (name, part) = parts[(round + place) % parts.len()];
            let each_ns = part(trips).as_nanos() as f64 / f64::from(trips);
            text.push_str(&format!("{CELL},\"{name}\",{round},{each_ns:.1}\n"));
        }
    }
    fs::create_dir_all(folder)?;
    fs::write(folder.join("alternated.csv"), text)
}

/// `spawn_on` another core and its outcome.
fn letters(count: u32) -> Duration {
    let there = there();
    measure(move || async move {
        let start = Instant::now();
        for _ in 0..count {
            let task = evenfall::spawn_on(there, || async {});
            let task = task.unwrap_or_else(|refused| panic!("{refused}"));
            task.await.expect("it does not panic");
        }
        start.elapsed()
    })
}

/// Nothing but eventfds.
fn eventfds(count: u32) -> Duration {
    let (call, answer) = (Arc::new(bell()), Arc::new(bell()));
    let answering = {
        let (call, answer) = (call.clone(), answer.clone());
        beside(there(), move || {
            for _ in 0..count {
                hear(&call);
                ring(&answer);
            }
        })
    };
    let elapsed = on_the_core(move || {
        let start = Instant::now();
        for _ in 0..count {
            ring(&call);
            hear(&answer);
        }
        start.elapsed()
    });
    answering
        .join()
        .expect("the answering thread did not panic");
    elapsed
}

/// Eventfds that rings poll, each armed once.
fn bare_rings(count: u32) -> Duration {
    let (call, answer) = (Arc::new(bell()), Arc::new(bell()));
    let answering = {
        let (call, answer) = (call.clone(), answer.clone());
        beside(there(), move || {
            let mut sleeper = Sleeper::new(&*call);
            for _ in 0..count {
                sleeper.sleep();
                ring(&answer);
            }
        })
    };
    let elapsed = on_the_core(move || {
        let mut sleeper = Sleeper::new(&*answer);
        let start = Instant::now();
        for _ in 0..count {
            ring(&call);
            sleeper.sleep();
        }
        start.elapsed()
    });
    answering
        .join()
        .expect("the answering thread did not panic");
    elapsed
}

/// A ring that is set up as a core's, and polls one eventfd.
struct Sleeper(IoUring);

impl Sleeper {
    fn new(bell: &impl AsRawFd) -> Sleeper {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag();
        let mut ring = builder.build(8).expect("this machine has io_uring");
        // Edges only: nobody reads the eventfd.
        let events = libc::POLLIN as u32 | libc::EPOLLET as u32;
        let poll = opcode::PollAdd::new(types::Fd(bell.as_raw_fd()), events).multi(true);
        // SAFETY: the entry names no memory.
        let pushed = unsafe { ring.submission().push(&poll.build()) };
        pushed.expect("the queue is empty");
        Sleeper(ring)
    }

    /// Sleeps until it is called.
    fn sleep(&mut self) {
        self.0.submit_and_wait(1).expect("it may enter its ring");
        for completion in self.0.completion() {
            assert!(completion.result() > 0, "the poll is armed");
        }
    }
}
