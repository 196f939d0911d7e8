//! A listener that is let go of closes; one that is asked for again listens.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::TcpStream as Peer;
use std::process::ExitCode;
use std::sync::OnceLock;

use evenfall::Core;
use evenfall::net::{Listener, TcpListener, TcpStream};
use serde_json::json;

use crate::args::Args;
use crate::process::Program;
use crate::promise::promises;
use crate::server::{Setup, conclude, connect, host, host_group, soon, until};
use crate::sys;

promises![
    a_dropped_listener_closes_while_the_runtime_runs,
    a_core_that_takes_its_listener_again_gets_its_connections,
    a_backlog_that_no_descriptor_is_left_for_is_given_up_at_the_cut_and_named,
];

#[track_caller]
fn passes(case: &str) {
    let words = ["cores=1", &format!("case={case}")];
    let report = Program::role("listening", &words).finish().report(0);
    report.loses_nothing();
}

fn a_dropped_listener_closes_while_the_runtime_runs() {
    passes("dropped");
}

fn a_core_that_takes_its_listener_again_gets_its_connections() {
    passes("again");
}

fn a_backlog_that_no_descriptor_is_left_for_is_given_up_at_the_cut_and_named() {
    let mut server = Program::role("out_of_descriptors", &["cores=1"]);
    let address = server.address();
    let peers: Vec<Peer> = (0..4)
        .map(|_| Peer::connect(&address).expect("the backlog has room"))
        .collect();
    server.tell("force");
    let report = server.finish().report(81);
    report.leaves_nothing();
    drop(peers);
    let stragglers = report.all("stragglers");
    let named = stragglers
        .iter()
        .any(|straggler| straggler["kind"] == "listener" && straggler["name"] == address.as_str());
    assert!(named, "{address} is not among {stragglers:?}");
    // A force leaves one second, and nothing here is worth waiting for.
    assert!(report.elapsed_ms() < 800.0, "{}", report.elapsed_ms());
}

pub(crate) fn listening(mut args: Args) -> ExitCode {
    let case: String = args.take("case").expect("case names one");
    let result = host_group(Setup::only(args), move |core, listener| {
        let case = case.clone();
        async move {
            match case.as_str() {
                "dropped" => dropped().await,
                "again" => again(&core, &listener).await,
                other => panic!("no case {other}"),
            }
        }
    });
    conclude(result, &json!({}))
}

async fn dropped() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
    let address = listener.local_addr();
    // When this one comes out, the accept is in the kernel.
    let peer = connect(address)?;
    drop(soon("an accept", listener.accept()).await?);
    drop(peer);
    drop(listener);
    until("the refusal", || connect(address).is_err()).await;
    std::net::TcpListener::bind(address).map(drop)
}

async fn again(core: &Core, listener: &Listener) -> io::Result<()> {
    let first = listener.on(core);
    let peer = connect(first.local_addr())?;
    drop(soon("the first accept", first.accept()).await?);
    drop(peer);
    drop(first);
    // Its socket is gone, and its record's place is for another listener.
    until("the refusal", || connect(listener.local_addr()).is_err()).await;
    let other = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
    let again = listener.on(core);
    let peers = (connect(again.local_addr())?, connect(other.local_addr())?);
    for (listener, peer) in [(&again, &peers.0), (&other, &peers.1)] {
        let stream = soon("an accept", listener.accept()).await?;
        let stream = stream.expect("nothing was stopped");
        assert_eq!(stream.peer_addr()?, peer.local_addr()?);
    }
    Ok(())
}

/// A server that has used up its descriptors before its first client comes.
pub(crate) fn out_of_descriptors(args: Args) -> ExitCode {
    let result = host(Setup::only(args), |_core, listener| {
        // Held to the end of the process: the cut frees what a future holds.
        HELD.get_or_init(hold_all_descriptors);
        async move { listener.serve(read_one).await }
    });
    conclude(result, &json!({}))
}

/// See [`out_of_descriptors`].
static HELD: OnceLock<Vec<File>> = OnceLock::new();

fn hold_all_descriptors() -> Vec<File> {
    sys::limit_fds(64).expect("a limit may be lowered");
    let open = || File::open("/dev/null").ok();
    std::iter::from_fn(open).collect()
}

async fn read_one(mut stream: TcpStream) -> io::Result<()> {
    stream.next_request().await.map(drop)
}
