//! What Netty's `shutdownGracefully(quietPeriod, timeout)` promises, kept, and
//! what it does not, passed.
//!
//! `kept` answers its tests, one of ours for each of theirs; each names the
//! class and the method it answers. `passed` has one for each defect that was
//! measured there. What they say with (quiet period, timeout) is
//! `Shutdown::quiet` and `Shutdown::timeout` here, a rejected task is a
//! `Refused` that gives the closure back, and a termination future is
//! `Handle::wait` and the report of `run`.
//!
//! Every case plays in a process of its own, so that a runtime that hangs, or
//! a dead-man, ends that case alone. The times of the cases are real ones:
//! where one sleeps, time is its subject.
#![forbid(unsafe_code)]

mod kept;
mod passed;
mod racing;

use std::io;
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use evenfall::report::Verdict;
use evenfall::{Core, Cores, Handle, JoinError, Phase, RemoteHandle, Report, Runtime, Shutdown};
use futures_util::FutureExt;
use libtest_mimic::Trial;

use crate::args::Args;
use crate::process::{Program, WATCHDOG};
use crate::promise::promise;

/// Lists the cases of a module, each a function without arguments that panics
/// if its promise is not kept.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// One promise for each case, kept by a process of its own.
        pub(super) fn promises() -> Vec<libtest_mimic::Trial> {
            vec![$(crate::promise::promise(
                concat!(module_path!(), "::", stringify!($name)),
                || super::passes(stringify!($name)),
            )),*]
        }

        /// The case of this name, if it is one of these.
        pub(super) fn case(name: &str) -> Option<fn()> {
            match name {
                $(stringify!($name) => Some($name),)*
                _ => None,
            }
        }
    };
}
use cases;

pub(crate) fn promises() -> Vec<Trial> {
    let modules = [kept::promises(), passed::promises(), racing::promises()];
    let served = promise(
        concat!(
            module_path!(),
            "::passed::every_request_received_is_answered"
        ),
        passed::every_request_received_is_answered,
    );
    modules.into_iter().flatten().chain([served]).collect()
}

/// Plays a case in a process of its own. It exits with 0 if it did not panic.
#[track_caller]
fn passes(case: &str) {
    Program::role("netty", &[&format!("case={case}")])
        .finish()
        .exited(0);
}

/// Plays the case that is asked for.
pub(crate) fn netty(mut args: Args) -> ExitCode {
    let name: String = args.take("case").expect("case names one");
    args.finish();
    let case = kept::case(&name)
        .or_else(|| passed::case(&name))
        .or_else(|| racing::case(&name));
    case.unwrap_or_else(|| panic!("no case {name}"))();
    ExitCode::SUCCESS
}

/// A stop with Netty's two numbers.
fn gracefully(quiet: Duration, timeout: Duration) -> Shutdown {
    Shutdown::default().quiet(quiet).timeout(timeout)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A runtime of at most `cores` cores, that does not run yet. Its signals are
/// left to nobody: these cases need none.
fn built(cores: usize, shutdown: Shutdown) -> Runtime {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let builder = crate::process::builder().cores(Cores::Count(cpus.min(cores)));
    let built = builder.shutdown(shutdown).signals([]).build();
    built.expect("a runtime")
}

/// Its report, when it has run `main` on every core. The books are right and
/// nothing is left in the kernel.
#[track_caller]
fn ran<F, Fut>(runtime: Runtime, main: F) -> Report
where
    F: Fn(Core) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + 'static,
{
    checked(runtime.run(main).expect("it runs"))
}

#[track_caller]
fn checked(report: Report) -> Report {
    assert_eq!(report.imbalances(), Vec::<String>::new(), "{report}");
    for core in &report.cores {
        assert_eq!(core.ops.leaked, 0, "{report}");
        assert_eq!(core.buffers.lent, 0, "{report}");
    }
    report
}

/// A runtime that runs on a thread of its own.
struct Running {
    handle: Handle,
    thread: JoinHandle<Report>,
}

impl Running {
    /// Starts one whose main futures do nothing until the stop begins.
    fn idle(cores: usize, shutdown: Shutdown) -> Running {
        Running::start(cores, shutdown, |core| until_stopped(core.handle()))
    }

    /// Starts one, and waits until it is built.
    fn start<F, Fut>(cores: usize, shutdown: Shutdown, main: F) -> Running
    where
        F: Fn(Core) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<()>> + 'static,
    {
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = built(cores, shutdown);
            tell.send(runtime.handle()).expect("somebody waits");
            ran(runtime, main)
        });
        let handle = told.recv_timeout(WATCHDOG).expect("it starts");
        Running { handle, thread }
    }

    /// Waits until a task has run on core 0: the core is at work.
    #[track_caller]
    fn has_begun(&self) {
        let (tell, told) = std::sync::mpsc::channel();
        let sent = self.handle.spawn_on(0, move || async move {
            tell.send(()).expect("somebody waits");
        });
        drop(sent.expect("no stop has begun"));
        told.recv_timeout(WATCHDOG).expect("the task runs");
    }

    /// Its report, when it has ended.
    #[track_caller]
    fn ended(self) -> Report {
        match self.thread.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Ends well when the stop of the runtime has begun.
async fn until_stopped(handle: Handle) -> io::Result<()> {
    handle.phases().next().await;
    Ok(())
}

/// Whether core 0 takes a task that does nothing.
fn takes_a_task(handle: &Handle) -> bool {
    match handle.spawn_on(0, || async {}) {
        Ok(task) => {
            drop(task);
            true
        }
        Err(refused) => {
            assert!(refused.phase() >= Some(Phase::Closing), "{refused}");
            false
        }
    }
}

/// What became of a task of a runtime that has ended: whoever waits for it
/// must have been told.
#[track_caller]
fn outcome<T>(task: RemoteHandle<T>) -> Result<T, JoinError> {
    let outcome = task.now_or_never();
    outcome.expect("a task that was taken has an outcome")
}

#[track_caller]
fn is_clean(report: &Report) {
    assert_eq!(report.verdict, Verdict::Clean, "{report}");
}

/// From the trigger to the end.
fn elapsed(report: &Report) -> Duration {
    Duration::from_secs_f64(report.elapsed_ms / 1e3)
}

/// Waits until `condition` holds.
#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < WATCHDOG, "{what} does not come");
        std::thread::yield_now();
    }
}
