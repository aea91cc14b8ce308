//! What fuzz targets of file systems share: small real images that are kept packed, changes of
//! them out of any bytes where structures lie, and a walk that looks at everything once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom_images::{FileSystem, Kind, NodeId, Volume, VolumeError, within};

use crate::seeded::Seeded;

const SECTOR: usize = 512;
/// Nodes that a walk looks at.
const NODES_MAX: usize = 150;
/// Names of one directory that are taken.
const NAMES_MAX: usize = 2000;
/// No input may keep a reader busy for longer, also on a loaded machine and without optimisation.
const TIME_MAX: Duration = Duration::from_secs(20);
/// Changes of one input.
const CHANGES_MAX: usize = 48;
/// Bytes that describe a change.
const CHANGE_BYTES: usize = 8;

type Sector = [u8; SECTOR];

/// A structure of an image, and what makes it whole again after a change.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub(super) at: u64,
    pub(super) length: usize,
    /// Makes checksums and the like right.
    pub(super) mend: fn(&mut [u8]),
}

/// An image, of which only sectors that are not zeros are kept.
pub(super) struct Base {
    bytes: u64,
    sectors: BTreeMap<u64, Sector>,
    pub(super) spots: Vec<Spot>,
    spot_bytes: u64,
}

/// Packs an image for `Base::unpack`.
///
/// # Errors
///
/// If the compression fails.
pub fn pack_image(image: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut plain = (image.len() as u64).to_le_bytes().to_vec();
    for (number, sector) in image.chunks_exact(SECTOR).enumerate() {
        if sector.iter().any(|byte| *byte != 0) {
            plain.extend_from_slice(&(number as u64).to_le_bytes());
            plain.extend_from_slice(sector);
        }
    }
    zstd::encode_all(&plain[..], 19)
}

impl Base {
    /// Unpacks an image and finds its structures.
    pub(super) fn unpack(packed: &[u8], find: fn(&Self) -> Vec<Spot>) -> Option<Self> {
        let plain = zstd::decode_all(packed).ok()?;
        let (bytes, rest) = plain.split_first_chunk::<8>()?;
        let mut sectors = BTreeMap::new();
        for record in rest.chunks_exact(8 + SECTOR) {
            let (number, sector) = record.split_first_chunk::<8>()?;
            sectors.insert(u64::from_le_bytes(*number), sector.try_into().ok()?);
        }
        let bytes = u64::from_le_bytes(*bytes);
        let mut base = Self { bytes, sectors, spots: Vec::new(), spot_bytes: 0 };
        base.spots = find(&base);
        base.spot_bytes = base.spots.iter().map(|spot| spot.length as u64).sum();
        Some(base)
    }

    /// Where sectors that are not zeros lie.
    pub(super) fn places(&self) -> impl Iterator<Item = u64> {
        self.sectors.keys().map(|number| number * SECTOR as u64)
    }

    /// Bytes of the image; zeros beyond its end.
    pub(super) fn take(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let _ = Changed { base: self, sectors: BTreeMap::new() }.fill(at, &mut bytes);
        bytes
    }

    /// The structure that a number chooses, and the offset in it.
    fn spot(&self, number: u64) -> Option<(Spot, usize)> {
        let mut left = number % self.spot_bytes.max(1);
        for spot in &self.spots {
            match usize::try_from(left) {
                Ok(offset) if offset < spot.length => return Some((*spot, offset)),
                _ => left -= spot.length as u64,
            }
        }
        None
    }

    /// The image with changes out of any bytes. A change has the place (four bytes), how (one),
    /// and a number (three); unless `how` says otherwise its structure is made whole again.
    pub(super) fn changed(&'static self, bytes: &[u8]) -> Arc<dyn Volume> {
        let mut volume = Changed { base: self, sectors: BTreeMap::new() };
        for change in bytes.chunks_exact(CHANGE_BYTES).take(CHANGES_MAX) {
            let [a, b, c, d, how, x, y, z] = *change else { continue };
            let Some((spot, offset)) = self.spot(u32::from_le_bytes([a, b, c, d]).into()) else {
                continue;
            };
            let mut block = vec![0; spot.length];
            if volume.fill(spot.at, &mut block).is_err() {
                continue;
            }
            apply(&mut block, offset, how & 0x7f, [x, y, z]);
            if how & 0x80 == 0 {
                (spot.mend)(&mut block);
            }
            volume.put(spot.at, &block);
        }
        Arc::new(volume)
    }
}

/// Changes one place of a structure.
fn apply(block: &mut [u8], offset: usize, how: u8, [x, y, z]: [u8; 3]) {
    let end = block.len();
    let from = usize::from(u16::from_le_bytes([x, y])) % end;
    let mut write = |bytes: &[u8]| {
        for (into, byte) in block.iter_mut().skip(offset).zip(bytes) {
            *into = *byte;
        }
    };
    match how % 10 {
        0 => write(&[x]),
        1 => write(&[x, y]),
        2 => write(&[0, 0, 0, x]),
        3 => write(&[x, 0, 0, 0]),
        4 => write(&[0xff; 8][..usize::from(x % 9)]),
        5 => write(&[0; 32][..usize::from(x % 33)]),
        6 => write(&[0, 0, 0, 0, 0, x, y, z]),
        7 => write(&[x, y, z, 0, 0, 0, 0, 0]),
        8 => {
            let length = usize::from(z).min(end - offset).min(end - from);
            block.copy_within(from..from + length, offset);
        }
        _ => block[offset] ^= 1 << (x & 7),
    }
}

