//! Reading a medium file by file without its catalog: what each file is, whether it is whole.
//! Promises one verdict per file and that damage of one file costs no other.

use std::collections::BTreeMap;
use std::io::Read;

use strongroom_protocol::{OrgName, PackId, RepoId};

use crate::media::MediaError;
use crate::media::catalog::{CatalogV1, ClassV1, EntryV1, WhatV1};
use crate::media::label::{
    CATALOG_MAGIC, FileKind, LABEL_MAGIC, LabelV1, ManifestHead, checked, org_of, repo_of, unsealed,
};
use crate::media::reel::{FileEnd, Reel};
use crate::tape::TapeError;

/// The session of a point that was found without a catalog: nobody says which it was.
pub(crate) const SESSION_UNKNOWN: u32 = u32::MAX;

/// Bytes of a pack's head that say what it is.
const PACK_HEAD_BYTES: usize = 64;
/// How much of a pack is hashed at a time.
const HASHED_BYTES: usize = 256 * 1024;

/// Whether a file is as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Read to its filemark, and its hash is right (a pack's by the catalog; a pack no
    /// catalog names is named by what it hashes to).
    Whole,
    /// The drive could not read this block of it.
    Damaged { block: u32 },
    /// Read, but it does not hash to what it should, or is no file of ours.
    Wrong,
    /// It has no filemark: a session was interrupted here. Nothing that counted is lost.
    Unfinished,
}

/// One file of a medium, as found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileReport {
    pub file: u32,
    pub kind: FileKind,
    pub bytes: u64,
    pub verdict: Verdict,
    /// The name of a pack by the catalog, or by its bytes when no catalog names it.
    pub pack: Option<PackId>,
}

/// What scanning a medium found.
#[derive(Default)]
pub(crate) struct Scanned {
    pub(crate) files: Vec<FileReport>,
    pub(crate) entries: Vec<EntryV1>,
    pub(crate) label: Option<LabelV1>,
    pub(crate) repo: Option<RepoId>,
    pub(crate) org: Option<OrgName>,
}

/// Reads all of a medium. `known` is what a catalog says, to check against.
pub(crate) fn scan(reel: &mut Reel, known: &[EntryV1]) -> Result<Scanned, MediaError> {
    let mut scanned = Scanned::default();
    let filemarks = reel.filemarks()?;
    let known: BTreeMap<u32, &EntryV1> = known.iter().map(|e| (e.file, e)).collect();
    for file in 0..=filemarks {
        let expected = known.get(&file).map(|entry| entry.what);
        if let Some(report) = inspect(reel, file, expected, &mut scanned)? {
            scanned.files.push(report);
        }
    }
    Ok(scanned)
}

fn inspect(
    reel: &mut Reel,
    file: u32,
    expected: Option<WhatV1>,
    scanned: &mut Scanned,
) -> Result<Option<FileReport>, MediaError> {
    let kind = expected.map_or(FileKind::Unknown, |what| match what {
        WhatV1::Config => FileKind::Config,
        WhatV1::Keys => FileKind::Keys,
        WhatV1::Pack { .. } => FileKind::Pack,
        WhatV1::Point { .. } => FileKind::Manifest,
    });
    let pack = match expected {
        Some(WhatV1::Pack { id, .. }) => Some(id),
        _ => None,
    };
    let mut report = FileReport { file, kind, bytes: 0, verdict: Verdict::Wrong, pack };
    let mut reader = match reel.reader(file) {
        Err(TapeError::Damaged { block, .. }) => {
            report.verdict = Verdict::Damaged { block };
            return Ok(Some(report));
        }
        other => other?,
    };
    let mut head = Vec::new();
    let mut body = Body::Hashed(Box::new(blake3::Hasher::new()));
    let read = Read::take(&mut reader, PACK_HEAD_BYTES as u64).read_to_end(&mut head);
    let read = read.and_then(|_| {
        if !head.is_empty() {
            report.kind = FileKind::of(&head);
        }
        body.begin(report.kind, &head);
        let mut buffer = vec![0; HASHED_BYTES];
        loop {
            match reader.read(&mut buffer)? {
                0 => return std::io::Result::Ok(()),
                bytes => body.update(&buffer[..bytes], report.kind.bytes_max())?,
            }
        }
    });
    report.bytes = reader.bytes_read();
    report.verdict = match (read, reader.flaw(), reader.end()) {
        (Ok(()), _, Some(FileEnd::EndOfData)) if head.is_empty() => return Ok(None),
        (Ok(()), _, Some(FileEnd::EndOfData)) => Verdict::Unfinished,
        (Ok(()), _, _) => Verdict::Whole,
        (Err(_), Some(block), _) => Verdict::Damaged { block },
        (Err(error), None, _) => match error.downcast::<TapeError>() {
            Ok(error) => return Err(error.into()),
            Err(_) => Verdict::Wrong,
        },
    };
    if report.verdict == Verdict::Whole {
        judge(&mut report, &head, body, scanned);
        let found = scanned.entries.last().filter(|entry| entry.file == file);
        if expected.is_some_and(|what| found.is_none_or(|entry| entry.what != what)) {
            report.verdict = Verdict::Wrong;
        }
    }
    Ok(Some(report))
}

