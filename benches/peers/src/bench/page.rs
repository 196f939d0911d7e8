//! Markdown tables that are readable as they are.

use std::fmt;

use crate::bench::sample::Spread;

/// A table: text to the left in the first column, figures to the right in the others.
pub struct Table {
    /// The head, then the rows, all of one length.
    rows: Vec<Vec<String>>,
    /// Whether all columns are text.
    all_left: bool,
}

impl Table {
    /// One with this head and no rows.
    pub fn new(head: impl IntoIterator<Item = String>) -> Table {
        Table {
            rows: vec![head.into_iter().collect()],
            all_left: false,
        }
    }

    /// One with this head, all columns of which are text.
    pub fn left(head: impl IntoIterator<Item = String>) -> Table {
        Table {
            all_left: true,
            ..Table::new(head)
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(
            cells.len(),
            self.rows[0].len(),
            "a row is as long as the head"
        );
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    _ if self.all_left => write!(out, "| {cell:<width$} ")?,
                    0 => write!(out, "| {cell:<width$} ")?,
                    _ => write!(out, "| {cell:>width$} ")?,
                }
            }
            writeln!(out, "|")?;
            if index == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width - 1);
                    let align = if column == 0 || self.all_left {
                        "-"
                    } else {
                        ":"
                    };
                    write!(out, "| {dashes}{align} ")?;
                }
                writeln!(out, "|")?;
            }
        }
        Ok(())
    }
}

/// A figure, if there is one.
pub fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

/// A ratio with its quartiles.
pub fn ratio(spread: Option<Spread>) -> String {
    let text = |spread: Spread| {
        let Spread { low, median, high } = spread;
        format!("{median:.2} ({low:.2}–{high:.2})")
    };
    spread.map_or("–".to_owned(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_markdown() {
        let mut table = Table::new(["server", "rate"].map(String::from));
        table.row(["ring", "12"].map(String::from));
        let text = "| server | rate |\n| ------ | ---: |\n| ring   |   12 |\n";
        assert_eq!(table.to_string(), text);
    }
}
