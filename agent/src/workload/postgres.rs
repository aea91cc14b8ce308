//! A cluster of PostgreSQL, read on its own host beside the running server (its log, and
//! clusters elsewhere, have rooms of their own). Promises a data
//! directory that recovers by itself: the files, the label of the backup, and the log from its
//! start to its end, all of one member in one role on one timeline. Refuses what is not the
//! server itself, and to call a point consistent that has a corrupt page.

pub mod about;
pub mod error;
pub mod log;
pub mod lsn;
pub mod member;
pub mod page;
pub mod programs;
pub mod settings;
pub mod wire;

mod control;
mod hold;
mod reach;
mod reading;
mod session;
mod tls;
mod wal;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::Client;
use serde::de::DeserializeOwned;
use serde_json::Value;
use strongroom_protocol::opening::RefusalKind;
use strongroom_protocol::{Clock, JobId};
use strongroom_store::content::{MODE_MASK, Meta};

use crate::holder::{Holder, HolderError, Holding, Order};
use crate::quiesce::{Consistency, Evidence, Quiesced, Unheld};
use crate::workload::btrfs::{Snapshot, SnapshotError};
use crate::workload::files::ProtectError;
use crate::workload::moment::{Moment, Reading};
use crate::workload::postgres::control::Control;
use crate::workload::postgres::error::PgError;
use crate::workload::postgres::hold::{Session, Started, Stopped, Told, stop_question};
use crate::workload::postgres::session::Server;
use crate::workload::postgres::settings::{Cluster, Prefer};
use crate::workload::{Item, Workload};

/// Longest a backup may be under way before the server is rid of it.
const BACKUP_MAX: Duration = Duration::from_secs(48 * 60 * 60);
/// The start of a server by its own word and by its file differ by no more, in seconds.
const STARTS_APART_MAX: i64 = 60;

/// A way of holding, if the word is ours.
pub(crate) fn held(what: &str, about: &Value) -> Option<Result<Box<dyn Holding>, String>> {
    let session = (what == hold::WHAT).then(|| Session::new(about))?;
    Some(session.map(|session| Box::new(session) as Box<dyn Holding>))
}

/// A cluster on this host.
pub struct PgWorkload {
    pub cluster: Cluster,
    pub job: JobId,
    pub clock: Arc<dyn Clock>,
}

/// A backup under way.
pub struct PgView {
    clock: Arc<dyn Clock>,
    /// Keeps the log, and the backup until it is stopped.
    holder: Holder,
    started: Started,
    began: i64,
    stopped: Option<Stopped>,
    /// The data directory of the running server.
    data: PathBuf,
    snapshot: Option<Snapshot>,
}

impl PgWorkload {
    fn hold(&self) -> Result<(Holder, Started), PgError> {
        let job = self.job.to_string().replace('-', "");
        let slot = format!("strongroom_{job}");
        let label = format!("strongroom {}", self.job);
        let told = Told { dial: self.cluster.dial.clone(), label, slot };
        let about = serde_json::to_value(told).map_err(|e| HolderError::Process(e.into()))?;
        let deadline_ms = u64::try_from(BACKUP_MAX.as_millis()).unwrap_or(u64::MAX);
        let order = Order { what: hold::WHAT.to_owned(), about, deadline_ms, note: None };
        let holder = Holder::hold(&order)?;
        let started = heard(holder.seen.clone())?;
        Ok((holder, started))
    }
}

/// What a holder said, understood.
fn heard<T: DeserializeOwned>(said: Value) -> Result<T, PgError> {
    let understood = serde_json::from_value(said);
    understood.map_err(|error| HolderError::Process(error.into()).into())
}

impl Workload for PgWorkload {
    type View = PgView;
    type Error = PgError;

    fn discover(&self) -> Result<Vec<Item>, PgError> {
        let mut client = self.cluster.dial.connect()?;
        let server = self.cluster.dial.look(&mut client)?;
        fits(&self.cluster, &server, &mut client)?;
        let data = data_of(&self.cluster, &server)?;
        Ok(vec![Item {
            name: data.display().to_string(),
            consistency_max: Consistency::Application,
            place: format!("postgresql {}", server.version),
        }])
    }

    /// Nothing is held still: the server writes on, and its log makes the copy whole.
    fn quiesce(&self) -> Result<Quiesced, PgError> {
        let evidence = Evidence { consistency: Consistency::Application, ..Evidence::default() };
        Ok(Quiesced::new(Box::new(Unheld), Instant::now(), evidence))
    }

    fn view(&self) -> Result<PgView, PgError> {
        let began = self.clock.now().unix_ms() / 1000;
        let (holder, started) = self.hold()?;
        // It may have been promoted since it was looked at.
        has_the_role(&self.cluster, &started.server)?;
        let data = data_of(&self.cluster, &started.server)?;
        // Tablespaces elsewhere are not in the snapshot: then all is read live.
        let snapshot = match started.server.tablespaces.is_empty() {
            true => snapshot(&data, self.job),
            false => None,
        };
        let mut view = PgView {
            clock: Arc::clone(&self.clock),
            holder,
            started,
            began: i64::try_from(began).unwrap_or_default(),
            stopped: None,
            data,
            snapshot,
        };
        if view.snapshot.is_some() {
            view.stop()?;
        }
        Ok(view)
    }

    fn refusal(error: &PgError) -> RefusalKind {
        error.refusal()
    }
}

