//! What is told of a medium and of a set: from labels and catalogs, no key needed. Refuses nothing.

use std::collections::BTreeSet;

use strongroom_protocol::{MediaSetName, MediumId, OrgName, RepoId, Timestamp};

use crate::media::catalog::WhatV1;
use crate::media::survey::{Health, Medium};
use crate::tape::Barcode;

/// One medium, here or known from others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MediumInfo {
    pub medium: MediumId,
    pub barcode: Barcode,
    pub set: MediaSetName,
    pub sequence: u32,
    pub org: OrgName,
    pub repo: RepoId,
    pub written: Timestamp,
    pub health: Health,
    /// The sessions with files on it.
    pub sessions: BTreeSet<u32>,
    pub packs: u64,
    pub points: u64,
    pub bytes: u64,
}

/// One media set: the media that name the same organisation, repository and set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetInfo {
    pub org: OrgName,
    pub repo: RepoId,
    pub set: MediaSetName,
    pub media: Vec<MediumId>,
    pub sessions: BTreeSet<u32>,
}

pub(crate) fn info(medium: &Medium) -> MediumInfo {
    let Medium { label, barcode, entries, health, .. } = medium;
    let count = |wanted: fn(&WhatV1) -> bool| {
        entries.iter().filter(|entry| wanted(&entry.what)).count() as u64
    };
    MediumInfo {
        medium: label.medium,
        barcode: barcode.clone(),
        set: label.set.clone(),
        sequence: label.sequence,
        org: label.org.clone(),
        repo: label.repo,
        written: Timestamp(label.written_ns),
        health: *health,
        sessions: entries.iter().map(|entry| entry.session).collect(),
        packs: count(|what| matches!(what, WhatV1::Pack { .. })),
        points: count(|what| matches!(what, WhatV1::Point { .. })),
        bytes: entries.iter().map(|entry| entry.bytes).sum(),
    }
}
