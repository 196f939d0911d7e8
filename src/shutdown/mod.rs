//! How a runtime stops.
//!
//! ```text
//! Running ──▶ Notice ──▶ Draining ──▶ Hooks ──▶ Closing ──▶ Terminated
//!                └──────────┴── deadline or force: cut ──▶ Hooks …
//! ```
//! The thread that called [`Runtime::run`](crate::Runtime::run) is the coordinator. It waits for
//! signals, requests of handles and the cores, steps the phase machine with what it hears, and
//! orders what the machine says. It runs no user code.
//!
//! | phase | what happens | it ends when |
//! |---|---|---|
//! | Notice | [`Handle::is_ready`](crate::Handle::is_ready) is false; all goes on | `notice` is over |
//! | Draining | listeners are gated, drained and closed; connections between requests end; tasks, letters and timers go on | all cores are quiet for `quiet`, or at the drain deadline: what is left is named and cut |
//! | Hooks | each core's hooks, last registered first | all have ended, or at the hook deadline |
//! | Closing | spawns and letters are refused; background tasks are dropped; every operation is reaped | all cores are done, or at the hard deadline |

#![forbid(unsafe_code)]

pub(crate) mod coordinator;
pub(crate) mod signals;
