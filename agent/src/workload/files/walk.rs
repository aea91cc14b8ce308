//! Walks a tree depth first, names sorted as bytes, by directory descriptors alone: no path
//! is ever resolved twice, so nobody can lead the walk out by swapping a directory for a
//! symlink. Depth and width cost neither stack nor descriptors without bound.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use strongroom_store::content::Meta;

use crate::workload::OWN_PREFIX;
use crate::workload::files::gap::{Gap, GapReason};
use crate::workload::files::metadata::{
    FileKind, Own, Stat, flags_of, meta_of, open_directory, stat_at, stat_of, xattrs_of,
};
use crate::workload::files::names::{NAMES_BYTES_MAX, Names};
use crate::workload::files::project::project_of;
use crate::workload::files::rules::Rules;

/// Directories of one branch held open at a time; those above are reopened on the way back.
pub const OPEN_DIRECTORIES_MAX: usize = 64;
/// What one directory may hold in memory even when those above it hold much.
const NAMES_BYTES_MIN: usize = 1 << 20;

/// One step of the walk.
#[derive(Debug)]
pub enum Step {
    /// A directory begins; what follows until its [`Step::Leave`] lies in it.
    Enter { name: Vec<u8>, meta: Meta },
    /// Anything but a directory.
    Entry { name: Vec<u8>, stat: Stat, dir: Arc<OwnedFd> },
    /// Something that cannot be protected.
    Gap(Gap),
    /// The directory last entered ends.
    Leave,
}

#[derive(Debug)]
struct Frame {
    dir: Option<Arc<OwnedFd>>,
    stat: Stat,
    names: Names,
    /// Length of the path of the directory above.
    path_above: usize,
    /// Length of its own path.
    path_own: usize,
    /// An error met while listing, told once the names read are through.
    broken: Option<GapReason>,
}

/// A walk under way.
#[derive(Debug)]
pub struct Walker<'rules> {
    rules: &'rules Rules,
    root: Arc<OwnedFd>,
    frames: Vec<Frame>,
    path: Vec<u8>,
    started: bool,
    held_bytes: usize,
    excluded: u64,
}

impl<'rules> Walker<'rules> {
    /// Opens the root, following symlinks in its own path only.
    ///
    /// # Errors
    /// The root cannot be opened or is no directory.
    pub fn open(root: &Path, rules: &'rules Rules) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = Arc::new(rustix::fs::open(root, flags, Mode::empty())?);
        Ok(Self {
            rules,
            root,
            frames: Vec::new(),
            path: Vec::new(),
            started: false,
            held_bytes: 0,
            excluded: 0,
        })
    }

    /// The path, relative to the root, of the entry last handed out.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Entries left out by the rules so far.
    pub const fn excluded(&self) -> u64 {
        self.excluded
    }

    /// The next step; none when the root was left.
    pub fn step(&mut self) -> Option<Step> {
        if !self.started {
            self.started = true;
            return Some(self.start());
        }
        loop {
            let frame = self.frames.last_mut()?;
            let mut name = Vec::new();
            self.path.truncate(frame.path_own);
            match frame.names.next(&mut name) {
                Ok(true) => {}
                Ok(false) => {
                    if let Some(reason) = frame.broken.take() {
                        return Some(Step::Gap(Gap::new(&self.path, reason)));
                    }
                    return Some(self.leave());
                }
                Err(error) => {
                    frame.names = Names::default();
                    frame.broken = Some(GapReason::from(&error));
                    continue;
                }
            }
            if name.starts_with(OWN_PREFIX.as_bytes()) {
                continue;
            }
            if let Some(step) = self.visit(name) {
                return Some(step);
            }
        }
    }

    fn start(&mut self) -> Step {
        let root = Arc::clone(&self.root);
        match stat_of(root.as_fd()) {
            Ok(stat) => self.enter(Vec::new(), stat, Some(root), None, 0),
            Err(error) => Step::Gap(Gap::new(b"", GapReason::from(&error))),
        }
    }

