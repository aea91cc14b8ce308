//! `postgres`: restore a cluster so that it recovers to where it is wanted, prove a point by
//! starting a server from it, take a part out of it, and hand the log to a server that recovers;
//! from a node, or from media without any node.

mod dump;
mod fetch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use strongroom_agent::workload::postgres::lsn::Lsn;
use strongroom_protocol::WorkloadName;
use strongroom_protocol::admin::PointRef;

use crate::commands::restore::{CopyArgs, beside, copy_site};
use crate::failure::{Ending, Failure};
use crate::human;
use crate::point_at::point;
use crate::postgres::{
    Delta, Log, Origin, Plan, Proof, Recovery, Restored, Trial, Until, prove, restore,
};
use crate::proving::{RecordArgs, tell};
use crate::session::Session;

use dump::DumpArgs;
use fetch::FetchArgs;
pub(crate) use fetch::{BROKEN_OFF, WORD as WAL_FETCH};

/// Restore or prove a cluster of PostgreSQL, or take something out of its points
#[derive(Args, Debug)]
pub(crate) struct PostgresArgs {
    #[command(subcommand)]
    order: PostgresOrder,
}

#[derive(Subcommand, Debug)]
enum PostgresOrder {
    Dump(DumpArgs),
    Prove(ProveArgs),
    Restore(RestoreArgs),
    #[command(name = WAL_FETCH)]
    WalFetch(FetchArgs),
}

/// Where the point is read from, and how far the cluster is to recover
#[derive(Args, Debug)]
struct FromArgs {
    /// A point of a cluster: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    #[command(flatten)]
    copy: CopyArgs,
    /// Go on through the log that the points of this workload hold
    #[arg(long, value_name = "WORKLOAD", conflicts_with = "wal")]
    wal_from: Option<WorkloadName>,
    /// Go on through the files of the log in this directory
    #[arg(long, value_name = "DIR")]
    wal: Option<PathBuf>,
    #[command(flatten)]
    until: UntilArgs,
}

/// How far to recover; as far as there is log otherwise
#[derive(Args, Debug)]
#[group(multiple = false)]
struct UntilArgs {
    /// As far as there is log
    #[arg(long)]
    latest: bool,
    /// To this moment, as PostgreSQL reads it: "2026-11-26 04:00:00+00"
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// To this place in the log
    #[arg(long, value_name = "LSN")]
    lsn: Option<Lsn>,
    /// To the commit of this transaction
    #[arg(long, value_name = "XID")]
    xid: Option<u64>,
    /// To this restore point (`pg_create_restore_point`)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Restore a cluster into a directory of this host
#[derive(Args, Debug)]
struct RestoreArgs {
    #[command(flatten)]
    from: FromArgs,
    /// The data directory
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Restore over the cluster that is there, writing only what differs
    #[arg(long)]
    delta: bool,
    /// With --delta: remove what lies there and is not in the point
    #[arg(long, requires = "delta")]
    remove_extra: bool,
    /// Put a tablespace (its place, name or number) there; otherwise they go beside the data
    /// directory
    #[arg(long, value_name = "OLD=NEW", value_parser = mapping)]
    tablespace: Vec<(String, PathBuf)>,
}

/// Start a scratch server from a point, check it, and remove it again
#[derive(Args, Debug)]
struct ProveArgs {
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    record: RecordArgs,
    #[command(flatten)]
    scratch: ScratchArgs,
    /// Ask this too; may be repeated
    #[arg(long, value_name = "SQL")]
    query: Vec<String>,
    /// Where to ask it
    #[arg(long, value_name = "DATABASE", default_value = "postgres")]
    database: String,
}

// A doc comment here would stand as what the command is for, in each that is made of it.
#[derive(Args, Debug)]
struct ScratchArgs {
    /// Make the scratch directory in this one
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Where the programs of PostgreSQL are
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// A superuser of the cluster
    #[arg(long, value_name = "NAME", default_value = "postgres")]
    superuser: String,
    /// Longest the recovery may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    patience: u64,
}

impl ScratchArgs {
    /// Beside what packs from media are put.
    fn beside(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir).join("strongroom-proof")
    }
}

fn mapping(text: &str) -> Result<(String, PathBuf), String> {
    let pair = text.split_once('=').filter(|(old, new)| !old.is_empty() && !new.is_empty());
    let (old, new) = pair.ok_or("write OLD=NEW")?;
    Ok((old.to_owned(), PathBuf::from(new)))
}

