//! Preloaded before a server that is counted by callgrind.
//!
//! Valgrind runs one thread at a time, and another one only when that one makes a system call which
//! valgrind knows to block. Of `io_uring_enter` version 3.19 does not know it: whoever waits in a
//! ring keeps all others from running, for ever if it waits for one of them. So this library takes
//! the place of the C library's `syscall`, turns such a wait into an `enter` that does not wait, and
//! waits with `poll` on the ring instead, which valgrind knows.
//!
//! A ring that polls its own descriptor is readable when it has completions, also those that a ring
//! with `DEFER_TASKRUN` only makes at the next `enter`; the second `enter` is for these. Not all of
//! that work makes a completion (an acknowledgement looks like data until somebody has looked), and
//! the kernel's own wait goes on then: so does this one. Time-outs that a caller gives with its wait
//! end here after at most [`MOST_MS`], which is early or late: a wait that ends without completions
//! is a thing that every caller has to expect.

use std::ffi::{c_int, c_long};
use std::mem::transmute;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The C library's `syscall`; its argument list is open, and all of it is words.
type Syscall = unsafe extern "C" fn(c_long, ...) -> c_long;

/// `IORING_ENTER_GETEVENTS`.
const GET_EVENTS: c_long = 1;

/// One wait of `poll`. Valgrind looks for other threads at each of them.
const STEP_MS: c_int = 1;

/// A caller's wait ends after so long, if nothing came.
const MOST_MS: c_int = 200;

/// The C library's own, or null as long as nobody has looked.
static NEXT: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The C library's own.
fn next() -> Syscall {
    let mut found = NEXT.load(Ordering::Relaxed);
    if found.is_null() {
        // SAFETY: the name is a C string, and the handle stands for the libraries after this one.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr()) };
        assert!(!found.is_null(), "the C library has syscall");
        NEXT.store(found, Ordering::Relaxed);
    }
    // SAFETY: not null, and the symbol is this function in every C library for Linux.
    unsafe { transmute::<*mut libc::c_void, Syscall>(found) }
}

/// Whether the ring is readable within `limit_ms`, or a signal came, which ends a wait in the ring as
/// well.
fn is_readable(ring: c_long, limit_ms: c_int) -> bool {
    let mut entry = libc::pollfd {
        fd: ring as c_int,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, ours.
    unsafe { libc::poll(&raw mut entry, 1, limit_ms) != 0 }
}

/// Takes the place of the C library's `syscall`. That one's argument list is open, but a caller
/// passes words, and on x86-64 and AArch64 these arrive as those of a fixed list do; those that the
/// caller did not pass are whatever is there, and the kernel does not look at them.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    let next = next();
    if number != libc::SYS_io_uring_enter || c == 0 {
        // SAFETY: the caller's own call.
        return unsafe { next(number, a, b, c, d, e, f) };
    }
    // SAFETY: the caller's submission, without its wait; no argument is given for one.
    let submitted = unsafe {
        next(
            number,
            a,
            b,
            0 as c_long,
            GET_EVENTS,
            0 as c_long,
            8 as c_long,
        )
    };
    if submitted < 0 {
        return submitted;
    }
    for _ in 0..MOST_MS / STEP_MS {
        if !is_readable(a, STEP_MS) {
            continue;
        }
        // SAFETY: submits nothing; it only lets the kernel make the completions that are due.
        unsafe {
            next(
                number,
                a,
                0 as c_long,
                0 as c_long,
                GET_EVENTS,
                0 as c_long,
                8 as c_long,
            )
        };
        // With no work left, it is completions that make it readable.
        if is_readable(a, 0) {
            break;
        }
    }
    submitted
}
