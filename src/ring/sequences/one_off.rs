//! The lives of one-off operations, and of what they lend, in every order.

#![forbid(unsafe_code)]

mod endings;
mod events;

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use socket2::SockAddr;

use super::world::{Spare, World, a_descriptor};
use super::{Watched, each_sequence};
use crate::ring::driver::OpCounts;
use crate::ring::fake::kernel::Kernel;
use crate::ring::slot::{Completed, Key, Lent};
use crate::ring::tests::OWN_POSITION;
use crate::ring::tests::foreign::Foreign;
use crate::ring::tests::quarantine::Quarantine;
use crate::ring::token::Token;
use events::{BY_TURNS, EVENTS, Event};

/// What is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Connect,
}

/// What the operations are, each by itself.
const KINDS: [Kind; 3] = [Kind::Read, Kind::Write, Kind::Connect];

/// How many are alive at once at most.
const ALIVE_MOST: usize = 2;

/// Bytes of a buffer.
const BYTES: usize = 8;

/// What the last completion of an operation says that had its result before.
const NOTIFIED: i32 = 0;

/// How a driver ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// All is called back and awaited.
    Ordered,
    /// It is closed at once.
    Closed,
    /// It is dropped, and the kernel ends what is called back; or it does not.
    Dropped,
    DroppedInVain,
}

/// What a naive observer knows of one operation.
struct Op {
    /// What its future has; none when that was dropped or has taken the result.
    key: Option<Key>,
    token: Token,
    /// Which waker its future has left.
    parked: Option<usize>,
    /// What the kernel said first.
    said: Option<i32>,
    /// What it said last.
    last: Option<i32>,
    /// Whether that was taken from the queue.
    is_reaped: bool,
    /// Whether what it lent was given back.
    is_freed: bool,
}

/// Operations of one driver, and what must be true of them.
struct Lives<'a> {
    kind: Kind,
    world: World,
    /// Where the world goes that is as empty as it was.
    spare: &'a Spare,
    /// What the driver had counted before, and how many sockets the script had known.
    before: (OpCounts, usize),
    quarantine: Quarantine,
    /// Stands for the file, and shows by its count whether a descriptor was let go.
    file: Rc<OwnedFd>,
    ops: Vec<Op>,
    wakers: [(Arc<Foreign>, Waker); 2],
    /// How often each should have been woken.
    calls: [usize; 2],
    /// Whether each event is followed by a turn.
    by_turns: bool,
    ending: Ending,
}

