//! What is in the messages of a server: rows, and what it complains of.

use std::str::FromStr;

/// A complaint of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Told {
    /// Five letters and digits.
    pub(super) code: String,
    /// Its message, and its detail where it has one.
    pub(super) text: String,
}

impl Told {
    /// From the body of an error or a notice.
    pub(super) fn read(body: &[u8]) -> Self {
        let mut told = Self { code: String::new(), text: String::new() };
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, said)) = field.split_first() else { continue };
            let said = String::from_utf8_lossy(said);
            match kind {
                b'C' => told.code = said.into_owned(),
                b'M' => told.text = said.into_owned(),
                b'D' => told.text = format!("{} ({said})", told.text),
                _ => {}
            }
        }
        told
    }
}

/// A row of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Row(Vec<Option<Vec<u8>>>);

impl Row {
    /// From the body of a message; none where it is no row.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let (count, mut rest) = body.split_at_checked(2)?;
        let count = u16::from_be_bytes(count.try_into().ok()?);
        let mut columns = Vec::new();
        for _ in 0..count {
            let (length, after) = rest.split_at_checked(4)?;
            rest = after;
            // Without a value, its length is -1.
            let Ok(length) = usize::try_from(i32::from_be_bytes(length.try_into().ok()?)) else {
                columns.push(None);
                continue;
            };
            let (value, after) = rest.split_at_checked(length)?;
            columns.push(Some(value.to_vec()));
            rest = after;
        }
        rest.is_empty().then_some(Self(columns))
    }

    /// The bytes of a column, if it has a value.
    pub(super) fn bytes(&self, at: usize) -> Option<&[u8]> {
        self.0.get(at)?.as_deref()
    }

    /// A column, understood.
    pub(super) fn value<T: FromStr>(&self, at: usize) -> Option<T> {
        std::str::from_utf8(self.bytes(at)?).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_or_none() {
        let body = [&[0, 2][..], &[0, 0, 0, 2], b"42", &[255; 4]].concat();
        let row = Row::read(&body).unwrap();
        assert_eq!((row.value::<u32>(0), row.value::<u32>(1)), (Some(42), None));
        assert_eq!(row.bytes(2), None);
        for end in 0..body.len() {
            assert_eq!(Row::read(&body[..end]), None, "{end}");
        }
        assert_eq!(Row::read(&[&body[..], b"x"].concat()), None);
    }

    #[test]
    fn a_complaint_has_a_code_and_a_text() {
        let told = Told::read(b"SFATAL\0C28P01\0Mno\0Dbecause\0\0");
        assert_eq!((told.code.as_str(), told.text.as_str()), ("28P01", "no (because)"));
        assert_eq!(Told::read(b"").text, "");
    }
}
