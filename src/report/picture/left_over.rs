//! A row for each straggler: what it was, what it did, and whose it was. The
//! guards, which no core holds, come first.
#![forbid(unsafe_code)]

use super::super::text::straggler_words;
use super::super::words::{exact, fit};
use super::super::{Report, Straggler};
use super::canvas::{Canvas, Side, width_of};
use super::scale::{LEFT, RIGHT};

/// Rows that are drawn at most. What is left over by the thousand is alike.
pub(in crate::report) const ROWS: usize = 12;

/// The height of a row.
const ROW: f64 = 16.0;

/// The room above the first row.
const HEAD: f64 = 24.0;

/// Columns for the name of what was left over.
const NAME: usize = 46;

/// The class of a row, for whoever looks for one.
pub(in crate::report) const CLASS: &str = "straggler";

/// Draws the stragglers from `y` down; where they end.
pub(super) fn draw(canvas: &mut Canvas, report: &Report, y: f64) -> f64 {
    let of_cores = report
        .cores
        .iter()
        .flat_map(|core| core.stragglers.iter().map(|one| (Some(core.core), one)));
    let of_none = report.stragglers.iter().map(|one| (None, one));
    let mut all = of_none.chain(of_cores).peekable();
    if all.peek().is_none() {
        return y;
    }
    let look = "font-weight=\"600\"";
    canvas.text((LEFT - 8.0, y + 14.0), Side::Left, look, "left over");
    let mut base = y + HEAD + 11.0;
    for (core, straggler) in all.by_ref().take(ROWS) {
        draw_row(canvas, core, straggler, base);
        base += ROW;
    }
    let left_out = all.count();
    if left_out > 0 {
        let words = format!("… {} more", exact(left_out as u128));
        let at = (LEFT + 6.0, base);
        canvas.text(at, Side::Right, "fill=\"#59636e\"", &words);
        base += ROW;
    }
    base
}

/// `guard`, `compaction: was held, spawned at src/main.rs:7:5`, `process`.
fn draw_row(canvas: &mut Canvas, core: Option<usize>, straggler: &Straggler, base: f64) {
    canvas.begin(&format!("class=\"{CLASS}\""));
    let kind = fit(&straggler.kind, 21);
    canvas.text((LEFT - 8.0, base), Side::Left, "", &kind);
    let mut words = fit(&straggler.name, NAME);
    let rest = straggler_words(straggler);
    if !rest.is_empty() {
        words.push_str(&format!(": {rest}"));
    }
    let most = ((RIGHT - LEFT - 12.0) / width_of(1, 11.0)) as usize;
    let at = (LEFT + 6.0, base);
    canvas.text(at, Side::Right, "fill=\"#bc4c00\"", &fit(&words, most));
    let place = match core {
        Some(core) => format!("core {core}"),
        None => "process".to_owned(),
    };
    let at = (RIGHT + 12.0, base);
    canvas.text(at, Side::Right, "fill=\"#59636e\"", &fit(&place, 24));
    canvas.end();
}
