//! The ledger's part in letting go: retention's verdicts on the books, the grace of what no
//! reason keeps, what is in the middle of being removed, and points that are gone everywhere.

use rusqlite::Transaction;
use strongroom_protocol::{CopyName, PointId, Timestamp, WorkloadName};

use crate::catalog::cell::{id, text};
use crate::catalog::ledger::{
    COLUMNS, COLUMNS_COUNT, find, is_debt, ledger_row, remove, store, transition,
};
use crate::catalog::{Catalog, CatalogError, CopyEvent, LedgerRow, Trouble};
use crate::retention::{CopyState, RetentionClock, Stance, Verdict};

/// The setting that holds the coordinator's counted time.
const CLOCK: &str = "retention clock";

/// A copy that no reason keeps any more, or one in the middle of being removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doomed {
    pub workload: WorkloadName,
    pub row: LedgerRow,
}

impl Doomed {
    /// Which copy of which point.
    pub fn key(&self) -> (PointId, CopyName) {
        (self.row.point, self.row.copy.clone())
    }
}

/// What one settling changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settled {
    pub owed: u64,
    pub lapsed: u64,
    pub doomed: u64,
    /// Doomed before, kept now.
    pub spared: u64,
}

impl Catalog {
    /// Puts retention's verdicts on the books: new debts, lapsed ones, doomed copies with the
    /// reasons that ended, and those spared after all. Removes no copy.
    pub fn settle(
        &self,
        verdicts: &[Verdict],
        clock: RetentionClock,
        now: Timestamp,
    ) -> Result<Settled, CatalogError> {
        self.change("settle the ledger", |db| {
            let mut settled = Settled::default();
            for verdict in verdicts {
                let row = find(db, verdict.point, &verdict.copy)?;
                settle_one(db, verdict, row, clock, now, &mut settled)?;
            }
            Ok(settled)
        })
    }

    /// Copies that no reason keeps, longest first.
    pub fn doomed(&self) -> Result<Vec<Doomed>, CatalogError> {
        self.doomed_where("l.state = 'present' AND l.doomed IS NOT NULL")
    }

    /// Copies in the middle of being removed.
    pub fn removing(&self) -> Result<Vec<Doomed>, CatalogError> {
        self.doomed_where("l.state = 'removing'")
    }

    fn doomed_where(&self, condition: &str) -> Result<Vec<Doomed>, CatalogError> {
        self.read("list doomed copies", |db| {
            let mut query = db.prepare_cached(&format!(
                "SELECT {COLUMNS}, p.workload FROM ledger l JOIN points p ON p.id = l.point \
                 WHERE {condition} ORDER BY l.doomed, l.point, l.copy"
            ))?;
            let rows = query.query_map([], |row| {
                Ok(Doomed { row: ledger_row(row)?, workload: text(row, COLUMNS_COUNT)? })
            })?;
            rows.collect()
        })
    }

    /// Points all of whose copies are gone since before `before`.
    pub fn gone_points(&self, before: Timestamp) -> Result<Vec<PointId>, CatalogError> {
        self.read("list points that are gone", |db| {
            let mut query = db.prepare_cached(
                "SELECT point FROM ledger GROUP BY point \
                 HAVING sum(state != 'expired') = 0 AND max(changed) < ?1",
            )?;
            let rows = query.query_map([before.0], |row| id(row, 0))?;
            rows.collect()
        })
    }

    /// The coordinator's counted time as it was last kept.
    pub fn retention_clock(&self) -> Result<Option<RetentionClock>, CatalogError> {
        let kept = self.setting(CLOCK)?;
        kept.map(|text| serde_json::from_str(&text).map_err(CatalogError::Json)).transpose()
    }

    /// Keeps the coordinator's counted time.
    pub fn set_retention_clock(&self, clock: RetentionClock) -> Result<(), CatalogError> {
        let text = serde_json::to_string(&clock).map_err(CatalogError::Json)?;
        self.set_setting(CLOCK, &text)
    }
}

fn settle_one(
    db: &Transaction<'_>,
    verdict: &Verdict,
    row: Option<LedgerRow>,
    clock: RetentionClock,
    now: Timestamp,
    settled: &mut Settled,
) -> Result<(), Trouble> {
    match (verdict.stance, row) {
        (Stance::Owe, None) => {
            let event = CopyEvent::Owed { due: verdict.due_at.unwrap_or(now) };
            if let Some(row) = transition(None, verdict.point, &verdict.copy, &event, now)? {
                store(db, &row)?;
                settled.owed += 1;
            }
        }
        (Stance::Lapse, Some(row)) if is_debt(row.state) => {
            remove(db, row.point, &row.copy)?;
            settled.lapsed += 1;
        }
        (Stance::Expire, Some(row)) if row.state == CopyState::Present => {
            settled.doomed += u64::from(row.doomed.is_none());
            if row.doomed_counted.is_none() {
                let doomed = row.doomed.or(Some(now));
                let doomed_counted = Some(clock.nanos());
                store(db, &LedgerRow { doomed, doomed_counted, ..row })?;
            }
        }
        (Stance::Keep, Some(row)) => {
            let reasons = Some(verdict.reasons());
            if row.doomed.is_some() {
                settled.spared += 1;
                let (doomed, doomed_counted) = (None, None);
                let (last_error, next_attempt) = (None, None);
                let spared = LedgerRow { doomed, doomed_counted, last_error, next_attempt, ..row };
                store(db, &LedgerRow { reasons, ..spared })?;
            } else if row.reasons != reasons {
                store(db, &LedgerRow { reasons, ..row })?;
            }
        }
        _ => {}
    }
    Ok(())
}
