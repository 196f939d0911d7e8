//! The runtime: its threads, and the handles to it.

#![forbid(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::net::ToSocketAddrs;
use std::panic::Location;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{Builder as Thread, JoinHandle as ThreadHandle};
use std::time::Duration;

use crate::builder::Builder;
use crate::clock::Clock;
use crate::config::Shutdown;
use crate::context::{self, Local};
use crate::core::{self, Setup};
use crate::error::{Error, ErrorKind, Result};
use crate::hooks::HookList;
use crate::net::Listener;
use crate::phase::Phase;
use crate::remote::RemoteHandle;
use crate::report::Report;
use crate::ring::sys::event::EventFd;
use crate::shared::{Request, Shared, progress};
use crate::shutdown::coordinator::Coordinator;
use crate::shutdown::signals::Signals;
use crate::spawn::{self, Refused};
use crate::sync::Arc;
use crate::task::Kind;

/// Cores that are ready and wait for something to do.
///
/// Made by [`Runtime::builder`]. The thread that [runs](Runtime::run) it coordinates the stop and
/// does nothing else, so a runtime cannot be sent to another thread: its signal mask is this
/// thread's.
///
/// Dropping it without a run ends its cores.
#[derive(Debug)]
pub struct Runtime {
    /// What the cores share.
    shared: Arc<Shared>,
    /// One for each core, by its index.
    threads: Vec<ThreadHandle<()>>,
    /// The signals, if it has them, until it runs.
    signals: Option<Signals>,
    /// Whether it ran.
    ran: bool,
    /// Keeps it on its thread.
    not_send: PhantomData<*const ()>,
}

impl Runtime {
    /// Begins to configure a runtime.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Takes the signals and starts a thread for each of `cpus`; if one cannot start, those
    /// before it are ended again.
    pub(crate) fn start(cpus: &[usize], config: Shutdown, signals: &[i32]) -> Result<Runtime> {
        let made = |error| {
            Error::new(ErrorKind::Thread, "the runtime's events cannot be made").with_source(error)
        };
        let bell = Arc::new(EventFd::new().map_err(made)?);
        let alarms: Vec<_> = cpus
            .iter()
            .map(|_| EventFd::new().map(Arc::new))
            .collect::<io::Result<_>>()
            .map_err(made)?;
        let signals = Signals::take(signals)?;
        let shared = Arc::new(Shared::new(Clock::start(), config, bell, &alarms));
        let mut runtime = Runtime {
            shared: shared.clone(),
            threads: Vec::with_capacity(cpus.len()),
            signals,
            ran: false,
            not_send: PhantomData,
        };
        for (index, (cpu, alarm)) in cpus.iter().zip(alarms).enumerate() {
            let setup = Setup {
                index,
                cpu: *cpu,
                alarm,
                shared: shared.clone(),
            };
            runtime.threads.push(start_core(setup)?);
        }
        Ok(runtime)
    }

    /// Binds one socket for each core to `address`. Port 0 becomes a number here, and a conflict
    /// is seen here.
    ///
    /// # Errors
    ///
    /// When the address cannot be had; the error names cause and remedy.
    pub fn bind(&mut self, address: impl ToSocketAddrs) -> Result<Listener> {
        Listener::bind(address, self.shared.stations.len())
    }

