//! The master file table: every file is a record of it, and what one record does not hold is in
//! others that a list of attributes names. The table lies where its own first record says.

use std::sync::Arc;

use crate::raw::{Block, Raw};
use crate::system::{NodeId, Problem};
use crate::volume::Volume;

use super::boot::Boot;
use super::record::{Attribute, Record, Value};
use super::runs::{Run, holding, unpack};
use super::stream::Stream;

/// Runs of the table itself, which are kept: 24 MiB of them.
const TABLE_RUNS_MAX: usize = 1 << 20;
/// A list of attributes, in bytes: the limit of Windows.
const LIST_BYTES_MAX: u64 = 256 << 10;
/// Records numbered below are of the file system itself.
pub(super) const OWN_RECORDS: u64 = 16;

/// Kinds of attributes.
pub(super) const STANDARD_INFORMATION: u32 = 0x10;
pub(super) const ATTRIBUTE_LIST: u32 = 0x20;
pub(super) const FILE_NAME: u32 = 0x30;
pub(super) const SECURITY_DESCRIPTOR: u32 = 0x50;
pub(super) const VOLUME_NAME: u32 = 0x60;
pub(super) const VOLUME_INFORMATION: u32 = 0x70;
pub(super) const DATA: u32 = 0x80;
pub(super) const INDEX_ROOT: u32 = 0x90;
pub(super) const INDEX_ALLOCATION: u32 = 0xa0;
pub(super) const BITMAP: u32 = 0xb0;
pub(super) const REPARSE_POINT: u32 = 0xc0;

/// The number of the record in a reference, and how often the record was used before; 0 for
/// whichever.
fn parts(reference: u64) -> (u64, u16) {
    (reference & 0xffff_ffff_ffff, (reference >> 48) as u16)
}

/// The number of the record of a node.
pub(super) fn number(node: NodeId) -> u64 {
    parts(node.0).0
}

/// Reads records.
pub(super) struct Table {
    pub(super) volume: Arc<dyn Volume>,
    pub(super) boot: Boot,
    runs: Vec<Run>,
    records: u64,
}

/// A file: its record, and where other records go on with it.
pub(super) struct File<'a> {
    pub(super) table: &'a Table,
    pub(super) record: Record,
    list: Vec<Listed>,
}

/// A line of a list of attributes.
#[derive(Clone, Debug)]
struct Listed {
    kind: u32,
    name: Vec<u8>,
    first: u64,
    reference: u64,
    instance: u16,
}

impl Table {
    /// Finds the table. The second says that only the copy of its first record was whole.
    pub(super) fn open(volume: Arc<dyn Volume>, boot: Boot) -> Result<(Self, bool), Problem> {
        let mut table = Self { volume, boot, runs: Vec::new(), records: 0 };
        let (first, is_mirror) = match table.first(boot.table) {
            Ok(first) => (first, false),
            Err(problem) => (table.first(boot.mirror).map_err(|_| problem)?, true),
        };
        let (bytes, runs) = table.described(&first)?;
        table.records = bytes / boot.record_bytes as u64;
        table.runs = runs;
        table.extend(first)?;
        Ok((table, is_mirror))
    }

    fn first(&self, cluster: u64) -> Result<Record, Problem> {
        let at = cluster.saturating_mul(self.boot.cluster_bytes);
        let what = "the first record of the master file table";
        let block = Block::read(self.volume.as_ref(), what, at, self.boot.record_bytes)?;
        Record::parse(0, block)
    }

    fn described(&self, first: &Record) -> Result<(u64, Vec<Run>), Problem> {
        let attributes = first.attributes()?;
        let data = attributes.iter().find(|one| one.kind == DATA && one.name.is_empty());
        match data.map(Attribute::value).transpose()? {
            Some(Value::Runs(runs)) if runs.first == 0 => {
                let list = unpack(&self.boot, &runs.pairs, 0, runs.last)?;
                Ok((runs.bytes, list))
            }
            _ => Err(first.damaged("the master file table does not say where it lies")),
        }
    }

