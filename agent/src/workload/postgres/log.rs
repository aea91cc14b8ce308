//! The log of a cluster, a stretch a run: what was written since the last point, read on its
//! host or streamed. A replication slot of ours keeps it until the point is durable at the
//! coordinator, and only then moves on; a slot that lost what it kept is said, and no stretch is
//! made that others would not join.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postgres::Client;
use strongroom_protocol::opening::RefusalKind;
use strongroom_protocol::{Chain, WorkloadId};
use strongroom_store::content::{Entry, Meta};

use crate::quiesce::{Consistency, Evidence, Quiesced, Unheld};
use crate::workload::compose::Composer;
use crate::workload::files::{ProtectError, Protected};
use crate::workload::moment::{Moment, Reading};
use crate::workload::postgres::about::{self, About, LogPoint};
use crate::workload::postgres::error::PgError;
use crate::workload::postgres::lsn::Lsn;
use crate::workload::postgres::reach::{Kept, Reached};
use crate::workload::postgres::session::{Server, lsn};
use crate::workload::postgres::settings::{Cluster, Mode};
use crate::workload::postgres::wal::{self, Stretch};
use crate::workload::postgres::wire;
use crate::workload::postgres::wire::follow::{self, Course};
use crate::workload::postgres::{PgWorkload, data_of, fits, meta_like};
use crate::workload::{Item, Workload};

/// The part of what it may keep at all from which on a slot is told of.
const KEPT_PART_TOLD: u64 = 2;
/// A slot that is still taken after this is somebody else's; how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(250);
/// A directory and a file made here.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The log of a cluster.
pub struct PgLog {
    pub cluster: Cluster,
    pub workload: WorkloadId,
}

/// A stretch of the log that is kept by the slot.
pub struct PgLogView {
    cluster: Cluster,
    server: Server,
    slot: String,
    /// The beginning of a segment: segments are kept whole.
    from: Lsn,
    until: Lsn,
    /// `pg_wal`, where it is read on its host.
    dir: Option<PathBuf>,
    /// What a person should know of the slot.
    told: Vec<String>,
    /// Where it is remembered how far the last point reached.
    kept: Option<Kept>,
}

/// A slot as the server shows it.
struct Slot {
    restart: Option<Lsn>,
    status: String,
    kind: String,
    active: bool,
}

fn query(what: &'static str) -> impl Fn(postgres::Error) -> PgError {
    move |source| PgError::Query { what, source }
}

impl PgLog {
    fn slot(&self) -> String {
        let own = || format!("strongroom_{}", self.workload.to_string().replace('-', ""));
        self.cluster.slot.clone().unwrap_or_else(own)
    }

    /// The data directory, where it is on this host.
    fn data(&self, server: &Server) -> Result<Option<PathBuf>, PgError> {
        match self.cluster.mode {
            Mode::LogStream => Ok(None),
            _ => data_of(&self.cluster, server).map(Some),
        }
    }
}

impl Workload for PgLog {
    type View = PgLogView;
    type Error = PgError;

    fn discover(&self) -> Result<Vec<Item>, PgError> {
        let mut client = wire::connect(&self.cluster.dial)?;
        let server = self.cluster.dial.look(&mut client)?;
        fits(&self.cluster, &server, &mut client)?;
        let data = self.data(&server)?;
        let place = data.map_or_else(|| self.cluster.dial.place(), |d| d.display().to_string());
        Ok(vec![Item {
            name: format!("the log of {place}"),
            consistency_max: Consistency::Application,
            place: format!("postgresql {}", server.version),
        }])
    }

    fn quiesce(&self) -> Result<Quiesced, PgError> {
        let evidence = Evidence { consistency: Consistency::Application, ..Evidence::default() };
        Ok(Quiesced::new(Box::new(Unheld), Instant::now(), evidence))
    }

    fn view(&self) -> Result<PgLogView, PgError> {
        let mut client = wire::connect(&self.cluster.dial)?;
        let server = self.cluster.dial.look(&mut client)?;
        let data = self.data(&server)?;
        let slot = self.slot();
        let from = kept_from(&mut client, &slot)?;
        let now = match server.in_recovery {
            true => "SELECT pg_last_wal_replay_lsn()::text",
            false => "SELECT pg_current_wal_flush_lsn()::text",
        };
        let until = lsn(&mut client, "say how far its log is written", now)?;
        let told = told_of(&mut client, &slot, from, until, data.as_deref())?;
        let from = Lsn(from.0 - from.0 % server.segment_bytes.max(1));
        let dir = data.as_deref().map(wal::directory).transpose()?;
        let cluster = self.cluster.clone();
        Ok(PgLogView { cluster, server, slot, from, until, dir, told, kept: None })
    }

