//! Drills on record: what was ordered, and what it showed. A row is written before the order goes
//! out. A verdict comes from a proof that the proxy tells until it is noted; that a drill broke off
//! never replaces one, and a proof that comes late replaces that it broke off.

use rusqlite::{OptionalExtension as _, Row, params};
use strongroom_protocol::drill::DrillKind;
use strongroom_protocol::{CopyName, JobId, NodeName, PointId, Timestamp, WorkloadName};

use crate::catalog::cell::{count, id, number, text, time, time_or_none, word};
use crate::catalog::{Catalog, CatalogError, Start};
use crate::retention::ProofLevel;

/// What became of a drill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing was shown: it could not be made, or not to its end.
    BrokenOff,
    /// The copy was used, and did not do.
    Failed,
    Held,
}

impl Verdict {
    const ALL: [Self; 3] = [Self::BrokenOff, Self::Failed, Self::Held];

    /// The word in the catalog and in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BrokenOff => "broken off",
            Self::Failed => "failed",
            Self::Held => "held",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == word)
    }
}

/// A drill.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DrillRecord {
    pub job: JobId,
    pub workload: WorkloadName,
    pub point: PointId,
    pub moment: Timestamp,
    pub copy: CopyName,
    pub node: NodeName,
    pub kind: DrillKind,
    pub by: String,
    pub began: Timestamp,
    pub ended: Option<Timestamp>,
    /// None while nothing is known.
    pub verdict: Option<Verdict>,
    pub level: ProofLevel,
    pub took_ms: Option<u64>,
    pub detail: String,
}

const COLUMNS: &str = "job, workload, point, moment, copy, node, kind, ordered_by, began, ended, \
     verdict, level, took_ms, detail";

fn kind_from_word(word: &str) -> Option<DrillKind> {
    let kinds = [DrillKind::Files, DrillKind::Postgres, DrillKind::Vm];
    kinds.into_iter().find(|kind| kind.as_str() == word)
}

fn record(row: &Row<'_>) -> rusqlite::Result<DrillRecord> {
    let verdict = match row.get_ref(10)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(word(row, 10, "verdict", Verdict::from_word)?),
    };
    let took_ms = match row.get_ref(12)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(count(row, 12)?),
    };
    Ok(DrillRecord {
        job: id(row, 0)?,
        workload: text(row, 1)?,
        point: id(row, 2)?,
        moment: time(row, 3)?,
        copy: text(row, 4)?,
        node: text(row, 5)?,
        kind: word(row, 6, "kind of drill", kind_from_word)?,
        by: row.get(7)?,
        began: time(row, 8)?,
        ended: time_or_none(row, 9)?,
        verdict,
        level: word(row, 11, "proof level", ProofLevel::from_word)?,
        took_ms,
        detail: row.get(13)?,
    })
}

impl Catalog {
    /// A drill is about to be ordered, or is known only by its proof.
    pub fn begin_drill(&self, drill: &DrillRecord) -> Result<(), CatalogError> {
        self.change("record a drill", |db| {
            let sql = format!(
                "INSERT INTO drills ({COLUMNS}) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
            );
            db.prepare_cached(&sql)?.execute(params![
                drill.job.as_bytes(),
                drill.workload.as_str(),
                drill.point.as_bytes(),
                drill.moment.0,
                drill.copy.as_str(),
                drill.node.as_str(),
                drill.kind.as_str(),
                drill.by,
                drill.began.0,
                drill.ended.map(|at| at.0),
                drill.verdict.map(Verdict::as_str),
                drill.level.as_str(),
                drill.took_ms.map(number),
                drill.detail,
            ])?;
            Ok(())
        })
    }

    /// The node is done with a drill; its proof is told beside that.
    pub fn close_drill(&self, job: JobId, at: Timestamp) -> Result<(), CatalogError> {
        self.change("close a drill", |db| {
            let sql = "UPDATE drills SET ended = ?2 WHERE job = ?1 AND ended IS NULL";
            db.prepare_cached(sql)?.execute(params![job.as_bytes(), at.0])?;
            Ok(())
        })
    }

    /// A drill showed nothing, and why; where a verdict is known, that stays.
    pub fn break_drill(&self, job: JobId, why: &str, at: Timestamp) -> Result<(), CatalogError> {
        self.change("break off a drill", |db| {
            let sql = "UPDATE drills SET ended = coalesce(ended, ?2), verdict = ?3, detail = ?4 \
                       WHERE job = ?1 AND verdict IS NULL";
            let word = Verdict::BrokenOff.as_str();
            db.prepare_cached(sql)?.execute(params![job.as_bytes(), at.0, word, why])?;
            Ok(())
        })
    }

