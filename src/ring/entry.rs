//! What goes through the door: operations in, in the kernel's form, and completions out.

use std::os::fd::RawFd;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use crate::config::BUFFER_BYTES;
use crate::ring::buffers::BUFFER_GROUP;
use crate::ring::token::Kind;

/// One operation, as the kernel is to be asked for it. The pointers in it must stay valid until
/// the operation's final completion: that is the business of who makes it (see the law in `ring`).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sqe {
    /// Accept one connection, or connections until told otherwise.
    Accept { fd: RawFd, multi: bool },
    /// Receive into the pool's buffers until told otherwise, or until `bytes_most` have come; 0 is
    /// without a bound. A kernel that cannot count them receives one buffer at most, and is asked again.
    RecvMulti { fd: RawFd, bytes_most: u32 },
    /// Send `len` bytes, all of them if the socket lives.
    Send {
        fd: RawFd,
        from: *const u8,
        len: u32,
    },
    /// Send `len` bytes, as many as the socket takes now. It is over when it is submitted, and has no
    /// completion if that was all of them.
    SendAtOnce {
        fd: RawFd,
        from: *const u8,
        len: u32,
    },
    /// Send what the header's segments name, all of it if the socket lives.
    SendMsg {
        fd: RawFd,
        header: *const libc::msghdr,
    },
    /// Connect to an address.
    Connect {
        fd: RawFd,
        address: *const libc::sockaddr,
        len: libc::socklen_t,
    },
    #[cfg(test)]
    /// Read at an offset; -1 (all ones) is the file's own position.
    Read {
        fd: RawFd,
        into: *mut u8,
        len: u32,
        offset: u64,
    },
    #[cfg(test)]
    /// Write at an offset; -1 (all ones) is the file's own position.
    Write {
        fd: RawFd,
        from: *const u8,
        len: u32,
        offset: u64,
    },
    #[cfg(evenfall_bench)]
    /// Do nothing, and say so.
    Nop,
    /// Report each time `fd` becomes readable.
    PollMulti { fd: RawFd },
    /// End the operation that carries this user data.
    Cancel { user_data: u64 },
}

/// One completion, as the kernel wrote it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cqe {
    /// What the operation carried.
    pub(crate) user_data: u64,
    /// A count or descriptor, or an errno made negative.
    pub(crate) result: i32,
    /// The kernel's flags: see the methods.
    flags: u32,
}

impl Cqe {
    /// A completion, as the kernel wrote it.
    #[inline(always)]
    pub(super) fn of(entry: &cqueue::Entry) -> Cqe {
        Cqe {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }
    }

    /// A completion that no kernel wrote.
    #[cfg(test)]
    pub(crate) fn scripted(user_data: u64, result: i32, flags: u32) -> Cqe {
        Cqe {
            user_data,
            result,
            flags,
        }
    }

    /// Whose it is, as a number of [`Kind`].
    #[inline]
    pub(crate) fn kind(&self) -> u8 {
        self.user_data as u8
    }

    /// The pool buffer that was filled.
    #[inline]
    pub(crate) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Whether further completions of this operation will come.
    #[inline]
    pub(crate) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }
}

/// What a look into the completion queue has found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Came {
    /// How many completions.
    pub(crate) count: usize,
    /// All they carried, one laid upon the other.
    carried: u64,
}

impl Came {
    /// One more.
    #[inline(always)]
    pub(super) fn add(&mut self, cqe: &Cqe) {
        self.count += 1;
        self.carried |= cqe.user_data;
    }

    /// Whether some may be of this kind; if not, none is.
    #[inline]
    pub(crate) fn may_have(self, kind: Kind) -> bool {
        self.carried as u8 & kind as u8 == kind as u8
    }
}

/// The kernel's form of an operation.
#[inline(always)]
pub(super) fn entry(sqe: &Sqe) -> squeue::Entry {
    const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    match *sqe {
        Sqe::Accept { fd, multi: true } => opcode::AcceptMulti::new(Fd(fd))
            .flags(libc::SOCK_CLOEXEC)
            .build(),
        // Who it is, is asked of the socket where it is wanted.
        Sqe::Accept { fd, multi: false } => {
            opcode::Accept::new(Fd(fd), std::ptr::null_mut(), std::ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build()
        }
        Sqe::RecvMulti { fd, .. } => opcode::RecvMulti::new(Fd(fd), BUFFER_GROUP).build(),
        Sqe::Send { fd, from, len } => opcode::Send::new(Fd(fd), from, len).flags(FLAGS).build(),
        // DONTWAIT: what the socket does not take is told at once, never kept for later (the kernel
        // marks the request NOWAIT). WAITALL: less than all counts as a failure, which is told.
        Sqe::SendAtOnce { fd, from, len } => opcode::Send::new(Fd(fd), from, len)
            .flags(FLAGS | libc::MSG_DONTWAIT)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS),
        Sqe::SendMsg { fd, header } => opcode::SendMsg::new(Fd(fd), header)
            .flags(FLAGS as u32)
            .build(),
        Sqe::Connect { fd, address, len } => opcode::Connect::new(Fd(fd), address, len).build(),
        #[cfg(test)]
        Sqe::Read {
            fd,
            into,
            len,
            offset,
        } => opcode::Read::new(Fd(fd), into, len).offset(offset).build(),
        #[cfg(test)]
        Sqe::Write {
            fd,
            from,
            len,
            offset,
        } => opcode::Write::new(Fd(fd), from, len).offset(offset).build(),
        #[cfg(evenfall_bench)]
        Sqe::Nop => opcode::Nop::new().build(),
        Sqe::PollMulti { fd } => opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32)
            .multi(true)
            .build(),
        // A cancel that worked has nothing to say: the ended operation completes by itself.
        Sqe::Cancel { user_data } => opcode::AsyncCancel::new(user_data)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS),
    }
}

/// A receive into one buffer of the pool, as a kernel is asked that ends no multishot receive at a
/// count: such a one goes on for as long as its socket has more and a buffer is left, and what it
/// brought of 64 senders that nobody read was 25 MB, not 10. To ask each time costs 4 to 7 in a hundred
/// of a small request's processor time, and 14 of one of 64 KiB.
pub(super) fn one_buffer(fd: RawFd) -> squeue::Entry {
    opcode::Recv::new(Fd(fd), std::ptr::null_mut(), BUFFER_BYTES as u32)
        .buf_group(BUFFER_GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
}

/// Where an entry has the bytes a multishot receive may bring: `optlen` of the kernel's
/// `struct io_uring_sqe`, in 32-bit words from its beginning.
const OPTLEN_WORD: usize = 11;

const _: () = assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() >= 4);

/// Bounds the multishot receive `entry` is. The crate's builder has no setter for that.
#[inline(always)]
pub(super) fn bound(entry: &mut squeue::Entry, bytes_most: u32) {
    let words = (&raw mut *entry).cast::<u32>();
    // SAFETY: an entry is 16 words (asserted above), borrowed exclusively here.
    let place = unsafe { words.add(OPTLEN_WORD) };
    // SAFETY: as above, and it is aligned like a word. An entry is the kernel's own form of an
    // operation, plain numbers of which any is valid (io_uring_enter(2)); a kernel that knows no
    // bound in this place refuses the operation (`can_bound_receives`).
    unsafe { place.write(bytes_most) };
}
