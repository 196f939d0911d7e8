//! What only a connection at work needs: its bytes, each way.
//!
//! ```text
//!            a byte comes, or is to be sent          all has left, and many have one
//!  (none) ───────────────────────────────▶ a lane ───────────────────────────────────▶ (spare)
//!    ▲                                        │ the connection is closed                  │
//!    └────────────────────────────────────────┴───────────── for the next one ◀───────────┘
//! ```
//! A connection keeps its lane from one request to the next as long as `LANES_KEPT` have one at
//! most: given back and taken again each time, it cost an echo 45 instructions of 850. Of ten
//! thousand that are idle all but those have none.

#![forbid(unsafe_code)]

use super::few::Few;
use super::outbound::Outbound;
use crate::config::{BUFFER_BYTES, CONN_INBOUND_BYTES, LANES_KEPT, LANES_SPARE};
use crate::ring::chunk::Chunk;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// What came and nobody has taken; no chunk is empty.
    pub(super) inbound: Few<Chunk>,
    /// The sum of `inbound`.
    pub(super) inbound_bytes: usize,
    /// What is to be sent.
    pub(super) outbound: Outbound,
}

impl Lane {
    /// The first bytes for the reader come.
    #[inline(always)]
    pub(super) fn put_first_inbound(&mut self, chunk: Chunk) {
        const { assert!(BUFFER_BYTES < CONN_INBOUND_BYTES, "one chunk fills no lane") };
        self.inbound_bytes = chunk.len();
        self.inbound.put_only(chunk);
    }

    /// Whether nothing is in it, so that it holds no memory but its own.
    fn is_empty(&self) -> bool {
        self.inbound.is_empty() && self.outbound.is_empty()
    }
}

/// The lanes of one core.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// How many connections have one.
    out: usize,
    /// Those that no connection has: empty, every one, and `LANES_SPARE` at most.
    #[expect(
        clippy::vec_box,
        reason = "they go from here to a record and back, which moves a word and not all of a lane"
    )]
    spare: Vec<Box<Lane>>,
}

impl Lanes {
    /// A lane with nothing in it.
    #[cold]
    pub(super) fn take(&mut self) -> Box<Lane> {
        self.out += 1;
        self.spare.pop().unwrap_or_default()
    }

    /// A connection may be done with its lane, for now: if nothing is in it and many have one, it
    /// is taken back.
    #[inline]
    pub(super) fn rest(&mut self, place: &mut Option<Box<Lane>>) {
        if self.out > LANES_KEPT {
            self.take_back(place);
        }
    }

    /// Takes the lane back, if there is one and nothing is in it.
    #[cold]
    pub(super) fn take_back(&mut self, place: &mut Option<Box<Lane>>) {
        if place.as_ref().is_some_and(|lane| lane.is_empty()) {
            self.out -= 1;
            self.spare.extend(place.take());
            self.spare.truncate(LANES_SPARE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_connections_at_rest_few_keep_a_lane() {
        let mut lanes = Lanes::default();
        let many = LANES_KEPT + LANES_SPARE + 100;
        let mut places: Vec<_> = (0..many).map(|_| Some(lanes.take())).collect();
        assert_eq!(lanes.out, many);
        places.iter_mut().for_each(|place| lanes.rest(place));
        assert_eq!(places.iter().flatten().count(), LANES_KEPT);
        assert_eq!((lanes.out, lanes.spare.len()), (LANES_KEPT, LANES_SPARE));
        let again = Some(lanes.take());
        assert_eq!(
            (lanes.out, lanes.spare.len()),
            (LANES_KEPT + 1, LANES_SPARE - 1)
        );
        drop(again);
    }

    #[test]
    fn a_lane_with_something_in_it_stays() {
        let mut lanes = Lanes::default();
        let mut place = Some(lanes.take());
        if let Some(lane) = &mut place {
            lane.outbound.append(b"bytes");
        }
        lanes.take_back(&mut place);
        assert!(place.is_some() && lanes.out == 1);
        if let Some(lane) = &mut place {
            lane.outbound.clear(&mut Vec::new());
        }
        lanes.take_back(&mut place);
        assert!(place.is_none() && lanes.out == 0);
        lanes.take_back(&mut place);
        assert_eq!((lanes.out, lanes.spare.len()), (0, 1));
    }
}
