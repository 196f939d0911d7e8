//! The end of a turn: the one system call that submits, lets deferred work run, and waits.
//!
//! ```text
//!            nothing is ready
//!  turn ──────────────────────▶ enter ──▶ reap ──▶ something to do? ──yes──▶ turn
//!    │                            ▲                       │
//!    │ something is               └──────────no───────────┘
//!    └──────────▶ enter, without waiting ──▶ turn
//! ```
//! Half of all completions ask for nothing more: what was sent is sent. On one busy connection each
//! request wakes the core twice, once with the request and once because its answer is sent. So a
//! core that sleeps takes the completions itself, and goes back to sleep unless they have made
//! something ready; a whole turn in their place cost 320 instructions more.
//!
//! All that a turn with one request does stands in one function, the core's loop: this, the reap of one
//! completion, the run of the tasks, and the making of one send. As functions of their own they took 86
//! of 1,021 instructions an echo on one connection more, to save and fetch registers. The enter, a
//! send's end and a buffer's way back are not in there: what that saved, other registers cost again.
//!
//! Under a stop each wait is followed by a turn: the stop has its own to do in it.

#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use super::stop::CoreStop;
use crate::context::Local;
use crate::io::Io;
use crate::ring::port::Wait;
use crate::shared::{Order, Orders, Station};
use crate::task::Tasks;

/// Submits, and sleeps if nothing is `busy`: until there is something to do, that is, a completion
/// that makes something ready, a ring of the bell, or the next time something is due.
///
/// When it woke (ns), if what completed was taken already.
#[inline(always)]
pub(super) fn enter(
    local: &Local,
    io: &mut Io,
    stop: &CoreStop,
    busy: bool,
) -> io::Result<Option<u64>> {
    if busy {
        return io.driver.enter(Wait::No).map(|()| None);
    }
    let station = local.station();
    station.bell.will_sleep();
    if is_called(station, &local.tasks, &local.shared.orders, stop.seen()) {
        io.driver.enter(Wait::No)?;
    } else if stop.is_under_way() {
        io.driver.enter(wait(local, io, stop.wake_ns(io)))?;
    } else {
        return doze(local, io).map(Some);
    }
    Ok(None)
}

/// Whether anybody has something for this core, which has said that it will sleep and has obeyed what
/// it has `seen` of the orders. Who comes later rings: the fence of `will_sleep` is between the two.
#[inline]
pub(super) fn is_called(station: &Station, tasks: &Tasks, orders: &Orders, seen: Order) -> bool {
    !station.mailbox.is_empty() || tasks.foreign_pending() || orders.read() != seen
}

/// Sleeps until there is something to do, where no stop is under way. When it woke (ns).
#[inline(always)]
fn doze(local: &Local, io: &mut Io) -> io::Result<u64> {
    loop {
        io.driver.enter(wait(local, io, None))?;
        let now_ns = local.now_ns();
        io.now_ns = now_ns;
        io.reap_here();
        io.driver.watch_alarm();
        // Whoever has sent a letter, an order or a wake since `will_sleep` rings the bell, and then
        // the alarm completes: without it none of them has to be looked at again.
        if io.driver.take_alarm() || local.tasks.has_ready() || io.wants_turn() {
            return Ok(now_ns);
        }
    }
}

/// How long the core may sleep: until the wheel or the stop (`stop_ns`) wants a turn.
#[inline]
fn wait(local: &Local, io: &Io, stop_ns: Option<u64>) -> Wait {
    let due_ns = match (io.timer_wake_ns(), stop_ns) {
        (None, None) => None,
        (Some(timer_ns), Some(stop_ns)) => Some(timer_ns.min(stop_ns)),
        (timer_ns, stop_ns) => timer_ns.or(stop_ns),
    };
    let wait = match due_ns.map(|due_ns| due_ns.saturating_sub(local.now_ns())) {
        None => Wait::Completion,
        Some(0) => return Wait::No,
        Some(left_ns) => Wait::AtMost(Duration::from_nanos(left_ns)),
    };
    local.station().pulse.rest();
    wait
}
