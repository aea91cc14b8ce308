//! Samples of the bulk streams: protect, restore, replicate.

use strongroom_protocol::data::{FromAgent, FromProxy, FromReader, ToAgent, ToProxy, ToReader};
use strongroom_protocol::lead::Reseeded;
use strongroom_protocol::opening::RefusalKind;
use strongroom_protocol::{Algorithm, BlobKind, ParcelHead, Reference};

use super::talk::naming;
use super::{Sampled, chunk, id, pack, reference, refusal};

const KINDS: [BlobKind; 4] = [BlobKind::Data, BlobKind::Page, BlobKind::List, BlobKind::Gaps];

fn head(kind: BlobKind, algorithm: Algorithm, references: Vec<Reference>) -> ParcelHead {
    ParcelHead { id: chunk(0xab), kind, algorithm, plain_len: 70_000, references }
}

fn references() -> Vec<Reference> {
    KINDS.map(|kind| reference(kind, 0xcd)).to_vec()
}

impl Sampled for FromAgent {
    fn samples() -> Vec<Self> {
        let mut all = vec![Self::Ask { number: 300, ids: vec![chunk(1), chunk(2)] }];
        all.extend(KINDS.map(|kind| Self::Blob(head(kind, Algorithm::Zstd, references()))));
        all.push(Self::Blob(head(BlobKind::Data, Algorithm::Stored, vec![])));
        all.push(Self::End { root: reference(BlobKind::Page, 9) });
        all
    }
}

impl Sampled for ToAgent {
    fn samples() -> Vec<Self> {
        vec![
            Self::Missing { number: 300, wanted: vec![0b0000_0010] },
            Self::Committed { point: id(3) },
            Self::Refused { refusal: refusal(RefusalKind::Missing), lacking: references() },
        ]
    }
}

impl Sampled for FromReader {
    fn samples() -> Vec<Self> {
        vec![Self::Want { number: 1, ids: vec![chunk(1)] }]
    }
}

impl Sampled for ToReader {
    fn samples() -> Vec<Self> {
        vec![
            Self::Manifest(naming()),
            Self::Blob(head(BlobKind::Data, Algorithm::Zstd, vec![])),
            Self::Lost { id: chunk(1), refusal: refusal(RefusalKind::Damaged) },
            Self::Done { number: 1 },
        ]
    }
}

impl Sampled for FromProxy {
    fn samples() -> Vec<Self> {
        vec![
            Self::Need { point: id(3) },
            Self::Pack { id: pack(0xee), offset: 1 << 20 },
            Self::Points,
            Self::Reseeded(Reseeded {
                held: 3,
                let_go: 2,
                only_there: 1,
                lacking: 4,
                why: vec!["point 3: hurt".to_owned()],
            }),
        ]
    }
}

impl Sampled for ToProxy {
    fn samples() -> Vec<Self> {
        vec![
            Self::Packs(vec![(pack(1), 64 << 20), (pack(2), 5)]),
            Self::Manifest { workload: id(5), point: id(3) },
            Self::Piece { id: pack(0xee), offset: 1 << 20 },
            Self::PackEnd { id: pack(0xee), len: 64 << 20 },
            Self::Refused { refusal: refusal(RefusalKind::Unavailable) },
            Self::Points(vec![(id(5), id(3)), (id(5), id(4))]),
        ]
    }
}
