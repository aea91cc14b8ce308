//! Sense data, the reason a SCSI device gives: both formats, decoded into fields and words.
//! Promises numbers for everything and words for what tape libraries commonly say. Refuses
//! nothing: what is too short to be sense is sense of key 0.

use std::fmt;

/// Why a command did not simply go well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sense {
    pub key: u8,
    /// The additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
    pub filemark: bool,
    /// Early warning or the end itself.
    pub end_of_medium: bool,
    /// The block has another length than was asked for.
    pub wrong_length: bool,
    /// What was asked for minus what was there, where the device says it is valid.
    pub information: Option<i64>,
    /// It is about an earlier command, one that was answered before it was done.
    pub deferred: bool,
}

/// Sense keys that are decided on.
pub(super) mod key {
    pub(crate) const NO_SENSE: u8 = 0x0;
    pub(crate) const RECOVERED: u8 = 0x1;
    pub(crate) const NOT_READY: u8 = 0x2;
    pub(crate) const MEDIUM_ERROR: u8 = 0x3;
    pub(crate) const ILLEGAL_REQUEST: u8 = 0x5;
    pub(crate) const UNIT_ATTENTION: u8 = 0x6;
    pub(crate) const DATA_PROTECT: u8 = 0x7;
    pub(crate) const BLANK_CHECK: u8 = 0x8;
    pub(crate) const VOLUME_OVERFLOW: u8 = 0xd;
}

const KEYS: [&str; 16] = [
    "no sense",
    "recovered error",
    "not ready",
    "medium error",
    "hardware error",
    "illegal request",
    "unit attention",
    "data protect",
    "blank check",
    "vendor specific",
    "copy aborted",
    "aborted command",
    "equal",
    "volume overflow",
    "miscompare",
    "completed",
];

/// Code, qualifier and what they mean.
const WORDS: &[(u8, u8, &str)] = &[
    (0x00, 0x01, "filemark met"),
    (0x00, 0x02, "end of medium met"),
    (0x00, 0x04, "beginning of medium met"),
    (0x00, 0x05, "end of data met"),
    (0x03, 0x02, "too much current for writing"),
    (0x04, 0x00, "not ready"),
    (0x04, 0x01, "becoming ready"),
    (0x04, 0x02, "to be loaded first"),
    (0x04, 0x03, "somebody must act at the device"),
    (0x04, 0x12, "offline"),
    (0x09, 0x00, "cannot follow the track"),
    (0x0c, 0x00, "cannot write"),
    (0x11, 0x00, "cannot read"),
    (0x14, 0x00, "what was looked for is not there"),
    (0x14, 0x03, "no end of data found"),
    (0x15, 0x01, "a mechanical part is not where it should be"),
    (0x1a, 0x00, "parameter list of a wrong length"),
    (0x20, 0x00, "no such command"),
    (0x21, 0x01, "no such element"),
    (0x24, 0x00, "a field of the command is not understood"),
    (0x25, 0x00, "no such logical unit"),
    (0x26, 0x00, "a parameter is not understood"),
    (0x27, 0x00, "write-protected"),
    (0x28, 0x00, "the medium may have changed"),
    (0x28, 0x01, "a mail slot was opened"),
    (0x29, 0x00, "switched on or reset"),
    (0x2a, 0x01, "mode parameters changed"),
    (0x30, 0x00, "this medium cannot be used"),
    (0x30, 0x03, "a cleaning cartridge is in"),
    (0x30, 0x07, "cleaning failed"),
    (0x31, 0x00, "the format of the medium is damaged"),
    (0x3a, 0x00, "no medium"),
    (0x3b, 0x00, "positioning failed"),
    (0x3b, 0x0d, "the place the cartridge should go to is full"),
    (0x3b, 0x0e, "the place the cartridge should come from is empty"),
    (0x3b, 0x11, "a magazine is missing"),
    (0x3f, 0x0e, "logical units changed"),
    (0x44, 0x00, "a fault inside the device"),
    (0x51, 0x00, "erasing failed"),
    (0x52, 0x00, "the cartridge is faulty"),
    (0x53, 0x00, "loading or ejecting failed"),
    (0x53, 0x02, "the cartridge is locked in"),
    (0x5a, 0x01, "an operator asks for the cartridge"),
    (0x83, 0x00, "the barcode cannot be read"),
];

const DESCRIPTOR_HEAD_BYTES: usize = 8;

impl Sense {
    /// From the bytes a device sent.
    pub fn parse(bytes: &[u8]) -> Self {
        match bytes.first().map(|first| first & 0x7f) {
            Some(0x70 | 0x71) => Self::fixed(bytes),
            Some(0x72 | 0x73) => Self::descriptors(bytes),
            _ => Self::default(),
        }
    }

