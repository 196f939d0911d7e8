//! What a role is told: `key=value` words on its command line.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

/// The arguments of one role. A key that nobody asks for is a mistake of the
/// test, which [`Args::finish`] makes visible.
#[derive(Debug)]
pub(crate) struct Args {
    /// What was given and not asked for yet.
    words: BTreeMap<String, String>,
}

impl Args {
    /// The command line of this process.
    pub(crate) fn of_this_process() -> Args {
        let words = std::env::args().skip(1).map(|word| {
            let (key, value) = word.split_once('=').expect("arguments look like key=value");
            (key.to_owned(), value.to_owned())
        });
        Args {
            words: words.collect(),
        }
    }

    /// The value of `key`, parsed, where it was given.
    pub(crate) fn take<T: FromStr>(&mut self, key: &str) -> Option<T> {
        let value = self.words.remove(key)?;
        match value.parse() {
            Ok(parsed) => Some(parsed),
            Err(_) => panic!("{key}={value} cannot be read"),
        }
    }

    /// The value of `key`, or `default`.
    pub(crate) fn number<T: FromStr>(&mut self, key: &str, default: T) -> T {
        self.take(key).unwrap_or(default)
    }

    /// A length of time, given in milliseconds.
    pub(crate) fn millis(&mut self, key: &str) -> Option<Duration> {
        self.take(key).map(Duration::from_millis)
    }

    /// Called when all keys were asked for: what is left was misspelt.
    pub(crate) fn finish(self) {
        assert!(self.words.is_empty(), "nobody reads {:?}", self.words);
    }
}
