//! Every limit of the runtime, with its unit and its reason, and the numbers of a
//! stop ([`Shutdown`]).
//!
//! A queue, batch, retry or wait that is not bounded by something here is a bug.
//! Relations between the limits are constant assertions: a set that contradicts
//! itself does not compile.
#![forbid(unsafe_code)]

mod core;
mod drain;
mod shutdown;

pub(crate) use core::{CoreConfig, Features, Peers, Queues};
pub use drain::DrainPolicy;
pub use shutdown::Shutdown;
pub(crate) use shutdown::nanos;

use std::time::Duration;

// The ring.

/// Entries of a core's submission queue. One turn rarely makes more, and what does
/// not fit is submitted early.
pub(crate) const SQ_ENTRIES: u32 = 256;

/// Entries of a core's completion queue. Ring memory counts against the user's
/// locked-memory limit: 8 MiB hold 97 rings of this shape, and 6 of sixteen times
/// the size.
pub(crate) const CQ_ENTRIES: u32 = 4096;

/// The smallest completion queue a ring is made with when locked memory is scarce.
pub(crate) const CQ_ENTRIES_MIN: u32 = 512;

/// Buffers in a core's receive pool, at most: 8 MiB, of which what was never needed is no memory.
pub(crate) const POOL_BUFFERS: u16 = 512;

/// Buffers the kernel has at first, and at least. It uses all it has, one after the other, so that
/// few stay in the cache: half a MiB. It gets as many again each time it runs out (with 32 for good
/// it may run dry all the time: 0.57 of epoll's throughput where one enter brings all there is), and
/// they go when they are not wanted any more.
pub(crate) const POOL_FIRST: u16 = 32;

/// Buffers that the kernel has at most where those it filled come back within a turn: 2 MiB, what the
/// cache of a processor holds. 64 streams ran at 0.6 to 0.8 of the bare ring's rate with all 512: to arm
/// some receives again costs less than memory that is not in the cache. Streams that take several
/// each make do with `POOL_FIRST`.
pub(crate) const POOL_BURST: u16 = 128;

/// Bytes of one receive buffer: what a message of that size arrives in whole. In two buffers of
/// half the size an echo of 16 KiB took two completions and a vectored send, and ran at 0.89 of the
/// bare ring's rate.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;

/// Free buffers below which what arrives, and what is sent back, is copied to the heap: the rest
/// is for connections that have none.
pub(crate) const POOL_LOW: u16 = POOL_BUFFERS / 8;

// One turn.

/// Completions copied out of the queue in one go.
pub(crate) const COMPLETIONS_AT_ONCE: usize = 256;

/// Task polls in one turn, so that completions and a stop are looked at in between.
pub(crate) const TASK_BUDGET: usize = 256;

/// Timers expired in one turn.
pub(crate) const TIMER_BUDGET: usize = 1024;

/// Of these, connections' own. Each is some system calls: a thousand peers that are late with their
/// FINs, all looked at in one turn, made it last for seven milliseconds.
pub(crate) const CONN_TIMER_BUDGET: usize = DRAIN_BATCH;

/// Letters handled in one turn. A full mailbox must not keep a core from its ring.
pub(crate) const LETTER_BUDGET: usize = 1024;

/// Letters that lie in memory of the mailbox's own: as many as a turn reads. Few where every order of
/// steps is looked at, for what is beyond has to be met.
pub(crate) const LETTERS_NEAR: usize = if cfg!(loom) { 1 } else { LETTER_BUDGET };

/// Idle connections told of a stop in one turn. Mass closing in one go would
/// starve the requests that are still being answered.
pub(crate) const DRAIN_BATCH: usize = 64;

/// How often a turn of a stop takes completions that did not fit their queue, before it tells
/// connections. What still comes then waits for the next turn.
pub(crate) const SEE_ROUNDS: usize = 64;

/// Further enters of one turn of a stop, while the kernel has completions that it holds back: each
/// gives some twenty. More come back than connections are told in a turn, or the peers' FINs pile
/// up before the requests of those that are still served.
pub(crate) const CATCH_UP_ENTERS: u32 = 3;

/// Completions the kernel gives at least in one enter, where it has as many.
pub(crate) const ENTER_GIVES: usize = 20;

// Sockets.

/// Accepted connections that wait for `accept` on one core. Beyond it the accept is
/// cancelled and the rest stay in the kernel's backlog.
pub(crate) const ACCEPT_QUEUE: usize = 1024;