    /// Adds the runs that other records of the table know, each found by those before it.
    fn extend(&mut self, first: Record) -> Result<(), Problem> {
        let file = File::of(self, first)?;
        let lines = file.list.iter().filter(|line| line.kind == DATA && line.name.is_empty());
        let mut lines: Vec<Listed> = lines.filter(|line| line.first > 0).cloned().collect();
        lines.sort_by_key(|line| line.first);
        for line in lines {
            let record = self.record(line.reference)?;
            let attributes = record.attributes()?;
            let attribute = attributes.iter().find(|one| line.is(one));
            let Some(Value::Runs(runs)) = attribute.map(Attribute::value).transpose()? else {
                return Err(record.damaged("it does not have what the table lists in it"));
            };
            if self.runs.last().map(Run::end) != Some(runs.first) {
                return Err(record.damaged("runs of the table are missing before it"));
            }
            let more = unpack(&self.boot, &runs.pairs, runs.first, runs.last)?;
            if self.runs.len() + more.len() > TABLE_RUNS_MAX {
                let limit = TABLE_RUNS_MAX as u64;
                return Err(Problem::Limit { what: "runs of the master file table", limit });
            }
            self.runs.extend(more);
        }
        Ok(())
    }

    /// Reads the record that a reference names.
    pub(super) fn record(&self, reference: u64) -> Result<Record, Problem> {
        let what = "a record of the master file table";
        let (number, sequence) = parts(reference);
        let missing = |why: String| Problem::Damaged { what, at: 0, why };
        if number >= self.records {
            return Err(missing(format!("there is no record {number}")));
        }
        let record_bytes = self.boot.record_bytes as u64;
        let mut block = Block { what, at: 0, bytes: vec![0; self.boot.record_bytes] };
        // A record may be larger or smaller than a cluster.
        let piece = record_bytes.min(self.boot.cluster_bytes);
        for (index, into) in block.bytes.chunks_mut(piece as usize).enumerate() {
            let byte = number * record_bytes + index as u64 * piece;
            let run = holding(&self.runs, byte / self.boot.cluster_bytes);
            let place = run.and_then(|run| {
                Some(
                    run.place? * self.boot.cluster_bytes + byte
                        - run.first * self.boot.cluster_bytes,
                )
            });
            let Some(at) = place else {
                return Err(missing(format!("record {number} lies nowhere")));
            };
            if index == 0 {
                block.at = at;
            }
            self.volume.read_at(at, into)?;
        }
        let record = Record::parse(number, block)?;
        if sequence != 0 && record.sequence()? != sequence {
            let why = format!("record {number} was used again since {sequence} was noted");
            return Err(record.damaged(why));
        }
        Ok(record)
    }

    /// Reads a file by its first record.
    pub(super) fn file(&self, node: NodeId) -> Result<File<'_>, Problem> {
        let record = self.record(node.0)?;
        if record.base()? != 0 {
            return Err(record.damaged(format!("record {} only continues another", record.number)));
        }
        File::of(self, record)
    }
}

impl Listed {
    fn is(&self, attribute: &Attribute<'_>) -> bool {
        (attribute.kind, attribute.instance) == (self.kind, self.instance)
            && attribute.name == self.name.as_slice()
    }
}

impl<'a> File<'a> {
    fn of(table: &'a Table, record: Record) -> Result<Self, Problem> {
        let mut file = File { table, record, list: Vec::new() };
        let attributes = file.record.attributes()?;
        let Some(list) = attributes.iter().find(|one| one.kind == ATTRIBUTE_LIST) else {
            return Ok(file);
        };
        let bytes = match list.value()? {
            Value::Resident(raw) => raw.bytes.to_vec(),
            Value::Runs(runs) => {
                let stream = Stream::new(table, "a list of attributes", list, runs)?;
                stream.whole(LIST_BYTES_MAX)?
            }
        };
        let at = file.record.block.at;
        file.list = lines(&Raw { what: "a list of attributes", at, bytes: &bytes })?;
        Ok(file)
    }

