//! The ledger: point x copy, the truth of every report. A debt ends only by the copy arriving or
//! by nothing wanting it any more.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use strongroom_protocol::control::Shown;
use strongroom_protocol::{CopyName, PointId, Timestamp, WorkloadName};

use crate::catalog::cell::{count, id, number, text, time, time_or_none, word};
use crate::catalog::starts::{start_or_none, store_starts};
use crate::catalog::{Catalog, CatalogError, Start};
use crate::retention::{CopyFacts, CopyState, Proof, ProofLevel};

/// One cell of the ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LedgerRow {
    pub point: PointId,
    pub copy: CopyName,
    pub state: CopyState,
    /// By reading it.
    pub proof: Option<Proof>,
    /// The newest start of the application from it that held.
    pub started: Option<Start>,
    /// The newest that failed, until one held after it.
    pub failed: Option<Start>,
    pub lock_until: Option<Timestamp>,
    pub bytes_sent: u64,
    pub bytes_stored: u64,
    pub seconds: u64,
    pub attempts: u64,
    pub last_error: Option<String>,
    /// For a debt: not before then.
    pub next_attempt: Option<Timestamp>,
    /// Since when no reason keeps it.
    pub doomed: Option<Timestamp>,
    /// The same by the coordinator's counted time, in nanoseconds: the grace is counted by it.
    pub doomed_counted: Option<i64>,
    /// Why it is kept; once it is doomed: the reasons that ended.
    pub reasons: Option<String>,
    pub changed: Timestamp,
}

impl LedgerRow {
    /// As retention sees it.
    pub fn into_facts(self) -> CopyFacts {
        let suspect = self.suspect().map(|start| start.at);
        let started = self.started.as_ref().map(Start::proof);
        let Self { copy, state, proof, lock_until, .. } = self;
        CopyFacts { copy, state, proof, started, suspect, lock_until }
    }
}

/// What happened to a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyEvent {
    /// It is there.
    Arrived { bytes_sent: u64, bytes_stored: u64, seconds: u64 },
    /// Work began.
    Began,
    /// It was removed, or the far side says so.
    Expired,
    /// An attempt failed; the debt stays.
    Failed { error: String, next_attempt: Timestamp },
    /// Nothing wants it any more; it never arrived.
    Lapsed,
    /// The medium refuses deletion until then. A lock is only ever extended.
    Locked { until: Timestamp },
    /// It was there and is gone or damaged: owed again.
    Lost { error: String },
    /// It is to be made, not before `due`.
    Owed { due: Timestamp },
    /// A proof by reading; a weaker one does not replace a stronger.
    Proven(Proof),
    /// It is being removed, for want of a reason: decided, and not to be undone here.
    Removing,
    /// The application was started from it.
    Shown { outcome: Shown, start: Start },
    /// Who holds it did not remove it: why, and when to ask again.
    Stayed { why: String, until: Timestamp },
}

/// A copy that is owed, with its point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Debt {
    pub workload: WorkloadName,
    pub moment: Timestamp,
    pub row: LedgerRow,
}

/// The columns of a row; what is selected beside them comes after.
pub(super) const COLUMNS: &str = "l.point, l.copy, l.state, l.proof, l.proven, \
     l.lock_until, l.bytes_sent, \
     l.bytes_stored, l.seconds, l.attempts, l.last_error, l.next_attempt, l.doomed, l.changed, \
     l.reasons, l.doomed_counted, l.started, l.failed";
/// How many they are.
pub(super) const COLUMNS_COUNT: usize = 18;

pub(super) fn ledger_row(row: &Row<'_>) -> rusqlite::Result<LedgerRow> {
    let level = match row.get_ref(3)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(word(row, 3, "proof level", ProofLevel::from_word)?),
    };
    let proven = time_or_none(row, 4)?;
    Ok(LedgerRow {
        point: id(row, 0)?,
        copy: text(row, 1)?,
        state: word(row, 2, "copy state", CopyState::from_word)?,
        proof: level.zip(proven).map(|(level, at)| Proof { level, at }),
        lock_until: time_or_none(row, 5)?,
        bytes_sent: count(row, 6)?,
        bytes_stored: count(row, 7)?,
        seconds: count(row, 8)?,
        attempts: count(row, 9)?,
        last_error: row.get(10)?,
        next_attempt: time_or_none(row, 11)?,
        doomed: time_or_none(row, 12)?,
        changed: time(row, 13)?,
        reasons: row.get(14)?,
        doomed_counted: row.get(15)?,
        started: start_or_none(row, 16)?,
        failed: start_or_none(row, 17)?,
    })
}

/// Every row, of one workload or of all.
pub(super) fn ledger_rows(
    db: &Connection,
    workload: Option<&WorkloadName>,
) -> rusqlite::Result<Vec<LedgerRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM ledger l JOIN points p ON p.id = l.point \
         WHERE (?1 IS NULL OR p.workload = ?1)"
    );
    let mut query = db.prepare_cached(&sql)?;
    let rows = query.query_map([workload.map(WorkloadName::as_str)], ledger_row)?;
    rows.collect()
}

