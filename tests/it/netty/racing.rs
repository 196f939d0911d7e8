//! Submitters that race with the stop: every task is either refused, and given
//! back, or taken, and then whoever waits for it is told what became of it.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use evenfall::{Handle, Phase, RemoteHandle, Report, Shutdown};

use super::{Running, gracefully, is_clean, outcome, passes, until};
use crate::process::WATCHDOG;
use crate::promise::promises;

promises![
    a_submitter_racing_with_1000_stops_loses_no_task,
    no_task_that_was_taken_is_lost_in_400_stops,
    a_task_handed_over_at_the_very_end_is_refused_or_has_an_outcome,
];

/// The stops of one process. Many processes, so that the watchdog of each has
/// little to wait for also where the machine is busy.
const STOPS: usize = 100;

/// `NioEventLoopTest.testTaskRemovalOnShutdownThrowsNoUnsupportedOperationException`:
/// one that submits as fast as it can, until it is refused; a stop at once;
/// a thousand times.
fn a_submitter_racing_with_1000_stops_loses_no_task() {
    (0..1_000 / STOPS).for_each(|_| passes("submitter"));
}

/// Passed: 59 tasks that were accepted were lost in 4,000 stops. Here 1,000
/// submissions of eight threads race with each, and the stop comes at another
/// point of them each time. With `EVENFALL_STOPS=4000`, by hand, it is as many
/// stops as the defect was measured with.
fn no_task_that_was_taken_is_lost_in_400_stops() {
    let asked = std::env::var("EVENFALL_STOPS").ok();
    let stops: usize = asked.map_or(400, |stops| stops.parse().expect("a number of stops"));
    (0..stops.div_ceil(STOPS)).for_each(|_| passes("submitters"));
}

/// `SingleThreadEventExecutorTest.testTaskAddedAfterShutdownNotAbandoned`: what
/// is added when the end is decided. A hook is the last user code that may.
fn a_task_handed_over_at_the_very_end_is_refused_or_has_an_outcome() {
    passes("hooks");
}

/// The case of this name, if it is one of these.
pub(super) fn case(name: &str) -> Option<fn()> {
    match name {
        "submitter" => Some(submitter),
        "submitters" => Some(submitters),
        "hooks" => Some(hooks),
        _ => None,
    }
}

/// What was counted over many stops.
#[derive(Debug, Default)]
struct Count {
    /// Tasks that were taken.
    taken: usize,
    /// Of these, tasks that have ended.
    ended: usize,
    /// Of these, tasks that were dropped, and whose handles said so.
    told: usize,
    /// Tasks that were given back.
    refused: usize,
}

impl Count {
    /// Asks each of `tasks` for its outcome: its runtime has ended.
    #[track_caller]
    fn settle(&mut self, tasks: Vec<RemoteHandle<()>>, report: &Report) {
        for task in tasks {
            assert!(task.is_finished(), "{task:?} has no outcome: {report}");
            self.taken += 1;
            match outcome(task) {
                Ok(()) => self.ended += 1,
                Err(error) => {
                    assert!(error.is_dropped(), "{error}");
                    self.told += 1;
                }
            }
        }
    }
}

/// One submitter, and a stop at once.
fn submitter() {
    let ran = Arc::new(AtomicUsize::new(0));
    let mut count = Count::default();
    for _ in 0..STOPS {
        let running = Running::idle(1, Shutdown::default());
        let (handle, counter) = (running.handle.clone(), Arc::clone(&ran));
        let submitter = std::thread::spawn(move || until_refused(&handle, &counter));
        running.handle.force();
        let report = running.ended();
        count.settle(submitter.join().expect("it only submits"), &report);
        count.refused += 1;
        assert!(report.elapsed_ms < 1_500.0, "{report}");
    }
    assert_eq!(ran.load(Ordering::SeqCst), count.ended, "{count:?}");
    assert!(count.taken > STOPS, "they hardly raced: {count:?}");
}

/// Enough letters that the core always has some before it. Without a limit the race would be one
/// for memory, for a submitter is faster than the core.
const AHEAD: usize = 200;

/// Submits tasks that count themselves, until one is refused.
fn until_refused(handle: &Handle, ran: &Arc<AtomicUsize>) -> Vec<RemoteHandle<()>> {
    let begun = Instant::now();
    let before = ran.load(Ordering::SeqCst);
    let mut tasks = Vec::new();
    while begun.elapsed() < WATCHDOG {
        let ran_here = ran.load(Ordering::SeqCst) - before;
        if tasks.len() - ran_here >= AHEAD && handle.phase() < Phase::Hooks {
            std::thread::yield_now();
            continue;
        }
        let ran = Arc::clone(ran);
        let task = handle.spawn_on(0, move || async move {
            ran.fetch_add(1, Ordering::SeqCst);
        });
        match task {
            Ok(task) => tasks.push(task),
            Err(_refused) => return tasks,
        }
    }
    panic!("tasks are taken for ever");
}