/// An image with some sectors that are others.
struct Changed<'a> {
    base: &'a Base,
    sectors: BTreeMap<u64, Sector>,
}

impl Changed<'_> {
    fn fill(&self, at: u64, into: &mut [u8]) -> Result<(), VolumeError> {
        within(at, into.len() as u64, self.base.bytes)?;
        into.fill(0);
        let end = at + into.len() as u64;
        let first = at / SECTOR as u64;
        let last = end.div_ceil(SECTOR as u64);
        let both = self.base.sectors.range(first..last).chain(self.sectors.range(first..last));
        for (number, sector) in both {
            let start = number * SECTOR as u64;
            let from = at.max(start);
            let upto = end.min(start + SECTOR as u64);
            let piece = &sector[(from - start) as usize..(upto - start) as usize];
            into[(from - at) as usize..(upto - at) as usize].copy_from_slice(piece);
        }
        Ok(())
    }

    fn put(&mut self, at: u64, block: &[u8]) {
        let first = at / SECTOR as u64;
        let lead = (at % SECTOR as u64) as usize;
        let mut whole = vec![0; (lead + block.len()).next_multiple_of(SECTOR)];
        if self.fill(at - lead as u64, &mut whole).is_err() {
            return;
        }
        whole[lead..lead + block.len()].copy_from_slice(block);
        for (number, sector) in (first..).zip(whole.chunks_exact(SECTOR)) {
            if let Ok(sector) = sector.try_into() {
                self.sectors.insert(number, sector);
            }
        }
    }
}

impl Volume for Changed<'_> {
    fn bytes(&self) -> u64 {
        self.base.bytes
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), VolumeError> {
        self.fill(at, into)
    }
}

/// What a walk came by.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Walked {
    pub nodes: usize,
    pub names: usize,
    pub bytes: u64,
    pub problems: Vec<String>,
}

/// Looks at nodes as they are found, in everything that may be asked of them.
pub(super) fn walk(system: &dyn FileSystem) -> Walked {
    let started = Instant::now();
    let mut walked = Walked::default();
    let mut left = VecDeque::from([system.root()]);
    let mut seen = BTreeSet::new();
    let mut piece = vec![0; 70_000];
    while let Some(node) = left.pop_front() {
        if walked.nodes == NODES_MAX {
            break;
        }
        if !seen.insert(node) {
            continue;
        }
        walked.nodes += 1;
        look(system, node, &mut piece, &mut left, &mut walked);
        assert!(started.elapsed() < TIME_MAX, "a reader goes on and on at {node:?}");
    }
    walked
}

fn look(
    system: &dyn FileSystem,
    node: NodeId,
    piece: &mut [u8],
    left: &mut VecDeque<NodeId>,
    walked: &mut Walked,
) {
    let mut note = |problem: Option<strongroom_images::Problem>| {
        walked.problems.extend(problem.map(|problem| problem.to_string()));
    };
    note(system.extended(node).err());
    let attributes = match system.attributes(node) {
        Ok(attributes) => attributes,
        Err(problem) => return note(Some(problem)),
    };
    let size = attributes.size;
    for at in [0, size / 2, size.saturating_sub(10), size, size ^ 0x1_0001] {
        let asked = system.read(node, at, piece);
        match asked {
            Ok(length) => {
                assert!(length <= piece.len() && length as u64 <= size.saturating_sub(at));
                assert!(length > 0 || at >= size, "nothing read before the end");
                walked.bytes += length as u64;
            }
            Err(problem) if attributes.kind == Kind::File => note(Some(problem)),
            Err(_) => break,
        }
    }
    for at in [0, size / 3, size.saturating_sub(1)] {
        if let Ok(Some(range)) = system.data(node, at) {
            assert!(range.start >= at && range.start < range.end && range.end <= size);
        }
    }
    let target = system.target(node);
    if attributes.kind == Kind::Symlink {
        note(target.err());
    }
    let mut names = 0;
    let listed = system.list(node, &mut |named| {
        assert!(!matches!(named.name.as_slice(), b"" | b"." | b".."));
        assert!(!named.name.iter().any(|byte| matches!(byte, 0 | b'/')));
        left.push_back(named.node);
        names += 1;
        names < NAMES_MAX
    });
    if attributes.kind == Kind::Directory {
        note(listed.err());
    }
    // Whatever is read first is not all there is: directories before their many names.
    left.truncate(4 * NODES_MAX);
    walked.names += names;
}

/// Changes to begin with: none, and some by chance.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut chance = Seeded::new(7);
    let mut found = vec![Vec::new()];
    for count in [1, 1, 2, 2, 3, 4, 6, 10] {
        let words = std::iter::repeat_with(|| chance.word().to_le_bytes());
        found.push(words.take(count).flatten().collect());
    }
    found
}
