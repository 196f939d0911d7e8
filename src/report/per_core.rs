//! The part of the report that each core answers for.
//!
//! Unless a field says otherwise it counts over the whole life of the core,
//! from the start of its thread. Only so do the pairs add up, since what was
//! begun long before the trigger ends after it. What decides about the
//! verdict, and what the stop did to connections, counts from the trigger.
//!
//! A core that is stuck cannot answer, and nobody else may read its counters
//! while it runs. Of it the report knows what others see: `core`, `cpu`,
//! `outcome`, what it sent and handled of `letters`, the listeners among its
//! `stragglers` that were ended in its place, and `stuck`. All else is empty or
//! zero there, and means nothing.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::{HookReport, PhaseSpan};

/// What one core did and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CoreReport {
    /// The number of the core within the runtime, from 0.
    pub core: usize,
    /// The CPU that its thread was pinned to.
    pub cpu: usize,
    /// How the core ended.
    pub outcome: CoreOutcome,
    /// The error of its main future, or what made its turn fail.
    pub error: Option<String>,
    /// The phases as this core went through them, in order.
    pub phases: Vec<PhaseSpan>,
    /// Turns of its loop, from the trigger on.
    pub turns: Turns,
    /// Tasks.
    pub tasks: Tasks,
    /// Timers made with `spawn_after`.
    pub timers: Timers,
    /// The listeners of this core.
    pub listeners: Vec<ListenerReport>,
    /// Connections, and how each ended.
    pub connections: Connections,
    /// Since when how many accepted connections were open, as pairs of an
    /// instant and a number: one at the trigger, then one for each change. At
    /// most 128, with changes that are close together merged into the last.
    pub open_connections: Vec<(f64, u64)>,
    /// Requests, where handlers ask for them with `next_request`.
    pub requests: Requests,
    /// Bytes on connections.
    pub bytes: Bytes,
    /// Operations given to the kernel.
    pub ops: Ops,
    /// Letters between cores.
    pub letters: Letters,
    /// Buffers of the pool.
    pub buffers: Buffers,
    /// The hooks of this core, in the order in which they ran.
    pub hooks: Vec<HookReport>,
    /// Whatever was still alive at a deadline or at a force: the first thousand of the tasks and of
    /// the connections, and a line that counts the others.
    pub stragglers: Vec<Straggler>,
    /// Where the core hangs, exactly when its outcome is `Stuck`.
    pub stuck: Option<Stuck>,
}

/// How a core ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CoreOutcome {
    /// It went through all phases, and its main future returned no error.
    #[default]
    Finished,
    /// Its main future ended in an error, or its turn failed.
    Failed,
    /// It did not come back from a turn, and the others ended without it. Its
    /// listeners were ended in its place, but for those that were adopted. Known
    /// of it are, besides `stuck`, its number and processor, its letters but for
    /// those returned, and as stragglers the listeners that were closed with
    /// clients in their backlog, and those adopted that listen still. Its other counters are zero and its lists empty.
    Stuck,
}

impl CoreOutcome {
    /// The word that JSON and `Display` use.
    pub(crate) fn word(self) -> &'static str {
        match self {
            CoreOutcome::Finished => "finished",
            CoreOutcome::Failed => "failed",
            CoreOutcome::Stuck => "stuck",
        }
    }
}

/// Turns of a core's loop, from the first that knew of the stop. For the time of
/// one turn, a connection that waits for an answer waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Turns {
    /// How many there were.
    pub count: u64,
    /// The longest, on the clock: from its begin to the system call that ends
    /// it. On a busy machine most of it may be other threads' time.
    pub longest_ms: f64,
    /// The most processor time that one took, its system call included.
    pub longest_cpu_ms: f64,
    /// The most steps that one took. A step is a completion taken, a timer that
    /// was due, a task polled, or a connection told to end or reset: unlike
    /// time, it does not depend on the machine.
    pub most_steps: u64,
}

