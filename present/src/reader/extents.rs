//! Where the bytes of a file lie, sought from anywhere. Promises that a list is fetched once as
//! long as it is kept, and that a list is only believed where it is what names it; refuses
//! nothing else: a list that is lost costs the stretch it describes.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::{ChunkExtent, FileContent};
use strongroom_store::list::{List, ListChild, ListError, PlacedExtent, decode_list};
use strongroom_store::tree::BlobSource;

use super::kept::Kept;

/// Lists as they are sought in, kept by name.
pub(crate) type Lists = Arc<Kept<Arc<Sought>, ListError>>;

/// What a member of a list takes in memory, in bytes: the extent and its beginning.
const MEMBER_BYTES: usize = size_of::<ChunkExtent>() + size_of::<u64>();

/// Whether lists may be fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// What is not here is fetched: blocking.
    Absent,
    /// Only what is here.
    Nothing,
}

/// How a visit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Visited {
    /// Everything was shown, or enough.
    Done,
    /// A list is not here and was not to be fetched.
    NotHere,
}

/// How much of a file is not a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    Bytes(u64),
    /// A list says so that is not here and was not to be fetched.
    NotHere,
    /// Many lists would have to be read to know.
    Unknown,
}

/// A list, with where each member begins, relative to the list.
pub(crate) struct Sought {
    starts: Vec<u64>,
    members: Members,
    depth: u8,
}

enum Members {
    Extents(Vec<ChunkExtent>),
    Lists(Vec<ListChild>),
}

/// Where the bytes of one file lie.
pub(crate) enum Layout {
    Inline(Bytes),
    Extents(Arc<Sought>),
    Listed(ListChild),
}

impl Layout {
    pub(crate) fn of(content: &FileContent) -> Self {
        match content {
            FileContent::Inline(bytes) => Self::Inline(Bytes::copy_from_slice(bytes)),
            FileContent::Extents(extents) => Self::Extents(Arc::new(Sought::extents(extents))),
            FileContent::Listed { list, size } => {
                Self::Listed(ListChild { list: *list, bytes: *size })
            }
        }
    }

    /// Shows the extents that hold bytes of `range`, in file order and whole, until told to stop.
    /// Of inline content there are none.
    pub(crate) fn visit(
        &self,
        from: (&dyn BlobSource, &Lists),
        range: Range<u64>,
        fetch: Fetch,
        show: &mut dyn FnMut(PlacedExtent) -> ControlFlow<()>,
    ) -> Result<Visited, Arc<ListError>> {
        let mut at = range.start;
        while at < range.end {
            let before = at;
            let Some((base, leaf)) = self.leaf(from, at, fetch)? else {
                return Ok(Visited::NotHere);
            };
            let Members::Extents(extents) = &leaf.members else { return Ok(Visited::Done) };
            let first = leaf.starts.partition_point(|start| base + start <= at).saturating_sub(1);
            let placed = leaf.starts.iter().zip(extents).skip(first);
            for (start, extent) in placed {
                let begin = base + start;
                if begin >= range.end {
                    return Ok(Visited::Done);
                }
                if show(PlacedExtent { at: begin, extent: *extent }).is_break() {
                    return Ok(Visited::Done);
                }
                at = begin + extent.length();
            }
            if at <= before {
                break;
            }
        }
        Ok(Visited::Done)
    }

    /// Bytes that are not holes, where saying so takes one list at most.
    pub(crate) fn written(
        &self,
        from: (&dyn BlobSource, &Lists),
        fetch: Fetch,
    ) -> Result<Written, Arc<ListError>> {
        let sought = match (self, fetch) {
            (Self::Inline(bytes), _) => return Ok(Written::Bytes(bytes.len() as u64)),
            (Self::Extents(sought), _) => Arc::clone(sought),
            (Self::Listed(child), Fetch::Absent) => fetched(from, *child, None)?,
            (Self::Listed(child), Fetch::Nothing) => match from.1.peek(child.list) {
                Some(sought) => sought,
                None => return Ok(Written::NotHere),
            },
        };
        Ok(match &sought.members {
            Members::Lists(_) => Written::Unknown,
            Members::Extents(extents) => Written::Bytes(written(extents)),
        })
    }

