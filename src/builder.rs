//! Configuring a runtime: collects, checks once, builds.

#![forbid(unsafe_code)]

use std::str::FromStr;
use std::time::Duration;

use crate::config::{CoreConfig, Features, Peers, Queues, STALL_MIN, Shutdown};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::Runtime;

/// Which processors get a core.
///
/// Parsed from `all`, or from a list of processor numbers and ranges:
/// ```
/// use evenfall::Cores;
/// assert_eq!("0,2-3".parse::<Cores>()?, Cores::List(vec![0, 2, 3]));
/// # Ok::<(), evenfall::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cores {
    /// Every processor this process may use.
    #[default]
    All,
    /// The first so many of those.
    Count(usize),
    /// Exactly these, by the kernel's numbers, each once.
    List(Vec<usize>),
}

impl FromStr for Cores {
    type Err = Error;

    fn from_str(text: &str) -> Result<Cores> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Cores::All);
        }
        let refused = || {
            Error::new(
                ErrorKind::Cores,
                format!(
                    "{text:?} is no list of processors: write `all`, or numbers and ranges such \
                     as 0,2-3"
                ),
            )
        };
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| refused());
        let mut list = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                None => list.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last || last - first >= PROCESSORS_MOST {
                        return Err(refused());
                    }
                    list.extend(first..=last);
                }
            }
        }
        Ok(Cores::List(list))
    }
}

/// More processors than any kernel has (its limit is 8192): a range longer than this is a slip.
const PROCESSORS_MOST: usize = 8192;

impl Cores {
    /// The processors, checked against those this process may use.
    fn resolve(self) -> Result<Vec<usize>> {
        let allowed: Vec<usize> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .into_iter()
            .map(|core| core.id)
            .collect();
        let refused = |why: String| Err(Error::new(ErrorKind::Cores, why));
        if allowed.is_empty() {
            return refused("the processors of this process cannot be read".to_owned());
        }
        match self {
            Cores::All => Ok(allowed),
            Cores::Count(0) => refused("0 cores can do nothing: give 1 or more".to_owned()),
            Cores::Count(count) if count > allowed.len() => refused(format!(
                "{count} cores were asked for and this process may use {}: give fewer, or widen \
                 its CPU set (taskset, cpuset)",
                allowed.len()
            )),
            Cores::Count(count) => Ok(allowed[..count].to_vec()),
            Cores::List(list) => check_list(list, &allowed),
        }
    }
}

/// A list names processors that are there, each once.
fn check_list(list: Vec<usize>, allowed: &[usize]) -> Result<Vec<usize>> {
    let refused = |why: String| Err(Error::new(ErrorKind::Cores, why));
    if list.is_empty() {
        return refused("an empty list of processors: name at least one".to_owned());
    }
    for (place, cpu) in list.iter().enumerate() {
        if !allowed.contains(cpu) {
            return refused(format!(
                "processor {cpu} is not one this process may use ({}): choose of those, or widen \
                 its CPU set (taskset, cpuset)",
                ranges(allowed)
            ));
        }
        if list[..place].contains(cpu) {
            return refused(format!(
                "processor {cpu} is named twice: two rings would share it"
            ));
        }
    }
    Ok(list)
}

/// Sorted numbers as numbers and ranges.
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let part = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

/// Configures a [`Runtime`]; made by [`Runtime::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    /// Which processors.
    cores: Cores,
    /// How to stop.
    shutdown: Shutdown,
    /// Which signals stop it.
    signals: Vec<i32>,
    /// The length of a turn to watch for; at least `STALL_MIN` once it is built.
    stall_after: Option<Duration>,
    /// What each core is made with.
    core: CoreConfig,
}

impl Runtime {
    /// Begins to configure a runtime.
    pub fn builder() -> Builder {
        Builder::new()
    }
}

impl Builder {
    /// All processors, the default stop, SIGTERM and SIGINT.
    fn new() -> Builder {
        Builder {
            cores: Cores::All,
            shutdown: Shutdown::default(),
            signals: vec![libc::SIGTERM, libc::SIGINT],
            stall_after: None,
            core: CoreConfig::default(),
        }
    }

    /// Which processors get a core. Default: all this process may use.
    pub fn cores(mut self, cores: Cores) -> Builder {
        self.cores = cores;
        self
    }

    /// How to stop. Default: [`Shutdown::default`].
    pub fn shutdown(mut self, shutdown: Shutdown) -> Builder {
        self.shutdown = shutdown;
        self
    }

