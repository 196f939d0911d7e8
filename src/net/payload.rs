//! What can be handed over for sending without a copy.

#![forbid(unsafe_code)]

use bytes::Bytes;

use crate::io::outbound::Segment;
use crate::ring::chunk::Chunk;

/// Bytes that are handed over for sending: a [`Chunk`] in the buffer it came in, or owned memory.
#[derive(Debug)]
pub struct Payload(Segment);

impl Payload {
    /// The bytes as a segment of an outbound queue.
    pub(super) fn into_segment(self) -> Segment {
        self.0
    }
}

impl From<Chunk> for Payload {
    fn from(chunk: Chunk) -> Payload {
        Payload(Segment::Chunk(chunk))
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload(Segment::Bytes(bytes))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload(Segment::Bytes(bytes.into()))
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Payload {
        Payload(Segment::Bytes(text.into()))
    }
}

impl From<Box<[u8]>> for Payload {
    fn from(bytes: Box<[u8]>) -> Payload {
        Payload(Segment::Bytes(bytes.into()))
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Payload {
        Payload(Segment::Bytes(Bytes::from_static(bytes)))
    }
}

impl<const N: usize> From<&'static [u8; N]> for Payload {
    fn from(bytes: &'static [u8; N]) -> Payload {
        Payload(Segment::Bytes(Bytes::from_static(bytes)))
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Payload {
        Payload(Segment::Bytes(Bytes::from_static(text.as_bytes())))
    }
}
