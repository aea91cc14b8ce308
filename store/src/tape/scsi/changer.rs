//! The commands of a media changer and its map of elements. Promises to read the map as
//! devices really send it, also when its last element is cut. Refuses to make up a barcode
//! that cannot be read.

use crate::tape::Barcode;
use crate::tape::scsi::Data;
use crate::tape::scsi::unit::{Command, LONG, ScsiError, Unit};

/// Room for the elements of one kind: some thousand of them.
const STATUS_BYTES: usize = 512 << 10;
const HEAD_BYTES: usize = 8;
const VOLUME_TAG_BYTES: usize = 36;
/// What every element descriptor begins with.
const FIXED_BYTES: usize = 12;
/// How the label of a cartridge that cleans begins.
const CLEANING: &str = "CLN";

/// What an element of a library is for. The numbers are those of the standard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ElementKind {
    /// The arm.
    Transport = 1,
    /// A slot.
    Storage = 2,
    /// A mail slot, through which cartridges come and go.
    ImportExport = 3,
    /// A drive.
    DataTransfer = 4,
}

/// One place in a library.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Element {
    pub kind: ElementKind,
    pub address: u16,
    pub full: bool,
    /// As the reader read it; none where it could not.
    pub barcode: Option<Barcode>,
    /// The element the cartridge came from last, where the library remembers.
    pub source: Option<u16>,
    /// Code and qualifier of what is wrong with the element.
    pub trouble: Option<(u8, u8)>,
    /// The identifier of the drive in it.
    pub device: Vec<u8>,
}

impl Element {
    /// Whether the cartridge in it is for cleaning drives.
    pub fn is_cleaning(&self) -> bool {
        self.barcode.as_ref().is_some_and(is_cleaning)
    }
}

/// Whether a cartridge of this barcode is for cleaning drives, never for data.
pub(super) fn is_cleaning(barcode: &Barcode) -> bool {
    barcode.as_str().starts_with(CLEANING)
}

/// Has the library look at its elements again.
pub(super) fn initialize(unit: &mut Unit) -> Result<(), ScsiError> {
    let cdb = [0x07, 0, 0, 0, 0, 0];
    let command = Command { name: "INITIALIZE ELEMENT STATUS", cdb: &cdb, patience: LONG };
    unit.ask(command, Data::Nothing).map(drop)
}

/// Moves a cartridge with the given arm.
pub(super) fn move_medium(unit: &mut Unit, arm: u16, from: u16, to: u16) -> Result<(), ScsiError> {
    let [a, b, c] = [arm, from, to].map(u16::to_be_bytes);
    let cdb = [0xa5, 0, a[0], a[1], b[0], b[1], c[0], c[1], 0, 0, 0, 0];
    let command = Command { name: "MOVE MEDIUM", cdb: &cdb, patience: LONG };
    unit.ask(command, Data::Nothing).map(drop)
}

/// Every element of a kind. One kind is asked for at a time: tgt counts the bytes of several
/// kinds wrongly.
pub(super) fn elements(unit: &mut Unit, kind: ElementKind) -> Result<Vec<Element>, ScsiError> {
    // Only drives have identifiers; some libraries refuse to be asked for them.
    if kind == ElementKind::DataTransfer {
        match status(unit, kind, 1) {
            Err(error) if error.sense().is_some_and(super::Sense::is_unsupported) => {}
            other => return other,
        }
    }
    status(unit, kind, 0)
}

fn status(unit: &mut Unit, kind: ElementKind, device: u8) -> Result<Vec<Element>, ScsiError> {
    let mut buffer = vec![0; STATUS_BYTES];
    let [_, a, b, c] = (STATUS_BYTES as u32).to_be_bytes();
    let cdb = [0xb8, 0x10 | kind as u8, 0, 0, 0xff, 0xff, device, a, b, c, 0, 0];
    let command = Command { name: "READ ELEMENT STATUS", cdb: &cdb, patience: LONG };
    let length = unit.ask(command, Data::In(&mut buffer))?;
    let bytes = buffer.get(..length).unwrap_or(&buffer);
    parse(bytes, kind).ok_or_else(|| unit.unusable("READ ELEMENT STATUS gave no element pages"))
}

