//! Nodes as they were last seen, settings, and the counts of the status page.

use rusqlite::{OptionalExtension as _, params};
use strongroom_protocol::{Identity, Role, Timestamp};

use crate::catalog::cell::{count, text, time, time_or_none};
use crate::catalog::{Catalog, CatalogError};
use strongroom_node::audit::Head;

/// Where the audit log's last known head is kept.
const AUDIT_ANCHOR: &str = "audit.anchor";

/// What a node says of itself when it connects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeNote {
    pub identity: Identity,
    /// Of its certificate.
    pub serial: String,
    pub software: String,
    pub host: String,
    pub certificate_until: Option<Timestamp>,
}

/// A known node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    pub note: NodeNote,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
}

/// Counts over everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub points: u64,
    pub workloads: u64,
    /// Bytes of the sources of all points.
    pub source_bytes: u64,
    /// Bytes the points added to the repository.
    pub stored_bytes: u64,
    pub owed: u64,
    pub failed: u64,
    pub doomed: u64,
    pub live_jobs: u64,
}

impl Catalog {
    /// A node connected, or was heard of again.
    pub fn note_node(&self, note: &NodeNote, at: Timestamp) -> Result<(), CatalogError> {
        let who = &note.identity;
        self.change("record a node", |db| {
            db.execute(
                "INSERT INTO nodes (org, site, role, name, serial, software, host, \
                   certificate_until, first_seen, last_seen) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9) \
                 ON CONFLICT (org, site, role, name) DO UPDATE SET serial = ?5, software = ?6, \
                   host = ?7, certificate_until = ?8, last_seen = max(last_seen, ?9)",
                params![
                    who.org.as_str(),
                    who.site.as_str(),
                    who.role.as_str(),
                    who.name.as_str(),
                    note.serial,
                    note.software,
                    note.host,
                    note.certificate_until.map(|until| until.0),
                    at.0,
                ],
            )?;
            Ok(())
        })
    }

    /// Every node ever seen.
    pub fn nodes(&self) -> Result<Vec<NodeRecord>, CatalogError> {
        self.read("list nodes", |db| {
            let mut query = db.prepare_cached(
                "SELECT org, site, role, name, serial, software, host, certificate_until, \
                 first_seen, last_seen FROM nodes ORDER BY org, site, role, name",
            )?;
            let rows = query.query_map([], |row| {
                let (org, site) = (text(row, 0)?, text(row, 1)?);
                let (role, name) = (text::<Role>(row, 2)?, text(row, 3)?);
                let note = NodeNote {
                    identity: Identity { org, site, role, name },
                    serial: row.get(4)?,
                    software: row.get(5)?,
                    host: row.get(6)?,
                    certificate_until: time_or_none(row, 7)?,
                };
                Ok(NodeRecord { note, first_seen: time(row, 8)?, last_seen: time(row, 9)? })
            })?;
            rows.collect()
        })
    }

    /// A setting by its key.
    pub fn setting(&self, key: &str) -> Result<Option<String>, CatalogError> {
        self.read("read a setting", |db| {
            let mut query = db.prepare_cached("SELECT value FROM settings WHERE key = ?1")?;
            query.query_row([key], |row| row.get(0)).optional()
        })
    }

    /// Changes a setting.
    pub fn set_setting(&self, key: &str, value: &str) -> Result<(), CatalogError> {
        self.change("change a setting", |db| {
            db.execute(
                "INSERT OR REPLACE INTO settings (key, value) VALUES (?1, ?2)",
                [key, value],
            )?;
            Ok(())
        })
    }

    /// Remembers the audit log's head, so that a removed tail is found.
    pub fn anchor_audit(&self, head: &Head) -> Result<(), CatalogError> {
        let json = serde_json::to_string(head).map_err(CatalogError::Json)?;
        self.set_setting(AUDIT_ANCHOR, &json)
    }

    /// The head last remembered.
    pub fn audit_anchor(&self) -> Result<Option<Head>, CatalogError> {
        let json = self.setting(AUDIT_ANCHOR)?;
        json.map(|json| serde_json::from_str(&json)).transpose().map_err(CatalogError::Json)
    }

    /// Counts over everything.
    pub fn totals(&self) -> Result<Totals, CatalogError> {
        self.read("count", |db| {
            db.query_row(
                "SELECT count(*), count(DISTINCT workload), coalesce(sum(bytes), 0), \
                   coalesce(sum(stored_bytes), 0), \
                   (SELECT count(*) FROM ledger WHERE state IN ('owed', 'working')), \
                   (SELECT count(*) FROM ledger WHERE state = 'failed'), \
                   (SELECT count(*) FROM ledger WHERE state = 'present' AND doomed IS NOT NULL), \
                   (SELECT count(*) FROM jobs WHERE live = 1) FROM points",
                [],
                |row| {
                    Ok(Totals {
                        points: count(row, 0)?,
                        workloads: count(row, 1)?,
                        source_bytes: count(row, 2)?,
                        stored_bytes: count(row, 3)?,
                        owed: count(row, 4)?,
                        failed: count(row, 5)?,
                        doomed: count(row, 6)?,
                        live_jobs: count(row, 7)?,
                    })
                },
            )
        })
    }
}
