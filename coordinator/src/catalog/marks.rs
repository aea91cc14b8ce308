//! Holds, pins and events, as people placed them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use strongroom_protocol::{CopyName, PointId, Timestamp};

use crate::catalog::cell::{id, text, time, time_or_none};
use crate::catalog::{Catalog, CatalogError};
use crate::retention::{Hold, Label, Marks, Pin};

fn holds_of(db: &Connection) -> rusqlite::Result<Vec<Hold>> {
    let mut query = db.prepare_cached("SELECT name, by, why, placed FROM holds ORDER BY name")?;
    let rows = query.query_map([], |row| {
        Ok(Hold {
            name: text(row, 0)?,
            by: row.get(1)?,
            why: row.get(2)?,
            placed: time(row, 3)?,
            points: BTreeSet::new(),
            workloads: BTreeSet::new(),
        })
    })?;
    let mut holds: Vec<Hold> = rows.collect::<rusqlite::Result<_>>()?;
    for hold in &mut holds {
        let mut query = db.prepare_cached("SELECT point FROM hold_points WHERE hold = ?1")?;
        let points = query.query_map([hold.name.as_str()], |row| id(row, 0))?;
        hold.points = points.collect::<rusqlite::Result<_>>()?;
        let mut query = db.prepare_cached("SELECT workload FROM hold_workloads WHERE hold = ?1")?;
        let workloads = query.query_map([hold.name.as_str()], |row| text(row, 0))?;
        hold.workloads = workloads.collect::<rusqlite::Result<_>>()?;
    }
    Ok(holds)
}

fn pins_of(db: &Connection) -> rusqlite::Result<Vec<Pin>> {
    let mut query = db
        .prepare_cached("SELECT point, copy, by, why, until_time FROM pins ORDER BY point, copy")?;
    let rows = query.query_map([], |row| {
        let every: bool = row.get::<_, String>(1)?.is_empty();
        Ok(Pin {
            point: id(row, 0)?,
            copy: if every { None } else { Some(text(row, 1)?) },
            by: row.get(2)?,
            why: row.get(3)?,
            until: time_or_none(row, 4)?,
        })
    })?;
    rows.collect()
}

fn events_of(db: &Connection) -> rusqlite::Result<BTreeMap<Label, Option<Timestamp>>> {
    let mut query = db.prepare_cached("SELECT name, ended FROM events")?;
    let rows = query.query_map([], |row| Ok((text(row, 0)?, time_or_none(row, 1)?)))?;
    rows.collect()
}

fn put_hold(db: &Transaction<'_>, hold: &Hold) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO holds (name, by, why, placed) VALUES (?1, ?2, ?3, ?4)",
        params![hold.name.as_str(), hold.by, hold.why, hold.placed.0],
    )?;
    for point in &hold.points {
        db.prepare_cached("INSERT INTO hold_points (hold, point) VALUES (?1, ?2)")?
            .execute(params![hold.name.as_str(), point.as_bytes()])?;
    }
    for workload in &hold.workloads {
        db.prepare_cached("INSERT INTO hold_workloads (hold, workload) VALUES (?1, ?2)")?
            .execute(params![hold.name.as_str(), workload.as_str()])?;
    }
    Ok(())
}

fn copy_cell(copy: Option<&CopyName>) -> &str {
    copy.map_or("", CopyName::as_str)
}

impl Catalog {
    /// Places a hold. Refuses a name that is taken: a hold is never widened or narrowed silently.
    pub fn place_hold(&self, hold: &Hold) -> Result<(), CatalogError> {
        self.change("place a hold", |db| {
            let mut query = db.prepare_cached("SELECT 1 FROM holds WHERE name = ?1")?;
            if query.exists([hold.name.as_str()])? {
                return Err(CatalogError::HoldTaken { name: hold.name.clone() }.into());
            }
            Ok(put_hold(db, hold)?)
        })
    }

