//! Promises of the runtime, kept by real processes with real signals.
//!
//! One binary plays all parts. Run by `cargo test` it is the tests; with
//! `EVENFALL_ROLE` in its environment it is the server or the client that a
//! test has started. That is why it has a `main` of its own: a process with a
//! role begins with one thread and a signal mask that nobody has touched.
//!
//! Each module of promises has its tests first and the servers that only they
//! need below. `promise` says what a promise is, `process` starts programs,
//! `client` and `server` are what most tests start, `wire` is what these two
//! say to each other, `report` reads a server's report.

mod args;
mod client;
mod process;
mod promise;
mod report;
mod server;
mod sys;
mod wire;

mod adopted;
mod after_cut;
mod bounds;
mod burdened;
mod children;
mod clients;
mod closing;
mod crowd;
mod dead_man;
mod deadline;
mod delay;
mod delivery;
mod example;
mod failure;
mod fair;
mod gate;
mod hooks;
mod hung_up;
mod idle;
mod inherited;
mod limits;
mod listening;
mod loss;
mod memory;
mod mixed;
mod netty;
mod network;
mod outgoing;
mod overdue;
mod panics;
mod path;
mod phases;
mod pid_one;
mod policy;
mod port;
mod queues;
mod refused;
mod rounds;
mod rude;
mod secrets;
mod signals;
mod stages;
mod stalled;
mod start_up;
mod starved;
mod stop;
mod storm;
mod stuck;
mod tasks;
mod tidy;
mod too_late;
mod traffic;
mod user_code;
mod vanished;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use args::Args;

fn main() -> ExitCode {
    match std::env::var(process::ROLE) {
        Ok(role) => play(&role),
        Err(_) => libtest_mimic::run(&Arguments::from_args(), trials()).exit_code(),
    }
}

/// Runs this process as `role`.
fn play(role: &str) -> ExitCode {
    let role: fn(Args) -> ExitCode = match role {
        "load" => client::load,
        "single" => client::single,
        "upload" => client::upload,
        "echo" => server::echo,
        "framed" => server::framed,
        "adopted" => adopted::adopted,
        "accepts_and_sleeps" => loss::accepts_and_sleeps,
        "after_cut" => after_cut::after_cut,
        "answers_and_closes" => delay::answers_and_closes,
        "answers_once" => delivery::answers_once,
        "as_the_example" => memory::as_the_example,
        "begets" => children::begets,
        "begets_many" => children::begets_many,
        "closing" => closing::closing,
        "crossfire" => crowd::crossfire,
        "crowded" => idle::crowded,
        "delayed" => delay::delayed,
        "drops_recvs" => loss::drops_recvs,
        "fails" => failure::fails,
        "feeds" => queues::feeds,
        "forwarder" => path::forwarder,
        "gated" => gate::gated,
        "hangs" => deadline::hangs,
        "hooks" => hooks::hooks,
        "housekeeps" => phases::housekeeps,
        "hung_up" => hung_up::hung_up,
        "inherits" => inherited::inherits,
        "is_called_by_many" => storm::is_called_by_many,
        "is_pid_one" => pid_one::is_pid_one,
        "knows_no_requests" => phases::knows_no_requests,
        "late_hook" => overdue::late_hook,
        "at_the_limit" => limits::at_the_limit,
        "extremes" => limits::extremes,
        "little_memory" => limits::little_memory,
        "resets" => rude::resets,
        "panics" => panics::panics,
        "drips" => rude::drips,
        "limited" => network::limited,
        "listening" => listening::listening,
        "lists_descriptors" => children::lists_descriptors,
        "listens_late" => phases::listens_late,
        "lives_on" => stop::lives_on,
        "million" => crowd::million,
        "mixed" => mixed::mixed,
        "namespaces" => gate::namespaces,
        "netty" => netty::netty,
        "network" => network::network,
        "out_of_descriptors" => listening::out_of_descriptors,
        "outgoing" => outgoing::outgoing,
        "overdue_timers" => overdue::overdue_timers,
        "parks" => rounds::parks,
        "pours" => clients::pours,
        "policies" => policy::policies,
        "refused" => refused::refuse,
        "rounds" => rounds::rounds,
        "sends" => signals::sends,
        "signalled" => signals::signalled,
        "slow_reader" => traffic::slow_reader,
        "stages" => stages::stages,
        "stalled" => stalled::stalled,
        "stalls" => stuck::stalls,
        "brings" => fair::brings,
        "hoards" => bounds::hoards,
        "talks_on" => bounds::talks_on,
        "keeps_secrets" => secrets::keeps_secrets,
        "burdened" => burdened::burdened,
        "starves" => starved::starves,
        "starts" => start_up::starts,
        "starts_pid_one" => pid_one::starts_pid_one,
        "streams" => phases::streams,
        "stormy" => storm::stormy,
        "beset" => storm::beset,
        "tasks" => tasks::tasks,
        "tells_readiness" => phases::tells_readiness,
        "too_late" => too_late::too_late,
        "two" => rounds::two,
        "user_code" => user_code::user_code,
        "vanished" => vanished::vanished,
        "wedged" => dead_man::wedged,
        _ => panic!("nobody plays {role}"),
    };
    role(Args::of_this_process())
}

fn trials() -> Vec<Trial> {
    let modules = [
        adopted::promises,
        after_cut::promises,
        bounds::promises,
        queues::promises,
        secrets::promises,
        children::promises,
        clients::promises,
        closing::promises,
        crowd::promises,
        dead_man::promises,
        deadline::promises,
        delay::promises,
        delivery::promises,
        example::promises,
        failure::promises,
        fair::promises,
        gate::promises,
        hooks::promises,
        hung_up::promises,
        idle::promises,
        inherited::promises,
        limits::promises,
        listening::promises,
        loss::promises,
        memory::promises,
        mixed::promises,
        netty::promises,
        network::promises,
        outgoing::promises,
        overdue::promises,
        panics::promises,
        phases::promises,
        policy::promises,
        pid_one::promises,
        port::promises,
        refused::promises,
        rounds::promises,
        rude::promises,
        signals::promises,
        stages::promises,
        burdened::promises,
        starved::promises,
        start_up::promises,
        stalled::promises,
        stop::promises,
        storm::promises,
        stuck::promises,
        tasks::promises,
        tidy::promises,
        too_late::promises,
        traffic::promises,
        user_code::promises,
        vanished::promises,
    ];
    modules.iter().flat_map(|promises| promises()).collect()
}
