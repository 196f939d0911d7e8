//! What a role does to itself before it begins: namespaces of its own,
//! capabilities given up, system calls forbidden.

use std::fs;
use std::io;
use std::mem;

use super::checked;

/// Moves this process, which has one thread, into user and net namespaces of
/// its own, as their root, with loopback up. The error says what to allow.
pub(crate) fn enter_namespaces() -> Result<(), String> {
    unshare_as_root(libc::CLONE_NEWNET)?;
    raise_loopback().map_err(|error| format!("loopback cannot be raised: {error}"))
}

/// Makes the next child of this process, which has one thread, PID 1 of a
/// namespace. From then on this process cannot start a thread.
pub(crate) fn make_next_child_pid_one() -> Result<(), String> {
    unshare_as_root(libc::CLONE_NEWPID)
}

/// Moves this process into a user namespace of its own, as its root, and does
/// with `kind` what unshare(2) does.
fn unshare_as_root(kind: libc::c_int) -> Result<(), String> {
    // SAFETY: these two have no preconditions and touch no memory.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: as above.
    let gid = unsafe { libc::getegid() };
    // SAFETY: unshare takes a number and touches no memory.
    let result = unsafe { libc::unshare(libc::CLONE_NEWUSER | kind) };
    if let Err(error) = checked(result) {
        return Err(format!(
            "this test needs user, net and pid namespaces, which are forbidden here ({error}): \
             allow them (user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns, the container's seccomp profile)"
        ));
    }
    let map = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("{file}: {e}"))
    };
    map("setgroups", "deny".to_owned())?;
    map("uid_map", format!("0 {uid} 1"))?;
    map("gid_map", format!("0 {gid} 1"))
}

fn raise_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: an ifreq of zero bytes is a valid one with an empty name.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, and `request` is a live one.
    let result = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &request) };
    checked(result).map(drop)
}

/// Gives up every capability, as an ordinary user's process has none.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // Version 3 of the interface takes two sets of 32 bits each.
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let none = || Sets {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    };
    let sets = [none(), none()];
    // SAFETY: both pointers are to live values laid out as capset(2) has them
    // in version 3, which reads one header and two sets.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    checked(result as i32).map(drop)
}

/// Makes this process that of another user, whom nobody else is, where it may:
/// what counts for each user counts for it alone then.
pub(crate) fn become_another_user(uid: u32) {
    // SAFETY: setresuid takes three numbers and touches no memory. Where it is
    // refused, this process stays the ordinary user's that it was.
    let _refused = unsafe { libc::setresuid(uid, uid, uid) };
}

/// Makes `io_uring_setup` fail with `errno` in this process from now on, as a
/// container's seccomp profile does.
pub(crate) fn refuse_io_uring(errno: i32) -> io::Result<()> {
    refuse(libc::SYS_io_uring_setup, errno)
}

/// Makes `io_uring_enter` fail with `errno` in this thread from now on.
pub(crate) fn refuse_io_uring_enter(errno: i32) -> io::Result<()> {
    refuse(libc::SYS_io_uring_enter, errno)
}

/// Makes a system call fail in this thread, and in those that it starts.
fn refuse(call: libc::c_long, errno: i32) -> io::Result<()> {
    let load_number = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump_if_equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        // The system call's number is the first word of seccomp_data.
        step(load_number, 0, 0, 0),
        step(jump_if_equal, 0, 1, call as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: this operation of prctl takes numbers and touches no memory.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `filter` names a live program of the length that it gives, and
    // the kernel copies it.
    checked(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) }).map(drop)
}
