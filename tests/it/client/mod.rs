//! Clients: programs that load a server from a process of their own, and
//! count at their side.
//!
//! A load is told its plan on the command line and may be told more on
//! standard input: `mark` (note what the server's kernel has acknowledged,
//! ask no more), `read` (begin to read), `stop` (open and ask no more),
//! `give_up` (wait for no handshake any more). It
//! says `open` when its first connections are established, `warm` after so
//! many answers, `heard` after so many bytes, `stalled` when it cannot write on, `marked N`, and at the
//! end, when all its connections have ended, `done` with its tally.

mod load;
mod peer;
mod plan;
mod single;
mod tally;
mod upload;

pub(crate) use load::load;
pub(crate) use single::single;
pub(crate) use upload::upload;
