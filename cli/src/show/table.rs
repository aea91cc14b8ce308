//! Tables without lines around them: a heading, rows, numbers to the right. As wide as the
//! terminal at most; as wide as needed where nobody watches.

use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets,
};

use crate::human;
use crate::output::Face;

/// Sentences are not squeezed below this, in columns of the terminal: a long word fits.
const FLOW_COLUMNS_MIN: u16 = 26;

/// To which side a column leans.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// To the left, and broken into lines where the terminal is narrow.
    Flow,
    Left,
    Right,
}

/// A table being filled.
pub(crate) struct Sheet {
    table: Table,
    aligns: Vec<Align>,
    empty: &'static str,
}

impl Sheet {
    /// With these columns; `empty` is what is said instead of a table without rows.
    pub(crate) fn new(columns: &[(&str, Align)], empty: &'static str, face: &Face) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        match face.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width)
            }
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        let aligns: Vec<Align> = columns.iter().map(|(_, align)| *align).collect();
        let heads = columns.iter().map(|(head, _)| (*head).to_owned());
        table.set_header(heads.zip(&aligns).map(|(head, align)| cell(head, *align)));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table, aligns, empty }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|text| human::text(&text));
        self.table.add_row(cells.zip(&self.aligns).map(|(text, align)| cell(text, *align)));
    }

    /// The table as text, without blanks at the ends of lines.
    pub(crate) fn finish(mut self) -> String {
        if self.table.row_count() == 0 {
            return format!("{}\n", self.empty);
        }
        self.hold_together();
        let mut text = String::new();
        for line in self.table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Names and numbers are copied from here: only sentences are broken.
    fn hold_together(&mut self) {
        let widths = self.table.column_max_content_widths();
        let columns = self.table.column_iter_mut().zip(&self.aligns).zip(widths);
        for ((column, align), width) in columns {
            column.set_constraint(match align {
                Align::Flow => {
                    // Two more for the padding.
                    let least = width.min(FLOW_COLUMNS_MIN).saturating_add(2);
                    ColumnConstraint::LowerBoundary(Width::Fixed(least))
                }
                Align::Left | Align::Right => ColumnConstraint::ContentWidth,
            });
        }
    }
}

fn cell(text: String, align: Align) -> Cell {
    Cell::new(text).set_alignment(match align {
        Align::Flow | Align::Left => CellAlignment::Left,
        Align::Right => CellAlignment::Right,
    })
}
