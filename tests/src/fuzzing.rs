//! The bodies of the fuzz targets: each takes any bytes and must return. What they check beyond
//! "no panic" is what the parser promises: limits kept, and what was accepted encodes again.
//! Shared by `tests/fuzz` (cargo-fuzz) and `tests/tests/fuzz_slice.rs` (stable toolchain).

mod export;
mod images;
mod medium;
mod ntfs;
mod rest;
mod trust;
mod volumes;
mod xfs;

use bytes::Bytes;
use strongroom_protocol::frame::{
    BULK_BYTES_MAX, Decoder, HEADER_BYTES_MAX, PREFIX_BYTES, decode, encode,
};
use strongroom_protocol::{Identity, NodeName, PackId, PointId};

pub use export::{export, overlay};
pub use images::{ext, fat, tables};
pub use medium::medium;
pub use ntfs::{ntfs, ntfs_image, ntfs_walked};
pub use rest::{config, manifest, pack, parcel, plaintext, record};
pub use trust::{der, token, typed};
pub use volumes::{Walked, pack_image};
pub use xfs::{xfs, xfs_image, xfs_walked};

use crate::samples::{Sampled, Visitor, visit_all};
use crate::seeded::Seeded;

/// One parser of outside bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Also the name of the cargo-fuzz target and of the corpus folder.
    pub name: &'static str,
    /// Whether any parser accepted the bytes.
    pub run: fn(&[u8]) -> bool,
    /// What it starts from besides its committed corpus.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target. A new parser of outside bytes gets a line here and a file in `tests/fuzz`.
pub const TARGETS: &[Target] = &[
    Target { name: "config", run: config, seeds: rest::config_seeds },
    Target { name: "der", run: der, seeds: trust::der_seeds },
    Target { name: "export", run: export, seeds: export::export_seeds },
    Target { name: "ext", run: ext, seeds: Vec::new },
    Target { name: "fat", run: fat, seeds: Vec::new },
    Target { name: "frame", run: frame, seeds },
    Target { name: "manifest", run: manifest, seeds: rest::manifest_seeds },
    Target { name: "medium", run: medium, seeds: medium::medium_seeds },
    Target { name: "message", run: message, seeds },
    Target { name: "names", run: names, seeds: Vec::new },
    Target { name: "ntfs", run: ntfs, seeds: volumes::seeds },
    Target { name: "overlay", run: overlay, seeds: export::overlay_seeds },
    Target { name: "pack", run: pack, seeds: rest::pack_seeds },
    Target { name: "parcel", run: parcel, seeds: rest::parcel_seeds },
    Target { name: "plaintext", run: plaintext, seeds: rest::plaintext_seeds },
    Target { name: "record", run: record, seeds: rest::record_seeds },
    Target { name: "tables", run: tables, seeds: Vec::new },
    Target { name: "token", run: token, seeds: trust::token_seeds },
    Target { name: "typed", run: typed, seeds: trust::typed_seeds },
    Target { name: "xfs", run: xfs, seeds: volumes::seeds },
];

/// Frames out of any bytes, fed in pieces whose length the first byte decides.
pub fn frame(bytes: &[u8]) -> bool {
    let Some((first, rest)) = bytes.split_first() else { return false };
    let mut decoder = Decoder::default();
    let mut frames_bytes = 0;
    for piece in rest.chunks(usize::from(*first).max(1)) {
        decoder.feed(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.header.len() <= HEADER_BYTES_MAX);
                    assert!(frame.bulk.len() <= BULK_BYTES_MAX);
                    frames_bytes += PREFIX_BYTES + frame.header.len() + frame.bulk.len();
                    message_of(&frame.header);
                }
                Ok(None) => break,
                Err(_) => return frames_bytes > 0,
            }
        }
    }
    assert!(frames_bytes <= rest.len(), "frames hold more than was fed");
    if decoder.finish().is_ok() {
        assert_eq!(frames_bytes, rest.len(), "bytes vanished in the decoder");
    }
    frames_bytes > 0
}

/// Every message type out of any bytes.
pub fn message(bytes: &[u8]) -> bool {
    message_of(bytes)
}

fn message_of(header: &[u8]) -> bool {
    let mut decode = Decode { header, accepted: false };
    visit_all(&mut decode);
    decode.accepted
}

struct Decode<'a> {
    header: &'a [u8],
    accepted: bool,
}

impl Visitor for Decode<'_> {
    fn visit<M: Sampled>(&mut self) {
        let Ok(value) = decode::<M>(self.header) else { return };
        self.accepted = true;
        let again = encode(&value, 0).unwrap_or_else(|error| {
            panic!("{} was accepted and does not encode: {error}", M::NAME);
        });
        let same = decode::<M>(&again[PREFIX_BYTES..]);
        assert_eq!(same.as_ref(), Ok(&value), "{} does not survive its encoding", M::NAME);
    }
}

/// Names and ids as text: what is accepted prints as it was read.
pub fn names(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let identity = text.parse::<Identity>();
    let name = text.parse::<NodeName>();
    let pack = text.parse::<PackId>();
    let point = text.parse::<PointId>();
    if let Ok(identity) = &identity {
        assert_eq!(identity.to_string(), text);
    }
    if let Ok(name) = &name {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(pack) = &pack {
        assert_eq!(pack.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(point) = &point {
        assert_eq!(point.to_string().parse::<PointId>(), Ok(*point));
    }
    identity.is_ok() || name.is_ok() || pack.is_ok() || point.is_ok()
}

/// The samples of every message, bare and framed.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut collect = Collect { found: Vec::new() };
    visit_all(&mut collect);
    collect.found
}

struct Collect {
    found: Vec<Vec<u8>>,
}

impl Visitor for Collect {
    fn visit<M: Sampled>(&mut self) {
        for framed in M::samples().iter().filter_map(|sample| encode(sample, 0).ok()) {
            self.found.push(framed[PREFIX_BYTES..].to_vec());
            self.found.push([&[255], &framed[..]].concat());
        }
    }
}

/// Changes bytes the way parsers are usually hurt: flips, cuts, repeats, extreme numbers.
pub fn mutate(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Seeded) {
    const EXTREMES: [&[u8]; 5] =
        [&[0xff; 4], &[0xff; 10], &[0x00; 8], &[0x80, 0x80, 0x80, 0x80, 0x0f], &[0x7f; 2]];
    for _ in 0..=chance.below(4) {
        let place = chance.below(bytes.len() + 1);
        match chance.below(7) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, chance.word() as u8),
            2 => {
                let extreme = EXTREMES[chance.below(EXTREMES.len())];
                bytes.splice(place..place, extreme.iter().copied());
            }
            3 => {
                let start = chance.below(other.len() + 1);
                let length = chance.below(other.len() - start + 1).min(64);
                bytes.splice(place..place, other[start..start + length].iter().copied());
            }
            4 => {
                let end = (place + chance.below(16)).min(bytes.len());
                bytes.drain(place..end);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << chance.below(8);
                }
            }
        }
    }
}
