//! Slots: who owns what a one-off operation lends to the kernel.
//!
//! ```text
//!            start                    complete                  take
//!  (nothing) ─────▶ Waiting(waker) ───────────▶ Done(result) ──────────▶ (free)
//!                        │                          │
//!                        │ abandon                  │ abandon
//!                        ▼                          ▼
//!                    Abandoned ──────────────────▶ (free)
//!                              complete
//! ```
//! From `start` on the slot owns buffer, address and descriptor, at heap addresses that do not
//! move when the table of slots grows; the future has a [`Key`] and nothing else. A slot is free
//! again only after the operation's last completion: one that says "more to come" leaves it where it
//! is in the diagram, and what it said is the result.

#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
#[cfg(test)]
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use socket2::SockAddr;

use crate::kept;
use crate::ring::entry::Sqe;
#[cfg(test)]
use crate::ring::tests::quarantine::Buffer;
use crate::ring::token::{Generations, Kind, Token};

/// What an operation lends to the kernel, and so also what the operation is.
#[derive(Debug)]
pub(crate) enum Lent {
    /// Connect `fd` to `address`.
    Connect { fd: OwnedFd, address: Box<SockAddr> },
    #[cfg(evenfall_bench)]
    /// Nothing, and do nothing.
    Nop,
    #[cfg(test)]
    /// Fill `buffer` (its length) from `fd` at `offset`; all ones is the file's own position.
    Read {
        fd: Rc<OwnedFd>,
        buffer: Buffer,
        offset: u64,
    },
    #[cfg(test)]
    /// Write `buffer` to `fd` at `offset`; all ones is the file's own position.
    Write {
        fd: Rc<OwnedFd>,
        buffer: Buffer,
        offset: u64,
    },
}

impl Lent {
    /// The submission that borrows from this. Its pointers are to the heap, so they stay valid
    /// while this value moves, as long as it lives and is not touched.
    fn sqe(&mut self) -> Sqe {
        /// The kernel moves at most this much in one call anyway (MAX_RW_COUNT).
        #[cfg(test)]
        const MOST: usize = 0x7fff_f000;
        match self {
            Lent::Connect { fd, address } => Sqe::Connect {
                fd: fd.as_raw_fd(),
                address: address.as_ptr().cast(),
                len: address.len(),
            },
            #[cfg(evenfall_bench)]
            Lent::Nop => Sqe::Nop,
            #[cfg(test)]
            Lent::Read { fd, buffer, offset } => Sqe::Read {
                fd: fd.as_raw_fd(),
                len: buffer.len().min(MOST) as u32,
                into: buffer.as_mut_ptr(),
                offset: *offset,
            },
            #[cfg(test)]
            Lent::Write { fd, buffer, offset } => Sqe::Write {
                fd: fd.as_raw_fd(),
                len: buffer.len().min(MOST) as u32,
                from: buffer.as_ptr(),
                offset: *offset,
            },
        }
    }
}

/// The name of an operation in a slot. Neither `Clone` nor `Copy`: one future, one operation.
#[derive(Debug)]
pub(crate) struct Key {
    /// The slot's place.
    index: u32,
    /// The slot's arming.
    generation: u32,
}

impl Key {
    /// What the kernel knows the operation by.
    pub(crate) fn token(&self) -> Token {
        Token {
            kind: Kind::Slot,
            index: self.index,
            generation: self.generation,
        }
    }
}

/// One operation that was started.
#[derive(Debug)]
struct Slot {
    /// What the kernel may touch until the completion; nobody reads or moves it before.
    lent: Lent,
    /// Where in its life the operation is.
    state: State,
    /// Tells this operation from earlier ones of the same place.
    generation: u32,
    /// What its first completion said; none before that.
    said: Option<i32>,
}

/// See the module's diagram.
#[derive(Debug)]
enum State {
    /// In the kernel; the future waits.
    Waiting(Option<Waker>),
    /// Completed; the future has not looked yet.
    Done(i32),
    /// In the kernel; nobody waits.
    Abandoned,
}

/// The slots of one ring.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// Every operation that is in the kernel or not looked at.
    table: Slab<Slot>,
    /// The source of generations, shared by all places.
    generations: Generations,
}

