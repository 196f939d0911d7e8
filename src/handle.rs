//! Handles: a core as its own code sees it, and the runtime as any thread sees it.

#![forbid(unsafe_code)]

use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use crate::context::{self, Local};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Guard;
use crate::hooks::HookList;
use crate::phase::Phase;
use crate::phases::Phases;
use crate::remote::RemoteHandle;
use crate::report::Report;
use crate::shared::{Request, Shared, progress};
use crate::spawn::{self, Refused};
use crate::stalls::Stalls;
use crate::sync::Arc;

/// One core, as its main future sees it. It stays on the core, and its [`Handle`] goes anywhere:
/// ```compile_fail,E0277
/// fn elsewhere(core: evenfall::Core) {
///     std::thread::spawn(move || drop(core));
/// }
/// ```
/// ```
/// fn elsewhere(core: evenfall::Core) {
///     let handle = core.handle();
///     std::thread::spawn(move || drop(handle));
/// }
/// ```
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
    /// together the reserve for hooks
    /// ([`Shutdown::hooks_reserve`](crate::Shutdown::hooks_reserve)). An error, a panic and an
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
            self.local
                .hooks
                .note_all_unrun(self.local.since_trigger_ms());
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

/// A registered hook of the process. Dropping this changes nothing: the hook stays.
#[derive(Debug)]
pub struct ProcessHook {
    /// The runtime it is registered at.
    shared: Arc<Shared>,
    /// Its name there.
    id: u64,
}

impl ProcessHook {
    /// Takes the hook out again. Whether it was still there: `false` if it has run or runs.
    pub fn remove(self) -> bool {
        self.shared.process_hooks.remove(self.id).is_some()
    }
}

/// A handle to a runtime, for any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    /// What the cores share.
    shared: Arc<Shared>,
}

impl Handle {
    /// The handle to the runtime of `shared`.
    pub(crate) fn of(shared: Arc<Shared>) -> Handle {
        Handle { shared }
    }

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
    ///
    /// A limit of zero is a [`force`](Handle::force) in more haste: connections are cut at once, and
    /// 50 ms are left for hooks and Closing. After a force it can only shorten.
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

    /// The phases of the stop, those that have begun and those that come, as a subscription for a
    /// task or a thread.
    #[must_use]
    pub fn phases(&self) -> Phases {
        Phases::of(&self.shared.board)
    }

    /// The begin and the end of each turn that is too long from now on, as a subscription for a
    /// task or a thread. Nothing comes unless
    /// [`Builder::stall_after`](crate::Builder::stall_after) has asked for the watch.
    #[must_use]
    pub fn stalls(&self) -> Stalls {
        Stalls::of(&self.shared.board)
    }

    /// Waits until the runtime has ended and gives its report, the one that
    /// [`Runtime::run`](crate::Runtime::run) returns. From a foreign thread only, and not from
    /// the one that is to run the runtime.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WrongThread`] on a core: that core's own end
    /// is part of what it would wait for.
    pub fn wait(&self) -> Result<Report> {
        context::not_on_a_core("Handle::wait", "await Handle::phases")?;
        Ok(self.shared.board.outcome())
    }

    /// Holds the stop: Draining does not end before the guard is dropped, or its deadline has
    /// come, and then the report names the guard.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Draining`] when the drain is over: the stop no
    /// longer waits for anything new.
    #[track_caller]
    pub fn hold(&self, name: impl Into<String>) -> Result<Guard> {
        let site = Location::caller();
        let held = self.shared.guards.hold(name.into(), site, self.core_here());
        held.ok_or_else(|| {
            Error::new(
                ErrorKind::Draining,
                format!(
                    "no guard is taken any more: the drain is over (phase {}, {:?} left); do it \
                     before the stop, or in a hook",
                    self.phase(),
                    self.shared.time_left()
                ),
            )
        })
    }

    /// Registers a hook of the process: it runs when every core's own hooks have run, on the
    /// lowest core that lives. The closure travels to that core and makes its future there, so
    /// the future need not be `Send`. Otherwise as [`Core::on_shutdown`].
    ///
    /// # Shutdown
    ///
    /// May be called from any thread in every phase up to the hooks. One that comes too late
    /// stands in the report as one whose turn never came.
    #[track_caller]
    pub fn on_shutdown<F, E>(
        &self,
        name: impl Into<String>,
        budget: Duration,
        hook: F,
    ) -> ProcessHook
    where
        F: AsyncFnOnce() -> std::result::Result<(), E> + Send + 'static,
        E: std::fmt::Display,
    {
        let start = Box::new(move || {
            let run = async move { hook().await.map_err(|error| error.to_string()) };
            Box::pin(run) as std::pin::Pin<Box<dyn Future<Output = _>>>
        });
        let site = Location::caller();
        let id = self
            .shared
            .process_hooks
            .add(name.into(), budget, start, site);
        self.shared.bell.ring();
        ProcessHook {
            shared: self.shared.clone(),
            id,
        }
    }

    /// The phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.orders.read().phase()
    }

    /// How long the stop has until its hard deadline, at most; `None` while there is none. A task
    /// that can do its work in parts knows by this how much of it to begin.
    ///
    /// It is the deadline that counts, not the end: a runtime that is over early still gives the time
    /// it did not use, and [`phase`](Handle::phase) says that it is over.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        // The phase first: whoever sees a stop sees its deadline.
        (self.phase() > Phase::Running).then(|| self.shared.time_left())
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
        let site = Location::caller();
        spawn::post_spawn(&self.shared, self.core_here(), core, start, site)
    }

    /// The core of this runtime that this thread is, if it is one.
    fn core_here(&self) -> Option<usize> {
        context::current()
            .filter(|local| Arc::ptr_eq(&local.shared, &self.shared))
            .map(|local| local.index)
    }
}
