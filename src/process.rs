//! Children.

#![forbid(unsafe_code)]

use std::process::Command;

use crate::error::{Error, ErrorKind, Result};
use crate::ring::sys::signal::{STOP_SIGNALS, unblock_in_child};

/// Makes the child of `command` begin with the signals that may stop a runtime unblocked.
///
/// A runtime blocks its signals on every thread of its own, and a child inherits the mask of the
/// thread that starts it: without this it never hears a SIGTERM. What its parent ignores it ignores
/// as well, as every child does; handlers never outlive the beginning of a program.
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// let mut command = Command::new("true");
/// let status = evenfall::process::with_clean_signals(&mut command)?.status();
/// # let _ = status;
/// # Ok::<(), evenfall::Error>(())
/// ```
///
/// # Errors
///
/// When the system has no such signals, which none has been seen to.
///
/// # Shutdown
///
/// A child is no business of the stop: it lives on unless something ends it, a hook perhaps.
pub fn with_clean_signals(command: &mut Command) -> Result<&mut Command> {
    unblock_in_child(command, &STOP_SIGNALS).map_err(|error| {
        Error::new(ErrorKind::Signals, "the set of signals cannot be made").with_source(error)
    })?;
    Ok(command)
}
