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
use crate::workload::files::metadata::{FileKind, Own, Stat, meta_of, open_directory, stat_of};
use crate::workload::files::names::Names;
use crate::workload::files::survey::{Found, Held, Listing, Slot, Survey};

/// Directories of one branch held open at a time; those above are reopened on the way back.
pub const OPEN_DIRECTORIES_MAX: usize = 64;

/// One step of the walk.
#[derive(Debug)]
pub enum Step<'walk> {
    /// A directory begins; what follows until its [`Step::Leave`] lies in it.
    Enter { name: &'walk [u8], meta: Meta },
    /// Anything but a directory; `path` is relative to the root.
    Entry { path: &'walk [u8], name: &'walk [u8], stat: Stat, dir: &'walk Arc<OwnedFd> },
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
    /// See [`Listing::found`].
    found: Vec<Found>,
    /// Names handed out.
    next: usize,
    /// Its own path, where its entries are asked for one by one.
    above: Option<Arc<[u8]>>,
    /// Length of the path of the directory above.
    path_above: usize,
    /// Length of its own path.
    path_own: usize,
    /// An error met while listing, told once the names read are through.
    broken: Option<GapReason>,
    /// What it takes of the memory for listings.
    _held: Option<Held>,
}

/// What the walk comes to next.
enum Met {
    Entry(Stat),
    Directory(Stat, Option<Arc<Slot>>),
    End,
    Gap(GapReason),
    /// Left out.
    Passed,
}

/// A walk under way.
#[derive(Debug)]
pub struct Walker<'run> {
    survey: &'run Survey<'run>,
    root: Arc<OwnedFd>,
    frames: Vec<Frame>,
    path: Vec<u8>,
    /// Of the entry last handed out.
    name: Vec<u8>,
    started: bool,
    excluded: u64,
}

/// Opens the root of a walk, following symlinks in its own path only.
///
/// # Errors
/// The root cannot be opened or is no directory.
pub fn open_root(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(root, flags, Mode::empty())?)
}

impl<'run> Walker<'run> {
    /// A walk of everything below `root`.
    pub fn new(root: OwnedFd, survey: &'run Survey<'run>) -> Self {
        let (root, frames) = (Arc::new(root), Vec::new());
        let (path, name) = (Vec::new(), Vec::new());
        Self { survey, root, frames, path, name, started: false, excluded: 0 }
    }

    /// Entries left out by the rules so far.
    pub const fn excluded(&self) -> u64 {
        self.excluded
    }