    /// What is wrong with the file as a whole.
    pub(super) fn damaged(&self, why: impl Into<String>) -> Problem {
        self.record.damaged(why)
    }

    /// Every kind and name of attribute that the file has, each once, in order.
    pub(super) fn names(&self) -> Result<Vec<(u32, Vec<u8>)>, Problem> {
        let mut names: Vec<(u32, Vec<u8>)> = if self.list.is_empty() {
            let attributes = self.record.attributes()?;
            attributes.iter().map(|one| (one.kind, one.name.to_vec())).collect()
        } else {
            self.list.iter().map(|line| (line.kind, line.name.clone())).collect()
        };
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Calls `each` with every attribute of a kind, record by record.
    pub(super) fn each(
        &self,
        kind: u32,
        each: &mut dyn FnMut(&Attribute<'_>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut all = |record: &Record| {
            let attributes = record.attributes()?;
            attributes.iter().filter(|one| one.kind == kind).try_for_each(&mut *each)
        };
        if self.list.is_empty() {
            return all(&self.record);
        }
        let lines = self.list.iter().filter(|line| line.kind == kind);
        let mut lines: Vec<&Listed> = lines.collect();
        lines.sort_by_key(|line| line.reference);
        lines.dedup_by_key(|line| line.reference);
        for line in lines {
            match self.elsewhere(line)? {
                Some(record) => all(&record)?,
                None => all(&self.record)?,
            }
        }
        Ok(())
    }

    /// The record of a line, if it is not the first of the file.
    fn elsewhere(&self, line: &Listed) -> Result<Option<Record>, Problem> {
        if parts(line.reference).0 == self.record.number {
            return Ok(None);
        }
        let record = self.table.record(line.reference)?;
        if parts(record.base()?).0 != self.record.number {
            return Err(record.damaged(format!("it does not continue {}", self.record.number)));
        }
        Ok(Some(record))
    }

    /// Calls `with` with the stretch of a value that holds `cluster`: the first where it is 0.
    pub(super) fn stretch<T>(
        &self,
        kind: u32,
        name: &[u8],
        cluster: u64,
        with: &mut dyn FnMut(&Attribute<'_>) -> Result<T, Problem>,
    ) -> Result<Option<T>, Problem> {
        if self.list.is_empty() {
            let attributes = self.record.attributes()?;
            let found = attributes.iter().find(|one| one.kind == kind && one.name == name);
            return found.map(with).transpose();
        }
        let lines = self.list.iter().filter(|line| line.kind == kind && line.name == name);
        let line = lines.filter(|line| line.first <= cluster).max_by_key(|line| line.first);
        let Some(line) = line else { return Ok(None) };
        let elsewhere = self.elsewhere(line)?;
        let record = elsewhere.as_ref().unwrap_or(&self.record);
        let attributes = record.attributes()?;
        match attributes.iter().find(|one| line.is(one)) {
            Some(attribute) => with(attribute).map(Some),
            None => Err(record.damaged("it does not have what its file lists in it")),
        }
    }

    /// The whole of a value that is not long.
    pub(super) fn value(
        &self,
        kind: u32,
        name: &[u8],
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, Problem> {
        let Some(stream) = Stream::find(self, kind, name)? else { return Ok(None) };
        stream.whole(bytes_max).map(Some)
    }
}

/// The lines of a list.
fn lines(raw: &Raw<'_>) -> Result<Vec<Listed>, Problem> {
    let (mut lines, mut offset) = (Vec::new(), 0);
    while offset < raw.len() {
        let length = usize::from(raw.le16(offset + 4)?);
        if length < 26 {
            return Err(raw.damaged(offset, format!("a line of {length} bytes")));
        }
        let line = raw.part(offset, length)?;
        let name = line.take(line.u8(7)?.into(), usize::from(line.u8(6)?) * 2)?.to_vec();
        lines.push(Listed {
            kind: line.le32(0)?,
            name,
            first: line.le64(8)?,
            reference: line.le64(16)?,
            instance: line.le16(24)?,
        });
        offset += length;
    }
    Ok(lines)
}
