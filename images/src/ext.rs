//! ext2, ext3 and ext4. What a mount would replay of the journal is seen as if it were replayed,
//! and nothing is written for it. Encrypted files, and journals on another device, are not read:
//! both are said. Checksums of metadata are not asked for: a mount that is not damaged is read.

mod block;
mod directory;
mod extended;
mod inode;
mod journal;
mod runs;
mod superblock;

use std::ops::Range;
use std::sync::Arc;

use crate::ext::block::Blocks;
use crate::ext::inode::Inode;
use crate::ext::superblock::Superblock;
use crate::system::{Attributes, FileSystem, Kind, Named, NodeId, Problem};
use crate::volume::Volume;

/// The inode of the directory at the top.
const ROOT: NodeId = NodeId(2);
/// Longest target of a link.
const TARGET_BYTES_MAX: u64 = 4096;

/// A file system of ext2, ext3 or ext4.
pub struct Ext {
    blocks: Blocks,
    warnings: Vec<String>,
}

fn damaged(what: &'static str, at: u64, why: impl Into<String>) -> Problem {
    Problem::Damaged { what, at, why: why.into() }
}

impl Ext {
    /// Reads the superblock, and the journal where one is to be replayed.
    ///
    /// # Errors
    ///
    /// A [`Problem`] if they do not hold together, need what is not known here, or the volume.
    pub fn open(volume: Arc<dyn Volume>) -> Result<Self, Problem> {
        let superblock = Superblock::read(&*volume)?;
        let mut warnings = Vec::new();
        if superblock.has_errors {
            warnings.push("it is marked as having errors".to_owned());
        }
        let mut blocks = Blocks::new(volume, superblock);
        if blocks.superblock().needs_replay {
            match journal::replayed(&blocks) {
                Ok((overlay, mut notes)) => {
                    warnings.append(&mut notes);
                    blocks = blocks.overlaid(overlay)?;
                }
                Err(problem @ Problem::Volume(_)) => return Err(problem),
                Err(problem) => warnings.push(format!(
                    "its journal cannot be replayed ({problem}): what was written last is missing"
                )),
            }
        }
        let system = Self { blocks, warnings };
        match system.inode(ROOT)?.kind()? {
            Kind::Directory => Ok(system),
            _ => Err(Problem::NotA { node: ROOT, wanted: "directory" }),
        }
    }

    fn inode(&self, node: NodeId) -> Result<Inode, Problem> {
        Inode::read(&self.blocks, node.0)
    }
}

impl FileSystem for Ext {
    fn name(&self) -> &'static str {
        self.blocks.superblock().name
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn label(&self) -> Option<String> {
        self.blocks.superblock().label.clone()
    }

    fn root(&self) -> NodeId {
        ROOT
    }

    fn attributes(&self, node: NodeId) -> Result<Attributes, Problem> {
        let inode = self.inode(node)?;
        Ok(Attributes {
            kind: inode.kind()?,
            size: inode.size,
            mode: Some(inode.mode & 0o7777),
            uid: Some(inode.uid),
            gid: Some(inode.gid),
            links: Some(inode.links),
            modified: Some(inode.modified),
            dos: None,
        })
    }

    fn list(&self, directory: NodeId, each: &mut dyn FnMut(Named) -> bool) -> Result<(), Problem> {
        let inode = self.inode(directory)?;
        if inode.kind()? != Kind::Directory {
            return Err(Problem::NotA { node: directory, wanted: "directory" });
        }
        directory::list(&self.blocks, &inode, each)
    }

    fn read(&self, file: NodeId, at: u64, into: &mut [u8]) -> Result<usize, Problem> {
        let inode = self.inode(file)?;
        if inode.kind()? != Kind::File {
            return Err(Problem::NotA { node: file, wanted: "file" });
        }
        inode.read_at(&self.blocks, at, into)
    }

    fn data(&self, file: NodeId, at: u64) -> Result<Option<Range<u64>>, Problem> {
        let inode = self.inode(file)?;
        if inode.kind()? != Kind::File {
            return Err(Problem::NotA { node: file, wanted: "file" });
        }
        inode.data(&self.blocks, at)
    }

    fn target(&self, link: NodeId) -> Result<Vec<u8>, Problem> {
        let inode = self.inode(link)?;
        if inode.kind()? != Kind::Symlink {
            return Err(Problem::NotA { node: link, wanted: "link" });
        }
        if inode.size > TARGET_BYTES_MAX {
            return Err(Problem::Limit { what: "a link", limit: TARGET_BYTES_MAX });
        }
        let mut target = vec![0; usize::try_from(inode.size).unwrap_or(0)];
        let read = match inode.short_target() {
            Some(short) => {
                target = short;
                target.len()
            }
            None => inode.read_at(&self.blocks, 0, &mut target)?,
        };
        if target.is_empty() || read != target.len() || target.contains(&0) {
            return Err(damaged("a link", inode.place, "it points nowhere"));
        }
        Ok(target)
    }

    fn extended(&self, node: NodeId) -> Result<crate::system::Extended, Problem> {
        extended::read(&self.blocks, &self.inode(node)?)
    }
}