/// `spawned` = `completed` + `cancelled` + `panicked` + `dropped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Tasks {
    /// Tasks taken on, of both kinds, the main future included.
    pub spawned: u64,
    /// Tasks that returned.
    pub completed: u64,
    /// Tasks ended by their `JoinHandle`.
    pub cancelled: u64,
    /// Tasks that panicked.
    pub panicked: u64,
    /// Tasks dropped by the stop before they were done.
    pub dropped: u64,
    /// Spawns refused, with the future handed back; not in `spawned`.
    pub rejected: u64,
    /// Those of `dropped` that were background tasks.
    pub background_dropped: u64,
}

/// Timers made with `spawn_after`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Timers {
    /// Timers that fired.
    pub fired: u64,
    /// Timers cancelled by the stop: those due after its drain deadline, and
    /// those that had not fired when Closing began.
    pub cancelled: u64,
}

/// One listener on one core.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ListenerReport {
    /// The address it listened on.
    pub addr: String,
    /// How new handshakes were held off while the backlog was drained.
    pub gate: Gate,
    /// Why there was no gate; `None` where there was one.
    pub no_gate: Option<NoGate>,
    /// How long the accept ran on for handshakes that were under way.
    pub window_ms: f64,
    /// Connections taken from the backlog after the gate was closed.
    pub drained: u64,
    /// How often accepting paused, over the whole run: no file descriptor or no memory was left,
    /// one accept after the other failed, or the core had as many connections as
    /// [`max_connections`](crate::Builder::max_connections) allows.
    pub pauses: u64,
    /// What the last pause was for, in the system's words where it was the system.
    pub paused_by: Option<String>,
    /// What was to become of its connections, where that was not the default.
    pub policy: Option<PolicyReport>,
}

/// A [`DrainPolicy`](crate::net::DrainPolicy), as it was given to a listener. What
/// it leaves to the runtime is `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PolicyReport {
    /// Whether the drain reset the connections.
    pub cut: bool,
    /// The silence that ended a connection without requests.
    pub idle_grace_ms: Option<f64>,
    /// The window over which idle connections were ended, as it was asked for.
    pub spread_ms: Option<f64>,
    /// How long a close waited for a peer.
    pub linger_ms: Option<f64>,
}

/// How new handshakes were held off; the ladder from the best rung down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gate {
    /// Not at all: a handshake may have been reset by the close.
    #[default]
    None,
    /// By a packet filter on the listener.
    Bpf,
    /// By a minimal hop count that no packet from afar can have.
    MinTtl,
}

impl Gate {
    /// The words that `Display` uses.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Gate::None => "no gate",
            Gate::Bpf => "bpf gate",
            Gate::MinTtl => "min-ttl gate",
        }
    }
}

/// Why a listener that was drained had no gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoGate {
    /// Others may hold the socket too, and a gate would turn their clients
    /// away.
    Shared,
    /// The kernel refused every kind of gate.
    Refused,
}

impl NoGate {
    /// The words that `Display` uses.
    pub(crate) fn words(self) -> &'static str {
        match self {
            NoGate::Shared => "no gate (shared)",
            NoGate::Refused => "no gate (refused)",
        }
    }
}

/// `at_start` + `accepted` = all the ways to end, from `drained` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Connections {
    /// Connections accepted in the whole life of the core.
    pub accepted_total: u64,
    /// Accepted connections that were open at the trigger.
    pub at_start: u64,
    /// Connections accepted from the trigger on.
    pub accepted: u64,
    /// Ended by the stop, between requests or after their silence.
    pub drained: u64,
    /// Ended by the peer's end of stream.
    pub closed_by_peer: u64,
    /// Closed by their handler.
    pub closed_by_handler: u64,
    /// Reset by their handler, or by their listener's policy.
    pub aborted: u64,
    /// Reset by the peer.
    pub peer_reset: u64,
    /// Cut at the drain deadline, or at a force.
    pub forced: u64,
    /// Reset because the peer acknowledged nothing for the time of `linger`, or
    /// given up with an op still out in the kernel.
    pub abandoned: u64,
}

