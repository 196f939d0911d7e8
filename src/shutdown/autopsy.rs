//! What can be said of a core that does not come back from its turn: which task it polls, and what
//! the kernel says of its thread.
//!
//! A thread that is ready and has no processor looks like one that computes: its state is R. The
//! time that it had on a processor tells the two apart.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::clock::ns;
use crate::config::{HANDLERS_LOOK, LAST_WORDS};
use crate::report::{Stuck, ms_from};
use crate::ring::sys::event::wait_readable;
use crate::ring::sys::thread::current_id;
use crate::shared::Station;
use crate::task::{Kind, Running};

/// How long a core's thread was on a processor when its last words were asked for (ns), where the
/// kernel says so. By default it was not asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked(Option<u64>);

impl Asked {
    /// Now.
    pub(crate) fn now(station: &Station) -> Asked {
        Asked(station.pulse.thread().and_then(on_processor_ns))
    }

    /// Whether the core would go on, but has hardly had a processor since.
    pub(crate) fn is_starved(self, station: &Station) -> bool {
        match (self, station.pulse.thread()) {
            (Asked(Some(before_ns)), Some(thread)) => is_starved_since(before_ns, thread),
            _ => false,
        }
    }
}

/// Whether the core of `station` has a processor, or waits for one.
pub(super) fn is_ready(station: &Station) -> bool {
    station.pulse.thread().is_some_and(wants_processor)
}

/// Whether a thread is on a processor, or waits for one.
fn wants_processor(thread: u32) -> bool {
    read(thread, "stat").and_then(|stat| state_letter(&stat)) == Some('R')
}

/// Waits until each other thread of this process has been seen at rest once, and so in no handler of a
/// signal that it was given before; for no longer than `limit`.
///
/// Signals may come to this thread all the while, and each ends its wait early. A sleep that goes on
/// after one, as the standard library's does, is no such wait: the time it has left is given back with
/// the kernel's slack of 50 µs on top, so that signals which follow each other faster make it longer
/// and longer (a stop in a storm of 150 ms took up to 640 ms by that).
pub(super) fn let_others_rest(limit: Duration) {
    let begun = Instant::now();
    let own = current_id();
    let entries = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let name =
        |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    let threads = entries
        .filter_map(name)
        .filter_map(|name| name.parse().ok());
    for thread in threads.filter(|thread| *thread != own) {
        while is_at_work(thread) {
            if begun.elapsed() >= limit {
                return;
            }
            // Without memory for it there is no pause, and the limit is the same.
            let _no_memory = wait_readable(&[], Some(HANDLERS_LOOK));
        }
    }
}

/// Whether a thread runs, is ready to, or waits for memory or a disk: in a handler it may do any of them,
/// and sleeps for nothing else.
fn is_at_work(thread: u32) -> bool {
    let letter = read(thread, "stat").and_then(|stat| state_letter(&stat));
    matches!(letter, Some('R' | 'D'))
}

/// Whether a thread is ready and has hardly been on a processor since it had been for `before_ns`.
fn is_starved_since(before_ns: u64, thread: u32) -> bool {
    let now_ns = on_processor_ns(thread).unwrap_or(u64::MAX);
    wants_processor(thread) && now_ns.saturating_sub(before_ns) < ns(LAST_WORDS) / 4
}

/// Where the core of `station` hangs, at the end of a stop that began at `start_ns`.
pub(crate) fn of(station: &Station, asked: Asked, start_ns: u64, now_ns: u64) -> Stuck {
    let pulse = &station.pulse;
    let running = pulse.running();
    let thread = pulse.thread();
    let starved = asked.is_starved(station);
    Stuck {
        task: running.map_or_else(String::new, name),
        spawned_at: running.map(|running| running.info.site.to_string()),
        since_ms: ms_from(start_ns, pulse.turn_ns().unwrap_or(now_ns)),
        state: match thread {
            Some(_) if starved => "R (ready, but kept from its processor)".to_owned(),
            Some(thread) => state(thread),
            None => String::new(),
        },
        wchan: thread.and_then(wait_channel),
    }
}

/// The task by the name it has among the stragglers.
fn name(running: Running) -> String {
    let id = running.info.id;
    let name = match running.info.kind {
        Kind::Main => format!("main {id}"),
        Kind::Essential => format!("task {id}"),
        Kind::Background => format!("background task {id}"),
        Kind::Hook => format!("hooks' task {id}"),
    };
    if running.dropping {
        format!("{name} (its destructor)")
    } else {
        name
    }
}

/// One of the kernel's files on a thread of this process.
fn read(thread: u32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/self/task/{thread}/{file}")).ok()
}

