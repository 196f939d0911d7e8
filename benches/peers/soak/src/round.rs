//! One round: a runtime that is built, serves, and stops, in this process.

use std::io::{self, BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use evenfall::net::{TcpListener, TcpStream};
use evenfall::report::Verdict;
use evenfall::time::{interval, sleep, spawn_after};
use evenfall::{Core, Cores, Handle, Report, Runtime, Shutdown, spawn, spawn_background, spawn_on};

use crate::load::{HOST, REQUEST_BYTES, Tally};
use crate::plan::{Plan, Stop};
use crate::sys;

/// Where the rounds are, and on what.
pub struct Field {
    /// Of all plans.
    pub seed: u64,
    /// The processors of the cores.
    pub cpus: Vec<usize>,
    /// The client.
    pub client: Client,
}

/// What a round has shown.
pub struct Outcome {
    /// What the client counted.
    pub tally: Tally,
    /// The report, unless the runtime was dropped.
    pub report: Option<Report>,
    /// Whether somebody interrupted the soak.
    pub interrupted: bool,
}

impl Field {
    /// Lives through one round.
    pub fn round(&mut self, number: u64) -> io::Result<Outcome> {
        let plan = Plan::of(self.seed, number);
        let cpus = self.cpus[..plan.cores.min(self.cpus.len())].to_vec();
        let shutdown = Shutdown::default()
            .timeout(Duration::from_millis(plan.timeout_ms))
            .idle_grace(Duration::from_millis(20));
        let mut runtime = Runtime::builder()
            .cores(Cores::List(cpus))
            .shutdown(shutdown)
            .build()
            .map_err(io::Error::other)?;
        let listener = runtime.bind((HOST, 0)).map_err(io::Error::other)?;
        if plan.stop == Stop::Unrun {
            return Ok(Outcome {
                tally: Tally::default(),
                report: None,
                interrupted: false,
            });
        }
        let (handle, port) = (runtime.handle(), listener.local_addr().port());
        let client = &mut self.client;
        let stop = plan.stop;
        let (called, result) = std::thread::scope(|scope| {
            let caller = scope.spawn(move || {
                let ready = client.begin(number, port);
                // Also where the client has failed: or the run would not end.
                call(stop, &handle);
                ready?;
                client.end()
            });
            let result = runtime.run(move |core| {
                let listener = listener.on(&core);
                live(core, listener)
            });
            (caller.join().expect("the caller only calls"), result)
        });
        let report = result.map_err(io::Error::other)?;
        check(&plan, &report)?;
        let interrupt = Some(libc::SIGINT);
        Ok(Outcome {
            tally: called?,
            interrupted: report.triggers.iter().any(|it| it.signal == interrupt),
            report: Some(report),
        })
    }
}

/// Begins the stop.
fn call(stop: Stop, handle: &Handle) {
    match stop {
        Stop::Signal => sys::terminate_self(),
        Stop::Within => handle.shutdown_within(Duration::from_millis(700)),
        Stop::Force => handle.force(),
        Stop::Call | Stop::Unrun => handle.shutdown(),
    }
}

/// What has to be right after every stop, whatever came before it.
fn check(plan: &Plan, report: &Report) -> io::Result<()> {
    let wrong = |what: &str| Err(io::Error::other(format!("{what}\n{plan:?}\n{report}")));
    let imbalances = report.imbalances();
    if !imbalances.is_empty() {
        return wrong(&format!("the sums do not add up: {imbalances:?}"));
    }
    if report.verdict == Verdict::Failed {
        return wrong("a core has failed");
    }
    if report.cores.iter().any(|core| core.ops.leaked > 0) {
        return wrong("an operation was left in the kernel");
    }
    Ok(())
}

/// A core's main: it serves, and has something of all the runtime offers besides.
async fn live(core: Core, listener: TcpListener) -> io::Result<()> {
    core.on_shutdown("says goodbye", Duration::from_secs(1), async || {
        sleep(Duration::from_millis(1)).await;
        Ok::<(), io::Error>(())
    });
    drop(spawn_background(async {
        let mut ticks = interval(Duration::from_millis(5));
        while ticks.tick().await.is_some() {}
    }));
    drop(spawn_after(Duration::from_millis(2), async {}));
    drop(spawn_after(Duration::from_secs(3_600), async {}));
    let next = (core.index() + 1) % core.handle().cores();
    // The letter to the neighbour, who may be this core itself.
    drop(spawn_on(next, async || drop(spawn(async {}))));
    listener.serve(answer).await
}

/// Sends back what comes, by requests of one size: in the midst of one it waits for the rest.
async fn answer(mut stream: TcpStream) -> io::Result<()> {
    while stream.next_request().await? {
        let mut there = 0;
        while there == 0 || there % REQUEST_BYTES != 0 {
            let chunk = stream.recv().await?;
            if chunk.is_empty() {
                return Ok(());
            }
            there += chunk.len();
            stream.send(chunk).await?;
        }
    }
    Ok(())
}

/// The other process.
pub struct Client {
    /// Ended with this.
    child: Child,
    /// Takes rounds.
    orders: ChildStdin,
    /// What it says.
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// Starts it; it ends when its input does.
    pub fn start(seed: u64, cpu: usize) -> io::Result<Client> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["load", "--seed", &seed.to_string()])
            .args(["--cpu", &cpu.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().expect("it was piped");
        let out = child.stdout.take().expect("it was piped");
        Ok(Client {
            child,
            orders,
            lines: BufReader::new(out).lines(),
        })
    }

    /// Has it do a round, up to where only a stop brings more.
    fn begin(&mut self, number: u64, port: u16) -> io::Result<()> {
        writeln!(self.orders, "{number} {port}")?;
        let line = self.line()?;
        if line != "ready" {
            return Err(io::Error::other(format!("the client said {line:?}")));
        }
        Ok(())
    }

    /// What it counted.
    fn end(&mut self) -> io::Result<Tally> {
        let line = self.line()?;
        let said = || io::Error::other(format!("the client said {line:?}"));
        Tally::parse(&line).ok_or_else(said)
    }

    fn line(&mut self) -> io::Result<String> {
        let gone = || io::Error::other("the client has given up; it says above why");
        self.lines.next().ok_or_else(gone)?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
