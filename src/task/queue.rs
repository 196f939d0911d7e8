//! The three places a task can stand in, all of them lists through the tasks themselves, so that
//! none ever allocates.
//!
//! * [`Foreign`]: tasks woken by other threads. Anybody pushes, the owner takes all at once.
//! * [`Ready`]: tasks to be polled, first come first served. The owner's.
//! * [`Live`]: tasks whose future is there, oldest first. The owner's.
//!
//! A foreign stack that is only ever emptied whole has no ABA problem, and closing it is the same
//! swap as emptying it: whoever comes later finds [`CLOSED`] and keeps his task, so nothing can be
//! left in a queue that nobody looks into any more. A `crossbeam_queue::SegQueue` in its place
//! would allocate, and would need a flag beside it to be closed.

use std::cell::Cell;
use std::ptr::{self, NonNull};

use super::header::Header;
use super::raw::Task;
use crate::sync::atomic::{AtomicPtr, Ordering, fence};

/// The head of a foreign queue that takes nothing any more. An odd address, where no header is.
const CLOSED: *mut Header = ptr::without_provenance_mut(1);

/// Tasks woken by other threads.
pub(super) struct Foreign {
    /// The task pushed last, null, or `CLOSED`. Each task in the list is notified, and the list
    /// holds the reference that goes with that.
    head: AtomicPtr<Header>,
}

impl Foreign {
    pub(super) fn new() -> Foreign {
        Foreign {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Puts a task in, on any thread. False if the queue is closed.
    ///
    /// # Safety
    ///
    /// `State::notify` of this task has just answered `Push`, and the caller holds a reference
    /// besides the one for the queue.
    #[must_use]
    pub(super) unsafe fn push(&self, task: NonNull<Header>) -> bool {
        // SAFETY: the caller's reference keeps the header alive during this call.
        let header = unsafe { task.as_ref() };
        header.life.used();
        let mut head = self.head.load(Ordering::Relaxed);
        while head != CLOSED {
            // The link is ours to write: `notify` says `Push` to one thread only, and again only
            // after the owner has taken the task out and read the link.
            header.next_foreign.store(head, Ordering::Relaxed);
            let pushed = self.head.compare_exchange_weak(
                head,
                task.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            );
            match pushed {
                Ok(_) => {
                    // With the owner's, behind its word that it sleeps: either it sees this task
                    // before it does, or the alarm rung after this sees that word.
                    fence(Ordering::SeqCst);
                    return true;
                }
                Err(now) => head = now,
            }
        }
        false
    }

    /// Whether nothing was in here a moment ago. Nearly always so, and a look costs less than the
    /// swap of `take`. What it misses is found the next time; behind a fence of the owner's, with which
    /// that of `push` pairs, nothing is missed that was pushed before its own.
    #[inline]
    pub(super) fn looks_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// Takes everything out, in the order of the pushes, on the owner's thread. The reference of
    /// each task goes to the caller.
    #[must_use]
    pub(super) fn take(&self) -> Taken {
        Taken::reversed(self.head.swap(ptr::null_mut(), Ordering::Acquire))
    }

    /// The same, and nothing goes in any more.
    #[must_use]
    pub(super) fn close(&self) -> Taken {
        Taken::reversed(self.head.swap(CLOSED, Ordering::Acquire))
    }
}

/// What came out of a foreign queue. To be used up, or the tasks are leaked.
pub(super) struct Taken {
    /// The rest, linked by `next_foreign`, each with its reference.
    next: Option<NonNull<Header>>,
}

impl Taken {
    /// The list turned round, for the stack gives the last one first.
    fn reversed(head: *mut Header) -> Taken {
        let mut next = None;
        let mut rest = if head == CLOSED {
            None
        } else {
            NonNull::new(head)
        };
        while let Some(task) = rest {
            // SAFETY: the list holds a reference to each task in it.
            let header = unsafe { task.as_ref() };
            header.life.used();
            let link = next.map_or(ptr::null_mut(), NonNull::as_ptr);
            rest = NonNull::new(header.next_foreign.swap(link, Ordering::Relaxed));
            next = Some(task);
        }
        Taken { next }
    }
}

impl Iterator for Taken {
    type Item = NonNull<Header>;

    fn next(&mut self) -> Option<NonNull<Header>> {
        let task = self.next?;
        // SAFETY: the list holds a reference to each task in it; this one's goes to the caller.
        let header = unsafe { task.as_ref() };
        header.life.used();
        self.next = NonNull::new(header.next_foreign.load(Ordering::Relaxed));
        Some(task)
    }
}

/// Tasks to be polled.
#[derive(Default)]
pub(super) struct Ready {
    /// The first to be polled. Each task in the list is `QUEUED` and alive: the core's reference
    /// is not given up before it left.
    head: Cell<Option<Task>>,
    /// The last one. `None` exactly when `head` is.
    tail: Cell<Option<Task>>,
}

impl Ready {
    pub(super) fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    /// Puts a task at the back, unless it is in the list.
    #[inline]
    pub(super) fn push(&self, task: Task) {
        let header = task.header();
        if header.is_queued() {
            return;
        }
        header.set_queued(true);
        self.append(task);
    }

    /// Puts a task at the back that is marked as `QUEUED`, and is not in the list.
    #[inline]
    pub(super) fn append(&self, task: Task) {
        task.header().next_ready.set(None);
        match self.tail.replace(Some(task)) {
            Some(last) => last.header().next_ready.set(Some(task)),
            None => self.head.set(Some(task)),
        }
    }

    /// Takes the first task out. The caller goes on with `Task::leave_queue`.
    pub(super) fn pop(&self) -> Option<Task> {
        let task = self.head.get()?;
        let next = task.header().next_ready.get();
        self.head.set(next);
        if next.is_none() {
            self.tail.set(None);
        }
        Some(task)
    }
}

/// Live tasks of one kind.
#[derive(Default)]
pub(super) struct Live {
    /// The oldest one. Each task in the list is alive: the core's reference is not given up before
    /// it left. The ids rise from head to tail.
    head: Cell<Option<Task>>,
    /// The youngest one. `None` exactly when `head` is.
    tail: Cell<Option<Task>>,
    /// How many there are.
    len: Cell<usize>,
}

impl Live {
    pub(super) fn len(&self) -> usize {
        self.len.get()
    }

    /// Puts a new task in, the youngest.
    #[inline]
    pub(super) fn push(&self, task: Task) {
        let before = self.tail.replace(Some(task));
        task.header().live_before.set(before);
        match before {
            Some(before) => before.header().live_after.set(Some(task)),
            None => self.head.set(Some(task)),
        }
        self.len.set(self.len.get() + 1);
    }

    /// Takes a task out, which is in this list.
    pub(super) fn remove(&self, task: Task) {
        let before = task.header().live_before.take();
        let after = task.header().live_after.take();
        match before {
            Some(before) => before.header().live_after.set(after),
            None => self.head.set(after),
        }
        match after {
            Some(after) => after.header().live_before.set(before),
            None => self.tail.set(before),
        }
        self.len.set(self.len.get() - 1);
    }

    /// From the oldest to the youngest. Nothing may leave the list meanwhile, so no user code may
    /// run between two steps.
    pub(super) fn iter(&self) -> impl Iterator<Item = Task> {
        std::iter::successors(self.head.get(), |task| task.header().live_after.get())
    }
}