    fn fixed(bytes: &[u8]) -> Self {
        let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
        let information = i32::from_be_bytes([at(3), at(4), at(5), at(6)]);
        let valid = at(0) & 0x80 != 0;
        let (code, qualifier) = (at(12), at(13));
        let information = valid.then_some(i64::from(information));
        let deferred = at(0) & 0x7f == 0x71;
        Self { key: at(2) & 0xf, code, qualifier, information, deferred, ..Self::default() }
            .with_flags(at(2))
    }

    fn descriptors(bytes: &[u8]) -> Self {
        let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
        let deferred = at(0) & 0x7f == 0x73;
        let mut sense =
            Self { key: at(1) & 0xf, code: at(2), qualifier: at(3), deferred, ..Self::default() };
        let mut rest = bytes.get(DESCRIPTOR_HEAD_BYTES..).unwrap_or_default();
        while let [kind, length, ..] = *rest {
            let end = (2 + usize::from(length)).min(rest.len());
            let one = &rest[..end];
            match kind {
                0x00 if one.get(2).is_some_and(|valid| valid & 0x80 != 0) => {
                    let number = one.get(4..12).and_then(<[u8]>::first_chunk::<8>);
                    sense.information = number.map(|number| i64::from_be_bytes(*number));
                }
                0x04 => sense = sense.with_flags(one.get(3).copied().unwrap_or(0)),
                _ => {}
            }
            rest = &rest[end..];
        }
        sense
    }

    const fn with_flags(self, flags: u8) -> Self {
        let filemark = flags & 0x80 != 0;
        let end_of_medium = flags & 0x40 != 0;
        Self { filemark, end_of_medium, wrong_length: flags & 0x20 != 0, ..self }
    }

    /// Whether this is the given code and qualifier.
    pub const fn is(&self, code: u8, qualifier: u8) -> bool {
        self.code == code && self.qualifier == qualifier
    }

    /// Whether the device does not know the command, or a field of it.
    pub(super) const fn is_unsupported(&self) -> bool {
        self.key == key::ILLEGAL_REQUEST && matches!(self.code, 0x20 | 0x24 | 0x26)
    }

    /// Whether data ended here.
    pub(super) const fn is_end_of_data(&self) -> bool {
        self.key == key::BLANK_CHECK || self.is(0x00, 0x05)
    }

    /// Whether there is nothing the caller must know.
    pub(super) const fn is_harmless(&self) -> bool {
        // Quirk: tgt ends the data with the code alone, under the key of no sense.
        let told = self.filemark || self.end_of_medium || self.wrong_length;
        let quiet = !told && !self.deferred && !self.is_end_of_data();
        matches!(self.key, key::NO_SENSE | key::RECOVERED) && quiet
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, code, qualifier, .. } = self;
        let deferred = if self.deferred { " of an earlier command" } else { "" };
        let name = KEYS.get(usize::from(*key)).copied().unwrap_or("no such key");
        write!(f, "{name}{deferred} ({key:x}/{code:02x}/{qualifier:02x}")?;
        let words = WORDS.iter().find(|(c, q, _)| c == code && q == qualifier);
        match words {
            Some((_, _, words)) => write!(f, ": {words})"),
            None => f.write_str(")"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let fixed = [0xf0, 0, 0x20, 0xff, 0xff, 0xff, 0x00, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let told = Sense::parse(&fixed);
        assert!(told.wrong_length && !told.filemark && !told.end_of_medium);
        assert_eq!((told.key, told.information), (0, Some(-256)));
        let mut described = vec![0x72, 0, 0, 0, 0, 0, 0, 16];
        described.extend([0x00, 0x0a, 0x80, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
        described.extend([0x04, 0x02, 0, 0x20]);
        assert_eq!(Sense::parse(&described), told);
    }

    #[test]
    fn words_and_numbers_are_printed() {
        let sense = Sense::parse(&[0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x28, 0]);
        assert_eq!(sense.to_string(), "unit attention (6/28/00: the medium may have changed)");
        let late = Sense::parse(&[0x71, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x0c, 0]);
        assert_eq!(late.to_string(), "medium error of an earlier command (3/0c/00: cannot write)");
        let odd = Sense::parse(&[0x70, 0, 4, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x40, 0x80]);
        assert_eq!(odd.to_string(), "hardware error (4/40/80)");
    }

    #[test]
    fn cut_and_strange_sense_is_read_without_a_panic() {
        for first in [0x70, 0x72, 0xf3, 0x7f, 0x00] {
            for length in 0..24 {
                let mut bytes = vec![0x04; length];
                if let Some(byte) = bytes.first_mut() {
                    *byte = first;
                }
                assert!(Sense::parse(&bytes).key <= 0xf);
            }
        }
    }
}
