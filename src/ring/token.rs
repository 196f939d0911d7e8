//! What travels with an operation through the kernel and comes back with its completions.
//!
//! ```text
//!  63            32 31          8 7     0
//! ┌────────────────┬─────────────┬───────┐
//! │ index          │ generation  │ kind  │
//! └────────────────┴─────────────┴───────┘
//! ```
//! The generation is what makes a late completion, or a late cancel, miss the next operation that
//! uses the same index: it differs for every arming, not only for every owner.

#![forbid(unsafe_code)]

/// Whose operation it is, and so which function its completion goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A cancel request. Its own completion means nothing.
    Cancel = 0,
    /// The multishot receive of a connection.
    Recv = 1,
    /// The send of a connection.
    Send = 2,
    /// The multishot accept of a listener.
    Accept = 3,
    /// A one-off operation in a slot.
    Slot = 4,
    /// The poll on the eventfd that wakes this core.
    Wake = 5,
}

/// Generations count modulo this.
const GENERATIONS: u32 = 1 << 24;

/// The name of one arming of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// Whose operation.
    pub(crate) kind: Kind,
    /// The owner's place in its table.
    pub(crate) index: u32,
    /// Which arming; below 2^24.
    pub(crate) generation: u32,
}

impl Token {
    /// The 64 bits the kernel carries.
    #[inline]
    pub(crate) fn pack(self) -> u64 {
        (u64::from(self.index) << 32)
            | (u64::from(self.generation % GENERATIONS) << 8)
            | u64::from(self.kind as u8)
    }

    /// Reads what came back, where it is known to be that of an operation of `kind`.
    #[inline]
    pub(crate) fn of_kind(user_data: u64, kind: Kind) -> Token {
        Token {
            kind,
            index: (user_data >> 32) as u32,
            generation: (user_data >> 8) as u32 % GENERATIONS,
        }
    }

    /// Reads what came back; `None` if no operation of ours can have carried it.
    pub(crate) fn unpack(user_data: u64) -> Option<Token> {
        let kind = match user_data & 0xff {
            0 => Kind::Cancel,
            1 => Kind::Recv,
            2 => Kind::Send,
            3 => Kind::Accept,
            4 => Kind::Slot,
            5 => Kind::Wake,
            _ => return None,
        };
        Some(Token {
            kind,
            index: (user_data >> 32) as u32,
            generation: (user_data >> 8) as u32 % GENERATIONS,
        })
    }
}

/// Hands out generations, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    /// The last one given, below 2^24.
    last: u32,
}

impl Generations {
    /// Those that follow `last`.
    #[cfg(test)]
    pub(crate) fn after(last: u32) -> Generations {
        Generations {
            last: last % GENERATIONS,
        }
    }

    /// The next generation. It comes round after 16,777,216 armings; an operation that lives that
    /// long is told apart by its index and kind.
    #[inline]
    pub(crate) fn advance(&mut self) -> u32 {
        self.last = (self.last + 1) % GENERATIONS;
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_comes_back_as_it_went() {
        for kind in [
            Kind::Cancel,
            Kind::Recv,
            Kind::Send,
            Kind::Accept,
            Kind::Slot,
            Kind::Wake,
        ] {
            for index in [0, 1, u32::MAX] {
                for generation in [0, 1, GENERATIONS - 1] {
                    let token = Token {
                        kind,
                        index,
                        generation,
                    };
                    assert_eq!(Token::unpack(token.pack()), Some(token));
                }
            }
        }
    }

    #[test]
    fn a_kind_nobody_has_is_not_a_token() {
        assert_eq!(Token::unpack(0xff), None);
    }

    #[test]
    fn generations_wrap_without_a_gap() {
        let mut generations = Generations {
            last: GENERATIONS - 2,
        };
        assert_eq!(generations.advance(), GENERATIONS - 1);
        assert_eq!(generations.advance(), 0);
    }
}
