//! A runtime that lives through one plan, with clients and callers in its own
//! process, and says how long that took.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{SocketAddr, TcpStream as Peer};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenfall::{Cores, Guard, Handle, Runtime, Shutdown};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::plan::{Lasts, Plan, Trigger, Trouble};
use super::troubles::{ALL, HOARD, HOARD_BYTES, HOARD_CLIENTS, Seen, live, register};
use super::waits::Observer;
use crate::args::Args;
use crate::process::say;
use crate::server::{conclude, connect, reset};
use crate::sys;

/// Clients that hear and say nothing for as long as the process is there: those that do not read, and
/// those that wait in a backlog.
static SILENT: Mutex<Vec<Socket>> = Mutex::new(Vec::new());

/// A guard that is held for as long.
static HELD: Mutex<Option<Guard>> = Mutex::new(None);

/// Lives through the plan of `seed`.
pub(crate) fn mixed(mut args: Args) -> ExitCode {
    let seed: u64 = args.take("seed").expect("seed is a number");
    args.finish();
    let plan = Arc::new(Plan::of(seed, super::cpus()));
    // A second signal may come when all is over; nobody minds it then.
    sys::catch(libc::SIGTERM).expect("a handler of SIGTERM");
    sys::catch(libc::SIGINT).expect("a handler of SIGINT");
    if plan.wedged {
        sys::prepare_to_wedge().expect("a handler of SIGUSR2");
    }
    let mut runtime = build(&plan);
    // One for each core, taken by that core only: who connects there is its client.
    let bind = |_| runtime.bind("127.0.0.1:0").expect("a free port");
    let listeners: Vec<_> = (0..plan.cores.len()).map(bind).collect();
    let addresses = listeners.iter().map(|one| one.local_addr()).collect();
    let seen = Arc::new(Seen::by_nobody(plan.cores.len()));
    let caller = {
        let (plan, seen, handle) = (Arc::clone(&plan), Arc::clone(&seen), runtime.handle());
        std::thread::spawn(move || call(&plan, &seen, &handle, addresses))
    };
    let of_cores = Arc::clone(&seen);
    let result = runtime.run(move |core| {
        let listener = listeners[core.index()].on(&core);
        register(&core, &plan, &of_cores);
        live(core, listener, Arc::clone(&plan), Arc::clone(&of_cores))
    });
    let returned = Instant::now();
    let (began, observer) = caller.join().expect("the caller calls");
    let mut threads = seen.threads();
    threads.push(std::process::id());
    let imbalances = result.as_ref().map(|report| report.imbalances());
    let facts = json!({
        "took_ms": (returned - began).as_secs_f64() * 1e3,
        "hooks": seen.hooks(),
        "imbalances": imbalances.unwrap_or_default(),
        "waited_ms": observer.waited_ms(&threads),
    });
    conclude(result, &facts)
}

fn build(plan: &Plan) -> Runtime {
    let shutdown = Shutdown::default()
        .timeout(Duration::from_millis(plan.timeout_ms))
        .stuck_after(Duration::from_millis(plan.stuck_after_ms))
        .linger(Duration::from_millis(200));
    let runtime = crate::process::builder()
        .cores(Cores::Count(plan.cores.len()))
        .shutdown(shutdown)
        .build();
    runtime.expect("a runtime")
}

/// Brings the clients, calls for the stop when all are there, and says when.
fn call(
    plan: &Plan,
    seen: &Seen,
    handle: &Handle,
    addresses: Vec<SocketAddr>,
) -> (Instant, Observer) {
    let cores = plan.cores.len() as u64;
    await_count(&seen.up, cores);
    let (mut deaf, mut vanishing) = (Vec::new(), Vec::new());
    for (address, troubles) in addresses.iter().zip(&plan.cores) {
        for trouble in troubles {
            match trouble {
                Trouble::DeafClient => deaf.push(ask(*address, &[ALL])),
                Trouble::VanishingClient => vanishing.push(ask(*address, &[!ALL])),
                Trouble::Hoards => {
                    let hoarders = (0..HOARD_CLIENTS).map(|_| ask(*address, &[HOARD; HOARD_BYTES]));
                    deaf.extend(hoarders);
                }
                _ => {}
            }
        }
    }
    await_count(&seen.requests, (deaf.len() + vanishing.len()) as u64);
    let guard = plan
        .guard
        .map(|_| handle.hold("the plan's").expect("no stop is under way"));
    let observer = Observer::start();
    let waiting = plan
        .limited_ms
        .map(|_| connect_without_descriptors(&addresses));
    say("calling");
    let began = Instant::now();
    let mut beside = Vec::new();
    match plan.trigger {
        Trigger::Api => handle.shutdown(),
        Trigger::Signal | Trigger::TwoSignals(_) => terminate(),
        Trigger::Storm => beside.push(std::thread::spawn(storm)),
    }
    if let Some(ms) = plan.limited_ms {
        beside.push(std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(ms).saturating_sub(began.elapsed()));
            sys::raise_fd_limit().expect("it may do that");
        }));
    }
    for peer in vanishing {
        reset(peer).expect("an open socket has options");
    }
    if let Some(Lasts::Ms(ms)) = plan.guard {
        std::thread::sleep(Duration::from_millis(ms));
        drop(guard);
    } else {
        *HELD.lock().expect("no panic holds it") = guard;
    }
    if let Trigger::TwoSignals(apart_ms) = plan.trigger {
        let apart = Duration::from_millis(apart_ms);
        std::thread::sleep(apart.saturating_sub(began.elapsed()));
        terminate();
    }
    // What is forgotten a leak checker reports, and what lies here it does not.
    let silent = deaf.into_iter().map(Socket::from);
    let silent = silent.chain(waiting.into_iter().flatten());
    SILENT.lock().expect("no panic holds it").extend(silent);
    for one in beside {
        one.join().expect("it does its part");
    }
    (began, observer)
}

/// For each core a client that waits in its backlog, since from now on no descriptor can be opened.
/// They say nothing, so that nobody owes them an answer.
fn connect_without_descriptors(addresses: &[SocketAddr]) -> Vec<Socket> {
    let socket = |_| Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    let sockets: Vec<Socket> = addresses.iter().map(socket).collect();
    sys::limit_fds_for_now(0).expect("a process may limit itself");
    for (socket, address) in sockets.iter().zip(addresses) {
        socket
            .connect(&(*address).into())
            .expect("its core listens");
    }
    sockets
}

/// For half of the time in which signals count as one: what is sent may be heard a little later.
const STORM: Duration = Duration::from_millis(150);

fn storm() {
    let began = Instant::now();
    while began.elapsed() < STORM {
        for signal in [libc::SIGTERM, libc::SIGINT] {
            sys::kill(std::process::id(), signal).expect("this process is there");
        }
        std::thread::yield_now();
    }
}

fn terminate() {
    sys::kill(std::process::id(), libc::SIGTERM).expect("this process is there");
}

fn await_count(counter: &AtomicU64, most: u64) {
    while counter.load(Ordering::Acquire) < most {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ask(address: SocketAddr, what: &[u8]) -> Peer {
    let mut peer = connect(address).expect("its core listens");
    peer.write_all(what).expect("its core reads");
    peer
}