    /// The next step; none when the root was left.
    pub fn step(&mut self) -> Option<Step<'_>> {
        if !self.started {
            self.started = true;
            return Some(self.start());
        }
        loop {
            match self.meet()? {
                Met::Passed => {}
                Met::Gap(reason) => return Some(Step::Gap(Gap::new(&self.path, reason))),
                Met::End => return Some(self.leave()),
                Met::Directory(stat, slot) => return Some(self.go_into(stat, slot.as_deref())),
                Met::Entry(stat) => {
                    let frame = self.frames.last()?;
                    let dir = frame.dir.as_ref()?;
                    return Some(Step::Entry { path: &self.path, name: &self.name, stat, dir });
                }
            }
        }
    }

    fn start(&mut self) -> Step<'_> {
        match self.survey.list(Arc::clone(&self.root), b"") {
            Ok(listing) => self.enter(listing, 0),
            Err(error) => Step::Gap(Gap::new(b"", GapReason::from(&error))),
        }
    }

    /// Looks at the next name of the directory on top.
    fn meet(&mut self) -> Option<Met> {
        let frame = self.frames.last_mut()?;
        self.path.truncate(frame.path_own);
        match frame.names.next(&mut self.name) {
            Ok(true) => {}
            Ok(false) => return Some(frame.broken.take().map_or(Met::End, Met::Gap)),
            Err(error) => {
                frame.names = Names::default();
                frame.broken = Some(GapReason::from(&error));
                return Some(Met::Passed);
            }
        }
        let index = frame.next;
        frame.next += 1;
        if self.name.starts_with(OWN_PREFIX.as_bytes()) {
            return Some(Met::Passed);
        }
        let above = self.path.len();
        if above > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&self.name);
        let Some(dir) = &frame.dir else { return Some(Met::Gap(GapReason::Moved)) };
        let Found { stat, below } = if frame.found.is_empty() {
            let own = self.path.get(..above).unwrap_or_default();
            let above = frame.above.get_or_insert_with(|| own.into());
            self.survey.found(dir.as_fd(), &frame.stat, above, &self.name)
        } else {
            let found = frame.found.get_mut(index)?;
            let stat = std::mem::replace(&mut found.stat, Err(GapReason::Vanished));
            Found { stat, below: found.below.take() }
        };
        Some(match stat {
            Err(reason) => Met::Gap(reason),
            Ok(stat) if self.survey.rules().excludes(&self.path, stat.kind, stat.size) => {
                self.excluded += 1;
                Met::Passed
            }
            Ok(stat) if stat.kind == FileKind::Directory => Met::Directory(stat, below),
            Ok(stat) => Met::Entry(stat),
        })
    }

    fn go_into(&mut self, stat: Stat, slot: Option<&Slot>) -> Step<'_> {
        let above = self.frames.last().map_or(0, |frame| frame.path_own);
        let dir = self.frames.last().and_then(|frame| frame.dir.clone());
        let Some((slot, dir)) = slot.zip(dir) else { return self.pass_by(stat, None, above) };
        match self.survey.take(slot, dir.as_fd()) {
            Ok(listing) => self.enter(listing, above),
            Err(error) => self.pass_by(stat, Some(GapReason::from(&error)), above),
        }
    }

    fn enter(&mut self, listing: Box<Listing>, path_above: usize) -> Step<'_> {
        let Listing { dir, stat, own, broken, names, found, is_marked, held } = *listing;
        self.excluded += u64::from(is_marked);
        let meta = meta_of(&stat, own, 0);
        let path_own = self.path.len();
        self.push(Frame {
            dir: Some(dir),
            stat,
            names,
            found,
            next: 0,
            above: None,
            path_above,
            path_own,
            broken,
            _held: Some(held),
        });
        Step::Enter { name: &self.name, meta }
    }

    /// A directory that is kept without what is in it.
    fn pass_by(&mut self, stat: Stat, broken: Option<GapReason>, path_above: usize) -> Step<'_> {
        let meta = meta_of(&stat, Own::default(), 0);
        self.push(Frame {
            dir: None,
            stat,
            names: Names::default(),
            found: Vec::new(),
            next: 0,
            above: None,
            path_above,
            path_own: self.path.len(),
            broken,
            _held: None,
        });
        Step::Enter { name: &self.name, meta }
    }

    fn push(&mut self, frame: Frame) {
        if frame.path_own == 0 {
            self.name.clear();
        }
        self.frames.push(frame);
        let open_from = self.frames.len().saturating_sub(OPEN_DIRECTORIES_MAX);
        if let Some(far) = open_from.checked_sub(1).and_then(|index| self.frames.get_mut(index)) {
            far.dir = None;
        }
    }

    fn leave(&mut self) -> Step<'_> {
        if let Some(left) = self.frames.pop() {
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
    use crate::workload::files::rules::{RuleSet, Rules};
    use std::fs;

    fn paths(root: &Path, set: &RuleSet) -> (Vec<String>, Vec<Gap>) {
        walked(root, set, 0)
    }

    fn walked(root: &Path, set: &RuleSet, helpers: usize) -> (Vec<String>, Vec<Gap>) {
        let rules = Rules::new(set).unwrap();
        let survey = Survey::new(&rules, helpers);
        let mut walker = Walker::new(open_root(root).unwrap(), &survey);
        let (mut seen, mut gaps, mut at) = (Vec::new(), Vec::new(), Vec::new());
        std::thread::scope(|scope| {
            (0..helpers).for_each(|_| drop(scope.spawn(|| survey.help())));
            while let Some(step) = walker.step() {
                match step {
                    Step::Enter { name, .. } => {
                        at.push(String::from_utf8(name.to_vec()).unwrap());
                        seen.push(format!("{}/", at.join("/").trim_start_matches('/')));
                    }
                    Step::Entry { path, .. } => {
                        seen.push(String::from_utf8(path.to_vec()).unwrap())
                    }
                    Step::Gap(gap) => gaps.push(gap),
                    Step::Leave => drop(at.pop()),
                }
            }
            survey.end();
        });
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
        let survey = Survey::new(&rules, 0);
        let mut walker = Walker::new(open_root(dir.path()).unwrap(), &survey);
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
