//! Connecting: the one operation of a stream that has no record yet, so it lives in a slot.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::context::Local;
use crate::io::conn::Origin;
use crate::io::errors::Late;
use crate::ring::slot::{Key, Lent};

/// Connects to `address` and makes the record; its index.
pub(super) async fn connect(local: &Rc<Local>, address: SocketAddr) -> io::Result<u32> {
    if local.closed.get() {
        return Err(local.too_late(Late::Connect).into());
    }
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    let lent = Lent::Connect {
        fd: OwnedFd::from(socket),
        address: Box::new(SockAddr::from(address)),
    };
    let key = local.io.borrow_mut().driver.start(lent);
    let mut op = Op {
        local: local.clone(),
        key: Some(key),
    };
    let fd = poll_fn(|context| op.poll(context)).await?;
    let mut io = local.io.borrow_mut();
    let index = io.adopt(fd, Origin::Outgoing);
    io.take_handle(index);
    Ok(index)
}

/// A connect in the kernel. Dropping it cancels; the slot keeps address and socket until the
/// kernel is done with them.
struct Op {
    /// The core whose ring it is in.
    local: Rc<Local>,
    /// Its slot, until the result is taken.
    key: Option<Key>,
}

impl Op {
    /// The connected socket.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        let Some(key) = &self.key else {
            return Poll::Ready(Err(crate::io::errors::closed()));
        };
        let mut replaced = Vec::new();
        let poll = self
            .local
            .io
            .borrow_mut()
            .driver
            .slots()
            .poll(key, context, &mut replaced);
        drop(replaced);
        let Poll::Ready(outcome) = poll else {
            return Poll::Pending;
        };
        self.key = None;
        Poll::Ready(match outcome {
            Some((0.., Lent::Connect { fd, .. })) => Ok(fd),
            Some((errno, _)) => Err(io::Error::from_raw_os_error(-errno)),
            None => Err(crate::io::errors::closed()),
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