    fn refusal(error: &PgError) -> RefusalKind {
        PgWorkload::refusal(error)
    }
}

/// From where on the slot keeps the log; made, where there is none yet.
fn kept_from(client: &mut Client, name: &str) -> Result<Lsn, PgError> {
    if let Some(slot) = look_patiently(client, name)? {
        let taken = |why: &str| PgError::SlotTaken { slot: name.to_owned(), why: why.to_owned() };
        if slot.kind != "physical" {
            return Err(taken("it is one of logical replication"));
        }
        if slot.active {
            return Err(taken("somebody streams from it"));
        }
        return match slot.restart {
            Some(from) if slot.status != "lost" => Ok(from),
            _ => Err(PgError::SlotLost { slot: name.to_owned(), why: slot.status }),
        };
    }
    let make = "SELECT pg_create_physical_replication_slot($1, true)";
    client
        .execute(make, &[&name])
        .map_err(query("make a replication slot (is max_replication_slots reached?)"))?;
    let made = look(client, name)?.and_then(|slot| slot.restart);
    made.ok_or_else(|| PgError::SlotLost { slot: name.to_owned(), why: "new".to_owned() })
}

/// A slot, let go by a run that broke off: the server needs a moment to see that.
fn look_patiently(client: &mut Client, name: &str) -> Result<Option<Slot>, PgError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match look(client, name)? {
            Some(slot) if slot.active && Instant::now() < until => std::thread::sleep(LOOK),
            looked => return Ok(looked),
        }
    }
}

fn look(client: &mut Client, name: &str) -> Result<Option<Slot>, PgError> {
    let question = "SELECT restart_lsn::text, coalesce(wal_status, ''), slot_type, active \
                    FROM pg_replication_slots WHERE slot_name = $1";
    let row = client.query_opt(question, &[&name]).map_err(query("show the slot"))?;
    Ok(row.map(|row| Slot {
        restart: row.get::<_, Option<String>>(0).and_then(|text| text.parse().ok()),
        status: row.get(1),
        kind: row.get(2),
        active: row.get(3),
    }))
}

/// What a person should know before the slot fills the server's disk, or is lost.
fn told_of(
    client: &mut Client,
    slot: &str,
    from: Lsn,
    until: Lsn,
    data: Option<&Path>,
) -> Result<Vec<String>, PgError> {
    let most = "SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'";
    let row = client.query_one(most, &[]).map_err(query("say how much a slot may keep"))?;
    let most_mib: i64 = row.get(0);
    let kept = until.0.saturating_sub(from.0);
    let place = data.and_then(|data| rustix::fs::statvfs(data).ok());
    let free = place.map(|place| place.f_bavail * place.f_frsize);
    let most = u64::try_from(most_mib).ok().map(|mib| mib << 20);
    let status = look(client, slot)?.map(|slot| slot.status).unwrap_or_default();
    Ok(alarms(slot, kept, most, free, &status))
}

/// Pure: what is to be told of a slot that keeps so much; what is free is not seen from afar.
fn alarms(
    slot: &str,
    kept: u64,
    most: Option<u64>,
    free: Option<u64>,
    status: &str,
) -> Vec<String> {
    let mib = |bytes: u64| bytes >> 20;
    let mut told = Vec::new();
    if let Some(most) = most.filter(|most| kept > most / KEPT_PART_TOLD) {
        told.push(format!(
            "slot {slot} kept {} MiB of log, of {} MiB at most (max_slot_wal_keep_size): protect \
             the log more often, or it is lost",
            mib(kept),
            mib(most)
        ));
    }
    if let Some(free) = free.filter(|free| kept > free / KEPT_PART_TOLD) {
        told.push(format!(
            "slot {slot} kept {} MiB of log, and the disk of the server has {} MiB free",
            mib(kept),
            mib(free)
        ));
    }
    if most.is_none() && free.is_none() {
        told.push(format!(
            "slot {slot} may keep log until the disk of the server is full, and how much is free \
             there is not seen from here: max_slot_wal_keep_size is -1, let it have a limit"
        ));
    }
    if status == "unreserved" {
        told.push(format!("slot {slot} may lose its log at the next checkpoint"));
    }
    told
}

