//! A Linux server runtime: one pinned io_uring per core, and a shutdown that loses nothing.
//!
//! # Examples
//!
//! An echo server. SIGTERM stops it: what was acknowledged is answered, every connection ends in
//! order, and the report says what became of everything.
//! ```no_run
//! use evenfall::{Cores, Report, Runtime, Shutdown};
//! use std::time::Duration;
//!
//! fn serve() -> evenfall::Result<Report> {
//!     let mut runtime = Runtime::builder()
//!         .cores(Cores::All)
//!         .shutdown(Shutdown::default().timeout(Duration::from_secs(9)))
//!         .build()?;
//!     let listener = runtime.bind("127.0.0.1:7777")?;
//!     runtime.run(move |core| {
//!         let listener = listener.on(&core);
//!         async move {
//!             listener.serve(|mut stream| async move {
//!                 while stream.next_request().await? {
//!                     let chunk = stream.recv().await?;
//!                     stream.send(chunk).await?;
//!                 }
//!                 Ok(())
//!             }).await
//!         }
//!     })
//! }
//! ```
//!
//! # Where to begin reading
//!
//! The modules stand below in the order to read them: what a user calls, then one core's turn
//! and its stop, then what those stand on, down to the ring.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod builder;
mod runtime;

pub mod net;

mod handle;
#[cfg(evenfall_bench)]
#[doc(hidden)]
pub mod nop;
mod phases;
pub mod process;
mod remote;
mod spawn;
mod stalls;
pub mod time;

pub mod faults;
pub mod shutdown;

mod core;

mod board;
mod context;
mod feed;
mod guard;
mod hooks;
mod io;
mod shared;
mod stall;

mod mailbox;
mod ring;
mod task;

mod clock;
mod config;
mod error;
mod kept;
mod panics;
mod phase;
pub mod report;
mod sync;
mod wheel;

pub use builder::{Builder, Cores};
pub use config::Shutdown;
pub use error::{Error, ErrorKind, Result};
pub use guard::Guard;
pub use handle::{Core, Handle, Hook, ProcessHook};
pub use phase::Phase;
pub use phases::Phases;
pub use remote::RemoteHandle;
pub use report::Report;
pub use runtime::Runtime;
pub use spawn::{Refused, spawn, spawn_background, spawn_on, try_spawn, yield_now};
pub use stall::{Stall, StallEvent};
pub use stalls::Stalls;
pub use task::{JoinError, JoinHandle};

/// The README's program must stay a program.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