/// Bytes a connection may hold inbound before its receive is stopped, and what one turn brings of
/// it at most, but for the rest of a buffer: the kernel ends the receive there (Linux 6.17). An older
/// one is asked for one buffer at a time, and no more than half of this is held: it would go on for as
/// long as the socket has more, 1.6 MiB a turn where this was measured, while 63 small connections
/// beside it waited.
pub(crate) const CONN_INBOUND_BYTES: usize = 128 * 1024;

/// The table of a core's connections grows by one part in this many, and by `CONNS_GROWTH_MIN` at
/// least. Doubled, as a vector by itself is, it had 6,384 empty places at 10,000 connections, a third
/// of all memory they took; the kernel moves a table of that size without copying it.
pub(crate) const CONNS_GROWTH_PART: usize = 32;

/// See `CONNS_GROWTH_PART`.
pub(crate) const CONNS_GROWTH_MIN: usize = 64;

/// Lanes that connections keep while they are idle, some 70 KiB in all.
pub(crate) const LANES_KEPT: usize = 512;

/// Lanes beyond those that are kept for the next connections that are at work, as many bytes again:
/// so many can be at work in one turn without an allocation.
pub(crate) const LANES_SPARE: usize = 512;

/// Pool buffers one connection may hold, queued or in its user's hands. Beyond it
/// what arrives is copied to the heap: a slow reader pays with memory of its own.
pub(crate) const CONN_SHARE_CHUNKS: u16 = 32;

/// Bytes queued outbound above which writers wait.
pub(crate) const HIGH_WATER_BYTES: usize = 256 * 1024;

/// Bytes of a send that may be over at once. More may not fit the socket, and then it was made in
/// vain.
pub(crate) const AT_ONCE_BYTES: usize = BUFFER_BYTES;

/// Segments of one send. More of them make the message header larger than what
/// the rest of the call costs.
pub(crate) const SEND_IOVECS: usize = 64;

/// Bytes one send covers at most: enough to fill any socket, and a count the kernel can return.
pub(crate) const SEND_BYTES: usize = 1 << 24;

/// Bytes copied into one segment before a further one is begun.
pub(crate) const TAIL_BYTES: usize = 64 * 1024;

/// Backlog asked of `listen`. The kernel caps it at `net.core.somaxconn`.
pub(crate) const LISTEN_BACKLOG: i32 = 4096;

/// Wakers that wait at one listener before all are woken: those of futures that are gone are let
/// go by that, and the others come back.
pub(crate) const ACCEPT_WAITERS: usize = 64;

/// Accepts that fail one after the other before the next one waits as if descriptors were missing: a
/// policy that refuses every connection leaves it in the backlog, and an accept that is armed again
/// at once meets it for ever.
pub(crate) const ACCEPT_FAILURES_MOST: u32 = 16;

/// Pause of an accept that met the limit on open files. Arming it again at once
/// made 24,775 completions in 50 ms.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

// A stop.

/// Shortest backlog window: what a handshake on a local network needs.
pub(crate) const WINDOW_MIN: Duration = Duration::from_millis(20);

/// Longest backlog window, three times a round trip of a third of a second.
pub(crate) const WINDOW_MAX: Duration = Duration::from_secs(1);

/// What the kernel waits beyond the round trip before it sends something again (TCP_RTO_MIN).
pub(crate) const RETRANSMISSION: Duration = Duration::from_millis(200);

/// Shortest wait for a first byte behind the hop-count gate, which makes a client send again what
/// it sent before the accept.
pub(crate) const FIRST_BYTE_TTL_MIN: Duration = Duration::from_millis(300);

/// A listener that accepted nothing for this long has no handshakes to wait for.
pub(crate) const HANDSHAKE_RECENT: Duration = Duration::from_secs(1);

/// How often the coordinator wakes during a stop, and one tick of the dead-man.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(50);

/// The tick of the dead-man that leaves the process. After the first `run` should have returned;
/// the others are for a machine too busy to let it.
pub(crate) const DEAD_MAN_TICKS: u32 = 5;

/// For how long a turn that is older than the stop is seen before it is held against its core: two
/// heartbeats, so that a core whose process was continued just before the stop has had time.
pub(crate) const OLD_TURN_SEEN: Duration = Duration::from_millis(100);

