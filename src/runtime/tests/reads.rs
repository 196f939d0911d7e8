//! No buffer is touched after it is freed, whatever becomes of the reads that a whole runtime has in
//! flight: their tasks are aborted, their futures dropped or forgotten, the core is stopped or the
//! runtime dropped without a run. On the ring alone it is `ring::tests::freed`.
//!
//! What watches over the buffers of a core stays in a thread-local of its thread. That is gone last,
//! after the ring, and looks at them then.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::config::{CoreConfig, Shutdown};
use crate::context;
use crate::handle::Handle;
use crate::panics::panic_text;
use crate::ring::slot::{Key, Lent};
use crate::ring::tests::OWN_POSITION;
use crate::ring::tests::freed::rounds;
use crate::ring::tests::quarantine::Quarantine;
use crate::ring::tests::source::{DirectFile, Pipe, READ_BYTES, READS, assert_nobody_reads};
use crate::runtime::Runtime;
use crate::spawn::{spawn, yield_now};

/// What is read.
enum Source {
    /// Each read waits at a pipe of its own, in which there is nothing.
    Pipes(Vec<Pipe>),
    /// Each read is of another block; the device is at it.
    File(DirectFile),
}

impl Source {
    fn pipes() -> Source {
        Source::Pipes((0..READS).map(|_| Pipe::new()).collect())
    }

    /// Another descriptor of one file: to write it to the device takes longer than a round.
    fn file(fd: &OwnedFd) -> Source {
        let fd = fd.try_clone().expect("a descriptor");
        Source::File(DirectFile { fd: Rc::new(fd) })
    }

    /// What the read of this number lends.
    fn lend(&self, number: usize, quarantine: &Quarantine) -> Lent {
        let (fd, offset) = match self {
            Source::Pipes(pipes) => (&pipes[number].reader, OWN_POSITION),
            Source::File(file) => (&file.fd, DirectFile::offset(number)),
        };
        Lent::Read {
            fd: fd.clone(),
            buffer: quarantine.buffer(READ_BYTES),
            offset,
        }
    }

    /// Gives a late read what it would write, and has it in a place that shows if it took it.
    fn provoke(&self, quarantine: &Quarantine) {
        match self {
            Source::Pipes(pipes) => assert_nobody_reads(pipes, quarantine),
            Source::File(file) => {
                file.reread();
                quarantine.assert_untouched();
            }
        }
    }
}

/// A file for all rounds of a test.
fn direct_file() -> Arc<OwnedFd> {
    let fd = DirectFile::new().fd;
    Arc::new(Rc::into_inner(fd).expect("nobody else has it"))
}

/// How many of the buffers were freed when the core's thread was over, or what was wrong.
type Found = Result<usize, String>;

/// Looks at the buffers of its thread when that ends.
struct Watch {
    source: Source,
    quarantine: Quarantine,
    tell: Sender<Found>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A panic in a thread's last destructors would end the process.
        let look = AssertUnwindSafe(|| self.source.provoke(&self.quarantine));
        let found = match catch_unwind(look) {
            Ok(()) => Ok(self.quarantine.freed()),
            Err(payload) => Err(panic_text(&*payload).to_owned()),
        };
        self.tell.send(found).ok();
    }
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// A future that reads, as that of `connect` connects: all it has is a key.
struct Reading {
    key: Option<Key>,
}

impl Reading {
    /// The reads of this core, begun, and their watch left behind.
    fn all(source: Source, tell: Sender<Found>) -> Vec<Reading> {
        let local = context::here();
        let quarantine = Quarantine::default();
        let begin = |number| {
            let lent = source.lend(number, &quarantine);
            let key = Some(local.io.borrow_mut().driver.start(lent));
            Reading { key }
        };
        let readings = (0..READS).map(begin).collect();
        let watch = Watch {
            source,
            quarantine,
            tell,
        };
        WATCH.set(Some(watch));
        readings
    }
}

impl Future for Reading {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let local = context::here();
        let mut replaced = Vec::new();
        let key = self.key.as_ref().expect("it is not dropped");
        let mut io = local.io.borrow_mut();
        let poll = io.driver.slots().poll(key, context, &mut replaced);
        drop(io);
        poll.map(drop)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let (Some(key), Some(local)) = (self.key.take(), context::current()) else {
            return;
        };
        let mut spent = Vec::new();
        let freed = local.io.borrow_mut().driver.abandon(&key, &mut spent);
        drop((freed, spent));
    }
}

/// Polls each once, so that a waker is parked, and lets the core enter the kernel.
async fn await_flight(readings: &mut [Reading]) {
    poll_fn(|context| {
        for reading in &mut *readings {
            // One of a file may be done at once.
            let _done = Pin::new(reading).poll(context);
        }
        Poll::Ready(())
    })
    .await;
    turns().await;
}

/// Some turns of the core, each of which enters the kernel.
async fn turns() {
    for _ in 0..3 {
        yield_now().await;
    }
}

/// Data comes for the reads of this core, before the kernel has heard of a cancel.
async fn feed() {
    WATCH.with_borrow(|watch| {
        if let Some(Source::Pipes(pipes)) = watch.as_ref().map(|watch| &watch.source) {
            pipes.iter().for_each(Pipe::put);
        }
    });
    turns().await;
}

