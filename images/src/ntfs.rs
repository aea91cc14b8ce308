//! NTFS 3.x, and 1.2 as far as it is the same, read-only: holes, compression, lists of attributes,
//! links, streams, security descriptors. The log is not replayed: see [`Ntfs`]'s warnings. What is
//! encrypted, deduplicated, kept in a cloud or compressed for the system is refused by its name.
//! Own code, for the crate `ntfs` (0.4.0, the last of 2023) reads no compressed files and bounds
//! neither what it follows nor what it keeps.
//!
//! An alternate stream is given as an extended attribute `user.NAME`, as ntfs-3g can show it, if
//! it is not longer than Linux lets one be; `ntfs.streams.list` names all of them, NUL after each.
//! The security descriptor is `system.ntfs_acl`, as it lies.

mod boot;
mod index;
mod lznt1;
mod record;
mod reparse;
mod runs;
mod security;
mod state;
mod stream;
mod table;
mod text;

use std::ops::Range;
use std::sync::Arc;

use crate::raw::Raw;
use crate::system::{Attributes, FileSystem, Kind, Named, NodeId, Problem};
use crate::volume::Volume;

use self::boot::Boot;
use self::reparse::Reparse;
use self::stream::Stream;
use self::table::{DATA, FILE_NAME, File, REPARSE_POINT, STANDARD_INFORMATION, Table};
use self::text::wtf8;

/// The record of the directory at the top.
const ROOT_RECORD: u64 = 5;
/// A stream that is given as an extended attribute, in bytes: Linux's limit for one.
const STREAM_BYTES_MAX: u64 = 64 << 10;
/// Streams of one node that are given together, in bytes.
const STREAMS_BYTES_MAX: usize = 16 << 20;
/// A special file of Interix, in bytes: a target of 4096 letters.
const INTERIX_BYTES_MAX: u64 = 8200;
const DOS_SYSTEM: u32 = 0x4;
const DOS_DIRECTORY: u32 = 0x10;
/// Between 1601 and 1970, in units of 100 nanoseconds.
const EPOCH: i128 = 116_444_736_000_000_000;
/// A name for DOS: it is not counted, for it goes with a long one.
const DOS_NAME: u8 = 2;

/// An NTFS on a volume.
pub struct Ntfs {
    table: Table,
    label: Option<String>,
    warnings: Vec<String>,
}

impl Ntfs {
    /// Finds the master file table, and says in warnings what a mount would do first.
    ///
    /// # Errors
    ///
    /// A [`Problem`] if there is no NTFS, it is damaged, or of a version that is not read.
    pub fn open(volume: Arc<dyn Volume>) -> Result<Self, Problem> {
        let boot = Boot::read(volume.as_ref())?;
        let (table, is_mirror) = Table::open(volume, boot)?;
        let (major, minor, flags) = state::version(&table.file(NodeId(state::VOLUME_RECORD))?)?;
        if !matches!((major, minor), (3, _) | (1, 2)) {
            return Err(Problem::Unread { feature: format!("NTFS of version {major}.{minor}") });
        }
        let label = state::label(&table.file(NodeId(state::VOLUME_RECORD))?)?;
        let mut system = Self { table, label, warnings: Vec::new() };
        let root = system.table.file(system.root())?;
        if !root.record.is_directory()? {
            return Err(root.damaged("the root is not a directory"));
        }
        let mut warnings = state::warnings(&system, flags);
        if is_mirror {
            warnings.push(
                "the first record of the master file table of this NTFS is damaged; its copy is \
                 used"
                    .to_owned(),
            );
        }
        system.warnings = warnings;
        Ok(system)
    }

    /// What another driver makes of a node, if one does.
    fn reparse(&self, file: &File<'_>, dos: u32) -> Result<Option<Reparse>, Problem> {
        if let Some(value) = file.value(REPARSE_POINT, &[], reparse::BYTES_MAX)? {
            let at = file.record.block.at;
            return reparse::parse(&Raw { what: "a reparse point", at, bytes: &value }).map(Some);
        }
        if dos & DOS_SYSTEM == 0 || file.record.is_directory()? {
            return Ok(None);
        }
        let stream = Stream::find(file, DATA, &[]);
        let Ok(Some(stream)) = stream else { return Ok(None) };
        if stream.bytes > INTERIX_BYTES_MAX {
            return Ok(None);
        }
        Ok(reparse::interix(&stream.whole(INTERIX_BYTES_MAX)?))
    }

    /// Attributes of DOS, and the time of the last change.
    fn standard(&self, file: &File<'_>) -> Result<(u32, i128, Option<u32>), Problem> {
        let value = file.value(STANDARD_INFORMATION, &[], STREAM_BYTES_MAX)?;
        let value = value.ok_or_else(|| file.damaged("it has no standard information"))?;
        let at = file.record.block.at;
        let raw = Raw { what: "standard information", at, bytes: &value };
        let security = if raw.len() >= 72 { Some(raw.le32(52)?) } else { None };
        let modified = (i128::from(raw.le64(8)?) - EPOCH) * 100;
        Ok((raw.le32(32)?, modified, security))
    }

