//! Children of a server: they get none of its descriptors, and it does not notice them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream as Peer};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use evenfall::net::{TcpListener, TcpStream};
use evenfall::{Cores, Phase, spawn};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::args::Args;
use crate::process::{Program, ROLE, WATCHDOG, builder, say};
use crate::promise::{Count, load, promises};
use crate::server::{answer_all, conclude, joined, soon, until};

promises![
    no_descriptor_of_a_server_at_work_is_inherited_by_a_child,
    children_that_begin_and_end_meanwhile_disturb_nobody,
];

/// Every kind there is, both while it runs and while it drains; and with a limit on connections, where
/// each accept is one of its own.
fn no_descriptor_of_a_server_at_work_is_inherited_by_a_child() {
    none_is_inherited(&[]);
    none_is_inherited(&["most=100"]);
}

#[track_caller]
fn none_is_inherited(words: &[&str]) {
    let ended = Program::role("begets", words).finish();
    ended.report(0).loses_nothing();
    let facts = ended.json("facts ");
    let seen = facts.as_array().expect("one for each moment");
    assert_eq!(seen.len(), 2, "{facts}");
    for moment in seen {
        // Of the server's own all are marked, and they are all here: two rings, the alarms of two
        // cores with the coordinator's bell and the handlers', the signals; the listeners (a group's
        // two, one of a core's own, one adopted); both ends of the connections.
        let own = &moment["own"];
        let least = [
            ("[io_uring]", 2),
            ("[eventfd]", 4),
            ("[signalfd]", 1),
            ("socket", 6),
        ];
        for (kind, least) in least {
            assert!(own[kind][0].as_u64() >= Some(least), "{kind} in {moment}");
        }
        for (kind, counts) in own.as_object().expect("a map") {
            assert_eq!(counts[1], 0, "{kind} in {moment}");
        }
        for child in ["vforked", "forked"] {
            assert_eq!(moment[child], json!({}), "{child}: {moment}");
        }
    }
}

/// The server, with children under way, answers a load of 16 KiB echoes byte for byte.
fn children_that_begin_and_end_meanwhile_disturb_nobody() {
    let mut server = Program::role("begets_many", &[]);
    let load = load(&server.address(), "connections=32 size=16384 total=20000");
    let count = Count::of(load);
    count.ended_well();
    assert_eq!(count.number("answered"), 20_000);
    server.line("eight children");
    server.signal(libc::SIGTERM);
    let ended = server.finish();
    ended.report(0).loses_nothing();
    let children = ended.json("facts ")["children"].as_u64();
    assert!(children >= Some(8), "{children:?}");
}

/// What this process has open beyond the standard three, by number.
fn open_here() -> BTreeMap<u32, String> {
    let entries = fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    let open = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        // One that is gone by now has no target any more.
        let target = fs::read_link(entry.path()).ok()?;
        Some((number, target.to_string_lossy().into_owned()))
    });
    open
        // The listing's own.
        .filter(|(number, target)| *number > 2 && !target.starts_with("/proc"))
        .collect()
}

/// The kind of a descriptor.
fn kind(target: &str) -> &str {
    match target.split_once(':') {
        Some(("anon_inode", kind)) => kind,
        Some((kind, _)) => kind,
        None => target,
    }
}

/// What this process has opened since it had `before`: of each kind the number, and how many a child
/// would inherit.
fn own(before: &BTreeMap<u32, String>) -> Value {
    let mut kinds: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for (number, target) in open_here() {
        let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else {
            continue;
        };
        if before.get(&number) == Some(&target) {
            continue;
        }
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        let is_marked = flags.expect("flags in octal") & libc::O_CLOEXEC != 0;
        let [count, unmarked] = kinds.entry(kind(&target).to_owned()).or_default();
        *count += 1;
        *unmarked += u64::from(!is_marked);
    }
    json!(kinds)
}

/// What a child of this process has that the process had not when it was as `before`, as the child
/// says itself.
fn of_child(before: &BTreeMap<u32, String>, forked: bool) -> BTreeMap<u32, String> {
    let this = std::env::current_exe().expect("the test binary knows its path");
    let mut command = Command::new(this);
    command.env(ROLE, "lists_descriptors").stdin(Stdio::null());
    if forked {
        // What runs in the child before its program makes the standard library fork, not spawn.
        evenfall::process::with_clean_signals(&mut command).expect("there are signals");
    }
    let output = command.output().expect("a child");
    assert!(output.status.success(), "{output:?}");
    let mut open: BTreeMap<u32, String> =
        serde_json::from_slice(&output.stdout).expect("what `say` said");
    open.retain(|number, target| before.get(number) != Some(target));
    open
}

pub(crate) fn lists_descriptors(args: Args) -> ExitCode {
    args.finish();
    say(&json!(open_here()).to_string());
    ExitCode::SUCCESS
}

