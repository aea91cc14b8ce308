//! Fuzz targets for what lies inside disk images: partition tables and file systems. A file system
//! is walked as far as a bound goes: every call must return, and give no more than it was asked.
//!
//! An image is mostly zeros. So bytes are a [`Sparse`] one: how many sectors it has (32 bits,
//! little endian), then runs of sectors: the first (32 bits), how many (16 bits), and what is in
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;

use strongroom_images::probe::{Found, probe};
use strongroom_images::{
    Ext, Fat, FileSystem, Kind, NodeId, Problem, Volume, VolumeError, table, within,
};

/// Nodes that are looked at.
const NODES_MAX: usize = 64;
/// Names taken of one directory.
const NAMES_MAX: usize = 64;
const READ_BYTES: usize = 8 << 10;
const SECTOR_BYTES: usize = 512;

/// An image of which most is zeros.
pub(super) struct Sparse {
    bytes: u64,
    /// By the first byte of each run.
    runs: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    /// Any bytes are some image; the last run may be shorter than it says.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let number = |at: usize, count: usize| {
            let part = bytes.get(at..).unwrap_or_default().iter().take(count);
            part.rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let (mut at, mut runs) = (4, BTreeMap::new());
        while at + 6 < bytes.len() {
            let (first, count) = (number(at, 4), number(at + 4, 2) as usize);
            let data = bytes.get(at + 6..).unwrap_or_default();
            let data = data.get(..count * SECTOR_BYTES).unwrap_or(data);
            runs.insert(first * SECTOR_BYTES as u64, data.to_vec());
            at += 6 + data.len();
        }
        Self { bytes: number(0, 4) * SECTOR_BYTES as u64, runs }
    }
}

impl Volume for Sparse {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), VolumeError> {
        within(at, into.len() as u64, self.bytes)?;
        let to = at + into.len() as u64;
        into.fill(0);
        for (first, data) in self.runs.range(..to) {
            let (from, end) = (at.max(*first), to.min(first + data.len() as u64));
            if from >= end {
                continue;
            }
            let source = &data[(from - first) as usize..(end - first) as usize];
            into[(from - at) as usize..(end - at) as usize].copy_from_slice(source);
        }
        Ok(())
    }
}

/// Partition tables out of any bytes, and what lies in each partition.
pub fn tables(bytes: &[u8]) -> bool {
    let disk: Arc<dyn Volume> = Arc::new(Sparse::new(bytes));
    let is_bare = || matches!(probe(&disk), Ok(Found::System(_)));
    let Ok(table) = table::read(&*disk, &is_bare) else { return false };
    for slot in table.slots.iter().filter(|slot| slot.fault.is_none()) {
        let end = slot.first.checked_add(slot.bytes);
        assert!(end.is_some_and(|end| end <= disk.bytes()), "a partition leads out of its disk");
    }
    table.slots.len() > 1
}

/// ext4 out of any bytes.
pub fn ext(bytes: &[u8]) -> bool {
    walked(Ext::open(Arc::new(Sparse::new(bytes))))
}

/// FAT out of any bytes.
pub fn fat(bytes: &[u8]) -> bool {
    walked(Fat::open(Arc::new(Sparse::new(bytes))))
}

/// Asks everything of what can be reached from the top.
pub(super) fn walked<F: FileSystem>(opened: Result<F, Problem>) -> bool {
    let Ok(system) = opened else { return false };
    let (mut waiting, mut seen) = (vec![system.root()], 0);
    let _ = (system.name(), system.label(), system.warnings());
    while let Some(node) = waiting.pop() {
        seen += 1;
        if seen > NODES_MAX {
            break;
        }
        look(&system, node, &mut waiting);
    }
    seen > 1
}

fn look(system: &dyn FileSystem, node: NodeId, waiting: &mut Vec<NodeId>) {
    let Ok(attributes) = system.attributes(node) else { return };
    // Problems are answers.
    let _ = system.extended(node);
    match attributes.kind {
        Kind::Directory => {
            let mut names = 0;
            let _ = system.list(node, &mut |named| {
                let name = &named.name;
                assert!(!matches!(name.as_slice(), b"" | b"." | b".."));
                assert!(!name.iter().any(|byte| matches!(byte, b'/' | 0)));
                waiting.push(named.node);
                names += 1;
                names < NAMES_MAX
            });
            assert!(names <= NAMES_MAX, "a list went on after it was enough");
        }
        Kind::Symlink => drop(system.target(node)),
        _ => {
            let mut into = vec![0; READ_BYTES];
            for at in [0, attributes.size / 2, attributes.size.saturating_sub(1), u64::MAX] {
                if let Ok(read) = system.read(node, at, &mut into) {
                    assert!(read as u64 <= attributes.size.saturating_sub(at));
                }
                if let Ok(Some(range)) = system.data(node, at) {
                    assert!(range.start >= at && range.start < range.end);
                    assert!(range.end <= attributes.size);
                }
            }
        }
    }
}
