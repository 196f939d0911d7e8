//! The kernel counts: `perf stat` on its tracepoint costs a server next to nothing, so that it batches
//! as it does otherwise. Where there is no `perf` or no tracepoint, `strace -c` counts; it stops the
//! server at each call, which makes it slower and its batches larger, and the table says so.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

/// A counter has begun by then; it gives no sign.
const BEGINS_WITHIN: Duration = Duration::from_millis(300);

/// A counter that does not go in this time never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whose calls are counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whom {
    /// Those of all threads of the process with this id.
    Process(u32),
    /// Those of the thread with this id.
    Thread(i32),
}

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    /// `perf stat`.
    Perf,
    /// `strace -c`.
    Strace,
}

impl Counter {
    /// The best that works here.
    pub(super) fn here() -> Option<Counter> {
        [Counter::Perf, Counter::Strace]
            .into_iter()
            .find(|counter| counter.works())
    }

    /// Whether it counts the calls of a program that does nothing.
    fn works(self) -> bool {
        let mut command = match self {
            Counter::Perf => Command::new("perf"),
            Counter::Strace => Command::new("strace"),
        };
        match self {
            Counter::Perf => command.args(["stat", "-e", "raw_syscalls:sys_enter", "true"]),
            Counter::Strace => command.args(["-c", "-f", "-o", "/dev/null", "true"]),
        };
        let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        ended.is_ok_and(|status| status.success())
    }

    /// Counts the calls of somebody while `what` is done, which tells when it is over.
    pub(super) fn around<T>(
        self,
        whom: Whom,
        what: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<(u64, T)> {
        let name = format!("evenfall-syscalls-{}", std::process::id());
        let out = std::env::temp_dir().join(name);
        let counted = self.around_into(&out, whom, what);
        fs::remove_file(&out).ok();
        counted
    }

    /// The same, with a file for what the counter writes.
    fn around_into<T>(
        self,
        out: &Path,
        whom: Whom,
        what: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<(u64, T)> {
        let mut counting = self.begin(whom, out)?;
        thread::sleep(BEGINS_WITHIN);
        let done = what();
        sys::interrupt(counting.id())?;
        let begin = Instant::now();
        while counting.try_wait()?.is_none() {
            if begin.elapsed() > PATIENCE {
                counting.kill()?;
                counting.wait()?;
                return Err(io::Error::other("the counter does not end"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        let sum = self.sum(&fs::read_to_string(out)?);
        let sum = sum.ok_or_else(|| io::Error::other("the counter gave no sum"))?;
        Ok((sum, done?))
    }

    /// Begins to count.
    fn begin(self, whom: Whom, out: &Path) -> io::Result<Child> {
        let mut command = match self {
            Counter::Perf => {
                let mut command = Command::new("perf");
                command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter"]);
                command
            }
            Counter::Strace => {
                let mut command = Command::new("strace");
                command.arg("-c");
                command
            }
        };
        command.arg("-o").arg(out);
        match (self, whom) {
            (Counter::Perf, Whom::Process(pid)) => command.args(["-p", &pid.to_string()]),
            (Counter::Perf, Whom::Thread(tid)) => command.args(["-t", &tid.to_string()]),
            (Counter::Strace, Whom::Process(pid)) => command.args(["-f", "-p", &pid.to_string()]),
            (Counter::Strace, Whom::Thread(tid)) => command.args(["-p", &tid.to_string()]),
        };
        command.stdout(Stdio::null()).stderr(Stdio::null());
        sys::spawn_tied(&mut command)
    }

    /// The sum in what it wrote.
    fn sum(self, text: &str) -> Option<u64> {
        match self {
            // `1234,,raw_syscalls:sys_enter,…`
            Counter::Perf => {
                let mut lines = text.lines();
                let line = lines.find(|line| line.contains("raw_syscalls"))?;
                line.split(',').next()?.parse().ok()
            }
            // `100.00 0.012 2 1234 5 total`, without the errors' column if there were none.
            Counter::Strace => {
                let line = text.lines().find(|line| line.ends_with("total"))?;
                line.split_whitespace().nth(3)?.parse().ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_found_in_what_the_counter_writes() {
        let perf = "# started on\n\n1234,,raw_syscalls:sys_enter,600,100.00,,\n";
        assert_eq!(Counter::Perf.sum(perf), Some(1234));
        let strace = "% time seconds usecs/call calls errors syscall\n 100.00 0.01 2 99 total\n";
        assert_eq!(Counter::Strace.sum(strace), Some(99));
        assert_eq!(Counter::Strace.sum(""), None);
    }
}
