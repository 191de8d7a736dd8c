//! Aligned text tables with a tone per cell.

use std::io::{self, Write};

/// What a cell means; colours follow from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Broken.
    Bad,
    /// Of little weight.
    Dim,
    /// A heading.
    Bold,
}

impl Tone {
    /// The tone of a success rate: all, nearly all (99 %), or less.
    pub fn of_success(success: u64, failure: u64) -> Self {
        match (success, failure) {
            (0, 0) => Self::Dim,
            (_, 0) => Self::Good,
            (success, failure) if success >= failure.saturating_mul(99) => Self::Plain,
            (success, failure) if success >= failure.saturating_mul(9) => Self::Warn,
            _ => Self::Bad,
        }
    }

    /// The text in this tone for a terminal (ECMA-48 SGR), or as it is without colour.
    pub fn paint(self, text: &str, color: bool) -> String {
        let code = match self {
            Self::Plain => return text.into(),
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Dim => "2",
            Self::Bold => "1",
        };
        if color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.into()
        }
    }
}

/// One cell of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// What it means.
    pub tone: Tone,
    right: bool,
}

impl Cell {
    /// Text, aligned left.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone: Tone::Plain,
            right: false,
        }
    }

    /// A figure, aligned right.
    pub fn figure(text: impl Into<String>) -> Self {
        Self {
            right: true,
            ..Self::text(text)
        }
    }

    /// The same cell in another tone.
    pub fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

/// Rows below a header; a column is as wide as its widest cell and aligned as its cells.
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(header: Vec<&'static str>) -> Self {
        Self {
            header,
            rows: Vec::new(),
        }
    }

    /// Appends a row; it has one cell per column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.header.len());
        self.rows.push(cells);
    }

    /// Writes the table, header first.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, out: &mut impl Write, color: bool) -> io::Result<()> {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| width(&row[column].text));
                cells.max().unwrap_or(0).max(width(self.header[column]))
            })
            .collect();
        let header: Vec<Cell> = (0..self.header.len())
            .map(|column| Cell {
                text: self.header[column].into(),
                tone: Tone::Bold,
                right: self.rows.first().is_some_and(|row| row[column].right),
            })
            .collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            write_row(out, row, &widths, color)?;
        }
        Ok(())
    }
}

/// At most `width` characters; the middle makes room, since names differ at their ends.
pub fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.into();
    }
    let keep = width.saturating_sub(1);
    let (head, tail) = (keep.div_ceil(2), keep / 2);
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{start}…{end}")
}

fn write_row(out: &mut impl Write, row: &[Cell], widths: &[usize], color: bool) -> io::Result<()> {
    let last = row.len().saturating_sub(1);
    for (column, (cell, wide)) in row.iter().zip(widths).enumerate() {
        let gap = " ".repeat(wide.saturating_sub(width(&cell.text)));
        let text = cell.tone.paint(&cell.text, color);
        match (cell.right, column == last) {
            (true, _) => write!(out, "{gap}{text}")?,
            (false, false) => write!(out, "{text}{gap}")?,
            (false, true) => write!(out, "{text}")?,
        }
        out.write_all(if column == last { b"\n" } else { b"  " })?;
    }
    Ok(())
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(color: bool) -> String {
        let mut table = Table::new(vec!["NAME", "RPS", "SECURED"]);
        table.row(vec![
            Cell::text("deploy/web"),
            Cell::figure("1.2k"),
            Cell::text("yes").tone(Tone::Good),
        ]);
        table.row(vec![
            Cell::text("svc/a"),
            Cell::figure("4"),
            Cell::text("no").tone(Tone::Bad),
        ]);
        let mut out = Vec::new();
        table.write(&mut out, color).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        assert_eq!(
            written(false),
            "NAME         RPS  SECURED\n\
             deploy/web  1.2k  yes\n\
             svc/a          4  no\n"
        );
    }

    #[test]
    fn colour_does_not_move_columns() {
        let mut plain = written(true);
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, written(false));
        assert!(written(true).contains("\x1b[31mno\x1b[0m"));
    }

    #[test]
    fn both_ends_of_a_name_stay() {
        assert_eq!(shorten("catalog-slow", 12), "catalog-slow");
        assert_eq!(shorten("catalog-slow", 9), "cata…slow");
        assert_eq!(shorten("catalog", 1), "…");
    }

    proptest! {
        #[test]
        fn names_fit(text in "\\PC{0,40}", width in 1usize..50) {
            prop_assert!(shorten(&text, width).chars().count() <= width);
        }
    }

    #[test]
    fn success_tones() {
        assert_eq!(Tone::of_success(0, 0), Tone::Dim);
        assert_eq!(Tone::of_success(10, 0), Tone::Good);
        assert_eq!(Tone::of_success(995, 5), Tone::Plain);
        assert_eq!(Tone::of_success(95, 5), Tone::Warn);
        assert_eq!(Tone::of_success(1, 1), Tone::Bad);
    }
}
