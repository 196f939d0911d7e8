//! A driver on a script that is played by hand, which sequences use one after the other.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use crate::config::Features;
use crate::kept;
use crate::ring::driver::Driver;
use crate::ring::fake::kernel::Kernel;
use crate::ring::fake::{self, Installed};
use crate::ring::port::Wait;
use crate::ring::sys::event::EventFd;
use crate::ring::token::Generations;
use crate::sync::atomic::AtomicU64;

thread_local! {
    /// The time of the scripts of this thread, which nobody reads.
    static CLOCK: &'static AtomicU64 = kept::for_ever(AtomicU64::new(0));
}

/// How many sequences share a world: a script looks through all there ever was.
const SEQUENCES_A_WORLD: usize = 40;

/// See the module.
pub(super) struct World {
    pub(super) driver: Driver,
    pub(super) script: Installed,
    /// For operations that are in no slot.
    pub(super) generations: Generations,
    /// How many sequences have used it.
    sequences: usize,
}

/// Where a world that is as empty as it was waits for the next sequence.
#[derive(Default)]
pub(super) struct Spare(Cell<Option<World>>);

impl World {
    fn new() -> World {
        let script = fake::install(Kernel::by_hand(CLOCK.with(|clock| *clock)));
        let alarm = Arc::new(EventFd::new().expect("a descriptor"));
        let mut driver = Driver::open(alarm, Features::All).expect("a script refuses nothing");
        driver.enter(Wait::No).expect("a script never fails");
        World {
            driver,
            script,
            generations: Generations::default(),
            sequences: 0,
        }
    }

    /// The one that is there, or a new one if it is worn.
    pub(super) fn from(spare: &Spare) -> World {
        match spare.0.take() {
            Some(world) if world.sequences < SEQUENCES_A_WORLD => world,
            worn => {
                // First this one, for a script that goes makes way for none.
                if let Some(worn) = worn {
                    worn.close();
                }
                World::new()
            }
        }
    }

    /// The kernel does something.
    pub(super) fn kernel<T>(&self, act: impl FnOnce(&mut Kernel) -> T) -> T {
        act(&mut self.script.0.borrow_mut())
    }

    /// What was asked for goes to the kernel. Whether there was something.
    pub(super) fn enter(&mut self) -> bool {
        let wanted = !self.driver.is_all_seen();
        self.driver.enter(Wait::No).expect("a script never fails");
        wanted
    }

    /// It goes to the next sequence; nothing is left but the poll on the alarm.
    pub(super) fn spare(mut self, to: &Spare) -> Result<(), String> {
        let left = self.driver.in_flight() - 1;
        if left > 0 {
            return Err(format!("{left} operations are left"));
        }
        self.sequences += 1;
        to.0.set(Some(self));
        Ok(())
    }

    /// Closes it, with nothing left to the kernel, and no descriptor open that it knows.
    fn close(mut self) {
        self.driver.cancel_own();
        self.driver.enter(Wait::No).expect("a script never fails");
        self.kernel(Kernel::ends_cancelled);
        self.driver.reap(&mut Vec::new());
        assert_eq!(self.driver.close(), 0, "operations are left");
        let closed = self.kernel(|kernel| kernel.close(0));
        closed.expect("all descriptors are closed");
    }
}

impl Spare {
    /// Closes the world that waits, if one does.
    pub(super) fn close(self) {
        if let Some(world) = self.0.take() {
            world.close();
        }
    }
}

/// Any descriptor: a script asks for no more.
pub(super) fn a_descriptor() -> OwnedFd {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None);
    socket.expect("a descriptor").into()
}
