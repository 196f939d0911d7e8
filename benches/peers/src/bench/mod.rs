//! The benches: rounds that alternate between the servers, and what their tables say.

pub mod book;
pub mod echo;
pub mod goals;
pub mod instructions;
pub mod memory;
pub mod micro;
pub mod page;
pub mod paired;
pub mod plot;
pub mod sample;
pub mod stop;
pub mod syscalls;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::child::Server;
use crate::serve::{Kind, Plan};
use crate::sys;

/// What all benches are told.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Which servers.
    pub kinds: Vec<Kind>,
    /// How often each is measured in each cell.
    pub rounds: usize,
    /// How long one measurement lasts.
    pub length: Duration,
    /// Where tables and plots go.
    pub results: PathBuf,
    /// The processor of the servers, where they have one.
    pub server_cpu: usize,
    /// The processor of the load.
    pub load_cpu: usize,
    /// Whether this is only to see that all works.
    pub quick: bool,
    /// Names of cells, or parts of names; all cells if there are none.
    pub only: Vec<String>,
}

/// The names of some servers, as in the tables.
pub fn names_of(kinds: &[Kind]) -> Vec<String> {
    kinds.iter().map(|kind| kind.name()).collect()
}

/// The names that `only` chooses: those that are named in full, or else those that contain a part.
/// An `x` is as good as a `×`.
fn choose(names: &[String], only: &[String]) -> Vec<String> {
    let plain = |text: &str| text.replace('×', "x");
    let chosen = |name: &&String| {
        let name = plain(name);
        let hit = |part: &String| {
            let part = plain(part);
            // "64 B x 1" means that cell, and not "64 B x 1000" as well.
            let exact = names.iter().any(|other| plain(other) == part);
            name == part || (!exact && name.contains(&part))
        };
        only.is_empty() || only.iter().any(hit)
    };
    names.iter().filter(chosen).cloned().collect()
}

impl Setting {
    /// The servers in the order of this round: no server always follows the same one.
    pub fn order(&self, round: usize) -> Vec<Kind> {
        let mut kinds = self.kinds.clone();
        let count = kinds.len().max(1);
        kinds.rotate_left(round / 2 % count);
        if round % 2 == 1 {
            kinds.reverse();
        }
        kinds
    }

    /// Starts a server on its processors, and binds this thread to the load's.
    pub fn start(&self, kind: Kind, plan: &Plan, wrapper: &[String]) -> io::Result<Server> {
        // A child inherits the processors it may use: all first, the load's own when it runs.
        sys::pin(&[self.server_cpu, self.load_cpu])?;
        let server = Server::start(kind, plan, wrapper)?;
        if plan.cpus.len() == 1 {
            sys::pin(&[self.load_cpu])?;
        }
        Ok(server)
    }

    /// One core's processor, or both.
    pub fn cpus(&self, both: bool) -> Vec<usize> {
        if both {
            vec![self.server_cpu, self.load_cpu]
        } else {
            vec![self.server_cpu]
        }
    }

    /// The cells to measure, of these.
    pub fn chosen(&self, names: &[String]) -> io::Result<Vec<String>> {
        let chosen = choose(names, &self.only);
        if chosen.is_empty() {
            let text = format!("no such cell; there are: {}", names.join("; "));
            return Err(io::Error::other(text));
        }
        Ok(chosen)
    }

    /// One file of the results.
    pub fn path(&self, name: &str) -> PathBuf {
        self.results.join(name)
    }

    /// Writes one file of the results.
    pub fn keep(&self, name: &str, text: &str) -> io::Result<()> {
        fs::create_dir_all(&self.results)?;
        let path = self.path(name);
        fs::write(&path, text).map_err(|error| naming(&path, &error))
    }
}

/// An error that names the file.
fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Shows how far a bench is.
pub struct Progress {
    /// When it began.
    start: Instant,
    /// How many measurements there are.
    total: usize,
    /// How many are done.
    done: usize,
}

impl Progress {
    /// Says what is ahead: so many measurements, none longer than `bound`.
    pub fn begin(what: &str, total: usize, bound: Duration) -> Progress {
        let longest = bound * total as u32;
        eprintln!(
            "{what}: {total} measurements, {} s at most",
            longest.as_secs() + 1
        );
        Progress {
            start: Instant::now(),
            total,
            done: 0,
        }
    }

    /// One more is done.
    pub fn step(&mut self, text: &str) {
        self.done += 1;
        let each = self.start.elapsed() / self.done as u32;
        let left = each * (self.total - self.done.min(self.total)) as u32;
        let line = format!(
            "[{}/{}, {} s left] {text}",
            self.done,
            self.total,
            left.as_secs()
        );
        if io::stderr().is_terminal() {
            eprint!("\r\x1b[K{line}");
            io::stderr().flush().ok();
        } else {
            eprintln!("{line}");
        }
    }

    /// The table follows.
    pub fn end(self) {
        if io::stderr().is_terminal() {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_name_chooses_one_cell_and_a_part_of_it_several() {
        let names = ["64 B × 1", "64 B × 1000", "1 KiB × 1"].map(String::from);
        let chosen = |only: &str| choose(&names, &[only.to_owned()]);
        assert_eq!(chosen("64 B x 1"), ["64 B × 1"]);
        assert_eq!(chosen("64 B"), ["64 B × 1", "64 B × 1000"]);
        assert_eq!(choose(&names, &[]), names);
    }
}
