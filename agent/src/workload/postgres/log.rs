//! The log of a cluster, a stretch a run: what was written since the last point. A replication
//! slot of ours keeps it until the point is durable at the coordinator, and only then moves on;
//! a slot that lost what it kept is said, and no stretch is made that others would not join.

use std::path::PathBuf;
use std::time::Instant;

use postgres::Client;
use strongroom_protocol::opening::RefusalKind;
use strongroom_protocol::{Chain, WorkloadId};
use strongroom_store::content::Meta;

use crate::quiesce::{Consistency, Evidence, Quiesced, Unheld};
use crate::workload::compose::Composer;
use crate::workload::files::{ProtectError, Protected};
use crate::workload::moment::{Moment, Reading};
use crate::workload::postgres::about::{self, About, LogPoint};
use crate::workload::postgres::error::PgError;
use crate::workload::postgres::lsn::Lsn;
use crate::workload::postgres::session::{Server, lsn};
use crate::workload::postgres::settings::{Cluster, Mode};
use crate::workload::postgres::wal::{self, Stretch};
use crate::workload::postgres::{PgWorkload, data_of, fits, meta_like};
use crate::workload::{Item, Workload};

/// The part of what it may keep at all from which on a slot is told of.
const KEPT_PART_TOLD: u64 = 2;
/// A directory and a file made here.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The log of a cluster on this host.
pub struct PgLog {
    pub cluster: Cluster,
    pub workload: WorkloadId,
}

/// A stretch of the log that is kept by the slot.
pub struct PgLogView {
    cluster: Cluster,
    server: Server,
    slot: String,
    stretch: Stretch,
    /// What a person should know of the slot.
    told: Vec<String>,
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
}

impl Workload for PgLog {
    type View = PgLogView;
    type Error = PgError;

    fn discover(&self) -> Result<Vec<Item>, PgError> {
        debug_assert_eq!(self.cluster.mode, Mode::Wal);
        let mut client = self.cluster.dial.connect()?;
        let server = self.cluster.dial.look(&mut client)?;
        fits(&self.cluster, &server, &mut client)?;
        let data = data_of(&self.cluster, &server)?;
        Ok(vec![Item {
            name: format!("the log of {}", data.display()),
            consistency_max: Consistency::Application,
            place: format!("postgresql {}", server.version),
        }])
    }

    fn quiesce(&self) -> Result<Quiesced, PgError> {
        let evidence = Evidence { consistency: Consistency::Application, ..Evidence::default() };
        Ok(Quiesced::new(Box::new(Unheld), Instant::now(), evidence))
    }

    fn view(&self) -> Result<PgLogView, PgError> {
        let mut client = self.cluster.dial.connect()?;
        let server = self.cluster.dial.look(&mut client)?;
        let data = data_of(&self.cluster, &server)?;
        let slot = self.slot();
        let from = kept_from(&mut client, &slot)?;
        let now = match server.in_recovery {
            true => "SELECT pg_last_wal_replay_lsn()::text",
            false => "SELECT pg_current_wal_flush_lsn()::text",
        };
        let until = lsn(&mut client, "say how far its log is written", now)?;
        let told = told_of(&mut client, &slot, from, until, &data)?;
        let stretch = Stretch {
            dir: wal::directory(&data)?,
            segment_bytes: server.segment_bytes,
            system_identifier: server.system_identifier,
            timeline: server.timeline,
            // The segment is kept from its beginning on.
            from: Lsn(from.0 - from.0 % server.segment_bytes.max(1)),
            until,
        };
        Ok(PgLogView { cluster: self.cluster.clone(), server, slot, stretch, told })
    }

    fn refusal(error: &PgError) -> RefusalKind {
        PgWorkload::refusal(error)
    }
}

/// From where on the slot keeps the log; made, where there is none yet.
fn kept_from(client: &mut Client, name: &str) -> Result<Lsn, PgError> {
    if let Some(slot) = look(client, name)? {
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
    data: &std::path::Path,
) -> Result<Vec<String>, PgError> {
    let most = "SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'";
    let row = client.query_one(most, &[]).map_err(query("say how much a slot may keep"))?;
    let most_mib: i64 = row.get(0);
    let kept = until.0.saturating_sub(from.0);
    let free = rustix::fs::statvfs(data).map(|place| place.f_bavail * place.f_frsize);
    let most = u64::try_from(most_mib).ok().map(|mib| mib << 20);
    let status = look(client, slot)?.map(|slot| slot.status).unwrap_or_default();
    Ok(alarms(slot, kept, most, free.unwrap_or(u64::MAX), &status))
}

/// Pure: what is to be told of a slot that keeps so much.
fn alarms(slot: &str, kept: u64, most: Option<u64>, free: u64, status: &str) -> Vec<String> {
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
    if kept > free / KEPT_PART_TOLD {
        told.push(format!(
            "slot {slot} kept {} MiB of log, and the disk of the server has {} MiB free",
            mib(kept),
            mib(free)
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
        let failed = |error: PgError| ProtectError::Application(Box::new(error));
        for told in &self.told {
            tracing::warn!(told);
        }
        evidence.broken.extend(self.told.iter().cloned());
        let composer = Composer::new(reading)?;
        let own = meta_like(&self.stretch.dir).map_err(failed)?;
        let (entries, files) = self.stretch.entries(&composer)?;
        let directory = Meta { mode: DIRECTORY_MODE, ..own.clone() };
        let log = composer.directory(about::LOG_DIRECTORY, directory.clone(), entries)?;
        let about = About::Log(LogPoint {
            version: self.server.version.clone(),
            major: self.server.major,
            system_identifier: self.server.system_identifier,
            timeline: self.server.timeline,
            from_lsn: self.stretch.from,
            to_lsn: self.stretch.until,
            wal_segment_bytes: self.stretch.segment_bytes,
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
            let until = self.stretch.until.to_string();
            client.execute(advance, &[&self.slot, &until]).map_err(query("move the slot on"))
        });
        if let Err(error) = moved {
            let error = Chain(&error).to_string();
            tracing::warn!(slot = self.slot, error, "the slot was not moved on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_told_of_before_it_loses_anything() {
        let gib = 1 << 30;
        assert_eq!(alarms("s", gib, None, 100 * gib, "reserved"), Vec::<String>::new());
        assert_eq!(alarms("s", gib, Some(3 * gib), 100 * gib, "extended").len(), 0);
        let told = alarms("s", gib + 1, Some(2 * gib), 100 * gib, "extended");
        assert!(told[0].contains("max_slot_wal_keep_size"), "{told:?}");
        let told = alarms("s", gib, None, gib, "unreserved");
        assert!(told[0].contains("1024 MiB free"), "{told:?}");
        assert!(told[1].contains("next checkpoint"), "{told:?}");
    }
}