/// `R (running)`, or `S (sleeping) in futex`.
fn state(thread: u32) -> String {
    let letter = read(thread, "stat").and_then(|stat| state_letter(&stat));
    let mut words = match letter {
        None => return "unknown".to_owned(),
        Some('R') => "R (running)".to_owned(),
        Some('S') => "S (sleeping)".to_owned(),
        Some('D') => "D (waiting, not to be disturbed)".to_owned(),
        Some('T' | 't') => "T (stopped)".to_owned(),
        Some('Z' | 'X') => "gone".to_owned(),
        Some(other) => other.to_string(),
    };
    let call = read(thread, "syscall").and_then(|syscall| syscall_number(&syscall));
    if let Some(number) = call {
        words.push_str(&format!(" in {}", syscall_name(number)));
    }
    words
}

/// The third field of `stat`; the second is in brackets and may hold anything.
fn state_letter(stat: &str) -> Option<char> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

/// How long a thread was on a processor (ns): the first field of its `schedstat`.
fn on_processor_ns(thread: u32) -> Option<u64> {
    let text = read(thread, "schedstat")?;
    text.split_whitespace().next()?.parse().ok()
}

/// The number of the system call a thread is in. None where it runs (`running`) or waits outside
/// of any (`-1 ...`).
fn syscall_number(syscall: &str) -> Option<i64> {
    let first = syscall.split_whitespace().next()?;
    first.parse().ok().filter(|number| *number >= 0)
}

/// The name of the calls a thread is likely to hang in, and the number of any other.
fn syscall_name(number: i64) -> String {
    let known = [
        (libc::SYS_futex, "futex"),
        (libc::SYS_nanosleep, "nanosleep"),
        (libc::SYS_clock_nanosleep, "clock_nanosleep"),
        (libc::SYS_read, "read"),
        (libc::SYS_write, "write"),
        (libc::SYS_recvfrom, "recvfrom"),
        (libc::SYS_sendto, "sendto"),
        (libc::SYS_connect, "connect"),
        (libc::SYS_accept4, "accept4"),
        (libc::SYS_ppoll, "ppoll"),
        (libc::SYS_epoll_pwait, "epoll_pwait"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
        (libc::SYS_openat, "openat"),
        (libc::SYS_fsync, "fsync"),
        (libc::SYS_fdatasync, "fdatasync"),
        (libc::SYS_flock, "flock"),
        (libc::SYS_wait4, "wait4"),
    ];
    let name = known.iter().find(|(known, _)| *known == number);
    name.map_or_else(
        || format!("system call {number}"),
        |(_, name)| (*name).to_owned(),
    )
}

/// What the thread waits for in the kernel; the kernel says `0` where that is nothing.
fn wait_channel(thread: u32) -> Option<String> {
    let channel = read(thread, "wchan")?;
    let channel = channel.trim();
    (!channel.is_empty() && channel != "0").then(|| channel.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_any_name_has_its_state_read() {
        assert_eq!(state_letter("12 (a ) S (b) R 1 2"), Some('R'));
        assert_eq!(state_letter("12 (evenfall-0) S 1"), Some('S'));
        assert_eq!(state_letter("12"), None);
    }

    #[test]
    fn only_a_system_call_has_a_number() {
        assert_eq!(syscall_number("running\n"), None);
        assert_eq!(syscall_number("-1 0x7ffd 0x7f00\n"), None);
        assert_eq!(syscall_number("202 0x1 0x0 0x7f\n"), Some(202));
        assert_eq!(syscall_name(libc::SYS_futex), "futex");
        assert_eq!(syscall_name(99_999), "system call 99999");
    }

    #[test]
    fn a_thread_that_computes_is_not_starved() {
        let thread = crate::ring::sys::thread::current_id();
        let on_processor =
            || on_processor_ns(thread).expect("the kernel counts (CONFIG_SCHED_INFO)");
        let before_ns = on_processor();
        assert!(is_starved_since(before_ns, thread), "it had no time yet");
        while on_processor() < before_ns + ns(LAST_WORDS) / 4 {
            std::hint::spin_loop();
        }
        assert!(!is_starved_since(before_ns, thread));
    }

    #[test]
    fn a_thread_that_waits_is_not_starved() {
        let (number, numbers) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let waits = std::thread::spawn(move || {
            number
                .send(crate::ring::sys::thread::current_id())
                .expect("awaited");
            assert!(ends.recv().is_err(), "nothing is sent");
        });
        let thread = numbers.recv().expect("it begins");
        let began = std::time::Instant::now();
        while state(thread) != "S (sleeping) in futex" {
            assert!(began.elapsed().as_secs() < 30, "it waits for nothing");
            std::thread::yield_now();
        }
        assert!(!is_starved_since(u64::MAX, thread));
        drop(end);
        waits.join().expect("it ends");
    }

    #[test]
    fn a_thread_that_runs_says_so() {
        let words = state(crate::ring::sys::thread::current_id());
        assert!(words.starts_with("R (running)"), "{words}");
        assert_eq!(state(u32::MAX), "unknown");
    }
}
