//! The slots against a naive model: a list of every operation there ever was.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::{Abandoned, Completed, Key, Lent, Slots};
use crate::ring::tests::OWN_POSITION;
use crate::ring::tests::quarantine::Quarantine;
use crate::ring::token::{Generations, Token};

/// One call, chosen without knowing the state it meets. Operations are counted from the last.
#[derive(Clone, Copy, Debug)]
enum Step {
    Start,
    Poll(usize),
    Abandon(usize),
    /// By its name, of whatever age; with more to come or not.
    Complete(usize, bool),
}

/// Where an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Waiting,
    Abandoned,
    Done,
    Over,
}

/// One operation, as the model has it. Its number is its place in the list, and its buffer's length.
struct Op {
    key: Key,
    token: Token,
    life: Life,
    said: Option<i32>,
}

/// Slots and the model they have to agree with.
struct Pair {
    slots: Slots,
    ops: Vec<Op>,
    quarantine: Quarantine,
    file: Rc<OwnedFd>,
}

impl Pair {
    /// With generations that follow `last`.
    fn new(last: u32, file: &Rc<OwnedFd>) -> Pair {
        Pair {
            slots: Slots {
                generations: Generations::after(last),
                ..Slots::default()
            },
            ops: Vec::new(),
            quarantine: Quarantine::default(),
            file: file.clone(),
        }
    }

    #[track_caller]
    fn step(&mut self, step: Step) {
        let (Step::Poll(back) | Step::Abandon(back) | Step::Complete(back, _)) = step else {
            self.start();
            return self.check();
        };
        let Some(number) = self.ops.len().checked_sub(back + 1) else {
            return;
        };
        match step {
            Step::Complete(_, more) => self.complete(number, more),
            Step::Abandon(_) => self.abandon(number),
            _ => self.poll(number),
        }
        self.check();
    }

    /// What must be true between any two calls.
    #[track_caller]
    fn check(&self) {
        let over = self.ops.iter().filter(|op| op.life == Life::Over).count();
        assert_eq!(self.slots.taken(), self.ops.len() - over);
        assert_eq!(self.quarantine.freed(), over);
        let in_kernel = |op: &&Op| matches!(op.life, Life::Waiting | Life::Abandoned);
        let expected = self.ops.iter().filter(in_kernel);
        let expected: HashSet<u64> = expected.map(|op| op.token.pack()).collect();
        let names: Vec<u64> = self
            .slots
            .in_kernel()
            .into_iter()
            .map(Token::pack)
            .collect();
        assert_eq!(names.len(), expected.len(), "each has a name of its own");
        assert_eq!(names.into_iter().collect::<HashSet<u64>>(), expected);
    }

    fn start(&mut self) {
        let (fd, offset) = (self.file.clone(), OWN_POSITION);
        let buffer = self.quarantine.buffer(self.ops.len() + 1);
        let (key, _sqe, token) = self.slots.start(Lent::Read { fd, buffer, offset });
        assert_eq!(key.token(), token);
        self.ops.push(Op {
            key,
            token,
            life: Life::Waiting,
            said: None,
        });
    }

    /// What comes back is what this operation had lent.
    #[track_caller]
    fn ends(&mut self, number: usize, lent: Lent) {
        let Lent::Read { buffer, .. } = lent else {
            panic!("a read was lent, not {lent:?}");
        };
        assert_eq!(buffer.len(), number + 1, "another one's memory");
        self.ops[number].life = Life::Over;
    }

    #[track_caller]
    fn poll(&mut self, number: usize) {
        let mut context = Context::from_waker(Waker::noop());
        let op = &self.ops[number];
        let poll = self.slots.poll(&op.key, &mut context, &mut Vec::new());
        match (op.life, poll) {
            (Life::Waiting, Poll::Pending) => {}
            (Life::Abandoned | Life::Over, Poll::Ready(None)) => {}
            (Life::Done, Poll::Ready(Some((result, lent)))) => {
                assert_eq!(Some(result), op.said);
                self.ends(number, lent);
            }
            (life, poll) => panic!("it is {life:?}, and its future gets {poll:?}"),
        }
    }

    #[track_caller]
    fn abandon(&mut self, number: usize) {
        let op = &mut self.ops[number];
        match (op.life, self.slots.abandon(&op.key)) {
            (Life::Waiting, Some(Abandoned::Cancel(token, _))) => {
                assert_eq!(token, op.token);
                op.life = Life::Abandoned;
            }
            (Life::Abandoned | Life::Over, None) => {}
            (Life::Done, Some(Abandoned::Freed(lent))) => self.ends(number, lent),
            (life, abandoned) => panic!("it is {life:?}, and let go of it is {abandoned:?}"),
        }
    }

    #[track_caller]
    fn complete(&mut self, number: usize, more: bool) {
        let (op, result) = (&mut self.ops[number], number as i32);
        match (op.life, self.slots.complete(op.token, result, more)) {
            (Life::Done | Life::Over, Completed::Stale) => {}
            (Life::Waiting | Life::Abandoned, Completed::NotLast) if more => {
                op.said = Some(result);
            }
            (Life::Waiting, Completed::Wake(_)) if !more => {
                op.said = Some(result);
                op.life = Life::Done;
            }
            (Life::Abandoned, Completed::Freed(lent)) if !more => self.ends(number, lent),
            (life, completed) => panic!("it is {life:?}, and completes as {completed:?}"),
        }
    }
}

/// Stands for what is read from.
fn a_file() -> Rc<OwnedFd> {
    let (file, _other) = UnixStream::pair().expect("a socket pair");
    Rc::new(file.into())
}

fn step() -> impl Strategy<Value = Step> {
    // Some are long over.
    let back = || prop_oneof![4 => 0..3usize, 1 => 0..12usize];
    prop_oneof![
        4 => Just(Step::Start),
        2 => back().prop_map(Step::Poll),
        2 => back().prop_map(Step::Abandon),
        4 => (back(), prop::bool::weighted(0.2)).prop_map(|(back, more)| Step::Complete(back, more)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_history_of_slots_agrees_with_the_model_also_where_generations_begin_anew(
        last in prop_oneof![Just(0), (1 << 24) - 40..(1u32 << 24)],
        steps in prop::collection::vec(step(), 0..100),
    ) {
        let file = a_file();
        let mut pair = Pair::new(last, &file);
        for step in steps {
            pair.step(step);
        }
        drop(pair.slots);
        prop_assert_eq!(pair.quarantine.freed(), pair.ops.len());
        prop_assert_eq!(pair.quarantine.touched(), 0);
    }
}

#[test]
fn a_place_is_used_again_and_its_old_names_are_nobodys() {
    let file = a_file();
    let mut pair = Pair::new((1 << 24) - 50, &file);
    for round in 0..100 {
        pair.step(Step::Start);
        pair.step(Step::Complete(0, false));
        pair.step(Step::Poll(0));
        assert_eq!(pair.ops[round].token.index, 0, "the place that is free");
        for back in 0..=round {
            pair.step(Step::Complete(back, false));
            pair.step(Step::Poll(back));
        }
    }
}
