//! What can happen to one-off operations.

#![forbid(unsafe_code)]

/// What can happen. Of several operations the kernel goes on with the one that was begun first, and
/// users with the one that was begun last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A user begins one.
    Start,
    /// Its future is polled by a task, and by another one.
    Poll,
    PollElsewhere,
    /// Its future is dropped.
    Drop,
    /// What was asked for goes to the kernel.
    Enter,
    /// What has completed is taken.
    Reap,
    /// The kernel ends it, well or badly, or because it was called back.
    Done,
    Failed,
    Cancelled,
    /// It has a result, and the kernel keeps what it was lent.
    NotLast,
    /// The core asks for the end of all, as in Closing.
    CancelAll,
    /// A cancel of one that is over, and a completion of it.
    LateCancel,
    LateCompletion,
    /// Submissions find no room, and find some again.
    Crowded,
    Room,
}

/// All of them.
pub(super) const EVENTS: [Event; 15] = [
    Event::Start,
    Event::Poll,
    Event::PollElsewhere,
    Event::Drop,
    Event::Enter,
    Event::Reap,
    Event::Done,
    Event::Failed,
    Event::Cancelled,
    Event::NotLast,
    Event::CancelAll,
    Event::LateCancel,
    Event::LateCompletion,
    Event::Crowded,
    Event::Room,
];

/// Those of which each is followed by a turn, so that slots are used again within few events.
pub(super) const BY_TURNS: [Event; 10] = [
    Event::Start,
    Event::Poll,
    Event::Drop,
    Event::Done,
    Event::Failed,
    Event::Cancelled,
    Event::NotLast,
    Event::CancelAll,
    Event::LateCancel,
    Event::LateCompletion,
];
