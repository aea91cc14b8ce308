//! The catalog: what this coordinator remembers, in one SQLite file. Its methods are the questions
//! the product asks. Every change is durable when its method returns; a damaged file is found
//! at opening and named with the way out, and points and ledger are rebuilt from the repository.
//!
//! Concrete on purpose: there is one implementation, and tests use an in-memory database. All
//! SQL lives in `catalog/`; a PostgreSQL twin would replace this folder, behind a trait made
//! then from these methods, and run the same tests.

mod cell;
mod drills;
mod grace;
mod jobs;
mod ledger;
mod marks;
mod media;
mod nodes;
mod points;
mod policies;
mod starts;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use strongroom_protocol::{CopyName, JobId, PointId};

use crate::job::Illegal;
use crate::retention::Label;

pub use drills::{DrillRecord, Verdict};
pub use grace::{Doomed, Settled};
pub use jobs::{JobFilter, JournalRow};
pub use ledger::{CopyEvent, Debt, LedgerRow};
pub use media::Medium;
pub use nodes::{NodeNote, NodeRecord, Totals};
pub use points::{PointFilter, PointRecord, PointStats};
pub use policies::{PolicyVersion, WorkloadRecord};
pub use starts::Start;

/// One text a schema version, oldest first; released texts never change.
const MIGRATIONS: &[&str] = &[
    include_str!("catalog/schema.sql"),
    include_str!("catalog/schema2.sql"),
    include_str!("catalog/schema3.sql"),
    include_str!("catalog/schema4.sql"),
    include_str!("catalog/schema5.sql"),
];
/// How long a second process that looks into the file may hold it.
const BUSY_WAIT: Duration = Duration::from_secs(10);
/// Marks the file as a Strongroom catalog ("SRcg").
const APPLICATION_ID: i32 = 0x5352_6367;

/// Why the catalog cannot answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The ledger has no such row, or it is expired for good.
    #[error("copy {copy} of point {point} cannot be {verb}: it is {state}")]
    Copy { point: PointId, copy: CopyName, verb: &'static str, state: String },
    #[error(
        "the catalog {} is damaged ({what}): move it away; it is rebuilt from the repository",
        path.display()
    )]
    Damaged { path: PathBuf, what: String },
    #[error("there is a hold {name} already")]
    HoldTaken { name: Label },
    #[error("job {job} refuses the event")]
    Illegal { job: JobId, source: Illegal },
    #[error("a row cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    #[error(
        "the catalog {} has schema {found}, this software knows {known}: use the newer software",
        path.display()
    )]
    Newer { path: PathBuf, found: usize, known: usize },
    #[error("the catalog has no {what} {name}")]
    Unknown { what: &'static str, name: String },
    #[error("the catalog cannot {what}")]
    Sql { what: &'static str, source: rusqlite::Error },
}

/// The catalog, open. One connection behind a mutex: writes are short and one at a time, and
/// SQLite would queue them anyway.
#[derive(Debug)]
pub struct Catalog {
    path: PathBuf,
    db: Mutex<Connection>,
}

impl Catalog {
    /// Opens or creates the file, checks it, and brings its schema up to date.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        let db = Connection::open(path);
        let db = db.map_err(|source| diagnose(path, "open its file", source))?;
        Self::prepare(path.to_owned(), db)
    }

    /// A catalog that is gone with the process: for tests.
    pub fn in_memory() -> Result<Self, CatalogError> {
        let path = PathBuf::from(":memory:");
        let db = Connection::open_in_memory();
        let db = db.map_err(|source| CatalogError::Sql { what: "open in memory", source })?;
        Self::prepare(path, db)
    }

    fn prepare(path: PathBuf, mut db: Connection) -> Result<Self, CatalogError> {
        let settle = |db: &Connection| {
            db.busy_timeout(BUSY_WAIT)?;
            db.pragma_update(None, "journal_mode", "wal")?;
            db.pragma_update(None, "synchronous", "full")?;
            db.pragma_update(None, "foreign_keys", "on")?;
            db.pragma_update(None, "temp_store", "memory")
        };
        settle(&db).map_err(|source| diagnose(&path, "set itself up", source))?;
        check(&path, &db)?;
        migrate(&path, &mut db)?;
        Ok(Self { path, db: Mutex::new(db) })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the whole catalog into a new file while it is in use.
    pub fn backup_to(&self, target: &Path) -> Result<(), CatalogError> {
        let text = target.to_string_lossy().into_owned();
        self.read("copy itself", |db| db.execute("VACUUM INTO ?1", [text]).map(drop))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while holding the lock rolled its transaction back: the state is sound.
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks without changing anything.
    fn read<T>(
        &self,
        what: &'static str,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CatalogError> {
        ask(&self.lock()).map_err(|source| diagnose(&self.path, what, source))
    }

    /// Changes several rows or none; durable when it returns.
    fn change<T>(
        &self,
        what: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble>,
    ) -> Result<T, CatalogError> {
        let mut db = self.lock();
        let failed = |source| diagnose(&self.path, what, source);
        let transaction =
            db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let value = match change(&transaction) {
            Ok(value) => value,
            Err(Trouble::Sql(source)) => return Err(failed(source)),
            Err(Trouble::Known(error)) => return Err(*error),
        };
        transaction.commit().map_err(failed)?;
        Ok(value)
    }
}

/// What goes wrong inside a change: SQL, or something with a name.
#[derive(Debug)]
enum Trouble {
    Known(Box<CatalogError>),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<CatalogError> for Trouble {
    fn from(error: CatalogError) -> Self {
        Self::Known(Box::new(error))
    }
}

/// Damage by its name, everything else as it is.
fn diagnose(path: &Path, what: &'static str, source: rusqlite::Error) -> CatalogError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            CatalogError::Damaged { path: path.to_owned(), what: source.to_string() }
        }
        _ => CatalogError::Sql { what, source },
    }
}

fn check(path: &Path, db: &Connection) -> Result<(), CatalogError> {
    let ask = |pragma: &str| db.query_row(pragma, [], |row| row.get::<_, String>(0));
    let found = ask("PRAGMA quick_check(1)");
    let found = found.map_err(|source| diagnose(path, "check itself", source))?;
    if found != "ok" {
        return Err(CatalogError::Damaged { path: path.to_owned(), what: found });
    }
    Ok(())
}

fn migrate(path: &Path, db: &mut Connection) -> Result<(), CatalogError> {
    let failed = |source| diagnose(path, "bring its schema up to date", source);
    let number = |db: &Connection, pragma: &str| {
        db.query_row(pragma, [], |row| row.get::<_, i32>(0)).map_err(failed)
    };
    let owner = number(db, "PRAGMA application_id")?;
    let version = number(db, "PRAGMA user_version")?;
    let found = usize::try_from(version).unwrap_or(usize::MAX);
    let foreign = owner != APPLICATION_ID && (owner != 0 || version != 0);
    if foreign {
        let what = "it is another program's database".to_owned();
        return Err(CatalogError::Damaged { path: path.to_owned(), what });
    }
    let known = MIGRATIONS.len();
    if found > known {
        return Err(CatalogError::Newer { path: path.to_owned(), found, known });
    }
    for (version, text) in (1_i32..).zip(MIGRATIONS).skip(found) {
        let transaction = db.transaction().map_err(failed)?;
        let step = || {
            transaction.execute_batch(text)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", version)
        };
        step().map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}
