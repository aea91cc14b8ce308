//! A small tree protected by two sites, with what tests of bad days need: restoring with a report
//! of what did not come, damaging files, starting and stopping nodes. Nothing here decides what
//! is right; the tests do.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use strongroom_agent::recover::item;
use strongroom_agent::restore::compare::compare;
use strongroom_agent::restore::{RestoreOptions, Restorer};
use strongroom_node::ask::AskError;
use strongroom_node::reader::RemotePoint;
use strongroom_node::scrubber::ScrubSettings;
use strongroom_protocol::admin::{
    AuditRow, EventRow, JobRow, Live, Request, Response, StatusReport, VerifiedReport, VerifyDepth,
};
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{Chain, Clock, JobId, PointId, SystemClock};
use strongroom_store::tree::Tree;
use tempfile::TempDir;

use crate::seeded::Seeded;
use crate::site::{Running, TwoSites, name, policy};

/// The workload of every lab.
pub const TREE: &str = "tree@host1";

/// What is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cast {
    /// A coordinator and an agent.
    OneSite,
    /// A proxy with a library too.
    TwoSites,
}

/// Two sites with a tree to protect, and the nodes that run.
pub struct Lab {
    pub sites: TwoSites,
    pub source: PathBuf,
    pub coordinator: Option<Running>,
    pub agent: Option<Running>,
    pub proxy: Option<Running>,
    pub dir: TempDir,
    cast: Cast,
}

/// What a restore did not bring, in words, each beginning with the path.
pub type Problems = Vec<String>;

impl Lab {
    /// Everything runs, the policy is applied; nothing is protected yet.
    pub async fn start(cast: Cast) -> anyhow::Result<Self> {
        Self::start_with(cast, Arc::new(SystemClock), 24 * 3600).await
    }

    /// The same with a clock and a life of certificates of the test's choice.
    pub async fn start_with(
        cast: Cast,
        clock: Arc<dyn Clock>,
        certificate_seconds: u32,
    ) -> anyhow::Result<Self> {
        if let Ok(levels) = std::env::var("STRONGROOM_LOG") {
            strongroom_node::log::start(strongroom_node::log::LogStyle::Text, &levels);
        }
        let dir = tempfile::tempdir()?;
        let source = dir.path().join("source");
        std::fs::create_dir(&source)?;
        let sites = TwoSites::make_with(dir.path(), clock, certificate_seconds)?;
        let (coordinator, agent, proxy) = (None, None, None);
        let mut lab = Self { sites, source, coordinator, agent, proxy, dir, cast };
        lab.start_coordinator()?;
        lab.sites.enrol_agent("host1").await?;
        lab.agent = Some(lab.sites.start_agent("host1")?);
        if cast == Cast::TwoSites {
            lab.sites.introduce_proxy().await?;
            lab.proxy = Some(lab.sites.start_proxy()?);
        }
        lab.everybody().await?;
        lab.sites.apply(&lab.policy()).await?;
        Ok(lab)
    }

    /// The policy in force.
    pub fn policy(&self) -> String {
        match self.cast {
            Cast::TwoSites => policy(&self.source),
            Cast::OneSite => {
                let whole = policy(&self.source);
                let (head, rest) = whole.split_once("[policy.standard.copy").unwrap_or_default();
                let workload = rest.find("[workload").map_or("", |at| rest.split_at(at).1);
                format!("{head}{workload}")
            }
        }
    }

    /// Waits until every node is connected.
    pub async fn everybody(&self) -> anyhow::Result<()> {
        self.sites.await_nodes(if self.cast == Cast::TwoSites { 2 } else { 1 }).await
    }

    /// Lets coordinator and proxy scrub as `settings` say, from now on.
    pub async fn set_scrub(&mut self, settings: ScrubSettings) -> anyhow::Result<()> {
        self.stop_coordinator().await?;
        self.sites.set_scrub("coordinator", settings)?;
        self.coordinator = Some(restarted(|| self.sites.start_coordinator()).await?);
        if self.cast == Cast::TwoSites {
            self.restart_proxy(settings).await?;
        }
        self.everybody().await
    }

    /// Lets the proxy alone scrub as `settings` say.
    pub async fn restart_proxy(&mut self, settings: ScrubSettings) -> anyhow::Result<()> {
        self.stop_proxy().await?;
        self.sites.set_scrub("proxy", settings)?;
        self.proxy = Some(restarted(|| self.sites.start_proxy()).await?);
        self.everybody().await
    }

