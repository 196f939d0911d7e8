//! What `.ci/valgrind` puts between the program and libc: `syscall`, with an `io_uring_enter` that
//! waits in `poll`.
//!
//! valgrind lets one thread run at a time, and takes the others in while a thread waits, if it
//! knows that the call may wait. Older ones do not know it of `io_uring_enter`: a core that sleeps
//! there stops all the others, and no signal is ever heard. So what is to be submitted goes first,
//! the wait is one for the ring's descriptor, and what has come is taken in without waiting.

use std::arch::asm;
use std::ffi::{c_int, c_long, c_short, c_ulong};

const IO_URING_ENTER: c_long = 426;
const GETEVENTS: usize = 1;

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    came: c_short,
}

unsafe extern "C" {
    fn poll(fds: *mut PollFd, count: c_ulong, at_most_ms: c_int) -> c_int;
    fn __errno_location() -> *mut c_int;
}

/// The call as it stands.
unsafe fn plain(number: c_long, six: [usize; 6]) -> isize {
    let result;
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
             in("rdi") six[0], in("rsi") six[1], in("rdx") six[2],
             in("r10") six[3], in("r8") six[4], in("r9") six[5],
             lateout("rcx") _, lateout("r11") _);
    }
    result
}

/// An enter that waits elsewhere.
unsafe fn enter(six: [usize; 6]) -> isize {
    let [ring, submit, least, flags, argument, bytes] = six;
    let now = [ring, submit, 0, flags, argument, bytes];
    let submitted = unsafe { plain(IO_URING_ENTER, now) };
    if submitted < 0 || least == 0 || flags & GETEVENTS == 0 {
        return submitted;
    }
    // Not for long, whatever was asked for: not every kernel tells who polls a ring of work that is
    // put off until its owner enters. To be woken for nothing is no harm.
    let mut fd = PollFd {
        fd: ring as c_int,
        events: 1,
        came: 0,
    };
    unsafe { poll(&mut fd, 1, 5) };
    let taken = unsafe { plain(IO_URING_ENTER, [ring, 0, 0, flags, argument, bytes]) };
    if submitted > 0 { submitted } else { taken }
}

/// libc's `syscall`.
///
/// # Safety
/// As the system call that is made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    first: usize,
    second: usize,
    third: usize,
    fourth: usize,
    fifth: usize,
    sixth: usize,
) -> c_long {
    let six = [first, second, third, fourth, fifth, sixth];
    let result = match number {
        IO_URING_ENTER => unsafe { enter(six) },
        _ => unsafe { plain(number, six) },
    };
    if result < 0 && result > -4096 {
        unsafe { *__errno_location() = -result as c_int };
        return -1;
    }
    result as c_long
}
