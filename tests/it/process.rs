//! Servers and clients as processes of their own.
//!
//! A [`Program`] is this same binary in another role, or an example. It is
//! killed and reaped when the test lets go of it, and no wait for it is
//! without a bound: at the bound the test fails with all that the program has
//! said so far.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::report::Report;
use crate::sys;

/// The environment variable that makes this binary play a role.
pub(crate) const ROLE: &str = "EVENFALL_ROLE";

/// The bound on every wait. Nothing here should take a tenth of it; a test
/// that meets it hangs, and fails with what was captured.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(100);

/// The environment variable that makes all runtimes of the roles use no more of
/// the kernel than the oldest one has. Each test holds under it.
const OLDEST_KERNEL: &str = "EVENFALL_OLDEST_KERNEL";

/// How every runtime of a role begins.
pub(crate) fn builder() -> evenfall::Builder {
    evenfall::Runtime::builder().as_on_oldest_kernel(is_as_on_oldest_kernel())
}

/// Whether the runtimes do without all that is new in the kernel.
pub(crate) fn is_as_on_oldest_kernel() -> bool {
    std::env::var_os(OLDEST_KERNEL).is_some()
}

/// A running child process.
#[derive(Debug)]
pub(crate) struct Program {
    /// The role or the path, for messages.
    name: String,
    /// Not reaped before `finish` or `drop`, so that its pid stays its own.
    child: Child,
    /// Open as long as the test may still send commands.
    stdin: Option<ChildStdin>,
    /// The lines of standard output, in order; closed when the program ended.
    lines: Receiver<String>,
    /// Lines that were taken from `lines` and not asked for yet.
    unread: VecDeque<String>,
    /// Every line so far, for messages.
    said: Vec<String>,
    /// Collects standard error to its end.
    stderr: Option<JoinHandle<String>>,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The role or the path, for messages.
    name: String,
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// All that it wrote to standard output.
    pub(crate) said: Vec<String>,
    /// All that it wrote to standard error.
    pub(crate) stderr: String,
    /// How long `finish` waited for it.
    pub(crate) waited: Duration,
}

impl Program {
    /// Starts this binary in `role`, with `key=value` words.
    pub(crate) fn role(role: &str, words: &[&str]) -> Program {
        let this = std::env::current_exe().expect("the test binary knows its path");
        let mut command = Command::new(this);
        command.env(ROLE, role).args(words);
        Program::start(&format!("{role} {}", words.join(" ")), command)
    }

    /// Starts the example of this name that belongs to this build.
    pub(crate) fn example(name: &str, words: &[&str]) -> Program {
        let this = std::env::current_exe().expect("the test binary knows its path");
        let profile = this.parent().and_then(|deps| deps.parent());
        let path = profile.expect("…/deps/it").join("examples").join(name);
        assert!(
            path.exists(),
            "the example {name} is not built: `cargo test --test it` builds none; run \
             `cargo build --examples` first, with the same profile ({} is missing)",
            path.display()
        );
        let mut command = Command::new(&path);
        command.args(words);
        Program::start(&format!("example {name} {}", words.join(" ")), command)
    }

