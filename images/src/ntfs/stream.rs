//! The bytes of a value: in a record, in clusters, with holes, or compressed. One stretch of runs
//! is unpacked at a time, so that a file of a million fragments needs no more memory than another.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::raw::Raw;
use crate::system::Problem;

use super::lznt1;
use super::record::{Attribute, Runs, Value};
use super::runs::{Run, holding, unpack};
use super::table::{File, Table};

const FLAG_COMPRESSED: u16 = 0xff;
const FLAG_ENCRYPTED: u16 = 0x4000;
/// Clusters that are compressed together, in bytes: 64 KiB wherever Windows compresses.
const UNIT_BYTES_MAX: u64 = 1 << 20;

/// A value that can be read from anywhere.
pub(super) struct Stream<'a> {
    table: &'a Table,
    what: &'static str,
    at: u64,
    /// Where more of its runs are found: the file, the kind, the name.
    more: Option<(&'a File<'a>, u32, Vec<u8>)>,
    /// Bytes of it, and how many of them were ever written.
    pub(super) bytes: u64,
    written: u64,
    /// Bytes that are compressed together.
    unit: Option<u64>,
    body: Body,
}

enum Body {
    Resident(Vec<u8>),
    /// The stretch that was used last.
    Runs(Mutex<Arc<Vec<Run>>>),
}

impl<'a> Stream<'a> {
    /// A value in clusters of an attribute that is at hand, all of whose runs are in it.
    pub(super) fn new(
        table: &'a Table,
        what: &'static str,
        attribute: &Attribute<'_>,
        runs: Runs<'_>,
    ) -> Result<Self, Problem> {
        if attribute.flags & FLAG_ENCRYPTED != 0 {
            return Err(Problem::Unread { feature: "a file that is encrypted by EFS".to_owned() });
        }
        if runs.first != 0 {
            return Err(attribute.damaged("its runs do not begin at its beginning"));
        }
        let mut unit = None;
        if attribute.flags & FLAG_COMPRESSED != 0 && runs.unit > 0 {
            let clusters = 1_u64.checked_shl(runs.unit.into()).unwrap_or(0);
            let bytes = clusters.checked_mul(table.boot.cluster_bytes);
            unit = bytes.filter(|bytes| (1..=UNIT_BYTES_MAX).contains(bytes));
            if unit.is_none() {
                return Err(attribute.damaged(format!("units of 2^{} clusters", runs.unit)));
            }
        }
        let list = unpack(&table.boot, &runs.pairs, 0, runs.last)?;
        Ok(Self {
            table,
            what,
            at: runs.pairs.at,
            more: None,
            bytes: runs.bytes,
            written: runs.written.min(runs.bytes),
            unit,
            body: Body::Runs(Mutex::new(Arc::new(list))),
        })
    }

    /// The value of a kind and name of a file, if it has it.
    pub(super) fn find(
        file: &'a File<'a>,
        kind: u32,
        name: &[u8],
    ) -> Result<Option<Self>, Problem> {
        let table = file.table;
        file.stretch(kind, name, 0, &mut |attribute| match attribute.value()? {
            Value::Resident(raw) => {
                let bytes = raw.len() as u64;
                Ok(Self {
                    table,
                    what: raw.what,
                    at: raw.at,
                    more: None,
                    bytes,
                    written: bytes,
                    unit: None,
                    body: Body::Resident(raw.bytes.to_vec()),
                })
            }
            Value::Runs(runs) => {
                let stream = Self::new(table, "a value in clusters", attribute, runs)?;
                Ok(Self { more: Some((file, kind, name.to_vec())), ..stream })
            }
        })
    }

    fn damaged(&self, why: impl Into<String>) -> Problem {
        Problem::Damaged { what: self.what, at: self.at, why: why.into() }
    }

    /// All of it, if it is not longer than `bytes_max`.
    pub(super) fn whole(&self, bytes_max: u64) -> Result<Vec<u8>, Problem> {
        if self.bytes > bytes_max {
            return Err(self.damaged(format!("{} bytes where {bytes_max} may be", self.bytes)));
        }
        let mut whole = vec![0; usize::try_from(self.bytes).unwrap_or(usize::MAX)];
        self.read(0, &mut whole)?;
        Ok(whole)
    }

    /// Where a byte of it lies on the volume, as near as can be said.
    pub(super) fn place(&self, at: u64) -> Result<u64, Problem> {
        if matches!(self.body, Body::Resident(_)) {
            return Ok(self.at.saturating_add(at));
        }
        let cluster_bytes = self.table.boot.cluster_bytes;
        let run = self.run(at / cluster_bytes)?;
        let first = run.place.map_or(self.at, |place| place * cluster_bytes);
        Ok(first.saturating_add(at - run.first * cluster_bytes))
    }

