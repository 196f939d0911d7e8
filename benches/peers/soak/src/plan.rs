//! What happens in a round: all of it from the seed and the round's number, so that server and
//! client need not tell each other, and a round that failed can be had again.

/// How a round's runtime comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// By a call.
    Call,
    /// By SIGTERM.
    Signal,
    /// By a call that wants it soon.
    Within,
    /// By a call that cuts.
    Force,
    /// Dropped, and never run; nobody connects.
    Unrun,
}

/// What one connection does before the stop.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Exchanges: some requests at once, and all their replies.
    pub bursts: usize,
    /// Requests of one exchange.
    pub depth: usize,
    /// What it does then.
    pub then: Then,
}

/// The end of a connection, or what it does in the stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Closes, and reads to the end.
    Closes,
    /// Sends once more, half-closes, and reads the replies to the end.
    HalfCloses,
    /// Resets in the middle of a request.
    Resets,
    /// Waits for the end that the stop brings.
    Waits,
    /// Goes on until the stop ends it.
    GoesOn,
    /// Is in the middle of a request, and sends the rest when the stop has begun.
    FinishesLate,
    /// Is in the middle of a request for good.
    Stalls,
}

/// One round.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How the runtime ends.
    pub stop: Stop,
    /// How many cores it has.
    pub cores: usize,
    /// The budget of the stop.
    pub timeout_ms: u64,
    /// Its connections. Several threads share them, one after the other.
    pub scripts: Vec<Script>,
    /// Connections that are tried when the stop has begun.
    pub late: usize,
}

/// Where only a stop by force ends a connection, so long a budget.
const STALLED_MS: u64 = 200;

/// Long enough for all that goes on, on a machine that does much else.
const PATIENT_MS: u64 = 5_000;

impl Plan {
    /// The plan of this round.
    pub fn of(seed: u64, round: u64) -> Plan {
        let mut dice = Dice::new(seed, round);
        let stop = match dice.below(32) {
            0..=12 => Stop::Call,
            13..=25 => Stop::Signal,
            26..=28 => Stop::Within,
            29 | 30 => Stop::Force,
            _ => Stop::Unrun,
        };
        let cores = 1 + usize::from(dice.below(4) == 0);
        let stalls = dice.below(32) == 0;
        let mut scripts: Vec<Script> = (0..8 + dice.below(16)).map(|_| script(&mut dice)).collect();
        if stalls {
            scripts.push(Script {
                bursts: 1,
                depth: 1,
                then: Then::Stalls,
            });
        }
        Plan {
            stop,
            cores,
            timeout_ms: if stalls { STALLED_MS } else { PATIENT_MS },
            scripts,
            late: dice.below(3) as usize,
        }
    }
}

impl Plan {
    /// Whether the stop has the time to end every connection in order, on any machine.
    pub fn is_patient(&self) -> bool {
        matches!(self.stop, Stop::Call | Stop::Signal) && self.timeout_ms == PATIENT_MS
    }
}

/// What one connection does.
fn script(dice: &mut Dice) -> Script {
    let then = match dice.below(16) {
        0..=3 => Then::Closes,
        4 | 5 => Then::HalfCloses,
        6 | 7 => Then::Resets,
        8..=11 => Then::Waits,
        12 | 13 => Then::GoesOn,
        _ => Then::FinishesLate,
    };
    // Some say nothing at all, and some say more than a receive buffer holds.
    let (bursts, depth) = match dice.below(32) {
        0 => (0, 0),
        1 => (1, 512),
        _ => (1 + dice.below(8), 1 + dice.below(24)),
    };
    Script {
        bursts: bursts as usize,
        depth: depth as usize,
        then,
    }
}

/// Splitmix64: each number follows from the state alone.
struct Dice {
    /// The last number's place in the sequence.
    state: u64,
}

impl Dice {
    fn new(seed: u64, round: u64) -> Dice {
        let state =
            seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ round.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Dice { state }
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_rounds_have_every_stop_and_every_script_in_them() {
        let plans: Vec<Plan> = (0..100).map(|round| Plan::of(1, round)).collect();
        let stops = [
            Stop::Call,
            Stop::Signal,
            Stop::Within,
            Stop::Force,
            Stop::Unrun,
        ];
        for stop in stops {
            assert!(plans.iter().any(|plan| plan.stop == stop), "{stop:?}");
        }
        let thens = [
            Then::Closes,
            Then::HalfCloses,
            Then::Resets,
            Then::Waits,
            Then::GoesOn,
            Then::FinishesLate,
            Then::Stalls,
        ];
        for then in thens {
            let all = plans.iter().flat_map(|plan| &plan.scripts);
            assert!(
                all.into_iter().any(|script| script.then == then),
                "{then:?}"
            );
        }
    }
}
