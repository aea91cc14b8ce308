//! Puts a cluster back: its directory, its tablespaces, the log it is to go through, and at the
//! very end `pg_control`, without which no server starts on a restore that broke off.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use serde::Serialize;
use strongroom_agent::restore::{Overwrite, Report, RestoreOptions, Selection};
use strongroom_agent::workload::postgres::about::{self, About, ClusterPoint, LogPoint};
use strongroom_agent::workload::postgres::lsn::Lsn;
use strongroom_protocol::admin::PointRef;
use strongroom_protocol::{ChunkId, PointId, WorkloadName};
use strongroom_store::keys::AgentKeys;

use super::origin::{Opened, Origin};
use super::place::{clear, extras, is_empty, refuse_running};
use super::recovery::{LOG_DIRECTORY, Log, Recovery, give, own_like};
use crate::failure::{Failure, While};
use crate::restoring::write;
use crate::scene::{Scene, Spot};
use crate::session::{Session, blocking};

/// The file that comes last.
const CONTROL: &[u8] = b"global/pg_control";
/// Where tablespaces are linked from.
const SPACES: &[u8] = b"pg_tblspc";

/// What may be in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delta {
    /// Nothing.
    Empty,
    /// A cluster: what differs is made right, what is extra is refused.
    Over,
    /// A cluster: what is extra goes.
    Replace,
}

/// What to restore, and where to.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) target: PathBuf,
    pub(crate) delta: Delta,
    pub(crate) recovery: Recovery,
    /// From where a tablespace was, or its number, to where it is to be.
    pub(crate) tablespaces: Vec<(String, PathBuf)>,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Restored {
    pub(crate) files: u64,
    pub(crate) bytes_written: u64,
    pub(crate) bytes_kept: u64,
    pub(crate) bytes_fetched: u64,
    /// What is not as it was, each in a sentence.
    pub(crate) problems: Vec<String>,
    /// The place in the log up to which there is log.
    pub(crate) log_until: Lsn,
    #[serde(skip)]
    pub(crate) id: Option<PointId>,
    #[serde(skip)]
    pub(crate) point: Option<ClusterPoint>,
}

impl Restored {
    fn add(&mut self, within: &str, report: Report) {
        self.files += report.files;
        self.bytes_written += report.bytes_written;
        self.bytes_kept += report.bytes_kept;
        self.bytes_fetched += report.bytes_fetched;
        let told = report.problems.iter();
        self.problems.extend(told.map(|problem| {
            format!("{within}/{}: {}", crate::human::name(&problem.path), problem.why)
        }));
        let more = report.problem_count.saturating_sub(report.problems.len() as u64);
        if more > 0 {
            self.problems.push(format!("{within}: and {more} more"));
        }
    }
}

/// Restores a cluster.
pub(crate) async fn restore(
    session: &Session,
    origin: &Origin,
    point: &PointRef,
    plan: &Plan,
) -> Result<Restored, Failure> {
    refuse_running(&plan.target)?;
    let Opened { scene, keys, about, lacking } = origin.open(session, point).await?;
    let About::Cluster(cluster) = about else {
        return Err(Failure::new("the point is a stretch of log, and no cluster")
            .hint("restore a point of the cluster, with --wal-from and this workload"));
    };
    plan.recovery.check(&cluster)?;
    let named = map(&cluster, &plan.tablespaces)?;
    let spaces = places(&cluster, &plan.target, &named);
    let log = match &plan.recovery.log {
        Log::Workload(workload) => chain(session, origin, workload, &cluster).await?,
        _ => Vec::new(),
    };
    let looked = (scene.clone(), plan.clone(), spaces.clone());
    blocking(move || {
        let (scene, plan, spaces) = looked;
        refuse_links(&plan.target, &spaces, &named)?;
        prepare(&scene, &plan, &spaces)
    })
    .await?;
    let mut restored = Restored { log_until: cluster.stop_lsn, ..Restored::default() };
    restored.problems = lacking;
    let within = Writer { session, scene: &scene, keys: &keys };
    let asked = (scene.clone(), spaces.keys().copied().collect::<Vec<_>>());
    let paths = blocking(move || body(&asked.0, &asked.1)).await?;
    let target = &plan.target;
    within.part(&mut restored, (b"", target), paths, Overwrite::IfDifferent).await?;
    for (oid, place) in &spaces {
        let path = format!("pg_tblspc/{oid}");
        let part = (path.as_bytes(), place.as_path());
        within.part(&mut restored, part, Vec::new(), Overwrite::IfDifferent).await?;
        link(target, *oid, place)?;
    }
    for (scene, keys, point) in &log {
        let within = Writer { session, scene, keys };
        let part = (about::LOG_DIRECTORY.as_bytes(), target.join(LOG_DIRECTORY));
        let part = (part.0, part.1.as_path());
        // The newer file of a name is the fuller one.
        within.part(&mut restored, part, Vec::new(), Overwrite::Always).await?;
        restored.log_until = point.to_lsn;
    }
    if !log.is_empty() {
        // Whoever streamed it did not know whose it is.
        give(&target.join(LOG_DIRECTORY), &target.join("PG_VERSION"))?;
    }
    plan.recovery.write(target)?;
    let control = vec![CONTROL.to_vec()];
    within.part(&mut restored, (b"", target), control, Overwrite::IfDifferent).await?;
    origin.tidy()?;
    restored.id = Some(scene.manifest.head.point);
    restored.point = Some(*cluster);
    Ok(restored)
}

