//! Points: every fact retention needs, and what tables show.

use rusqlite::{Connection, Row, Transaction, params};
use strongroom_protocol::{JobId, NodeName, PointId, PolicyName, Timestamp, WorkloadName};

use crate::catalog::cell::{count, id, id_or_none, number, text, text_or_none, time, word};
use crate::catalog::ledger::ledger_rows;
use crate::catalog::{Catalog, CatalogError, LedgerRow, Trouble};
use crate::policy::PRIMARY;
use crate::retention::{Consistency, CopyFacts, CopyState, PointFacts, ProofLevel};

/// Counts of a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PointStats {
    pub files: u64,
    /// Of the source.
    pub bytes: u64,
    /// New in the repository for this point.
    pub stored_bytes: u64,
    pub frozen_ms: u64,
    pub seconds: u64,
}

/// A point as its manifest tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PointRecord {
    pub point: PointId,
    pub workload: WorkloadName,
    pub policy: Option<PolicyName>,
    pub policy_version: u64,
    pub agent: NodeName,
    pub job: Option<JobId>,
    pub previous: Option<PointId>,
    pub moment: Timestamp,
    pub committed: Timestamp,
    pub consistency: Consistency,
    pub gaps: u64,
    pub stats: PointStats,
}

/// Which points; the default is all of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PointFilter {
    pub workload: Option<WorkloadName>,
    /// Moments from here on.
    pub since: Option<Timestamp>,
    /// Moments before.
    pub until: Option<Timestamp>,
    /// The newest so many.
    pub most: Option<u64>,
}

const COLUMNS: &str = "id, workload, policy, policy_version, agent, job, previous, moment, \
     committed, consistency, gaps, files, bytes, stored_bytes, frozen_ms, seconds";

fn record(row: &Row<'_>) -> rusqlite::Result<PointRecord> {
    Ok(PointRecord {
        point: id(row, 0)?,
        workload: text(row, 1)?,
        policy: text_or_none(row, 2)?,
        policy_version: count(row, 3)?,
        agent: text(row, 4)?,
        job: id_or_none(row, 5)?,
        previous: id_or_none(row, 6)?,
        moment: time(row, 7)?,
        committed: time(row, 8)?,
        consistency: word(row, 9, "consistency", Consistency::from_word)?,
        gaps: count(row, 10)?,
        stats: PointStats {
            files: count(row, 11)?,
            bytes: count(row, 12)?,
            stored_bytes: count(row, 13)?,
            frozen_ms: count(row, 14)?,
            seconds: count(row, 15)?,
        },
    })
}

fn put(db: &Transaction<'_>, point: &PointRecord) -> rusqlite::Result<()> {
    let stats = &point.stats;
    db.prepare_cached(
        "INSERT INTO points (id, workload, policy, policy_version, agent, job, previous, moment, \
           committed, consistency, gaps, files, bytes, stored_bytes, frozen_ms, seconds) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) \
         ON CONFLICT (id) DO UPDATE SET workload = ?2, policy = ?3, policy_version = ?4, \
           agent = ?5, job = ?6, previous = ?7, moment = ?8, committed = ?9, consistency = ?10, \
           gaps = ?11, files = ?12, bytes = ?13, stored_bytes = ?14, frozen_ms = ?15, \
           seconds = ?16",
    )?
    .execute(params![
        point.point.as_bytes(),
        point.workload.as_str(),
        point.policy.as_ref().map(PolicyName::as_str),
        number(point.policy_version),
        point.agent.as_str(),
        point.job.as_ref().map(JobId::as_bytes),
        point.previous.as_ref().map(PointId::as_bytes),
        point.moment.0,
        point.committed.0,
        point.consistency.as_str(),
        number(point.gaps),
        number(stats.files),
        number(stats.bytes),
        number(stats.stored_bytes),
        number(stats.frozen_ms),
        number(stats.seconds),
    ])
    .map(drop)
}

/// The primary snap of a committed point is there, written.
fn put_primary(db: &Transaction<'_>, point: &PointRecord) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO ledger (point, copy, state, proof, proven, bytes_sent, bytes_stored, \
           seconds, changed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7, ?5) \
         ON CONFLICT (point, copy) DO NOTHING",
    )?
    .execute(params![
        point.point.as_bytes(),
        PRIMARY,
        CopyState::Present.as_str(),
        ProofLevel::Written.as_str(),
        point.committed.0,
        number(point.stats.stored_bytes),
        number(point.stats.seconds),
    ])
    .map(drop)
}

impl Catalog {
    /// Records a committed point, and that its primary snap is there. Twice is once.
    pub fn upsert_point(&self, point: &PointRecord) -> Result<(), CatalogError> {
        self.change("record a point", |db| {
            put(db, point)?;
            Ok(put_primary(db, point)?)
        })
    }

