//! Ten thousand connections that want nothing: a stop ends them all in order,
//! and whoever is being served does not notice.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use evenfall::net::{DrainPolicy, TcpListener};
use serde_json::json;

use crate::args::Args;
use crate::process::{Program, say};
use crate::promise::{Count, heavy, load, promises};
use crate::report::Report;
use crate::server::{Setup, answer_all, answer_plainly, conclude, host_group};
use crate::sys;

promises![
    ten_thousand_idle_connections_end_by_fin_and_no_turn_is_long,
    ten_thousand_that_know_no_requests_end_by_fin_and_no_turn_is_long,
    ten_thousand_that_are_cut_make_no_turn_long,
];

/// So many that what is done for all of them in one turn is seen in its length.
const CROWD: u64 = 10_000;

/// The promise. Steps are counted, for no clock would do: on the wall's a turn lasts as long as the
/// machine is pleased to run other threads in the middle of it, and a thread's processor time has
/// interrupts in it, and on a virtual machine what other machines take.
const MOST_STEPS: u64 = 400;

/// What ends those that know no requests.
const SILENCE: Duration = Duration::from_millis(200);

fn ten_thousand_idle_connections_end_by_fin_and_no_turn_is_long() {
    let (idle, report) = stopped_while_one_is_served(&[]);
    idle.ended_well();
    assert_eq!(report.sum("connections", "drained"), CROWD);
}

/// Their silence is long enough for all of them at the same moment.
fn ten_thousand_that_know_no_requests_end_by_fin_and_no_turn_is_long() {
    let (idle, report) = stopped_while_one_is_served(&["plain=true"]);
    idle.ended_well();
    assert_eq!(report.sum("connections", "drained"), CROWD);
}

fn ten_thousand_that_are_cut_make_no_turn_long() {
    let (idle, report) = stopped_while_one_is_served(&["cut=true"]);
    assert_eq!(idle.number("reset"), CROWD);
    assert_eq!(report.sum("connections", "aborted"), CROWD);
}

/// Stops a server of one core with a crowd that is idle, and one connection
/// that is in a closed loop from before the signal until the last of the crowd
/// is gone, and then ends by itself.
#[track_caller]
fn stopped_while_one_is_served(words: &[&str]) -> (Count, Report) {
    let _alone = heavy();
    // The one that is served asks for no requests: its own silence never counts.
    // And a machine that gives this core no time for a second has not made it hang.
    let always = [
        "cores=1",
        "timeout=90000",
        "idle_grace=90000",
        "stuck_after=90000",
    ];
    let words: Vec<&str> = always.iter().chain(words).copied().collect();
    let mut server = Program::role("crowded", &words);
    let idle_address = server.address();
    let active_address = server.line("active at ");
    let words = format!("connections={CROWD} each=1 warm={CROWD} end=stay fds=15000");
    let mut idle = load(&idle_address, &words);
    idle.line("warm");
    let mut active = load(&active_address, "connections=1 warm=10");
    active.line("warm");
    server.signal(libc::SIGTERM);
    let idle = Count::of(idle);
    active.tell("stop");
    let active = Count::of(active);
    let report = server.finish().report(0);
    report.loses_nothing();
    assert_eq!(idle.number("established"), CROWD);
    active.ended_well();
    assert_eq!(active.number("unanswered"), 0);
    assert_eq!(report.sum("connections", "peer_reset"), 0);
    let turns = &report.cores()[0]["turns"];
    let most = turns["most_steps"].as_u64().expect("a count");
    assert!(most <= MOST_STEPS, "a turn was long: {turns}");
    (idle, report)
}

/// A crowd at the one listener; at the other, one connection that is served
/// until its client ends it. `plain=true`: the crowd's handlers do not say when
/// they are between two requests, and their silence is counted. `cut=true`: the
/// crowd is reset.
pub(crate) fn crowded(mut args: Args) -> ExitCode {
    sys::raise_fd_limit().expect("a limit may be raised to its ceiling");
    let plain: bool = args.number("plain", false);
    let policy = match args.number("cut", false) {
        true => DrainPolicy::new().cut(),
        false => DrainPolicy::new().idle_grace(SILENCE),
    };
    let result = host_group(Setup::only(args), move |core, listener| {
        let listener = listener.drain_policy(policy.clone()).on(&core);
        async move {
            let active = TcpListener::bind("127.0.0.1:0").map_err(io::Error::other)?;
            say(&format!("active at {}", active.local_addr()));
            let serving = evenfall::spawn(async move { active.serve(answer_plainly).await });
            match plain {
                true => listener.serve(answer_plainly).await?,
                false => listener.serve(answer_all).await?,
            }
            serving.await.map_err(io::Error::other)?
        }
    });
    conclude(result, &json!({}))
}
