//! Why the kernel refuses a ring, and the remedy.

#![forbid(unsafe_code)]

use std::io;

use crate::error::{Error, ErrorKind};
use crate::ring::sys;

/// Says which wall a ring ran into, and the way round it.
pub(super) fn refusal(error: io::Error) -> Error {
    let message = match error.raw_os_error() {
        Some(libc::EPERM) => {
            let path = "/proc/sys/kernel/io_uring_disabled";
            match std::fs::read_to_string(path).map(|text| text.trim().to_owned()) {
                Ok(value) if value != "0" => format!(
                    "io_uring is switched off on this machine: kernel.io_uring_disabled = {value}; \
                     set it to 0 (sysctl kernel.io_uring_disabled=0), or with 1 run with \
                     CAP_SYS_ADMIN or in the group of kernel.io_uring_group"
                ),
                _ => "io_uring is refused although kernel.io_uring_disabled allows it: most \
                      likely a seccomp filter (the default of Docker and other container \
                      engines); allow io_uring_setup, io_uring_enter and io_uring_register in \
                      the container's seccomp profile"
                    .to_owned(),
            }
        }
        Some(libc::ENOSYS) => "this kernel or sandbox has no io_uring: the kernel is older than \
                               Linux 5.1 or built without it, or a sandbox (Podman's seccomp \
                               profile, gVisor) hides it; run on Linux 6.1 or later and allow \
                               the io_uring system calls"
            .to_owned(),
        Some(libc::ENOMEM) => {
            let limit = sys::memlock_limit()
                .map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes"));
            format!(
                "no memory for a ring: rings count against the locked-memory limit of the user, \
                 which is {limit} here; raise it (ulimit -l, LimitMEMLOCK= in systemd) or use \
                 fewer cores"
            )
        }
        Some(libc::EINVAL) => "this kernel does not know the ring set-up evenfall needs \
                               (DEFER_TASKRUN, Linux 6.1): run on Linux 6.1 or later"
            .to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left for a ring: raise the \
                                              limit (ulimit -n, LimitNOFILE= in systemd)"
            .to_owned(),
        _ => "the kernel refused to set up a ring".to_owned(),
    };
    Error::new(ErrorKind::Ring, message).with_source(error)
}
