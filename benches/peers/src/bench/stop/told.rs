//! What a server says of its own stop: when it returned, and evenfall's report.

use serde_json::Value;

/// What was found in a server's last lines.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    /// When the server's `run` returned, on the clock that all processes share.
    pub returned_ns: Option<u64>,
    /// From the trigger to the end, as the report has it.
    pub elapsed_ms: Option<f64>,
    /// The longest turn of any core.
    pub turn_ms: Option<f64>,
    /// Each core's own phases.
    pub cores: String,
}

impl Told {
    /// Reads the lines.
    pub fn of(lines: &[String]) -> Told {
        let mut told = Told::default();
        for line in lines {
            if let Some(time) = line.strip_prefix("returned ") {
                told.returned_ns = time.parse().ok();
            }
            let report = line.strip_prefix("report ");
            if let Some(Ok(report)) = report.map(serde_json::from_str::<Value>) {
                told.read(&report);
            }
        }
        told
    }

    /// Takes what is needed of a report.
    fn read(&mut self, report: &Value) {
        self.elapsed_ms = report["elapsed_ms"].as_f64();
        let cores = || report["cores"].as_array().into_iter().flatten();
        let turns = cores().filter_map(|core| core["turns"]["longest_ms"].as_f64());
        self.turn_ms = turns.max_by(f64::total_cmp);
        let words: Vec<String> = cores().map(core_in_words).collect();
        self.cores = words.join("; ");
    }
}

/// One core's phases, in ms from the trigger.
fn core_in_words(core: &Value) -> String {
    let phases = core["phases"].as_array().into_iter().flatten();
    let spans = phases.map(|phase| {
        let [start, end] = ["start_ms", "end_ms"].map(|key| phase[key].as_f64().unwrap_or(0.0));
        let name = phase["name"].as_str().unwrap_or("?");
        format!("{name} {start:.1}–{end:.1}")
    });
    let spans: Vec<String> = spans.collect();
    format!("core {}: {}", core["core"], spans.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_turn_is_the_longest_of_all_cores() {
        let report = r#"report {"elapsed_ms":2.5,"cores":[{"core":0,"turns":{"longest_ms":1.5},
            "phases":[{"name":"draining","start_ms":0.0,"end_ms":2.0}]},
            {"core":1,"turns":{"longest_ms":0.5},"phases":[]}]}"#;
        let lines = ["returned 77".to_owned(), report.replace('\n', " ")];
        let expected = Told {
            returned_ns: Some(77),
            elapsed_ms: Some(2.5),
            turn_ms: Some(1.5),
            cores: "core 0: draining 0.0–2.0; core 1: ".to_owned(),
        };
        assert_eq!(Told::of(&lines), expected);
    }
}
