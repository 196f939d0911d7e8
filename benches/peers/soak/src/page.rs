//! What is kept of a run: its samples, a plot of them, and a page.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use evenfall::report::Verdict;

use crate::flat::Course;
use crate::gauges::{GAUGES, Sample};
use crate::plot;

/// Samples in the file and in the plot, at most; more show nothing more.
const KEPT: usize = 500;

/// What a run counted besides the samples.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The rounds' seed.
    pub seed: u64,
    /// Whether it has come as far as it was to.
    pub enough: bool,
    /// How long it took.
    pub elapsed: Duration,
    /// Runtimes that were built, and are gone.
    pub stops: u64,
    /// Of these, those that were dropped without a run.
    pub unrun: u64,
    /// Replies that were whole and right.
    pub replies: u64,
    /// Connections.
    pub connections: u64,
    /// Connections that the server reset.
    pub resets: u64,
    /// The reports' verdicts, and how often each.
    pub verdicts: Vec<(Verdict, u64)>,
}

/// Writes all three files.
pub fn write(
    folder: &Path,
    totals: &Totals,
    samples: &[Sample],
    courses: &[Course],
) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let kept: Vec<Sample> = thinned(samples);
    fs::write(folder.join("soak.csv"), table(&kept))?;
    fs::write(folder.join("soak.svg"), plot::draw(&kept)?)?;
    fs::write(folder.join("soak.md"), page(totals, courses))
}

/// Draws the plot again from the samples that are kept.
pub fn draw_again(folder: &Path) -> io::Result<()> {
    let text = fs::read_to_string(folder.join("soak.csv"))?;
    let wrong = || io::Error::other("soak.csv is not what a soak writes");
    let samples: Option<Vec<Sample>> = text.lines().skip(1).map(sample).collect();
    let drawn = plot::draw(&samples.ok_or_else(wrong)?)?;
    fs::write(folder.join("soak.svg"), drawn)
}

/// A line of the table.
fn sample(line: &str) -> Option<Sample> {
    let mut sample = Sample::NONE;
    let mut fields = line.split(',');
    sample.stops = fields.next()?.parse().ok()?;
    sample.replies = fields.next()?.parse().ok()?;
    for value in &mut sample.values {
        *value = fields.next()?.parse().ok()?;
    }
    Some(sample)
}

/// Every so manieth of them, and the last.
fn thinned(samples: &[Sample]) -> Vec<Sample> {
    let step = samples.len().div_ceil(KEPT).max(1);
    let mut kept: Vec<Sample> = samples.iter().step_by(step).cloned().collect();
    if kept.last() != samples.last() {
        kept.extend(samples.last().cloned());
    }
    kept
}

fn table(samples: &[Sample]) -> String {
    let names: Vec<&str> = GAUGES.iter().map(|gauge| gauge.name).collect();
    let mut text = format!("stops,replies,{}\n", names.join(","));
    for sample in samples {
        let values = sample.values.map(|value| format!("{value}"));
        let line = format!("{},{},{}\n", sample.stops, sample.replies, values.join(","));
        text.push_str(&line);
    }
    text
}

/// The page.
fn page(totals: &Totals, courses: &[Course]) -> String {
    let mut text = String::from("# Soak\n\n");
    let verdicts: Vec<String> = totals
        .verdicts
        .iter()
        .map(|(verdict, count)| format!("{} {verdict}", grouped(*count as f64)))
        .collect();
    let words = format!(
        "One process built and ended a runtime {} times, {} of them without a run; {} connections had \
         {} replies, every byte of which was compared, and {} of them ended by a reset of the server. \
         Verdicts: {}. The sums of every report added up. Seed {}, {} s{}.\n\n",
        grouped(totals.stops as f64),
        grouped(totals.unrun as f64),
        grouped(totals.connections as f64),
        grouped(totals.replies as f64),
        grouped(totals.resets as f64),
        verdicts.join(", "),
        totals.seed,
        totals.elapsed.as_secs(),
        if totals.enough {
            ""
        } else {
            ", which was over before the count that was asked for"
        },
    );
    text.push_str(&words);
    text.push_str(
        "Sampled after every stop. *Early* is the median of the run's second tenth, *late* that of its \
         last, *range* the lowest and the highest of all but the first tenth.\n\n",
    );
    text.push_str(
        "| gauge | early | late | range | may rise by | flat |\n|---|--:|--:|--:|---|---|\n",
    );
    for course in courses {
        let (low, high) = course.range;
        let flat = if course.is_flat() { "yes" } else { "**no**" };
        writeln!(
            text,
            "| {} | {} | {} | {} – {} | {} | {flat} |",
            course.gauge.title,
            grouped(course.early),
            grouped(course.late),
            grouped(low),
            grouped(high),
            course.gauge.slack.why,
        )
        .expect("a string takes all");
    }
    text.push_str("\n![each gauge over the stops](soak.svg)\n");
    text
}

/// With commas between the thousands.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!(grouped(10_000_000.0), "10,000,000");
        assert_eq!(grouped(-999.0), "-999");
        assert_eq!(grouped(1_000.0), "1,000");
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let mut one = Sample::NONE;
        (one.stops, one.replies) = (12, 3_456);
        one.values[4] = 8_212.0;
        let text = table(&[one.clone()]);
        assert_eq!(text.lines().nth(1).and_then(sample), Some(one));
    }

    #[test]
    fn the_first_and_the_last_sample_are_kept() {
        let sample = |stops| Sample {
            stops,
            ..Sample::NONE
        };
        let all: Vec<Sample> = (1..=3_001).map(sample).collect();
        let kept = thinned(&all);
        assert_eq!(kept[0].stops, 1);
        assert_eq!(kept[kept.len() - 1].stops, 3_001);
        assert!(kept.len() <= KEPT + 1);
    }
}
