//! Everything a command prints goes through here: answers to standard output, as text or as
//! JSON, remarks to standard error. A reader who went away ends the command quietly.

use std::io::{self, IsTerminal, Write};

use jiff::tz::TimeZone;
use serde::Serialize;
use strongroom_protocol::Timestamp;
use strongroom_protocol::admin::Response;

use crate::show;

/// Narrowest table that is still laid out for a terminal.
const WIDTH_MIN: u16 = 60;

/// For whom it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    /// For whoever asked on behalf of another command, which prints.
    Nobody,
    People,
}

/// How things look to the person who reads them.
#[derive(Debug, Clone)]
pub(crate) struct Face {
    pub(crate) now: Timestamp,
    pub(crate) zone: TimeZone,
    /// Columns of the terminal; none where nobody watches.
    pub(crate) width: Option<u16>,
}

/// Where a command prints.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    format: Format,
    face: Face,
}

impl Output {
    /// For standard output as it is.
    pub(crate) fn new(format: Format, now: Timestamp) -> Self {
        let watched = io::stdout().is_terminal();
        let columns = comfy_table::Table::new().width();
        let width = columns.filter(|columns| watched && *columns >= WIDTH_MIN);
        Self { format, face: Face { now, zone: TimeZone::system(), width } }
    }

    /// The same without answers; remarks are still made.
    pub(crate) fn without_answers(&self) -> Self {
        Self { format: Format::Nobody, face: self.face.clone() }
    }

    /// Whether machines read it.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// How things look.
    pub(crate) const fn face(&self) -> &Face {
        &self.face
    }

    /// A line, or several, of text.
    pub(crate) fn text(&self, text: &str) -> io::Result<()> {
        if self.format == Format::Nobody {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        match text.ends_with('\n') {
            true => Ok(()),
            false => out.write_all(b"\n"),
        }
    }

    /// One value, indented.
    pub(crate) fn json(&self, value: &impl Serialize) -> io::Result<()> {
        self.text(&serde_json::to_string_pretty(value)?)
    }

    /// One value of many, each on a line of its own.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> io::Result<()> {
        self.text(&serde_json::to_string(value)?)
    }

    /// The answer of a node.
    pub(crate) fn answer(&self, response: &Response) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(&bare(response)?),
            Format::Nobody => Ok(()),
            Format::People => self.text(&show::response(response, &self.face)),
        }
    }

    /// A value for machines, or its text for people.
    pub(crate) fn either(
        &self,
        value: &impl Serialize,
        text: impl FnOnce(&Face) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(value),
            Format::Nobody => Ok(()),
            Format::People => self.text(&text(&self.face)),
        }
    }

    /// A remark: never part of the answer.
    pub(crate) fn remark(&self, text: &str) {
        // Whoever closed standard error does not want to be told.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// What an answer says, without the name of its variant: `[..]` rather than `{"Points": [..]}`.
/// A bare sentence becomes `{"done": ..}`.
fn bare(response: &Response) -> serde_json::Result<serde_json::Value> {
    use serde_json::Value;
    Ok(match serde_json::to_value(response)? {
        Value::Object(fields) if fields.len() == 1 => match fields.into_iter().next() {
            Some((_, Value::String(text))) => serde_json::json!({ "done": text }),
            Some((_, value)) => value,
            None => Value::Null,
        },
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_lose_their_variant_and_nothing_else() {
        let points = Response::Points(vec![]);
        assert_eq!(bare(&points).unwrap(), serde_json::json!([]));
        let done = Response::Done("released".to_owned());
        assert_eq!(bare(&done).unwrap(), serde_json::json!({ "done": "released" }));
        let plan = Response::Plan { changes: vec!["a".to_owned()], warnings: vec![] };
        let expected = serde_json::json!({ "changes": ["a"], "warnings": [] });
        assert_eq!(bare(&plan).unwrap(), expected);
    }
}
