//! What a core says of itself at its end.

#![forbid(unsafe_code)]

use crate::config::DrainPolicy;
use crate::context::Local;
use crate::io::Io;
use crate::io::listener::Pause;
use crate::phase::Phase;
use crate::report::{
    Buffers, Bytes, Connections, CoreOutcome, CoreReport, Letters, ListenerReport, Ops, PhaseSpan,
    PolicyReport, Requests, Tasks, Timers, Turns, ms, ms_from,
};
use crate::sync::atomic::Ordering;

/// What only the core's stop knows.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Operations still out when the ring was closed.
    pub(crate) leaked: u64,
    /// Letters that were accepted and not run.
    pub(crate) returned: u64,
    /// The phases and when each began (ns).
    pub(crate) phases: Vec<(Phase, u64)>,
    /// When the stop began (ns).
    pub(crate) start_ns: u64,
    /// When the core was done (ns).
    pub(crate) ended_ns: u64,
    /// The turns of the stop.
    pub(crate) turns: Turns,
}

/// The counts of a core. What the caller knows better (outcome, stragglers) is left at its default.
pub(crate) fn of(local: &Local, facts: &Facts) -> CoreReport {
    let io = local.io.borrow();
    let station = local.station();
    CoreReport {
        core: local.index,
        cpu: local.cpu,
        outcome: CoreOutcome::Finished,
        phases: phases(facts),
        turns: facts.turns,
        tasks: tasks(local),
        timers: Timers {
            fired: io.timers_fired,
            cancelled: local.timers_cancelled.get(),
        },
        listeners: listeners(&io),
        connections: connections(&io),
        open_connections: open_connections(&io, facts.start_ns),
        requests: Requests {
            begun: io.tally.requests_begun,
            answered: io.tally.requests_answered,
        },
        bytes: Bytes {
            received: io.tally.received,
            sent: io.tally.sent,
            unsent: io.tally.unsent,
            unacked: io.tally.unacked,
            aborted: io.tally.given_up,
            late: io.tally.late,
        },
        ops: ops(&io, facts.leaked),
        letters: Letters {
            sent: station.sent.load(Ordering::Acquire),
            handled: station.handled.load(Ordering::Acquire),
            returned: facts.returned,
        },
        buffers: Buffers {
            total: u64::from(crate::config::POOL_BUFFERS),
            lent: u64::from(io.driver.pool().lent()),
            ran_out: io.tally.ran_out,
        },
        hooks: local.hooks.take_results(),
        ..CoreReport::default()
    }
}

/// The spans of the phases this core went through.
fn phases(facts: &Facts) -> Vec<PhaseSpan> {
    let ends = facts.phases.iter().skip(1).map(|(_, begun_ns)| *begun_ns);
    facts
        .phases
        .iter()
        .zip(ends.chain([facts.ended_ns]))
        .filter(|((phase, _), _)| !matches!(phase, Phase::Running | Phase::Terminated))
        .map(|((phase, begun_ns), ended_ns)| {
            let start_ms = ms_from(facts.start_ns, *begun_ns);
            PhaseSpan::new(
                phase.name(),
                start_ms,
                ms_from(facts.start_ns, ended_ns),
                "",
            )
        })
        .collect()
}

/// The tasks' counts.
fn tasks(local: &Local) -> Tasks {
    let counts = local.tasks.counters();
    Tasks {
        spawned: counts.spawned,
        completed: counts.completed,
        cancelled: counts.cancelled,
        panicked: counts.panicked,
        dropped: counts.dropped,
        rejected: local.rejected.get(),
        background_dropped: counts.background_dropped,
    }
}

/// The listeners of this core.
fn listeners(io: &Io) -> Vec<ListenerReport> {
    io.listeners
        .iter()
        .map(|(_, listener)| ListenerReport {
            addr: listener.address.to_string(),
            gate: listener.gate,
            no_gate: listener.no_gate,
            window_ms: ms(listener.window_ns),
            drained: listener.drained,
            pauses: listener.pauses,
            paused_by: listener.paused_by.map(Pause::words),
            policy: listener.policy().map(policy),
        })
        .collect()
}

/// A listener's policy, in words of the report.
fn policy(policy: &DrainPolicy) -> PolicyReport {
    let spread_ns = policy.spread_ns();
    PolicyReport {
        cut: policy.cuts(),
        idle_grace_ms: policy.idle_grace_ns().map(ms),
        spread_ms: (spread_ns > 0).then(|| ms(spread_ns)),
        linger_ms: policy.linger_ns().map(ms),
    }
}

/// The connections' counts.
fn connections(io: &Io) -> Connections {
    let tally = &io.tally;
    Connections {
        accepted_total: tally.accepted_total,
        at_start: tally.at_start,
        accepted: tally.accepted,
        drained: tally.ends.drained,
        closed_by_peer: tally.ends.by_peer,
        closed_by_handler: tally.ends.by_handler,
        aborted: tally.ends.aborted,
        peer_reset: tally.ends.peer_reset,
        forced: tally.ends.forced,
        abandoned: tally.ends.abandoned,
    }
}

/// How many connections were open, over the stop.
fn open_connections(io: &Io, start_ns: u64) -> Vec<(f64, u64)> {
    let points = io.tally.course.points().iter();
    points
        .map(|&(at_ns, open)| (ms_from(start_ns, at_ns.max(start_ns)), open))
        .collect()
}

/// The operations' counts.
fn ops(io: &Io, leaked: u64) -> Ops {
    let counts = io.driver.counts();
    Ops {
        submitted: counts.submitted,
        completed: counts.completed,
        cancelled: counts.cancelled,
        leaked,
        waited: counts.waited,
        overflows: counts.overflows,
    }
}
