//! What a process has at one moment, and after which round.

use std::fs;
use std::io;

use evenfall::Report;

use crate::heap;

/// One gauge of a [`Sample`].
pub struct Gauge {
    /// Its column.
    pub name: &'static str,
    /// Above its plot.
    pub title: &'static str,
    /// How much may be added over the run, and why so much.
    pub slack: Slack,
}

/// How far a gauge may rise between the second tenth of a run and its last.
#[derive(Clone, Copy, Debug)]
pub struct Slack {
    /// By so much at least.
    pub least: f64,
    /// And by so much for each stop between the two, where a run is long.
    pub per_stop: f64,
    /// In words, for the table.
    pub why: &'static str,
}

/// What must be equal to the last one.
const NONE: Slack = Slack {
    least: 0.0,
    per_stop: 0.0,
    why: "none: all of them are gone when `run` returns",
};

/// All gauges, in the order of [`Sample::values`].
pub const GAUGES: [Gauge; 11] = [
    gauge("fds", "descriptors", NONE),
    gauge("threads", "threads", NONE),
    gauge(
        "mappings",
        "mappings",
        Slack {
            least: 4.0,
            per_stop: 0.0,
            why: "4: the allocator splits and joins its arenas as it pleases",
        },
    ),
    gauge("locked_kib", "locked and pinned memory, KiB", NONE),
    gauge(
        "resident_kib",
        "resident memory, KiB",
        Slack {
            least: 2048.0,
            per_stop: 0.25,
            why: "2 MiB, and 256 bytes a stop: pages the allocator keeps",
        },
    ),
    gauge(
        "heap_blocks",
        "blocks of the heap",
        Slack {
            least: 4.0,
            per_stop: 0.001,
            why: "4, and one for 1,000 stops",
        },
    ),
    gauge(
        "heap_bytes",
        "bytes of the heap",
        Slack {
            least: 1024.0,
            per_stop: 0.1,
            why: "1 KiB, and one byte for 10 stops",
        },
    ),
    gauge("slots", "slots not returned", NONE),
    gauge("buffers", "buffers not returned", NONE),
    gauge("tasks", "tasks not ended", NONE),
    gauge("connections", "connections not ended", NONE),
];

const fn gauge(name: &'static str, title: &'static str, slack: Slack) -> Gauge {
    Gauge { name, title, slack }
}

/// The gauges' values after one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The stops up to now.
    pub stops: u64,
    /// The replies up to now.
    pub replies: u64,
    /// One for each of [`GAUGES`].
    pub values: [f64; GAUGES.len()],
}

impl Sample {
    /// No sample yet.
    pub const NONE: Sample = Sample {
        stops: 0,
        replies: 0,
        values: [0.0; GAUGES.len()],
    };

    /// Of this process, now; `left` is of the runtime that has just ended, and `own` the bytes of the
    /// heap that are the soak's own books.
    pub fn take(stops: u64, replies: u64, left: [i64; 4], own: usize) -> io::Result<Sample> {
        // Before the files are read into the heap.
        let (blocks, bytes) = heap::lent();
        let entries = |path: &str| fs::read_dir(path).map(|entries| entries.count() as f64);
        let status = fs::read_to_string("/proc/self/status")?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse::<f64>().ok()
        };
        let told = |name: &str| {
            let missing = || io::Error::other(format!("/proc/self/status has no {name}"));
            kib(name).ok_or_else(missing)
        };
        Ok(Sample {
            stops,
            replies,
            values: [
                // One of them reads the directory.
                entries("/proc/self/fd")? - 1.0,
                entries("/proc/self/task")?,
                fs::read_to_string("/proc/self/maps")?.lines().count() as f64,
                told("VmLck:")? + told("VmPin:")?,
                told("VmRSS:")?,
                blocks as f64,
                bytes as f64 - own as f64,
                left[0] as f64,
                left[1] as f64,
                left[2] as f64,
                left[3] as f64,
            ],
        })
    }
}

/// What the cores of a runtime have not given back: slots, buffers, tasks, connections.
pub fn left(report: &Report) -> [i64; 4] {
    let mut left = [0; 4];
    for core in &report.cores {
        let (ops, tasks, connections) = (&core.ops, &core.tasks, &core.connections);
        let tasks_ended = tasks.completed + tasks.cancelled + tasks.panicked + tasks.dropped;
        let connections_ended = connections.drained
            + connections.closed_by_peer
            + connections.closed_by_handler
            + connections.aborted
            + connections.peer_reset
            + connections.forced
            + connections.abandoned;
        left[0] += ops.submitted as i64 - ops.completed as i64;
        left[1] += core.buffers.lent as i64;
        left[2] += tasks.spawned as i64 - tasks_ended as i64;
        left[3] += (connections.at_start + connections.accepted) as i64 - connections_ended as i64;
    }
    left
}
