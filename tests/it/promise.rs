//! A promise is a test: its name says what holds.
#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::process::{Ended, Program};

/// Lists the promises of a module, each a function without arguments.
macro_rules! promises {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn promises() -> Vec<libtest_mimic::Trial> {
            vec![$(crate::promise::promise(
                concat!(module_path!(), "::", stringify!($name)),
                $name,
            )),*]
        }
    };
}
pub(crate) use promises;

/// One promise as a trial, named by its module and its function.
pub(crate) fn promise(path: &str, keep: fn()) -> Trial {
    let name = path.split_once("::").map_or(path, |(_crate, rest)| rest);
    Trial::test(name, move || {
        keep();
        Ok(())
    })
}

/// Held by a test that keeps both CPUs busy, so that no two of these overlap.
pub(crate) fn heavy() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    // A poisoned lock only says that another test has failed.
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a load against `address`.
#[track_caller]
pub(crate) fn load(address: &str, words: &str) -> Program {
    let address = format!("addr={address}");
    let words = words.split_whitespace();
    let words: Vec<&str> = std::iter::once(address.as_str()).chain(words).collect();
    Program::role("load", &words)
}

/// What a load has counted.
#[derive(Debug)]
pub(crate) struct Count(Value);

impl Count {
    /// Waits for a load to end. It must have met no error of its own, and
    /// every byte must have been the one it expected.
    #[track_caller]
    pub(crate) fn of(load: Program) -> Count {
        let ended: Ended = load.finish();
        ended.exited(0);
        let count = Count(ended.json("done "));
        assert_eq!(count.of_errors(), 0, "{}", count.0);
        assert_eq!(count.number("bytes_wrong"), 0, "{}", count.0);
        count
    }

    fn of_errors(&self) -> usize {
        self.0["errors"].as_object().expect("a map").len()
    }

    /// One number of the tally.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> u64 {
        let number = self.0[name].as_u64();
        number.unwrap_or_else(|| panic!("no number {name} in {}", self.0))
    }

    /// No answer in part, and every connection ended by the server's FIN.
    #[track_caller]
    pub(crate) fn ended_well(&self) {
        assert_eq!(self.number("torn"), 0, "an answer came in part: {}", self.0);
        assert_eq!(
            self.number("reset"),
            0,
            "a connection was reset: {}",
            self.0
        );
        let ends = (self.number("fin"), self.number("established"));
        assert_eq!(ends.0, ends.1, "each connection ends by FIN: {}", self.0);
        assert_eq!(
            self.number("bytes_owed"),
            0,
            "acknowledged, not answered: {}",
            self.0
        );
    }
}