    /// The list of extents that holds byte `at`, and where it begins.
    fn leaf(
        &self,
        from: (&dyn BlobSource, &Lists),
        at: u64,
        fetch: Fetch,
    ) -> Result<Option<(u64, Arc<Sought>)>, Arc<ListError>> {
        let (mut child, mut depth, mut base) = match self {
            Self::Inline(_) => return Ok(Some((0, Arc::new(Sought::extents(&[]))))),
            Self::Extents(sought) => return Ok(Some((0, Arc::clone(sought)))),
            Self::Listed(child) => (*child, None, 0),
        };
        loop {
            let sought = match fetch {
                Fetch::Absent => fetched(from, child, depth)?,
                Fetch::Nothing => match from.1.peek(child.list) {
                    Some(sought) if sought.is(child, depth) => sought,
                    _ => return Ok(None),
                },
            };
            let Members::Lists(children) = &sought.members else {
                return Ok(Some((base, sought)));
            };
            let below = sought.starts.partition_point(|start| base + start <= at).saturating_sub(1);
            let (Some(start), Some(next)) = (sought.starts.get(below), children.get(below)) else {
                return Err(Arc::new(ListError::Misplaced { list: child.list }));
            };
            base += start;
            depth = Some(sought.depth.saturating_sub(1));
            child = *next;
        }
    }
}

impl Sought {
    fn extents(extents: &[ChunkExtent]) -> Self {
        let starts = starts(extents.iter().map(ChunkExtent::length));
        Self { starts, members: Members::Extents(extents.to_vec()), depth: 0 }
    }

    fn bytes(&self) -> u64 {
        let last = match &self.members {
            Members::Extents(extents) => extents.last().map(ChunkExtent::length),
            Members::Lists(lists) => lists.last().map(|list| list.bytes),
        };
        self.starts.last().copied().unwrap_or(0) + last.unwrap_or(0)
    }

    /// Whether it is what names it: of its length, and at its depth.
    fn is(&self, child: ListChild, depth: Option<u8>) -> bool {
        depth.is_none_or(|depth| self.depth == depth) && self.bytes() == child.bytes
    }
}

/// Bytes of extents that are not holes.
pub(crate) fn written(extents: &[ChunkExtent]) -> u64 {
    let chunks = extents.iter().filter(|extent| matches!(extent, ChunkExtent::Chunk { .. }));
    chunks.map(ChunkExtent::length).sum()
}

fn starts(lengths: impl Iterator<Item = u64>) -> Vec<u64> {
    let begin = |at: &mut u64, length: u64| {
        let start = *at;
        *at = at.saturating_add(length);
        Some(start)
    };
    lengths.scan(0, begin).collect()
}

/// A list, from memory or fetched.
fn fetched(
    (source, lists): (&dyn BlobSource, &Lists),
    child: ListChild,
    depth: Option<u8>,
) -> Result<Arc<Sought>, Arc<ListError>> {
    let ListChild { list, .. } = child;
    let sought = lists.get(list, || decode(source, list))?;
    match sought.is(child, depth) {
        true => Ok(sought),
        false => Err(Arc::new(ListError::Misplaced { list })),
    }
}

fn decode(source: &dyn BlobSource, list: ChunkId) -> Result<(Arc<Sought>, usize), ListError> {
    let blob = source.blob(BlobKind::List, list);
    let blob = blob.map_err(|source| ListError::Source { list, source })?;
    let decoded = decode_list(&blob.plain, &blob.references);
    let sought = match decoded.map_err(|source| ListError::Decode { list, source })? {
        List::Extents(extents) => Sought::extents(&extents),
        List::Inner { depth, children } => {
            let starts = starts(children.iter().map(|child| child.bytes));
            Sought { starts, members: Members::Lists(children), depth }
        }
    };
    let bytes = sought.starts.len() * MEMBER_BYTES;
    Ok((Arc::new(sought), bytes))
}
