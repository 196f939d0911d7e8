//! The page that the report is written on: lines that never grow too wide.
#![forbid(unsafe_code)]

use super::words::{WIDTH, columns, exact, fit, left, wrap};

/// The most rows that a table or list has.
pub(super) const ROWS: usize = 16;

/// The most lines for one error or one list of counters.
const LINES: usize = 4;

/// The width of the words at the left that say what a line is about.
const LABEL_WIDTH: usize = 10;

/// The text as it grows. All lines pass [`Page::line`], which keeps the width.
#[derive(Default)]
pub(super) struct Page {
    /// Whole lines, none of them wider than [`WIDTH`].
    text: String,
}

impl Page {
    /// All that was written, without a line break at its end.
    pub(super) fn written(&self) -> &str {
        self.text.trim_end()
    }

    /// A line as it is, cut at the right if it is too wide.
    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(fit(line, WIDTH).trim_end());
        self.text.push('\n');
    }

    /// An empty line, and then these; nothing if there is none.
    pub(super) fn block(&mut self, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        self.text.push('\n');
        for line in lines {
            self.line(line);
        }
    }

    /// A text beside a label, wrapped at the right and indented at the left.
    pub(super) fn labelled(&mut self, label: &str, text: &str) {
        self.beside(&left(label, LABEL_WIDTH), text);
    }

    /// A text wrapped at the right of how its first line begins.
    pub(super) fn beside(&mut self, begin: &str, text: &str) {
        let indent = columns(begin);
        let mut begin = begin.to_owned();
        for line in wrap(text, WIDTH - indent, LINES) {
            self.line(&format!("{begin}{line}"));
            begin = " ".repeat(indent);
        }
    }

    /// A text on lines of its own; nothing if it is empty.
    pub(super) fn indented(&mut self, indent: usize, text: &str) {
        if !text.is_empty() {
            self.beside(&" ".repeat(indent), text);
        }
    }

    /// Texts below each other, with one label for all.
    pub(super) fn list(&mut self, label: &str, texts: &[String]) {
        let mut label = label;
        for text in texts.iter().take(ROWS) {
            self.labelled(label, text);
            label = "";
        }
        let more = texts.len().saturating_sub(ROWS);
        if more > 0 {
            self.labelled("", &format!("… {} more", exact(more as u128)));
        }
    }

    /// Says how many rows a table or list lacks, if it does.
    pub(super) fn left_out(&mut self, more: usize, words: &str) {
        if more > 0 {
            self.line(&format!("… {} more {words}", exact(more as u128)));
        }
    }
}
