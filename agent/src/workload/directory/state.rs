//! What the agent remembers of a directory: every object as a line, in parts of each naming
//! context, and a head that says of which point that is and how the point has each part. The head
//! is written last; what does not fit it, or the last point, is not believed.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use strongroom_protocol::{PointId, RepoId};

use crate::workload::directory::read::Mark;
use crate::workload::directory::shards::{Shard, Shards};
use crate::workload::moment::Memory;

/// What a file that is not committed yet ends with.
const NEW: &str = "new";

/// What is remembered beside the objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) repo: RepoId,
    pub(super) point: PointId,
    /// Whose update sequence numbers and cookies these are.
    pub(super) invocation: String,
    pub(super) exclude: Vec<String>,
    pub(super) contexts: Vec<ContextHead>,
}

/// A naming context that is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ContextHead {
    pub(super) dn: String,
    pub(super) mark: Mark,
    pub(super) shards: Shards,
}

/// Where it lies.
#[derive(Clone, Debug)]
pub(super) struct Files {
    memory: Memory,
}

impl Files {
    pub(super) const fn new(memory: Memory) -> Self {
        Self { memory }
    }

    fn head(&self) -> PathBuf {
        self.memory.path("directory")
    }

    /// Where a run may put what it needs meanwhile.
    pub(super) fn scratch(&self) -> PathBuf {
        self.memory.dir.join(format!(".directory-{}", self.memory.workload))
    }

    /// Removes what a run put there, this one or one that was killed.
    pub(super) fn sweep(&self) {
        match fs::remove_dir_all(self.scratch()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.scratch().display(), "it was not removed");
            }
            _ => {}
        }
    }

    fn committed(&self, context: usize, shard: u8) -> PathBuf {
        self.memory.path(&format!("directory-{context}-{shard:02x}"))
    }

    /// A part that changed, until the point is committed.
    pub(super) fn fresh(&self, context: usize, shard: u8) -> PathBuf {
        self.scratch().join(format!("part-{context}-{shard:02x}"))
    }

    /// Where a part of a naming context lies now.
    pub(super) fn lines(&self, context: usize, at: u8, shard: &Shard) -> PathBuf {
        match shard.new {
            true => self.fresh(context, at),
            false => self.committed(context, at),
        }
    }

    /// What was remembered with the last point; else why nothing can be used.
    pub(super) fn last(&self) -> Result<Head, String> {
        let Some(previous) = self.memory.previous else {
            return Err("it is the first point".to_owned());
        };
        let text = match fs::read(self.head()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err("nothing is remembered of the last point".to_owned());
            }
            Err(error) => return Err(format!("what is remembered cannot be read: {error}")),
        };
        let head: Head = postcard::from_bytes(&text)
            .map_err(|error| format!("what is remembered is damaged: {error}"))?;
        if head.point != previous || head.repo != self.memory.repo {
            return Err("what is remembered is not of the last point".to_owned());
        }
        let lies = |context: usize, at: u8, shard: &Shard| {
            let bytes = fs::metadata(self.committed(context, at)).map(|meta| meta.len()).ok();
            bytes.is_some() && bytes == shard.kept.as_ref().map(|kept| kept.bytes)
        };
        let whole = head.contexts.iter().enumerate().all(|(context, known)| {
            known.shards.iter().all(|(at, shard)| lies(context, *at, shard))
        });
        match whole {
            true => Ok(head),
            false => Err("a part of what is remembered is not as it was written".to_owned()),
        }
    }

    /// From now on the next run starts from what was written for this point.
    pub(super) fn commit(&self, head: &Head) -> io::Result<()> {
        for (context, known) in head.contexts.iter().enumerate() {
            for at in 0..=u8::MAX {
                match known.shards.get(&at) {
                    Some(shard) if !shard.new => {}
                    Some(_) => fs::rename(self.fresh(context, at), self.committed(context, at))?,
                    None => match fs::remove_file(self.committed(context, at)) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    },
                }
            }
        }
        let new = self.head().with_extension(format!("directory.{NEW}"));
        fs::write(&new, postcard::to_stdvec(head).map_err(io::Error::other)?)?;
        fs::rename(new, self.head())
    }

    /// For whom a head is made.
    pub(super) const fn memory(&self) -> &Memory {
        &self.memory
    }
}
