//! What can be handed over for sending without a copy.

#![forbid(unsafe_code)]

use bytes::Bytes;

use crate::io::outbound::Segment;
use crate::ring::chunk::Chunk;

/// Bytes that are handed over for sending: a [`Chunk`] in the buffer it came in, or owned memory.
pub struct Payload(Form);

/// What a payload is made of. A third form, which nobody hands over, would make the future of every
/// `send` larger, and so every task with one in it.
enum Form {
    /// A chunk.
    Chunk(Chunk),
    /// Owned memory.
    Bytes(Bytes),
}

impl Payload {
    /// Takes the bytes out, as a segment of an outbound queue; none are left.
    #[inline(always)]
    pub(super) fn take(&mut self) -> Segment {
        match &mut self.0 {
            Form::Chunk(chunk) => Segment::Chunk(chunk.take()),
            Form::Bytes(bytes) => Segment::Bytes(std::mem::take(bytes)),
        }
    }

    /// How many bytes there are.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        match &self.0 {
            Form::Chunk(chunk) => chunk.len(),
            Form::Bytes(bytes) => bytes.len(),
        }
    }
}

impl std::fmt::Debug for Payload {
    /// How many bytes, and not which: they are a user's, or a peer's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl From<Chunk> for Payload {
    #[inline]
    fn from(chunk: Chunk) -> Payload {
        Payload(Form::Chunk(chunk))
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload(Form::Bytes(bytes))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload(Form::Bytes(bytes.into()))
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Payload {
        Payload(Form::Bytes(text.into()))
    }
}

impl From<Box<[u8]>> for Payload {
    fn from(bytes: Box<[u8]>) -> Payload {
        Payload(Form::Bytes(bytes.into()))
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Payload {
        Payload(Form::Bytes(Bytes::from_static(bytes)))
    }
}

impl<const N: usize> From<&'static [u8; N]> for Payload {
    fn from(bytes: &'static [u8; N]) -> Payload {
        Payload(Form::Bytes(Bytes::from_static(bytes)))
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Payload {
        Payload(Form::Bytes(Bytes::from_static(text.as_bytes())))
    }
}
