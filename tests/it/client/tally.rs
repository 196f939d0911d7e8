//! What a load has counted at its side of the sockets.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

/// The numbers of one load, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Connects begun.
    pub(crate) attempted: u64,
    /// Connects that the server's kernel completed.
    pub(crate) established: u64,
    /// Connects that were refused.
    pub(crate) refused: u64,
    /// Connects that had no answer when the load was told `give_up`.
    pub(crate) gave_up: u64,
    /// Requests whose first byte was handed to the kernel.
    pub(crate) requests: u64,
    /// Answers that came whole.
    pub(crate) answered: u64,
    /// Connections that ended in the middle of an answer.
    pub(crate) torn: u64,
    /// Requests that the server's end of stream left without any byte of an
    /// answer.
    pub(crate) unanswered: u64,
    /// Connections that ended by the server's FIN.
    pub(crate) fin: u64,
    /// Of these, the ones to which this side had written after that FIN, and
    /// was told so.
    pub(crate) written_after_fin: u64,
    /// Connections that ended by a reset.
    pub(crate) reset: u64,
    /// Connections that this side has reset, as its plan said.
    pub(crate) reset_here: u64,
    /// Bytes handed to the kernel.
    pub(crate) bytes_sent: u64,
    /// Bytes taken from the kernel.
    pub(crate) bytes_received: u64,
    /// Bytes that were not the ones expected.
    pub(crate) bytes_wrong: u64,
    /// At `mark`: bytes that the server's kernel had acknowledged.
    pub(crate) bytes_marked: u64,
    /// Of the answers to these, bytes that never came.
    pub(crate) bytes_owed: u64,
    /// The longest time from a request to the end of its answer.
    pub(crate) slowest: Duration,
    /// Everything else that went wrong, by its words.
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts an error that no other counter has a place for.
    pub(crate) fn error(&mut self, doing: &str, error: &io::Error) {
        *self.errors.entry(format!("{doing}: {error}")).or_default() += 1;
    }

    /// All numbers, as one object.
    pub(crate) fn json(&self) -> Value {
        json!({
            "attempted": self.attempted,
            "established": self.established,
            "refused": self.refused,
            "gave_up": self.gave_up,
            "requests": self.requests,
            "answered": self.answered,
            "torn": self.torn,
            "unanswered": self.unanswered,
            "fin": self.fin,
            "written_after_fin": self.written_after_fin,
            "reset": self.reset,
            "reset_here": self.reset_here,
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "bytes_wrong": self.bytes_wrong,
            "bytes_marked": self.bytes_marked,
            "bytes_owed": self.bytes_owed,
            "slowest_ms": self.slowest.as_secs_f64() * 1e3,
            "errors": self.errors,
        })
    }
}
