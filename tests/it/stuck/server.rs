//! The server of these tests: one of its two cores hangs, in one way or another.
#![forbid(unsafe_code)]

use std::future::pending;
use std::io;
use std::net::{SocketAddr, TcpListener as Outside, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::{Duration, Instant};

use evenfall::net::Listener;
use evenfall::{Cores, Guard, Handle, Report, Shutdown, spawn, spawn_on};
use serde_json::json;

use crate::args::Args;
use crate::process::{builder, say};
use crate::server::{answer_all, conclude};

/// How a core hangs.
#[derive(Clone, Debug)]
struct Hang {
    /// `spin`, `sleep`, `lock` or `drop`.
    how: String,
    /// For how long.
    time: Duration,
    /// A lock that nobody lets go of.
    lock: Arc<Mutex<()>>,
    /// Waits for ever after it has come back.
    lives_on: bool,
    /// What becomes of a guard that it takes before, if it takes one.
    guard: Option<Kept>,
}

/// What becomes of a guard.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// The task that hangs keeps it.
    Here,
    /// A thread has it, and lets it go so long after the begin of the drain.
    ByThread(Duration),
}

impl Hang {
    /// The task that hangs.
    async fn hang(self) {
        let _kept = self.guard.and_then(take_guard);
        if self.how == "drop" {
            let _hangs = HangsInDrop(self);
            say("hanging");
            return pending().await;
        }
        self.now();
        if self.lives_on {
            pending::<()>().await;
        }
    }

    fn now(&self) {
        say("hanging");
        match self.how.as_str() {
            "spin" => {
                let until = Instant::now() + self.time;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
            "lock" => drop(self.lock.lock()),
            _ => std::thread::sleep(self.time),
        }
    }
}

/// Takes a guard on this core; the guard, if the core is to keep it.
fn take_guard(kept: Kept) -> Option<Guard> {
    let handle = Handle::current();
    let guard = handle.hold("compaction").expect("no stop has begun");
    let time = match kept {
        Kept::Here => return Some(guard),
        Kept::ByThread(time) => time,
    };
    let mut phases = handle.phases();
    std::thread::spawn(move || {
        phases.wait_next().expect("this is no core");
        // What the stop waits for takes a while: that is the point here.
        std::thread::sleep(time);
        say("the guard is let go");
        drop(guard);
    });
    None
}

/// Hangs when it is dropped.
struct HangsInDrop(Hang);

impl Drop for HangsInDrop {
    fn drop(&mut self) {
        std::thread::sleep(self.0.time);
    }
}

/// What else the server is asked for.
#[derive(Clone, Debug)]
struct Plan {
    /// How the task hangs.
    hang: Hang,
    /// How long core 0 has a task.
    work: Option<Duration>,
    /// How long the hook of each core takes.
    hook: Duration,
    /// A task hangs on core 0, too.
    all: bool,
    /// The port of core 1 is a socket that was made elsewhere.
    adopt: bool,
    /// Core 1 hangs before it takes its port.
    early: bool,
}

/// Each core echoes on a port of its own; on core 1 (with `all` on both) a task
/// hangs, `how` and `for` how many milliseconds: for ever by default. Core 0
/// has a task of `work` milliseconds, and each core a hook of `hook`. With
/// `guard` the task takes one before: `kept`, or for so long by a thread. With
/// `lives_on` the task that hung waits for ever when it has come back. With
/// `adopt` the port of core 1 is a socket that was made elsewhere. With `early`
/// core 1 hangs before it takes its port.
pub(crate) fn stalls(mut args: Args) -> ExitCode {
    let mut shutdown = Shutdown::default();
    if let Some(timeout) = args.millis("timeout") {
        shutdown = shutdown.timeout(timeout);
    }
    if let Some(stuck_after) = args.millis("stuck_after") {
        shutdown = shutdown.stuck_after(stuck_after);
    }
    let plan = Plan {
        hang: Hang {
            how: args.take("how").expect("how is spin, sleep, lock or drop"),
            time: args.millis("for").unwrap_or(Duration::from_secs(3600)),
            lock: never_let_go(),
            lives_on: args.number("lives_on", false),
            guard: args.take("guard").map(|word: String| match word.as_str() {
                "kept" => Kept::Here,
                millis => Kept::ByThread(Duration::from_millis(millis.parse().expect("a time"))),
            }),
        },
        work: args.millis("work"),
        hook: args.millis("hook").unwrap_or_default(),
        all: args.number("all", false),
        adopt: args.number("adopt", false),
        early: args.number("early", false),
    };
    args.finish();
    let mut doomed = None;
    let result = serve(&plan, shutdown, &mut doomed);
    let listens_on = doomed.is_some_and(|address| TcpStream::connect(address).is_ok());
    conclude(result, &json!({ "listens_on": listens_on }))
}

/// A lock that a thread holds for ever.
fn never_let_go() -> Arc<Mutex<()>> {
    let lock = Arc::new(Mutex::new(()));
    let (held, is_held) = mpsc::channel();
    let holder = Arc::clone(&lock);
    std::thread::spawn(move || {
        let _never_let_go = holder.lock();
        let _told = held.send(());
        loop {
            std::thread::park();
        }
    });
    is_held.recv().expect("the thread holds the lock");
    lock
}

/// Runs until it is stopped. The address of core 1 goes to `doomed`.
fn serve(
    plan: &Plan,
    shutdown: Shutdown,
    doomed: &mut Option<SocketAddr>,
) -> evenfall::Result<Report> {
    let mut runtime = builder()
        .cores(Cores::Count(2))
        .shutdown(shutdown)
        .build()?;
    let of_core_1 = match plan.adopt {
        true => runtime.adopt(Outside::bind("127.0.0.1:0").expect("a port"))?,
        false => runtime.bind("127.0.0.1:0")?,
    };
    *doomed = Some(of_core_1.local_addr());
    let listeners = [runtime.bind("127.0.0.1:0")?, of_core_1];
    // The addresses are said before core 1 hangs.
    let told = Arc::new(Barrier::new(2));
    let plan = plan.clone();
    runtime.run(move |core| {
        if plan.early && core.index() == 1 {
            told.wait();
            plan.hang.now();
        }
        // Taken by one core only, so all of its clients are that core's.
        let listener = listeners[core.index()].on(&core);
        let addresses = listeners.each_ref().map(Listener::local_addr);
        let (plan, told) = (plan.clone(), told.clone());
        async move {
            let hook = plan.hook;
            core.on_shutdown("wait", Duration::from_secs(5), async move || {
                evenfall::time::sleep(hook).await;
                Ok::<(), io::Error>(())
            });
            if core.index() == 0 {
                say(&format!("doomed on {}", addresses[1]));
                say(&format!("siblings on {}", addresses[0]));
                if plan.early {
                    told.wait();
                }
                begin_work(&plan);
            }
            listener.serve(answer_all).await
        }
    })
}

/// Core 0's own task, and those that hang.
fn begin_work(plan: &Plan) {
    if let Some(work) = plan.work {
        drop(spawn(evenfall::time::sleep(work)));
    }
    let hang = plan.hang.clone();
    let elsewhere = hang.clone();
    let sent = spawn_on(1, move || elsewhere.hang());
    drop(sent.expect("core 1 is there"));
    if plan.all {
        drop(spawn(hang.hang()));
    }
}
