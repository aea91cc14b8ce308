//! Security descriptors: in the file itself, or since NTFS 3 once for all files that share one, in
//! a stream of the file `$Secure` that an index finds by number.

use crate::raw::Raw;
use crate::system::{NodeId, Problem};

use super::index::search;
use super::stream::Stream;
use super::table::{DATA, File, SECURITY_DESCRIPTOR};
use super::text::utf16;

const SECURE_RECORD: u64 = 9;
/// A descriptor, in bytes: the limit of Windows.
const BYTES_MAX: u64 = 64 << 10;
/// What stands before a descriptor in the stream: a hash, its number, its place, its length.
const HEADER_BYTES: usize = 20;

/// The descriptor of a file, as it lies.
pub(super) fn descriptor(file: &File<'_>, number: Option<u32>) -> Result<Option<Vec<u8>>, Problem> {
    if let Some(own) = file.value(SECURITY_DESCRIPTOR, &[], BYTES_MAX)? {
        return Ok(Some(own));
    }
    let Some(number) = number.filter(|number| *number != 0) else { return Ok(None) };
    let secure = file.table.file(NodeId(SECURE_RECORD))?;
    let Some(entry) = search(&secure, &utf16("$SII"), number)? else { return Ok(None) };
    let at = secure.record.block.at;
    let raw = Raw { what: "an entry of $Secure", at, bytes: &entry };
    let (place, length) = (raw.le64(8)?, u64::from(raw.le32(16)?));
    if length < HEADER_BYTES as u64 || length > BYTES_MAX + HEADER_BYTES as u64 {
        return Err(raw.damaged(16, format!("a descriptor of {length} bytes")));
    }
    let Some(stream) = Stream::find(&secure, DATA, &utf16("$SDS"))? else {
        return Err(secure.damaged("it has no stream of descriptors"));
    };
    let mut bytes = vec![0; length as usize];
    let read = stream.read(place, &mut bytes)?;
    let raw = Raw { what: "a security descriptor", at: stream.place(place)?, bytes: &bytes };
    if read != bytes.len() || raw.le32(4)? != number || raw.le64(8)? != place {
        return Err(raw.damaged(0, format!("it is not number {number}")));
    }
    Ok(Some(raw.rest(HEADER_BYTES)?.bytes.to_vec()))
}
