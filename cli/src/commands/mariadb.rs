//! `mariadb`: restore a server's files ready to be started on, and prove a point by starting a
//! server from it; from a node, or from media without any node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use strongroom_protocol::admin::PointRef;

use crate::commands::restore::CopyArgs;
use crate::failure::{Ending, Failure};
use crate::human;
use crate::mariadb::{Proof, Restored, Trial, prove, restore};
use crate::origin::Origin;
use crate::point_at::point;
use crate::proving::{RecordArgs, tell};
use crate::session::Session;

/// Restore or prove a server of MariaDB
#[derive(Args, Debug)]
pub(crate) struct MariadbArgs {
    #[command(subcommand)]
    order: MariadbOrder,
}

#[derive(Subcommand, Debug)]
enum MariadbOrder {
    Prove(MariadbProveArgs),
    Restore(MariadbRestoreArgs),
}

/// Which point, and from where
#[derive(Args, Debug)]
struct PointArgs {
    /// A point of a server: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    #[command(flatten)]
    copy: CopyArgs,
    /// The mariabackup of the server's version, if not where programs are
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Restore a server's data directory on this host
#[derive(Args, Debug)]
struct MariadbRestoreArgs {
    #[command(flatten)]
    from: PointArgs,
    /// The data directory: empty, or not there yet
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Start a scratch server from a point, check it, and remove it again
#[derive(Args, Debug)]
struct MariadbProveArgs {
    #[command(flatten)]
    from: PointArgs,
    #[command(flatten)]
    record: RecordArgs,
    /// Make the scratch directory in this one
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Ask this too; may be repeated
    #[arg(long, value_name = "SQL")]
    query: Vec<String>,
    /// Longest the recovery may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    patience: u64,
}

impl MariadbArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        match self.order {
            MariadbOrder::Prove(args) => args.run(session).await,
            MariadbOrder::Restore(args) => args.run(session).await,
        }
    }
}

impl MariadbRestoreArgs {
    async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let target = std::path::absolute(&self.to)?;
        let origin = Origin::of(&self.from.copy, session, &target).await?;
        let how = (target.as_path(), self.from.program);
        let restored = restore(session, &origin, &self.from.point, how).await?;
        session.out.either(&restored, |_| told(&target, &restored))?;
        for problem in &restored.problems {
            session.out.remark(&format!("not as it was: {problem}"));
        }
        let whole = restored.problems.is_empty();
        Ok(if whole { Ending::Done } else { Ending::Gaps })
    }
}

fn told(target: &Path, restored: &Restored) -> String {
    let point = &restored.point;
    let binlog = match &point.binlog {
        Some(binlog) => format!("its binary log was at {}:{}", binlog.file, binlog.position),
        None => "it wrote no binary log".to_owned(),
    };
    format!(
        "restored {} files of MariaDB {} into {}: {} written; {binlog}, GTID {:?}\n\
         start the server on it: it recovers by itself\n",
        human::count(restored.files),
        point.version,
        target.display(),
        human::bytes(restored.bytes_written),
        point.gtid_binlog,
    )
}

impl MariadbProveArgs {
    async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let place = self.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let origin = Origin::of(&self.from.copy, session, &place.join("strongroom-proof")).await?;
        let trial = Trial {
            scratch: self.scratch,
            program: self.from.program,
            queries: self.query,
            patience: Duration::from_secs(self.patience),
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
        "mariadb {}: {} restored in {:.1} s, recovered in {:.1} s",
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
