//! The bytes on the wire, known to both sides.
//!
//! *Echo*: a request is `size` bytes and its answer the same bytes. *Framed*:
//! a request is a header and a body, its answer a header of another look and
//! the body repeated to the length that the request asks for. Each body is a
//! window of one fixed table, at a place that connection and number decide,
//! so that a byte of another request is a wrong byte.
#![forbid(unsafe_code)]

/// The length of a framed request's header: size, answer, delay, number.
pub(crate) const REQUEST_HEADER: usize = 16;
/// The length of a framed answer's header: length, number.
pub(crate) const ANSWER_HEADER: usize = 8;
/// A prime, so that windows of any power of two wander through the table.
const PERIOD: usize = 65_521;
/// Told apart at a glance from a request's number.
const ANSWERED: u32 = 0xA5A5_A5A5;

/// The table of all bodies, twice in a row so that windows need not wrap.
#[derive(Debug)]
pub(crate) struct Table {
    /// `2 * PERIOD` bytes; the second half repeats the first.
    bytes: Vec<u8>,
}

impl Table {
    pub(crate) fn new() -> Table {
        let mut state = 0x9E37_79B9_u32;
        let mut bytes = Vec::with_capacity(2 * PERIOD);
        for _ in 0..PERIOD {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            bytes.push(state as u8);
        }
        bytes.extend_from_within(..);
        Table { bytes }
    }

    /// Bytes of the endless repetition from `at` on: as many as stand in one
    /// piece, but not more than `length`.
    pub(crate) fn piece(&self, at: u64, length: usize) -> &[u8] {
        let start = (at % PERIOD as u64) as usize;
        let end = (start + length).min(self.bytes.len());
        &self.bytes[start..end]
    }

    /// Appends `length` bytes of the endless repetition from `at` on.
    pub(crate) fn write(&self, out: &mut Vec<u8>, mut at: u64, length: usize) {
        let end = out.len() + length;
        while out.len() < end {
            let piece = self.piece(at, end - out.len());
            at += piece.len() as u64;
            out.extend_from_slice(piece);
        }
    }
}

/// Where in the table the body of a request begins.
pub(crate) fn body_at(connection: u64, number: u64) -> u64 {
    connection * 7919 + number * 104_729
}

/// A framed request's header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Bytes of body that follow.
    pub(crate) size: u32,
    /// Bytes of body in the answer.
    pub(crate) answer: u32,
    /// How long the server is to wait before it answers.
    pub(crate) delay_ms: u32,
    /// Counts the requests of one connection.
    pub(crate) number: u32,
}

impl Request {
    pub(crate) fn header(&self) -> [u8; REQUEST_HEADER] {
        let words = [self.size, self.answer, self.delay_ms, self.number];
        let mut header = [0; REQUEST_HEADER];
        for (place, word) in header.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        header
    }

    pub(crate) fn read(header: &[u8; REQUEST_HEADER]) -> Request {
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        Request {
            size: word(0),
            answer: word(4),
            delay_ms: word(8),
            number: word(12),
        }
    }

    /// The header of this request's answer.
    pub(crate) fn answer_header(&self) -> [u8; ANSWER_HEADER] {
        let mut header = [0; ANSWER_HEADER];
        header[..4].copy_from_slice(&self.answer.to_le_bytes());
        header[4..].copy_from_slice(&(self.number ^ ANSWERED).to_le_bytes());
        header
    }

    /// The whole answer to this request, whose body was `body`.
    pub(crate) fn answer(&self, body: &[u8]) -> Vec<u8> {
        let length = ANSWER_HEADER + self.answer as usize;
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(&self.answer_header());
        while out.len() < length && !body.is_empty() {
            let piece = body.len().min(length - out.len());
            out.extend_from_slice(&body[..piece]);
        }
        out
    }
}
