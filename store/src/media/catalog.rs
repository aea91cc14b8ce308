//! What is where on the media of a set: the catalog that closes a session, and the picture
//! of all catalogs together. Refuses nothing; it says what catalogs say.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use strongroom_protocol::{MediumId, PackId, PointId, RepoId, Timestamp, WorkloadId};

use crate::media::label::LabelV1;
use crate::pack::PackClass;

/// Which kind of blobs a pack holds: byte 24 of its header. The order is the format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) enum ClassV1 {
    Data,
    Metadata,
}

impl ClassV1 {
    /// From the head of a pack; None when these are not the first bytes of a pack.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        match (head.starts_with(b"SRPACK01"), head.get(24)) {
            (true, Some(0)) => Some(Self::Data),
            (true, Some(1)) => Some(Self::Metadata),
            _ => None,
        }
    }
}

impl From<ClassV1> for PackClass {
    fn from(class: ClassV1) -> Self {
        match class {
            ClassV1::Data => Self::Data,
            ClassV1::Metadata => Self::Metadata,
        }
    }
}

/// What one file is. The order is the format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) enum WhatV1 {
    Config,
    Keys,
    Pack { id: PackId, class: ClassV1 },
    Point { workload: WorkloadId, point: PointId, moment_ns: i64 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct EntryV1 {
    pub(crate) file: u32,
    /// Sessions of a set count from 1; a session that spans has the same on each medium.
    pub(crate) session: u32,
    pub(crate) bytes: u64,
    pub(crate) what: WhatV1,
}

/// Whether more sessions may follow on a medium. The order is the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum MediumState {
    Open,
    /// It met its end; the set goes on elsewhere.
    Full,
    /// It is not written any more: damaged, protected or taken away.
    Sealed,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct EarlierV1 {
    pub(crate) label: LabelV1,
    pub(crate) state: MediumState,
    pub(crate) entries: Vec<EntryV1>,
}

/// Whether `earlier` is given. The order is the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum HistoryV1 {
    Given,
    /// There was no room for it at the end of a medium.
    Omitted,
}

/// The last file of a session. Frozen: a change is a new version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct CatalogV1 {
    /// As in file 0, so that a damaged label costs nothing.
    pub(crate) label: LabelV1,
    pub(crate) session: u32,
    pub(crate) written_ns: i64,
    /// The file this catalog is.
    pub(crate) file: u32,
    pub(crate) state: MediumState,
    /// Of every session on this medium so far.
    pub(crate) entries: Vec<EntryV1>,
    pub(crate) history: HistoryV1,
    /// The other media of the set, as far as known.
    pub(crate) earlier: Vec<EarlierV1>,
}

/// Where a file lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub medium: MediumId,
    /// Files of the medium, and so filemarks, before it.
    pub file: u32,
    pub bytes: u64,
    /// The session that wrote it; 0 for a pack found without a catalog.
    pub session: u32,
}

/// A pack on media.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldPack {
    pub class: PackClass,
    pub repo: RepoId,
    /// At least one; several when it was written again.
    pub places: Vec<Place>,
}

/// A point on media.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldPoint {
    pub repo: RepoId,
    pub workload: WorkloadId,
    pub moment: Timestamp,
    pub places: Vec<Place>,
}

/// What media hold, by what their catalogs or their files say.
#[derive(Clone, Default, Debug)]
pub struct Held {
    pub packs: HashMap<PackId, HeldPack>,
    pub points: BTreeMap<PointId, HeldPoint>,
}

impl Held {
    /// Whether the pack needs not be sent.
    pub fn has_pack(&self, pack: &PackId) -> bool {
        self.packs.contains_key(pack)
    }

    /// Whether the point's manifest needs not be sent.
    pub fn has_point(&self, point: &PointId) -> bool {
        self.points.contains_key(point)
    }

    pub(crate) fn forget(&mut self, medium: MediumId) {
        let elsewhere = |places: &mut Vec<Place>| {
            places.retain(|place| place.medium != medium);
            !places.is_empty()
        };
        self.packs.retain(|_, pack| elsewhere(&mut pack.places));
        self.points.retain(|_, point| elsewhere(&mut point.places));
    }

    pub(crate) fn add(&mut self, medium: MediumId, repo: RepoId, entry: &EntryV1) {
        let EntryV1 { file, session, bytes, what } = *entry;
        let place = Place { medium, file, bytes, session };
        let places = match what {
            WhatV1::Config | WhatV1::Keys => return,
            WhatV1::Pack { id, class } => {
                let fresh = || HeldPack { class: class.into(), repo, places: Vec::new() };
                &mut self.packs.entry(id).or_insert_with(fresh).places
            }
            WhatV1::Point { workload, point, moment_ns } => {
                let moment = Timestamp(moment_ns);
                let fresh = || HeldPoint { repo, workload, moment, places: Vec::new() };
                &mut self.points.entry(point).or_insert_with(fresh).places
            }
        };
        if !places.contains(&place) {
            places.push(place);
        }
    }
}