    /// Fills `into` from byte `at`; 0 at the end only.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> Result<usize, Problem> {
        let left = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = left.min(into.len());
        let into = &mut into[..wanted];
        if let Body::Resident(bytes) = &self.body {
            let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
            into.copy_from_slice(from.and_then(|rest| rest.get(..wanted)).unwrap_or_default());
            return Ok(wanted);
        }
        let kept = usize::try_from(self.written.saturating_sub(at)).unwrap_or(usize::MAX);
        let (into, never) = into.split_at_mut(kept.min(wanted));
        never.fill(0);
        match self.unit {
            None => self.read_clusters(at, into)?,
            Some(unit) => self.read_units(unit, at, into)?,
        }
        Ok(wanted)
    }

    /// The next stretch from `at` that may hold something else than zeros.
    pub(super) fn data(&self, at: u64) -> Result<Option<Range<u64>>, Problem> {
        if matches!(self.body, Body::Resident(_)) {
            return Ok((at < self.bytes).then_some(at..self.bytes));
        }
        let cluster_bytes = self.table.boot.cluster_bytes;
        // A unit with anything in place is all data.
        let unit = self.unit.unwrap_or(cluster_bytes);
        let mut from = at - at % unit;
        while from.max(at) < self.written {
            let run = self.run(from / cluster_bytes)?;
            let end = run.end().saturating_mul(cluster_bytes);
            let whole = end.checked_next_multiple_of(unit).unwrap_or(u64::MAX).min(self.written);
            if run.place.is_some() && whole > at {
                return Ok(Some(from.max(at)..whole));
            }
            from = end;
        }
        Ok(None)
    }

    /// The run that holds a cluster of the value.
    fn run(&self, cluster: u64) -> Result<Run, Problem> {
        let Body::Runs(last) = &self.body else {
            return Err(self.damaged("it has no clusters"));
        };
        let known = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(run) = holding(&known, cluster) {
            return Ok(run);
        }
        let stretch = self.stretch(cluster)?;
        let run = holding(&stretch, cluster);
        *last.lock().unwrap_or_else(PoisonError::into_inner) = stretch;
        run.ok_or_else(|| self.damaged(format!("cluster {cluster} of it is nowhere")))
    }

    fn stretch(&self, cluster: u64) -> Result<Arc<Vec<Run>>, Problem> {
        let missing = || self.damaged(format!("cluster {cluster} of it is nowhere"));
        let (file, kind, name) = self.more.as_ref().ok_or_else(missing)?;
        let boot = &self.table.boot;
        let found =
            file.stretch(*kind, name, cluster, &mut |attribute| match attribute.value()? {
                Value::Runs(runs) if (runs.first..runs.last).contains(&cluster) => {
                    Ok(Arc::new(unpack(boot, &runs.pairs, runs.first, runs.last)?))
                }
                _ => Err(attribute.damaged(format!("it does not hold cluster {cluster}"))),
            })?;
        found.ok_or_else(missing)
    }

    fn read_clusters(&self, at: u64, into: &mut [u8]) -> Result<(), Problem> {
        let cluster_bytes = self.table.boot.cluster_bytes;
        let mut done = 0;
        while done < into.len() {
            let byte = at + done as u64;
            let run = self.run(byte / cluster_bytes)?;
            let left = run.end().saturating_mul(cluster_bytes).saturating_sub(byte);
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(into.len() - done);
            let piece = &mut into[done..done + length];
            match run.place {
                Some(place) => {
                    let within = byte - run.first * cluster_bytes;
                    self.table.volume.read_at(place * cluster_bytes + within, piece)?;
                }
                None => piece.fill(0),
            }
            done += length;
        }
        Ok(())
    }

    fn read_units(&self, unit: u64, at: u64, into: &mut [u8]) -> Result<(), Problem> {
        let mut plain = vec![0; unit as usize];
        let mut done = 0;
        while done < into.len() {
            let byte = at + done as u64;
            self.read_unit(byte - byte % unit, &mut plain)?;
            let from = &plain[(byte % unit) as usize..];
            let length = from.len().min(into.len() - done);
            into[done..done + length].copy_from_slice(&from[..length]);
            done += length;
        }
        Ok(())
    }

    /// One unit: all in place is as it is, nothing in place is zeros, and what is shorter than the
    /// unit is compressed.
    fn read_unit(&self, at: u64, plain: &mut [u8]) -> Result<(), Problem> {
        let cluster_bytes = self.table.boot.cluster_bytes;
        let first = at / cluster_bytes;
        let clusters = plain.len() as u64 / cluster_bytes;
        let mut kept = 0;
        while kept < clusters {
            let run = self.run(first + kept)?;
            if run.place.is_none() {
                break;
            }
            kept = (run.end() - first).min(clusters);
        }
        if kept == 0 {
            plain.fill(0);
            return Ok(());
        }
        if kept == clusters {
            return self.read_clusters(at, plain);
        }
        let mut packed = vec![0; (kept * cluster_bytes) as usize];
        self.read_clusters(at, &mut packed)?;
        lznt1::unpack(&packed, plain).map_err(|(offset, why)| {
            let place = self.run(first).ok().and_then(|run| Some((run.place?, run.first)));
            let at = place.map_or(self.at, |(place, from)| (place + first - from) * cluster_bytes);
            Raw { what: "a compressed unit", at, bytes: &[] }.damaged(offset, why)
        })
    }
}
