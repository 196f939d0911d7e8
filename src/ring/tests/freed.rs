//! No buffer is touched after it is freed: 64 reads of 64 KiB are in flight when their futures
//! let go of them and the ring goes. Every buffer is poisoned when it is freed and looked at in
//! the end, after the sources were given more to deliver.
//!
//! A key is all a future has of its operation. It has no destructor: a future gives its key to
//! `abandon` when it is dropped, and one that is forgotten does not. What a whole runtime makes of
//! that is in the tests of `runtime`.

use std::sync::Barrier;

use super::quarantine::{POISON, Quarantine};
use super::source::{DATA, DirectFile, PIECE, Pipe, READ_BYTES, READS, assert_nobody_reads};
use super::{open, read_of, settle};
use crate::ring::driver::Driver;
use crate::ring::port::Wait;
use crate::ring::slot::{Key, Lent};

/// How often each parting is tried, for what the kernel's timing may bring: a hundred times, or as
/// `EVENFALL_FREED_ROUNDS` says.
pub(crate) fn rounds() -> usize {
    let asked = std::env::var("EVENFALL_FREED_ROUNDS").ok();
    asked.map_or(100, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Reads in flight, and who watches over their buffers.
struct Reads {
    driver: Driver,
    keys: Vec<Key>,
    quarantine: Quarantine,
}

impl Reads {
    /// One read from each pipe, not submitted yet.
    fn of_pipes(pipes: &[Pipe]) -> Reads {
        Reads::start(pipes.len(), |at, quarantine| {
            read_of(&pipes[at].reader, quarantine.buffer(READ_BYTES))
        })
    }

    /// One read of each block of the file, not submitted yet.
    fn of_file(file: &DirectFile) -> Reads {
        Reads::start(READS, |number, quarantine| Lent::Read {
            fd: file.fd.clone(),
            buffer: quarantine.buffer(READ_BYTES),
            offset: DirectFile::offset(number),
        })
    }

    fn start(count: usize, lent: impl Fn(usize, &Quarantine) -> Lent) -> Reads {
        let quarantine = Quarantine::default();
        let mut driver = open();
        let keys = (0..count)
            .map(|at| driver.start(lent(at, &quarantine)))
            .collect();
        Reads {
            driver,
            keys,
            quarantine,
        }
    }

    fn enter(&mut self, wait: Wait) {
        self.driver.enter(wait).expect("the ring is open");
    }

    /// Drops every future.
    fn abandon(&mut self) {
        for key in self.keys.drain(..) {
            drop(self.driver.abandon(&key, &mut Vec::new()));
        }
    }

    /// Drops the ring and leaves the quarantine.
    fn drop_ring(self) -> Quarantine {
        drop(self.driver);
        drop(self.keys);
        self.quarantine
    }
}

/// Runs `parting` on new pipes, [`rounds`] times.
fn part_from_pipes(parting: impl Fn(&[Pipe], Reads) -> Quarantine) {
    for _ in 0..rounds() {
        let pipes: Vec<Pipe> = (0..READS).map(|_| Pipe::new()).collect();
        let quarantine = parting(&pipes, Reads::of_pipes(&pipes));
        assert_eq!(quarantine.freed(), READS, "buffers freed with the ring");
        assert_nobody_reads(&pipes, &quarantine);
    }
}

/// Runs `parting` on the file, [`rounds`] times. A device cannot take back a read. A ring dropped
/// while it stalls leaks the buffers instead of freeing them, which must not be the rule.
fn part_from_file(parting: impl Fn(Reads) -> Quarantine) {
    let file = DirectFile::new();
    let mut all_freed = 0;
    for _ in 0..rounds() {
        let quarantine = parting(Reads::of_file(&file));
        all_freed += usize::from(quarantine.freed() == READS);
        file.reread();
        quarantine.assert_untouched();
    }
    let rounds = rounds();
    assert!(
        all_freed > rounds / 2,
        "all was freed in {all_freed} of {rounds} rounds only"
    );
}

#[test]
fn pipe_reads_abandoned_before_submission_touch_nothing_freed() {
    part_from_pipes(|_, mut reads| {
        reads.abandon();
        reads.drop_ring()
    });
}

#[test]
fn pipe_reads_abandoned_before_submission_with_data_there_touch_nothing_freed() {
    part_from_pipes(|pipes, mut reads| {
        pipes.iter().for_each(Pipe::put);
        reads.abandon();
        reads.drop_ring()
    });
}

#[test]
fn pipe_reads_abandoned_in_the_kernel_touch_nothing_freed() {
    part_from_pipes(|_, mut reads| {
        reads.enter(Wait::No);
        reads.abandon();
        reads.drop_ring()
    });
}

#[test]
fn pipe_reads_abandoned_and_reaped_touch_nothing_freed() {
    part_from_pipes(|pipes, mut reads| {
        reads.enter(Wait::No);
        reads.abandon();
        assert_eq!(reads.quarantine.freed(), 0, "freed before the receipt");
        settle(&mut reads.driver);
        assert_eq!(reads.quarantine.freed(), pipes.len());
        assert_eq!(reads.driver.slots().taken(), 0);
        reads.drop_ring()
    });
}

#[test]
fn pipe_reads_that_are_forgotten_touch_nothing_freed() {
    part_from_pipes(|_, mut reads| {
        reads.enter(Wait::No);
        reads.keys.drain(..).for_each(std::mem::forget);
        reads.drop_ring()
    });
}

#[test]
fn pipe_reads_whose_ring_is_dropped_first_touch_nothing_freed() {
    part_from_pipes(|_, mut reads| {
        reads.enter(Wait::No);
        reads.drop_ring()
    });
}

#[test]
fn pipe_reads_whose_data_races_the_cancel_touch_nothing_freed() {
    part_from_pipes(|pipes, mut reads| {
        reads.enter(Wait::No);
        let together = Barrier::new(2);
        let writers: Vec<_> = pipes.iter().map(|pipe| &pipe.writer).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                together.wait();
                for mut writer in writers {
                    std::io::Write::write_all(&mut writer, &[DATA; PIECE]).expect("a reader");
                }
            });
            together.wait();
            reads.abandon();
            reads.drop_ring()
        })
    });
}

