//! Sends that are over when they are submitted, and say nothing if all went well.
//!
//! ```text
//!   flush_sends ──▶ enter ─┬─ all of it taken ── no completion ──▶ end_at_once ─▶ over
//!   (notes it here)        └─ less, or an error ── completion ───▶ on_send ─────▶ a send that waits
//! ```
//! The usual answer fits the socket. Such a send is made with MSG_DONTWAIT, so that the kernel never
//! keeps it, and without a completion for its success: when the enter that has submitted it is back,
//! and all completions there are have been looked at, those that did not complain have been sent.
//! With a completion for each, a core with one connection woke for nothing in every round trip: one
//! system call now, two before; and every echo reaped one completion more.
//!
//! As nothing tells of it, a core may sleep before it knows. So no send is made that way for whose
//! end somebody waits: a parked writer, a record that closes, a drain, or a user's memory that wants
//! to be dropped. What did not fit is sent in the other way.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use super::Io;
use super::conn::Conn;
use crate::ring::token::{Generations, Kind, Token};

/// A send that was handed to the kernel and is over when that has seen it.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtOnce {
    /// The connection's index.
    pub(super) index: u32,
    /// The send's generation: if the record's is another by now, a completion told of its end.
    pub(super) generation: u32,
    /// Its bytes.
    pub(super) len: u32,
}

impl AtOnce {
    /// The operation's name.
    #[inline(always)]
    pub(super) fn token(self) -> Token {
        Token {
            kind: Kind::Send,
            index: self.index,
            generation: self.generation,
        }
    }
}

impl Conn {
    /// Whether nobody waits for the end of the next send, and none is in flight.
    #[inline(always)]
    pub(super) fn may_send_at_once(&self) -> bool {
        self.is_plain() && self.send.is_none() && !self.writer.is_parked()
    }

    /// From where and to where what is queued is to be sent, where that can be over at once; only where
    /// it may.
    #[inline(always)]
    pub(super) fn seal_at_once(
        &mut self,
        index: u32,
        now_ns: u64,
        generations: &mut Generations,
    ) -> Option<(*const u8, RawFd, AtOnce)> {
        let fd = self.raw()?;
        let (from, len) = self.lane.as_mut()?.outbound.seal_at_once()?;
        let generation = generations.advance();
        self.send = Some(generation);
        // When it is known to be over the core may have slept since.
        self.active_ns = now_ns;
        let sent = AtOnce {
            index,
            generation,
            len,
        };
        Some((from, fd, sent))
    }
}

impl Io {
    /// Whether the kernel has seen all such sends, and all it has to say of them was taken out of its
    /// queue. To be asked when a look there has taken all that there was, and before anything that was
    /// found is gone about: that may hand over more than there is room for, and the enter which makes
    /// room brings completions that had not fitted, and that nobody has looked at yet. What was handed
    /// over after those sends does not matter.
    #[inline]
    pub(super) fn has_news_of_at_once(&mut self) -> bool {
        !self.at_once.is_empty() && self.driver.has_seen(self.last_at_once)
    }

    /// Ends those that the kernel did not complain of. Only when `has_news_of_at_once` was true and all
    /// completions of sends that were there then have been gone about.
    #[inline(always)]
    pub(super) fn end_at_once(&mut self) {
        // Taken away for as long as they are looked at. None is added in here.
        let mut sends = std::mem::take(&mut self.at_once);
        for sent in &sends {
            self.end_one_at_once(*sent);
        }
        debug_assert!(self.at_once.is_empty());
        sends.clear();
        self.at_once = sends;
    }

    /// As `end_at_once`, which need not take the list away where there is only one.
    #[inline(always)]
    pub(super) fn end_only_at_once(&mut self) {
        if let [sent] = self.at_once[..] {
            self.at_once.clear();
            self.end_one_at_once(sent);
        } else {
            self.end_all_at_once();
        }
    }

    /// As `end_at_once`, out of line.
    #[inline(never)]
    fn end_all_at_once(&mut self) {
        self.end_at_once();
    }

    /// Ends one, unless a completion has told of it.
    #[inline(always)]
    fn end_one_at_once(&mut self, sent: AtOnce) {
        let Some(conn) = self.conns.get_mut(sent.index as usize) else {
            return;
        };
        if conn.send != Some(sent.generation) {
            return;
        }
        self.driver.count_last(0);
        self.tally.sent += u64::from(sent.len);
        if !conn.end_send(
            sent.len as usize,
            &mut self.lanes,
            &mut self.wakers,
            &mut self.spent_segments,
        ) {
            self.after_send(sent.index);
        }
    }

    /// Whether such sends wait for word of the kernel, which did not take them yet or has more to
    /// say than fits: then the core is not to sleep.
    #[inline]
    pub(crate) fn waits_for_at_once(&self) -> bool {
        !self.at_once.is_empty()
    }
}
