//! What a person should know of a volume before reading it: whether Windows has put it down
//! properly. The log is not replayed.

use crate::bytes::wide_label;
use crate::raw::Raw;
use crate::system::{FileSystem as _, NodeId, Problem};

use super::Ntfs;
use super::stream::Stream;
use super::table::{DATA, File, Table, VOLUME_INFORMATION, VOLUME_NAME};

const LOG_RECORD: u64 = 2;
pub(super) const VOLUME_RECORD: u64 = 3;
const VOLUME_IS_DIRTY: u16 = 1;
const LOG_IS_CLEAN: u16 = 2;
const NO_CLIENT: u16 = 0xffff;

/// The version of the file system and the flags of the volume.
pub(super) fn version(volume: &File<'_>) -> Result<(u8, u8, u16), Problem> {
    let value = volume.value(VOLUME_INFORMATION, &[], 4096)?;
    let value = value.ok_or_else(|| volume.damaged("a volume without its version"))?;
    let raw = Raw { what: "the version of the volume", at: volume.record.block.at, bytes: &value };
    Ok((raw.u8(8)?, raw.u8(9)?, raw.le16(10)?))
}

/// What the volume is called.
pub(super) fn label(volume: &File<'_>) -> Result<Option<String>, Problem> {
    let value = volume.value(VOLUME_NAME, &[], 4096)?;
    Ok(value.and_then(|name| wide_label(&name)))
}

/// Whether what the log holds is in place.
fn is_log_clean(table: &Table) -> Result<bool, Problem> {
    let file = table.file(NodeId(LOG_RECORD))?;
    let Some(stream) = Stream::find(&file, DATA, &[])? else { return Ok(false) };
    let mut page = vec![0; 4096];
    let length = stream.read(0, &mut page)?;
    page.truncate(length);
    let raw = Raw { what: "the log", at: stream.place(0)?, bytes: &page };
    match raw.take(0, 4)? {
        // Never used since it was made.
        [0xff, 0xff, 0xff, 0xff] => Ok(true),
        b"RSTR" => {
            let area = raw.rest(raw.le16(24)?.into())?;
            Ok(area.le16(12)? == NO_CLIENT || area.le16(14)? & LOG_IS_CLEAN != 0)
        }
        _ => Ok(false),
    }
}

/// One sentence for each thing that is not as it should be.
pub(super) fn warnings(system: &Ntfs, flags: u16) -> Vec<String> {
    let mut warnings = Vec::new();
    if flags & VOLUME_IS_DIRTY != 0 {
        warnings.push("this NTFS is marked as dirty: Windows would check it first".to_owned());
    }
    match is_log_clean(&system.table) {
        Ok(true) => {}
        Ok(false) => warnings.push(
            "this NTFS was not unmounted by Windows; a mount would replay its log, and what is \
             read here is without it"
                .to_owned(),
        ),
        Err(problem) => warnings.push(format!("the log of this NTFS cannot be read: {problem}")),
    }
    if is_hibernated(system) {
        warnings.push(
            "Windows sleeps on this NTFS (hibernation or fast startup): what it held in memory \
             is not on it"
                .to_owned(),
        );
    }
    warnings
}

/// Whether the image of a sleeping Windows lies at the top.
fn is_hibernated(system: &Ntfs) -> bool {
    let mut found = None;
    let listed = system.list(system.root(), &mut |named| {
        if named.name.eq_ignore_ascii_case(b"hiberfil.sys") {
            found = Some(named.node);
        }
        found.is_none()
    });
    let mut magic = [0; 4];
    let read = found.map(|node| system.read(node, 0, &mut magic));
    listed.is_ok() && matches!(read, Some(Ok(4))) && magic.eq_ignore_ascii_case(b"hibr")
}
