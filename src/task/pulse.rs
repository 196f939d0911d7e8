//! The heartbeat of a core: when its turn began and whose code runs, for other threads to read.
//!
//! ```text
//!             begin_turn                run: begin, end for each task     rest (before it sleeps)
//!  resting ──────────────▶ in a turn ◀──────────────────────────────▶ in a task ... ──▶ resting
//! ```
//! The core writes, anybody reads, nobody waits. It costs one store for each turn, one for each
//! sleep and two for each poll, none of them more than a plain store on x86: a core must not be
//! slower because somebody might want to know whether it is.
//!
//! What is read is a glimpse. It is right whenever it matters, that is, when the core has not moved
//! for as long as a heartbeat.

use std::panic::Location;
use std::ptr;

use super::{Info, Kind};
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// The time of a turn that is none: the core sleeps in its ring, has not begun, or has ended.
const RESTING: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// When the turn under way began (ns), or `RESTING`. Written by the core only.
    turn_ns: AtomicU64,
    /// The task whose code runs: its id above the lowest three bits, its kind in two of them, and
    /// in the lowest whether it is being dropped. 0 outside of tasks. Written by the core only.
    task: AtomicU64,
    /// Where the task of `task` was spawned: null, or what a `&'static Location<'static>` was.
    /// Written by the core only, before `task`.
    site: AtomicPtr<Location<'static>>,
    /// The kernel's number of the core's thread; 0 before it has begun.
    thread: AtomicU32,
}

/// The task whose code runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    /// Which task.
    pub(crate) info: Info,
    /// Whether what runs is the destructor of its future.
    pub(crate) dropping: bool,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse {
            turn_ns: AtomicU64::new(RESTING),
            task: AtomicU64::new(0),
            site: AtomicPtr::new(ptr::null_mut()),
            thread: AtomicU32::new(0),
        }
    }
}

/// What `enter` is to be told of the task with this id, whose kind has this discriminant.
#[inline]
pub(super) fn name(id: u64, kind: u8) -> u64 {
    (id << 3) | (u64::from(kind) << 1)
}

/// The core's side.
impl Pulse {
    /// The core has a thread now.
    pub(crate) fn begin(&self, thread: u32) {
        self.thread.store(thread, Ordering::Relaxed);
    }

    /// A turn begins.
    pub(crate) fn begin_turn(&self, now_ns: u64) {
        self.turn_ns.store(now_ns, Ordering::Relaxed);
    }

    /// The core is about to sleep in its ring.
    pub(crate) fn rest(&self) {
        self.turn_ns.store(RESTING, Ordering::Relaxed);
    }

    /// The code of a task of this `name` is about to run.
    #[inline]
    pub(super) fn enter(&self, name: u64, site: &'static Location<'static>, dropping: bool) {
        let word = name | u64::from(dropping);
        let site = ptr::from_ref(site).cast_mut();
        // Release, both: whoever reads the number twice with this place in between knows that they
        // belong together, see `running`.
        self.site.store(site, Ordering::Release);
        self.task.store(word, Ordering::Release);
    }

    /// No task's code runs any more.
    pub(super) fn leave(&self) {
        self.task.store(0, Ordering::Release);
    }

    /// What `task` holds, to be put back by `return_to` after a task inside of a task.
    pub(super) fn outer(&self) -> (u64, *mut Location<'static>) {
        (
            self.task.load(Ordering::Relaxed),
            self.site.load(Ordering::Relaxed),
        )
    }

    /// The code of an inner task has ended; that of the outer one goes on.
    pub(super) fn return_to(&self, (task, site): (u64, *mut Location<'static>)) {
        self.site.store(site, Ordering::Release);
        self.task.store(task, Ordering::Release);
    }
}

/// Everybody's side.
impl Pulse {
    /// When the turn under way began (ns), if there is one.
    pub(crate) fn turn_ns(&self) -> Option<u64> {
        let turn_ns = self.turn_ns.load(Ordering::Relaxed);
        (turn_ns != RESTING).then_some(turn_ns)
    }

    /// The kernel's number of the core's thread, once it has begun.
    pub(crate) fn thread(&self) -> Option<u32> {
        let thread = self.thread.load(Ordering::Relaxed);
        (thread != 0).then_some(thread)
    }

    /// The task whose code runs; `None` outside of tasks, and where it changed while it was read.
    pub(crate) fn running(&self) -> Option<Running> {
        let word = self.task.load(Ordering::Acquire);
        let site = self.site.load(Ordering::Acquire);
        let kind = *Kind::ALL.get((word >> 1) as usize & 3)?;
        let unchanged = self.task.load(Ordering::Relaxed) == word;
        // SAFETY: `site` is null or was made of a `&'static Location<'static>` by `enter`, the only
        // place that stores another value: what `return_to` stores was loaded by `outer` before.
        // So it is live for ever and nobody writes to it.
        let site = unsafe { site.as_ref() }?;
        (word != 0 && unchanged).then_some(Running {
            info: Info {
                id: word >> 3,
                kind,
                site,
            },
            dropping: word & 1 == 1,
        })
    }
}

const _: () = assert!(Kind::ALL.len() <= 4, "a kind has two bits in `task`");
