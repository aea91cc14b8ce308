//! Jobs and their journals. An event is accepted only if the job's state machine accepts it, and is
//! on disk before anyone acts on it.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, Transaction, params};
use strongroom_protocol::{JobId, Timestamp, WorkloadName};

use crate::catalog::cell::{count, id, number, text, time, time_or_none};
use crate::catalog::{Catalog, CatalogError, Trouble};
use crate::job::{Event, Illegal, Job, Saga};
use crate::schedule::History;

/// One line of a journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalRow {
    /// From 1.
    pub seq: u64,
    pub at: Timestamp,
    pub event: Event,
}

/// Which jobs to list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct JobFilter {
    pub workload: Option<WorkloadName>,
    pub saga: Option<Saga>,
    /// The newest so many.
    pub most: Option<u64>,
}

fn journal_of(db: &Connection, job: JobId) -> rusqlite::Result<Vec<JournalRow>> {
    let mut query =
        db.prepare_cached("SELECT seq, at, event FROM job_events WHERE job = ?1 ORDER BY seq")?;
    let rows = query.query_map([job.as_bytes()], |row| {
        Ok(JournalRow { seq: count(row, 0)?, at: time(row, 1)?, event: event(row, 2)? })
    })?;
    rows.collect()
}

fn event(row: &Row<'_>, column: usize) -> rusqlite::Result<Event> {
    let json: String = row.get(column)?;
    serde_json::from_str(&json).map_err(|error| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
    })
}

fn replayed(db: &Connection, job: JobId) -> Result<Job, Trouble> {
    let journal = journal_of(db, job)?;
    if journal.is_empty() {
        return Err(CatalogError::Unknown { what: "job", name: job.to_string() }.into());
    }
    let events = journal.iter().map(|row| (&row.event, row.at));
    Job::replay(events).map_err(|source| CatalogError::Illegal { job, source }.into())
}

fn add(db: &Transaction<'_>, job: &Job, event: &Event, at: Timestamp) -> Result<(), Trouble> {
    let json = serde_json::to_string(event).map_err(CatalogError::Json)?;
    let state = job.state();
    db.prepare_cached(
        "INSERT INTO jobs (id, saga, workload, state, live, created, ended) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
         ON CONFLICT (id) DO UPDATE SET state = ?4, live = ?5, ended = ?7",
    )?
    .execute(params![
        job.id().as_bytes(),
        job.task().saga().as_str(),
        job.task().workload().as_str(),
        state.as_str(),
        i64::from(state.is_live()),
        job.created().0,
        job.ended().map(|ended| ended.0),
    ])?;
    db.prepare_cached(
        "INSERT INTO job_events (job, seq, at, event) \
         SELECT ?1, coalesce(max(seq), 0) + 1, ?2, ?3 FROM job_events WHERE job = ?1",
    )?
    .execute(params![job.id().as_bytes(), at.0, json])?;
    Ok(())
}

impl Catalog {
    /// Appends an event to a job's journal and returns the job after it; the creation begins the
    /// journal. Refuses an event the job cannot have seen, and then nothing is written. An event
    /// that changes nothing is not written twice.
    pub fn append_event(
        &self,
        job: JobId,
        event: &Event,
        at: Timestamp,
    ) -> Result<Job, CatalogError> {
        self.change("append to a journal", |db| {
            let illegal = |source| CatalogError::Illegal { job, source };
            if let Event::Created { job: named, .. } = event {
                let known = !journal_of(db, job)?.is_empty();
                if known || *named != job {
                    return Err(illegal(Illegal::CreatedTwice).into());
                }
                let created = Job::create(event, at).map_err(illegal)?;
                add(db, &created, event, at)?;
                return Ok(created);
            }
            let before = replayed(db, job)?;
            let after = before.clone().apply(event, at).map_err(illegal)?;
            if after != before {
                add(db, &after, event, at)?;
            }
            Ok(after)
        })
    }

    /// A job as its journal tells it.
    pub fn replay(&self, job: JobId) -> Result<Job, CatalogError> {
        self.change("replay a journal", |db| replayed(db, job))
    }