impl Moment for PgLogView {
    fn source(&self) -> String {
        format!("log of postgresql {} by slot {}", self.server.version, self.slot)
    }

    fn consistency(&self) -> Consistency {
        Consistency::Application
    }

    fn read(
        &mut self,
        reading: &Reading<'_>,
        evidence: &mut Evidence,
    ) -> Result<Protected, ProtectError> {
        let reached = Reached {
            system_identifier: self.server.system_identifier,
            from: self.from,
            until: self.until,
        };
        let kept = Kept::at(&reading.memory, reached);
        self.told.extend(kept.gap());
        self.kept = Some(kept);
        for told in &self.told {
            tracing::warn!(told);
        }
        evidence.broken.extend(self.told.iter().cloned());
        let composer = Composer::new(reading)?;
        let own = match &self.dir {
            Some(dir) => meta_like(dir).map_err(failed)?,
            // Whose it is there is not known; a restore gives it to whom it gives the cluster.
            None => Meta { mode: FILE_MODE, ..Meta::default() },
        };
        let (entries, files) = self.entries(&composer, &own)?;
        let directory = Meta { mode: DIRECTORY_MODE, ..own.clone() };
        let log = composer.directory(about::LOG_DIRECTORY, directory.clone(), entries)?;
        let about = About::Log(LogPoint {
            version: self.server.version.clone(),
            major: self.server.major,
            system_identifier: self.server.system_identifier,
            timeline: self.server.timeline,
            from_lsn: self.from,
            to_lsn: self.until,
            wal_segment_bytes: self.server.segment_bytes,
            files,
            slot: self.slot.clone(),
        });
        let unwritten = |error: serde_json::Error| {
            failed(PgError::File { path: PathBuf::from(about::NAME), source: error.into() })
        };
        let text = serde_json::to_vec_pretty(&about).map_err(unwritten)?;
        let meta = Meta { mode: FILE_MODE, ..own };
        let about = composer.bytes(about::NAME, meta, &text)?;
        let item = composer.directory("postgres-wal", directory, vec![about, log])?;
        composer.finish(item)
    }

    /// The slot lets go what is durable elsewhere now. If it cannot, the next run sends that
    /// once more.
    fn committed(&mut self) {
        let moved = self.cluster.dial.connect().and_then(|mut client| {
            let advance = "SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)";
            let until = self.until.to_string();
            client.execute(advance, &[&self.slot, &until]).map_err(query("move the slot on"))
        });
        if let Err(error) = moved {
            let error = Chain(&error).to_string();
            tracing::warn!(slot = self.slot, error, "the slot was not moved on");
        }
        if let Some(kept) = &self.kept {
            kept.remember();
        }
    }
}

fn failed(error: PgError) -> ProtectError {
    ProtectError::Application(Box::new(error))
}

impl PgLogView {
    /// The files of the stretch, and their names.
    fn entries(
        &self,
        composer: &Composer<'_>,
        own: &Meta,
    ) -> Result<(Vec<Entry>, Vec<String>), ProtectError> {
        let (from, until) = (self.from, self.until);
        let Some(dir) = self.dir.clone() else {
            let course = Course { slot: self.slot.clone(), from, until };
            let between = (&self.cluster.dial, &self.server);
            return follow::entries(&course, between, (composer, own));
        };
        let stretch = Stretch {
            dir,
            segment_bytes: self.server.segment_bytes,
            system_identifier: self.server.system_identifier,
            timeline: self.server.timeline,
            from,
            until,
        };
        stretch.entries(composer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_told_of_before_it_loses_anything() {
        let gib = 1 << 30;
        let free = Some(100 * gib);
        assert_eq!(alarms("s", gib, None, free, "reserved"), Vec::<String>::new());
        assert_eq!(alarms("s", gib, Some(3 * gib), free, "extended").len(), 0);
        let told = alarms("s", gib + 1, Some(2 * gib), free, "extended");
        assert!(told[0].contains("max_slot_wal_keep_size"), "{told:?}");
        let told = alarms("s", gib, None, Some(gib), "unreserved");
        assert!(told[0].contains("1024 MiB free"), "{told:?}");
        assert!(told[1].contains("next checkpoint"), "{told:?}");
        assert_eq!(alarms("s", gib, Some(3 * gib), None, "reserved").len(), 0);
        let told = alarms("s", gib, None, None, "reserved");
        assert!(told[0].contains("max_slot_wal_keep_size is -1"), "{told:?}");
    }
}
