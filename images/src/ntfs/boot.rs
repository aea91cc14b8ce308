//! The boot sector: lengths of clusters and records, and where the master file table begins.

use crate::raw::Block;
use crate::system::Problem;
use crate::volume::Volume;

/// A record of the master file table, in bytes: 1024, or 4096 on disks with such sectors.
const RECORD_BYTES: std::ops::RangeInclusive<u64> = 512..=4096;
/// A cluster, in bytes: two megabytes since Windows 10.
const CLUSTER_BYTES_MAX: u64 = 2 << 20;

/// What the boot sector says, checked against itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boot {
    pub(super) cluster_bytes: u64,
    pub(super) clusters: u64,
    pub(super) record_bytes: usize,
    /// The first cluster of the master file table.
    pub(super) table: u64,
    /// The first cluster of the copy of its first records.
    pub(super) mirror: u64,
}

impl Boot {
    /// Reads the boot sector at the start of a volume.
    pub(super) fn read(volume: &dyn Volume) -> Result<Self, Problem> {
        let block = Block::read(volume, "the boot sector of NTFS", 0, 512)?;
        let raw = block.raw();
        if raw.take(3, 8)? != b"NTFS    " {
            return Err(raw.damaged(3, "it does not say NTFS"));
        }
        let sector = u64::from(raw.le16(11)?);
        if !sector.is_power_of_two() || !(256..=4096).contains(&sector) {
            return Err(raw.damaged(11, format!("sectors of {sector} bytes")));
        }
        // Above 128 it is a negative power of two.
        let sectors = match raw.u8(13)? {
            plain @ 0..=128 => u64::from(plain),
            power => 1_u64.checked_shl(u32::from(power.wrapping_neg())).unwrap_or(0),
        };
        let cluster_bytes = sector.checked_mul(sectors).unwrap_or(0);
        if !cluster_bytes.is_power_of_two() || cluster_bytes > CLUSTER_BYTES_MAX {
            return Err(raw.damaged(13, format!("clusters of {sectors} sectors")));
        }
        let clusters = raw.le64(40)? / sectors;
        if clusters.checked_mul(cluster_bytes).is_none_or(|bytes| bytes > 1 << 62) {
            return Err(raw.damaged(40, format!("{clusters} clusters")));
        }
        let record = record_bytes(raw.u8(64)?, cluster_bytes);
        let Some(record) = record.filter(|bytes| RECORD_BYTES.contains(bytes)) else {
            return Err(raw.damaged(64, "records of the master file table of no known length"));
        };
        let (table, mirror) = (raw.le64(48)?, raw.le64(56)?);
        if table >= clusters {
            return Err(raw.damaged(48, format!("a master file table in cluster {table}")));
        }
        Ok(Self { cluster_bytes, clusters, record_bytes: record as usize, table, mirror })
    }
}

/// Clusters, or as a negative number a power of two of bytes.
fn record_bytes(byte: u8, cluster_bytes: u64) -> Option<u64> {
    let signed = byte.cast_signed();
    if signed > 0 {
        return u64::from(byte).checked_mul(cluster_bytes);
    }
    1_u64.checked_shl(u32::from(signed.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::record_bytes;

    #[test]
    fn lengths_of_records_are_clusters_or_powers() {
        assert_eq!(record_bytes(0xf6, 4096), Some(1024));
        assert_eq!(record_bytes(1, 4096), Some(4096));
        assert_eq!(record_bytes(0x80, 4096), None);
    }
}