/// A wait that took this much longer than the heartbeat was a suspension of the process, not a
/// late wake.
pub(crate) const SUSPENSION_MIN: Duration = Duration::from_millis(200);

/// Signals read before anything else is looked at. More than can wait at once (each of six may wait
/// for the process, for the coordinator's thread and with its handler), so only a storm that sends
/// faster than it is read meets this, and then time must go by for it to count as a second wish.
pub(crate) const SIGNALS_AT_ONCE: usize = 32;

/// Shortest turn that can be watched for: a tenth of it is what an ordinary turn may take on a busy
/// machine.
pub(crate) const STALL_MIN: Duration = Duration::from_millis(10);

/// Shortest pause between two looks at the cores while nothing stops.
pub(crate) const STALL_LOOK_MIN: Duration = Duration::from_millis(5);

/// Longest such pause.
pub(crate) const STALL_LOOK_MAX: Duration = Duration::from_secs(1);

/// Stalls kept for the report, the longest ones.
pub(crate) const STALLS_KEPT: usize = 16;

/// Events of stalls kept for subscribers that are slow.
pub(crate) const STALLS_ANNOUNCED: usize = 64;

/// Triggers kept for the report; of a storm the first ones tell all.
pub(crate) const TRIGGERS_KEPT: usize = 32;

/// Tasks, and connections, that a core names when they are cut, and guards of the runtime; the others
/// are counted in one line. To
/// name a million tasks took a second in which the core did nothing else, and was taken for a stuck
/// one.
pub(crate) const STRAGGLERS_NAMED: usize = 1_000;

/// Points kept of the number of open connections over a stop: more than a picture of it shows.
pub(crate) const COURSE_POINTS: usize = 128;

/// Parts of the time into which those points are merged when they are too many.
pub(crate) const COURSE_PARTS: u64 = COURSE_POINTS as u64 / 2;

/// How long after the hard deadline a core that was given up may take to say so. Less than a
/// heartbeat, within which `run` returns, the report made and the threads joined. A core that had
/// no processor in that time is given it once more.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(40);

/// How long the signals' end waits for threads that may be on their way to a handler: as good as never
/// more than one look, but where a thread has much to do, or no processor.
pub(crate) const HANDLERS_AT_WORK: Duration = Duration::from_millis(5);
/// How often it looks at such a thread.
pub(crate) const HANDLERS_LOOK: Duration = Duration::from_micros(100);

/// Signals closer together than this count once: a terminal's group and the parent
/// both send, and storms are not determination.
pub(crate) const SIGNAL_DEDUP: Duration = Duration::from_millis(300);

/// What a forced stop may still take, hooks included.
pub(crate) const FORCE_BUDGET: Duration = Duration::from_secs(1);

/// One turn: what a phase that was entered has before it is cut, and what Closing
/// has in any case.
pub(crate) const CLOSE_FLOOR: Duration = Duration::from_millis(50);

/// The most that is kept for Closing by default. It ends kernel operations, which
/// took 12 ms for 10,000 of them; a tenth of a long timeout would be waste.
pub(crate) const CLOSE_RESERVE_MAX: Duration = Duration::from_millis(500);

/// Least silence after our FIN is acknowledged before a socket is closed.
pub(crate) const LINGER_QUIET_MIN: Duration = Duration::from_millis(5);

/// First pause before a closing connection's peer is looked at again: about a round trip on a
/// local network. It doubles.
pub(crate) const LINGER_CHECK_MIN: Duration = Duration::from_micros(250);

/// Longest such pause: how much later than the last acknowledgement a slow peer's connection is
/// closed.
pub(crate) const LINGER_CHECK_MAX: Duration = Duration::from_millis(20);

/// The pause for each of the connections that close, where this is more than the above: a look
/// takes some two microseconds, and many of them may not take more than a part of the time.
pub(crate) const LINGER_CHECK_EACH: Duration = Duration::from_micros(40);

/// Connections taken from a backlog in one go: twice the longest backlog asked for, since with no
/// gate further ones arrive meanwhile.
pub(crate) const SWEEP_MOST: usize = 2 * LISTEN_BACKLOG as usize;

/// Pause of a sweep that met the limit on open files.
pub(crate) const SWEEP_RETRY: Duration = Duration::from_millis(5);

// Time.

/// Width of a slot of the timer wheel's lowest level, in nanoseconds: 65 µs, finer
/// than what a wake costs, and a shift instead of a division.
pub(crate) const TICK_NS: u64 = 65_536;

