//! The header of a send that gathers several pieces of memory.

use crate::config::SEND_IOVECS;

/// A message header and the vector it points to, on the heap, so that both stay where they are
/// while the kernel reads them.
pub(crate) struct Gather(Box<Message>);

/// See [`Gather`].
struct Message {
    /// Points to `pieces`.
    header: libc::msghdr,
    /// The first `header.msg_iovlen` are in use.
    pieces: [libc::iovec; SEND_IOVECS],
}

impl std::fmt::Debug for Gather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gather")
            .field("pieces", &self.0.header.msg_iovlen)
            .finish()
    }
}

impl Gather {
    /// A header of no pieces.
    pub(crate) fn new() -> Gather {
        let empty = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: msghdr is a plain struct of integers and pointers; all zero is "no message".
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        Gather(Box::new(Message {
            header,
            pieces: [empty; SEND_IOVECS],
        }))
    }

    /// Names `pieces`, as many as there is room for, and gives the header's address. The pieces
    /// and this value must stay until the send's completion, and the value may be filled again
    /// only then.
    pub(crate) fn fill<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> *const libc::msghdr {
        let message = &mut *self.0;
        let mut count = 0;
        for (place, piece) in message.pieces.iter_mut().zip(pieces) {
            place.iov_base = piece.as_ptr().cast_mut().cast();
            place.iov_len = piece.len();
            count += 1;
        }
        message.header.msg_iov = message.pieces.as_mut_ptr();
        message.header.msg_iovlen = count as _;
        &raw const message.header
    }
}