#[test]
fn pipe_reads_that_completed_unreaped_touch_nothing_freed() {
    part_from_pipes(|pipes, mut reads| {
        reads.enter(Wait::No);
        pipes.iter().for_each(Pipe::put);
        reads.enter(Wait::Completion);
        assert!(reads.driver.has_unseen(), "a completion that is not reaped");
        reads.abandon();
        reads.drop_ring()
    });
}

#[test]
fn file_reads_abandoned_before_submission_touch_nothing_freed() {
    part_from_file(|mut reads| {
        reads.abandon();
        reads.drop_ring()
    });
}

#[test]
fn file_reads_abandoned_in_the_kernel_touch_nothing_freed() {
    part_from_file(|mut reads| {
        reads.enter(Wait::No);
        reads.abandon();
        reads.drop_ring()
    });
}

#[test]
fn file_reads_whose_ring_is_dropped_first_touch_nothing_freed() {
    part_from_file(|mut reads| {
        reads.enter(Wait::No);
        reads.drop_ring()
    });
}

#[test]
fn file_reads_that_are_forgotten_touch_nothing_freed() {
    part_from_file(|mut reads| {
        reads.enter(Wait::No);
        reads.keys.drain(..).for_each(std::mem::forget);
        reads.drop_ring()
    });
}

#[test]
fn file_reads_that_completed_unreaped_touch_nothing_freed() {
    part_from_file(|mut reads| {
        reads.enter(Wait::Completion);
        assert!(reads.driver.has_unseen(), "a completion that is not reaped");
        reads.abandon();
        reads.drop_ring()
    });
}

/// The other way round: a write that is abandoned must not send what its memory became.
#[test]
fn pipe_writes_abandoned_in_the_kernel_send_nothing_freed() {
    for _ in 0..rounds() {
        let pipe = Pipe::new();
        let quarantine = Quarantine::default();
        let mut driver = open();
        let writer = std::rc::Rc::new(pipe.writer.try_clone().expect("a descriptor").into());
        let keys: Vec<Key> = (0..READS)
            .map(|_| {
                let mut buffer = quarantine.buffer(READ_BYTES);
                buffer.bytes_mut().fill(DATA);
                driver.start(Lent::Write {
                    fd: std::rc::Rc::clone(&writer),
                    buffer,
                    offset: super::OWN_POSITION,
                })
            })
            .collect();
        // The first write fills the pipe, or part of it; the others find it full.
        driver.enter(Wait::No).expect("the ring is open");
        for key in keys {
            drop(driver.abandon(&key, &mut Vec::new()));
        }
        drop(driver);
        assert_eq!(quarantine.freed(), READS, "buffers freed with the ring");
        let mut sent = pipe.take();
        sent.extend(pipe.take());
        assert!(!sent.is_empty(), "the first write had room");
        assert!(sent.iter().all(|&byte| byte != POISON), "freed bytes sent");
        assert_eq!(pipe.unread(), 0, "a write went on after the ring");
    }
}
