//! A point of a directory as it is written: `strongroom.json`, the objects of each naming
//! context as sorted lines in up to 256 files by the first byte of the GUID (a file in which
//! nothing changed is named again without being read), and the whole domain where it was taken.

use std::fs;

use serde::{Deserialize, Serialize};
use strongroom_store::content::{Entry, Meta, Node};

use crate::workload::compose::Composer;
use crate::workload::directory::gather::Harvest;
use crate::workload::directory::read::Root;
use crate::workload::directory::shards::{Kept, Shard};
use crate::workload::directory::state::Files;
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
        objects: known.objects(),
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

/// The objects of every naming context; what is told of each part that changed is noted there.
pub(super) fn contexts(
    composer: &Composer<'_>,
    files: &Files,
    harvest: &mut Harvest,
) -> Result<Entry, ProtectError> {
    let mut entries = Vec::new();
    for (context, known) in harvest.contexts.iter_mut().enumerate() {
        let mut shards = Vec::new();
        for (at, shard) in &mut known.shards {
            shards.push(part(composer, files, (context, *at), shard)?);
        }
        entries.push(composer.directory(&place(&known.dn), private(0o700), shards)?);
    }
    composer.directory(CONTEXTS, private(0o700), entries)
}

fn part(
    composer: &Composer<'_>,
    files: &Files,
    (context, at): (usize, u8),
    shard: &mut Shard,
) -> Result<Entry, ProtectError> {
    let name = format!("{at:02x}.jsonl");
    if let Some(kept) = &shard.kept {
        return Ok(composer.file(&name, private(0o600), kept.bytes, kept.content()));
    }
    let failed = |error| ProtectError::Application(Box::new(error));
    let text = fs::read(files.lines(context, at, shard)).map_err(failed)?;
    let entry = composer.bytes(&name, private(0o600), &text)?;
    if let Node::File { size, content } = &entry.node {
        shard.kept = Kept::of(*size, content);
    }
    Ok(entry)
}