    /// Starts `command` with pipes on all three ends.
    pub(crate) fn start(name: &str, mut command: Command) -> Program {
        command
            // To print a backtrace takes a tenth of a second, and ten times that
            // on a busy machine: a core that does it is rightly called stuck.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: the closure makes one prctl system call, which is
        // async-signal-safe, and allocates nothing.
        unsafe { command.pre_exec(sys::die_with_parent) };
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{name} does not start: {error}"),
        };
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut stderr = child.stderr.take().expect("standard error is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut all = Vec::new();
            // An error ends the text early; what came before is still shown.
            let _ = stderr.read_to_end(&mut all);
            String::from_utf8_lossy(&all).into_owned()
        });
        Program {
            name: name.to_owned(),
            child,
            stdin,
            lines,
            unread: VecDeque::new(),
            said: Vec::new(),
            stderr: Some(stderr),
        }
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line that begins with `prefix` and returns what
    /// stands behind it. Lines in between are passed over.
    #[track_caller]
    pub(crate) fn line(&mut self, prefix: &str) -> String {
        let until = Instant::now() + WATCHDOG;
        loop {
            while let Some(line) = self.unread.pop_front() {
                if let Some(rest) = line.strip_prefix(prefix) {
                    return rest.trim().to_owned();
                }
            }
            match self.lines.recv_timeout(until - Instant::now().min(until)) {
                Ok(line) => self.hear(line),
                Err(RecvTimeoutError::Timeout) => self.fail(&format!("no line {prefix:?} in time")),
                Err(RecvTimeoutError::Disconnected) => {
                    self.fail(&format!("it ended without a line {prefix:?}"))
                }
            }
        }
    }

    /// As [`line`](Program::line), and reads the rest as JSON.
    #[track_caller]
    pub(crate) fn json(&mut self, prefix: &str) -> Value {
        let rest = self.line(prefix);
        match serde_json::from_str(&rest) {
            Ok(value) => value,
            Err(error) => self.fail(&format!("{rest:?} is no JSON: {error}")),
        }
    }

    /// The address of a server, once it listens.
    #[track_caller]
    pub(crate) fn address(&mut self) -> String {
        let rest = self.line("listening on ");
        rest.split(' ').next().unwrap_or_default().to_owned()
    }

    /// Writes one line to the program's standard input.
    #[track_caller]
    pub(crate) fn tell(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        // In one write, so that the other side reads it as a whole.
        let line = format!("{command}\n");
        if let Err(error) = stdin.write_all(line.as_bytes()) {
            self.fail(&format!("cannot be told {command:?}: {error}"));
        }
    }

    /// Sends a signal. The child is not reaped yet, so the pid is its own.
    #[track_caller]
    pub(crate) fn signal(&self, signal: i32) {
        sys::kill(self.pid(), signal).expect("a child that is not reaped can be signalled");
    }

    /// Waits until the program ends.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Ended {
        let began = Instant::now();
        match sys::wait_for_exit(self.pid(), WATCHDOG) {
            Ok(true) => {}
            Ok(false) => self.fail("it did not end in time"),
            Err(error) => self.fail(&format!("cannot be waited for: {error}")),
        }
        let waited = began.elapsed();
        let status = self.child.wait().expect("an own child can be reaped");
        while let Ok(line) = self.lines.recv_timeout(WATCHDOG) {
            self.hear(line);
        }
        let stderr = self.stderr.take().map(JoinHandle::join);
        Ended {
            name: self.name.clone(),
            status,
            said: std::mem::take(&mut self.said),
            stderr: stderr.and_then(Result::ok).unwrap_or_default(),
            waited,
        }
    }

    fn hear(&mut self, line: String) {
        self.said.push(line.clone());
        self.unread.push_back(line);
    }

    /// Fails the test with everything that is known about the program.
    #[track_caller]
    fn fail(&mut self, why: &str) -> ! {
        // Killed first: the end of its standard error is awaited below.
        let _ = self.child.kill();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(1)) {
            self.said.push(line);
        }
        let stderr = self.stderr.take().map(JoinHandle::join);
        let stderr = stderr.and_then(Result::ok).unwrap_or_default();
        panic!("{}", transcript(&self.name, why, &self.said, &stderr));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only if the child is reaped already, which is the aim.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// What stands behind the last line that begins with `prefix`, as JSON.
    #[track_caller]
    pub(crate) fn json(&self, prefix: &str) -> Value {
        let rest = self.said.iter().rev().find_map(|l| l.strip_prefix(prefix));
        match rest.map(serde_json::from_str) {
            Some(Ok(value)) => value,
            _ => panic!("{}", self.told(&format!("no line {prefix:?} with JSON"))),
        }
    }

    /// The report of a server: exit code and sums are asserted.
    #[track_caller]
    pub(crate) fn report(&self, code: i32) -> Report {
        self.exited(code);
        let report = Report::new(self.json("report "));
        report.adds_up();
        report
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exited(&self, code: i32) {
        let right = self.status.code() == Some(code);
        assert!(
            right,
            "{}",
            self.told(&format!("exit code {code} expected"))
        );
    }

    /// All that is known, under the words `why`.
    pub(crate) fn told(&self, why: &str) -> String {
        let ended = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("{why}; it exited with {code}"),
            (_, Some(signal)) => format!("{why}; signal {signal} ended it"),
            _ => why.to_owned(),
        };
        transcript(&self.name, &ended, &self.said, &self.stderr)
    }
}

fn transcript(name: &str, why: &str, said: &[String], stderr: &str) -> String {
    let said = said.join("\n");
    format!("{name}: {why}\n--- standard output\n{said}\n--- standard error\n{stderr}---")
}

/// One line on standard output, flushed: how roles speak to their test.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more when this fails: the test has ended.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The threads of this process, once those that were joined are gone from its list: a join returns a
/// moment before that.
pub(crate) fn threads() -> usize {
    let listed = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("/proc is mounted");
        tasks.count()
    };
    let deadline = Instant::now() + WATCHDOG;
    while listed() > 1 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    listed()
}