    pub fn start_coordinator(&mut self) -> anyhow::Result<()> {
        self.coordinator = Some(self.sites.start_coordinator()?);
        Ok(())
    }

    pub async fn stop_coordinator(&mut self) -> anyhow::Result<()> {
        stop(&mut self.coordinator).await
    }

    pub async fn stop_proxy(&mut self) -> anyhow::Result<()> {
        stop(&mut self.proxy).await
    }

    pub async fn stop_agent(&mut self) -> anyhow::Result<()> {
        stop(&mut self.agent).await
    }

    pub fn start_proxy(&mut self) -> anyhow::Result<()> {
        self.proxy = Some(self.sites.start_proxy()?);
        Ok(())
    }

    pub fn start_agent(&mut self) -> anyhow::Result<()> {
        self.agent = Some(self.sites.start_agent("host1")?);
        Ok(())
    }

    /// Writes a file of random bytes below the source.
    pub fn write(&self, name: &str, bytes: usize, seed: u64) -> anyhow::Result<()> {
        let path = self.source.join(name);
        std::fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        Ok(std::fs::write(path, random(bytes, seed))?)
    }

    /// Makes a point and returns it.
    pub async fn point(&self) -> anyhow::Result<PointId> {
        let job = self.sites.protect(TREE).await?;
        if job.state != "succeeded" {
            bail!("the job ended otherwise: {job:?}");
        }
        job.point.context("a job without its point")
    }

    /// Begins a job and does not wait for it.
    pub async fn begin(&self) -> anyhow::Result<JobId> {
        let workload = name(TREE);
        match self.sites.ask("coordinator", &Request::Protect { workload }).await? {
            Response::Job(job) => Ok(job.id),
            other => bail!("no job: {other:?}"),
        }
    }

    /// A job with its journal.
    pub async fn job(&self, job: JobId) -> anyhow::Result<(JobRow, Vec<EventRow>)> {
        match self.sites.ask("coordinator", &Request::Job { job }).await? {
            Response::Journal { job, events } => Ok((job, events)),
            other => bail!("no journal: {other:?}"),
        }
    }

    /// Waits for the end of a job.
    pub async fn ended(&self, job: JobId) -> anyhow::Result<JobRow> {
        self.sites
            .wait_for("the end of the job", async |_| {
                let row = self.job(job).await.ok().map(|(row, _)| row);
                Ok(row.filter(|row| row.ended.is_some()))
            })
            .await
    }

    /// Jobs and copies, newest first.
    pub async fn jobs(&self) -> anyhow::Result<Vec<JobRow>> {
        match self.sites.ask("coordinator", &Request::Jobs { live: Live::All, most: 500 }).await? {
            Response::Jobs(jobs) => Ok(jobs),
            other => bail!("no jobs: {other:?}"),
        }
    }

    /// A node's status.
    pub async fn status(&self, node: &str) -> anyhow::Result<StatusReport> {
        match self.sites.ask(node, &Request::Status).await? {
            Response::Status(status) => Ok(status),
            other => bail!("no status: {other:?}"),
        }
    }

    /// Reads everything at a node back.
    pub async fn verify(&self, node: &str, depth: VerifyDepth) -> anyhow::Result<VerifiedReport> {
        match self.sites.ask(node, &Request::Verify { depth }).await? {
            Response::Verified(report) => Ok(report),
            other => bail!("not verified: {other:?}"),
        }
    }

    /// The newest audit records.
    pub async fn audit(&self) -> anyhow::Result<Vec<AuditRow>> {
        match self.sites.ask("coordinator", &Request::Audit { most: 1000 }).await? {
            Response::Audit { broken_at: None, records, .. } => Ok(records),
            other => bail!("no audit: {other:?}"),
        }
    }

    /// Waits for an audit record of an action with `text` somewhere in it.
    pub async fn audited(&self, action: &str, text: &str) -> anyhow::Result<AuditRow> {
        let what = format!("an audit record {action} with {text:?}");
        self.sites
            .wait_for(&what, async |_| {
                let fits = |row: &AuditRow| {
                    let all = format!("{} {} {}", row.actor, row.subject, row.detail);
                    row.action == action && all.contains(text)
                };
                Ok(self.audit().await?.into_iter().rev().find(fits))
            })
            .await
    }

