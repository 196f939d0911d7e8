//! What a letter to a core that never sleeps takes its sender: nothing the kernel need hear of.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use evenfall::{Cores, Handle, Runtime};

use super::counter::{Counter, Whom};
use crate::bench::Setting;
use crate::sys;

/// Letters of one measurement.
const LETTERS: u64 = 200_000;

/// Letters that wait at most: the sender is faster than a core that has other work.
const BACKLOG: u64 = 1_000;

/// The calls of the sender's thread, and how many letters it sent meanwhile.
pub(super) fn count(setting: &Setting, counter: Counter) -> io::Result<(u64, u64)> {
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, told) = channel();
    let running = {
        let (cpus, stop) = (setting.cpus(false), stop.clone());
        thread::spawn(move || run(cpus, stop, &tell))
    };
    let handle = match told.recv() {
        Ok(handle) => handle,
        // The runtime could not be built, and says why.
        Err(_) => return running.join().map_err(panicked)?.map(|()| (0, 0)),
    };
    let load_cpu = setting.load_cpu;
    let (begin, begun) = channel();
    let (tell, told) = channel();
    let sending = thread::spawn(move || send(&handle, load_cpu, &begun, &tell));
    let hear = || told.recv().map_err(io::Error::other);
    let tid = hear()?;
    let counted = counter.around(Whom::Thread(tid), || {
        begin.send(()).map_err(io::Error::other)?;
        hear()
    });
    drop(begin);
    let sent = sending.join();
    stop.store(true, Ordering::Relaxed);
    let ran = running.join();
    sent.map_err(panicked)??;
    ran.map_err(panicked)??;
    counted.map(|(calls, _)| (calls, LETTERS))
}

/// A runtime whose one core never sleeps until it is told to stop; tells the way to it.
fn run(cpus: Vec<usize>, stop: Arc<AtomicBool>, tell: &Sender<Handle>) -> io::Result<()> {
    sys::pin(&cpus)?;
    let runtime = Runtime::builder()
        .cores(Cores::List(cpus))
        .signals([])
        .build()
        .map_err(io::Error::other)?;
    tell.send(runtime.handle()).map_err(io::Error::other)?;
    let report = runtime.run(move |_| {
        let stop = stop.clone();
        async move {
            while !stop.load(Ordering::Relaxed) {
                evenfall::yield_now().await;
            }
            io::Result::Ok(())
        }
    });
    report.map(drop).map_err(io::Error::other)
}

/// What a thread that panicked is to whoever waits for it.
fn panicked(_: Box<dyn std::any::Any + Send>) -> io::Error {
    io::Error::other("a thread panicked")
}

/// Tells which thread this is, and when it has sent all letters; it lives until nobody will say to
/// begin any more.
fn send(handle: &Handle, cpu: usize, begun: &Receiver<()>, tell: &Sender<i32>) -> io::Result<()> {
    sys::pin(&[cpu])?;
    let tid = sys::thread_id();
    tell.send(tid).map_err(io::Error::other)?;
    while begun.recv().is_ok() {
        let done = Arc::new(AtomicU64::new(0));
        for sent in 0..LETTERS {
            // Not by a call: those are counted.
            while sent - done.load(Ordering::Relaxed) >= BACKLOG {
                std::hint::spin_loop();
            }
            let done = done.clone();
            let count_it = move || async move {
                done.fetch_add(1, Ordering::Relaxed);
            };
            let task = handle.spawn_on(0, count_it);
            drop(task.map_err(|refused| io::Error::other(refused.to_string()))?);
        }
        tell.send(tid).map_err(io::Error::other)?;
    }
    Ok(())
}
