//! The table of clusters: which follows which.

use crate::bytes::{u16_at, u32_at};
use crate::system::Problem;
use crate::volume::Volume;

/// How many bits an entry has: decided by how many clusters there are, and by nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    Bits12,
    Bits16,
    Bits32,
}

impl Width {
    /// Only FAT32 has its directory at the top in clusters.
    pub(super) const fn of(clusters: u64, root_bytes: u64) -> Self {
        match clusters {
            _ if root_bytes == 0 => Self::Bits32,
            0..4085 => Self::Bits12,
            _ => Self::Bits16,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bits12 => "fat12",
            Self::Bits16 => "fat16",
            Self::Bits32 => "fat32",
        }
    }
}

pub(super) struct Allocation {
    width: Width,
    at: u64,
    bytes: u64,
    clusters: u32,
}

impl Allocation {
    pub(super) const fn new(width: Width, at: u64, bytes: u64, clusters: u32) -> Self {
        Self { width, at, bytes, clusters }
    }

    pub(super) const fn width(&self) -> Width {
        self.width
    }

    pub(super) const fn clusters(&self) -> u32 {
        self.clusters
    }

    /// Whether there is such a cluster.
    pub(super) const fn holds(&self, cluster: u32) -> bool {
        cluster >= 2 && cluster - 2 < self.clusters
    }

    /// The cluster after this one; none where a chain ends.
    pub(super) fn next(&self, volume: &dyn Volume, cluster: u32) -> Result<Option<u32>, Problem> {
        if !self.holds(cluster) {
            let why = format!("cluster {cluster} is none of its clusters");
            return Err(Problem::Damaged { what: "a chain of clusters", at: self.at, why });
        }
        let entry = self.entry(volume, cluster)?;
        let (bad, end) = match self.width {
            Width::Bits12 => (0xff7, 0xff8),
            Width::Bits16 => (0xfff7, 0xfff8),
            Width::Bits32 => (0x0fff_fff7, 0x0fff_fff8),
        };
        match entry {
            entry if entry >= end => Ok(None),
            entry if entry == bad || entry < 2 => {
                let why = format!("after cluster {cluster} comes {entry}");
                Err(Problem::Damaged { what: "a chain of clusters", at: self.at, why })
            }
            entry => Ok(Some(entry)),
        }
    }

    fn entry(&self, volume: &dyn Volume, cluster: u32) -> Result<u32, Problem> {
        let place = match self.width {
            Width::Bits12 => u64::from(cluster) * 3 / 2,
            Width::Bits16 => u64::from(cluster) * 2,
            Width::Bits32 => u64::from(cluster) * 4,
        };
        let length = if self.width == Width::Bits32 { 4 } else { 2 };
        if place + length > self.bytes {
            let why = format!("it has no entry for cluster {cluster}");
            return Err(Problem::Damaged { what: "the table of clusters", at: self.at, why });
        }
        let mut bytes = [0; 4];
        let (wanted, _) = bytes.split_at_mut(if length == 4 { 4 } else { 2 });
        volume.read_at(self.at + place, wanted)?;
        Ok(match self.width {
            Width::Bits12 if cluster % 2 == 1 => u32::from(u16_at(&bytes, 0) >> 4),
            Width::Bits12 => u32::from(u16_at(&bytes, 0) & 0xfff),
            Width::Bits16 => u16_at(&bytes, 0).into(),
            Width::Bits32 => u32_at(&bytes, 0) & 0x0fff_ffff,
        })
    }

    /// Whether the last to write says that it was done.
    pub(super) fn is_clean(&self, volume: &dyn Volume) -> Result<bool, Problem> {
        Ok(match self.width {
            Width::Bits12 => true,
            Width::Bits16 => self.entry(volume, 1)? & 0x8000 != 0,
            Width::Bits32 => self.entry(volume, 1)? & 0x0800_0000 != 0,
        })
    }
}