    /// A handle to this runtime, for any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
        }
    }

    /// How many cores it has.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.shared.stations.len()
    }

    /// Runs `main` on every core, until a stop has ended all of them, and gives the report.
    ///
    /// The future that `main` makes is its core's main future: when all have ended the runtime
    /// stops, and when one ends in an error it stops at once, and the error is in the report.
    ///
    /// # Errors
    ///
    /// None today; what goes wrong on a core is in the report.
    ///
    /// # Shutdown
    ///
    /// This thread is the coordinator. It returns when every core has ended, by the hard deadline
    /// at the latest. A signal that came before is heard: the mains are started and stopped, so
    /// that clients in the backlog are answered. The third signal leaves the process
    /// ([`Shutdown`]).
    pub fn run<F, Fut>(mut self, main: F) -> Result<Report>
    where
        F: Fn(Core) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<()>> + 'static,
    {
        let site = Location::caller();
        let main = Arc::new(main);
        for station in &self.shared.stations {
            let main = main.clone();
            let letter = Box::new(move || begin_main(&*main, site));
            // Only a core that has failed already takes no letter; its report says so.
            let _failed = station.mailbox.post(letter);
            self.shared
                .foreign_letters
                .fetch_add(1, crate::sync::atomic::Ordering::Relaxed);
        }
        drop(main);
        self.ran = true;
        let report = Coordinator::new(self.shared.clone(), self.signals.take()).run();
        self.join(&report);
        Ok(report)
    }

    /// Joins the threads of the cores that are gone; one that is stuck is left behind.
    fn join(&mut self, report: &Report) {
        for (thread, core) in self.threads.drain(..).zip(&report.cores) {
            if core.stuck.is_none() {
                // A core's panic is caught on its thread and stands in its report.
                let _told = thread.join();
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if self.ran {
            return;
        }
        // `start` may have failed half-way: the cores that are not there are gone.
        for station in &self.shared.stations[self.threads.len()..] {
            let _new = station.advance(progress::GONE);
        }
        Coordinator::new(self.shared.clone(), self.signals.take()).abandon();
        for thread in self.threads.drain(..) {
            let _told = thread.join();
        }
    }
}

/// Starts one core's thread and waits until its ring is made, or refused.
fn start_core(setup: Setup) -> Result<ThreadHandle<()>> {
    let (started, outcome) = mpsc::channel();
    let name = format!("evenfall-{}", setup.index);
    let life = move || {
        core::life(&setup, |result| {
            let _nobody_waits = started.send(result);
        });
    };
    let thread = Thread::new().name(name).spawn(life).map_err(|error| {
        Error::new(
            ErrorKind::Thread,
            "a core's thread cannot be started: the limit on threads (ulimit -u, pids.max) or on \
             memory is reached; raise it or use fewer cores",
        )
        .with_source(error)
    })?;
    let failed = match outcome.recv() {
        Ok(Ok(())) => return Ok(thread),
        Ok(Err(error)) => error,
        Err(mpsc::RecvError) => Error::new(ErrorKind::Thread, "a core's thread ended at its start"),
    };
    let _ended = thread.join();
    Err(failed)
}

/// Begins the main future of the core this runs on.
fn begin_main<F, Fut>(main: &F, site: &'static Location<'static>)
where
    F: Fn(Core) -> Fut,
    Fut: Future<Output = io::Result<()>> + 'static,
{
    let local = context::here();
    let make = || main(Core::of(local.clone()));
    let future = std::panic::catch_unwind(std::panic::AssertUnwindSafe(make));
    // A panic in `main` itself becomes one of the main future: it fails the core's main alike.
    let future = async move {
        match future {
            Ok(future) => future.await,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    };
    let handle = local.spawn(future, Kind::Main, site).ok();
    let refused = handle.is_none();
    *local.main.borrow_mut() = handle;
    if refused && local.station().advance(progress::MAIN_ENDED) {
        local.shared.bell.ring();
    }
}

/// One core, as its main future sees it. Stays on the core.
#[derive(Clone)]
pub struct Core {
    /// The core.
    local: Rc<Local>,
}

impl Core {
    /// The core of `local`.
    pub(crate) fn of(local: Rc<Local>) -> Core {
        Core { local }
    }

    /// The core this code runs on.
    ///
    /// # Panics
    ///
    /// Outside of a core.
    #[must_use]
    #[track_caller]
    pub fn current() -> Core {
        Core::of(context::here())
    }

    /// Its index in the runtime, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.local.index
    }

    /// The processor it is pinned to, as the kernel numbers it.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.local.cpu
    }

    /// A handle to the runtime.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.local.shared.clone(),
        }
    }

    /// Registers a hook: something this core does when the stop has drained it, also after a cut.
    ///
    /// Hooks run one after the other, the last registered first; each has `budget`, and all
    /// together the reserve for hooks ([`Shutdown::hooks_reserve`]). An error, a panic and an
    /// overrun are recorded in the report, and the next hook runs.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # fn example(core: &evenfall::Core) {
    /// core.on_shutdown("flush the log", Duration::from_secs(1), async || {
    ///     // ...
    ///     Ok::<(), std::io::Error>(())
    /// });
    /// # }
    /// ```
    ///
    /// # Shutdown
    ///
    /// May be called in every phase up to the hooks, also from a hook. In Closing it is too late:
    /// the report says that its turn never came.
    #[track_caller]
    pub fn on_shutdown<F, E>(&self, name: impl Into<String>, budget: Duration, hook: F) -> Hook
    where
        F: AsyncFnOnce() -> std::result::Result<(), E> + 'static,
        E: std::fmt::Display,
    {
        let start = Box::new(move || {
            let run = async move { hook().await.map_err(|error| error.to_string()) };
            Box::pin(run) as std::pin::Pin<Box<dyn Future<Output = _>>>
        });
        let site = Location::caller();
        let id = self.local.hooks.add(name.into(), budget, start, site);
        if self.local.closed.get() {
            crate::hook_run::note_unrun(&self.local);
        } else if self.local.station().advance(progress::HAS_HOOK) {
            self.local.shared.bell.ring();
        }
        Hook {
            local: self.local.clone(),
            id,
        }
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("index", &self.index())
            .field("cpu", &self.cpu())
            .finish()
    }
}

