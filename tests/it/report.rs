//! A server's report, as a test looks at it.
#![forbid(unsafe_code)]

use serde_json::Value;

/// The parsed JSON of one report.
#[derive(Debug)]
pub(crate) struct Report {
    /// As the server printed it.
    json: Value,
}

impl Report {
    pub(crate) fn new(json: Value) -> Report {
        Report { json }
    }

    /// The verdict's word.
    #[track_caller]
    pub(crate) fn verdict(&self) -> &str {
        self.json["verdict"].as_str().expect("a verdict is a word")
    }

    /// From the trigger to the end, in milliseconds.
    #[track_caller]
    pub(crate) fn elapsed_ms(&self) -> f64 {
        self.json["elapsed_ms"].as_f64().expect("a length of time")
    }

    /// The cores' parts.
    #[track_caller]
    pub(crate) fn cores(&self) -> &[Value] {
        self.json["cores"].as_array().expect("a list of cores")
    }

    /// A part of the whole report.
    pub(crate) fn part(&self, name: &str) -> &Value {
        &self.json[name]
    }

    /// One counter, summed over all cores.
    #[track_caller]
    pub(crate) fn sum(&self, group: &str, field: &str) -> u64 {
        let of_core = |core: &Value| {
            let value = core[group][field].as_u64();
            value.unwrap_or_else(|| panic!("no counter {group}.{field} in {core}"))
        };
        self.cores().iter().map(of_core).sum()
    }

    /// All entries of a list that each core has, one after the other.
    #[track_caller]
    pub(crate) fn all(&self, list: &str) -> Vec<Value> {
        let of_core = |core: &Value| core[list].as_array().expect("a list").clone();
        self.cores().iter().flat_map(of_core).collect()
    }

    /// Hooks of all cores as (name, outcome), in their order.
    #[track_caller]
    pub(crate) fn hooks(&self) -> Vec<(String, String)> {
        let word = |hook: &Value, key: &str| hook[key].as_str().expect("a word").to_owned();
        let hooks = self.all("hooks");
        let named = hooks.iter().map(|h| (word(h, "name"), word(h, "outcome")));
        named.collect()
    }

    /// Connections that ended by our FIN or answered the peer's with ours,
    /// from the trigger on.
    #[track_caller]
    pub(crate) fn ended_by_fin(&self) -> u64 {
        let ways = ["drained", "closed_by_peer", "closed_by_handler"];
        ways.iter().map(|way| self.sum("connections", way)).sum()
    }

    /// Connections that ended before the trigger, in whatever way.
    #[track_caller]
    pub(crate) fn ended_before(&self) -> u64 {
        let count = |field: &str| self.sum("connections", field);
        count("accepted_total") - count("accepted") - count("at_start")
    }

    /// What came in is equal to all the ways to end: on each core, and for
    /// letters over all cores together.
    #[track_caller]
    pub(crate) fn adds_up(&self) {
        let is_stuck = |core: &&Value| core["outcome"] == "stuck";
        if !self.cores().iter().any(|core| is_stuck(&core)) {
            let foreign = self.json["foreign_letters"].as_u64().expect("a count");
            let sent = self.sum("letters", "sent") + foreign;
            let ended = self.sum("letters", "handled") + self.sum("letters", "returned");
            assert_eq!(sent, ended, "letters: {}", self.json);
        }
        for core in self.cores().iter().filter(|core| !is_stuck(core)) {
            equal(
                core,
                "connections",
                &["at_start", "accepted"],
                &[
                    "drained",
                    "closed_by_peer",
                    "closed_by_handler",
                    "aborted",
                    "peer_reset",
                    "forced",
                    "abandoned",
                ],
            );
            equal(core, "ops", &["submitted"], &["completed", "leaked"]);
            equal(
                core,
                "tasks",
                &["spawned"],
                &["completed", "cancelled", "panicked", "dropped"],
            );
        }
    }

    /// Nothing is left in the kernel and no buffer is missing.
    #[track_caller]
    pub(crate) fn leaves_nothing(&self) {
        assert_eq!(self.sum("ops", "leaked"), 0, "an op was leaked");
        assert_eq!(self.sum("buffers", "lent"), 0, "a buffer is not back");
        assert_eq!(self.sum("connections", "abandoned"), 0);
    }

    /// Every byte that was written was sent and acknowledged.
    #[track_caller]
    pub(crate) fn loses_nothing(&self) {
        self.leaves_nothing();
        assert_eq!(self.verdict(), "clean", "{}", self.json);
        assert_eq!(self.sum("connections", "forced"), 0);
        assert_eq!(self.sum("bytes", "unsent"), 0);
        assert_eq!(self.sum("bytes", "unacked"), 0);
    }
}

/// Fails unless the fields `left` and `right` of one group have equal sums.
#[track_caller]
fn equal(core: &Value, group: &str, left: &[&str], right: &[&str]) {
    let sum = |fields: &[&str]| -> u64 {
        let values = fields.iter().map(|field| {
            let value = core[group][field].as_u64();
            value.unwrap_or_else(|| panic!("no counter {group}.{field}"))
        });
        values.sum()
    };
    assert_eq!(
        sum(left),
        sum(right),
        "{group} of core {}: {left:?} = {right:?} does not hold in {}",
        core["core"],
        core[group]
    );
}
