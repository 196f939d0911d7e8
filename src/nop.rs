//! An operation that does nothing, submitted and completed: what every other operation costs at
//! least. Only the benches see this module, under `--cfg evenfall_bench`; it is no part of what the
//! crate promises.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::context::{self, Local};
use crate::io::errors;
use crate::ring::slot::{Key, Lent};

/// Submits a nop on this core's ring and waits for its completion, by way of a slot as a connect
/// does.
///
/// # Errors
///
/// When the ring is closed. The kernel itself refuses no nop.
///
/// # Panics
///
/// Outside of a core.
pub async fn nop() -> io::Result<()> {
    let local = context::here();
    let key = local.io.borrow_mut().driver.start(Lent::Nop);
    let mut op = Op {
        local,
        key: Some(key),
    };
    poll_fn(|context| op.poll(context)).await
}

/// A nop in the kernel. Dropping it leaves its slot to the ring.
struct Op {
    /// The core whose ring it is in.
    local: Rc<Local>,
    /// Its slot, until the result is taken.
    key: Option<Key>,
}

impl Op {
    /// Its completion.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(key) = &self.key else {
            return Poll::Ready(Err(errors::closed()));
        };
        let mut replaced = Vec::new();
        let mut io = self.local.io.borrow_mut();
        let poll = io.driver.slots().poll(key, context, &mut replaced);
        drop(io);
        // Outside of the borrow: a waker's destructor may be anything.
        drop(replaced);
        let Poll::Ready(outcome) = poll else {
            return Poll::Pending;
        };
        self.key = None;
        Poll::Ready(match outcome {
            Some((0.., _)) => Ok(()),
            Some((errno, _)) => Err(io::Error::from_raw_os_error(-errno)),
            None => Err(errors::closed()),
        })
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let mut spent = Vec::new();
            let freed = self.local.io.borrow_mut().driver.abandon(&key, &mut spent);
            drop((freed, spent));
        }
    }
}
