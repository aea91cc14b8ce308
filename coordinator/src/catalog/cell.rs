//! Between columns and typed values. A cell that does not hold what it should is an error of the
//! row, never a default.

use std::str::FromStr;

use rusqlite::Row;
use rusqlite::types::Type;
use strongroom_protocol::Timestamp;
use strongroom_protocol::id::{Id, Kind};

type Cell<T> = rusqlite::Result<T>;

fn wrong<E>(column: usize, kind: Type, error: E) -> rusqlite::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
}

/// A word that is none of a closed list's.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no {what}")]
struct NoSuchWord {
    what: &'static str,
    text: String,
}

/// A name, or another text that parses.
pub(super) fn text<T>(row: &Row<'_>, column: usize) -> Cell<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, String>(column)?.parse().map_err(|e| wrong(column, Type::Text, e))
}

/// As [`text`], where the column may be empty.
pub(super) fn text_or_none<T>(row: &Row<'_>, column: usize) -> Cell<Option<T>>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let found: Option<String> = row.get(column)?;
    found.map(|t| t.parse()).transpose().map_err(|e| wrong(column, Type::Text, e))
}

/// A word of a closed list.
pub(super) fn word<T>(
    row: &Row<'_>,
    column: usize,
    what: &'static str,
    from_word: impl FnOnce(&str) -> Option<T>,
) -> Cell<T> {
    let text: String = row.get(column)?;
    from_word(&text).ok_or_else(|| wrong(column, Type::Text, NoSuchWord { what, text }))
}

pub(super) fn id<K: Kind>(row: &Row<'_>, column: usize) -> Cell<Id<K>> {
    row.get::<_, [u8; 16]>(column).map(Id::from_bytes)
}

pub(super) fn id_or_none<K: Kind>(row: &Row<'_>, column: usize) -> Cell<Option<Id<K>>> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(Id::from_bytes))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Cell<Timestamp> {
    row.get(column).map(Timestamp)
}

pub(super) fn time_or_none(row: &Row<'_>, column: usize) -> Cell<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp))
}

/// A count.
pub(super) fn count(row: &Row<'_>, column: usize) -> Cell<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|e| wrong(column, Type::Integer, e))
}

/// A count as the column holds it.
pub(super) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
