//! The benches of evenfall: the same echo server on what one would take instead, a load that
//! checks every byte, and the tables.
//!
//! `benches/run` is the way in.

mod bench;
mod child;
mod load;
mod ring;
mod serve;
mod sys;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args as Arguments, Parser, Subcommand};

use crate::bench::Setting;
use crate::child::Server;
use crate::load::closed::{Closed, Spec};
use crate::serve::{Kind, Mode, Plan};

/// The benches of evenfall.
#[derive(Parser)]
#[command(name = "peers")]
struct Args {
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

/// What can be done.
#[derive(Subcommand)]
enum Verb {
    /// Serve until SIGTERM; says `ready PORT`.
    Serve {
        /// On what.
        kind: Kind,
        /// Processors, one thread each.
        #[arg(long, value_delimiter = ',', default_value = "0")]
        cpus: Vec<usize>,
        /// What to do with the bytes.
        #[arg(long, value_enum, default_value = "echo")]
        mode: Mode,
        /// End the connections in order at SIGTERM.
        #[arg(long)]
        graceful: bool,
        /// On the main thread, for valgrind: SIGTERM kills.
        #[arg(long)]
        alone: bool,
    },
    /// Put a closed loop on one server, once, and print what it gave.
    Load {
        /// On what the server is built.
        kind: Kind,
        /// Connections that send.
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// Connections that are open besides.
        #[arg(long, default_value_t = 0)]
        idle: usize,
        /// Bytes of a request.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Requests under way on each connection.
        #[arg(long, default_value_t = 1)]
        depth: usize,
        /// How long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// The echo matrix.
    Echo(BenchArgs),
    /// evenfall between the two bare loops, in slices of a tenth of a second.
    Paired(BenchArgs),
    /// The stops.
    Stop(BenchArgs),
    /// User memory of idle connections.
    Memory(BenchArgs),
    /// Instructions of an echo, by callgrind.
    Instructions(BenchArgs),
    /// System calls of an echo, counted by the kernel.
    Syscalls(BenchArgs),
    /// Makes all tables and pictures again from what is kept.
    Pages(BenchArgs),
    /// The table of what the micro bench has measured.
    Micro {
        /// What all benches are told.
        #[command(flatten)]
        args: BenchArgs,
        /// Where criterion keeps its estimates.
        #[arg(long, value_name = "DIR")]
        estimates: PathBuf,
    },
}

/// What all benches are told.
#[derive(Arguments)]
struct BenchArgs {
    /// Which servers, with commas; all by default.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<Kind>,
    /// Only the cells of these names, or whose names contain these, with semicolons; an `x` is as
    /// good as a `×`. What is kept of the others stays.
    #[arg(long, value_delimiter = ';')]
    only: Vec<String>,
    /// How often each server is measured in each cell: 15 for echo and paired, 7 for stop, 3 for
    /// syscalls by default.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long one measurement lasts: 0.6 s by default, of paired 1.2 s.
    #[arg(long)]
    seconds: Option<f64>,
    /// Few and short rounds, to see that all works; the figures say nothing.
    #[arg(long)]
    quick: bool,
    /// The processor of the servers.
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// The processor of the load.
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
    /// Where tables and plots go, and where those of earlier runs are.
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
    /// The process is ended after so many seconds, whatever hangs.
    #[arg(long, default_value_t = 4 * 3600)]
    limit: u64,
}

impl BenchArgs {
    /// With the defaults filled in.
    fn setting(&self, rounds: usize) -> Setting {
        self.lasting(rounds, 0.6)
    }

    /// With these defaults.
    fn lasting(&self, rounds: usize, seconds: f64) -> Setting {
        sys::bound(Duration::from_secs(self.limit));
        let (quick_rounds, quick_seconds) = (2, 0.2);
        let rounds = if self.quick { quick_rounds } else { rounds };
        let seconds = if self.quick { quick_seconds } else { seconds };
        Setting {
            kinds: match self.servers[..] {
                [] => Kind::here(),
                _ => self.servers.clone(),
            },
            rounds: self.rounds.unwrap_or(rounds),
            length: Duration::from_secs_f64(self.seconds.unwrap_or(seconds)),
            results: self.results.clone(),
            server_cpu: self.server_cpu,
            load_cpu: self.load_cpu,
            quick: self.quick,
            only: self.only.clone(),
        }
    }
}

fn main() -> ExitCode {
    match run(Args::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> io::Result<()> {
    match verb {
        Verb::Serve {
            kind,
            cpus,
            mode,
            graceful,
            alone,
        } => serve::serve(
            kind,
            &Plan {
                cpus,
                mode,
                graceful,
                alone,
            },
        ),
        Verb::Load {
            kind,
            connections,
            idle,
            size,
            depth,
            seconds,
        } => {
            let spec = Spec {
                active: connections,
                idle,
                size,
                depth,
            };
            once(kind, &spec, Duration::from_secs_f64(seconds))
        }
        Verb::Echo(args) => bench::echo::run(&args.setting(15)),
        Verb::Paired(args) => bench::paired::run(&args.lasting(15, 1.2)),
        Verb::Stop(args) => bench::stop::run(&args.setting(7)),
        Verb::Memory(args) => bench::memory::run(&args.setting(1)),
        Verb::Micro { args, estimates } => bench::micro::run(&args.setting(1), &estimates),
        Verb::Instructions(args) => bench::instructions::run(&args.setting(1)),
        Verb::Syscalls(args) => bench::syscalls::run(&args.setting(3)),
        Verb::Pages(args) => {
            let setting = args.setting(1);
            bench::echo::pages(&setting)?;
            bench::paired::pages(&setting)?;
            bench::stop::pages(&setting)
        }
    }
}

/// One round of a closed loop.
fn once(kind: Kind, spec: &Spec, length: Duration) -> io::Result<()> {
    sys::raise_nofile(200_000)?;
    let plan = Plan {
        cpus: vec![0],
        mode: Mode::Echo,
        graceful: false,
        alone: false,
    };
    let mut server = Server::start(kind, &plan, &[])?;
    sys::pin(&[1])?;
    let mut load = Closed::connect(server.port, spec)?;
    load.run(length / 4, u64::MAX)?;
    let before = server.usage()?;
    let tally = load.run(length, u64::MAX)?;
    let used = server.usage()?.since(before);
    let seconds = tally.elapsed.as_secs_f64();
    println!(
        "{}: {:.0}/s, {:.3} us ({:.3} user) a request, p50 {} p99 {} us, busy {:.0} % load {:.0} %",
        kind.name(),
        tally.requests as f64 / seconds,
        used.total_us() as f64 / tally.requests as f64,
        used.user_us as f64 / tally.requests as f64,
        tally.latency.value_at_quantile(0.5) / 1000,
        tally.latency.value_at_quantile(0.99) / 1000,
        used.total_us() as f64 / seconds / 1e4,
        tally.load.total_us() as f64 / seconds / 1e4,
    );
    Ok(())
}
