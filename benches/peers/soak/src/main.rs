//! Soak: a runtime is built, serves and stops, over and over in one process, and nothing may stay
//! behind there.
//!
//! `benches/run soak` is the way in. A round's clients connect, talk, reset, stall and half-close as
//! the seed has it (`plan`), from a process of their own (`load`). After each stop the process is
//! measured (`gauges`), and in the end each gauge has to be flat (`flat`).

mod flat;
mod gauges;
mod heap;
mod load;
mod page;
mod plan;
mod plot;
mod round;
mod sys;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args as Arguments, Parser, Subcommand};

use crate::gauges::Sample;
use crate::page::{Totals, grouped};
use crate::round::{Client, Field, Outcome};

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

/// Starts and stops evenfall over and over.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

/// What can be done.
#[derive(Subcommand)]
enum Verb {
    /// The soak.
    Run(RunArgs),
    /// Draws the plot again from the samples that are kept.
    Plot {
        /// Where they are.
        #[arg(long, value_name = "DIR")]
        results: PathBuf,
    },
    /// The client of a soak; it takes its rounds from its input.
    #[command(hide = true)]
    Load {
        /// Of all plans.
        #[arg(long)]
        seed: u64,
        /// Its processor.
        #[arg(long)]
        cpu: usize,
    },
}

/// How far a soak goes. It ends when both counts are reached, or when its time is over.
#[derive(Arguments)]
struct RunArgs {
    /// Runtimes to start and stop.
    #[arg(long, default_value_t = 10_000)]
    stops: u64,
    /// Requests to answer.
    #[arg(long, default_value_t = 10_000_000)]
    requests: u64,
    /// Time for all of it.
    #[arg(long, default_value_t = 4.0 * 3600.0)]
    seconds: f64,
    /// Which rounds: the same seed gives the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The processors of the cores; few rounds use the second.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    cpus: Vec<usize>,
    /// The processor of the client.
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
    /// Says that the figures are not to be kept; `benches/run` puts them elsewhere.
    #[arg(long)]
    quick: bool,
    /// Where samples, plot and page go.
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
}

fn main() -> ExitCode {
    let result = match Args::parse().verb {
        Verb::Run(args) => soak(&args),
        Verb::Plot { results } => page::draw_again(&results).map(|()| true),
        Verb::Load { seed, cpu } => load::obey(seed, cpu).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nsoak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs it, and says whether all is flat.
fn soak(args: &RunArgs) -> io::Result<bool> {
    let limit = Duration::from_secs_f64(args.seconds);
    // A round that hangs ends the soak.
    sys::bound(limit + Duration::from_secs(60));
    let (totals, samples) = rounds(args, limit)?;
    let courses = flat::courses(&samples)
        .ok_or_else(|| io::Error::other("fewer than 100 stops say nothing: give it more time"))?;
    page::write(&args.results, &totals, &samples, &courses)?;
    println!(
        "{} stops, {} replies, {} s; the rest is in {}",
        grouped(totals.stops as f64),
        grouped(totals.replies as f64),
        totals.elapsed.as_secs(),
        args.results.join("soak.md").display()
    );
    for course in &courses {
        let name = course.gauge.name;
        let (early, late) = (grouped(course.early), grouped(course.late));
        let flat = if course.is_flat() { "flat" } else { "RISES" };
        println!("{name:>14}: {early} early, {late} late: {flat}");
    }
    Ok(courses.iter().all(flat::Course::is_flat))
}

/// All rounds.
fn rounds(args: &RunArgs, limit: Duration) -> io::Result<(Totals, Vec<Sample>)> {
    let begun = Instant::now();
    let mut field = Field {
        seed: args.seed,
        cpus: args.cpus.clone(),
        client: Client::start(args.seed, args.load_cpu)?,
    };
    let mut totals = Totals {
        seed: args.seed,
        // What is counted later makes no blocks any more.
        verdicts: Vec::with_capacity(8),
        ..Totals::default()
    };
    // All the room it may need, touched at once: what it grew by would be seen as a leak.
    let most = (args.stops as usize).max(STOPS_MIN) * ROOM;
    let mut samples = vec![Sample::NONE; most];
    samples.clear();
    let mut told = begun;
    while samples.len() < most && begun.elapsed() < limit {
        let outcome = field.round(totals.stops)?;
        totals.add(&outcome);
        let interrupted = outcome.interrupted;
        let left = outcome.report.as_ref().map_or([0; 4], gauges::left);
        // A report is as long as the round was lively.
        drop(outcome);
        let own = most * size_of::<Sample>();
        samples.push(Sample::take(totals.stops, totals.replies, left, own)?);
        totals.elapsed = begun.elapsed();
        totals.enough = totals.stops >= args.stops && totals.replies >= args.requests;
        if interrupted || totals.enough {
            break;
        }
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            progress(args, &totals, limit);
        }
    }
    Ok((totals, samples))
}

/// A soak that is asked for few stops has room for the samples of so many.
const STOPS_MIN: usize = 10_000;

/// So many times the stops that are asked for fit, where the requests take longer.
const ROOM: usize = 4;

/// A line so often.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

impl Totals {
    /// Counts one round more.
    fn add(&mut self, outcome: &Outcome) {
        self.stops += 1;
        self.replies += outcome.tally.replies;
        self.connections += outcome.tally.connections;
        self.resets += outcome.tally.resets;
        let Some(report) = &outcome.report else {
            self.unrun += 1;
            return;
        };
        let verdict = report.verdict;
        match self
            .verdicts
            .iter_mut()
            .find(|(known, _)| *known == verdict)
        {
            Some((_, count)) => *count += 1,
            None => self.verdicts.push((verdict, 1)),
        }
    }
}

/// How far it has come.
fn progress(args: &RunArgs, totals: &Totals, limit: Duration) {
    let part = |done: u64, of: u64| done as f64 / of.max(1) as f64;
    let counts = part(totals.stops, args.stops).min(part(totals.replies, args.requests));
    let time = totals.elapsed.as_secs_f64() / limit.as_secs_f64();
    eprintln!(
        "[{:3.0} %] {} stops, {} replies, {} s",
        100.0 * counts.max(time),
        grouped(totals.stops as f64),
        grouped(totals.replies as f64),
        totals.elapsed.as_secs()
    );
}