/// Where points are read from; packs from media lie beside `target` meanwhile.
async fn origin(session: &Session, copy: &CopyArgs, target: &Path) -> Result<Origin, Failure> {
    if let Some(media) = &copy.media {
        let staging = copy.staging.clone().map_or_else(|| beside(target), Ok)?;
        let opener = Arc::new(copy.opener.opener()?);
        return Ok(Origin::Media { media: media.clone(), opener, staging });
    }
    let site = copy_site(session, copy.from.as_deref())?;
    Ok(Origin::Node(Box::new(session.contact_at(site.as_ref()).await?)))
}

impl FromArgs {
    async fn origin(&self, session: &Session, target: &Path) -> Result<Origin, Failure> {
        origin(session, &self.copy, target).await
    }

    fn recovery(&self) -> Result<Recovery, Failure> {
        let UntilArgs { time, lsn, xid, name, .. } = &self.until;
        let until = time.clone().map(Until::Time);
        let until = until.or_else(|| lsn.map(Until::Lsn)).or_else(|| xid.map(Until::Xid));
        let until = until.or_else(|| name.clone().map(Until::Name)).unwrap_or(Until::Latest);
        let log = match (&self.wal_from, &self.wal) {
            (Some(workload), _) => Log::Workload(workload.clone()),
            (None, Some(dir)) => Log::Directory(std::path::absolute(dir)?),
            (None, None) => Log::Own,
        };
        Ok(Recovery { until, log })
    }
}

impl PostgresArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        match self.order {
            PostgresOrder::Dump(args) => args.run(session).await,
            PostgresOrder::Prove(args) => args.run(session).await,
            PostgresOrder::Restore(args) => args.run(session).await,
            PostgresOrder::WalFetch(args) => args.run(session).await,
        }
    }
}

impl RestoreArgs {
    async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let target = std::path::absolute(&self.to)?;
        let origin = self.from.origin(session, &target).await?;
        let delta = match (self.delta, self.remove_extra) {
            (true, true) => Delta::Replace,
            (true, false) => Delta::Over,
            (false, _) => Delta::Empty,
        };
        let recovery = self.from.recovery()?;
        let plan = Plan { target, delta, recovery, tablespaces: self.tablespace };
        let restored = restore(session, &origin, &self.from.point, &plan).await?;
        session.out.either(&restored, |_| told(&plan, &restored))?;
        for problem in &restored.problems {
            session.out.remark(&format!("not as it was: {problem}"));
        }
        let whole = restored.problems.is_empty();
        Ok(if whole { Ending::Done } else { Ending::Gaps })
    }
}

fn told(plan: &Plan, restored: &Restored) -> String {
    let kept = match restored.bytes_kept {
        0 => String::new(),
        bytes => format!(", {} were right already", human::bytes(bytes)),
    };
    format!(
        "restored {} files into {}: {} written{kept}; there is log up to {}\n\
         start the server on it: it recovers, and then takes writes\n",
        human::count(restored.files),
        plan.target.display(),
        human::bytes(restored.bytes_written),
        restored.log_until,
    )
}

impl ProveArgs {
    async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let origin = self.from.origin(session, &self.scratch.beside()).await?;
        let trial = Trial {
            scratch: self.scratch.scratch,
            bin: self.scratch.bin,
            recovery: self.from.recovery()?,
            database: self.database,
            queries: self.query,
            superuser: self.scratch.superuser,
            patience: Duration::from_secs(self.scratch.patience),
        };
        let proof = prove(session, &origin, &self.from.point, trial).await?;
        session.out.either(&proof, |_| proven(&proof))?;
        let told = tell(session, origin.contact(), self.record, proof.tried()).await;
        match proof.holds() {
            true => Ok(told),
            false => Err(Failure::new("the point is not proven")
                .hint("`strongroom verify` says whether its copies are whole")),
        }
    }
}

fn proven(proof: &Proof) -> String {
    let mut lines = vec![format!(
        "postgresql {}: {} restored in {:.1} s, recovered in {:.1} s",
        proof.version,
        human::bytes(proof.bytes_written),
        proof.seconds_to_restore,
        proof.seconds_to_recover,
    )];
    for check in &proof.checks {
        let outcome = if check.passed { "passed" } else { "FAILED" };
        let said = check.said.trim();
        let colon = if said.is_empty() { "" } else { ": " };
        lines.push(format!("{outcome}  {}{colon}{said}", check.what));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_is_mapped_by_two_words() {
        let (old, new) = mapping("/old/space=/new/a=b").unwrap();
        assert_eq!((old.as_str(), new), ("/old/space", PathBuf::from("/new/a=b")));
        for text in ["", "=", "/old", "/old=", "=/new"] {
            assert!(mapping(text).is_err(), "{text}");
        }
    }
}