/// Writes parts of one point.
struct Writer<'run> {
    session: &'run Session,
    scene: &'run Scene,
    keys: &'run AgentKeys,
}

impl Writer<'_> {
    /// Writes the directory at a path of the point, or these paths of it, into a target.
    async fn part(
        &self,
        restored: &mut Restored,
        (path, target): (&[u8], &Path),
        paths: Vec<Vec<u8>>,
        overwrite: Overwrite,
    ) -> Result<(), Failure> {
        let (scene, at) = (self.scene.clone(), path.to_vec());
        let (page, meta) = blocking(move || match scene.spot(&at)? {
            Spot::Directory { page, meta } => Ok((page, meta)),
            Spot::Other { .. } => Err(Failure::new("the point is not as its description says")),
        })
        .await?;
        let mut options = RestoreOptions::new(target);
        options.selection = Selection::new(paths, &[])?;
        options.overwrite = overwrite;
        options.keys = Some(self.keys.clone());
        let written = write(self.session, self.scene.clone(), (page, meta), options).await;
        let report = written.map_err(|failure| failure.hint("run it again with --delta"))?;
        restored.add(&String::from_utf8_lossy(path), report);
        Ok(())
    }
}

/// Where each tablespace that was named goes.
fn map(
    cluster: &ClusterPoint,
    wanted: &[(String, PathBuf)],
) -> Result<BTreeMap<u32, PathBuf>, Failure> {
    let mut spaces = BTreeMap::new();
    for (old, new) in wanted {
        let found = cluster.tablespaces.iter().find(|space| {
            space.location == Path::new(old) || space.name == *old || space.oid.to_string() == *old
        });
        let Some(space) = found else {
            let known: Vec<String> = cluster
                .tablespaces
                .iter()
                .map(|space| format!("{} ({})", space.name, space.location.display()))
                .collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Failure::usage(format!("the point has no tablespace {old}"))
                .hint(format!("it has: {known}")));
        };
        if !new.is_absolute() {
            let shown = new.display();
            return Err(Failure::usage(format!("{shown} must be an absolute path")));
        }
        spaces.insert(space.oid, new.clone());
    }
    Ok(spaces)
}

/// Looks at what is there, refuses what may not be, and takes the means to start from what is
/// about to be overwritten.
fn prepare(scene: &Scene, plan: &Plan, spaces: &BTreeMap<u32, PathBuf>) -> Result<(), Failure> {
    let mut parts = vec![(scene.tree.root(), plan.target.clone())];
    for (oid, place) in spaces {
        let path = format!("pg_tblspc/{oid}");
        let entry = scene.tree.lookup(path.as_bytes())?;
        parts.extend(entry.and_then(|entry| entry.directory_page()).map(|p| (p, place.clone())));
    }
    if plan.delta == Delta::Empty {
        if let Some((_, full)) = parts.iter().find(|(_, dir)| !is_empty(dir)) {
            let full = full.display();
            return Err(Failure::new(format!("{full} is not empty"))
                .hint("name another directory, or restore over what is there with --delta"));
        }
        return Ok(());
    }
    let mut all = Vec::new();
    for (page, dir) in parts {
        all.extend(extras(scene, page, &dir)?);
    }
    clear(&all, plan.delta == Delta::Replace)?;
    let control = plan.target.join("global/pg_control");
    match fs::remove_file(&control) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(format!("cannot remove {}", control.display()))
        }
        _ => Ok(()),
    }
}

/// Where every tablespace goes: where it was said, and otherwise beside the data directory. In
/// it they could lie only as directories, on which no server starts by itself.
fn places(
    cluster: &ClusterPoint,
    target: &Path,
    named: &BTreeMap<u32, PathBuf>,
) -> BTreeMap<u32, PathBuf> {
    let mut beside = target.as_os_str().to_owned();
    beside.push(".tablespaces");
    let beside = PathBuf::from(beside);
    let place = |oid: u32| named.get(&oid).cloned().unwrap_or_else(|| beside.join(oid.to_string()));
    cluster.tablespaces.iter().map(|space| (space.oid, place(space.oid))).collect()
}

