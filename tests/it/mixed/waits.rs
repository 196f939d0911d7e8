//! How long threads of this process were ready and had no processor.
//!
//! The kernel keeps the sum for each thread. A thread that has ended takes it
//! along, so it is looked at over and over.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The waits of each thread, in nanoseconds, by the thread's number.
type Waits = BTreeMap<u32, u64>;

/// Looks at all threads until it is asked.
pub(super) struct Observer {
    /// What each thread had waited when the observation began.
    before: Waits,
    /// Set when nothing more is to be looked at.
    over: Arc<AtomicBool>,
    /// Gives what each thread had waited when it was seen last.
    looks: JoinHandle<Waits>,
}

impl Observer {
    pub(super) fn start() -> Observer {
        let over = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&over);
        let looks = std::thread::spawn(move || {
            let mut last = Waits::new();
            while !asked.load(Ordering::Acquire) {
                last.extend(waits());
                // Ended threads lose at most what they waited in this time.
                std::thread::sleep(Duration::from_millis(5));
            }
            last.extend(waits());
            last
        });
        Observer {
            before: waits(),
            over,
            looks,
        }
    }

    /// How many milliseconds each of `threads` has waited since the start.
    pub(super) fn waited_ms(self, threads: &[u32]) -> Vec<f64> {
        self.over.store(true, Ordering::Release);
        let last = self.looks.join().expect("it reads files");
        let since = |thread: &u32| {
            let before = self.before.get(thread).copied().unwrap_or(0);
            let after = last.get(thread).copied().unwrap_or(before);
            after.saturating_sub(before) as f64 / 1e6
        };
        threads.iter().map(since).collect()
    }
}

fn waits() -> Waits {
    // Not while the process may open nothing. These are sums, so the next look has it all.
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return Waits::new();
    };
    let numbers = threads
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter_map(|thread| Some((thread, waited_ns(thread)?)))
        .collect()
}

/// `None` for a thread that has ended meanwhile.
fn waited_ns(thread: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    text.split(' ').nth(1)?.parse().ok()
}

/// Fails where the kernel does not count.
pub(super) fn must_be_counted() {
    assert!(
        waited_ns(std::process::id()).is_some(),
        "/proc/self/task/N/schedstat is not there: this test needs a kernel with \
         CONFIG_SCHED_INFO, or it cannot tell a late stop from a busy machine"
    );
}

/// The kernel's number of this thread.
pub(super) fn current_thread() -> u32 {
    let link = fs::read_link("/proc/thread-self").expect("/proc is mounted");
    let number = link
        .file_name()
        .and_then(|name| name.to_str()?.parse().ok());
    number.expect("the link ends in a number")
}
