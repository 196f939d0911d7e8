//! The timeline: one row for each core, one character for each slice of the
//! stop, so that a core that holds the others up is seen at a glance.
#![forbid(unsafe_code)]

use super::table::{NAME_WIDTH, core_name};
use super::words::{WIDTH, duration, right};
use super::{PhaseSpan, Report};

/// The space between the name of a row and its first slice.
const GAP: usize = 2;

/// The number of slices that the stop is cut into.
const SLICES: usize = WIDTH - NAME_WIDTH - GAP;

/// What a slice may show, with its word in the legend. The shades darken
/// towards the end of the stop.
const LEGEND: [(char, &str); 7] = [
    ('░', "notice"),
    ('▒', "draining"),
    ('▓', "hooks"),
    ('█', "closing"),
    (OTHER, "other"),
    (STUCK, "stuck"),
    (TRIGGER, "trigger"),
];
const OTHER: char = '+';
const STUCK: char = '×';
const TRIGGER: char = '▼';

/// The lines of the timeline: its scale, the cores with these indices, the
/// runtime as a whole where that says more, and the legend. Empty if no time
/// went by or no core has a phase.
pub(super) fn lines(report: &Report, shown: &[usize]) -> Vec<String> {
    if !(report.elapsed_ms > 0.0 && report.elapsed_ms.is_finite()) {
        return Vec::new();
    }
    let mut rows: Vec<(String, [char; SLICES])> = Vec::new();
    rows.extend(trigger_row(report).map(|row| (String::new(), row)));
    for &i in shown {
        let core = &report.cores[i];
        let mut row = painted(&core.phases, report.elapsed_ms);
        if let Some(stuck) = &core.stuck {
            paint(&mut row, report.elapsed_ms, stuck.since_ms, f64::MAX, STUCK);
        }
        rows.push((core_name(core), row));
    }
    if report.cores.len() != 1 {
        rows.push(("all".to_owned(), painted(&report.phases, report.elapsed_ms)));
    }
    if rows.iter().all(|(_, row)| row.iter().all(|&c| c == ' ')) {
        return Vec::new();
    }
    let mut lines = vec![line("core", &scale(report.elapsed_ms))];
    lines.extend(rows.iter().map(|(name, row)| line(name, row)));
    lines.push(format!("{}{}", " ".repeat(NAME_WIDTH + GAP), legend(&rows)));
    lines
}

fn line(name: &str, row: &[char; SLICES]) -> String {
    let row: String = row.iter().collect();
    format!(
        "{}{}{}",
        right(name, NAME_WIDTH),
        " ".repeat(GAP),
        row.trim_end()
    )
}

/// A ruler with the time at each quarter, each word beginning at its instant
/// but for the last, which ends at it.
fn scale(elapsed_ms: f64) -> [char; SLICES] {
    let mut ruler = ['─'; SLICES];
    for quarter in 0..=4_usize {
        let word = match quarter {
            0 => "0 ".to_owned(),
            4 => format!(" {}", duration(elapsed_ms)),
            _ => format!(" {} ", duration(elapsed_ms * quarter as f64 / 4.0)),
        };
        let length = word.chars().count();
        let from = match quarter {
            0 => 0,
            4 => SLICES.saturating_sub(length),
            // One to the left, as the word begins with a space.
            _ => SLICES * quarter / 4 - 1,
        };
        for (place, c) in ruler[from..].iter_mut().zip(word.chars()) {
            *place = c;
        }
    }
    ruler
}

/// A row of phases. The longest is painted first, so that a phase of
/// microseconds stays visible beside one of seconds.
fn painted(phases: &[PhaseSpan], elapsed_ms: f64) -> [char; SLICES] {
    let mut by_length: Vec<&PhaseSpan> = phases.iter().collect();
    by_length.sort_by(|a, b| (b.end_ms - b.start_ms).total_cmp(&(a.end_ms - a.start_ms)));
    let mut row = [' '; SLICES];
    for phase in by_length {
        paint(
            &mut row,
            elapsed_ms,
            phase.start_ms,
            phase.end_ms,
            glyph(&phase.name),
        );
    }
    row
}

/// Fills the slices between two instants, at least one if time went by.
fn paint(row: &mut [char; SLICES], elapsed_ms: f64, start_ms: f64, end_ms: f64, with: char) {
    // Written so that a time that is not a number paints nothing.
    let goes_by = start_ms < end_ms && start_ms < elapsed_ms;
    if !goes_by {
        return;
    }
    let first = border(start_ms, elapsed_ms).min(SLICES - 1);
    let end = border(end_ms, elapsed_ms).max(first + 1);
    row[first..end].fill(with);
}

/// The border between two slices that is nearest to an instant, from 0 to
/// `SLICES`; an instant outside of the stop is moved to its begin or end.
fn border(at_ms: f64, elapsed_ms: f64) -> usize {
    let share = (at_ms / elapsed_ms).clamp(0.0, 1.0);
    (share * SLICES as f64).round() as usize
}

/// A row with a mark at each trigger after the first, if there is one.
fn trigger_row(report: &Report) -> Option<[char; SLICES]> {
    let mut row = [' '; SLICES];
    for trigger in report.triggers.iter().skip(1) {
        let slice = border(trigger.at_ms, report.elapsed_ms).min(SLICES - 1);
        row[slice] = TRIGGER;
    }
    (report.triggers.len() > 1).then_some(row)
}

fn glyph(phase: &str) -> char {
    let known = LEGEND[..4].iter().find(|(_, word)| *word == phase);
    known.map_or(OTHER, |&(glyph, _)| glyph)
}

/// The glyphs that occur, each with its word.
fn legend(rows: &[(String, [char; SLICES])]) -> String {
    let occurs = |glyph: char| rows.iter().any(|(_, row)| row.contains(&glyph));
    let words: Vec<String> = LEGEND
        .iter()
        .filter(|(glyph, _)| occurs(*glyph))
        .map(|(glyph, word)| format!("{glyph} {word}"))
        .collect();
    words.join("  ")
}
