//! A point of a cluster put into a directory that is only for trying something: a proof, a dump.
//! It goes with whoever holds it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use strongroom_agent::workload::postgres::about::ClusterPoint;
use strongroom_agent::workload::postgres::programs::Programs;
use strongroom_protocol::admin::PointRef;
use tempfile::TempDir;

use super::origin::Origin;
use super::recovery::Recovery;
use super::restore::{Delta, Plan, Restored, restore};
use super::server::programs;
use crate::failure::{Failure, While};
use crate::session::Session;

/// A restored cluster in a directory of its own.
pub(crate) struct Trying {
    pub(crate) dir: TempDir,
    pub(crate) data: PathBuf,
    pub(crate) restored: Restored,
    pub(crate) cluster: ClusterPoint,
    /// What the restore took.
    pub(crate) seconds: f64,
}

/// Restores a point into a scratch directory, made in `place` or where the system makes them.
pub(crate) async fn try_out(
    session: &Session,
    origin: &Origin,
    point: &PointRef,
    (place, recovery): (Option<&Path>, &Recovery),
) -> Result<Trying, Failure> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("strongroom-proof-");
    let dir = match place {
        Some(place) => builder.tempdir_in(place),
        None => builder.tempdir(),
    };
    let dir = dir.doing("cannot make a scratch directory")?;
    let data = dir.path().join("data");
    let plan = Plan {
        target: data.clone(),
        delta: Delta::Empty,
        recovery: recovery.clone(),
        tablespaces: Vec::new(),
    };
    let began = Instant::now();
    let mut restored = restore(session, origin, point, &plan).await?;
    let seconds = began.elapsed().as_secs_f64();
    let cluster = restored.point.take();
    let cluster = cluster.ok_or_else(|| Failure::new("the point has no description"))?;
    Ok(Trying { dir, data, restored, cluster, seconds })
}

/// The programs for a restored cluster, whose owner may use the directory from now on.
pub(crate) fn ready(
    place: &Path,
    data: &Path,
    (major, bin): (u32, Option<&Path>),
) -> Result<Programs, Failure> {
    let programs = programs(major, bin, data)?;
    let own = fs::metadata(data.join("PG_VERSION")).doing("cannot look at the cluster")?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(place, Some(own.uid()), Some(own.gid()))?;
    }
    Ok(programs)
}
