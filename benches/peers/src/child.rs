//! A server as a process of its own.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;

use crate::serve::{Kind, Plan, netty_classes};
use crate::sys::{self, Usage};

/// No answer takes longer, even under valgrind.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that listens.
pub struct Server {
    /// Not waited for before `wait` or `Drop`.
    child: Option<Child>,
    /// For questions.
    stdin: ChildStdin,
    /// What it says, line by line.
    lines: Receiver<String>,
    /// Where it listens.
    pub port: u16,
}

/// How a server ended.
pub struct End {
    /// Its exit code, or minus the signal that ended it.
    pub code: i32,
    /// All it used in its life.
    pub usage: Usage,
    /// What it said last.
    pub lines: Vec<String>,
}

impl Server {
    /// Starts one, below `wrapper` if that is not empty.
    pub fn start(kind: Kind, plan: &Plan, wrapper: &[String]) -> io::Result<Server> {
        let mut command = match wrapper {
            [] => program(kind, plan)?,
            [first, arguments @ ..] => {
                let wrapped = program(kind, plan)?;
                let mut command = Command::new(first);
                command.args(arguments).arg(wrapped.get_program());
                command.args(wrapped.get_args());
                command
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = sys::spawn_tied(&mut command)?;
        let stdin = child.stdin.take().expect("asked for above");
        let stdout = child.stdout.take().expect("asked for above");
        let (say, lines) = channel();
        // Reads ahead, so that a long report never blocks the server's exit on a full pipe.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server = Server {
            child: Some(child),
            stdin,
            lines,
            port: 0,
        };
        let ready = server.line()?;
        let port = ready
            .strip_prefix("ready ")
            .and_then(|port| port.parse().ok());
        server.port = port.ok_or_else(|| io::Error::other(format!("it said {ready:?}")))?;
        Ok(server)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("not waited for yet").id()
    }

    /// The next line.
    fn line(&self) -> io::Result<String> {
        let line = self.lines.recv_timeout(PATIENCE);
        line.map_err(|_| io::Error::other("the server is gone, or says nothing"))
    }

    /// Asks, and gives the numbers of the answer.
    fn ask(&mut self, question: &str) -> io::Result<Vec<u64>> {
        writeln!(self.stdin, "{question}")?;
        let answer = self.line()?;
        let numbers: Result<_, _> = answer.split(' ').map(str::parse).collect();
        numbers.map_err(|_| io::Error::other(format!("it said {answer:?}")))
    }

    /// What it has used up to now.
    pub fn usage(&mut self) -> io::Result<Usage> {
        match self.ask("usage")?[..] {
            [user_us, sys_us] => Ok(Usage { user_us, sys_us }),
            _ => Err(io::Error::other("usage is two numbers")),
        }
    }

    /// What its allocator has lent out.
    pub fn heap_bytes(&mut self) -> io::Result<u64> {
        Ok(self.ask("heap")?.iter().sum())
    }

    /// Its anonymous resident memory.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| io::Error::other("the kernel tells no RssAnon"))
    }

    /// Waits for the end of one that has been told to stop; one that is not there within `limit`
    /// is killed, and has code -9.
    #[expect(
        clippy::zombie_processes,
        reason = "wait4 does wait, and tells what the child used"
    )]
    pub fn wait(mut self, limit: Duration) -> io::Result<End> {
        let mut child = self.child.take().expect("waited for once");
        sys::wait_readable(&sys::pidfd(child.id())?, limit)?
            .then_some(())
            .map_or_else(|| child.kill(), Ok)?;
        let (code, usage) = sys::wait_for_child(child.id())?;
        // The reader ends with the pipe, so this does too.
        let lines = self.lines.iter().collect();
        Ok(End { code, usage, lines })
    }
}

/// What serves.
fn program(kind: Kind, plan: &Plan) -> io::Result<Command> {
    let mode = plan.mode.to_possible_value().expect("no mode is hidden");
    if kind == Kind::Netty {
        let classes = netty_classes().ok_or_else(|| io::Error::other("no class path for netty"))?;
        // The JVM does not pin threads: it may use the server's processors, and finds no others.
        sys::pin(&plan.cpus)?;
        let mut command = Command::new("java");
        command
            // It would look for a network card, and warn where there is none but a loopback.
            .arg("-Dio.netty.machineId=00:00:00:00:00:00:00:01")
            .args(["-cp", &classes, "EchoServer"])
            .args([&plan.cpus.len().to_string(), mode.get_name()]);
        return Ok(command);
    }
    let cpus: Vec<String> = plan.cpus.iter().map(usize::to_string).collect();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["serve", &kind.name(), "--cpus", &cpus.join(",")])
        .args(["--mode", mode.get_name()])
        .args(plan.graceful.then_some("--graceful"))
        .args(plan.alone.then_some("--alone"));
    Ok(command)
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // What was measured is over: this one needs no grace.
            child.kill().ok();
            child.wait().ok();
        }
    }
}
