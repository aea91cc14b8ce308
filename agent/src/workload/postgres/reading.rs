//! Reads a cluster under backup into a point: everything but `global` first, `global` with
//! `pg_control` as the last, then the end of the backup, then the log from its start to its
//! end. What only the running server needs is left out.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom_store::content::{Entry, Meta, Node};

use crate::quiesce::{Consistency, Evidence};
use crate::workload::compose::Composer;
use crate::workload::files::rules::{Mounts, RuleSet};
use crate::workload::files::witness::{Vouched, Watching as _, Witness};
use crate::workload::files::{Gap, GapReason, Options, ProtectError, Protected};
use crate::workload::moment::Reading;
use crate::workload::postgres::about::{self, About, ClusterPoint, Tablespace};
use crate::workload::postgres::control::Control;
use crate::workload::postgres::error::PgError;
use crate::workload::postgres::hold::Stopped;
use crate::workload::postgres::page::{Findings, Looking, Pages};
use crate::workload::postgres::wal::{self, Stretch};
use crate::workload::postgres::{PgView, meta_like, meta_of};

/// Files at the top that belong to the running server, or to an earlier backup.
pub(super) const LEFT_OUT: &[&str] = &[
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "tablespace_map.old",
    about::NAME,
];
/// Directories whose content the next start makes anew.
const EMPTIED: &[&str] = &[
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];
/// Files of relations that nobody needs again: temporary ones, and caches.
const PASSING: &[&str] = &["pgsql_tmp*", "pg_internal.init*", "t[0-9]*_[0-9]*"];
/// Unlogged relations left out, each by four globs; more are kept, which does no harm.
const UNLOGGED_MAX: usize = 900;
/// Where configuration is kept that lay outside of the data directory.
pub(super) const CONFIG_DIRECTORY: &str = "strongroom-config";
/// A file whose bytes were made here.
const MODE: u32 = 0o600;

pub(super) fn failed(error: PgError) -> ProtectError {
    ProtectError::Application(Box::new(error))
}

/// Reads the cluster.
///
/// # Errors
/// It cannot be read, or is not what it was when the backup began; or the run ends.
pub(super) fn read(
    view: &mut PgView,
    reading: &Reading<'_>,
    evidence: &mut Evidence,
) -> Result<Protected, ProtectError> {
    // The server wrote on all the time: starting the backup held nobody.
    evidence.frozen_ms = 0;
    let server = view.started.server.clone();
    let findings = Arc::new(Findings::default());
    let page_bytes = usize::try_from(server.page_bytes).unwrap_or_default();
    let pages = Pages { findings: Arc::clone(&findings), page_bytes };
    let root = view.snapshot.as_ref().map_or(&*view.data, |snapshot| snapshot.path()).to_owned();
    let own = meta_like(&root).map_err(failed)?;
    let pages = server.checksums.then_some(pages);
    let composer = Composer::new(reading)?;
    let mut parts = Parts { reading, composer, pages, root, own };
    let mut entries = parts.top()?;
    entries.push(parts.global(server.system_identifier)?);
    let stopped = view.stop().map_err(failed)?;
    let stretch = Stretch {
        dir: wal::directory(&view.data).map_err(failed)?,
        segment_bytes: server.segment_bytes,
        system_identifier: server.system_identifier,
        timeline: server.timeline,
        from: view.started.start,
        until: stopped.stop,
    };
    let (log, names) = parts.log(&stretch)?;
    entries.push(log);
    let file = Meta { mode: MODE, ..parts.own.clone() };
    let label = stopped.label.as_bytes();
    entries.push(parts.composer.bytes("backup_label", file.clone(), label)?);
    if !server.config.is_empty() {
        entries.push(parts.config(&server.config)?);
    }
    let about = about(view, &stopped, &findings, names);
    let text = serde_json::to_vec_pretty(&about).map_err(|e| failed(unwritten(e)))?;
    entries.push(parts.composer.bytes(about::NAME, file, &text)?);
    let corrupt = findings.corrupt();
    if corrupt > 0 {
        let files: Vec<String> = findings.files().into_keys().collect();
        let why = format!("corrupt by their checksums: {corrupt} pages of {}", files.join(", "));
        evidence.downgrade(Consistency::Crash, why);
    }
    let item = parts.composer.directory("postgres", parts.own, entries)?;
    parts.composer.finish(item)
}

pub(super) fn unwritten(error: serde_json::Error) -> PgError {
    PgError::File { path: PathBuf::from(about::NAME), source: error.into() }
}