    /// A file whose bytes are its own.
    fn plain(&self, node: NodeId) -> Result<File<'_>, Problem> {
        let file = self.table.file(node)?;
        if file.record.is_directory()? {
            return Err(Problem::NotA { node, wanted: "file" });
        }
        let (dos, ..) = self.standard(&file)?;
        match self.reparse(&file, dos)? {
            None => Ok(file),
            Some(Reparse::Other(feature)) => Err(Problem::Unread { feature }),
            Some(_) => Err(Problem::NotA { node, wanted: "file" }),
        }
    }

    fn links(&self, file: &File<'_>) -> Result<u64, Problem> {
        let mut names_for_dos = 0;
        file.each(FILE_NAME, &mut |attribute| {
            names_for_dos += u64::from(attribute.resident()?.u8(65)? == DOS_NAME);
            Ok(())
        })?;
        Ok(u64::from(file.record.links()?).saturating_sub(names_for_dos).max(1))
    }
}

impl FileSystem for Ntfs {
    fn name(&self) -> &'static str {
        "ntfs"
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn label(&self) -> Option<String> {
        self.label.clone()
    }

    fn root(&self) -> NodeId {
        NodeId(ROOT_RECORD)
    }

    fn attributes(&self, node: NodeId) -> Result<Attributes, Problem> {
        let file = self.table.file(node)?;
        let (mut dos, modified, _) = self.standard(&file)?;
        let is_directory = file.record.is_directory()?;
        let (kind, size) = match self.reparse(&file, dos)? {
            Some(Reparse::Is(kind)) => (kind, 0),
            Some(Reparse::Link(target)) => (Kind::Symlink, target.len() as u64),
            _ if is_directory => (Kind::Directory, 0),
            _ => (Kind::File, size(&file)?),
        };
        if is_directory {
            dos |= DOS_DIRECTORY;
        }
        Ok(Attributes {
            kind,
            size,
            mode: None,
            uid: None,
            gid: None,
            links: Some(self.links(&file)?),
            modified: Some(modified),
            dos: Some(dos),
        })
    }

    fn list(&self, directory: NodeId, each: &mut dyn FnMut(Named) -> bool) -> Result<(), Problem> {
        let file = self.table.file(directory)?;
        if !file.record.is_directory()? {
            return Err(Problem::NotA { node: directory, wanted: "directory" });
        }
        index::list(&file, each)
    }

    fn read(&self, file: NodeId, at: u64, into: &mut [u8]) -> Result<usize, Problem> {
        let file = self.plain(file)?;
        match Stream::find(&file, DATA, &[])? {
            Some(stream) => stream.read(at, into),
            None => Ok(0),
        }
    }

    fn data(&self, file: NodeId, at: u64) -> Result<Option<Range<u64>>, Problem> {
        let file = self.plain(file)?;
        match Stream::find(&file, DATA, &[])? {
            Some(stream) => stream.data(at),
            None => Ok(None),
        }
    }

    fn target(&self, link: NodeId) -> Result<Vec<u8>, Problem> {
        let file = self.table.file(link)?;
        let (dos, ..) = self.standard(&file)?;
        match self.reparse(&file, dos)? {
            Some(Reparse::Link(target)) => Ok(target),
            _ => Err(Problem::NotA { node: link, wanted: "symbolic link" }),
        }
    }

    fn extended(&self, node: NodeId) -> Result<crate::system::Extended, Problem> {
        let file = self.table.file(node)?;
        let (_, _, security) = self.standard(&file)?;
        let (mut found, mut names, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (kind, name) in file.names()? {
            if kind != DATA || name.is_empty() {
                continue;
            }
            let shown = wtf8(&name);
            names.extend_from_slice(&shown);
            names.push(0);
            let Some(stream) = Stream::find(&file, kind, &name)? else { continue };
            if stream.bytes > STREAM_BYTES_MAX {
                continue;
            }
            let value = stream.whole(STREAM_BYTES_MAX)?;
            bytes += value.len();
            if bytes > STREAMS_BYTES_MAX {
                let limit = STREAMS_BYTES_MAX as u64;
                return Err(Problem::Limit { what: "bytes of alternate streams", limit });
            }
            found.push(([b"user.", shown.as_slice()].concat(), value));
        }
        if !names.is_empty() {
            found.push((b"ntfs.streams.list".to_vec(), names));
        }
        if let Some(descriptor) = security::descriptor(&file, security)? {
            found.push((b"system.ntfs_acl".to_vec(), descriptor));
        }
        Ok(found)
    }
}

/// How long a file is, also where it is encrypted and its bytes are not read.
fn size(file: &File<'_>) -> Result<u64, Problem> {
    let size = file.stretch(DATA, &[], 0, &mut |attribute| match attribute.value()? {
        record::Value::Resident(raw) => Ok(raw.len() as u64),
        record::Value::Runs(runs) => Ok(runs.bytes),
    })?;
    Ok(size.unwrap_or(0))
}