/// A tablespace that is linked in the target is written where it lies or where a person says.
fn refuse_links(
    target: &Path,
    spaces: &BTreeMap<u32, PathBuf>,
    named: &BTreeMap<u32, PathBuf>,
) -> Result<(), Failure> {
    for entry in fs::read_dir(target.join("pg_tblspc")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(oid) = name.to_str().and_then(|oid| oid.parse::<u32>().ok()) else { continue };
        let Ok(to) = fs::read_link(entry.path()) else { continue };
        if !named.contains_key(&oid) && spaces.get(&oid).is_some_and(|place| *place != to) {
            let to = to.display();
            return Err(Failure::new(format!("tablespace {oid} is linked to {to} there"))
                .hint(format!("say where it is to go: --tablespace {oid}={to}")));
        }
    }
    Ok(())
}

/// All paths of the point but what comes last, and what goes elsewhere.
fn body(scene: &Scene, elsewhere: &[u32]) -> Result<Vec<Vec<u8>>, Failure> {
    let names = |page: ChunkId| -> Result<Vec<Vec<u8>>, Failure> {
        let mut names = Vec::new();
        for entry in scene.tree.directory(page) {
            names.push(entry?.name);
        }
        Ok(names)
    };
    let mut paths = Vec::new();
    for top in names(scene.tree.root())? {
        let is_split = top == b"global" || (top == SPACES && !elsewhere.is_empty());
        let page = scene.tree.lookup(&top)?.and_then(|entry| entry.directory_page());
        let Some(page) = page.filter(|_| is_split) else {
            paths.push(top);
            continue;
        };
        for name in names(page)? {
            let oid = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
            let gone = oid.is_some_and(|oid: u32| top == SPACES && elsewhere.contains(&oid));
            let path = [&*top, b"/", &name].concat();
            if !gone && path != CONTROL {
                paths.push(path);
            }
        }
    }
    Ok(paths)
}

/// Links a tablespace that was put elsewhere.
fn link(target: &Path, oid: u32, place: &Path) -> Result<(), Failure> {
    let dir = target.join("pg_tblspc");
    if !dir.exists() {
        fs::DirBuilder::new().mode(0o700).create(&dir).doing("cannot make pg_tblspc")?;
        own_like(&dir, &target.join("PG_VERSION"))?;
    }
    let link = dir.join(oid.to_string());
    let shown = link.display().to_string();
    match fs::read_link(&link) {
        Ok(to) if to == place => return Ok(()),
        Ok(_) => fs::remove_file(&link).doing(format!("cannot replace {shown}"))?,
        Err(_) => {}
    }
    symlink(place, &link).doing(format!("cannot link {shown}"))
}

/// The points of the log that lead on from a cluster, oldest first, without a gap.
async fn chain(
    session: &Session,
    origin: &Origin,
    workload: &WorkloadName,
    cluster: &ClusterPoint,
) -> Result<Vec<(Scene, AgentKeys, LogPoint)>, Failure> {
    let mut chain = Vec::new();
    let mut reached = cluster.stop_lsn;
    for point in origin.points_of(workload).await? {
        let opened = origin.open_known(session, point).await?;
        let About::Log(log) = opened.about else {
            return Err(Failure::usage(format!("the points of {workload} are no log"))
                .hint("name a workload whose mode is \"wal\""));
        };
        if log.system_identifier != cluster.system_identifier {
            let (its, own) = (log.system_identifier, cluster.system_identifier);
            return Err(Failure::new(format!(
                "the log of {workload} is that of system {its}, the cluster is system {own}"
            )));
        }
        if log.to_lsn <= cluster.start_lsn {
            continue;
        }
        if log.from_lsn > reached {
            let from = log.from_lsn;
            return Err(Failure::new(format!(
                "the log of {workload} has a gap: nothing holds it from {reached} to {from}"
            ))
            .hint("restore a point of the cluster that is newer than the gap"));
        }
        reached = reached.max(log.to_lsn);
        chain.push((opened.scene, opened.keys, log));
    }
    match chain.is_empty() {
        true => Err(Failure::new(format!(
            "no point of {workload} reaches beyond {}, where the cluster's point ends",
            cluster.stop_lsn
        ))
        .hint("`strongroom protect` makes one; without --wal-from, the point's own log is used")),
        false => Ok(chain),
    }
}