    fn visit(&mut self, name: Vec<u8>) -> Option<Step> {
        let frame = self.frames.last()?;
        let above = self.path.len();
        let dir = frame.dir.clone();
        let parent_dev = frame.stat.dev;
        if above > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&name);
        let Some(dir) = dir else {
            return Some(Step::Gap(Gap::new(&self.path, GapReason::Moved)));
        };
        let stat = match stat_at(dir.as_fd(), &name) {
            Ok(stat) => stat,
            Err(error) => return Some(Step::Gap(Gap::new(&self.path, GapReason::from(&error)))),
        };
        if self.rules.excludes(&self.path, stat.kind, stat.size) {
            self.excluded += 1;
            return None;
        }
        if stat.kind != FileKind::Directory {
            return Some(Step::Entry { name, stat, dir });
        }
        if stat.dev != parent_dev && !self.rules.crosses_mounts() {
            return Some(self.enter(name, stat, None, None, above));
        }
        let opened = open_directory(dir.as_fd(), &name)
            .and_then(|opened| stat_of(opened.as_fd()).map(|stat| (opened, stat)));
        Some(match opened {
            // What was opened is what is protected, also when it was swapped in between.
            Ok((opened, stat)) => self.enter(name, stat, Some(Arc::new(opened)), None, above),
            Err(error) => {
                let reason = GapReason::from(&error);
                self.enter(name, stat, None, Some(reason), above)
            }
        })
    }

    fn enter(
        &mut self,
        name: Vec<u8>,
        stat: Stat,
        dir: Option<Arc<OwnedFd>>,
        mut broken: Option<GapReason>,
        path_above: usize,
    ) -> Step {
        let mut names = Names::default();
        let mut own = Own::default();
        if let Some(dir) = &dir {
            own.flags = flags_of(dir.as_fd());
            own.project = project_of(dir.as_fd());
            match xattrs_of(dir.as_fd()) {
                Ok(found) => own.xattrs = found,
                Err(error) => broken = Some(GapReason::from(&error)),
            }
            let limit = NAMES_BYTES_MAX.saturating_sub(self.held_bytes).max(NAMES_BYTES_MIN);
            match Names::read(dir.as_fd(), limit, self.rules.markers()) {
                Ok(read) if read.has_marker() => self.excluded += 1,
                Ok(read) => names = read,
                Err(error) => broken = Some(GapReason::from(&error)),
            }
        }
        self.held_bytes += names.held_bytes();
        let meta = meta_of(&stat, own, 0);
        let frame = Frame { dir, stat, names, path_above, path_own: self.path.len(), broken };
        self.frames.push(frame);
        let open_from = self.frames.len().saturating_sub(OPEN_DIRECTORIES_MAX);
        if let Some(far) = open_from.checked_sub(1).and_then(|index| self.frames.get_mut(index)) {
            far.dir = None;
        }
        Step::Enter { name, meta }
    }

    fn leave(&mut self) -> Step {
        if let Some(left) = self.frames.pop() {
            self.held_bytes = self.held_bytes.saturating_sub(left.names.held_bytes());
            self.path.truncate(left.path_above);
            let needs_dir = self.frames.last().is_some_and(|above| above.dir.is_none());
            if needs_dir {
                let reopened = self.reopen(left.dir.as_deref());
                if let Some(above) = self.frames.last_mut() {
                    above.dir = reopened;
                }
            }
        }
        Step::Leave
    }

    /// The directory on top again: by `..` of the one just left, else down from the root by
    /// name. Either way it must be the same inode, or it is not entered.
    fn reopen(&self, left: Option<&OwnedFd>) -> Option<Arc<OwnedFd>> {
        let wanted = &self.frames.last()?.stat;
        let is_it =
            |dir: &OwnedFd| stat_of(dir.as_fd()).is_ok_and(|found| found.is_same_inode(wanted));
        let upwards = left.and_then(|left| open_directory(left.as_fd(), b"..").ok());
        if let Some(dir) = upwards.filter(|dir| is_it(dir)) {
            return Some(Arc::new(dir));
        }
        let mut at = Arc::clone(&self.root);
        for name in self.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at = Arc::new(open_directory(at.as_fd(), name).ok()?);
        }
        is_it(&at).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::files::rules::RuleSet;
    use std::fs;

    fn paths(root: &Path, set: &RuleSet) -> (Vec<String>, Vec<Gap>) {
        let rules = Rules::new(set).unwrap();
        let mut walker = Walker::open(root, &rules).unwrap();
        let (mut seen, mut gaps) = (Vec::new(), Vec::new());
        while let Some(step) = walker.step() {
            let path = String::from_utf8_lossy(walker.path()).into_owned();
            match step {
                Step::Enter { .. } => seen.push(format!("{path}/")),
                Step::Entry { .. } => seen.push(path),
                Step::Gap(gap) => gaps.push(gap),
                Step::Leave => {}
            }
        }
        (seen, gaps)
    }

    #[test]
    fn order_is_by_bytes_and_markers_empty_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b/x", "a/y", "cache/CACHEDIR.TAG", "cache/z"] {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), b"").unwrap();
        }
        fs::write(dir.path().join("a.c"), b"").unwrap();
        fs::write(dir.path().join(".strongroom-1.part"), b"").unwrap();
        let set = RuleSet {
            exclude_if_present: vec!["CACHEDIR.TAG".into()],
            exclude: vec!["/b/x".into()],
            ..RuleSet::default()
        };
        let (seen, gaps) = paths(dir.path(), &set);
        assert_eq!(seen, ["/", "a/", "a/y", "a.c", "b/", "cache/"]);
        assert!(gaps.is_empty());
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let depth = 10_000;
        let mut at = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
            rustix::fs::mknodat(&at, "z", rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
            at = open_directory(at.as_fd(), b"d").unwrap();
        }
        drop(at);
        let rules = Rules::new(&RuleSet::default()).unwrap();
        let mut walker = Walker::open(dir.path(), &rules).unwrap();
        let (mut entered, mut fifos, mut open_max) = (0, 0, 0);
        while let Some(step) = walker.step() {
            match step {
                Step::Enter { .. } => entered += 1,
                Step::Entry { .. } => fifos += 1,
                Step::Gap(gap) => panic!("{gap:?}"),
                Step::Leave => {}
            }
            if entered % 1000 == 0 {
                let open = walker.frames.iter().filter(|frame| frame.dir.is_some()).count();
                open_max = open_max.max(open);
            }
        }
        assert_eq!((entered, fifos), (depth + 1, depth));
        assert!(open_max <= OPEN_DIRECTORIES_MAX, "{open_max}");
    }
}