    /// What a drill at a node showed, into the newest row that it can be of; the row, or none where
    /// there is none, or this proof is known.
    pub fn show_drill(
        &self,
        (node, copy, point): (&NodeName, &CopyName, PointId),
        verdict: Verdict,
        start: &Start,
    ) -> Result<Option<DrillRecord>, CatalogError> {
        self.change("record what a drill showed", |db| {
            let known: Option<i64> = db
                .prepare_cached(
                    "SELECT 1 FROM drills WHERE node = ?1 AND copy = ?2 AND point = ?3 \
                     AND proven = ?4",
                )?
                .query_row(
                    params![node.as_str(), copy.as_str(), point.as_bytes(), start.at.0],
                    |row| row.get(0),
                )
                .optional()?;
            if known.is_some() {
                return Ok(None);
            }
            let sql = format!(
                "UPDATE drills SET verdict = ?4, level = ?5, proven = ?6, took_ms = ?7, \
                 detail = ?8, ended = coalesce(ended, ?6) WHERE job = \
                 (SELECT job FROM drills WHERE node = ?1 AND copy = ?2 AND point = ?3 \
                  AND proven IS NULL ORDER BY began DESC LIMIT 1) RETURNING {COLUMNS}"
            );
            let values = params![
                node.as_str(),
                copy.as_str(),
                point.as_bytes(),
                verdict.as_str(),
                start.level.as_str(),
                start.at.0,
                number(start.took_ms),
                start.detail,
            ];
            Ok(db.prepare_cached(&sql)?.query_row(values, record).optional()?)
        })
    }

    /// Drills, newest first; of one workload or of all.
    pub fn drills(
        &self,
        workload: Option<&WorkloadName>,
        most: u32,
    ) -> Result<Vec<DrillRecord>, CatalogError> {
        self.read("list drills", |db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM drills WHERE (?1 IS NULL OR workload = ?1) \
                 ORDER BY began DESC, job LIMIT ?2"
            );
            let mut query = db.prepare_cached(&sql)?;
            let of = workload.map(WorkloadName::as_str);
            let rows = query.query_map(params![of, most], record)?;
            rows.collect()
        })
    }

    /// Drills of which nothing is known yet.
    pub fn open_drills(&self) -> Result<Vec<DrillRecord>, CatalogError> {
        self.read("list open drills", |db| {
            let sql = format!("SELECT {COLUMNS} FROM drills WHERE verdict IS NULL ORDER BY began");
            let mut query = db.prepare_cached(&sql)?;
            let rows = query.query_map([], record)?;
            rows.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_780_000_000 + seconds)
    }

    fn drill(n: u8) -> DrillRecord {
        DrillRecord {
            job: JobId::from_bytes([n; 16]),
            workload: "web@a".parse().unwrap(),
            point: PointId::from_bytes([1; 16]),
            moment: at(0),
            copy: "far".parse().unwrap(),
            node: "dr1".parse().unwrap(),
            kind: DrillKind::Files,
            by: "schedule".to_owned(),
            began: at(i64::from(n)),
            ended: None,
            verdict: None,
            level: ProofLevel::MountedChecked,
            took_ms: None,
            detail: String::new(),
        }
    }

    fn show(catalog: &Catalog, seconds: i64) -> Option<DrillRecord> {
        let start = Start {
            at: at(seconds),
            took_ms: 900,
            by: "dr1".to_owned(),
            detail: "3 files".to_owned(),
            level: ProofLevel::MountedChecked,
        };
        let of = drill(1);
        catalog.show_drill((&of.node, &of.copy, of.point), Verdict::Held, &start).unwrap()
    }

    #[test]
    fn a_proof_that_comes_late_replaces_that_it_broke_off_and_counts_once() {
        let catalog = Catalog::in_memory().unwrap();
        catalog.begin_drill(&drill(1)).unwrap();
        catalog.break_drill(drill(1).job, "the proxy came back without it", at(5)).unwrap();
        let row = catalog.drills(None, 9).unwrap().remove(0);
        assert_eq!((row.verdict, row.ended), (Some(Verdict::BrokenOff), Some(at(5))));
        let row = show(&catalog, 4).unwrap();
        assert_eq!((row.verdict, row.took_ms), (Some(Verdict::Held), Some(900)));
        assert_eq!((row.detail.as_str(), row.ended), ("3 files", Some(at(5))));
        assert_eq!(show(&catalog, 4), None, "told again");
        catalog.break_drill(drill(1).job, "late", at(9)).unwrap();
        assert_eq!(catalog.drills(None, 9).unwrap(), [row]);
    }

    #[test]
    fn a_proof_goes_to_the_newest_that_has_none_and_to_no_other_point() {
        let catalog = Catalog::in_memory().unwrap();
        assert_eq!(show(&catalog, 4), None);
        let other = DrillRecord { point: PointId::from_bytes([9; 16]), ..drill(7) };
        for one in [drill(1), drill(2), other] {
            catalog.begin_drill(&one).unwrap();
        }
        assert_eq!(show(&catalog, 30).unwrap().job, drill(2).job);
        assert_eq!(show(&catalog, 31).unwrap().job, drill(1).job);
        let open = catalog.open_drills().unwrap();
        assert_eq!(open.iter().map(|row| row.job).collect::<Vec<_>>(), [drill(7).job]);
        catalog.close_drill(drill(7).job, at(40)).unwrap();
        assert_eq!(catalog.open_drills().unwrap()[0].ended, Some(at(40)));
    }
}
