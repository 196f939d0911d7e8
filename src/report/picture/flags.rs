//! Words at instants, placed so that none hides another.
#![forbid(unsafe_code)]

use super::super::words::{columns, fit};
use super::canvas::{Canvas, HALO, Side, width_of};
use super::scale::RIGHT;

/// Rows that flags may take; what does not fit keeps its line, without words.
const ROWS: usize = 4;

/// The height of a row.
pub(super) const ROW: f64 = 14.0;

/// The columns that the words of one flag may take.
const WORDS: usize = 46;

/// The room between a mark and its words.
const GAP: f64 = 4.0;

/// Something that happened, or was due, at an instant.
#[derive(Clone, Debug)]
pub(super) struct Flag {
    /// Where it stands.
    pub(super) x: f64,
    /// What it says.
    pub(super) words: String,
    /// Its colour.
    pub(super) colour: &'static str,
    /// Whether its line is broken: a deadline, which need not have come.
    pub(super) dashed: bool,
}

/// The row of a flag and the side on which its words are; `None` without.
type Place = Option<(usize, Side)>;

/// Finds a place for each, in the order they come; those to the left go first.
pub(super) fn places(flags: &mut [Flag]) -> Vec<Place> {
    flags.sort_by(|a, b| a.x.total_cmp(&b.x));
    let mut taken: Vec<Vec<(f64, f64)>> = vec![Vec::new(); ROWS];
    let place = |flag: &Flag| {
        let width = width_of(columns(&fit(&flag.words, WORDS)), 11.0);
        for (row, spans) in taken.iter_mut().enumerate() {
            for side in [Side::Right, Side::Left] {
                let from = match side {
                    Side::Left => flag.x - GAP - width,
                    _ => flag.x,
                };
                let to = from + GAP + width;
                let free = spans.iter().all(|span| to < span.0 || from > span.1);
                if free && from > 0.0 && to < RIGHT + 180.0 {
                    spans.push((from, to));
                    return Some((row, side));
                }
            }
        }
        None
    };
    flags.iter().map(place).collect()
}

/// The rows that these places take.
pub(super) fn rows(places: &[Place]) -> usize {
    let rows = places.iter().flatten().map(|(row, _)| row + 1);
    rows.max().unwrap_or(0)
}

/// Draws the words in rows from `y` down, the first row at the top, and the
/// lines from there to `bottom`: the lines first, so that none crosses a word.
pub(super) fn draw(canvas: &mut Canvas, flags: &[Flag], places: &[Place], y: f64, bottom: f64) {
    let lowest = rows(places).saturating_sub(1);
    for (flag, place) in flags.iter().zip(places) {
        let row = place.map_or(lowest, |(row, _)| row);
        let dashes = if flag.dashed {
            " stroke-dasharray=\"4 3\""
        } else {
            ""
        };
        let look = format!("stroke=\"{}\" stroke-width=\"1.5\"{dashes}", flag.colour);
        let top = y + row as f64 * ROW + 1.0;
        canvas.line((flag.x, top), (flag.x, bottom), &look);
    }
    for (flag, place) in flags.iter().zip(places) {
        let Some((row, side)) = place else {
            continue;
        };
        let base = y + *row as f64 * ROW + 10.0;
        let x = match side {
            Side::Left => flag.x - GAP,
            _ => flag.x + GAP,
        };
        let look = format!("fill=\"{}\" {HALO}", flag.colour);
        canvas.text((x, base), *side, &look, &fit(&flag.words, WORDS));
    }
}
