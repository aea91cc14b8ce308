//! Media: cartridges, what they hold, and which hold a point. Media describe themselves; this is
//! the index that saves loading them.

use rusqlite::{Connection, Row, params};
use strongroom_protocol::{CopyName, MediaSetName, MediumId, PointId, Timestamp};

use crate::catalog::cell::{count, id, number, text, text_or_none, time_or_none};
use crate::catalog::{Catalog, CatalogError};

/// One cartridge, or directory that plays one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Medium {
    pub medium: MediumId,
    pub barcode: String,
    /// None: scratch.
    pub set: Option<MediaSetName>,
    /// Its place in the set.
    pub sequence: u64,
    pub sessions: u64,
    pub used_bytes: u64,
    pub capacity_bytes: u64,
    pub written: Option<Timestamp>,
    pub detail: String,
}

const COLUMNS: &str = "m.id, m.barcode, m.media_set, m.sequence, m.sessions, m.used_bytes, \
     m.capacity_bytes, m.written, m.detail";

fn medium(row: &Row<'_>) -> rusqlite::Result<Medium> {
    Ok(Medium {
        medium: id(row, 0)?,
        barcode: row.get(1)?,
        set: text_or_none(row, 2)?,
        sequence: count(row, 3)?,
        sessions: count(row, 4)?,
        used_bytes: count(row, 5)?,
        capacity_bytes: count(row, 6)?,
        written: time_or_none(row, 7)?,
        detail: row.get(8)?,
    })
}

fn listed(
    db: &Connection,
    tail: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Vec<Medium>> {
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM media m {tail}"))?;
    let rows = query.query_map(values, medium)?;
    rows.collect()
}

impl Catalog {
    /// Records a medium as it was last seen.
    pub fn upsert_medium(&self, medium: &Medium) -> Result<(), CatalogError> {
        self.change("record a medium", |db| {
            db.execute(
                "INSERT INTO media (id, barcode, media_set, sequence, sessions, used_bytes, \
                   capacity_bytes, written, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
                 ON CONFLICT (id) DO UPDATE SET barcode = ?2, media_set = ?3, sequence = ?4, \
                   sessions = ?5, used_bytes = ?6, capacity_bytes = ?7, written = ?8, detail = ?9",
                params![
                    medium.medium.as_bytes(),
                    medium.barcode,
                    medium.set.as_ref().map(MediaSetName::as_str),
                    number(medium.sequence),
                    number(medium.sessions),
                    number(medium.used_bytes),
                    number(medium.capacity_bytes),
                    medium.written.map(|at| at.0),
                    medium.detail,
                ],
            )?;
            Ok(())
        })
    }

    /// Every medium, by set and place in it.
    pub fn media(&self) -> Result<Vec<Medium>, CatalogError> {
        self.read("list media", |db| listed(db, "ORDER BY m.media_set, m.sequence, m.barcode", []))
    }

    /// A medium holds (part of) a copy of a point. Twice is once.
    pub fn place_on_medium(
        &self,
        medium: MediumId,
        point: PointId,
        copy: &CopyName,
    ) -> Result<(), CatalogError> {
        self.change("record what a medium holds", |db| {
            db.execute(
                "INSERT OR IGNORE INTO media_points (medium, point, copy) VALUES (?1, ?2, ?3)",
                params![medium.as_bytes(), point.as_bytes(), copy.as_str()],
            )?;
            Ok(())
        })
    }

    /// The media a copy of a point needs, in order.
    pub fn media_of(&self, point: PointId, copy: &CopyName) -> Result<Vec<Medium>, CatalogError> {
        let tail = "JOIN media_points p ON p.medium = m.id \
                    WHERE p.point = ?1 AND p.copy = ?2 ORDER BY m.sequence";
        self.read("list the media of a point", |db| {
            listed(db, tail, params![point.as_bytes(), copy.as_str()])
        })
    }

    /// What a medium holds.
    pub fn points_on(&self, medium: MediumId) -> Result<Vec<(PointId, CopyName)>, CatalogError> {
        self.read("list what a medium holds", |db| {
            let mut query = db.prepare_cached(
                "SELECT point, copy FROM media_points WHERE medium = ?1 ORDER BY point, copy",
            )?;
            let rows =
                query.query_map([medium.as_bytes()], |row| Ok((id(row, 0)?, text(row, 1)?)))?;
            rows.collect()
        })
    }

    /// A medium was wiped or is gone: it holds nothing any more.
    pub fn forget_medium(&self, medium: MediumId) -> Result<(), CatalogError> {
        self.change("forget a medium", |db| {
            db.execute("DELETE FROM media WHERE id = ?1", [medium.as_bytes()])?;
            Ok(())
        })
    }
}