    /// Takes in a hold of another site, or more of one that was taken in; whether anything is new.
    /// Refuses a name that another hold has.
    pub fn take_hold(&self, hold: &Hold) -> Result<bool, CatalogError> {
        self.change("take in a hold", |db| {
            let known = holds_of(db)?.into_iter().find(|known| known.name == hold.name);
            let Some(known) = known else {
                put_hold(db, hold)?;
                return Ok(true);
            };
            if (known.placed, &known.by) != (hold.placed, &hold.by) {
                return Err(CatalogError::HoldTaken { name: hold.name.clone() }.into());
            }
            let is_new = !hold.points.is_subset(&known.points)
                || !hold.workloads.is_subset(&known.workloads);
            if is_new {
                let points = known.points.union(&hold.points).copied().collect();
                let workloads = known.workloads.union(&hold.workloads).cloned().collect();
                db.execute("DELETE FROM holds WHERE name = ?1", [hold.name.as_str()])?;
                put_hold(db, &Hold { points, workloads, ..known })?;
            }
            Ok(is_new)
        })
    }

    /// Releases a hold and returns it as it was.
    pub fn release_hold(&self, name: &Label) -> Result<Hold, CatalogError> {
        self.change("release a hold", |db| {
            let unknown = || CatalogError::Unknown { what: "hold", name: name.to_string() };
            let hold = holds_of(db)?.into_iter().find(|hold| hold.name == *name);
            let hold = hold.ok_or_else(unknown)?;
            db.execute("DELETE FROM holds WHERE name = ?1", [name.as_str()])?;
            Ok(hold)
        })
    }

    /// Every hold in force.
    pub fn holds(&self) -> Result<Vec<Hold>, CatalogError> {
        self.read("list holds", holds_of)
    }

    /// Pins a point in one copy or all; a second pin of the same replaces the first.
    pub fn pin(&self, pin: &Pin) -> Result<(), CatalogError> {
        self.change("pin a point", |db| {
            db.execute(
                "INSERT OR REPLACE INTO pins (point, copy, by, why, until_time) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    pin.point.as_bytes(),
                    copy_cell(pin.copy.as_ref()),
                    pin.by,
                    pin.why,
                    pin.until.map(|until| until.0),
                ],
            )?;
            Ok(())
        })
    }

    /// Takes a pin away; the one for all copies when `copy` is none.
    pub fn unpin(&self, point: PointId, copy: Option<&CopyName>) -> Result<(), CatalogError> {
        self.change("unpin a point", |db| {
            let gone = db.execute(
                "DELETE FROM pins WHERE point = ?1 AND copy = ?2",
                params![point.as_bytes(), copy_cell(copy)],
            )?;
            let unknown =
                || CatalogError::Unknown { what: "pin of point", name: point.to_string() };
            if gone == 0 { Err(unknown().into()) } else { Ok(()) }
        })
    }

    /// Every pin.
    pub fn pins(&self) -> Result<Vec<Pin>, CatalogError> {
        self.read("list pins", pins_of)
    }

    /// An event began (`ended` none), ended, or ended at another time than was thought; what was
    /// known before is returned.
    pub fn note_event(
        &self,
        name: &Label,
        ended: Option<Timestamp>,
        by: &str,
        at: Timestamp,
    ) -> Result<Option<Option<Timestamp>>, CatalogError> {
        self.change("note an event", |db| {
            let mut query = db.prepare_cached("SELECT ended FROM events WHERE name = ?1")?;
            let before = query.query_row([name.as_str()], |row| time_or_none(row, 0)).optional()?;
            db.execute(
                "INSERT OR REPLACE INTO events (name, ended, by, noted) VALUES (?1, ?2, ?3, ?4)",
                params![name.as_str(), ended.map(|ended| ended.0), by, at.0],
            )?;
            Ok(before)
        })
    }

    /// Everything retention needs to know of what people marked.
    pub fn marks(&self) -> Result<Marks, CatalogError> {
        self.read("list marks", |db| {
            Ok(Marks { holds: holds_of(db)?, pins: pins_of(db)?, events: events_of(db)? })
        })
    }
}