/// Files small enough to be looked into are kept, packs only hashed.
enum Body {
    Hashed(Box<blake3::Hasher>),
    Kept(Vec<u8>),
}

impl Body {
    fn begin(&mut self, kind: FileKind, head: &[u8]) {
        if matches!(kind, FileKind::Pack | FileKind::Unknown) {
            if let Self::Hashed(hasher) = self {
                hasher.update(head);
            }
        } else {
            *self = Self::Kept(head.to_vec());
        }
    }

    fn update(&mut self, bytes: &[u8], limit: u64) -> std::io::Result<()> {
        match self {
            Self::Hashed(hasher) => {
                hasher.update(bytes);
            }
            Self::Kept(kept) if (kept.len() + bytes.len()) as u64 > limit => {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            Self::Kept(kept) => kept.extend_from_slice(bytes),
        }
        Ok(())
    }
}

/// Decides whether a file that was read whole is right, and notes what it is.
fn judge(report: &mut FileReport, head: &[u8], body: Body, scanned: &mut Scanned) {
    let what = match body {
        Body::Hashed(hasher) => {
            let id = PackId(*hasher.finalize().as_bytes());
            let right = report.pack.is_none_or(|pack| pack == id);
            let class = ClassV1::of(head).filter(|_| right);
            report.pack = report.pack.or_else(|| class.map(|_| id));
            class.map(|class| WhatV1::Pack { id, class })
        }
        Body::Kept(bytes) => match report.kind {
            FileKind::Config | FileKind::Keys => checked(&bytes).map(|_| {
                let config = report.kind == FileKind::Config;
                scanned.repo = scanned.repo.or_else(|| repo_of(&bytes));
                scanned.org = scanned.org.take().or_else(|| org_of(&bytes).filter(|_| config));
                if config { WhatV1::Config } else { WhatV1::Keys }
            }),
            FileKind::Manifest => ManifestHead::of(&bytes).map(|head| {
                scanned.repo = scanned.repo.or(Some(head.repo));
                let ManifestHead { workload, point, moment_ns, .. } = head;
                WhatV1::Point { workload, point, moment_ns }
            }),
            FileKind::Label => {
                scanned.label = unsealed(LABEL_MAGIC, &bytes);
                report.verdict = verdict(scanned.label.is_some());
                return;
            }
            FileKind::Catalog => {
                let catalog: Option<CatalogV1> = unsealed(CATALOG_MAGIC, &bytes);
                report.verdict = verdict(catalog.is_some());
                scanned.label =
                    scanned.label.take().or_else(|| catalog.map(|catalog| catalog.label));
                return;
            }
            FileKind::Pack | FileKind::Unknown => None,
        },
    };
    report.verdict = verdict(what.is_some());
    if let Some(what) = what {
        if matches!(what, WhatV1::Pack { .. }) {
            scanned.repo = scanned.repo.or_else(|| repo_of(head));
        }
        // Packs count for every point, points for all.
        let session = if matches!(what, WhatV1::Point { .. }) { SESSION_UNKNOWN } else { 0 };
        let FileReport { file, bytes, .. } = *report;
        scanned.entries.push(EntryV1 { file, session, bytes, what });
    }
}

const fn verdict(right: bool) -> Verdict {
    if right { Verdict::Whole } else { Verdict::Wrong }
}