    /// Which signals stop the runtime: of SIGTERM, SIGINT (these two by default), SIGQUIT, SIGHUP,
    /// SIGUSR1 and SIGUSR2. One runtime of a process has signals; others are built with none
    /// (`.signals([])`). After the run they do again what they did before.
    ///
    /// # What is ignored already
    ///
    /// SIGINT, SIGQUIT and SIGHUP that are ignored when the runtime is built stay ignored, also
    /// where they are named here: a shell ignores the first two for its background jobs and `nohup`
    /// the third, so that they stop nothing. SIGTERM, SIGUSR1 and SIGUSR2 are heard all the same:
    /// nobody ignores them for a server on purpose, and SIGTERM is the one word a supervisor has
    /// before it kills.
    ///
    /// # One thread's signals
    ///
    /// The runtime blocks its signals on the threads it starts, and threads started from those
    /// inherit that. A signal sent to such a thread alone (`raise`, `pthread_kill`, `tgkill`) waits
    /// there unheard; send it to the process (`kill`), or call
    /// [`Handle::shutdown`](crate::Handle::shutdown). One sent to the thread of
    /// [`Runtime::run`], or to one that has it unblocked, is heard.
    pub fn signals(mut self, signals: impl IntoIterator<Item = i32>) -> Builder {
        self.signals = signals.into_iter().collect();
        self
    }

    /// Watches for turns that last this long while nothing stops: a task that spins, sleeps in
    /// `std::thread::sleep` or waits for a lock, and with it keeps all else on its core from
    /// moving. Default: no watch. At least 10 ms.
    ///
    /// Each is told to whoever subscribes ([`Handle::stalls`](crate::Handle::stalls)), with the
    /// task, where that was spawned, and the state of the thread; the report counts them and keeps
    /// the longest ([`Report::stalls`](crate::Report::stalls)). Nothing is printed and nothing is
    /// stopped.
    ///
    /// The watch wakes the coordinator's thread four times in this time, but not more often than
    /// every 5 ms and at least once a second, also while the process is idle. A core pays nothing
    /// for it. A turn is told of when it has lasted this long, at the next of those looks, which comes
    /// a second later at most; one that ends before that look is not.
    ///
    /// # Shutdown
    ///
    /// Ends with Running: from then on it is [`Shutdown::stuck_after`] that says when a core hangs.
    pub fn stall_after(mut self, stall_after: Duration) -> Builder {
        self.stall_after = Some(stall_after);
        self
    }

    /// Uses no more of the kernel than Linux 6.1 has, the oldest that will do, also where it has
    /// more. Default: `false`.
    ///
    /// What is newer is never needed; it saves some time where it is there. So this is for tests: it
    /// shows on the kernel at hand how a program behaves on one that is older.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(tests_say_so: bool) -> evenfall::Result<evenfall::Runtime> {
    /// evenfall::Runtime::builder().as_on_oldest_kernel(tests_say_so).build()
    /// # }
    /// # drop(example(true)?);
    /// # Ok::<(), evenfall::Error>(())
    /// ```
    pub fn as_on_oldest_kernel(mut self, yes: bool) -> Builder {
        self.core.features = if yes { Features::Oldest } else { Features::All };
        self
    }

    /// How many accepted connections a core may have at a time, on all its listeners together.
    /// Default: as many as the process may have descriptors. At least 1.
    ///
    /// At the limit the core's listeners accept nobody: who comes next waits in the kernel's
    /// backlog, in order, until a connection has ended, and the report says how often that was
    /// ([`pauses`](crate::report::ListenerReport::pauses)). One that closes counts until it is closed,
    /// so for the time of `linger` at most. With several listeners on a core each but one may have one
    /// connection more, whose accept was under way.
    ///
    /// With a limit connections are accepted one by one, for the kernel's accept of many takes in all
    /// who wait. To bound the handlers of one listener instead, and to hold what is accepted beyond
    /// them, use [`serve_limited`](crate::net::TcpListener::serve_limited).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> evenfall::Result<()> {
    /// // A connection of this server takes up to a MiB, and a core may take a GiB.
    /// let runtime = evenfall::Runtime::builder().max_connections(1024).build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Shutdown
    ///
    /// A stop takes whoever is in the backlog, limit or not: they have been told that they are
    /// connected.
    pub fn max_connections(mut self, connections: usize) -> Builder {
        self.core.connections_most = connections;
        self
    }