/// The submissions of each of eight threads.
const EACH: usize = 125;

/// From this one on they wait for the hooks, lest they all be there before.
const IN_HOOKS: usize = 100;

/// From this one on they wait for Closing.
const IN_CLOSING: usize = 110;

/// Eight submitters, one of which begins the stop in the middle.
fn submitters() {
    const THREADS: usize = 8;
    let ran = Arc::new(AtomicUsize::new(0));
    let mut count = Count::default();
    for round in 0..STOPS {
        let running = Running::idle(2, gracefully(Duration::ZERO, Duration::from_secs(60)));
        let together = Arc::new(Barrier::new(THREADS));
        let submitters: Vec<_> = (0..THREADS)
            .map(|number| {
                let submitter = Submitter {
                    handle: running.handle.clone(),
                    ran: Arc::clone(&ran),
                    stops_at: (number == round % THREADS).then_some(round * 7 % IN_HOOKS),
                };
                let together = Arc::clone(&together);
                std::thread::spawn(move || {
                    together.wait();
                    submitter.submit(number)
                })
            })
            .collect();
        let report = running.ended();
        for submitter in submitters {
            let (tasks, refused) = submitter.join().expect("it only submits");
            count.refused += refused;
            count.settle(tasks, &report);
        }
        lost_nothing(&report, round);
    }
    assert_eq!(count.taken + count.refused, STOPS * THREADS * EACH);
    assert_eq!(count.taken, count.ended + count.told, "{count:?}");
    assert_eq!(ran.load(Ordering::SeqCst), count.ended, "{count:?}");
    // Both sides of the race were seen, and the last one was refused each time.
    assert!(count.ended > 0, "{count:?}");
    assert!(count.refused >= STOPS * THREADS, "{count:?}");
}

#[track_caller]
fn lost_nothing(report: &Report, round: usize) {
    let returned: u64 = report.cores.iter().map(|it| it.letters.returned).sum();
    let dropped: u64 = report.cores.iter().map(|it| it.tasks.dropped).sum();
    if returned == 0 && dropped == 0 {
        is_clean(report);
    }
    assert!(report.elapsed_ms < 30_000.0, "round {round}: {report}");
}

/// One thread's part of the race.
struct Submitter {
    /// The runtime.
    handle: Handle,
    /// Counts the tasks that have run.
    ran: Arc<AtomicUsize>,
    /// Before which of its submissions it begins the stop, if it does.
    stops_at: Option<usize>,
}

impl Submitter {
    /// Submits its tasks; those that were taken, and how many were refused.
    fn submit(self, number: usize) -> (Vec<RemoteHandle<()>>, usize) {
        let mut tasks = Vec::with_capacity(EACH);
        let mut refused = 0;
        let cores = self.handle.cores();
        for submission in 0..EACH {
            let phase = match submission {
                IN_HOOKS => Phase::Hooks,
                IN_CLOSING => Phase::Closing,
                // The last one comes too late in any case.
                _ if submission == EACH - 1 => Phase::Terminated,
                _ => Phase::Running,
            };
            until("the phase", || self.handle.phase() >= phase);
            if self.stops_at == Some(submission) {
                self.handle.shutdown();
            }
            let ran = Arc::clone(&self.ran);
            let task = self.handle.spawn_on(number % cores, move || async move {
                ran.fetch_add(1, Ordering::SeqCst);
            });
            match task {
                Ok(task) => tasks.push(task),
                Err(_given_back) => refused += 1,
            }
        }
        (tasks, refused)
    }
}

/// Every core's hook adds a task to every core.
fn hooks() {
    for _ in 0..100 {
        let (tell, told) = std::sync::mpsc::channel();
        let tell = std::sync::Mutex::new(tell);
        let running = Running::start(2, Shutdown::default(), move |core| {
            let (handle, tell) = (core.handle(), tell.lock().expect("whole").clone());
            core.on_shutdown("adds", Duration::from_secs(1), async move || {
                for core in 0..handle.cores() {
                    // Taken here, the task may run or be dropped.
                    let task = handle.spawn_on(core, || async {}).map_err(drop);
                    tell.send(task).map_err(|_| "nobody waits")?;
                }
                Ok::<(), &str>(())
            });
            async { Ok(()) }
        });
        let report = running.ended();
        let mut count = Count::default();
        for task in told.try_iter() {
            match task {
                Ok(task) => count.settle(vec![task], &report),
                Err(()) => count.refused += 1,
            }
        }
        let cores = report.cores.len();
        assert_eq!(count.taken + count.refused, cores * cores, "{count:?}");
        assert_eq!(count.taken, count.ended + count.told, "{count:?}");
    }
}
