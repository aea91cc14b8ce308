//! The manifest of a backup: which files the server read, how long they are, and their
//! checksums. Promises that what arrived is what was read there, file by file; refuses a
//! manifest that does not fit its own checksum.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;

/// What the line with the manifest's own checksum begins with.
const OWN: &[u8] = b"\"Manifest-Checksum\"";
/// The checksums that were asked for.
const ALGORITHM: &str = "CRC32C";
/// Files of the log and what is said of them: kept by the server, and not all in the manifest.
const LOG: &str = "pg_wal/";

/// A file as it arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Arrived {
    pub(super) bytes: u64,
    /// CRC-32C.
    pub(super) checksum: u32,
}

/// What does not agree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum ManifestError {
    /// It is no manifest.
    #[error("the manifest of the backup cannot be understood: {why}")]
    Odd { why: String },
    /// A file is not what the server read, or did not come, or nobody knows it.
    #[error("{path} {why}, by the manifest of the backup")]
    Other { path: String, why: String },
}

fn odd(why: impl Into<String>) -> ManifestError {
    ManifestError::Odd { why: why.into() }
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Files")]
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "Path")]
    path: Option<String>,
    /// In hexadecimal, where it is no text.
    #[serde(rename = "Encoded-Path")]
    encoded: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

/// Pure: whether what arrived is what a manifest says.
///
/// # Errors
/// The first that does not agree.
pub(super) fn verify(
    manifest: &[u8],
    arrived: &BTreeMap<String, Arrived>,
) -> Result<(), ManifestError> {
    own(manifest)?;
    let document: Document =
        serde_json::from_slice(manifest).map_err(|error| odd(error.to_string()))?;
    let mut known = 0;
    for file in document.files {
        let path = match (file.path, file.encoded) {
            (Some(path), _) => path,
            (None, Some(encoded)) => {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(encoded.as_bytes());
                let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
                text.ok_or_else(|| odd(format!("{encoded} is no path")))?
            }
            (None, None) => return Err(odd("a file has no path")),
        };
        let other = |why: String| ManifestError::Other { path: path.clone(), why };
        let Some(came) = arrived.get(&path) else {
            return Err(other("did not arrive".to_owned()));
        };
        if came.bytes != file.size {
            return Err(other(format!("has {} bytes and not {}", came.bytes, file.size)));
        }
        let checksum = data_encoding::HEXLOWER.encode(&came.checksum.to_le_bytes());
        let fits = file.algorithm.as_deref() == Some(ALGORITHM)
            && file.checksum.as_deref() == Some(checksum.as_str());
        if !fits {
            return Err(other("does not fit its checksum".to_owned()));
        }
        known += usize::from(!path.starts_with(LOG));
    }
    let of_backup = || arrived.keys().filter(|path| !path.starts_with(LOG));
    if of_backup().count() != known {
        let why = format!("it names {known} files, and {} arrived", of_backup().count());
        return Err(odd(why));
    }
    Ok(())
}

/// Whether it fits its own checksum, which is that of all lines before.
fn own(manifest: &[u8]) -> Result<(), ManifestError> {
    let at = manifest.windows(OWN.len()).rposition(|window| window == OWN);
    let (before, line) = manifest.split_at_checked(at.unwrap_or(0)).unwrap_or_default();
    if before.last() != Some(&b'\n') {
        return Err(odd("it has no checksum of its own"));
    }
    let said = line.split(|byte| *byte == b'"').nth(3).unwrap_or_default();
    let is = data_encoding::HEXLOWER.encode(digest(&SHA256, before).as_ref());
    if said == is.as_bytes() { Ok(()) } else { Err(odd("it does not fit its own checksum")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &str) -> Vec<u8> {
        let before = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{files}],\n\
             \"WAL-Ranges\": [\n{{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \
             \"0/2000100\" }}\n],\n"
        );
        let sum = data_encoding::HEXLOWER.encode(digest(&SHA256, before.as_bytes()).as_ref());
        format!("{before}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
    }

    fn file(path: &str, size: u64, checksum: &str) -> String {
        format!(
            "{{ \"Path\": \"{path}\", \"Size\": {size}, \"Last-Modified\": \"2026-11-26 04:00:00 \
             GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{checksum}\" }}\n"
        )
    }

    fn arrived(files: &[(&str, &[u8])]) -> BTreeMap<String, Arrived> {
        let all = files.iter().map(|(path, bytes)| {
            let checksum = crc32c::crc32c(bytes);
            ((*path).to_owned(), Arrived { bytes: bytes.len() as u64, checksum })
        });
        all.collect()
    }

    #[test]
    fn what_arrived_must_be_what_was_read() {
        let bytes: &[u8] = b"15\n";
        let sum = data_encoding::HEXLOWER.encode(&crc32c::crc32c(bytes).to_le_bytes());
        let good = manifest(&file("PG_VERSION", 3, &sum));
        let files = arrived(&[("PG_VERSION", bytes), ("pg_wal/000000010000000000000002", b"x")]);
        verify(&good, &files).unwrap();
        let said = |manifest: &[u8], files: &[(&str, &[u8])]| {
            verify(manifest, &arrived(files)).unwrap_err().to_string()
        };
        assert!(said(&good, &[]).contains("did not arrive"));
        assert!(said(&good, &[("PG_VERSION", b"15")]).contains("has 2 bytes"));
        assert!(said(&good, &[("PG_VERSION", b"16\n")]).contains("checksum"));
        let more = [("PG_VERSION", bytes), ("base/1/2", b"x")];
        assert!(said(&good, &more).contains("names 1 files, and 2 arrived"));
        let mut hurt = good;
        hurt[3] ^= 1;
        assert!(said(&hurt, &[("PG_VERSION", bytes)]).contains("its own checksum"));
        assert!(said(b"{}", &[]).contains("no checksum of its own"));
    }
}
