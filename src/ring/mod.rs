//! The ring: the one door to the kernel.
//!
//! # The law
//!
//! From submission to the *final* completion the kernel owns the buffer, the address and the file
//! reference of an operation. A future that is dropped hands nothing back: what the kernel borrows
//! never belonged to the future, it belongs to a [`slot`] or to a socket's record, both of
//! which stay where they are until the completion without "more to come". A cancel is a request;
//! the completion is the receipt; closing the ring is no receipt. A ring is emptied before it is
//! closed, or what the kernel still holds is leaked on purpose and counted.
//!
//! # The parts
//!
//! [`port`] is the door itself: it fills submission entries, enters the kernel and copies
//! completions out, in the forms of [`entry`](mod@entry). Nothing else in the crate names the kernel's ring, so a scripted kernel can
//! stand behind the same door, and under test one does (`fake`). [`driver`] keeps the books: what
//! is out, what came back, what could not be submitted yet. [`slot`] owns what one-off operations
//! lend to the kernel, [`buffers`] the pool that multishot receives fill, and a [`chunk`] is a view
//! into one of them. [`token`] is what travels with an operation and comes back.

pub(crate) mod buffers;
pub(crate) mod chunk;
pub(crate) mod driver;
pub(crate) mod entry;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod gather;
mod opening;
pub(crate) mod port;
mod refusal;
pub(crate) mod slot;
pub(crate) mod sys;
pub(crate) mod token;

#[cfg(test)]
pub(crate) mod sequences;
#[cfg(test)]
pub(crate) mod tests;
