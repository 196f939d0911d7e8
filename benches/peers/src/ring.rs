//! A ring and its ring of provided buffers, with nothing in between: what the bare server and the
//! load stand on.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, opcode};

/// The only group of buffers.
const GROUP: u16 = 0;

/// The kernel wants the ring of buffers on a page of its own.
const PAGE_BYTES: usize = 4096;

/// A ring with provided buffers. Both are the calling thread's alone.
pub struct Ring {
    /// Closed before the buffers go, see `Drop`.
    ring: Option<IoUring>,
    /// The ring of buffers: `count` entries.
    entries: NonNull<BufRingEntry>,
    /// `count` buffers of `size` bytes, one after the other.
    bytes: NonNull<u8>,
    /// How many buffers: a power of two.
    count: u16,
    /// How long each is.
    size: usize,
    /// Where the next buffer that comes back is put.
    tail: u16,
}

impl Ring {
    /// A ring with `count` buffers of `size` bytes.
    pub fn new(sq_entries: u32, cq_entries: u32, count: u16, size: usize) -> io::Result<Ring> {
        assert!(count.is_power_of_two(), "the kernel wants a power of two");
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(cq_entries)
            .build(sq_entries)?;
        let entries = zeroed(entries_layout(count)).cast();
        let bytes = zeroed(bytes_layout(count, size));
        // SAFETY: the entries are aligned, zeroed, and live until `Drop` has closed the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                count,
                GROUP,
                0,
            )?;
        }
        let mut ring = Ring {
            ring: Some(ring),
            entries,
            bytes,
            count,
            size,
            tail: 0,
        };
        for id in 0..count {
            ring.give_back(id);
        }
        ring.publish();
        Ok(ring)
    }

    /// The ring itself.
    fn inner(&mut self) -> &mut IoUring {
        self.ring.as_mut().expect("taken by Drop only")
    }

    /// Queues one operation; submits what is queued first if there is no room.
    ///
    /// # Safety
    ///
    /// What `entry` points to must stay as it is until the operation's last completion.
    pub unsafe fn push(&mut self, entry: &Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller keeps what the entry points to.
            if unsafe { self.inner().submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.inner().submit()?;
        }
    }

    /// Arms an accept that gives connection after connection.
    pub fn accept(&mut self, listener: RawFd, user_data: u64) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(listener))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(user_data);
        // SAFETY: the operation points to no memory.
        unsafe { self.push(&entry) }
    }

    /// Arms a receive that gives chunk after chunk, in provided buffers.
    pub fn receive(&mut self, socket: RawFd, user_data: u64) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fd(socket), GROUP)
            .build()
            .user_data(user_data);
        // SAFETY: the buffers are the ring's own and live longer than it.
        unsafe { self.push(&entry) }
    }

    /// Watches a descriptor, once.
    pub fn poll(&mut self, fd: RawFd, user_data: u64) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32)
            .build()
            .user_data(user_data);
        // SAFETY: the operation points to no memory.
        unsafe { self.push(&entry) }
    }

    /// Sends a part of a provided buffer that is lent out; it must not be given back before the
    /// completion.
    pub fn send_buffer(&mut self, socket: RawFd, id: u16, len: usize, data: u64) -> io::Result<()> {
        let entry = opcode::Send::new(Fd(socket), self.buffer(id, len).as_ptr(), len as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(data);
        // SAFETY: the buffer is the ring's own, and the kernel does not fill it while it is lent.
        unsafe { self.push(&entry) }
    }

    /// Sends bytes that live for ever.
    pub fn send_and_tell(
        &mut self,
        socket: RawFd,
        bytes: &'static [u8],
        data: u64,
    ) -> io::Result<()> {
        let entry = opcode::Send::new(Fd(socket), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(data);
        // SAFETY: the bytes live for ever, and nobody changes them.
        unsafe { self.push(&entry) }
    }

    /// Sends bytes that live for ever; only a failure gives a completion.
    pub fn send_static(
        &mut self,
        socket: RawFd,
        bytes: &'static [u8],
        data: u64,
    ) -> io::Result<()> {
        let entry = opcode::Send::new(Fd(socket), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(data);
        // SAFETY: the bytes live for ever, and nobody changes them.
        unsafe { self.push(&entry) }
    }

    /// Submits what is queued and waits for a completion: one system call.
    pub fn enter(&mut self) -> io::Result<()> {
        self.publish();
        match self.inner().submit_and_wait(1) {
            Ok(_) => Ok(()),
            // A signal, or a completion queue that has to be emptied first.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next completion: user data, result and flags.
    pub fn completion(&mut self) -> Option<(u64, i32, u32)> {
        let entry = self.inner().completion().next()?;
        Some((entry.user_data(), entry.result(), entry.flags()))
    }

    /// Moves the completions there are to `list`.
    pub fn reap(&mut self, list: &mut Vec<(u64, i32, u32)>) {
        let entries = self.inner().completion();
        list.extend(entries.map(|entry| (entry.user_data(), entry.result(), entry.flags())));
    }

    /// The first `len` bytes of a buffer that a completion named.
    pub fn buffer(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.count && len <= self.size, "not a buffer of ours");
        // SAFETY: within the allocation, by the assertion.
        let start = unsafe { self.bytes.add(usize::from(id) * self.size) };
        // SAFETY: initialised (zeroed at first), and the kernel does not fill a buffer between the
        // completion that names it and `give_back`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// Gives a buffer back; the kernel sees it at the next [`enter`](Ring::enter).
    pub fn give_back(&mut self, id: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is below `count`.
        let entry = unsafe { self.entries.add(slot) };
        // SAFETY: within the allocation: ids are below `count`.
        let start = unsafe { self.bytes.add(usize::from(id) * self.size) };
        // SAFETY: ours; the kernel reads entries up to the published tail only, and this one is
        // beyond it.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(start.as_ptr() as u64);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was given back.
    fn publish(&mut self) {
        // SAFETY: the first entry exists.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: aligned, ours, and shared with the kernel only, which reads it atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Calls back everything with one `ANY|ALL`, which the kernel does in quadratic time: never
    /// with more than a thousand receives out.
    pub fn cancel_all(&mut self) -> io::Result<()> {
        let all = io_uring::types::CancelBuilder::any();
        self.inner().submitter().register_sync_cancel(None, all)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The servers close every socket first, so no operation is out; the load shuts its sockets
        // down. What is left is the end of the process.
        drop(self.ring.take());
        let entries = entries_layout(self.count);
        // SAFETY: allocated with this layout; the ring that knew of it is closed.
        unsafe { dealloc(self.entries.as_ptr().cast(), entries) };
        // The buffers are leaked on purpose: closing a ring is no receipt, and a receive may still
        // write.
    }
}

/// Zeroed memory of a layout that is not empty.
fn zeroed(layout: Layout) -> NonNull<u8> {
    // SAFETY: no layout here is empty.
    let start = unsafe { alloc_zeroed(layout) };
    NonNull::new(start).unwrap_or_else(|| std::alloc::handle_alloc_error(layout))
}

/// Where the entries are.
fn entries_layout(count: u16) -> Layout {
    let bytes = usize::from(count) * size_of::<BufRingEntry>();
    Layout::from_size_align(bytes, PAGE_BYTES).expect("a page is a power of two")
}

/// Where the buffers are.
fn bytes_layout(count: u16, size: usize) -> Layout {
    let bytes = usize::from(count) * size;
    Layout::from_size_align(bytes, PAGE_BYTES).expect("a page is a power of two")
}
