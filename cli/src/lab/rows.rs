//! What `try` measured, as the table a person reads at the end.

use std::time::Duration;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};

use crate::human;

/// One stage.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(crate) struct Row {
    pub(crate) stage: String,
    pub(crate) seconds: f64,
    /// Bytes of the source this stage covered.
    pub(crate) covered_bytes: Option<u64>,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) sent_bytes: Option<u64>,
    pub(crate) stored_bytes: Option<u64>,
    pub(crate) proof: String,
}

impl Row {
    pub(crate) fn new(stage: &str, took: Duration) -> Self {
        Self { stage: stage.to_owned(), seconds: took.as_secs_f64(), ..Self::default() }
    }

    fn rate(&self) -> String {
        match self.covered_bytes {
            Some(bytes) if self.seconds > 0.0 && bytes > 0 => {
                format!("{:.0} MB/s", bytes as f64 / self.seconds / 1e6)
            }
            _ => String::new(),
        }
    }
}

/// The table.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let head = ["stage", "time", "read", "sent", "stored", "of source", "proof"];
    table.set_header(head.map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    let bytes = |bytes: Option<u64>| bytes.map(human::bytes).unwrap_or_default();
    for row in rows {
        let proof = match row.proof.starts_with("DIFFERS") {
            true => Cell::new(&row.proof).fg(Color::Red),
            false => Cell::new(&row.proof).fg(Color::Green),
        };
        table.add_row(vec![
            Cell::new(&row.stage),
            right(seconds(row.seconds)),
            right(bytes(row.read_bytes)),
            right(bytes(row.sent_bytes)),
            right(bytes(row.stored_bytes)),
            right(row.rate()),
            proof,
        ]);
    }
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn seconds(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.2} s") } else { format!("{seconds:.1} s") }
}