/// A listening socket as one is handed down: it outlives an exec.
fn handed_down() -> std::net::TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("a port");
    socket.listen(64).expect("bound");
    socket.set_cloexec(false).expect("open");
    socket.into()
}

/// All that a server may have open, on two cores.
pub(crate) fn begets(mut args: Args) -> ExitCode {
    let most = args.number("most", usize::MAX);
    args.finish();
    let before = Arc::new(open_here());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let result = (|| {
        let cores = builder().cores(Cores::Count(2));
        let mut runtime = cores.max_connections(most).build()?;
        let group = runtime.bind("127.0.0.1:0")?;
        let adopted = runtime.adopt(handed_down())?;
        let seen = Arc::clone(&seen);
        runtime.run(move |core| {
            let listeners = [group.on(&core), adopted.on(&core)];
            let look = Look {
                before: Arc::clone(&before),
                seen: Arc::clone(&seen),
            };
            async move {
                match core.index() {
                    0 => look_twice(listeners, &look).await,
                    _ => serve_all(listeners).await,
                }
            }
        })
    })();
    let seen = seen.lock().expect("nobody panics with it");
    conclude(result, &Value::Array(seen.clone()))
}

async fn serve_all(listeners: [TcpListener; 2]) -> io::Result<()> {
    let serving = listeners.map(|listener| spawn(async move { listener.serve(answer_all).await }));
    for task in serving {
        task.await.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn look_twice(listeners: [TcpListener; 2], look: &Look) -> io::Result<()> {
    let own_listener = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
    let addresses = [
        listeners[0].local_addr(),
        listeners[1].local_addr(),
        own_listener.local_addr(),
    ];
    let mut serving = vec![spawn(serve_all(listeners))];
    serving.push(spawn(async move { own_listener.serve(answer_all).await }));
    let mut streams = Vec::new();
    for address in addresses {
        streams.push(echoed(address).await?);
    }
    look.look().await;
    // Held open through the drain: whoever is in a request is.
    let peers: Vec<Peer> = addresses.map(half_a_request).into();
    for stream in &mut streams {
        stream.write_all(b"?").await?;
        soon("an echo", stream.read_exact(&mut [0])).await?;
    }
    let handle = evenfall::Handle::current();
    let hold = handle.hold("a look").map_err(io::Error::other)?;
    handle.shutdown();
    until("the drain", || handle.phase() == Phase::Draining).await;
    look.look().await;
    drop((hold, peers, streams));
    for task in serving {
        task.await.map_err(io::Error::other)??;
    }
    Ok(())
}

/// An outgoing connection that has had an echo.
async fn echoed(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = soon("a connect", TcpStream::connect(address)).await?;
    stream.write_all(b"?").await?;
    soon("an echo", stream.read_exact(&mut [0])).await?;
    Ok(stream)
}

/// A peer that stays for as long as it is held.
fn half_a_request(address: SocketAddr) -> Peer {
    let peer = Peer::connect(address).expect("it listens");
    // The peer's own end is the test's: not looked for, but marked by the standard library.
    peer.set_read_timeout(Some(WATCHDOG)).expect("not zero");
    peer
}

/// What there is to compare with, and what was seen.
struct Look {
    /// What the process had open at its start.
    before: Arc<BTreeMap<u32, String>>,
    /// One for each moment.
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Look {
    /// Children are begun on a thread, as a program would: the core serves on.
    async fn look(&self) {
        let before = Arc::clone(&self.before);
        let thread = std::thread::spawn(move || {
            let [vforked, forked] = [false, true].map(|forked| of_child(&before, forked));
            json!({"own": own(&before), "vforked": vforked, "forked": forked})
        });
        let facts = joined(thread).await;
        self.seen.lock().expect("nobody panics with it").push(facts);
    }
}

/// An echo server whose foreign thread starts one child after the other, by both ways.
pub(crate) fn begets_many(args: Args) -> ExitCode {
    let before = Arc::new(open_here());
    let children = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&children);
    let begetting = std::sync::Once::new();
    let result = crate::server::host(crate::server::Setup::only(args), move |core, listener| {
        let (before, handle) = (Arc::clone(&before), core.handle());
        let counted = Arc::clone(&counted);
        begetting.call_once(|| {
            std::thread::spawn(move || {
                while handle.phase() == Phase::Running {
                    let count = counted.load(Ordering::Acquire);
                    assert_eq!(of_child(&before, count % 2 == 0), BTreeMap::new());
                    counted.store(count + 1, Ordering::Release);
                    if count == 7 {
                        say("eight children");
                    }
                }
            });
        });
        async move { listener.serve(answer_all).await }
    });
    let count = children.load(Ordering::Acquire);
    conclude(result, &json!({"children": count}))
}