/// How far ahead of the turn's begin a time must lie that is taken to be ahead without a look at the
/// clock: no sound turn is as long as that.
pub(crate) const FAR_AHEAD_NS: u64 = 1_000_000_000;

const _: () = {
    assert!(SQ_ENTRIES.is_power_of_two() && CQ_ENTRIES.is_power_of_two());
    // One turn's submissions complete without overflowing the queue.
    assert!(CQ_ENTRIES >= 2 * SQ_ENTRIES);
    assert!(CQ_ENTRIES_MIN >= 2 * SQ_ENTRIES && CQ_ENTRIES_MIN <= CQ_ENTRIES);
    // The kernel's rule for a buffer ring.
    assert!(POOL_BUFFERS.is_power_of_two() && POOL_BUFFERS <= 32_768);
    assert!(POOL_FIRST > 0 && POOL_FIRST <= POOL_BURST && POOL_BURST <= POOL_BUFFERS);
    // One stalled reader leaves the pool to the others.
    assert!(CONN_SHARE_CHUNKS <= POOL_BUFFERS / 8);
    // Within its share of the pool a connection can fill its inbound bound.
    assert!(CONN_SHARE_CHUNKS as usize * BUFFER_BYTES >= CONN_INBOUND_BYTES);
    // A place in a buffer fits the chunk that looks into it.
    assert!(BUFFER_BYTES <= u32::MAX as usize);
    // Below the high-water mark a segment can be as large as a buffer.
    assert!(HIGH_WATER_BYTES >= 2 * BUFFER_BYTES);
    // What a send covers fits the kernel's count of it.
    assert!(SEND_BYTES <= i32::MAX as usize && TAIL_BYTES <= HIGH_WATER_BYTES);
    assert!(LINGER_CHECK_MIN.as_nanos() >= TICK_NS as u128);
    // The kernel's UIO_MAXIOV.
    assert!(SEND_IOVECS <= 1024);
    // A batch of connections told of the stop can all be polled in the same turn.
    assert!(DRAIN_BATCH <= TASK_BUDGET);
    // As many connections can end in a turn as are told.
    assert!((1 + CATCH_UP_ENTERS as usize) * ENTER_GIVES >= DRAIN_BATCH);
    assert!(CONN_TIMER_BUDGET <= TIMER_BUDGET);
    assert!(TICK_NS.is_power_of_two());
    // A turn that long is told as a stall, whatever the threshold was set to by default.
    assert!(FAR_AHEAD_NS as u128 >= STALL_LOOK_MAX.as_nanos());

    let window_min = WINDOW_MIN.as_millis();
    let first_byte_ttl_min = FIRST_BYTE_TTL_MIN.as_millis();
    assert!(window_min + RETRANSMISSION.as_millis() <= first_byte_ttl_min);
    assert!(first_byte_ttl_min <= WINDOW_MAX.as_millis());
    // Merging leaves one point a part and the first, and makes room.
    assert!(COURSE_PARTS as usize + 1 < COURSE_POINTS);
    // A stall is found within as much again as it takes, and looked at more than once.
    assert!(2 * STALL_LOOK_MIN.as_millis() <= STALL_MIN.as_millis());
    // The floor of Closing is one heartbeat: a cut is seen at the next one.
    assert!(CLOSE_FLOOR.as_millis() == HEARTBEAT.as_millis());
    assert!(CLOSE_FLOOR.as_millis() <= CLOSE_RESERVE_MAX.as_millis());
    assert!(OLD_TURN_SEEN.as_millis() == 2 * HEARTBEAT.as_millis());
    // Within a heartbeat of the hard deadline, `run` returns.
    assert!(LAST_WORDS.as_millis() < HEARTBEAT.as_millis());
    // A stop that takes all its time, last words and all, is over two ticks before the dead-man.
    assert!(
        2 * LAST_WORDS.as_millis() + 2 * HEARTBEAT.as_millis()
            < DEAD_MAN_TICKS as u128 * HEARTBEAT.as_millis()
    );
    // A forced stop has room for a turn of hooks and for Closing.
    assert!(2 * CLOSE_FLOOR.as_millis() <= FORCE_BUDGET.as_millis());
    // Two counted signals leave time to hear the second as a second one.
    assert!(SIGNAL_DEDUP.as_millis() < FORCE_BUDGET.as_millis());
};
