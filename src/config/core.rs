//! What a core is made with, as the builder was told.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{CQ_ENTRIES, SQ_ENTRIES};
use crate::error::{Error, ErrorKind, Result};

/// What a core is made with. The same for all cores of a runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreConfig {
    /// What its ring may use of the kernel.
    pub(crate) features: Features,
    /// The lengths of its ring's queues.
    pub(crate) queues: Queues,
    /// How many accepted connections it may have; above zero.
    pub(crate) connections_most: usize,
    /// How its report names peers.
    pub(crate) peers: Peers,
}

impl Default for CoreConfig {
    fn default() -> CoreConfig {
        CoreConfig {
            features: Features::All,
            queues: Queues::default(),
            connections_most: usize::MAX,
            peers: Peers::default(),
        }
    }
}

impl CoreConfig {
    /// Refuses what no core can be made with.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.connections_most == 0 {
            let why = "max_connections is 0, and a core that accepts nobody serves nobody: give 1 or \
                       more, or leave it out and the descriptors are the limit";
            return Err(Error::new(ErrorKind::Config, why));
        }
        self.queues.validate()
    }
}

/// Which of the kernel's features a ring uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Features {
    /// All that the kernel has.
    #[default]
    All,
    /// Those of the oldest kernel that will do, Linux 6.1.
    Oldest,
}

/// The lengths of a ring's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queues {
    /// Entries of the submission queue.
    pub(crate) submissions: u32,
    /// Entries of the completion queue.
    pub(crate) completions: u32,
}

impl Default for Queues {
    fn default() -> Queues {
        Queues {
            submissions: SQ_ENTRIES,
            completions: CQ_ENTRIES,
        }
    }
}

impl Queues {
    /// Refuses what the kernel would refuse or, worse, make shorter.
    fn validate(&self) -> Result<()> {
        let Queues {
            submissions,
            completions,
        } = *self;
        let fits = (1..=SUBMISSIONS_MOST).contains(&submissions)
            && completions <= COMPLETIONS_MOST
            && completions / 2 >= submissions;
        if fits {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "a ring of {submissions} submissions and {completions} completions cannot be made: \
                 give 1 to {SUBMISSIONS_MOST} submissions, and twice as many completions or more, \
                 up to {COMPLETIONS_MOST}"
            ),
        ))
    }
}

/// The kernel's IORING_MAX_ENTRIES.
const SUBMISSIONS_MOST: u32 = 32_768;

/// The kernel's IORING_MAX_CQ_ENTRIES.
const COMPLETIONS_MOST: u32 = 2 * SUBMISSIONS_MOST;

/// How a report names peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Peers {
    /// By their network alone.
    #[default]
    Masked,
    /// By address and port.
    Named,
}

impl Peers {
    /// The name of the peer at `address`.
    pub(crate) fn name(self, address: SocketAddr) -> String {
        match self {
            Peers::Named => address.to_string(),
            Peers::Masked => network(address.ip()),
        }
    }
}

/// The network a provider or a site has, of which one address is one machine of many.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{}/24", Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            format!("{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_peer_is_one_of_many() {
        for (address, masked) in [
            ("203.0.113.77:40000", "203.0.113.0/24"),
            ("[2001:db8:12:34:56:78:9a:bc]:443", "2001:db8:12::/48"),
            // An IPv4 client of a socket for both.
            ("[::ffff:203.0.113.77]:40000", "203.0.113.0/24"),
            ("127.0.0.1:1", "127.0.0.0/24"),
        ] {
            let address: SocketAddr = address.parse().expect("an address");
            assert_eq!(Peers::Masked.name(address), masked);
            assert_eq!(Peers::Named.name(address), address.to_string());
        }
    }

    #[test]
    fn queues_that_the_kernel_would_not_make_so_are_refused_with_the_numbers() {
        let queues = |submissions, completions| Queues {
            submissions,
            completions,
        };
        for (submissions, completions) in [(8, 16), (1, 2), (32_768, 65_536), (256, 4096)] {
            assert!(queues(submissions, completions).validate().is_ok());
        }
        for (submissions, completions) in [
            (0, 0),
            (0, 64),
            (8, 15),
            (32_769, 65_538),
            (8, 65_537),
            (u32::MAX, u32::MAX),
        ] {
            let error = queues(submissions, completions).validate();
            let error = error.expect_err("no ring").to_string();
            let named = format!("{submissions} submissions and {completions} completions");
            assert!(error.contains(&named), "{error}");
        }
    }
}
