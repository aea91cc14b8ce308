//! A server of MariaDB from a point: its files put back and made ready for a server, or only
//! proven, by a scratch server that is removed again. Refuses a directory that is not empty.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;
use strongroom_agent::restore::RestoreOptions;
use strongroom_agent::workload::mariadb::about::{self, About, ServerPoint, Way};
use strongroom_agent::workload::mariadb::program;
use strongroom_agent::workload::mariadb::server::{OwnServer, as_owner, last_words};
use strongroom_protocol::PointId;
use strongroom_protocol::admin::PointRef;
use strongroom_protocol::control::Shown;

use crate::failure::{Failure, While};
use crate::origin::Origin;
use crate::proving::Tried;
use crate::restoring::write;
use crate::scene::{Scene, Spot};
use crate::session::{Session, blocking};

/// What the description of a point may take.
const ABOUT_BYTES_MAX: u64 = 1 << 20;
/// Settings of the point's server that a scratch server needs as they were.
const NEEDED: [&str; 3] = ["innodb_data_file_path", "innodb_page_size", "lower_case_table_names"];

/// What came of a restore.
#[derive(Debug, Serialize)]
pub(crate) struct Restored {
    pub(crate) files: u64,
    pub(crate) bytes_written: u64,
    /// What is not as it was, each in a sentence.
    pub(crate) problems: Vec<String>,
    #[serde(skip)]
    pub(crate) id: PointId,
    pub(crate) point: ServerPoint,
}

/// What was proven.
#[derive(Debug, Serialize)]
pub(crate) struct Proof {
    pub(crate) point: PointId,
    pub(crate) version: String,
    pub(crate) way: Way,
    pub(crate) bytes_written: u64,
    pub(crate) seconds_to_restore: f64,
    /// From the start of the server until it answered.
    pub(crate) seconds_to_recover: f64,
    pub(crate) checks: Vec<Check>,
}

/// One check, and what came of it.
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
        Tried { point: self.point, outcome, took, detail: format!("mariadb {version}: {found}") }
    }

    fn check(&mut self, what: impl Into<String>, passed: bool, said: impl Into<String>) {
        self.checks.push(Check { what: what.into(), passed, said: said.into() });
    }
}

fn read_about(scene: &Scene) -> Result<ServerPoint, Failure> {
    let not_one = || {
        let point = scene.manifest.head.point.short();
        Failure::new(format!("point {point} is not of MariaDB"))
            .hint("`strongroom points` lists the points of every workload")
    };
    let Ok(Spot::Other { entry, .. }) = scene.spot(about::NAME.as_bytes()) else {
        return Err(not_one());
    };
    let bytes = scene.tree.read_file(&entry, 0, ABOUT_BYTES_MAX)?;
    let About::Server(point) = serde_json::from_slice(&bytes).map_err(|_| not_one())?;
    Ok(*point)
}

/// Puts the files of a server into `target`, ready to be started on.
pub(crate) async fn restore(
    session: &Session,
    origin: &Origin,
    point: &PointRef,
    (target, named): (&Path, Option<PathBuf>),
) -> Result<Restored, Failure> {
    if fs::read_dir(target).is_ok_and(|mut listing| listing.next().is_some()) {
        let shown = target.display();
        return Err(Failure::new(format!("{shown} is not empty"))
            .hint("a server finds files there that the point does not have: name another"));
    }
    let (scene, keys, lacking) = origin.open(session, point).await?;
    let id = scene.manifest.head.point;
    let asked = scene.clone();
    let (point, page, meta) = blocking(move || {
        let point = read_about(&asked)?;
        match asked.spot(about::DATA.as_bytes())? {
            Spot::Directory { page, meta } => Ok((point, page, meta)),
            Spot::Other { .. } => Err(Failure::new("the point is not as its description says")),
        }
    })
    .await?;
    let ready = match point.way {
        Way::Snapshot => None,
        // Before anything is written: without it the files are of no use.
        Way::Stream => Some(preparer(&point, named.as_deref())?),
    };
    let mut options = RestoreOptions::new(target);
    options.keys = Some(keys);
    let report = write(session, scene, (page, meta), options).await?;
    let mut problems = lacking;
    let told = report.problems.iter();
    problems.extend(told.map(|p| format!("{}: {}", crate::human::name(&p.path), p.why)));
    let more = report.problem_count.saturating_sub(report.problems.len() as u64);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    if let Some(program) = ready {
        let place = target.to_owned();
        blocking(move || prepare(&program, &place)).await?;
    }
    origin.tidy()?;
    let (files, bytes_written) = (report.files, report.bytes_written);
    Ok(Restored { files, bytes_written, problems, id, point })
}

/// The mariabackup that understands the files of a point.
fn preparer(point: &ServerPoint, named: Option<&Path>) -> Result<PathBuf, Failure> {
    let version = &point.version;
    let hint = "install mariadb-backup of that version here, or name it with --program";
    let missing = || Failure::new(format!("a mariabackup of {version} is not here")).hint(hint);
    let program = program::find(named).ok_or_else(missing)?;
    let shown = program.display().to_string();
    let its = program::series_of(&program).doing(format!("cannot run {shown}"))?;
    let fits = its.is_some_and(|(a, b)| version.starts_with(&format!("{a}.{b}.")));
    match fits {
        true => Ok(program),
        false => {
            Err(Failure::new(format!("{shown} is of another version than {version}")).hint(hint))
        }
    }
}