    /// Lets the report name peers by address and port, where it names connections that were cut.
    /// Default: `false`, and it names the network alone (`203.0.113.0/24`, `2001:db8:12::/48`): a
    /// report is printed, kept and passed on, and the address of a person's machine is theirs.
    ///
    /// Of what a connection carried no report says more than how many bytes it was.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> evenfall::Result<()> {
    /// // Between machines of one's own an address is no secret, and says which one was slow.
    /// let runtime = evenfall::Runtime::builder().name_peers(true).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn name_peers(mut self, yes: bool) -> Builder {
        self.core.peers = if yes { Peers::Named } else { Peers::Masked };
        self
    }

    /// The lengths of the queues between a core and the kernel. Default: 256 submissions and 4096
    /// completions. From 1 to 32,768 submissions and at least twice as many completions; the kernel
    /// rounds them up to powers of two.
    ///
    /// Nothing is lost by short queues: what finds the one full is submitted early or waits in its
    /// order, and what finds the other full is kept by the kernel. Each costs system calls. A ring's
    /// memory counts against the limit on locked memory, and short queues take less of it.
    pub fn queues(mut self, submissions: u32, completions: u32) -> Builder {
        self.core.queues = Queues {
            submissions,
            completions,
        };
        self
    }

    /// Blocks the signals on this thread, starts and pins a thread for each core and makes its
    /// ring.
    ///
    /// # Errors
    ///
    /// When a number does not fit, a processor cannot be used, or the kernel refuses a ring. The
    /// error names cause and remedy; nothing is left behind.
    pub fn build(self) -> Result<Runtime> {
        self.shutdown.validate()?;
        self.stall_after.map_or(Ok(()), check_stall_after)?;
        self.core.validate()?;
        let cpus = self.cores.clone().resolve()?;
        let Builder {
            shutdown,
            signals,
            stall_after,
            core,
            ..
        } = self;
        Runtime::start(&cpus, shutdown, &signals, stall_after, core)
    }
}

/// Turns shorter than the resolution of the watch cannot be watched for.
fn check_stall_after(stall_after: Duration) -> Result<()> {
    if stall_after >= STALL_MIN {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        format!(
            "stall_after ({stall_after:?}) is shorter than {STALL_MIN:?}, and no turn that short is \
             a stall; raise it to at least {STALL_MIN:?}, or leave it out and no turn is watched"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_processors_is_numbers_and_ranges() {
        assert_eq!("all".parse::<Cores>().ok(), Some(Cores::All));
        assert_eq!("0".parse::<Cores>().ok(), Some(Cores::List(vec![0])));
        assert_eq!(
            "3, 0-1".parse::<Cores>().ok(),
            Some(Cores::List(vec![3, 0, 1]))
        );
        for bad in ["", "a", "1-", "-1", "3-1", "0,,1", "0-99999999999"] {
            let error = bad.parse::<Cores>().expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Cores);
            assert!(
                error.to_string().contains("0,2-3"),
                "the remedy is missing: {error}"
            );
        }
    }

    #[test]
    fn a_processor_that_is_not_ours_is_named_with_those_that_are() {
        let error = check_list(vec![1, 9], &[0, 1, 2, 5]).expect_err("9 is not allowed");
        assert!(
            error.to_string().contains('9') && error.to_string().contains("0-2,5"),
            "{error}"
        );
        assert!(
            check_list(vec![1, 1], &[0, 1]).is_err(),
            "one processor twice"
        );
        assert!(check_list(vec![], &[0]).is_err(), "no processor");
        assert_eq!(check_list(vec![5, 0], &[0, 1, 2, 5]).ok(), Some(vec![5, 0]));
    }

    #[test]
    fn a_stall_shorter_than_the_watch_can_see_is_refused_with_the_numbers() {
        for short in [Duration::ZERO, STALL_MIN - Duration::from_nanos(1)] {
            let built = Runtime::builder().stall_after(short).build();
            let error = built.expect_err("too short");
            assert_eq!(error.kind(), ErrorKind::Config);
            let words = error.to_string();
            assert!(words.contains(&format!("{short:?}")), "{words}");
            assert!(words.contains("at least 10ms"), "{words}");
        }
        assert!(check_stall_after(STALL_MIN).is_ok());
        assert!(check_stall_after(Duration::MAX).is_ok());
    }

    #[test]
    fn no_cores_and_too_many_are_refused() {
        assert!(Cores::Count(0).resolve().is_err());
        assert!(Cores::Count(100_000).resolve().is_err());
        assert_eq!(
            Cores::Count(1).resolve().map(|cpus| cpus.len()).ok(),
            Some(1)
        );
    }
}
