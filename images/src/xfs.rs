//! XFS, versions 4 and 5, read-only: checksums, owners and places of everything that has them are
//! checked. The log is not replayed: what is read is what lies in place, and [`Xfs`] warns where a
//! mount would replay it first. Files on a realtime device are refused by name; features that
//! change what is read and are not known refuse the whole.

mod attributes;
mod directory;
mod extents;
mod geometry;
mod inode;
mod link;
mod log;

use std::ops::Range;
use std::sync::Arc;

use crate::system::{Attributes, FileSystem, Kind, Named, NodeId, Problem};
use crate::volume::Volume;

use self::extents::Map;
use self::geometry::Geometry;
use self::inode::Inode;
use self::log::Log;

/// An XFS on a volume.
pub struct Xfs {
    volume: Arc<dyn Volume>,
    geometry: Geometry,
    warnings: Vec<String>,
}

impl Xfs {
    /// Reads the superblock and the root directory.
    ///
    /// # Errors
    ///
    /// A [`Problem`] if there is no XFS, it is damaged, or has a feature that is not read.
    pub fn open(volume: Arc<dyn Volume>) -> Result<Self, Problem> {
        let geometry = Geometry::read(volume.as_ref())?;
        let warnings = warnings(volume.as_ref(), &geometry);
        let system = Self { volume, geometry, warnings };
        let root = system.inode(system.root())?;
        if root.kind()? != Kind::Directory {
            return Err(root.damaged(2, "the root is not a directory"));
        }
        Ok(system)
    }

    fn inode(&self, node: NodeId) -> Result<Inode, Problem> {
        Inode::read(self.volume.as_ref(), &self.geometry, node.0)
    }

    fn file(&self, node: NodeId) -> Result<Inode, Problem> {
        let inode = self.wanted(node, Kind::File, "file")?;
        if inode.is_realtime {
            return Err(Problem::Unread { feature: "a file on a realtime device of XFS".into() });
        }
        Ok(inode)
    }

    fn wanted(&self, node: NodeId, kind: Kind, wanted: &'static str) -> Result<Inode, Problem> {
        let inode = self.inode(node)?;
        if inode.kind()? == kind { Ok(inode) } else { Err(Problem::NotA { node, wanted }) }
    }
}

impl FileSystem for Xfs {
    fn name(&self) -> &'static str {
        "xfs"
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn label(&self) -> Option<String> {
        self.geometry.label.clone()
    }

    fn root(&self) -> NodeId {
        NodeId(self.geometry.root)
    }

    fn attributes(&self, node: NodeId) -> Result<Attributes, Problem> {
        let inode = self.inode(node)?;
        Ok(Attributes {
            kind: inode.kind()?,
            size: inode.size,
            mode: Some(u32::from(inode.mode) & 0o7777),
            uid: Some(inode.uid),
            gid: Some(inode.gid),
            links: Some(inode.links.into()),
            modified: Some(inode.modified),
            dos: None,
        })
    }

    fn list(&self, directory: NodeId, each: &mut dyn FnMut(Named) -> bool) -> Result<(), Problem> {
        let inode = self.wanted(directory, Kind::Directory, "directory")?;
        directory::list(self.volume.as_ref(), &self.geometry, &inode, each)
    }

    fn read(&self, file: NodeId, at: u64, into: &mut [u8]) -> Result<usize, Problem> {
        let inode = self.file(file)?;
        let left = usize::try_from(inode.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = left.min(into.len());
        let into = &mut into[..wanted];
        let mut map = Map::new(self.volume.as_ref(), &self.geometry, inode.data()?)?;
        let block_bytes = u64::from(self.geometry.block_bytes);
        let mut done = 0;
        while done < wanted {
            let place = at + done as u64;
            let extent = map.at(place / block_bytes)?;
            let end = extent.end().saturating_mul(block_bytes);
            let length = usize::try_from(end - place).unwrap_or(usize::MAX).min(wanted - done);
            let piece = &mut into[done..done + length];
            match extent.place.and_then(|first| self.geometry.byte_of_block(first)) {
                Some(first) => {
                    self.volume.read_at(first + (place - extent.first * block_bytes), piece)?;
                }
                None => piece.fill(0),
            }
            done += length;
        }
        Ok(wanted)
    }

    fn data(&self, file: NodeId, at: u64) -> Result<Option<Range<u64>>, Problem> {
        let inode = self.file(file)?;
        let mut map = Map::new(self.volume.as_ref(), &self.geometry, inode.data()?)?;
        let block_bytes = u64::from(self.geometry.block_bytes);
        let mut from = at;
        while from < inode.size {
            let extent = map.at(from / block_bytes)?;
            let end = extent.end().saturating_mul(block_bytes).min(inode.size);
            if extent.place.is_some() {
                return Ok(Some(from..end));
            }
            from = end;
        }
        Ok(None)
    }

    fn target(&self, link: NodeId) -> Result<Vec<u8>, Problem> {
        let inode = self.wanted(link, Kind::Symlink, "symbolic link")?;
        link::target(self.volume.as_ref(), &self.geometry, &inode)
    }

    fn extended(&self, node: NodeId) -> Result<crate::system::Extended, Problem> {
        attributes::list(self.volume.as_ref(), &self.geometry, &self.inode(node)?)
    }
}

/// What a mount would do first, or refuse for.
fn warnings(volume: &dyn Volume, geometry: &Geometry) -> Vec<String> {
    let mut warnings = Vec::new();
    if geometry.in_progress {
        warnings.push("this XFS was still being made".to_owned());
    }
    if geometry.needs_repair {
        warnings.push("this XFS is marked as in need of xfs_repair".to_owned());
    }
    match log::read(volume, geometry) {
        Ok(Log::Clean) => {}
        Ok(Log::Elsewhere) => warnings.push(
            "the log of this XFS is on another device; a mount might replay it, and what is read \
             here is without it"
                .to_owned(),
        ),
        Ok(Log::ToReplay) => warnings.push(
            "the log of this XFS was not ended by an unmount; a mount would replay it, and what \
             is read here is without it"
                .to_owned(),
        ),
        Err(problem) => warnings.push(format!("the log of this XFS cannot be read: {problem}")),
    }
    warnings
}
