//! The kernel's questions as they are put, and the answers as it takes them. What writes never
//! comes here: the kernel refuses it, for the file system is mounted read-only.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};
use strongroom_protocol::ChunkId;
use strongroom_store::content::{Entry, Meta, NAME_BYTES_MAX, Node};

use super::Permissions;
use super::attributes::attributes;
use super::desk::Service;
use super::listing::{Full, Name, Worth};
use super::view::{Miss, Sought, View};
use crate::reader::extents::Fetch;

/// How long the kernel may believe an answer: a point never changes.
const LASTING: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Numbers are used once only.
const GENERATION: Generation = Generation(0);
/// Reads ahead that the kernel may have under way, of all files together.
const BACKGROUND_MAX: u16 = 1024;
/// `whence` of `lseek(2)` on Linux.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// The unit `statfs` counts in, in bytes.
const BLOCK_BYTES: u32 = 4096;

impl Filesystem for Service {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = vec![
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_NO_EXPORT_SUPPORT,
        ];
        if self.permissions == Permissions::Checked {
            wanted.push(InitFlags::FUSE_POSIX_ACL);
        }
        for capability in wanted {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "the kernel does not know it");
            }
        }
        // Neither is refused: both are above nothing.
        let _ = config.set_max_background(BACKGROUND_MAX);
        let _ = config.set_congestion_threshold(BACKGROUND_MAX / 4 * 3);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        if name.len() > NAME_BYTES_MAX {
            return reply.error(Errno::ENAMETOOLONG);
        }
        let work = move |view: &View, fetch| view.lookup(parent.0, &name, fetch);
        self.serve(work, |_, found| match found {
            Ok(Some(attributes)) => reply.entry(&LASTING, &attributes, GENERATION),
            Ok(None) => reply.entry(&LASTING, &nothing(), GENERATION),
            Err(errno) => reply.error(errno),
        });
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        self.view().inodes.forget(number.0, lookups);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let work = move |view: &View, fetch| view.stat(number.0, fetch);
        self.serve(work, |_, found| match found {
            Ok(attributes) => reply.attr(&LASTING, &attributes),
            Err(errno) => reply.error(errno),
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let work = move |view: &View, fetch| match &view.entry(number.0, fetch)?.node {
            Node::Symlink { target } => Ok(target.clone()),
            _ => Err(Miss::Errno(Errno::EINVAL)),
        };
        self.serve(work, |_, found| match found {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        });
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let work = move |view: &View, fetch| view.open(number.0, fetch);
        self.serve(work, |_, found| match found {
            Ok(handle) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(handle), flags);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.view().files.find(handle.0) else { return reply.error(Errno::EBADF) };
        let work = move |view: &View, fetch| view.read(&file, offset, size as usize, fetch);
        self.serve(work, |_, found| match found {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        });
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let sought = match whence {
            SEEK_DATA => Sought::Data,
            SEEK_HOLE => Sought::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let Some(file) = self.view().files.find(handle.0) else { return reply.error(Errno::EBADF) };
        let work = move |view: &View, fetch| match fetch {
            Fetch::Nothing => Err(Miss::NotHere),
            Fetch::Absent => view.seek(&file, from, sought).map_err(Miss::Errno),
        };
        self.serve(work, |_, found| match found.map(i64::try_from) {
            Ok(Ok(at)) => reply.offset(at),
            Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
            Err(errno) => reply.error(errno),
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.view().files.close(handle.0);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let work = move |view: &View, fetch| view.open_directory(number.0, fetch);
        self.serve(work, |desk, found| match found {
            Ok((handle, wanted)) => {
                desk.foresee(&wanted);
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
                reply.opened(FileHandle(handle), flags);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        from: u64,
        mut reply: ReplyDirectory,
    ) {
        self.batch(handle, from, |view, batch| match batch {
            Err(errno) => reply.error(errno),
            Ok(batch) => {
                for Name { number, next, kind, name } in batch.dots().chain(batch.names(view)) {
                    if reply.add(INodeNo(number), next, kind, OsStr::from_bytes(name)) {
                        break;
                    }
                }
                reply.ok();
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        from: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.batch(handle, from, |view, batch| match batch {
            Err(errno) => reply.error(errno),
            Ok(batch) => {
                let mut add = |name: &Name<'_>, attributes: &FileAttr, worth: Worth| {
                    let ttl = if worth == Worth::Lasting { LASTING } else { Duration::ZERO };
                    let Name { number, next, name, .. } = *name;
                    let name = OsStr::from_bytes(name);
                    match reply.add(INodeNo(number), next, name, &ttl, attributes, GENERATION) {
                        true => Full::Yes,
                        false => Full::No,
                    }
                };
                // The kernel looks at the numbers of the dots only, and does not know them by it.
                let mut dots = batch.dots();
                if dots.all(|dot| add(&dot, &numbered(dot.number), Worth::Passing) == Full::No) {
                    batch.meet(view, add);
                }
                reply.ok();
            }
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.view().directories.close(handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.totals.bytes.div_ceil(u64::from(BLOCK_BYTES));
        let names = u32::try_from(NAME_BYTES_MAX).unwrap_or(u32::MAX);
        reply.statfs(blocks, 0, 0, self.totals.files, 0, BLOCK_BYTES, names, BLOCK_BYTES);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        let work = move |view: &View, fetch| {
            let entry = view.entry(number.0, fetch)?;
            let found = entry.meta.xattrs.iter().find(|xattr| xattr.name == name);
            found.map(|xattr| xattr.value.clone()).ok_or(Miss::Errno(Errno::NO_XATTR))
        };
        self.serve(work, move |_, found| sized(reply, size, found));
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let work = move |view: &View, fetch| {
            let entry = view.entry(number.0, fetch)?;
            let mut names = Vec::new();
            for xattr in &entry.meta.xattrs {
                names.extend_from_slice(&xattr.name);
                names.push(0);
            }
            Ok(names)
        };
        self.serve(work, move |_, found| sized(reply, size, found));
    }

    /// There is nothing to control: inode flags are not shown.
    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// Asked only where the kernel does not check permissions itself: then everybody may.
    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        match mask.contains(AccessFlags::W_OK) {
            true => reply.error(Errno::EROFS),
            false => reply.ok(),
        }
    }
}

/// The attributes of no inode: by them the kernel learns that there is no such name.
fn nothing() -> FileAttr {
    numbered(0)
}

/// The attributes of a directory of which but the number matters.
fn numbered(number: u64) -> FileAttr {
    let node = Node::Directory { page: ChunkId([0; 32]) };
    attributes(number, &Entry { name: Vec::new(), node, meta: Meta::default() }, None)
}

/// Answers with bytes, or with how many they are.
fn sized(reply: ReplyXattr, size: u32, found: Result<Vec<u8>, Errno>) {
    match found {
        Err(errno) => reply.error(errno),
        Ok(bytes) if size == 0 => match u32::try_from(bytes.len()) {
            Ok(bytes) => reply.size(bytes),
            Err(_) => reply.error(Errno::E2BIG),
        },
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
    }
}
