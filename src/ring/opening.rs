//! How a driver's ring is made where memory that may be locked is short.

#![forbid(unsafe_code)]

use crate::config::{CQ_ENTRIES_MIN, Features, Queues};
use crate::error::Error;
use crate::ring::buffers::Pool;
#[cfg(test)]
use crate::ring::fake::Door as Port;
#[cfg(not(test))]
use crate::ring::port::Port;

/// A ring that has the pool's buffers. Both count against the limit on locked memory: a ring that
/// leaves too little of it for the buffers' own is made again with half as many completions.
pub(super) fn open_port(pool: &Pool, features: Features, queues: Queues) -> Result<Port, Error> {
    let mut port = Port::open(features, queues)?;
    loop {
        let entries = port.cq_entries();
        match port.lend(pool) {
            Ok(()) => return Ok(port),
            Err(error) if is_out_of_memory(&error) && entries > CQ_ENTRIES_MIN => {
                drop(port);
                let completions = entries / 2;
                port = open_again(
                    features,
                    Queues {
                        completions,
                        ..queues
                    },
                )?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Makes a ring when one was just closed, whose memory the kernel gives back a little later.
fn open_again(features: Features, queues: Queues) -> Result<Port, Error> {
    let mut tries = 0;
    loop {
        match Port::open(features, queues) {
            Err(error) if is_out_of_memory(&error) && tries < REOPEN_TRIES => {
                tries += 1;
                std::thread::sleep(REOPEN_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Whether no memory, or no memory that may be locked, is left.
fn is_out_of_memory(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::ENOMEM)
}

/// How often a ring is tried to be made while the memory of one that was closed is waited for. It
/// takes the kernel some milliseconds.
const REOPEN_TRIES: u32 = 50;

/// The pause between two of these tries.
const REOPEN_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);