pub(super) fn find(
    db: &Connection,
    point: PointId,
    copy: &CopyName,
) -> rusqlite::Result<Option<LedgerRow>> {
    let sql = format!("SELECT {COLUMNS} FROM ledger l WHERE l.point = ?1 AND l.copy = ?2");
    let mut query = db.prepare_cached(&sql)?;
    query.query_row(params![point.as_bytes(), copy.as_str()], ledger_row).optional()
}

pub(super) fn store(db: &Transaction<'_>, row: &LedgerRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO ledger (point, copy, state, proof, proven, lock_until, \
           bytes_sent, bytes_stored, seconds, attempts, last_error, next_attempt, doomed, \
           changed, reasons, doomed_counted) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )?
    .execute(params![
        row.point.as_bytes(),
        row.copy.as_str(),
        row.state.as_str(),
        row.proof.map(|proof| proof.level.as_str()),
        row.proof.map(|proof| proof.at.0),
        row.lock_until.map(|until| until.0),
        number(row.bytes_sent),
        number(row.bytes_stored),
        number(row.seconds),
        number(row.attempts),
        row.last_error,
        row.next_attempt.map(|at| at.0),
        row.doomed.map(|since| since.0),
        row.changed.0,
        row.reasons,
        row.doomed_counted,
    ])?;
    store_starts(db, row)
}

pub(super) fn remove(
    db: &Transaction<'_>,
    point: PointId,
    copy: &CopyName,
) -> rusqlite::Result<()> {
    let mut delete = db.prepare_cached("DELETE FROM ledger WHERE point = ?1 AND copy = ?2")?;
    delete.execute(params![point.as_bytes(), copy.as_str()]).map(drop)
}

impl Catalog {
    /// Every copy of a point.
    pub fn ledger_of(&self, point: PointId) -> Result<Vec<LedgerRow>, CatalogError> {
        self.read("read the ledger", |db| {
            let sql = format!("SELECT {COLUMNS} FROM ledger l WHERE l.point = ?1 ORDER BY l.copy");
            let mut query = db.prepare_cached(&sql)?;
            let rows = query.query_map([point.as_bytes()], ledger_row)?;
            rows.collect()
        })
    }

    /// What is owed, oldest point first; with `due_by` only what may be tried by then.
    pub fn debts(&self, due_by: Option<Timestamp>) -> Result<Vec<Debt>, CatalogError> {
        self.read("list debts", |db| {
            let sql = format!(
                "SELECT {COLUMNS}, p.workload, p.moment FROM ledger l \
                 JOIN points p ON p.id = l.point \
                 WHERE l.state IN ('owed', 'failed') AND coalesce(l.next_attempt, ?2) <= ?1 \
                 ORDER BY p.moment, l.point, l.copy"
            );
            let mut query = db.prepare_cached(&sql)?;
            let by = due_by.map_or(i64::MAX, |by| by.0);
            let rows = query.query_map([by, i64::MIN], |row| {
                let workload = text(row, COLUMNS_COUNT)?;
                Ok(Debt { row: ledger_row(row)?, workload, moment: time(row, COLUMNS_COUNT + 1)? })
            })?;
            rows.collect()
        })
    }

    /// Records what happened to one copy; returns the row as it is now, none once it lapsed.
    /// Refuses what cannot happen: news of an unknown copy, or of one that is not there.
    pub fn record_copy(
        &self,
        point: PointId,
        copy: &CopyName,
        event: &CopyEvent,
        at: Timestamp,
    ) -> Result<Option<LedgerRow>, CatalogError> {
        self.change("record a copy", |db| {
            let present = find(db, point, copy)?;
            let row = transition(present, point, copy, event, at)?;
            match &row {
                Some(row) => store(db, row)?,
                None => remove(db, point, copy)?,
            }
            Ok(row)
        })
    }

    /// Work left in the middle by a crash is owed again; returns how many copies.
    pub fn reset_working(&self, now: Timestamp) -> Result<usize, CatalogError> {
        self.change("reset copies under way", |db| {
            Ok(db.execute(
                "UPDATE ledger SET state = 'owed', next_attempt = ?1, changed = ?1 \
                 WHERE state = 'working'",
                [now.0],
            )?)
        })
    }
}

pub(super) fn is_debt(state: CopyState) -> bool {
    matches!(state, CopyState::Owed | CopyState::Failed)
}

