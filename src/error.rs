//! The crate's own error, for everything that is not plain I/O.
//!
//! I/O calls give `io::Error` with the errno untouched. This one is for what a
//! runtime is built from and asked for: a configuration that contradicts itself, a
//! ring the kernel refuses, a call from the wrong thread. Code looks at
//! [`Error::kind`]; people read `Display`, one line that names what failed, the
//! likely cause and the remedy, and ends in the system's own words where there are
//! any.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;

/// The result of a call that can fail with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a runtime could not be built, or a call on it was refused.
///
/// Opaque: what it carries may grow. [`kind`](Error::kind) tells the causes apart,
/// and `Display` says the cause and the remedy in one line.
pub struct Error {
    /// Boxed, so that a `Result` of this error is one word and not five.
    inner: Box<Inner>,
}

/// What an error carries.
struct Inner {
    /// The cause, for code.
    kind: ErrorKind,
    /// The cause and the remedy, for people; one line, without a final full stop.
    message: String,
    /// What the system said, if it was asked.
    source: Option<io::Error>,
}

/// The cause of an [`Error`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The numbers given contradict each other.
    Config,
    /// The cores asked for do not exist, or this process may not run on them.
    Cores,
    /// The kernel refused an io_uring instance, or lacks something it needs.
    Ring,
    /// An address could not be resolved, bound or listened on.
    Bind,
    /// The signals could not be taken over: another runtime owns them, or one of
    /// them cannot be caught.
    Signals,
    /// A thread could not be started, or ended before it was ready.
    Thread,
    /// The call is not possible from this thread: from inside a core where only a
    /// foreign thread may wait, or from outside where a core is needed.
    WrongThread,
    /// The runtime is stopping, or has stopped, and takes nothing new.
    Draining,
}

impl Error {
    /// Makes an error from its kind and a line that names cause and remedy.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                source: None,
            }),
        }
    }

    /// Adds what the system said.
    #[must_use]
    pub(crate) fn with_source(mut self, source: io::Error) -> Error {
        self.inner.source = Some(source);
        self
    }

    /// The cause, for code to decide on.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The errno behind it, if a system call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.inner.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        match &self.inner.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("message", &self.inner.message)
            .field("source", &self.inner.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner
            .source
            .as_ref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    const EPERM: i32 = 1;

    fn refused() -> Error {
        Error::new(
            ErrorKind::Ring,
            "io_uring is refused; allow it in the seccomp profile",
        )
        .with_source(io::Error::from_raw_os_error(EPERM))
    }

    #[test]
    fn display_is_one_line_with_cause_remedy_and_the_systems_words() {
        let line = refused().to_string();
        assert!(line.starts_with("io_uring is refused; allow it in the seccomp profile: "));
        assert!(line.contains("os error 1"), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn display_without_a_source_is_the_message_alone() {
        let error = Error::new(ErrorKind::Config, "too much");
        assert_eq!(error.to_string(), "too much");
        assert_eq!(error.raw_os_error(), None);
        assert!(error.source().is_none());
    }

    #[test]
    fn the_errno_and_the_source_are_kept() {
        let error = refused();
        assert_eq!(error.kind(), ErrorKind::Ring);
        assert_eq!(error.raw_os_error(), Some(EPERM));
        assert!(error.source().is_some());
    }

    #[test]
    fn it_crosses_threads_and_is_one_word() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
