//! Ids of what is made out of an image: they say what it is of.

use strongroom_protocol::{BlobKind, ChunkId};

const MARK: [u8; 7] = *b"inside:";

/// What a blob is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Part {
    Data,
    List,
    Page,
}

impl Part {
    pub(super) const fn kind(self) -> BlobKind {
        match self {
            Self::Data => BlobKind::Data,
            Self::List => BlobKind::List,
            Self::Page => BlobKind::Page,
        }
    }
}

/// An id taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Id {
    pub(super) part: Part,
    pub(super) node: u64,
    /// Where data begins; the number of a page or list, 0 for that of the whole.
    pub(super) place: u64,
    /// Of data, or of the file that a list is of, in bytes.
    pub(super) size: u64,
}

impl Id {
    pub(super) fn chunk(&self) -> ChunkId {
        let part = match self.part {
            Part::Data => 1,
            Part::List => 2,
            Part::Page => 3,
        };
        let numbers = [self.node, self.place, self.size].map(u64::to_le_bytes);
        let fields = [&MARK[..], &[part], numbers.as_flattened()].concat();
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        ChunkId(bytes)
    }

    pub(super) fn parse(id: ChunkId) -> Option<Self> {
        let (part, rest) = id.0.strip_prefix(&MARK)?.split_first()?;
        let part = match part {
            1 => Part::Data,
            2 => Part::List,
            3 => Part::Page,
            _ => return None,
        };
        let (node, rest) = rest.split_first_chunk()?;
        let (place, rest) = rest.split_first_chunk()?;
        let size = u64::from_le_bytes(*rest.first_chunk()?);
        let (node, place) = (u64::from_le_bytes(*node), u64::from_le_bytes(*place));
        Some(Self { part, node, place, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_what_it_was_made_of() {
        for part in [Part::Data, Part::List, Part::Page] {
            let id = Id { part, node: u64::MAX - 1, place: 7 << 40, size: 3 << 33 };
            assert_eq!(Id::parse(id.chunk()), Some(id));
        }
        assert_eq!(Id::parse(ChunkId([7; 32])), None);
    }
}
