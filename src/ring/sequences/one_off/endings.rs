//! The ways a driver ends: with all that it had lent given back, or left to the kernel for good.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Event, Kind, Lives, World};
use crate::ring::fake::kernel::Kernel;
use crate::ring::sequences::Watched;

impl Lives<'_> {
    /// All is called back and awaited.
    pub(super) fn end_in_order(mut self) -> Result<(), String> {
        self.step(Event::Room)?;
        while self.step(Event::Drop)? {}
        self.world.driver.cancel_slots();
        self.step(Event::Enter)?;
        while self.step(Event::Cancelled)? {}
        self.step(Event::Reap)?;
        if self.freed() < self.ops.len() {
            return Err("what was lent is not all given back".to_owned());
        }
        let kept = self.wakers.each_ref();
        let kept = kept.map(|(foreign, _)| Arc::strong_count(foreign));
        // One of them here, and one in the waker.
        if Rc::strong_count(&self.file) > 1 || kept != [2, 2] {
            return Err(format!("the file or a waker is kept: {kept:?}"));
        }
        self.world.spare(self.spare)
    }

    /// It is closed with operations out, and then asked for one more.
    pub(super) fn end_closed(mut self) -> Result<(), String> {
        let (out, freed) = (self.world.driver.in_flight(), self.freed());
        let held = self.world.driver.close();
        if held != out {
            return Err(format!("{held} of {out} are left to the kernel"));
        }
        let late = self.lent();
        let late = self.world.driver.start(late);
        for op in &mut self.ops {
            let Some(key) = op.key.take() else {
                continue;
            };
            let mut context = Context::from_waker(Waker::noop());
            let poll = self
                .world
                .driver
                .slots()
                .poll(&key, &mut context, &mut Vec::new());
            let memory = self.world.driver.abandon(&key, &mut Vec::new());
            if memory.is_some() || !matches!(poll, Poll::Ready(None)) {
                return Err("a future of before the close finds something".to_owned());
            }
        }
        let of_late = self.world.driver.abandon(&late, &mut Vec::new());
        // Nobody was given what the last one lent: it goes with the driver.
        let freed = freed + usize::from(self.kind != Kind::Connect);
        self.left_to_the_kernel(of_late.is_none(), freed, held)
    }

    /// It is dropped with operations out, for which the kernel has an answer or not.
    pub(super) fn end_dropped(self, answers: bool) -> Result<(), String> {
        self.kernel(|kernel| {
            kernel.has_room(true);
            kernel.hand().cancels_at_once = answers;
        });
        let called_back = |kernel: &mut Kernel| kernel.ends_cancelled();
        while answers && self.kernel(called_back) {}
        let is_freed = |op: &&super::Op| op.is_freed || (op.last.is_some() && op.key.is_none());
        let out = self.ops.iter().filter(|op| op.last.is_none()).count();
        if answers {
            let all = self.ops.len();
            return self.left_to_the_kernel(true, all, 0);
        }
        let freed = self.ops.iter().filter(is_freed).count();
        // And the poll on the alarm.
        self.left_to_the_kernel(true, freed, out as u64 + 1)
    }

    /// Drops the driver, which has given back what `freed` operations lent, and no more, and has left
    /// `held` to the kernel.
    fn left_to_the_kernel(self, fine: bool, freed: usize, held: u64) -> Result<(), String> {
        let (kind, quarantine) = (self.kind, self.quarantine);
        let World { driver, script, .. } = self.world;
        drop(driver);
        let mut kernel = script.0.borrow_mut();
        let is = match kind {
            Kind::Connect => {
                let sockets = 0..kernel.sockets_ever();
                sockets.filter(|socket| kernel.is_closed(*socket)).count()
            }
            Kind::Read | Kind::Write => quarantine.freed(),
        };
        if !fine || is != freed {
            return Err(format!("{is} operations have given back, not {freed}"));
        }
        // It goes on as if nothing had happened.
        kernel.close(held)?;
        match quarantine.touched() {
            0 => Ok(()),
            touched => Err(format!("{touched} buffers were written to when freed")),
        }
    }
}