fn about(view: &PgView, stopped: &Stopped, findings: &Findings, wal: Vec<String>) -> About {
    let server = view.started.server.clone();
    let tablespaces = server.tablespaces.into_iter();
    let tablespaces =
        tablespaces.map(|(oid, name, location)| Tablespace { oid, name, location }).collect();
    About::Cluster(Box::new(ClusterPoint {
        version: server.version,
        major: server.major,
        system_identifier: server.system_identifier,
        timeline: server.timeline,
        from_standby: server.in_recovery,
        start_lsn: view.started.start,
        stop_lsn: stopped.stop,
        started: view.began,
        stopped: i64::try_from(view.clock.now().unix_ms() / 1000).unwrap_or_default(),
        wal_segment_bytes: server.segment_bytes,
        wal,
        page_bytes: server.page_bytes,
        checksums: server.checksums,
        pages_checked: findings.pages(),
        pages_torn: findings.torn(),
        pages_corrupt: findings.corrupt(),
        corrupt: findings.files(),
        tablespaces,
        config: server.config,
        settings: server.settings,
        tablespace_map: stopped.map.clone(),
        snapshot: view.snapshot.is_some(),
    }))
}

/// The parts of a data directory.
struct Parts<'run> {
    reading: &'run Reading<'run>,
    composer: Composer<'run>,
    /// Where pages carry checksums.
    pages: Option<Pages>,
    root: PathBuf,
    /// Of the data directory.
    own: Meta,
}

