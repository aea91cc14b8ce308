//! What is known to be hurt: found by scrubbing, by verifying or when the repository was opened,
//! remembered until it was found whole or replaced, and what it costs. Asks no key, and removes
//! nothing.

use std::collections::{BTreeMap, HashSet};

use strongroom_protocol::Chain;
use strongroom_protocol::id::{PackId, PointId, WorkloadId};

use super::error::RepoError;
use super::scrub::Subject;
use super::{Inner, Repo};
use crate::pack::pack_path;

/// Why a pack is hurt that is not in its place.
pub(super) const GONE: &str = "it is gone";

impl Repo {
    /// What is known to be hurt, and how.
    pub fn hurt(&self) -> BTreeMap<Subject, String> {
        let health = self.inner.health();
        let unreadable = health.unreadable_packs.iter();
        let unreadable = unreadable.map(|(pack, why)| (Subject::Pack(*pack), why.clone()));
        let missing = health.missing_packs.iter();
        let missing = missing.map(|pack| (Subject::Pack(*pack), GONE.to_owned()));
        let mut hurt: BTreeMap<Subject, String> = unreadable.chain(missing).collect();
        hurt.extend(health.hurt.iter().map(|(subject, why)| (*subject, why.clone())));
        hurt
    }

    /// Points that cannot be counted on: their manifest is hurt, or a pack they need is, or
    /// something they need is not here. Walks every point, unless nothing is hurt.
    pub fn hurt_points(&self) -> Result<Vec<(WorkloadId, PointId, String)>, RepoError> {
        let hurt = self.hurt();
        let mut found = Vec::new();
        if hurt.is_empty() {
            return Ok(found);
        }
        for (workload, point) in self.points()? {
            if let Some(why) = self.what_hurts(workload, point, &hurt) {
                found.push((workload, point, why));
            }
        }
        Ok(found)
    }

    /// Why a point cannot be counted on; nothing when it can, as far as is known without
    /// reading its data.
    pub fn point_trouble(&self, point: PointId) -> Result<Option<String>, RepoError> {
        self.inner.note_missing_packs()?;
        for workload in self.workloads()? {
            if self.has_point_of(workload, point)? {
                return Ok(self.what_hurts(workload, point, &self.hurt()));
            }
        }
        Ok(Some("its manifest is not here".to_owned()))
    }

    fn what_hurts(
        &self,
        workload: WorkloadId,
        point: PointId,
        hurt: &BTreeMap<Subject, String>,
    ) -> Option<String> {
        if let Some(why) = hurt.get(&Subject::Point(workload, point)) {
            return Some(why.clone());
        }
        let walked =
            self.point_roots(workload, point).and_then(|roots| Ok(self.closure(&roots)?.packs));
        match walked {
            Err(error) => Some(Chain(&error).to_string()),
            Ok(packs) => packs.into_iter().find_map(|pack| {
                let why = hurt.get(&Subject::Pack(pack))?;
                Some(format!("pack {pack}: {why}"))
            }),
        }
    }
}

impl Inner {
    pub(super) fn is_hurt(&self, subject: Subject) -> bool {
        let health = self.health();
        health.hurt.contains_key(&subject)
            || matches!(subject, Subject::Pack(pack) if health.missing_packs.contains(&pack)
                || health.unreadable_packs.iter().any(|(other, _)| *other == pack))
    }

    /// The packs known to be hurt.
    pub(super) fn hurt_packs(&self) -> HashSet<PackId> {
        let health = self.health();
        let found = health.hurt.keys().filter_map(|subject| match subject {
            Subject::Pack(pack) => Some(*pack),
            Subject::Point(..) => None,
        });
        let unreadable = health.unreadable_packs.iter().map(|(pack, _)| *pack);
        found.chain(unreadable).chain(health.missing_packs.iter().copied()).collect()
    }

    pub(super) fn set_hurt(&self, subject: Subject, why: &str) {
        let is_new = self.health().hurt.insert(subject, why.to_owned()).is_none();
        if is_new {
            tracing::error!(?subject, why, "found hurt");
            if let Subject::Pack(pack) = subject {
                self.forget_reader(pack);
                self.index.note_hurt(pack);
            }
        }
    }

    /// It was found whole, was replaced, or is rightly gone.
    pub(super) fn set_whole(&self, subject: Subject) {
        let mut health = self.health();
        health.hurt.remove(&subject);
        if let Subject::Pack(pack) = subject {
            health.missing_packs.retain(|other| *other != pack);
            health.unreadable_packs.retain(|(other, _)| *other != pack);
            drop(health);
            self.index.note_whole(&pack);
        }
    }

    /// Packs that the index knows and that are not in their place.
    pub(super) fn note_missing_packs(&self) -> Result<(), RepoError> {
        let known = self.index.packs();
        let in_place = crate::index::list_packs(&*self.disk)?;
        for pack in known.into_iter().filter(|pack| !in_place.contains_key(pack)) {
            // It may have been removed rightly meanwhile.
            if let Some(class) = self.index.class(&pack)
                && !self.disk.exists(&pack_path(class, pack))?
                && self.index.class(&pack).is_some()
            {
                self.set_hurt(Subject::Pack(pack), GONE);
            }
        }
        Ok(())
    }
}
