//! Ten thousand connections that want nothing: a stop ends them all in order,
//! and whoever is being served does not notice.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use evenfall::net::{TcpListener, TcpStream};
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, say};
use crate::promise::{Count, heavy, load, promises};
use crate::report::Report;
use crate::server::{Setup, answer_all, conclude, host};
use crate::sys;

promises![ten_thousand_idle_connections_end_by_fin_and_no_turn_is_long];

/// So many that what is done for all of them in one turn is seen in its length.
const CROWD: u64 = 10_000;

/// The promise. Looked at in processor time: on the clock a turn lasts as long
/// as the machine is pleased to run other threads in the middle of it.
const LONGEST_TURN_MS: f64 = 5.0;

/// The number of the only core's turns.
#[track_caller]
fn turns(report: &Report, key: &str) -> f64 {
    let turns = &report.cores()[0]["turns"];
    turns[key].as_f64().expect("a number")
}

fn ten_thousand_idle_connections_end_by_fin_and_no_turn_is_long() {
    let _alone = heavy();
    let mut server = Program::role("crowded", &["cores=1", "timeout=60000", "idle_grace=60000"]);
    let idle_address = server.address();
    let active_address = server.line("active at ");
    let words = format!("connections={CROWD} each=1 warm={CROWD} end=stay fds=15000");
    let mut idle = load(&idle_address, &words);
    idle.line("warm");
    // In a closed loop from before the signal until the last idle one is gone.
    let mut active = load(&active_address, "connections=1 warm=10");
    active.line("warm");
    server.signal(libc::SIGTERM);
    let idle = Count::of(idle);
    active.tell("stop");
    let active = Count::of(active);
    let report = server.finish().report(0);
    idle.ended_well();
    assert_eq!(idle.number("established"), CROWD);
    active.ended_well();
    assert_eq!(active.number("unanswered"), 0);
    report.loses_nothing();
    assert_eq!(report.sum("connections", "drained"), CROWD);
    assert_eq!(report.sum("connections", "peer_reset"), 0);
    let longest_ms = turns(&report, "longest_cpu_ms");
    assert!(
        longest_ms <= LONGEST_TURN_MS,
        "a turn of {longest_ms} ms: {}",
        report.cores()[0]["turns"]
    );
}

/// Idle connections at the one listener; at the other, one that is served until
/// its client ends it.
pub(crate) fn crowded(args: Args) -> ExitCode {
    sys::raise_fd_limit().expect("a limit may be raised to its ceiling");
    let result = host(Setup::only(args), |_core, listener| async move {
        let active = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
        say(&format!("active at {}", active.local_addr()));
        let serving = evenfall::spawn(async move { active.serve(serve_on).await });
        listener.serve(answer_all).await?;
        serving.await.map_err(io::Error::other)?
    });
    conclude(result, &json!({}))
}

/// An echo that never says when it is between two requests.
async fn serve_on(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let chunk = stream.recv().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        stream.send(chunk).await?;
    }
}
