//! Every version of the policy file that was ever in force, and the workloads it named.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use strongroom_protocol::{Timestamp, WorkloadId, WorkloadName};

use crate::catalog::cell::{count, id, number, text, time};
use crate::catalog::{Catalog, CatalogError};

/// One version of the policy file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyVersion {
    /// From 1.
    pub version: u64,
    /// Its name, as the operator called it.
    pub file: String,
    pub toml: String,
    /// BLAKE3 of the text, hexadecimal.
    pub hash: String,
    pub by: String,
    pub applied: Timestamp,
}

/// A workload that was ever declared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkloadRecord {
    pub name: WorkloadName,
    pub id: WorkloadId,
    /// When it was first declared.
    pub since: Timestamp,
}

const COLUMNS: &str = "version, file, toml, hash, applied_by, applied";

fn version(row: &Row<'_>) -> rusqlite::Result<PolicyVersion> {
    Ok(PolicyVersion {
        version: count(row, 0)?,
        file: row.get(1)?,
        toml: row.get(2)?,
        hash: row.get(3)?,
        by: row.get(4)?,
        applied: time(row, 5)?,
    })
}

fn newest(db: &Connection) -> rusqlite::Result<Option<PolicyVersion>> {
    let sql = format!("SELECT {COLUMNS} FROM policy_versions ORDER BY version DESC LIMIT 1");
    db.prepare_cached(&sql)?.query_row([], version).optional()
}

fn workload(row: &Row<'_>) -> rusqlite::Result<WorkloadRecord> {
    Ok(WorkloadRecord { name: text(row, 0)?, id: id(row, 1)?, since: time(row, 2)? })
}

impl Catalog {
    /// Puts a policy file in force and returns its version; the same text again is the same
    /// version. The caller has parsed it.
    pub fn set_policy(
        &self,
        file: &str,
        toml: &str,
        by: &str,
        at: Timestamp,
    ) -> Result<u64, CatalogError> {
        let hash = blake3::hash(toml.as_bytes()).to_hex().to_string();
        self.change("put a policy in force", |db| {
            if let Some(present) = newest(db)?.filter(|present| present.hash == hash) {
                return Ok(present.version);
            }
            db.execute(
                "INSERT INTO policy_versions (file, toml, hash, applied_by, applied) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![file, toml, hash, by, at.0],
            )?;
            Ok(u64::try_from(db.last_insert_rowid()).unwrap_or_default())
        })
    }

    /// The policy file in force, if one ever was.
    pub fn current_policy(&self) -> Result<Option<PolicyVersion>, CatalogError> {
        self.read("read the policy in force", newest)
    }

    /// One version.
    pub fn policy_version(&self, wanted: u64) -> Result<Option<PolicyVersion>, CatalogError> {
        self.read("read a policy version", |db| {
            let sql = format!("SELECT {COLUMNS} FROM policy_versions WHERE version = ?1");
            db.prepare_cached(&sql)?.query_row([number(wanted)], version).optional()
        })
    }

    /// Every version, newest first.
    pub fn policy_versions(&self) -> Result<Vec<PolicyVersion>, CatalogError> {
        self.read("list policy versions", |db| {
            let sql = format!("SELECT {COLUMNS} FROM policy_versions ORDER BY version DESC");
            let mut query = db.prepare_cached(&sql)?;
            let rows = query.query_map([], version)?;
            rows.collect()
        })
    }

    /// The workload of this name; `fresh` becomes its id if it was not known.
    pub fn ensure_workload(
        &self,
        name: &WorkloadName,
        fresh: WorkloadId,
        at: Timestamp,
    ) -> Result<WorkloadRecord, CatalogError> {
        self.change("record a workload", |db| {
            db.execute(
                "INSERT INTO workloads (name, id, since) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (name) DO NOTHING",
                params![name.as_str(), fresh.as_bytes(), at.0],
            )?;
            let mut query =
                db.prepare_cached("SELECT name, id, since FROM workloads WHERE name = ?1")?;
            Ok(query.query_row([name.as_str()], workload)?)
        })
    }

    /// The workload of this name has this id, by a point that was found: a name that was declared
    /// and has no point yet takes it, so that its points go on being one workload's.
    pub fn adopt_workload(
        &self,
        name: &WorkloadName,
        found: WorkloadId,
        at: Timestamp,
    ) -> Result<WorkloadRecord, CatalogError> {
        self.change("take up a workload", |db| {
            db.execute(
                "UPDATE workloads SET id = ?2 WHERE name = ?1 \
                 AND NOT EXISTS (SELECT 1 FROM points WHERE workload = ?1)",
                params![name.as_str(), found.as_bytes()],
            )?;
            Ok(())
        })?;
        self.ensure_workload(name, found, at)
    }

    /// The cluster that the points of a workload are of, once that is known.
    pub fn cluster_of(&self, name: &WorkloadName) -> Result<Option<String>, CatalogError> {
        self.read("say of which cluster a workload is", |db| {
            let mut query = db.prepare_cached("SELECT cluster FROM workloads WHERE name = ?1")?;
            let cluster = query.query_row([name.as_str()], |row| row.get(0)).optional()?;
            Ok(cluster.flatten())
        })
    }

    /// Notes the cluster of the points of a workload; the first that was noted stays.
    pub fn note_cluster(&self, name: &WorkloadName, cluster: &str) -> Result<(), CatalogError> {
        self.change("note the cluster of a workload", |db| {
            let sql = "UPDATE workloads SET cluster = ?2 WHERE name = ?1 AND cluster IS NULL";
            db.execute(sql, params![name.as_str(), cluster])?;
            Ok(())
        })
    }

    /// Every workload ever declared.
    pub fn workloads(&self) -> Result<Vec<WorkloadRecord>, CatalogError> {
        self.read("list workloads", |db| {
            let mut query =
                db.prepare_cached("SELECT name, id, since FROM workloads ORDER BY name")?;
            let rows = query.query_map([], workload)?;
            rows.collect()
        })
    }
}
