//! The peers: what they send, and how they take what is sent to them.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::dice::Dice;

/// What a peer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// So many bytes arrive.
    Say(u32),
    /// Its FIN arrives.
    Fin,
    /// The connection breaks with this errno.
    Break(i32),
}

/// A peer that is to come, or is there.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Its name: the first byte that it sends.
    pub(crate) name: u8,
    /// What it does, in order.
    pub(crate) acts: VecDeque<Act>,
    /// Whether it takes what is sent to it. One that does not is seen by sends that are never
    /// over, and by bytes that are never acknowledged.
    pub(crate) drinks: bool,
    /// Whether it answers our FIN with its own.
    pub(crate) answers_fin: bool,
    /// Whether its bytes come one at a time: each takes a buffer.
    pub(crate) dribbles: bool,
}

/// The name of peers that nobody was expected to be.
pub(crate) const NOBODY: u8 = u8::MAX;

/// What can break a connection under a receive.
pub(crate) const BREAKS: &[i32] = &[
    libc::ECONNRESET,
    libc::EPIPE,
    libc::ETIMEDOUT,
    libc::EHOSTUNREACH,
    libc::ENOTCONN,
    libc::ENOMEM,
];

impl Peer {
    /// A peer as the dice want it.
    pub(crate) fn rolled(name: u8, dice: &mut Dice) -> Peer {
        let dribbles = dice.chance(20);
        let mut acts = VecDeque::new();
        if dribbles {
            acts.push_back(Act::Say(100 + dice.below(600) as u32));
        }
        let most = if dribbles { 1 } else { 5 };
        for _ in 0..dice.below(most) {
            acts.push_back(Act::Say(size(dice)));
        }
        match dice.below(10) {
            0..4 => acts.push_back(Act::Fin),
            4 => acts.push_back(Act::Break(dice.pick(BREAKS))),
            _ => {}
        }
        Peer {
            name,
            acts,
            drinks: !dice.chance(80),
            answers_fin: !dice.chance(150),
            dribbles,
        }
    }
}

/// How many bytes come together: mostly few, sometimes enough to meet a limit.
pub(crate) fn size(dice: &mut Dice) -> u32 {
    let most = match dice.below(60) {
        0 => 300_000,
        1 => 40_000,
        2..4 => 5_000,
        _ => 60,
    };
    1 + dice.below(most) as u32
}

/// Bytes of every stream are taken from this, from a place that is the stream's own.
static PATTERN: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    let mut dice = Dice::new(7);
    (0..PATTERN_BYTES * 2)
        .scan(Vec::new(), |ring: &mut Vec<u8>, at| {
            if at < PATTERN_BYTES {
                ring.push(dice.roll() as u8);
            }
            Some(ring[at % PATTERN_BYTES])
        })
        .collect()
});

/// After so many bytes a stream repeats itself; no multiple of any buffer's size.
const PATTERN_BYTES: usize = 65_521;

/// Up to `len` bytes, and at least one, of the stream of `name` from `at` on. The first of a
/// stream is the name.
pub(crate) fn stream(name: u8, at: u64, len: usize) -> std::borrow::Cow<'static, [u8]> {
    let from = (usize::from(name) * 4_001 + at as usize) % PATTERN_BYTES;
    let pattern: &'static [u8] = &PATTERN;
    let bytes = &pattern[from..from + len.min(PATTERN_BYTES)];
    if at > 0 {
        return bytes.into();
    }
    let mut first = bytes.to_vec();
    first[0] = name;
    first.into()
}

/// Whether `bytes` are those of the stream of `name` from `at` on.
pub(crate) fn is_stream(name: u8, mut at: u64, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let expected = stream(name, at, bytes.len());
        let (head, rest) = bytes.split_at(expected.len());
        if *head != *expected {
            return false;
        }
        at += head.len() as u64;
        bytes = rest;
    }
    true
}
