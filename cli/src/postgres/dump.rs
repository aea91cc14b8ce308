//! One database or some tables of a cluster, out of a point: a scratch server starts from the
//! point, and `pg_dump` of its own version writes them, for `pg_restore` into any server.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use strongroom_agent::workload::postgres::about::ClusterPoint;
use strongroom_protocol::admin::PointRef;

use super::origin::Origin;
use super::recovery::Recovery;
use super::scratch::{Trying, ready, try_out};
use super::server::{Scratch, last_lines};
use crate::failure::{Failure, While};
use crate::session::{Session, blocking};

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) database: String,
    /// As `pg_dump` takes them; all where there are none.
    pub(crate) tables: Vec<String>,
    /// A file that is not there yet.
    pub(crate) output: PathBuf,
    pub(crate) recovery: Recovery,
    /// Where the scratch directory is made; the system's place otherwise.
    pub(crate) scratch: Option<PathBuf>,
    /// Where the programs of PostgreSQL are.
    pub(crate) bin: Option<PathBuf>,
    /// A superuser of the cluster.
    pub(crate) superuser: String,
    /// Longest the recovery may take.
    pub(crate) patience: Duration,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Dumped {
    pub(crate) version: String,
    pub(crate) bytes: u64,
    pub(crate) seconds_to_restore: f64,
    /// What is not as it was in the cluster that was restored, each in a sentence.
    pub(crate) problems: Vec<String>,
}

/// Dumps what is wanted of a point.
pub(crate) async fn dump(
    session: &Session,
    origin: &Origin,
    point: &PointRef,
    wish: Wish,
) -> Result<Dumped, Failure> {
    if wish.output.exists() {
        let shown = wish.output.display();
        return Err(Failure::new(format!("{shown} is there already"))
            .hint("name a file that is not, with --output"));
    }
    let scratch = wish.scratch.as_deref();
    let Trying { dir, data, restored, cluster, seconds } =
        try_out(session, origin, point, (scratch, &wish.recovery)).await?;
    let version = cluster.version.clone();
    let (bytes, removed) = blocking(move || {
        let bytes = written(dir.path(), &data, &cluster, &wish);
        // Also after a failure: a server has ended by now.
        Ok((bytes, dir.close()))
    })
    .await?;
    let bytes = bytes?;
    removed.doing("the scratch directory stays")?;
    let problems = restored.problems;
    Ok(Dumped { version, bytes, seconds_to_restore: seconds, problems })
}

/// Starts the server and writes the file; how long it is.
fn written(place: &Path, data: &Path, cluster: &ClusterPoint, wish: &Wish) -> Result<u64, Failure> {
    let programs = ready(place, data, (cluster.major, wish.bin.as_deref()))?;
    let how = (wish.superuser.as_str(), wish.patience);
    let server = Scratch::start(&programs, data, place, cluster, how)?;
    let all = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname";
    let known = server.query("postgres", all)?;
    let names: Vec<&str> = known.lines().collect();
    if !names.contains(&wish.database.as_str()) {
        return Err(Failure::new(format!("the point has no database {}", wish.database))
            .hint(format!("it has: {}", names.join(", "))));
    }
    let shown = wish.output.display();
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = options.open(&wish.output).doing(format!("cannot make {shown}"))?;
    let mut words = vec!["--format=custom", "-d", &wish.database];
    words.extend(wish.tables.iter().flat_map(|table| ["-t", table.as_str()]));
    let mut command = server.command("pg_dump", &words);
    let run = command.stdout(file.try_clone()?).stderr(Stdio::piped()).output();
    let outcome =
        run.doing("cannot run pg_dump").and_then(|output| match output.status.success() {
            true => file.sync_all().doing(format!("cannot write {shown}")),
            false => {
                let said = last_lines(&String::from_utf8_lossy(&output.stderr));
                Err(Failure::new(format!("nothing was dumped: {said}")))
            }
        });
    if let Err(failure) = outcome {
        // Half a dump is none.
        fs::remove_file(&wish.output).doing(format!("cannot remove {shown}"))?;
        return Err(failure);
    }
    server.stop()?;
    Ok(file.metadata()?.len())
}
