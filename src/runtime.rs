//! The runtime: its threads, and the handles to it.

#![forbid(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::net::ToSocketAddrs;
use std::panic::Location;
use std::sync::mpsc;
use std::thread::{Builder as Thread, JoinHandle as ThreadHandle};
use std::time::Duration;

use crate::config::{CoreConfig, Shutdown};
use crate::context;
use crate::core::{self, Setup};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::{Core, Handle};
use crate::mailbox::Letter;
use crate::net::Listener;
use crate::report::Report;
use crate::ring::sys::clock::Clock;
use crate::ring::sys::dead_man::DeadMan;
use crate::ring::sys::event::EventFd;
use crate::shared::{Shared, progress};
use crate::shutdown::coordinator::Coordinator;
use crate::shutdown::signals::Signals;
use crate::sync::{Arc, Mutex, lock};

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
    /// Ends the process if the stop does not end; given to the coordinator.
    dead_man: Option<DeadMan>,
    /// The length of a turn to watch for while it runs.
    stall_after: Option<Duration>,
    /// Whether it ran.
    ran: bool,
    /// Keeps it on its thread.
    not_send: PhantomData<*const ()>,
}

impl Runtime {
    /// Takes the signals and starts a thread for each of `cpus`; if one cannot start, those
    /// before it are ended again.
    pub(crate) fn start(
        cpus: &[usize],
        config: Shutdown,
        signals: &[i32],
        stall_after: Option<Duration>,
        core: CoreConfig,
    ) -> Result<Runtime> {
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
        let dead_man = DeadMan::new().map_err(|error| {
            Error::new(
                ErrorKind::Signals,
                "the dead-man's timer cannot be made: the limit on pending signals (ulimit -i) is \
                 reached, or every real-time signal of this process has a handler; raise it, or \
                 leave one free",
            )
            .with_source(error)
        })?;
        let shared = Arc::new(Shared::new(Clock::start(), config, bell, &alarms, cpus));
        let mut runtime = Runtime {
            shared: shared.clone(),
            threads: Vec::with_capacity(cpus.len()),
            signals,
            dead_man: Some(dead_man),
            stall_after,
            ran: false,
            not_send: PhantomData,
        };
        for (index, (cpu, alarm)) in cpus.iter().zip(alarms).enumerate() {
            let setup = Setup {
                index,
                cpu: *cpu,
                alarm,
                shared: shared.clone(),
                config: core,
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
        Listener::bind(address, self.shared.stations.len(), &self.shared.untaken)
    }

    /// Takes over a socket that listens already and came from elsewhere: from the service
    /// manager, from the server that ran before this one, or made with options of your own.
    ///
    /// All cores accept from this one socket, and the kernel spreads connections over them less
    /// evenly than over sockets of their own: one that has time may take all. When the last core
    /// has let go of it, it is closed here; a core that takes it later accepts nobody. Whether it
    /// blocks is as you like: it is left as it is, but for the moment in which a stop empties the
    /// backlog.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut runtime = evenfall::Runtime::builder().build()?;
    /// let listener = runtime.adopt(std::net::TcpListener::bind("127.0.0.1:7777")?)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When it is no TCP socket that listens.
    ///
    /// # Shutdown
    ///
    /// Others may hold this socket too, so its gate is never let down: new handshakes begin until
    /// it is closed. Who still holds it then goes on serving them, and nobody is lost; if nobody
    /// does, those whose handshake completes at that moment are reset. A listener of
    /// [`bind`](Runtime::bind) has no such gap.
    pub fn adopt(&mut self, socket: std::net::TcpListener) -> Result<Listener> {
        Listener::adopt(socket)
    }

    /// A handle to this runtime, for any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::of(self.shared.clone())
    }

    /// How many cores it has.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.shared.stations.len()
    }

    /// Runs `main` on every core, until a stop has ended all of them, and gives the report.
    ///
    /// The future that `main` makes is its core's main future: when all have ended the runtime
    /// stops, and when one ends in an error it stops at once, and the error is in the report. Every
    /// core begins its main before it runs what another main sends it.
    ///
    /// # Errors
    ///
    /// None today; what goes wrong on a core is in the report.
    ///
    /// # Shutdown
    ///
    /// This thread is the coordinator. It returns when every core has ended, within 50 ms of the
    /// hard deadline at the latest; a core that hangs in user code is not waited for
    /// ([`Shutdown::stuck_after`]), and its thread is left behind. Should this thread itself hang
    /// (in a signal handler, say), a timer ends the process with exit code 82 a quarter of a second
    /// after the hard deadline. A signal that came before is heard: the mains are started and
    /// stopped, so that clients in the backlog are answered. The third signal leaves the process
    /// ([`Shutdown`]).
    #[track_caller]
    pub fn run<F, Fut>(mut self, main: F) -> Result<Report>
    where
        F: Fn(Core) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<()>> + 'static,
    {
        let site = Location::caller();
        self.post_mains(&Arc::new(main), site);
        self.ran = true;
        let (report, keepers) = self.coordinator().run();
        self.join(&report);
        drop(keepers.signals);
        self.shared.board.conclude(&report);
        drop(keepers.dead_man);
        Ok(report)
    }

    /// Sends every core its main.
    ///
    /// None begins before the last was sent, so that it stands in each mailbox before whatever
    /// another main may send there: a letter that hangs would otherwise keep a core from a main, and
    /// so from a listener, that it was to begin with.
    fn post_mains<F, Fut>(&self, main: &Arc<F>, site: &'static Location<'static>)
    where
        F: Fn(Core) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<()>> + 'static,
    {
        let all_sent = Arc::new(Mutex::new(()));
        let sending = lock(&all_sent);
        for station in &self.shared.stations {
            let (main, all_sent) = (main.clone(), all_sent.clone());
            let letter = Letter::of(move || {
                // This thread needs a processor for a few stores and rings; nothing else is waited
                // for here, and never again.
                drop(lock(&all_sent));
                begin_main(&*main, site);
            });
            // Only a core that has failed already takes no letter; its report says so.
            let _failed = station.mailbox.post(letter, &self.shared.foreign_letters);
        }
        drop(sending);
    }

    /// The coordinator of this runtime.
    fn coordinator(&mut self) -> Coordinator {
        let (signals, dead_man) = (self.signals.take(), self.dead_man.take());
        Coordinator::new(self.shared.clone(), signals, dead_man, self.stall_after)
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
        // Nobody has heard what came, and nobody will.
        drop(self.signals.take());
        let (report, _keepers) = self.coordinator().abandon();
        self.shared.board.conclude(&report);
        self.join(&report);
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
    let begun = local.begin_main(future, site);
    if !begun && local.station().advance(progress::MAIN_ENDED) {
        local.shared.bell.ring();
    }
}

#[cfg(test)]
mod tests;
