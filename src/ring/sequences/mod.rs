//! Every sequence of events, up to a length, of something that a test watches; and with that the
//! lives of operations, from their submission to the kernel's last word, on a kernel that is played
//! by hand.
//!
//! A sequence is gone through event by event; one that asks for what is not possible ends there.
//! Then everything that is under way is brought to an end, and all must be as empty as at first.

#![forbid(unsafe_code)]

mod armed;
mod one_off;
mod world;

use std::fmt::Debug;

/// What is watched while events happen to it.
pub(crate) trait Watched: Sized {
    /// What can happen.
    type Event: Copy;

    /// Lets it happen. Whether it was possible; an error says what contradicts itself since.
    fn step(&mut self, event: Self::Event) -> Result<bool, String>;

    /// Brings everything to its end. An error says what is wrong with that.
    fn finish(self) -> Result<(), String>;

    /// Plays `sequence`, as far as it is possible, and then the end. How far that was.
    fn play(mut self, sequence: &[Self::Event]) -> Result<usize, String> {
        let mut possible = 0;
        for event in sequence {
            if !self.step(*event)? {
                break;
            }
            possible += 1;
        }
        self.finish()?;
        Ok(possible)
    }
}

/// Has each sequence of `length` events played, but those that begin as one that was not possible.
/// How many could be played to their end.
#[track_caller]
pub(crate) fn each_sequence<E: Copy + Debug>(
    events: &[E],
    length: usize,
    mut play: impl FnMut(&[E]) -> Result<usize, String>,
) -> usize {
    let mut kinds = vec![0; length];
    let mut whole = 0;
    loop {
        let sequence: Vec<E> = kinds.iter().map(|kind| events[*kind]).collect();
        let possible = match play(&sequence) {
            Ok(possible) => possible,
            Err(what) => panic!("{sequence:?}: {what}"),
        };
        whole += usize::from(possible == length);
        // The next one that differs in the event that was not possible, or else in the last.
        let mut at = possible.min(length - 1);
        kinds[at + 1..].fill(0);
        loop {
            kinds[at] += 1;
            if kinds[at] < events.len() {
                break;
            }
            if at == 0 {
                return whole;
            }
            kinds[at] = 0;
            at -= 1;
        }
    }
}
