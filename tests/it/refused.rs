//! Where io_uring is refused, the error names the likely cause and a remedy.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use crate::args::Args;
use crate::process::{Ended, Program};
use crate::promise::promises;
use crate::sys;

promises![
    a_ring_refused_by_seccomp_names_cause_and_remedy,
    a_kernel_without_rings_is_named_as_such,
];

#[track_caller]
fn refused(errno: i32) -> Ended {
    let ended = Program::role("refused", &[&format!("errno={errno}")]).finish();
    ended.exited(2);
    assert!(
        !ended.stderr.contains("panicked"),
        "{}",
        ended.told("a panic")
    );
    assert!(ended.stderr.contains("io_uring"), "{}", ended.told("what?"));
    ended
}

#[track_caller]
fn names(ended: &Ended, words: &[&str]) {
    let said = ended.stderr.to_lowercase();
    for word in words {
        assert!(
            said.contains(word),
            "{}",
            ended.told(&format!("no word of {word}"))
        );
    }
}

/// Docker's default profile answers EPERM, as the sysctl does.
fn a_ring_refused_by_seccomp_names_cause_and_remedy() {
    let ended = refused(libc::EPERM);
    names(&ended, &["seccomp", "kernel.io_uring_disabled"]);
}

/// An old kernel answers ENOSYS, and so does Podman's profile.
fn a_kernel_without_rings_is_named_as_such() {
    let ended = refused(libc::ENOSYS);
    names(&ended, &["kernel", "seccomp"]);
}

/// Forbids itself `io_uring_setup`, then builds a runtime.
pub(crate) fn refuse(mut args: Args) -> ExitCode {
    let errno = args
        .take("errno")
        .expect("errno is what the filter answers");
    args.finish();
    sys::refuse_io_uring(errno).expect("a process may filter its own calls");
    match crate::process::builder().build() {
        Ok(_runtime) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "{error}").expect("the test reads it");
            ExitCode::from(2)
        }
    }
}
