//! Proves a point of a cluster: it is restored into a scratch directory, a server starts from
//! it and recovers, its own checks find nothing wrong, and a question of the user's is answered.
//! The scratch is removed, whatever came of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use strongroom_agent::workload::postgres::about::ClusterPoint;
use strongroom_agent::workload::postgres::programs::Programs;
use strongroom_protocol::PointId;
use strongroom_protocol::admin::PointRef;
use strongroom_protocol::control::Shown;

use super::origin::Origin;
use super::recovery::Recovery;
use super::scratch::{Trying, ready, try_out};
use super::server::{Scratch, last_lines};
use crate::failure::{Failure, While};
use crate::proving::Tried;
use crate::session::{Session, blocking};

/// What is wanted of a proof.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    /// Where the scratch directory is made; the system's place otherwise.
    pub(crate) scratch: Option<PathBuf>,
    /// Where the programs of PostgreSQL are.
    pub(crate) bin: Option<PathBuf>,
    pub(crate) recovery: Recovery,
    pub(crate) database: String,
    pub(crate) queries: Vec<String>,
    /// A superuser of the cluster.
    pub(crate) superuser: String,
    /// Longest the recovery may take.
    pub(crate) patience: Duration,
}

/// What was proven.
#[derive(Debug, Serialize)]
pub(crate) struct Proof {
    pub(crate) point: PointId,
    pub(crate) version: String,
    pub(crate) seconds_to_restore: f64,
    /// From the start of the server until it took writes.
    pub(crate) seconds_to_recover: f64,
    pub(crate) bytes_written: u64,
    /// In a sentence each: what was checked, and what came of it.
    pub(crate) checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) passed: bool,
    pub(crate) said: String,
}

impl Proof {
    /// Whether nothing was found wrong.
    pub(crate) fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// What came of it, for the books.
    pub(crate) fn tried(&self) -> Tried {
        let Self { version, checks, .. } = self;
        let (outcome, found) = match checks.iter().find(|check| !check.passed) {
            Some(check) => (Shown::Failed, format!("{}: {}", check.what, check.said.trim())),
            None => (Shown::Held, format!("{} checks passed", checks.len())),
        };
        let took = Duration::from_secs_f64(self.seconds_to_restore + self.seconds_to_recover);
        Tried { point: self.point, outcome, took, detail: format!("postgresql {version}: {found}") }
    }

    fn check(&mut self, what: impl Into<String>, passed: bool, said: impl Into<String>) {
        self.checks.push(Check { what: what.into(), passed, said: said.into() });
    }
}

/// Proves a point.
pub(crate) async fn prove(
    session: &Session,
    origin: &Origin,
    point: &PointRef,
    trial: Trial,
) -> Result<Proof, Failure> {
    let scratch = trial.scratch.as_deref();
    let Trying { dir, data, restored, cluster, seconds } =
        try_out(session, origin, point, (scratch, &trial.recovery)).await?;
    let id = restored.id.ok_or_else(|| Failure::new("the point has no description"))?;
    let mut proof = Proof {
        point: id,
        version: cluster.version.clone(),
        seconds_to_restore: seconds,
        seconds_to_recover: 0.0,
        bytes_written: restored.bytes_written,
        checks: Vec::new(),
    };
    let problems = restored.problems.join("; ");
    proof.check("restored whole", problems.is_empty(), problems);
    let (proof, removed) = blocking(move || {
        let proof = examine(proof, dir.path(), &data, &cluster, &trial);
        // Also after a failure: a server has ended by now.
        Ok((proof, dir.close()))
    })
    .await?;
    let proof = proof?;
    removed.doing("the scratch directory stays")?;
    Ok(proof)
}

fn examine(
    mut proof: Proof,
    place: &Path,
    data: &Path,
    cluster: &ClusterPoint,
    trial: &Trial,
) -> Result<Proof, Failure> {
    let programs = ready(place, data, (cluster.major, trial.bin.as_deref()))?;
    let began = Instant::now();
    let how = (trial.superuser.as_str(), trial.patience);
    let server = match Scratch::start(&programs, data, place, cluster, how) {
        Ok(server) => server,
        Err(failure) => {
            proof.check("started and recovered", false, failure.to_string());
            return Ok(proof);
        }
    };
    proof.seconds_to_recover = began.elapsed().as_secs_f64();
    let until = server.query("postgres", "SELECT timeline_id FROM pg_control_checkpoint()")?;
    proof.check("started and recovered", true, format!("timeline {}", until.trim()));
    structure(&mut proof, &programs, &server)?;
    for question in &trial.queries {
        let (passed, said) = match server.query(&trial.database, question) {
            Ok(said) => (true, said.trim().to_owned()),
            Err(failure) => (false, failure.to_string()),
        };
        proof.check(format!("query {question}"), passed, said);
    }
    server.stop()?;
    checksums(&mut proof, &programs, data, cluster)?;
    Ok(proof)
}

/// The server's own check of every table and index.
fn structure(proof: &mut Proof, programs: &Programs, server: &Scratch) -> Result<(), Failure> {
    if !programs.has("pg_amcheck") {
        proof.check("pg_amcheck", true, "not in this version: left out");
        return Ok(());
    }
    let words = ["--all", "--install-missing", "--heapallindexed", "-j", "2"];
    let output = server.client("pg_amcheck", &words)?;
    let said = [&*output.stdout, &*output.stderr].concat();
    let said = last_lines(&String::from_utf8_lossy(&said));
    proof.check("pg_amcheck", output.status.success(), said);
    Ok(())
}

/// Every page by its checksum, with the server stopped.
fn checksums(
    proof: &mut Proof,
    programs: &Programs,
    data: &Path,
    cluster: &ClusterPoint,
) -> Result<(), Failure> {
    if !cluster.checksums {
        proof.check("pg_checksums", true, "the cluster has none: left out");
        return Ok(());
    }
    let data = data.display().to_string();
    let output = programs.command(&["pg_checksums", "--check", "-D", &data]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let scanned = said.lines().find(|line| line.contains("Blocks scanned")).unwrap_or_default();
    let wrong = last_lines(&String::from_utf8_lossy(&output.stderr));
    let passed = output.status.success();
    proof.check("pg_checksums", passed, if passed { scanned.to_owned() } else { wrong });
    Ok(())
}
