//! Signal masks, the signalfd, and the three raw actions a runtime takes on signals.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// The signals a runtime may be stopped by.
pub(crate) const STOP_SIGNALS: [i32; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Those of them that stay ignored where they are when we come. A shell ignores SIGINT and SIGQUIT
/// for its background jobs and nohup(1) ignores SIGHUP: whoever did so wants that they stop nothing.
pub(crate) const STAY_IGNORED: [i32; 3] = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// A set of signals.
#[derive(Clone, Copy)]
pub(crate) struct SignalSet(libc::sigset_t);

impl std::fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalSet")
    }
}

impl SignalSet {
    /// The set of exactly `signals`; a number that is no signal is an error.
    pub(crate) fn of(signals: &[i32]) -> io::Result<SignalSet> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `set` is writable memory of the right size; sigemptyset(3) initialises it.
        check(unsafe { libc::sigemptyset(set.as_mut_ptr()) })?;
        // SAFETY: initialised by sigemptyset on the line above.
        let mut set: libc::sigset_t = unsafe { set.assume_init() };
        for signal in signals {
            // SAFETY: `set` is a live, initialised set; an invalid number is EINVAL.
            check(unsafe { libc::sigaddset(&raw mut set, *signal) })?;
        }
        Ok(SignalSet(set))
    }

    /// Blocks these signals on this thread and returns the mask of before.
    pub(crate) fn block(&self) -> io::Result<SignalSet> {
        self.change_mask(libc::SIG_BLOCK)
    }

    /// Makes this set the mask of this thread.
    pub(crate) fn set_as_mask(&self) -> io::Result<()> {
        self.change_mask(libc::SIG_SETMASK).map(drop)
    }

    /// pthread_sigmask(3) with `how`; gives the mask of before.
    fn change_mask(&self, how: libc::c_int) -> io::Result<SignalSet> {
        let mut before = MaybeUninit::uninit();
        // SAFETY: both sets are live for the call, which fills `before` and keeps neither.
        let error = unsafe { libc::pthread_sigmask(how, &raw const self.0, before.as_mut_ptr()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: filled in by the successful call above.
        Ok(SignalSet(unsafe { before.assume_init() }))
    }
}

/// Where blocked signals are read.
#[derive(Debug)]
pub(crate) struct SignalFd {
    /// A non-blocking, close-on-exec signalfd.
    fd: OwnedFd,
}

/// One signal that was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// The signal's number.
    pub(crate) signal: i32,
    /// The sending process, where the kernel says it; 0 otherwise.
    pub(crate) pid: u32,
}

impl SignalFd {
    /// A descriptor that yields the signals of `set`, which should be blocked on every thread.
    pub(crate) fn new(set: &SignalSet) -> io::Result<SignalFd> {
        // SAFETY: the set is live for the call, which copies it.
        let fd = check(unsafe {
            libc::signalfd(-1, &raw const set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        })?;
        // SAFETY: the descriptor was made by the call above and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(SignalFd { fd })
    }

    /// The next pending signal, if there is one.
    pub(crate) fn next(&self) -> Option<Delivered> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: `info` is `size` writable bytes; read(2) keeps no reference.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if usize::try_from(read) != Ok(size) {
            return None;
        }
        // SAFETY: zeroed at first and then filled whole: every bit pattern of this plain struct
        // of integers is a value.
        let info = unsafe { info.assume_init() };
        Some(Delivered {
            signal: i32::try_from(info.ssi_signo).unwrap_or(0),
            pid: info.ssi_pid,
        })
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes the child of `command` begin with `signals` unblocked and without handlers. What is
/// ignored stays so.
///
/// A program begins without handlers anyway. But from the moment the mask is empty until then the
/// child would take a signal with a handler of ours, and swallow it.
pub(crate) fn unblock_in_child(
    command: &mut std::process::Command,
    signals: &'static [i32],
) -> io::Result<()> {
    use std::os::unix::process::CommandExt;
    let set = SignalSet::of(signals)?;
    let unblock = move || {
        let handled = |signal: &&i32| !is_ignored(**signal) && !is_default(**signal);
        for signal in signals.iter().filter(handled) {
            put_default_back(*signal)?;
        }
        set.change_mask(libc::SIG_UNBLOCK).map(drop)
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: sigaction(2) is one,
    // pthread_sigmask(3) is one in effect (it is sigprocmask(2) of this thread), and nothing
    // allocates or locks.
    unsafe { command.pre_exec(unblock) };
    Ok(())
}

/// Whether this is PID 1 of its namespace, where the default of every signal is to be ignored.
/// Async-signal-safe.
pub(crate) fn is_first_process() -> bool {
    // SAFETY: getpid(2) takes nothing and always succeeds.
    unsafe { libc::getpid() == 1 }
}

/// Sends this process `signal`, as another process would.
pub(crate) fn send_to_this_process(signal: i32) {
    // SAFETY: getpid(2) takes nothing and always succeeds.
    let own = unsafe { libc::getpid() };
    // SAFETY: kill(2) takes two numbers; of oneself it is always allowed.
    let _sent = unsafe { libc::kill(own, signal) };
}

/// Whether `signal` is ignored by this process now.
pub(crate) fn is_ignored(signal: i32) -> bool {
    disposition(signal).is_some_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

/// Whether `signal` does what it does by default now.
pub(crate) fn is_default(signal: i32) -> bool {
    disposition(signal).is_some_and(|action| action.sa_sigaction == libc::SIG_DFL)
}

/// What this process does on `signal` now.
fn disposition(signal: i32) -> Option<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; `action` is writable memory of the right size.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed at first, which is a value of this plain struct, and filled on success.
    (result == 0).then(|| unsafe { action.assume_init() })
}

/// Does from inside a signal handler what the default action of `signal` would have done: the
/// default is put back and the signal raised again; it is delivered when the handler returns.
///
/// Async-signal-safe: sigaction(2) and raise(3) are in signal-safety(7).
pub(crate) fn raise_default(signal: i32) {
    // It cannot fail for a number that had a handler.
    let _put_back = put_default_back(signal);
    // SAFETY: raise(3) takes a plain number.
    unsafe { libc::raise(signal) };
}

/// Makes `signal` do what it does by default.
fn put_default_back(signal: i32) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a value of that plain struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = libc::SIG_DFL;
    // SAFETY: `action` is live for the call, which copies it; the old action is not asked for.
    let result = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    check(result).map(drop)
}

/// Leaves the process at once, without destructors: the third signal's way out.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes a plain number and does not return.
    unsafe { libc::_exit(code) }
}