    /// The journal itself.
    pub fn journal(&self, job: JobId) -> Result<Vec<JournalRow>, CatalogError> {
        self.read("read a journal", |db| journal_of(db, job))
    }

    /// Every job that is not over, oldest first: what a restarted coordinator goes on with.
    pub fn live_jobs(&self) -> Result<Vec<Job>, CatalogError> {
        self.change("list live jobs", |db| {
            let mut query =
                db.prepare_cached("SELECT id FROM jobs WHERE live = 1 ORDER BY created, id")?;
            let ids = query.query_map([], |row| id(row, 0))?;
            let ids: Vec<JobId> = ids.collect::<rusqlite::Result<_>>()?;
            ids.into_iter().map(|id| replayed(db, id)).collect()
        })
    }

    /// Jobs, newest first.
    pub fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>, CatalogError> {
        self.change("list jobs", |db| {
            let mut query = db.prepare_cached(
                "SELECT id FROM jobs WHERE (?1 IS NULL OR workload = ?1) \
                 AND (?2 IS NULL OR saga = ?2) ORDER BY created DESC, id DESC LIMIT ?3",
            )?;
            let workload = filter.workload.as_ref().map(WorkloadName::as_str);
            let saga = filter.saga.map(Saga::as_str);
            let most = filter.most.map_or(-1, number);
            let ids = query.query_map(params![workload, saga, most], |row| id(row, 0))?;
            let ids: Vec<JobId> = ids.collect::<rusqlite::Result<_>>()?;
            ids.into_iter().map(|id| replayed(db, id)).collect()
        })
    }

    /// The jobs whose id is or ends in `text`, hyphens apart; for what a person types.
    pub fn find_jobs(&self, text: &str) -> Result<Vec<JobId>, CatalogError> {
        let plain = |c: char| c.is_ascii_hexdigit() || c == '-';
        if text.is_empty() || !text.chars().all(plain) {
            return Ok(Vec::new());
        }
        let digits = text.replace('-', "").to_ascii_lowercase();
        self.read("find a job", |db| {
            let mut query = db.prepare_cached(
                "SELECT id FROM jobs WHERE lower(hex(id)) LIKE '%' || ?1 ORDER BY id",
            )?;
            let rows = query.query_map([digits], |row| id(row, 0))?;
            rows.collect()
        })
    }

    /// Drops up to `most` journals of jobs that ended before, the oldest first; the newest of each
    /// workload stays, for the schedule. Returns how many.
    pub fn forget_jobs(&self, ended_before: Timestamp, most: usize) -> Result<usize, CatalogError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.change("forget old jobs", |db| {
            Ok(db.execute(
                "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs \
                 WHERE live = 0 AND created < ?1 AND ended < ?1 AND created < \
                 (SELECT max(created) FROM jobs o \
                 WHERE o.workload = jobs.workload AND o.saga = jobs.saga) \
                 ORDER BY created LIMIT ?2)",
                params![ended_before.0, most],
            )?)
        })
    }

    /// What the schedule needs to know of every known workload's runs.
    pub fn histories(
        &self,
        now: Timestamp,
    ) -> Result<BTreeMap<WorkloadName, History>, CatalogError> {
        self.read("list past runs", |db| {
            let mut query = db.prepare_cached(
                "SELECT w.name, w.since, \
                   max(CASE WHEN j.created <= ?1 THEN j.created END), \
                   min(CASE WHEN j.created > ?1 THEN j.created END) \
                 FROM workloads w LEFT JOIN jobs j ON j.workload = w.name AND j.saga = 'protect' \
                 GROUP BY w.name, w.since",
            )?;
            let skew = History::newest_now(now);
            let rows = query.query_map([skew.0], |row| {
                let (last, ahead) = (time_or_none(row, 2)?, time_or_none(row, 3)?);
                Ok((text(row, 0)?, History { since: time(row, 1)?, last, ahead }))
            })?;
            rows.collect()
        })
    }
}
