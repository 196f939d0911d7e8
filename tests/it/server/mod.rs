//! What the servers of all tests have in common.
//!
//! A server builds a runtime from its command line, runs one main future on
//! each core, says `listening on ADDR` when all of them are up, obeys
//! `shutdown`, `within MS` and `force` on standard input by a foreign thread, and at the
//! end says `facts` (what it counted itself) and `report`, and exits by it.
#![forbid(unsafe_code)]

mod echo;
mod framed;
mod peer;

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenfall::net::{Listener, TcpListener};
use evenfall::time::sleep;
use evenfall::{Core, Cores, Handle, Phase, Report, Shutdown, spawn_background};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::args::Args;
use crate::process::say;
use crate::sys;

pub(crate) use echo::{answer_all, answer_plainly, echo};
pub(crate) use framed::{framed, read_request};
pub(crate) use peer::{connect, joined, pair, reset, soon, until};

/// How a server's runtime is built.
#[derive(Debug)]
pub(crate) struct Setup {
    /// `cores`: how many; two by default, or one where there is but one.
    pub(crate) cores: usize,
    /// `addr`: by default a port of the kernel's choice on 127.0.0.1.
    address: String,
    /// `quiet`, `timeout`, `notice`, `idle_grace`, `linger`,
    /// `stuck_after`: milliseconds.
    shutdown: Shutdown,
    /// `early_thread=true`: the thread on standard input is started before
    /// the runtime blocks its signals.
    early_thread: bool,
    /// `tell=true`: says `draining` when that phase has begun.
    tell: bool,
    /// `adopt=true`: the socket is made outside of the runtime.
    adopt: bool,
    /// `most`: connections of a core.
    most: Option<usize>,
    /// `submissions` and `completions`: the lengths of a ring's queues.
    queues: Option<(u32, u32)>,
    /// `name_peers=true`
    name_peers: bool,
}

impl Setup {
    /// Takes its words out of `args`.
    pub(crate) fn take(args: &mut Args) -> Setup {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut shutdown = Shutdown::default();
        if let Some(quiet) = args.millis("quiet") {
            shutdown = shutdown.quiet(quiet);
        }
        if let Some(timeout) = args.millis("timeout") {
            shutdown = shutdown.timeout(timeout);
        }
        if let Some(notice) = args.millis("notice") {
            shutdown = shutdown.notice(notice);
        }
        if let Some(idle_grace) = args.millis("idle_grace") {
            shutdown = shutdown.idle_grace(idle_grace);
        }
        if let Some(linger) = args.millis("linger") {
            shutdown = shutdown.linger(linger);
        }
        if let Some(stuck_after) = args.millis("stuck_after") {
            shutdown = shutdown.stuck_after(stuck_after);
        }
        Setup {
            cores: args.number("cores", cpus.min(2)),
            address: args.number("addr", "127.0.0.1:0".to_owned()),
            shutdown,
            early_thread: args.number("early_thread", false),
            tell: args.number("tell", false),
            adopt: args.number("adopt", false),
            most: args.take("most"),
            queues: args.take("submissions").zip(args.take("completions")),
            name_peers: args.number("name_peers", false),
        }
    }

    /// The runtime's builder, told all that the words say of it.
    fn builder(&self) -> evenfall::Builder {
        let builder = crate::process::builder()
            .cores(Cores::Count(self.cores))
            .shutdown(self.shutdown.clone())
            .name_peers(self.name_peers)
            .max_connections(self.most.unwrap_or(usize::MAX));
        match self.queues {
            Some((submissions, completions)) => builder.queues(submissions, completions),
            None => builder,
        }
    }

    /// A server that takes no other words.
    pub(crate) fn only(mut args: Args) -> Setup {
        let setup = Setup::take(&mut args);
        args.finish();
        setup
    }
}

/// Runs `main` on each core with the core's listener.
pub(crate) fn host<F, Fut>(setup: Setup, main: F) -> evenfall::Result<Report>
where
    F: Fn(Core, TcpListener) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + 'static,
{
    host_group(setup, move |core, listener| {
        let on_core = listener.on(&core);
        main(core, on_core)
    })
}

/// Runs `main` on each core with the listener that the cores have in common.
pub(crate) fn host_group<F, Fut>(setup: Setup, main: F) -> evenfall::Result<Report>
where
    F: Fn(Core, Listener) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<()>> + 'static,
{
    let early = setup.early_thread.then(Commands::start);
    let mut runtime = setup.builder().build()?;
    let listener = match setup.adopt {
        true => runtime.adopt(made_outside(&setup.address).expect("the address can be had"))?,
        false => runtime.bind(setup.address.as_str())?,
    };
    let commands = early.unwrap_or_else(Commands::start);
    commands.obey_with(runtime.handle());
    let cores_down = Arc::new(AtomicUsize::new(setup.cores));
    runtime.run(move |core| {
        if setup.tell && core.index() == 0 {
            drop(spawn_background(tell_draining(core.handle())));
        }
        let begun = main(core, listener.clone());
        let (cores_down, address) = (Arc::clone(&cores_down), listener.local_addr());
        async move {
            if cores_down.fetch_sub(1, Ordering::AcqRel) == 1 {
                say(&format!("listening on {address}"));
            }
            begun.await
        }
    })
}

/// A listening socket as another program would hand it down.
fn made_outside(address: &str) -> io::Result<std::net::TcpListener> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Housekeeping as far as the stop is concerned: it is not waited for.
async fn tell_draining(handle: Handle) {
    while matches!(handle.phase(), Phase::Running | Phase::Notice) {
        sleep(Duration::from_millis(1)).await;
    }
    say("draining");
}

/// Says what became of the runtime, and gives the process's exit code.
pub(crate) fn conclude(result: evenfall::Result<Report>, facts: &Value) -> ExitCode {
    say(&format!("facts {facts}"));
    match result {
        Ok(report) => {
            say(&format!("report {}", report.to_json()));
            report.exit_code()
        }
        Err(error) => {
            // Standard error is a pipe to the test, which is there or gone.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(2)
        }
    }
}

/// The foreign thread that does what standard input says.
struct Commands {
    /// Tells the thread which runtime it is to act on.
    handle: std::sync::mpsc::Sender<Handle>,
}

impl Commands {
    fn start() -> Commands {
        let (sender, handles) = std::sync::mpsc::channel::<Handle>();
        std::thread::spawn(move || {
            let Ok(handle) = handles.recv() else { return };
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                match line.as_str() {
                    "shutdown" => handle.shutdown(),
                    "force" => handle.force(),
                    "lent" => {
                        let (blocks, bytes) = sys::lent();
                        say(&format!(
                            "lent {}",
                            json!({"blocks": blocks, "bytes": bytes})
                        ));
                    }
                    other => match other.strip_prefix("within ").map(str::parse) {
                        Some(Ok(ms)) => handle.shutdown_within(Duration::from_millis(ms)),
                        _ => panic!("what is {other:?}?"),
                    },
                }
            }
        });
        Commands { handle: sender }
    }

    fn obey_with(&self, handle: Handle) {
        // Fails only if the thread has ended, and then nobody is to be obeyed.
        let _ = self.handle.send(handle);
    }
}
