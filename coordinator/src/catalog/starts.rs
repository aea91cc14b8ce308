//! What starting the application from a copy showed, beside what reading it proved. The newest
//! verdict counts: a copy from which the application did not start is suspect until it started
//! once more; it stays where it is, and what reading it proved stays too.

use rusqlite::types::Type;
use rusqlite::{Row, Transaction, params};
use serde::{Deserialize, Serialize};
use strongroom_protocol::control::Shown;
use strongroom_protocol::{Timestamp, WorkloadName};

use crate::catalog::cell::text;
use crate::catalog::ledger::{COLUMNS, COLUMNS_COUNT, ledger_row};
use crate::catalog::{Catalog, CatalogError, LedgerRow};
use crate::retention::{Proof, ProofLevel, proven};

/// A start of the application from a copy, or a mount of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Start {
    pub at: Timestamp,
    /// From the order until it answered, in milliseconds: what a recovery takes.
    pub took_ms: u64,
    /// Who told it.
    pub by: String,
    /// What was checked, or what failed.
    pub detail: String,
    /// What it shows where it held. Rows written before there were drills are of starts.
    #[serde(default = "started")]
    pub level: ProofLevel,
}

const fn started() -> ProofLevel {
    ProofLevel::Started
}

impl Start {
    /// What it proves where it held.
    pub const fn proof(&self) -> Proof {
        Proof { level: self.level, at: self.at }
    }
}

impl LedgerRow {
    /// The start that failed, if none held after it.
    pub fn suspect(&self) -> Option<&Start> {
        let held = self.started.as_ref().map(|start| start.at);
        self.failed.as_ref().filter(|failed| held.is_none_or(|held| held < failed.at))
    }

    /// How far the copy is proven, by whatever means.
    pub fn proven(&self) -> Option<Proof> {
        let started = self.started.as_ref().map(Start::proof);
        proven(self.proof, started, self.suspect().map(|start| start.at))
    }

    /// Takes up what another start showed. They may come out of order.
    pub(super) fn show(&mut self, outcome: Shown, start: &Start) {
        let (same, other) = match outcome {
            Shown::Failed => (&mut self.failed, &self.started),
            Shown::Held => (&mut self.started, &self.failed),
        };
        if same.as_ref().is_none_or(|known| known.at <= start.at) {
            *same = Some(start.clone());
        }
        let newer = other.as_ref().is_some_and(|other| other.at > start.at);
        if outcome == Shown::Held && !newer {
            self.failed = None;
        }
    }

    /// Nothing that was started from what was there says anything of what is not.
    pub(super) fn forget_starts(&mut self) {
        (self.started, self.failed) = (None, None);
    }
}

/// A start as its column holds it.
pub(super) fn start_or_none(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Start>> {
    let json: Option<String> = row.get(column)?;
    let start = json.map(|json| serde_json::from_str(&json)).transpose();
    start.map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    })
}

/// Writes what starts of a copy showed beside the rest of its row.
pub(super) fn store_starts(db: &Transaction<'_>, row: &LedgerRow) -> rusqlite::Result<()> {
    let json = |start: &Option<Start>| {
        let json = start.as_ref().map(serde_json::to_string).transpose();
        json.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
    };
    db.prepare_cached("UPDATE ledger SET started = ?3, failed = ?4 WHERE point = ?1 AND copy = ?2")?
        .execute(params![
            row.point.as_bytes(),
            row.copy.as_str(),
            json(&row.started)?,
            json(&row.failed)?
        ])
        .map(drop)
}

impl Catalog {
    /// Copies that are there and from which the application did not start, with whose they are.
    pub fn suspects(&self) -> Result<Vec<(WorkloadName, LedgerRow)>, CatalogError> {
        let failed: Vec<(WorkloadName, LedgerRow)> = self.read("list suspect copies", |db| {
            let mut query = db.prepare_cached(&format!(
                "SELECT {COLUMNS}, p.workload FROM ledger l JOIN points p ON p.id = l.point \
                 WHERE l.state = 'present' AND l.failed IS NOT NULL \
                 ORDER BY p.moment, l.point, l.copy"
            ))?;
            let rows = query.query_map([], |row| Ok((text(row, COLUMNS_COUNT)?, ledger_row(row)?)));
            rows?.collect()
        })?;
        Ok(failed.into_iter().filter(|(_, row)| row.suspect().is_some()).collect())
    }
}

#[cfg(test)]
mod tests {
    use strongroom_protocol::PointId;

    use super::*;
    use crate::catalog::ledger::fresh;
    use crate::policy::primary;
    use crate::retention::CopyState;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_780_000_000 + seconds)
    }

    fn row(shown: &[(Shown, i64)]) -> LedgerRow {
        let mut row = fresh(PointId::from_bytes([1; 16]), &primary(), at(0));
        row.state = CopyState::Present;
        row.proof = Some(Proof { level: ProofLevel::Readable, at: at(1) });
        for (outcome, seconds) in shown {
            let (by, detail) = ("ann".to_owned(), "5 checks".to_owned());
            let level = ProofLevel::Started;
            row.show(*outcome, &Start { at: at(*seconds), took_ms: 7, by, detail, level });
        }
        row
    }

    #[test]
    fn the_newest_verdict_counts_in_whatever_order_they_come() {
        use Shown::{Failed, Held};
        let started = |seconds| Some(Proof { level: ProofLevel::Started, at: at(seconds) });
        let read = Some(Proof { level: ProofLevel::Readable, at: at(1) });
        for (shown, proof, suspect) in [
            (&[][..], read, None),
            (&[(Held, 10)], started(10), None),
            (&[(Held, 10), (Held, 20)], started(20), None),
            (&[(Held, 20), (Held, 10)], started(20), None),
            (&[(Failed, 10)], read, Some(at(10))),
            (&[(Held, 10), (Failed, 20)], read, Some(at(20))),
            (&[(Failed, 20), (Held, 10)], read, Some(at(20))),
            (&[(Failed, 10), (Held, 20)], started(20), None),
            (&[(Held, 20), (Failed, 10)], started(20), None),
            (&[(Failed, 10), (Held, 20), (Failed, 15)], started(20), None),
        ] {
            let row = row(shown);
            assert_eq!(row.proven(), proof, "{shown:?}");
            assert_eq!(row.suspect().map(|start| start.at), suspect, "{shown:?}");
        }
    }
}