impl Parts<'_> {
    /// Everything at the top but `global` and `pg_wal`.
    fn top(&mut self) -> Result<Vec<Entry>, ProtectError> {
        let mut entries = Vec::new();
        for name in self.names(&self.root)? {
            if LEFT_OUT.contains(&&*name) || name.starts_with("pgsql_tmp") {
                continue;
            }
            let path = self.root.join(&name);
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let kept = meta_of(&meta);
            let entry = match &*name {
                "global" | "pg_wal" => continue,
                "pg_tblspc" => Some(self.tablespaces(&path, kept)?),
                "base" => Some(self.relations("base", "", &path, "pg-base")?),
                name if meta.is_dir() && EMPTIED.contains(&name) => {
                    Some(self.composer.directory(name, kept, Vec::new())?)
                }
                name if meta.is_dir() => {
                    let witness: Arc<dyn Witness> = Arc::new(Vouched);
                    let options = self.reading.options(&path, &format!("pg-{name}"));
                    let options = Options { witness: Some(witness), ..options };
                    Some(self.composer.tree(name, "", &options)?)
                }
                name if meta.is_symlink() => fs::read_link(&path).ok().map(|target| {
                    let target = target.as_os_str().as_bytes().to_vec();
                    let node = Node::Symlink { target };
                    Entry { name: name.as_bytes().to_vec(), node, meta: kept }
                }),
                name if meta.is_file() && !name.starts_with(".s.PGSQL") => {
                    self.file(name, &path)?
                }
                _ => None,
            };
            entries.extend(entry);
        }
        Ok(entries)
    }

    /// Names in a directory; one that is no text is a gap.
    fn names(&self, dir: &Path) -> Result<Vec<String>, ProtectError> {
        let unread = |source| failed(PgError::File { path: dir.to_owned(), source });
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(unread)? {
            names.extend(entry.map_err(unread)?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// A small file; one that is gone is left out, one that cannot be read is a gap.
    fn file(&mut self, name: &str, path: &Path) -> Result<Option<Entry>, ProtectError> {
        match fs::read(path).and_then(|bytes| Ok((bytes, fs::metadata(path)?))) {
            Ok((bytes, meta)) => Ok(Some(self.composer.bytes(name, meta_of(&meta), &bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                self.composer.gap(Gap::new(name.as_bytes(), GapReason::from(&error)));
                Ok(None)
            }
        }
    }

    /// A tree of relations.
    fn relations(
        &mut self,
        name: &str,
        within: &str,
        path: &Path,
        part: &str,
    ) -> Result<Entry, ProtectError> {
        let witness: Arc<dyn Witness> = match &self.pages {
            Some(pages) => Arc::new(pages.clone()),
            None => Arc::new(Vouched),
        };
        let mut exclude: Vec<String> = PASSING.iter().map(|glob| (*glob).to_owned()).collect();
        exclude.extend(unlogged(path));
        let rules = RuleSet { exclude, mounts: Mounts::Cross, ..RuleSet::default() };
        let options = Options {
            rules,
            // What changes in a relation changes by the page, in files of every length.
            cut: self.reading.cut.of_blocks(),
            witness: Some(witness),
            ..self.reading.options(path, part)
        };
        self.composer.tree(name, within, &options)
    }

    fn tablespaces(&mut self, path: &Path, own: Meta) -> Result<Entry, ProtectError> {
        let mut spaces = Vec::new();
        for oid in self.names(path)? {
            let place = path.join(&oid);
            let meta = meta_like(&place).map_err(failed)?;
            let within = format!("pg_tblspc/{oid}");
            let mut versions = Vec::new();
            for name in self.names(&place)?.into_iter().filter(|name| name.starts_with("PG_")) {
                let part = format!("pg-space-{oid}-{name}");
                versions.push(self.relations(&name, &within, &place.join(&name), &part)?);
            }
            spaces.push(self.composer.directory(&oid, meta, versions)?);
        }
        self.composer.directory("pg_tblspc", own, spaces)
    }

    /// `global`, and `pg_control` as the last of all.
    fn global(&mut self, system_identifier: u64) -> Result<Entry, ProtectError> {
        let dir = self.root.join("global");
        let own = meta_like(&dir).map_err(failed)?;
        let mut entries = Vec::new();
        for name in self.names(&dir)? {
            let passing = name.starts_with("pg_internal.init") || name.starts_with("pgsql_tmp");
            if name == "pg_control" || passing {
                continue;
            }
            let path = dir.join(&name);
            let unread = |source| failed(PgError::File { path: path.clone(), source });
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(unread)?,
            };
            let meta = file.metadata().map_err(unread)?;
            let looking = self.pages.as_ref().and_then(|pages| pages.of(name.as_bytes()));
            let mut seen = Seen { file, at: 0, looking };
            entries.push(self.composer.stream(&name, meta_of(&meta), &mut seen, meta.len())?);
            if let Some(what) = seen.looking.and_then(|looking| Box::new(looking).found()) {
                let path = format!("global/{name}");
                self.composer.gap(Gap::new(path.as_bytes(), GapReason::Corrupt { what }));
            }
        }
        let path = dir.join("pg_control");
        let unread = |source| failed(PgError::File { path: path.clone(), source });
        let control = Control::read(&path).map_err(unread)?;
        if control.system_identifier != system_identifier {
            let (before, after) = (system_identifier, control.system_identifier);
            let (before, after) = (before.to_string(), after.to_string());
            return Err(failed(PgError::Turned { what: "the system identifier", before, after }));
        }
        let meta = meta_like(&path).map_err(failed)?;
        entries.push(self.composer.bytes("pg_control", meta, &control.bytes)?);
        self.composer.directory("global", own, entries)
    }

    /// `pg_wal`, with word for the server that its archive has nothing to do with these files.
    fn log(&self, stretch: &Stretch) -> Result<(Entry, Vec<String>), ProtectError> {
        let (mut entries, names) = stretch.entries(&self.composer)?;
        let file = Meta { mode: MODE, ..self.own.clone() };
        let mut done = Vec::new();
        for name in &names {
            done.push(self.composer.bytes(&format!("{name}.done"), file.clone(), b"")?);
        }
        entries.push(self.composer.directory("archive_status", self.own.clone(), done)?);
        let log = self.composer.directory("pg_wal", self.own.clone(), entries)?;
        Ok((log, names))
    }

    fn config(
        &mut self,
        config: &std::collections::BTreeMap<String, PathBuf>,
    ) -> Result<Entry, ProtectError> {
        let mut entries = Vec::new();
        for path in config.values() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            entries.extend(self.file(&name, path)?);
        }
        self.composer.directory(CONFIG_DIRECTORY, self.own.clone(), entries)
    }
}

/// Globs for the files of unlogged relations: a start makes them anew from their `_init` fork.
fn unlogged(path: &Path) -> Vec<String> {
    let mut globs = Vec::new();
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    for database in list(path) {
        let number = database.file_name();
        for entry in list(&database.path()) {
            let name = entry.file_name();
            let (name, number) = (name.to_string_lossy(), number.to_string_lossy());
            if let Some(node) = name.strip_suffix("_init") {
                let forks = ["", ".*", "_fsm*", "_vm*"];
                globs.extend(forks.map(|fork| format!("/{number}/{node}{fork}")));
            }
        }
    }
    if globs.len() > UNLOGGED_MAX * 4 { Vec::new() } else { globs }
}

/// A file whose pages are looked at as they pass.
struct Seen {
    file: File,
    at: u64,
    looking: Option<Looking>,
}

impl Read for Seen {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read(buffer)?;
        if let Some(looking) = &mut self.looking {
            looking.see(self.at, buffer.get(..got).unwrap_or_default(), self.file.as_fd());
        }
        self.at += got as u64;
        Ok(got)
    }
}
