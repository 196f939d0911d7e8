//! How a runtime stops, and what it promises while it does.
//!
//! ```text
//!            signal, Handle::shutdown,          all quiet            all have run        all reaped
//!            mains ended, a main failed
//!  Running ─────────────▶ Notice ─────▶ Draining ────────────▶ Hooks ─────────▶ Closing ─────────▶ Terminated
//!                            │              │                    ▲  │               │
//!                            │ second signal, force,             │  │ hook deadline │ hard deadline
//!                            └──────────────┴── drain deadline ──┘  └───────────────┘
//!                                               (cut)
//! ```
//!
//! # In one paragraph
//!
//! SIGTERM begins a stop. Listeners let no new handshake begin, and take what is in their
//! backlogs; connections between requests end by FIN; requests that were begun are answered;
//! tasks, timers and letters go on until nothing is left that matters, or the drain deadline
//! comes. Then hooks run, then every operation in the kernel is brought to its end, and
//! [`Runtime::run`](crate::Runtime::run) returns a [`Report`](crate::Report) that says what became
//! of everything. Nothing waits for a poll, a sleep or a floor: an idle server is gone in
//! milliseconds.
//!
//! # What to write
//!
//! - In a handler, call [`next_request`](crate::net::TcpStream::next_request) between requests: it
//!   is how the runtime knows where a connection may end. A handler that never calls it gets the
//!   end of the stream after [`idle_grace`](Shutdown::idle_grace) of silence.
//! - A handler that streams, and is not asked for anything in between, looks at
//!   [`draining`](crate::net::TcpStream::draining) between two pieces, and ends in order.
//! - Spawn what matters with [`spawn`](fn@crate::spawn), and housekeeping, which no stop should wait
//!   for, with [`spawn_background`](crate::spawn_background).
//! - What must be done at the end, but before connections to elsewhere are gone, is a hook: of a
//!   core ([`Core::on_shutdown`](crate::Core::on_shutdown)) or of the process
//!   ([`Handle::on_shutdown`](crate::Handle::on_shutdown)).
//! - Work on other threads holds the stop by a [`Guard`](crate::Guard).
//! - Readiness checks ask [`Handle::is_ready`](crate::Handle::is_ready); with a
//!   [`notice`](Shutdown::notice) a load balancer has that long to look elsewhere.
//!
//! # The times
//!
//! | | default | |
//! |---|---|---|
//! | [`timeout`](Shutdown::timeout) | 9 s | the whole stop |
//! | [`notice`](Shutdown::notice) | 0 | of that, at first, serving on and not ready |
//! | [`quiet`](Shutdown::quiet) | 0 | how long all must be quiet before the drain is over |
//! | [`hooks_reserve`](Shutdown::hooks_reserve) | a third if there is a hook | kept back for hooks |
//! | [`close_reserve`](Shutdown::close_reserve) | a tenth, 50 to 500 ms | kept back for Closing |
//! | [`idle_grace`](Shutdown::idle_grace) | 1 s | see above |
//! | [`linger`](Shutdown::linger) | 2 s | a peer that acknowledges nothing for so long is reset |
//! | [`stuck_after`](Shutdown::stuck_after) | 1 s | a core with a turn of that length hangs, see below |
//!
//! A phase that ends early leaves its time to the next; none can eat the reserve of a later one.
//!
//! # The phases
//!
//! | phase | what happens | it ends when |
//! |---|---|---|
//! | Notice | not ready; otherwise as ever | `notice` is over |
//! | Draining | as above; spawns, letters, connects go on; a delayed task that would begin after the deadline is cancelled, an [`Interval`](crate::time::Interval) ends | all cores are quiet at one moment, every letter is handled and no guard is held; or at the deadline: what is left is named, cut and counted |
//! | Hooks | each core's, the last registered first, cores side by side; then the process's | all have ended, or at their deadline |
//! | Closing | spawns, letters, delayed tasks, connects and listeners are refused, see below; background tasks are dropped | every operation is reaped, or at the hard deadline |
//!
//! # What comes too late
//!
//! Nothing that is handed over vanishes: it is taken, and then whoever waits for it is told what
//! became of it, or it is refused, with the phase and the time left, and given back.
//!
//! | | refused | how |
//! |---|---|---|
//! | [`try_spawn`](crate::try_spawn), [`spawn_on`](crate::spawn_on) | in Closing | [`Refused`](crate::Refused), with the future or the closure |
//! | [`try_spawn_after`](crate::time::try_spawn_after) | in Closing; from Draining on if due after the drain deadline | the same |
//! | [`TcpStream::connect`](crate::net::TcpStream::connect) | in Closing | an I/O error with [`TooLate`](crate::net::TooLate) inside |
//! | [`TcpListener::bind`](crate::net::TcpListener::bind), `accept` on a listener taken then | when the drain is over | the same, as the source of [`Error`](crate::Error) |
//! | [`Handle::hold`](crate::Handle::hold) | when the drain is over | [`Error`](crate::Error) |
//!
//! `accept` on a listener that was drained gives `None`, and an
//! [`Interval`](crate::time::Interval) from Draining on: the end of a drain is no error. A
//! [`sleep`](crate::time::sleep) that a destructor polls in Closing is ready at once.
//!
//! # Handshakes under way
//!
//! A client is connected when the kernel has answered it, before any program has accepted it; and
//! with a round trip of 10 ms and 2,000 connects a second, some twenty are at that point at any
//! moment. To close the listener is to reset them. So its *gate* is let down first: no handshake
//! begins any more, and those under way have a window of three round trips, the longest that were
//! seen, to be completed and accepted: 20 ms at least, and a second at most. Only then is the socket
//! closed. A client that comes in the meantime hears nothing, asks again after a second, and is
//! refused. A listener that accepted nobody in the last second, and has nobody in its backlog, has
//! no window.
//!
//! The gate is a packet filter where the process may attach one (CAP_NET_ADMIN), else a minimum
//! for the hop count, which needs no privilege and costs a client that connects during the window a
//! round trip and 200 ms: what it sends before it is accepted is dropped, and sent again then. So
//! the first byte of such a client is waited for that much longer, 300 ms at least. A listener that came by [`Runtime::adopt`](crate::Runtime::adopt) has none, for its
//! socket may be somebody else's, too. The report says which it was, for how long, and how many
//! connections came out of the backlog.
//!
//! # Each listener its own way
//!
//! A [`DrainPolicy`](crate::net::DrainPolicy) says otherwise for the connections of one listener.
//! It is given to what [`Runtime::bind`](crate::Runtime::bind) returns, or to a listener that a core
//! has bound for itself:
//!
//! | policy | in Draining | for |
//! |---|---|---|
//! | none | between requests: at once; in a request: when it is answered; no requests known: after `idle_grace` | most |
//! | [`idle_grace`](crate::net::DrainPolicy::idle_grace) | the same, with a grace of its own | protocols without requests that are slower, or faster, than the others |
//! | [`cut`](crate::net::DrainPolicy::cut) | what a handler holds is reset, whatever it is doing; counted as `aborted`, and no failure of the stop | streams that never end, health checks |
//! | [`spread`](crate::net::DrainPolicy::spread) | what is idle is ended evenly over a window, which never reaches the deadline | thousands of clients that would all come back in the same instant |
//! | [`linger`](crate::net::DrainPolicy::linger) | a close has its own cap, in every phase | peers that one gives up earlier, or later |
//!
//! ```no_run
//! # fn f() -> evenfall::Result<evenfall::Report> {
//! use evenfall::net::DrainPolicy;
//! use std::time::Duration;
//!
//! let mut runtime = evenfall::Runtime::builder().build()?;
//! let requests = runtime.bind("0.0.0.0:7777")?;
//! let subscribers = runtime
//!     .bind("0.0.0.0:7778")?
//!     .drain_policy(DrainPolicy::new().spread(Duration::from_secs(5)));
//! # let _ = (requests, subscribers);
//! # runtime.run(|_core| async { Ok(()) })
//! # }
//! ```
//!
//! However many connections end, no turn of a core does much at once: the connections that are told
//! of the stop, the peers that are looked at and the ends that are heard of in one turn are bounded,
//! so that whoever is still being served is served on. The report says how long the longest turn
//! was ([`Turns`](crate::report::Turns)).
//!
//! # Again, and faster
//!
//! Of many triggers the first begins the stop. A second signal (more than 300 ms after the first)
//! or [`Handle::force`](crate::Handle::force) cuts: connections are reset, hooks still run, within
//! a second all told. A third signal leaves the process with 128 plus its number.
//! [`Handle::shutdown_within`](crate::Handle::shutdown_within) gives a stop under way more or less
//! time.
//!
//! # Signals
//!
//! The runtime has its signals from [`build`](crate::Builder::build) on. One that comes before `run`
//! is heard by `run`: the mains are begun and stopped, with a report. One that comes for a runtime
//! that is dropped without a run, or whose `build` fails, does what it did before. So does every one
//! that comes after `run` has returned; until then none ends the process but the third. A thread that
//! existed before, or that has unblocked a signal, may get it as well as any other. Which are taken,
//! and what becomes of those that were ignored, is said at
//! [`Builder::signals`](crate::Builder::signals). As PID 1 all this is the same, and what is not
//! taken is ignored. Children begin with the runtime's mask, unless started by
//! [`with_clean_signals`](crate::process::with_clean_signals).
//!
//! # The exit code
//!
//! [`Report::exit_code`](crate::Report::exit_code) is 0 when nothing was lost, 80 when a hook
//! failed or something was lost in time, 81 when something was cut, 82 when a core never came
//! back, 83 when a main future or a core failed.
//!
//! # A core that hangs
//!
//! A task that spins, sleeps in `std::thread::sleep` or waits for a lock that nobody lets go of
//! holds its core: nothing else on it moves, and no runtime can take the thread out of that code.
//! During a stop the cores are looked at every 50 ms. One whose turn has lasted for
//! [`stuck_after`](crate::Shutdown::stuck_after) is *stuck*, but not before it was seen for 50 ms, or
//! 100 ms where it had begun before the stop: the process may just have been continued (SIGCONT).
//! Neither counts time in which the core's thread was ready and other threads had its processor, all
//! but a sixteenth of the time between two looks.
//!
//! - The others go on as if it were not there. They agree without it that all is quiet, run their
//!   hooks and close; their clients notice nothing. [`Runtime::run`](crate::Runtime::run) returns
//!   when they are done, by the hard deadline at the latest: asking a core for its last words, making
//!   the report and joining the threads may take it a heartbeat of 50 ms more.
//! - From Draining on its listeners are ended in its place: who waits in a backlog is accepted and
//!   closed, who comes is refused. One that was adopted is left alone, for others may be serving
//!   it; if the core does not come back it listens on until the process ends, and the report names
//!   it. A listener that no core has taken is ended likewise when Closing begins. Connections that
//!   it has accepted stay as they are, until the process ends.
//! - If it comes back in time it belongs to the others again, and does what was ordered meanwhile.
//!   If they have left Draining without it, what it still had is named in the report.
//! - If it does not come back, the report says which task it runs, where that was spawned, since
//!   when, and the state, system call and wait channel of its thread; the exit code is 82.
//! - A core that would go on, but whose processor other threads have, is waited for, up to the hard
//!   deadline. There it is asked twice, which may cost `run` 40 ms more; and if nothing comes even
//!   then, the report says that it was kept from its processor.
//!
//! Whoever wants to hear of such a core while nothing stops asks for that with
//! [`Builder::stall_after`](crate::Builder::stall_after), and subscribes to
//! [`Handle::stalls`](crate::Handle::stalls).
//!
//! And if the coordinator itself does not move any more there is the *dead-man*: a timer of the
//! kernel's with a real-time signal of its own, set to the hard deadline. From then on it ticks every
//! 50 ms, and the fifth tick that is delivered leaves the process with 82, without a report. A
//! process that was stopped by SIGSTOP finds one tick when it is continued, not all it has missed.
//!
//! ```text
//!                  turn ≥ stuck_after               dead-man: ticks 1 … 5
//!  trigger ─────────────┼──────────────── hard deadline ┼──┼──┼──┼──┼ _exit(82)
//!                       └ left out, named               └ run has returned
//! ```

#![forbid(unsafe_code)]

mod account;
mod autopsy;
pub(crate) mod coordinator;
pub(crate) mod signals;
mod stalls;
mod watch;

pub use crate::config::Shutdown;
pub use crate::phase::Phase;