/// What a completion did to a slot.
#[derive(Debug)]
pub(crate) enum Completed {
    /// The future waits and wants to be woken.
    Wake(Option<Waker>),
    /// Nobody waited; this is what the operation had lent, to be dropped by the caller.
    Freed(Lent),
    /// It has a result, and the kernel keeps what it was lent until it completes once more.
    NotLast,
    /// No operation of that name is in the kernel.
    Stale,
}

/// What abandoning an operation asks for.
#[derive(Debug)]
pub(crate) enum Abandoned {
    /// It is in the kernel: cancel it. The waker that was parked is to be dropped outside.
    Cancel(Token, Option<Waker>),
    /// It was complete already; this is what it had lent.
    Freed(Lent),
}

impl Slots {
    /// Takes `lent` over and gives what the kernel is to be asked.
    pub(crate) fn start(&mut self, lent: Lent) -> (Key, Sqe, Token) {
        let generation = self.generations.advance();
        let entry = self.table.vacant_entry();
        let index = entry.key() as u32;
        let slot = entry.insert(Slot {
            lent,
            state: State::Waiting(None),
            generation,
            said: None,
        });
        let key = Key { index, generation };
        let token = key.token();
        (key, slot.lent.sqe(), token)
    }

    /// The result and what was lent, once the operation is complete; then the slot is free. The
    /// waker that was parked before comes back through `replaced`.
    pub(crate) fn poll(
        &mut self,
        key: &Key,
        context: &mut Context<'_>,
        replaced: &mut Vec<Waker>,
    ) -> Poll<Option<(i32, Lent)>> {
        let Some(slot) = self.slot(key.index, key.generation) else {
            return Poll::Ready(None);
        };
        match &mut slot.state {
            State::Waiting(parked) => {
                replaced.extend(parked.replace(context.waker().clone()));
                Poll::Pending
            }
            State::Done(result) => {
                let result = *result;
                let slot = self.table.remove(key.index as usize);
                Poll::Ready(Some((result, slot.lent)))
            }
            State::Abandoned => Poll::Ready(None),
        }
    }

    /// The future is gone. `None` if the operation is unknown, that is, over and looked at.
    pub(crate) fn abandon(&mut self, key: &Key) -> Option<Abandoned> {
        let slot = self.slot(key.index, key.generation)?;
        match &mut slot.state {
            State::Waiting(waker) => {
                let waker = waker.take();
                slot.state = State::Abandoned;
                Some(Abandoned::Cancel(key.token(), waker))
            }
            State::Done(_) => {
                let slot = self.table.remove(key.index as usize);
                Some(Abandoned::Freed(slot.lent))
            }
            State::Abandoned => None,
        }
    }

    /// The operation of `token` completes; where no `more` is to come the kernel is done with it.
    pub(crate) fn complete(&mut self, token: Token, result: i32, more: bool) -> Completed {
        let Some(slot) = self.slot(token.index, token.generation) else {
            return Completed::Stale;
        };
        if matches!(slot.state, State::Done(_)) {
            return Completed::Stale;
        }
        let result = *slot.said.get_or_insert(result);
        if more {
            return Completed::NotLast;
        }
        match std::mem::replace(&mut slot.state, State::Done(result)) {
            State::Waiting(waker) => Completed::Wake(waker),
            State::Abandoned => Completed::Freed(self.table.remove(token.index as usize).lent),
            State::Done(_) => Completed::Stale,
        }
    }

    /// The names of all operations that are in the kernel, for the end of a core.
    pub(crate) fn in_kernel(&self) -> Vec<Token> {
        self.table
            .iter()
            .filter(|(_, slot)| !matches!(slot.state, State::Done(_)))
            .map(|(index, slot)| Token {
                kind: Kind::Slot,
                index: index as u32,
                generation: slot.generation,
            })
            .collect()
    }

    /// Forgets all operations: what they lent is never given back. Generations go on, so that no key
    /// of theirs names one that is begun later.
    pub(crate) fn leak(&mut self) {
        kept::for_ever(std::mem::take(&mut self.table));
    }

    /// How many slots are taken.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.table.len()
    }

    /// The slot of that place and arming.
    fn slot(&mut self, index: u32, generation: u32) -> Option<&mut Slot> {
        self.table
            .get_mut(index as usize)
            .filter(|slot| slot.generation == generation)
    }
}

#[cfg(test)]
mod tests;
