//! What the picture is drawn on: the few SVG elements it needs, written so
//! that they are well-formed whatever the report contains.
//!
//! Words from the report reach the text only through [`safe`], and numbers
//! only through [`number`]. Attributes are words of this crate. That is all
//! that a crate for SVG would have to do here, and none of those at hand
//! keeps control characters and infinite numbers out.
#![forbid(unsafe_code)]

use super::super::words::visible;

/// Names every text looks for; no font is fetched from anywhere.
const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', \
                     Arial, sans-serif";

/// The share of its size that a letter is wide, on the safe side.
const LETTER: f64 = 0.6;

/// The look of words that stand on lines: white around each letter.
pub(super) const HALO: &str = "stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\"";

/// A picture as it grows.
#[derive(Default)]
pub(super) struct Canvas {
    /// Whole elements; every group that was begun is ended by who began it.
    body: String,
}

/// A rectangle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Where a text stands relative to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// It begins there.
    Right,
    /// It ends there.
    Left,
    /// Its middle is there.
    Middle,
}

impl Canvas {
    /// A rectangle; `look` is its other attributes.
    pub(super) fn rect(&mut self, area: Area, look: &str) {
        self.titled_rect(area, look, "");
    }

    /// A rectangle that tells more where a pointer rests on it.
    pub(super) fn titled_rect(&mut self, area: Area, look: &str, title: &str) {
        let begin = format!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" {look}",
            number(area.x),
            number(area.y),
            number(area.width.max(0.0)),
            number(area.height.max(0.0)),
        );
        self.body.push_str(&begin);
        if title.is_empty() {
            self.body.push_str("/>\n");
        } else {
            let rest = format!("><title>{}</title></rect>\n", safe(title));
            self.body.push_str(&rest);
        }
    }

    /// A straight line from one point to another.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), look: &str) {
        let line = format!(
            "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" {look}/>\n",
            number(from.0),
            number(from.1),
            number(to.0),
            number(to.1),
        );
        self.body.push_str(&line);
    }

    /// A path through these corners, closed by its look if at all.
    pub(super) fn path(&mut self, corners: &[(f64, f64)], look: &str) {
        let mut words = String::new();
        for (i, corner) in corners.iter().enumerate() {
            let letter = if i == 0 { 'M' } else { 'L' };
            let step = format!("{letter}{} {}", number(corner.0), number(corner.1));
            words.push_str(&step);
        }
        if !corners.is_empty() {
            let path = format!("<path d=\"{words}\" {look}/>\n");
            self.body.push_str(&path);
        }
    }

    /// A text whose base line begins, ends or has its middle at the point.
    pub(super) fn text(&mut self, at: (f64, f64), side: Side, look: &str, text: &str) {
        let anchor = match side {
            Side::Right => "start",
            Side::Left => "end",
            Side::Middle => "middle",
        };
        let element = format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\" {look}>{}</text>\n",
            number(at.0),
            number(at.1),
            safe(text),
        );
        self.body.push_str(&element);
    }

    /// Begins a group with these attributes.
    pub(super) fn begin(&mut self, look: &str) {
        let element = format!("<g {look}>\n");
        self.body.push_str(&element);
    }

    /// Ends the group that was begun last.
    pub(super) fn end(&mut self) {
        self.body.push_str("</g>\n");
    }

    /// The whole document, of this size, on a ground of its own: it reads the
    /// same in a viewer that is dark.
    pub(super) fn finish(self, width: f64, height: f64, title: &str) -> String {
        let (width, height) = (number(width), number(height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"{FONTS}\" \
             font-size=\"11\" fill=\"#1f2328\">\n<title>{}</title>\n<defs>\
             <pattern id=\"hatch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
             patternTransform=\"rotate(45)\"><rect width=\"6\" height=\"6\" fill=\"#ffe3e0\"/>\
             <rect width=\"2.5\" height=\"6\" fill=\"#cf222e\"/></pattern></defs>\n\
             <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#ffffff\"/>\n{}</svg>\n",
            safe(title),
            self.body,
        )
    }
}

/// How wide a text of this many columns will be at most, more or less.
pub(super) fn width_of(columns: usize, size: f64) -> f64 {
    columns as f64 * size * LETTER
}

/// A coordinate with one decimal; what is not a number is 0.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "0".to_owned();
    }
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0" } else { text }.to_owned()
}

/// The text as character data: on one line, nothing that steers a viewer,
/// nothing that is markup, and no character that XML has no place for.
fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('?'),
            c => out.push(c),
        }
    }
    out
}