/// The elements in an answer. tgt counts its pages 8 bytes short, so that the last element
/// lacks its end: what is missing of an element reads as zeros.
fn parse(bytes: &[u8], kind: ElementKind) -> Option<Vec<Element>> {
    let count = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    let mut rest = bytes.get(HEAD_BYTES..)?;
    let mut found = Vec::new();
    while found.len() < count && rest.len() > HEAD_BYTES {
        let (head, after) = rest.split_at(HEAD_BYTES);
        let size = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if size < FIXED_BYTES {
            return None;
        }
        let told = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let page = &after[..told.min(after.len())];
        if head[0] == kind as u8 {
            let wanted = count - found.len();
            found.extend(page.chunks(size).take(wanted).map(|one| element(one, size, head[1])));
        }
        rest = &after[page.len()..];
    }
    let kind_of = |element: Descriptor| element.into_element(kind);
    Some(found.into_iter().map(kind_of).collect())
}

struct Descriptor {
    bytes: Vec<u8>,
    tags: u8,
}

fn element(bytes: &[u8], size: usize, tags: u8) -> Descriptor {
    let mut bytes = bytes.to_vec();
    bytes.resize(size.max(bytes.len()), 0);
    Descriptor { bytes, tags }
}

impl Descriptor {
    fn into_element(self, kind: ElementKind) -> Element {
        let Self { bytes, tags } = self;
        let flags = bytes[2];
        let tagged = tags & 0x80 != 0;
        let tag = bytes.get(FIXED_BYTES..FIXED_BYTES + 32).filter(|_| tagged);
        let full = flags & 0x01 != 0;
        let barcode = tag.and_then(|tag| {
            let text = String::from_utf8_lossy(tag);
            text.trim_matches([' ', '\0']).parse().ok()
        });
        let volume_tags = [0x80, 0x40].iter().filter(|bit| tags & **bit != 0).count();
        let behind = FIXED_BYTES + volume_tags * VOLUME_TAG_BYTES;
        let device = bytes.get(behind..).and_then(|rest| {
            let length = usize::from(*rest.get(3)?);
            rest.get(4..(4 + length).min(rest.len()))
        });
        let source = u16::from_be_bytes([bytes[10], bytes[11]]);
        Element {
            kind,
            address: u16::from_be_bytes([bytes[0], bytes[1]]),
            full,
            barcode: barcode.filter(|_| full),
            source: (bytes[9] & 0x80 != 0).then_some(source),
            trouble: (flags & 0x04 != 0).then_some((bytes[4], bytes[5])),
            device: device.unwrap_or_default().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(address: u16, tag: &str) -> Vec<u8> {
        let mut bytes = vec![0; 52];
        bytes[..2].copy_from_slice(&address.to_be_bytes());
        bytes[2] = 1;
        (bytes[9], bytes[11]) = (0x80, 7);
        bytes[12..44].fill(b' ');
        bytes[12..12 + tag.len()].copy_from_slice(tag.as_bytes());
        bytes
    }

    fn answer(elements: &[Vec<u8>]) -> Vec<u8> {
        let page: Vec<u8> = elements.concat();
        let [_, a, b, c] = u32::try_from(page.len()).unwrap().to_be_bytes();
        let count = u8::try_from(elements.len()).unwrap();
        let mut bytes = vec![0, 0, 0, count, 0, a, b, c];
        bytes.extend([2, 0x80, 0, 52, 0, a, b, c]);
        bytes.extend(page);
        bytes
    }

    #[test]
    fn a_map_is_read_also_when_its_end_is_cut() {
        let bytes = answer(&[one(1000, "VT0001L6"), one(1001, "CLN001L1")]);
        for length in [bytes.len(), bytes.len() - 8, bytes.len() - 32] {
            let found = parse(&bytes[..length], ElementKind::Storage).unwrap();
            assert_eq!(found.len(), 2, "{length} bytes");
            assert_eq!(found[0].barcode.as_ref().unwrap().as_str(), "VT0001L6");
            assert_eq!((found[1].address, found[1].source), (1001, Some(7)));
            assert!(found[1].is_cleaning() && !found[0].is_cleaning());
        }
    }

    #[test]
    fn an_unreadable_barcode_is_none_and_a_hostile_map_no_panic() {
        let bytes = answer(&[one(1, "no label"), one(2, "")]);
        let found = parse(&bytes, ElementKind::Storage).unwrap();
        assert!(found.iter().all(|element| element.full && element.barcode.is_none()));
        for at in 0..bytes.len() {
            for value in [0, 0x7f, 0xff] {
                let mut bad = bytes.clone();
                bad[at] = value;
                for length in 0..bad.len() {
                    let found = parse(&bad[..length], ElementKind::Storage);
                    assert!(found.is_none_or(|found| found.len() <= 65_535));
                }
            }
        }
    }
}