/// Requests, as handlers delimit them by `next_request`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Requests {
    /// Requests whose first byte was delivered.
    pub begun: u64,
    /// Requests after which the handler asked for the next or closed.
    pub answered: u64,
}

/// Bytes on accepted and outgoing connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Bytes {
    /// Bytes received.
    pub received: u64,
    /// Bytes that the kernel took for sending.
    pub sent: u64,
    /// From the trigger on: bytes written by the application that the kernel
    /// had not taken when their connection ended.
    pub unsent: u64,
    /// From the trigger on: bytes sent on connections that ended by a reset
    /// before the peer's kernel acknowledged them. An upper bound where there
    /// is delay; a FIN's one is not in it.
    pub unacked: u64,
    /// Both of these kinds, on connections that count as `aborted`: whoever
    /// reset them gave the bytes up. They are in neither of the other two.
    pub aborted: u64,
    /// Bytes thrown away because they came after our end of stream.
    pub late: u64,
}

/// `submitted` = `completed` + `leaked`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Ops {
    /// Operations given to the kernel; cancels do not count.
    pub submitted: u64,
    /// Operations whose final completion was reaped.
    pub completed: u64,
    /// Those of `completed` that ended by a cancel.
    pub cancelled: u64,
    /// Operations still out at the hard deadline: their slot and buffer were
    /// left alone on purpose, since the kernel may still write there.
    pub leaked: u64,
    /// Operations and cancels that found the submission queue full. They were
    /// submitted early, or waited in their order.
    pub waited: u64,
    /// How often completions were seen not to fit their queue. The kernel keeps
    /// them; each time costs a system call.
    pub overflows: u64,
}

/// Letters; they balance over all cores together, see `Report::imbalances`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Letters {
    /// Letters that this core sent and a mailbox took.
    pub sent: u64,
    /// Letters to this core that were handled.
    pub handled: u64,
    /// Letters to this core that were handed back, as it was closing.
    pub returned: u64,
}

/// Buffers of the core's pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Buffers {
    /// Buffers in the pool.
    pub total: u64,
    /// Buffers not back in the pool at the end: with a leaked op, or with a
    /// `Chunk` that outlives the core.
    pub lent: u64,
    /// How often a receive found none that the kernel could fill, and waited. It
    /// has few at first, and more as they are wanted, so a burst shows here.
    pub ran_out: u64,
}

/// Something that was still alive at a deadline or at a force.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Straggler {
    /// What it is, in one word: `task`, `connection`, `op`, `timer`, ...
    pub kind: String,
    /// The name of the task, or the network of the peer; its address where
    /// [`name_peers`](crate::Builder::name_peers) says so.
    pub name: String,
    /// Where in the source it was spawned, as `file:line:column`.
    pub spawned_at: Option<String>,
    /// What it was doing, or what was lost with it.
    pub detail: String,
}

impl Straggler {
    /// The line for the `count` of a kind that are not named, if there are any.
    pub(crate) fn more(kind: &str, count: usize, detail: &str) -> Option<Straggler> {
        (count > 0).then(|| Straggler {
            kind: kind.to_owned(),
            name: format!("{count} more"),
            spawned_at: None,
            detail: detail.to_owned(),
        })
    }
}

/// Where a core hangs that never came back from a turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stuck {
    /// The task whose code runs, by the name it has among the stragglers.
    /// Empty outside of any.
    pub task: String,
    /// Where in the source that task was spawned.
    pub spawned_at: Option<String>,
    /// When the turn began, from the trigger; negative if that was before it.
    pub since_ms: f64,
    /// The state of the thread, and the system call it is in, from `/proc`. It
    /// says so where the core would have gone on, but other threads had its
    /// processor.
    pub state: String,
    /// What the thread waits for in the kernel, from `/proc`.
    pub wchan: Option<String>,
}
