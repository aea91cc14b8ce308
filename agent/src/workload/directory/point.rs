//! A point of a directory as it is written: `strongroom.json`, the objects of each naming
//! context as sorted lines in up to 256 files by the first byte of the GUID (so that what did
//! not change is the same chunk again), and the whole domain where it was taken.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use strongroom_store::content::{Entry, Meta};

use crate::workload::compose::Composer;
use crate::workload::directory::gather::Harvest;
use crate::workload::directory::object::guid_of;
use crate::workload::directory::read::Root;
use crate::workload::directory::state::{Files, each_line};
use crate::workload::files::ProtectError;

/// Where the naming contexts lie.
pub(super) const CONTEXTS: &str = "contexts";
/// What the point is.
pub(super) const ABOUT: &str = "strongroom.json";
/// The version of this layout.
const FORMAT: u32 = 1;

/// `strongroom.json` of a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    pub kind: String,
    pub format: u32,
    pub url: String,
    #[serde(flatten)]
    pub root: Root,
    pub naming_contexts: Vec<AboutContext>,
    /// How the whole domain was taken; `none` where it was not.
    pub whole_domain: String,
    /// Nothing changed between the last two looks.
    pub settled: bool,
    pub notes: Vec<String>,
}

/// A naming context in a point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AboutContext {
    pub dn: String,
    /// Its directory below `contexts/`.
    pub place: String,
    pub objects: u64,
    /// How changes are found: `dirsync` or `usn`.
    pub changes_by: String,
    /// Objects that were read for this point.
    pub read: u64,
    /// Why everything was read; none where only changes were.
    pub read_whole: Option<String>,
}

/// A name as that of a file.
fn place(dn: &str) -> String {
    dn.replace('%', "%25").replace('/', "%2F").replace('\0', "%00")
}

pub(super) fn about(url: &str, root: &Root, harvest: &Harvest, whole_domain: &str) -> About {
    let contexts = harvest.contexts.iter().map(|known| AboutContext {
        dn: known.dn.clone(),
        place: place(&known.dn),
        objects: known.objects,
        changes_by: known.mark.kind().to_owned(),
        read: known.read,
        read_whole: known.whole.clone(),
    });
    About {
        kind: "directory".to_owned(),
        format: FORMAT,
        url: url.to_owned(),
        root: root.clone(),
        naming_contexts: contexts.collect(),
        whole_domain: whole_domain.to_owned(),
        settled: harvest.settled,
        notes: harvest.notes.clone(),
    }
}

/// What is readable by its owner alone: nothing of it changes with the moment.
pub(super) fn private(mode: u32) -> Meta {
    Meta { mode, ..Meta::default() }
}

/// The objects of every naming context.
pub(super) fn contexts(
    composer: &Composer<'_>,
    files: &Files,
    harvest: &Harvest,
) -> Result<Entry, ProtectError> {
    let mut entries = Vec::new();
    for (at, known) in harvest.contexts.iter().enumerate() {
        let shards = shards(composer, &files.new_lines(at))?;
        entries.push(composer.directory(&place(&known.dn), private(0o700), shards)?);
    }
    composer.directory(CONTEXTS, private(0o700), entries)
}

fn shards(composer: &Composer<'_>, lines: &Path) -> Result<Vec<Entry>, ProtectError> {
    let mut entries = Vec::new();
    let (mut shard, mut text) = (String::new(), Vec::new());
    let mut refused = None;
    let mut close = |shard: &str, text: &mut Vec<u8>| -> Result<(), ProtectError> {
        if !text.is_empty() {
            entries.push(composer.bytes(&format!("{shard}.jsonl"), private(0o600), text)?);
            text.clear();
        }
        Ok(())
    };
    let read = each_line(lines, |line| {
        let name = guid_of(line).and_then(|guid| guid.get(..2)).unwrap_or_default();
        if name != shard {
            if let Err(error) = close(&shard, &mut text) {
                refused = Some(error);
                return Err(io::ErrorKind::Interrupted.into());
            }
            name.clone_into(&mut shard);
        }
        text.extend_from_slice(line);
        Ok(())
    });
    match (refused, read) {
        (Some(error), _) => return Err(error),
        (None, Err(error)) => return Err(ProtectError::Application(Box::new(error))),
        (None, Ok(())) => close(&shard, &mut text)?,
    }
    Ok(entries)
}