/// A runtime of one core that cuts when it is told to.
fn runtime() -> Runtime {
    let shutdown = Shutdown::default().timeout(Duration::from_secs(5));
    let cpus = core_affinity::get_core_ids().expect("processors");
    Runtime::start(
        &[cpus[0].id],
        shutdown,
        &[],
        None,
        CoreConfig {
            features: crate::ring::tests::features(),
            ..CoreConfig::default()
        },
    )
    .expect("a runtime")
}

/// Runs `main` on a core, [`rounds`] times, with the sender for its watch.
fn part<F, Fut>(main: F)
where
    F: Fn(Sender<Found>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + 'static,
{
    part_by(move |runtime, tell| {
        let main = main.clone();
        let tell = std::sync::Mutex::new(tell);
        let report = runtime
            .run(move |_core| {
                let parting = main(tell.lock().expect("no panic holds it").clone());
                async move {
                    parting.await;
                    Ok::<(), io::Error>(())
                }
            })
            .expect("a report");
        let imbalances = report.imbalances();
        assert!(imbalances.is_empty(), "{imbalances:?}\n{report}");
    });
}

/// Has `parting` use up a runtime, [`rounds`] times, and hears what the watch of its core found. In
/// more than half of the rounds all were freed: a device cannot take back a read,
/// and a ring that is closed over one leaks its buffer, which must not be the rule.
fn part_by(parting: impl Fn(Runtime, Sender<Found>)) {
    let mut all_freed = 0;
    let rounds = rounds();
    for round in 0..rounds {
        let (tell, told): (_, Receiver<Found>) = channel();
        parting(runtime(), tell);
        let found = told.recv_timeout(Duration::from_secs(20));
        let freed = found
            .expect("the core's thread ends")
            .unwrap_or_else(|wrong| {
                panic!("round {round}: {wrong}");
            });
        all_freed += usize::from(freed == READS);
    }
    assert!(
        all_freed > rounds / 2,
        "all was freed in {all_freed} of {rounds} rounds only"
    );
}

/// Each reads in a task of its own; all are aborted.
async fn abort_all(source: Source, tell: Sender<Found>) {
    let readings = Reading::all(source, tell);
    let tasks: Vec<_> = readings.into_iter().map(spawn).collect();
    turns().await;
    tasks.iter().for_each(|task| task.abort());
    feed().await;
}

/// All futures are dropped in the midst of their flight.
async fn drop_all(source: Source, tell: Sender<Found>) {
    let mut readings = Reading::all(source, tell);
    await_flight(&mut readings).await;
    drop(readings);
    feed().await;
}

/// All futures are forgotten: nobody ever asks for a cancel.
async fn forget_all(source: Source, tell: Sender<Found>) {
    let mut readings = Reading::all(source, tell);
    await_flight(&mut readings).await;
    readings.into_iter().for_each(std::mem::forget);
}

/// The core is stopped over them.
async fn stop_over_all(source: Source, tell: Sender<Found>) {
    for reading in Reading::all(source, tell) {
        drop(spawn(reading));
    }
    turns().await;
    Handle::current().force();
    pending::<()>().await;
}

/// The runtime is dropped, and was never run: its cores turn all the same.
fn drop_runtime(
    runtime: Runtime,
    tell: Sender<Found>,
    source: impl FnOnce() -> Source + Send + 'static,
) {
    let (begun, is_begun) = channel();
    let start = move || async move {
        let mut readings = Reading::all(source(), tell);
        await_flight(&mut readings).await;
        begun.send(()).ok();
        pending::<()>().await;
        drop(readings);
    };
    let task = runtime.handle().spawn_on(0, start);
    let began = is_begun.recv_timeout(Duration::from_secs(20));
    began.expect("the core runs what it is given");
    drop((runtime, task));
}

#[test]
fn pipe_reads_of_aborted_tasks_touch_nothing_freed() {
    part(|tell| abort_all(Source::pipes(), tell));
}

#[test]
fn file_reads_of_aborted_tasks_touch_nothing_freed() {
    let file = direct_file();
    part(move |tell| abort_all(Source::file(&file), tell));
}

#[test]
fn pipe_reads_dropped_by_their_task_touch_nothing_freed() {
    part(|tell| drop_all(Source::pipes(), tell));
}

#[test]
fn file_reads_dropped_by_their_task_touch_nothing_freed() {
    let file = direct_file();
    part(move |tell| drop_all(Source::file(&file), tell));
}

#[test]
fn pipe_reads_forgotten_by_their_task_touch_nothing_freed() {
    part(|tell| forget_all(Source::pipes(), tell));
}

#[test]
fn file_reads_forgotten_by_their_task_touch_nothing_freed() {
    let file = direct_file();
    part(move |tell| forget_all(Source::file(&file), tell));
}

#[test]
fn pipe_reads_of_a_stopped_core_touch_nothing_freed() {
    part(|tell| stop_over_all(Source::pipes(), tell));
}

#[test]
fn file_reads_of_a_stopped_core_touch_nothing_freed() {
    let file = direct_file();
    part(move |tell| stop_over_all(Source::file(&file), tell));
}

#[test]
fn pipe_reads_of_a_dropped_runtime_touch_nothing_freed() {
    part_by(|runtime, tell| {
        drop_runtime(runtime, tell, Source::pipes);
    });
}

#[test]
fn file_reads_of_a_dropped_runtime_touch_nothing_freed() {
    let file = direct_file();
    part_by(|runtime, tell| {
        let file = Arc::clone(&file);
        drop_runtime(runtime, tell, move || Source::file(&file));
    });
}