    /// Restores from a node into a new directory; what did not come is returned.
    pub async fn restore(&self, node: &str, point: PointId) -> anyhow::Result<(PathBuf, Problems)> {
        let target = tempfile::Builder::new().prefix("to-").tempdir_in(self.dir.path())?.keep();
        let problems = self.restore_into(node, point, &target).await?;
        Ok((target, problems))
    }

    /// Restores from a node into a directory.
    pub async fn restore_into(
        &self,
        node: &str,
        point: PointId,
        target: &Path,
    ) -> anyhow::Result<Problems> {
        let link = self.sites.operator(node).await?;
        let (manifest, source) = RemotePoint::open(&link, point, None).await?;
        let target = target.to_owned();
        let report = tokio::task::spawn_blocking(move || {
            let tree = Tree::new(source, manifest.body.root);
            let (page, meta) = item(&tree)?;
            let options = RestoreOptions::new(target);
            let restorer = Restorer::new(options, Arc::new(AtomicBool::new(false)));
            anyhow::Ok(restorer.run(&tree, page, Some(meta))?)
        });
        let report = report.await??;
        link.close("done");
        let text = |p: &strongroom_agent::restore::Problem| {
            format!("{}: {}", p.path.escape_ascii(), p.why)
        };
        Ok(report.problems.iter().map(text).collect())
    }

    /// Restores and demands the tree as it is in `expected`.
    pub async fn restores_as(
        &self,
        node: &str,
        point: PointId,
        expected: &Path,
    ) -> anyhow::Result<()> {
        let (target, problems) = self.restore(node, point).await?;
        let different = differences(expected, &target)?;
        if !problems.is_empty() || !different.is_empty() {
            bail!("problems {problems:?}, differences {different:?}");
        }
        Ok(std::fs::remove_dir_all(target)?)
    }

    /// Asks for something that must be refused.
    pub async fn refused(&self, node: &str, request: &Request) -> anyhow::Result<Refusal> {
        match self.sites.ask(node, request).await {
            Ok(answer) => bail!("not refused: {answer:?}"),
            Err(error) => refusal(&error),
        }
    }
}

/// The refusal in an error.
pub fn refusal(error: &anyhow::Error) -> anyhow::Result<Refusal> {
    match error.downcast_ref::<AskError>() {
        Some(AskError::Refused(refusal)) => Ok(refusal.clone()),
        _ => bail!("no refusal: {error:?}"),
    }
}

/// An error with everything below it, in one line.
pub fn told<E: std::error::Error>(error: &E) -> String {
    Chain(error).to_string()
}

/// On a busy machine the socket of the node before is let go a little after its end.
async fn restarted(start: impl Fn() -> anyhow::Result<Running>) -> anyhow::Result<Running> {
    for _ in 0..50 {
        match start() {
            Err(error) if format!("{error:#}").contains("in use") => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => return other,
        }
    }
    start()
}

async fn stop(node: &mut Option<Running>) -> anyhow::Result<()> {
    node.take().context("it does not run")?.stop().await
}

/// Paths below two directories that differ, with how.
pub fn differences(left: &Path, right: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    compare(left, right, &mut |difference| {
        let path = difference.path.escape_ascii().to_string();
        found.push(format!("{path} {:?} {}", difference.aspect, difference.detail));
    })?;
    Ok(found)
}

/// Bytes that do not compress.
pub fn random(bytes: usize, seed: u64) -> Vec<u8> {
    let mut chance = Seeded::new(seed);
    (0..bytes.div_ceil(8)).flat_map(|_| chance.word().to_le_bytes()).take(bytes).collect()
}

/// Every file below a directory, the largest first.
pub fn files_below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut waiting) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => waiting.push(entry.path()),
                false => found.push((entry.metadata()?.len(), entry.path())),
            }
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Turns one bit of a file, in place, at a part of its length in hundredths.
pub fn flip(path: &Path, hundredths: u64) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let at = file.metadata()?.len() * hundredths / 100;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(&[byte[0] ^ 0x10])?)
}

/// Cuts a file to a part of its length in hundredths.
pub fn truncate(path: &Path, hundredths: u64) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    Ok(file.set_len(file.metadata()?.len() * hundredths / 100)?)
}

/// Copies a directory with everything below it.
pub fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    if !done.success() {
        bail!("cp -a {} {} failed", from.display(), to.display());
    }
    Ok(())
}