impl Lives<'_> {
    fn new(kind: Kind, spare: &Spare) -> Lives<'_> {
        let world = World::from(spare);
        let sockets = world.script.0.borrow().sockets_ever();
        Lives {
            kind,
            before: (world.driver.counts(), sockets),
            world,
            spare,
            quarantine: Quarantine::default(),
            file: Rc::new(a_descriptor()),
            ops: Vec::new(),
            wakers: [Foreign::new(), Foreign::new()],
            calls: [0; 2],
            by_turns: false,
            ending: Ending::Ordered,
        }
    }

    /// The kernel does something.
    fn kernel<T>(&self, act: impl FnOnce(&mut Kernel) -> T) -> T {
        self.world.kernel(act)
    }

    /// What an operation lends.
    fn lent(&self) -> Lent {
        let (fd, mut buffer) = (self.file.clone(), self.quarantine.buffer(BYTES));
        buffer.bytes_mut().fill(7);
        let offset = OWN_POSITION;
        match self.kind {
            Kind::Read => Lent::Read { fd, buffer, offset },
            Kind::Write => Lent::Write { fd, buffer, offset },
            Kind::Connect => {
                let address: std::net::SocketAddr = "127.0.0.1:9".parse().expect("an address");
                Lent::Connect {
                    fd: a_descriptor(),
                    address: Box::new(SockAddr::from(address)),
                }
            }
        }
    }

    fn apply(&mut self, event: Event) -> Result<bool, String> {
        Ok(match event {
            Event::Start => self.start(),
            Event::Poll => return self.poll(0),
            Event::PollElsewhere => return self.poll(1),
            Event::Drop => return self.drop_future(),
            Event::Enter => self.world.enter(),
            Event::Reap => self.reap(),
            Event::Done => self.go_on(|op| if op.said.is_some() { NOTIFIED } else { 5 }),
            Event::Failed => self.go_on(|_| -libc::EIO),
            Event::Cancelled => self.end_cancelled(),
            Event::NotLast => self.say_not_last(),
            Event::CancelAll => {
                self.world.driver.cancel_slots();
                self.ops.iter().any(|op| op.last.is_none())
            }
            Event::LateCancel => self.late().is_some_and(|token| {
                self.world.driver.cancel(token);
                true
            }),
            Event::LateCompletion => return self.complete_late(),
            Event::Crowded => self.kernel(|kernel| kernel.has_room(false)),
            Event::Room => self.kernel(|kernel| kernel.has_room(true)),
        })
    }

    fn start(&mut self) -> bool {
        let alive = self.ops.iter().filter(|op| !op.is_freed).count();
        if alive >= ALIVE_MOST {
            return false;
        }
        let lent = self.lent();
        let key = self.world.driver.start(lent);
        self.ops.push(Op {
            token: key.token(),
            key: Some(key),
            parked: None,
            said: None,
            last: None,
            is_reaped: false,
            is_freed: false,
        });
        true
    }

    /// Polls the last future that is there, by the waker of that number.
    fn poll(&mut self, by: usize) -> Result<bool, String> {
        let Some(op) = self.ops.iter_mut().rev().find(|op| op.key.is_some()) else {
            return Ok(false);
        };
        let (mut replaced, key) = (Vec::new(), op.key.as_ref().expect("it is there"));
        let mut context = Context::from_waker(&self.wakers[by].1);
        let poll = self
            .world
            .driver
            .slots()
            .poll(key, &mut context, &mut replaced);
        match poll {
            Poll::Pending if op.is_reaped => Err("it is over, and its future waits".to_owned()),
            Poll::Pending => {
                let before = op.parked.replace(by);
                let given: Vec<bool> = replaced
                    .iter()
                    .map(|waker| before.is_some_and(|at| waker.will_wake(&self.wakers[at].1)))
                    .collect();
                let expected: &[bool] = if before.is_some() { &[true] } else { &[] };
                (given == expected)
                    .then_some(true)
                    .ok_or("not the waker that was replaced".to_owned())
            }
            Poll::Ready(_) if !op.is_reaped => Err("it is not over, and has a result".to_owned()),
            Poll::Ready(None) => Err("its result is gone".to_owned()),
            Poll::Ready(Some((result, _lent))) => {
                op.key = None;
                op.is_freed = true;
                let wrong = (Some(result) != op.said)
                    .then(|| format!("its result is {result}, not {:?}", op.said));
                wrong.map_or(Ok(true), Err)
            }
        }
    }

    fn drop_future(&mut self) -> Result<bool, String> {
        let Some(op) = self.ops.iter_mut().rev().find(|op| op.key.is_some()) else {
            return Ok(false);
        };
        let (mut spent, key) = (Vec::new(), op.key.take().expect("it is there"));
        let freed = self.world.driver.abandon(&key, &mut spent);
        let parked = op.parked.take();
        op.is_freed = op.is_reaped;
        if freed.is_some() != op.is_reaped {
            return Err("its memory comes back if it is over, and not before".to_owned());
        }
        let waits = usize::from(parked.is_some() && !op.is_reaped);
        if spent.len() != waits {
            return Err("the waker that was parked comes back".to_owned());
        }
        Ok(true)
    }

    /// Takes what has completed, and wakes who is to be woken.
    fn reap(&mut self) -> bool {
        if !self.world.driver.has_unseen() {
            return false;
        }
        let (mut batch, mut wakers) = (Vec::new(), Vec::new());
        self.world.driver.reap(&mut batch);
        for completion in &batch {
            self.world.driver.complete_slot(completion, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
        for op in self.ops.iter_mut().filter(|op| op.last.is_some()) {
            if !std::mem::replace(&mut op.is_reaped, true) {
                op.is_freed = op.key.is_none();
                if let Some(by) = op.parked.take() {
                    self.calls[by] += 1;
                }
            }
        }
        true
    }

    /// The first operation that is not over, if the kernel has it.
    fn first_in_kernel(&mut self) -> Option<&mut Op> {
        self.ops.iter_mut().find(|op| op.last.is_none())
    }

    /// The kernel ends the first operation.
    fn go_on(&mut self, result: impl FnOnce(&Op) -> i32) -> bool {
        let script = self.world.script.0.clone();
        self.first_in_kernel().is_some_and(|op| {
            let result = result(op);
            let ended = script.borrow_mut().completes(op.token, result, false);
            if ended {
                op.said.get_or_insert(result);
                op.last = Some(result);
            }
            ended
        })
    }

    /// The kernel says what the first operation has come to, and keeps its memory.
    fn say_not_last(&mut self) -> bool {
        let script = self.world.script.0.clone();
        self.first_in_kernel().is_some_and(|op| {
            let said = op.said.is_none() && script.borrow_mut().completes(op.token, 5, true);
            if said {
                op.said = Some(5);
            }
            said
        })
    }

    /// The kernel ends the first operation that was called back, for that reason.
    fn end_cancelled(&mut self) -> bool {
        let script = self.world.script.0.clone();
        let mut kernel = script.borrow_mut();
        let mut ops = self.ops.iter_mut();
        ops.find(|op| kernel.is_called_back(op.token))
            .is_some_and(|op| {
                op.said.get_or_insert(-libc::ECANCELED);
                op.last = Some(-libc::ECANCELED);
                kernel.completes(op.token, -libc::ECANCELED, false)
            })
    }

    /// The name of an operation that is over and forgotten.
    fn late(&self) -> Option<Token> {
        let over = self.ops.iter().find(|op| op.is_freed);
        over.map(|op| op.token)
    }

    /// A sound kernel never does that, so the driver is not asked: it would panic.
    fn complete_late(&mut self) -> Result<bool, String> {
        let Some(token) = self.late() else {
            return Ok(false);
        };
        match self.world.driver.slots().complete(token, 5, false) {
            Completed::Stale => Ok(true),
            other => Err(format!("a late completion did something: {other:?}")),
        }
    }

    /// What must be true between any two events.
    fn contradiction(&mut self) -> Option<String> {
        if let Some(broken) = self.kernel(|kernel| kernel.broken().map(str::to_owned)) {
            return Some(broken);
        }
        let count = |which: &dyn Fn(&Op) -> bool| self.ops.iter().filter(|op| which(op)).count();
        let freed = count(&|op| op.is_freed);
        let reaped = count(&|op| op.is_reaped);
        let called_back = |op: &Op| op.is_reaped && op.last == Some(-libc::ECANCELED);
        let cancelled = count(&called_back);
        let ever = self.ops.len();
        // Beside the operations there is the poll on the alarm.
        let (counts, before, alarm) = (self.world.driver.counts(), self.before.0, 1);
        let woken = self.wakers.each_ref().map(|(foreign, _)| foreign.woken());
        let numbers = [
            (
                "submitted",
                ever,
                (counts.submitted - before.submitted) as usize,
            ),
            (
                "completed",
                reaped,
                (counts.completed - before.completed) as usize,
            ),
            (
                "cancelled",
                cancelled,
                (counts.cancelled - before.cancelled) as usize,
            ),
            ("stale", 0, counts.stale as usize),
            (
                "in flight",
                ever - reaped + alarm,
                self.world.driver.in_flight() as usize,
            ),
            ("slots", ever - freed, self.world.driver.slots().taken()),
            ("calls of one task", self.calls[0], woken[0]),
            ("calls of the other", self.calls[1], woken[1]),
            ("freed buffers", freed, self.freed()),
            (
                "buffers written to when freed",
                0,
                self.quarantine.touched(),
            ),
        ];
        let wrong = numbers.iter().find(|(_, expected, is)| expected != is);
        wrong.map(|(what, expected, is)| format!("{is} {what}, not {expected}"))
    }

    /// How many operations have given back what they had lent.
    fn freed(&self) -> usize {
        match self.kind {
            // A connect lends a socket instead, and the script looks when that is closed.
            Kind::Connect => self.kernel(|kernel| {
                let mut sockets = self.before.1..kernel.sockets_ever();
                sockets
                    .by_ref()
                    .filter(|socket| kernel.is_closed(*socket))
                    .count()
            }),
            Kind::Read | Kind::Write => self.quarantine.freed(),
        }
    }
}

impl Watched for Lives<'_> {
    type Event = Event;

    fn step(&mut self, event: Event) -> Result<bool, String> {
        if !self.apply(event)? {
            return Ok(false);
        }
        if self.by_turns {
            self.world.enter();
            self.reap();
        }
        self.contradiction().map_or(Ok(true), Err)
    }

    fn finish(self) -> Result<(), String> {
        match self.ending {
            Ending::Ordered => self.end_in_order(),
            Ending::Closed => self.end_closed(),
            Ending::Dropped => self.end_dropped(true),
            Ending::DroppedInVain => self.end_dropped(false),
        }
    }
}

/// How many sequences of events of each kind could be played to their end.
fn all_of(events: &[Event], length: usize, by_turns: bool, ending: Ending) -> [usize; 3] {
    KINDS.map(|kind| {
        let spare = Spare::default();
        let whole = each_sequence(events, length, |sequence| {
            let lives = Lives {
                by_turns,
                ending,
                ..Lives::new(kind, &spare)
            };
            lives.play(sequence)
        });
        spare.close();
        whole
    })
}

#[test]
fn what_is_lent_comes_back_once_and_last_in_every_sequence_of_five_events() {
    assert_eq!(all_of(&EVENTS, 5, false, Ending::Ordered), [2807; 3]);
}

#[test]
fn a_slot_used_again_hears_of_nothing_that_was_before_in_every_sequence_of_five_turns() {
    assert_eq!(all_of(&BY_TURNS, 5, true, Ending::Ordered), [1051; 3]);
}

#[test]
fn however_a_driver_ends_the_kernel_writes_to_nothing_freed_in_every_sequence_of_three_events() {
    for ending in [Ending::Closed, Ending::Dropped, Ending::DroppedInVain] {
        assert_eq!(all_of(&EVENTS, 3, false, ending), [56; 3]);
    }
}
