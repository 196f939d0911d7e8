//! What is told of a core whose turn is too long while nothing stops.

#![forbid(unsafe_code)]

use std::time::Duration;

/// A turn of one core that is, or was, too long: nothing else on that core moved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// The core, by its index.
    pub core: usize,
    /// How long the turn had lasted when it was looked at last.
    pub lasted: Duration,
    /// The task whose code ran when the turn was found too long, by the name it has among the
    /// stragglers of a report. Empty outside of any.
    pub task: String,
    /// Where in the source that task was spawned.
    pub spawned_at: Option<String>,
    /// The state the core's thread was in, and its system call, from `/proc`.
    pub state: String,
    /// What the thread waited for in the kernel, from `/proc`.
    pub wchan: Option<String>,
}

/// The begin or the end of a [`Stall`].
///
/// # Examples
///
/// ```no_run
/// # fn watch(handle: evenfall::Handle) -> evenfall::Result<()> {
/// use evenfall::StallEvent;
///
/// let mut stalls = handle.stalls();
/// std::thread::spawn(move || {
///     while let Ok(Some(event)) = stalls.wait_next() {
///         match event {
///             StallEvent::Began(stall) => {
///                 eprintln!("core {} does not move: {}", stall.core, stall.task);
///             }
///             StallEvent::Ended(stall) => {
///                 eprintln!("core {} moves again after {:?}", stall.core, stall.lasted);
///             }
///             _ => {}
///         }
///     }
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StallEvent {
    /// A turn was found too long. It goes on.
    Began(Stall),
    /// That turn is over.
    Ended(Stall),
}
