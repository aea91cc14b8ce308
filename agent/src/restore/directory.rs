//! A directory being restored. Its own metadata is put back when the last that lies in it
//! is done, so that nothing changes its time afterwards: the deepest first, by ownership
//! alone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use strongroom_store::content::Meta;

use crate::restore::apply::{Inherited, apply_flags, apply_to};
use crate::restore::{Overwrite, Shared};

/// An open directory of the target.
pub(crate) struct Directory {
    pub(crate) dir: OwnedFd,
    path: Vec<u8>,
    /// None: its metadata is not ours to change.
    meta: Option<Meta>,
    parent: Option<Arc<Self>>,
    pub(crate) shared: Arc<Shared>,
    /// Whether it was empty when it was come to: nothing in it but what this restore makes.
    pub(crate) is_fresh: bool,
    pub(crate) inherited: Inherited,
}

impl Directory {
    /// The target itself; with metadata if that of the root is to be restored too.
    pub(crate) fn root(dir: OwnedFd, meta: Option<Meta>, shared: &Arc<Shared>) -> Arc<Self> {
        let (path, parent, shared) = (Vec::new(), None, Arc::clone(shared));
        let is_fresh = is_empty(&dir).unwrap_or(false);
        Arc::new(Self {
            dir,
            path,
            meta,
            parent,
            shared,
            is_fresh,
            inherited: Inherited::default(),
        })
    }

    /// Makes or enters the directory `name`, never through a symlink.
    pub(crate) fn below(
        self: &Arc<Self>,
        name: &[u8],
        path: &[u8],
        meta: Meta,
    ) -> io::Result<Arc<Self>> {
        let (dir, is_fresh) = self.enter(name)?;
        if !is_fresh {
            self.shared.systems.note(dir.as_fd())?;
        }
        let (parent, shared) = (Some(Arc::clone(self)), Arc::clone(&self.shared));
        let (path, meta, inherited) = (path.to_vec(), Some(meta), Inherited::default());
        Ok(Arc::new(Self { dir, path, meta, parent, shared, is_fresh, inherited }))
    }

    /// The path of something in it.
    pub(crate) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let above = if self.path.is_empty() { &b""[..] } else { b"/" };
        [self.path.as_slice(), above, name].concat()
    }

    /// The directory of this name, and whether it was made.
    fn enter(&self, name: &[u8]) -> io::Result<(OwnedFd, bool)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.dir, name, flags, Mode::empty());
        match rustix::fs::mkdirat(&self.dir, name, Mode::RWXU) {
            Ok(()) => return Ok((open()?, true)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        match open() {
            Err(Errno::NOTDIR | Errno::LOOP)
                if self.shared.options.overwrite == Overwrite::Always =>
            {
                rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?;
                rustix::fs::mkdirat(&self.dir, name, Mode::RWXU)?;
                Ok((open()?, true))
            }
            opened => Ok((opened?, false)),
        }
    }

    fn settle(&mut self) {
        let Some(meta) = self.meta.take() else { return };
        let dir = self.dir.as_fd();
        let settled = apply_to(dir, &meta, &self.shared.options.owners);
        if let Err(error) = settled.and_then(|()| apply_flags(dir, &meta)) {
            self.shared.problem(&self.path, &error);
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.settle();
        // One after another: letting each drop the one above would cost stack by depth.
        let mut above = self.parent.take();
        while let Some(mut directory) = above.and_then(Arc::into_inner) {
            directory.settle();
            above = directory.parent.take();
        }
    }
}

fn is_empty(dir: &OwnedFd) -> io::Result<bool> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