impl PgView {
    /// Ends the backup, and looks that the member is still what it was.
    fn stop(&mut self) -> Result<Stopped, PgError> {
        if let Some(stopped) = &self.stopped {
            return Ok(stopped.clone());
        }
        let stopped: Stopped = heard(self.holder.ask(&stop_question())?)?;
        let server = &self.started.server;
        let role = |in_recovery| if in_recovery { "standby" } else { "primary" }.to_owned();
        let is = [
            ("the role of the server", role(server.in_recovery), role(stopped.in_recovery)),
            ("the timeline", server.timeline.to_string(), stopped.timeline.to_string()),
            (
                "the system identifier",
                server.system_identifier.to_string(),
                stopped.system_identifier.to_string(),
            ),
        ];
        let turned = is.into_iter().find(|(_, before, after)| before != after);
        if let Some((what, before, after)) = turned {
            return Err(PgError::Turned { what, before, after });
        }
        self.stopped = Some(stopped.clone());
        Ok(stopped)
    }
}

impl Moment for PgView {
    fn source(&self) -> String {
        let server = &self.started.server;
        format!("postgresql {} in {}", server.version, self.data.display())
    }

    fn consistency(&self) -> Consistency {
        Consistency::Application
    }

    fn read(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<crate::workload::files::Protected, ProtectError> {
        reading::read(self, reading, evidence)
    }
}

fn snapshot(data: &Path, job: JobId) -> Option<Snapshot> {
    match Snapshot::create(data, job) {
        Ok(snapshot) => Some(snapshot),
        Err(SnapshotError::NotBtrfs { .. }) => None,
        Err(error) => {
            tracing::warn!(%error, "the data directory is read live");
            None
        }
    }
}

/// The data directory, once it is sure to be that of the server.
fn data_of(cluster: &Cluster, server: &Server) -> Result<PathBuf, PgError> {
    let named = cluster.data.clone().unwrap_or_else(|| server.data.clone());
    let unread = |path: PathBuf| move |source| PgError::File { path, source };
    let data = fs::canonicalize(&named).map_err(unread(named))?;
    let another =
        |why: String| PgError::Another { data: data.clone(), place: cluster.dial.place(), why };
    let path = data.join("global/pg_control");
    let control = Control::read(&path).map_err(unread(path))?;
    if control.system_identifier != server.system_identifier {
        let (own, its) = (control.system_identifier, server.system_identifier);
        return Err(another(format!("it belongs to system {own}, the server is {its}")));
    }
    // A primary and its standby have one identifier; each was started at its own moment.
    let path = data.join("postmaster.pid");
    let pid = fs::read_to_string(&path).map_err(unread(path))?;
    let line = |at: usize| pid.lines().nth(at).unwrap_or_default().trim().to_owned();
    let started: i64 = line(2).parse().unwrap_or_default();
    if line(3) != cluster.dial.port.to_string()
        || (started - server.started).abs() > STARTS_APART_MAX
    {
        return Err(another("another server runs in it".to_owned()));
    }
    Ok(data)
}

/// Whether the policy wants this member, as it is now.
fn fits(cluster: &Cluster, server: &Server, client: &mut Client) -> Result<(), PgError> {
    let member = |why: String| Err(PgError::Member { why });
    let query = |what| move |source| PgError::Query { what, source };
    has_the_role(cluster, server)?;
    if (cluster.prefer, server.in_recovery) == (Prefer::PreferStandby, false) {
        let standbys = "SELECT application_name FROM pg_stat_replication \
             WHERE application_name NOT IN ('pg_basebackup', 'pg_receivewal', 'strongroom') \
             LIMIT 1";
        let found = client.query_opt(standbys, &[]).map_err(query("list its standbys"))?;
        if let Some(row) = found {
            let name: String = row.get(0);
            return member(format!("it is the primary, and standby {name} is there"));
        }
    }
    let Some(most) = cluster.lag_max.filter(|_| server.in_recovery) else { return Ok(()) };
    let most = most.as_secs();
    match member::behind(client)? {
        Some(behind) if behind.as_secs_f64() <= most as f64 => Ok(()),
        Some(behind) => {
            let behind = behind.as_secs();
            member(format!("this standby is {behind} s behind, {most} s at most"))
        }
        None => member(format!("this standby cannot tell how far it is behind, {most} s at most")),
    }
}

/// Whether it is of the cluster of the points there are, in the role that the policy wants.
fn has_the_role(cluster: &Cluster, server: &Server) -> Result<(), PgError> {
    let member = |why: String| Err(PgError::Member { why });
    let is = server.system_identifier;
    if let Some(wanted) = cluster.system.filter(|wanted| *wanted != is) {
        return member(format!("it is of system {is}, and the points are of system {wanted}"));
    }
    match (cluster.prefer, server.in_recovery) {
        (Prefer::Primary, true) => {
            member("it is a standby, and the policy wants the primary".to_owned())
        }
        (Prefer::StandbyOnly, false) => {
            member("it is the primary, and the policy wants a standby".to_owned())
        }
        _ => Ok(()),
    }
}

/// What is kept beside the content of a file like the one at `path`.
fn meta_like(path: &Path) -> Result<Meta, PgError> {
    let unread = |source| PgError::File { path: path.to_owned(), source };
    let meta = fs::metadata(path).map_err(unread)?;
    Ok(meta_of(&meta))
}

fn meta_of(meta: &fs::Metadata) -> Meta {
    Meta {
        mode: meta.mode() & MODE_MASK,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime_ns: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
        ..Meta::default()
    }
}