/// The row after the event.
pub(super) fn transition(
    row: Option<LedgerRow>,
    point: PointId,
    copy: &CopyName,
    event: &CopyEvent,
    at: Timestamp,
) -> Result<Option<LedgerRow>, CatalogError> {
    let state = row.as_ref().map(|row| row.state);
    let refused = |verb| {
        let state = state.map_or("not on the books", CopyState::as_str).to_owned();
        Err(CatalogError::Copy { point, copy: copy.clone(), verb, state })
    };
    let present = state == Some(CopyState::Present);
    let pending = state.is_some_and(|state| is_debt(state) || state == CopyState::Working);
    let mut row = row.unwrap_or_else(|| fresh(point, copy, at));
    row.changed = at;
    match event {
        CopyEvent::Owed { due } if state.is_none() => row.next_attempt = Some(*due),
        CopyEvent::Owed { .. } => return refused("owed"),
        CopyEvent::Began if pending => {
            row.state = CopyState::Working;
            row.attempts += 1;
        }
        CopyEvent::Began => return refused("begun"),
        CopyEvent::Failed { error, next_attempt } if pending => {
            row.state = CopyState::Failed;
            row.last_error = Some(error.clone());
            row.next_attempt = Some(*next_attempt);
        }
        CopyEvent::Failed { .. } => return refused("failed"),
        CopyEvent::Arrived { bytes_sent, bytes_stored, seconds } if pending || present => {
            row.state = CopyState::Present;
            row.proof = row.proof.or(Some(Proof { level: ProofLevel::Written, at }));
            (row.bytes_sent, row.bytes_stored) = (*bytes_sent, *bytes_stored);
            row.seconds = *seconds;
            (row.last_error, row.next_attempt) = (None, None);
        }
        CopyEvent::Arrived { .. } => return refused("there"),
        CopyEvent::Proven(proof) if present => {
            row.proof = Some(stronger(*proof, row.proof));
        }
        CopyEvent::Proven(_) => return refused("proven"),
        CopyEvent::Shown { outcome, start } if present => row.show(*outcome, start),
        CopyEvent::Shown { .. } => return refused("proven"),
        CopyEvent::Locked { until } if present => {
            row.lock_until = row.lock_until.max(Some(*until));
        }
        CopyEvent::Locked { .. } => return refused("locked"),
        CopyEvent::Lost { error } if present => {
            row.state = CopyState::Owed;
            row.last_error = Some(error.clone());
            (row.proof, row.doomed, row.lock_until) = (None, None, None);
            (row.doomed_counted, row.next_attempt) = (None, Some(at));
            row.forget_starts();
        }
        CopyEvent::Lost { .. } => return refused("lost"),
        CopyEvent::Expired | CopyEvent::Removing | CopyEvent::Stayed { .. } => {
            if let Err(verb) = let_go(&mut row, state, event, at) {
                return refused(verb);
            }
        }
        CopyEvent::Lapsed if pending => return Ok(None),
        CopyEvent::Lapsed => return refused("dropped"),
    }
    Ok(Some(row))
}

/// The steps of a removal; refuses, by the verb, what cannot be.
fn let_go(
    row: &mut LedgerRow,
    state: Option<CopyState>,
    event: &CopyEvent,
    at: Timestamp,
) -> Result<(), &'static str> {
    let locked = row.lock_until.is_some_and(|until| until > at);
    match (event, state) {
        (CopyEvent::Stayed { why, until }, Some(CopyState::Present | CopyState::Removing)) => {
            row.state = CopyState::Present;
            (row.last_error, row.next_attempt) = (Some(why.clone()), Some(*until));
        }
        (CopyEvent::Stayed { .. }, _) => return Err("said to stay"),
        _ if locked => return Err("expired before its lock ends"),
        (CopyEvent::Removing, Some(CopyState::Removing)) => {}
        (CopyEvent::Removing, Some(CopyState::Present)) if row.doomed.is_some() => {
            row.state = CopyState::Removing;
        }
        (CopyEvent::Removing, _) => return Err("removed while something keeps it"),
        (_, Some(CopyState::Present | CopyState::Removing | CopyState::Expired)) => {
            row.state = CopyState::Expired;
            (row.proof, row.next_attempt, row.last_error) = (None, None, None);
            (row.doomed, row.doomed_counted) = (None, None);
            row.forget_starts();
        }
        _ => return Err("expired"),
    }
    Ok(())
}

pub(super) fn fresh(point: PointId, copy: &CopyName, at: Timestamp) -> LedgerRow {
    LedgerRow {
        point,
        copy: copy.clone(),
        state: CopyState::Owed,
        proof: None,
        started: None,
        failed: None,
        lock_until: None,
        bytes_sent: 0,
        bytes_stored: 0,
        seconds: 0,
        attempts: 0,
        last_error: None,
        next_attempt: None,
        doomed: None,
        doomed_counted: None,
        reasons: None,
        changed: at,
    }
}

/// The stronger; among equals the newer.
fn stronger(newer: Proof, older: Option<Proof>) -> Proof {
    older.filter(|older| older.level > newer.level).unwrap_or(newer)
}