/// Takes the log that came with the files into them, as the user they belong to.
fn prepare(program: &Path, data: &Path) -> Result<(), Failure> {
    let mut command = as_owner(program, data)?;
    command.args(["--no-defaults", "--prepare"]);
    command.arg(format!("--target-dir={}", data.display())).stdout(Stdio::null());
    let output = command.output().doing(format!("cannot run {}", program.display()))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = last_words(&String::from_utf8_lossy(&output.stderr));
            Err(Failure::new(format!("the files could not be prepared: {said}"))
                .hint("the user of the server must be able to reach the directory"))
        }
    }
}

/// What is wanted of a proof.
pub(crate) struct Trial {
    /// Where the scratch directory is made; the system's place otherwise.
    pub(crate) scratch: Option<PathBuf>,
    pub(crate) program: Option<PathBuf>,
    pub(crate) queries: Vec<String>,
    /// Longest the recovery may take.
    pub(crate) patience: Duration,
}

/// Proves a point; the scratch is removed, whatever came of it.
pub(crate) async fn prove(
    session: &Session,
    origin: &Origin,
    point: &PointRef,
    trial: Trial,
) -> Result<Proof, Failure> {
    let mut builder = tempfile::Builder::new();
    // The user of the server comes through.
    let permissions = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o711);
    builder.prefix("strongroom-proof-").permissions(permissions);
    let scratch = match &trial.scratch {
        Some(dir) => builder.tempdir_in(dir),
        None => builder.tempdir(),
    };
    let scratch = scratch.doing("cannot make a scratch directory")?;
    let data = scratch.path().join("data");
    let began = Instant::now();
    let restored = restore(session, origin, point, (&data, trial.program.clone())).await?;
    let mut proof = Proof {
        point: restored.id,
        version: restored.point.version.clone(),
        way: restored.point.way,
        bytes_written: restored.bytes_written,
        seconds_to_restore: began.elapsed().as_secs_f64(),
        seconds_to_recover: 0.0,
        checks: Vec::new(),
    };
    let problems = restored.problems.join("; ");
    proof.check("restored whole", problems.is_empty(), problems);
    blocking(move || {
        let place = scratch.path().join("server");
        let proof = examine(proof, (&place, &data), &restored.point, &trial)?;
        scratch.close().doing("the scratch directory stays")?;
        Ok(proof)
    })
    .await
}

fn examine(
    mut proof: Proof,
    (place, data): (&Path, &Path),
    point: &ServerPoint,
    trial: &Trial,
) -> Result<Proof, Failure> {
    fs::create_dir(place)?;
    let mut options: Vec<String> = NEEDED
        .iter()
        .filter_map(|name| {
            Some(format!("--{}={}", name.replace('_', "-"), point.settings.get(*name)?))
        })
        .collect();
    options.push("--skip-grant-tables".to_owned());
    let began = Instant::now();
    let mut server = match OwnServer::start(place, data, &options, trial.patience) {
        Ok(server) => server,
        Err(error) => {
            proof.check("started and recovered", false, error.to_string());
            return Ok(proof);
        }
    };
    proof.seconds_to_recover = began.elapsed().as_secs_f64();
    let version = server.ask("SELECT VERSION()")?;
    proof.check("started and recovered", true, version);
    let checked = server.client("mariadb-check", &["--all-databases", "--check", "--extended"])?;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    let (tables, wrong) = judged(&said);
    let passed = checked.status.success() && wrong.is_empty() && tables > 0;
    let said = match passed {
        true => format!("{tables} tables"),
        false => {
            [wrong, vec![last_words(&String::from_utf8_lossy(&checked.stderr))]].concat().join("; ")
        }
    };
    proof.check("mariadb-check --extended", passed, said);
    for question in &trial.queries {
        let (passed, said) = match server.ask(question) {
            Ok(said) => (true, said),
            Err(error) => (false, error.to_string()),
        };
        proof.check(format!("query {question}"), passed, said);
    }
    let stopped = server.stop();
    proof.check(
        "stopped in order",
        stopped.is_ok(),
        stopped.err().map_or(String::new(), |e| e.to_string()),
    );
    Ok(proof)
}

/// How many tables were found right, and what was found wrong.
fn judged(said: &str) -> (usize, Vec<String>) {
    let right = said.lines().filter(|line| line.trim_end().ends_with(" OK")).count();
    let wrong = |line: &&str| {
        let line = line.to_lowercase();
        line.starts_with("error") || line.starts_with("warning") || line.contains("corrupt")
    };
    (right, said.lines().filter(wrong).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_found_wrong_is_told_from_what_cannot_be_checked() {
        let said = "mysql.db          OK\nmysql.general_log\n\
                    note     : The storage engine for the table doesn't support check\n";
        assert_eq!(judged(said), (1, vec![]));
        let said =
            "shop.a   OK\nshop.b\nwarning  : Table is marked as crashed\nerror    : Corrupt\n";
        assert_eq!(judged(said).1.len(), 2);
    }
}