    /// Fills an empty or outdated catalog from what manifests and media say: the points, and the
    /// copies known to be there. What it knew beyond that stays. Returns how many points.
    pub fn rebuild(
        &self,
        found: impl IntoIterator<Item = (PointRecord, Vec<CopyFacts>)>,
    ) -> Result<u64, CatalogError> {
        self.change("rebuild its points", |db| {
            let mut points = 0;
            for (point, copies) in found {
                put(db, &point)?;
                for copy in &copies {
                    put_found(db, &point, copy)?;
                }
                points += 1;
            }
            Ok(points)
        })
    }

    /// One point.
    pub fn point(&self, point: PointId) -> Result<Option<PointRecord>, CatalogError> {
        self.read("read a point", |db| {
            let sql = format!("SELECT {COLUMNS} FROM points WHERE id = ?1");
            let mut query = db.prepare_cached(&sql)?;
            let mut rows = query.query_map([point.as_bytes()], record)?;
            rows.next().transpose()
        })
    }

    /// The points whose id is or ends in `text`, hyphens apart; for what a person types.
    pub fn find_points(&self, text: &str) -> Result<Vec<PointId>, CatalogError> {
        let plain = |c: char| c.is_ascii_hexdigit() || c == '-';
        if text.is_empty() || !text.chars().all(plain) {
            return Ok(Vec::new());
        }
        let digits = text.replace('-', "").to_ascii_lowercase();
        self.read("find a point", |db| {
            let mut query = db.prepare_cached(
                "SELECT id FROM points WHERE lower(hex(id)) LIKE '%' || ?1 ORDER BY id",
            )?;
            let rows = query.query_map([digits], |row| id(row, 0))?;
            rows.collect()
        })
    }

    /// Points, newest moment first.
    pub fn points(&self, filter: &PointFilter) -> Result<Vec<PointRecord>, CatalogError> {
        self.read("list points", |db| select(db, filter))
    }

    /// What retention needs to know, of one workload or of all; oldest first.
    pub fn point_facts(
        &self,
        workload: Option<&WorkloadName>,
    ) -> Result<Vec<PointFacts>, CatalogError> {
        let filter = PointFilter { workload: workload.cloned(), ..PointFilter::default() };
        self.read("list points for retention", |db| {
            let mut copies = std::collections::BTreeMap::<PointId, Vec<CopyFacts>>::new();
            for row in ledger_rows(db, workload)? {
                copies.entry(row.point).or_default().push(LedgerRow::into_facts(row));
            }
            let points = select(db, &filter)?.into_iter().rev();
            let facts = points.map(|point| PointFacts {
                copies: copies.remove(&point.point).unwrap_or_default(),
                point: point.point,
                workload: point.workload,
                moment: point.moment,
                consistency: point.consistency,
                gaps: point.gaps,
            });
            Ok(facts.collect())
        })
    }

    /// Forgets a point none of whose copies is there any more. Refuses while one is.
    pub fn forget_point(&self, point: PointId) -> Result<(), CatalogError> {
        self.change("forget a point", |db| {
            let mut query = db.prepare_cached(
                "SELECT copy, state FROM ledger WHERE point = ?1 AND state IN \
                 ('present', 'working', 'removing') LIMIT 1",
            )?;
            let there = query
                .query_map([point.as_bytes()], |row| Ok((text(row, 0)?, row.get(1)?)))?
                .next()
                .transpose()?;
            if let Some((copy, state)) = there {
                return Err(CatalogError::Copy { point, copy, verb: "forgotten", state }.into());
            }
            db.execute("DELETE FROM points WHERE id = ?1", [point.as_bytes()])?;
            Ok(())
        })
    }
}

fn put_found(db: &Transaction<'_>, point: &PointRecord, copy: &CopyFacts) -> Result<(), Trouble> {
    db.prepare_cached(
        "INSERT INTO ledger (point, copy, state, proof, proven, lock_until, bytes_stored, changed) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
         ON CONFLICT (point, copy) DO UPDATE SET state = ?3, \
           proof = coalesce(proof, ?4), proven = coalesce(proven, ?5), \
           lock_until = nullif(max(coalesce(lock_until, 0), coalesce(?6, 0)), 0), \
           doomed = CASE WHEN state = ?3 THEN doomed END",
    )?
    .execute(params![
        point.point.as_bytes(),
        copy.copy.as_str(),
        copy.state.as_str(),
        copy.proof.map(|proof| proof.level.as_str()),
        copy.proof.map(|proof| proof.at.0),
        copy.lock_until.map(|until| until.0),
        number(point.stats.stored_bytes),
        point.committed.0,
    ])?;
    Ok(())
}

fn select(db: &Connection, filter: &PointFilter) -> rusqlite::Result<Vec<PointRecord>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM points \
         WHERE (?1 IS NULL OR workload = ?1) AND moment >= ?2 AND moment < ?3 \
         ORDER BY moment DESC, id DESC LIMIT ?4"
    );
    let mut query = db.prepare_cached(&sql)?;
    let rows = query.query_map(
        params![
            filter.workload.as_ref().map(WorkloadName::as_str),
            filter.since.map_or(i64::MIN, |since| since.0),
            filter.until.map_or(i64::MAX, |until| until.0),
            filter.most.map_or(-1, number),
        ],
        record,
    )?;
    rows.collect()
}
