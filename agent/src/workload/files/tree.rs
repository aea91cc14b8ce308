//! A tree of files as a workload: told by hooks to be quiet, seen through a snapshot where
//! the file system has them, read live where not. What it claims is what was reached.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use strongroom_protocol::opening::RefusalKind;
use strongroom_protocol::{Chain, Clock, JobId};

use crate::hooks::{HookError, HookPair, HookWindow};
use crate::quiesce::{Consistency, Evidence, Freeze, Quiesced, Thaw, Unheld};
use crate::workload::btrfs::{Snapshot, SnapshotError};
use crate::workload::files::rules::RuleSet;
use crate::workload::files::{self, Options, ProtectError, Protected};
use crate::workload::moment::{Moment, Reading};
use crate::workload::{Item, Workload};

/// A tree of files on this host.
#[derive(Clone)]
pub struct FilesWorkload {
    pub root: PathBuf,
    pub rules: RuleSet,
    pub job: JobId,
    /// Make the application quiet, and let it go.
    pub freeze: Option<HookPair>,
    /// Where hook windows are noted; on tmpfs, never on what is frozen.
    pub journal: PathBuf,
    pub clock: Arc<dyn Clock>,
}

/// Where the tree of the moment can be read.
#[derive(Debug)]
pub struct FilesView {
    root: PathBuf,
    rules: RuleSet,
    snapshot: Option<Snapshot>,
    /// Why there is none.
    live: Option<String>,
}

impl FilesView {
    /// What to hand to [`crate::workload::files::protect`].
    pub fn root(&self) -> &Path {
        self.snapshot.as_ref().map_or(&self.root, Snapshot::path)
    }
}

impl Moment for FilesView {
    fn source(&self) -> String {
        self.root.to_string_lossy().into_owned()
    }

    fn consistency(&self) -> Consistency {
        // An application that was told is claimed only as far as its freeze held.
        if self.snapshot.is_some() { Consistency::Application } else { Consistency::Fuzzy }
    }

    fn read(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<Protected, ProtectError> {
        let live = self.live.take();
        evidence.broken.extend(live.map(|why| format!("read live, while it could change: {why}")));
        let options = Options {
            rules: self.rules.clone(),
            ..reading.options(self.root().to_owned(), "files")
        };
        let Reading { sink, progress, stop, clock, .. } = *reading;
        files::protect(&options, sink, progress, stop, clock)
    }
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// The application could not be made quiet.
    #[error("the hooks of {} did not make it quiet", .root.display())]
    Hook { root: PathBuf, source: HookError },
    /// The root is not there.
    #[error("{} cannot be looked at", .root.display())]
    Root { root: PathBuf, source: io::Error },
}

impl Workload for FilesWorkload {
    type View = FilesView;
    type Error = ViewError;

    fn discover(&self) -> Result<Vec<Item>, ViewError> {
        let place = rustix::fs::statfs(&self.root)
            .map_err(|errno| ViewError::Root { root: self.root.clone(), source: errno.into() })?;
        #[expect(clippy::cast_sign_loss, reason = "a magic number is a bit pattern")]
        let magic = (place.f_type as u64) & 0xffff_ffff;
        let (name, consistency_max) = match magic {
            0x9123_683e => ("btrfs", Consistency::Filesystem),
            0x0000_ef53 => ("ext4", Consistency::Fuzzy),
            0x5846_5342 => ("xfs", Consistency::Fuzzy),
            0x0102_1994 => ("tmpfs", Consistency::Fuzzy),
            0x2fc1_2fc1 => ("zfs", Consistency::Fuzzy),
            0x0000_6969 => ("nfs", Consistency::Fuzzy),
            _ => ("other", Consistency::Fuzzy),
        };
        let snapshots = consistency_max == Consistency::Filesystem;
        let consistency_max = match &self.freeze {
            Some(_) if snapshots => Consistency::Application,
            _ => consistency_max,
        };
        let name_of = self.root.display().to_string();
        Ok(vec![Item { name: name_of, consistency_max, place: name.to_owned() }])
    }

    fn quiesce(&self) -> Result<Quiesced, ViewError> {
        let since = Instant::now();
        let Some(pair) = &self.freeze else {
            let evidence = Evidence { consistency: Consistency::Filesystem, ..Evidence::default() };
            return Ok(Quiesced::new(Box::new(Unheld), since, evidence));
        };
        let opened = HookWindow::open(pair, &self.journal, self.clock.as_ref());
        let window =
            opened.map_err(|source| ViewError::Hook { root: self.root.clone(), source })?;
        let hooks = window.outcomes().to_vec();
        let consistency = Consistency::Application;
        let evidence = Evidence { consistency, hooks, ..Evidence::default() };
        Ok(Quiesced::new(Box::new(Held(Some(window))), since, evidence))
    }

    fn view(&self) -> Result<FilesView, ViewError> {
        let root = self.root.clone();
        let (snapshot, live) = match Snapshot::create(&root, self.job) {
            Ok(snapshot) => (Some(snapshot), None),
            Err(error) => {
                if !matches!(error, SnapshotError::NotBtrfs { .. }) {
                    tracing::warn!(%error, "the tree is read live");
                }
                (None, Some(Chain(&error).to_string()))
            }
        };
        Ok(FilesView { root, rules: self.rules.clone(), snapshot, live })
    }

    fn refusal(error: &ViewError) -> RefusalKind {
        match error {
            // A path that is not there is for a person to look at; the next run tries again.
            ViewError::Root { .. } => RefusalKind::Invalid,
            ViewError::Hook { .. } => RefusalKind::Unavailable,
        }
    }
}

/// An application held by its hooks.
struct Held(Option<HookWindow>);

impl Freeze for Held {
    fn thaw(&mut self, evidence: &mut Evidence) -> Thaw {
        let Some(window) = self.0.take() else { return Thaw::Observed };
        match window.close() {
            Ok(outcome) => {
                evidence.hooks.extend(outcome);
                Thaw::Observed
            }
            Err(error) => Thaw::Unseen { why: error.to_string() },
        }
    }
}