/// A registered hook. Dropping this changes nothing: the hook stays.
pub struct Hook {
    /// The core it is registered at.
    local: Rc<Local>,
    /// Its name there.
    id: u64,
}

impl Hook {
    /// Takes the hook out again. Whether it was still there: `false` if it has run or runs.
    pub fn remove(self) -> bool {
        let list: &HookList = &self.local.hooks;
        list.remove(self.id).is_some()
    }
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A handle to a runtime, for any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    /// What the cores share.
    shared: Arc<Shared>,
}

impl Handle {
    /// The runtime this core belongs to.
    ///
    /// # Panics
    ///
    /// Outside of a core.
    #[must_use]
    #[track_caller]
    pub fn current() -> Handle {
        Handle {
            shared: context::here().shared.clone(),
        }
    }

    /// Begins the stop, with the configured times. Of many calls the first counts.
    pub fn shutdown(&self) {
        self.shared.request(Request::Shutdown);
    }

    /// Begins the stop, to end within `limit`; during a stop it shortens or extends it. No phase
    /// that is over is opened again.
    pub fn shutdown_within(&self, limit: Duration) {
        self.shared.request(Request::Within(limit));
    }

    /// Ends draining at once: what is alive is cut. Hooks still run, within one second all told.
    pub fn force(&self) {
        self.shared.request(Request::Force);
    }

    /// Whether the runtime wants new work: false from the beginning of a stop on, while it may
    /// still accept.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Running
    }

    /// The phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.orders.read().phase()
    }

    /// How many cores the runtime has.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.shared.stations.len()
    }

    /// Spawns an essential task on the core of index `core`, from any thread; see
    /// [`spawn_on`](crate::spawn_on).
    ///
    /// # Errors
    ///
    /// [`Refused`], with the closure, if there is no such core or it takes no letter any more.
    ///
    /// # Cancellation
    ///
    /// Dropping the [`RemoteHandle`] detaches the task.
    ///
    /// # Shutdown
    ///
    /// Taken up to and including the hooks; refused in Closing.
    #[track_caller]
    pub fn spawn_on<F, Fut>(
        &self,
        core: usize,
        start: F,
    ) -> std::result::Result<RemoteHandle<Fut::Output>, Refused<F>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        let from = context::current()
            .filter(|local| Arc::ptr_eq(&local.shared, &self.shared))
            .map(|local| local.index);
        spawn::post_spawn(&self.shared, from, core, start, Location::caller())
    }
}
