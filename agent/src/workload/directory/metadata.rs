//! Who changed an attribute, and when: `replPropertyMetaData` as every domain controller keeps
//! it (MS-DRSR 4.1.10.2.22). A blob that is none says nothing.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::workload::directory::schema::Schema;

/// From 1601, where these seconds begin, to 1970.
const EPOCH_SECONDS: u64 = 11_644_473_600;
/// Before the entries.
const HEAD_BYTES: usize = 16;
const ENTRY_BYTES: usize = 48;

/// The last change of an attribute.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Stamp {
    /// Seconds since 1970.
    pub when: i64,
    /// How often it was changed.
    pub version: u32,
    /// The database that changed it first.
    pub invocation: Uuid,
}

/// The stamps by attribute.
pub(super) fn stamps(blob: &[u8], schema: &Schema) -> BTreeMap<String, Stamp> {
    let mut stamps = BTreeMap::new();
    let count = blob.get(8..12).and_then(number).unwrap_or_default();
    let entries = blob.get(HEAD_BYTES..).unwrap_or_default().chunks_exact(ENTRY_BYTES);
    for entry in entries.take(count as usize) {
        let Some((attribute, stamp)) = stamp(entry) else { continue };
        let name = schema.numbered(attribute).map_or_else(|| format!("{attribute:#x}"), Into::into);
        stamps.insert(name, stamp);
    }
    stamps
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn stamp(entry: &[u8]) -> Option<(u32, Stamp)> {
    let seconds = u64::from_le_bytes(entry.get(8..16)?.try_into().ok()?);
    let stamp = Stamp {
        when: i64::try_from(seconds.checked_sub(EPOCH_SECONDS)?).ok()?,
        version: number(entry.get(4..8)?)?,
        invocation: Uuid::from_slice_le(entry.get(16..32)?).ok()?,
    };
    Some((number(entry.get(..4)?)?, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_and_a_short_blob_says_nothing() {
        let mut blob = vec![1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        blob.extend(13_u32.to_le_bytes());
        blob.extend(4_u32.to_le_bytes());
        blob.extend((EPOCH_SECONDS + 99).to_le_bytes());
        blob.extend([5; 16]);
        blob.extend([0; 16]);
        let read = stamps(&blob, &Schema::default());
        let stamp = read.get("0xd").unwrap();
        assert_eq!((stamp.when, stamp.version), (99, 4));
        assert!(stamps(&blob[..60], &Schema::default()).is_empty());
    }
}
