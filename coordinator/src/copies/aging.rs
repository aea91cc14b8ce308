//! What is known of a copy ages. The newest point of each workload is proven as far as can be,
//! and whatever was proven by reading is proven again when its proof is too old. Between proofs
//! each copy is looked at without reading it: one that vanished is lost, and owed again.

use std::collections::BTreeMap;

use strongroom_protocol::control::Work;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{
    CopyName, JobId, MediaSetName, NodeName, PointId, Timestamp, WorkloadName,
};

use super::again::RETRY_SECONDS_MAX;
use super::{Copies, Doing};
use crate::ability::looks;
use crate::catalog::CatalogError;
use crate::policy::{Copy, CopyKind, Declared};
use crate::retention::{CopyState, Proof, ProofLevel};

/// A secondary snap is looked at this often, or as often as it is proven if that is more.
const LOOK_SECONDS: i64 = 24 * 3600;
/// Points looked at by one order.
const LOOKED_AT_ONCE: usize = 1000;

/// What a look without reading is worth: scrubbing reads every pack of a secondary snap back.
pub(super) const fn look_proof(kind: &CopyKind) -> ProofLevel {
    match kind {
        CopyKind::Aux { .. } => ProofLevel::Written,
        _ => ProofLevel::HashVerified,
    }
}

/// What is looked at in one order: points of one copy at one place.
type Place = (NodeName, CopyName, Option<MediaSetName>);

fn set_of(copy: &Copy) -> Option<MediaSetName> {
    match &copy.kind {
        CopyKind::Aux { media_set } => Some(media_set.clone()),
        CopyKind::SecondarySnap => None,
    }
}

impl Copies {
    /// A node says which points of a look are not whole.
    pub(crate) fn looked(&mut self, node: &NodeName, job: JobId, points: Vec<(PointId, String)>) {
        if self.is_live(node, job) {
            self.lost.insert(job, points);
        }
    }

    /// The copies at a node that are on media, or those that are not.
    fn copies_at(&self, node: &NodeName, is_wanted: fn(&Copy) -> bool) -> Vec<CopyName> {
        let in_force = self.site.in_force();
        let policies = in_force.declared.policies.values();
        let copies = policies.flat_map(|policy| policy.copies.values());
        let theirs = copies.filter(|copy| copy.node == *node && is_wanted(copy));
        theirs.map(|copy| copy.name.clone()).collect()
    }

    /// Cartridges came back to a node: what could not be proven without them is tried at once.
    pub(crate) fn returned(&mut self, node: &NodeName) {
        let on_media = self.copies_at(node, |copy| set_of(copy).is_some());
        self.doubtful.retain(|(_, copy), _| !on_media.contains(copy));
        self.unlooked.retain(|(at, copy), _| at != node || !on_media.contains(copy));
        self.reconsider();
    }

    /// A node came: what it holds may be another disk's. Media are where they were.
    pub(super) fn look_again(&mut self, node: &NodeName) {
        let theirs = self.copies_at(node, |copy| set_of(copy).is_none());
        self.looked.retain(|(_, copy), _| !theirs.contains(copy));
        self.unlooked.retain(|(at, _), _| at != node);
    }

    /// A node could not look: it is left alone for a while.
    pub(super) fn note_unlooked(&mut self, job: JobId) {
        let place =
            self.busy.iter().find(|(_, busy)| **busy == job).map(|(place, _)| place.clone());
        let tasks = self.site.copy_tasks();
        let is_look = tasks.iter().any(|task| task.job == job && task.doing == Doing::Look);
        drop(tasks);
        if let Some(place) = place.filter(|_| is_look) {
            self.unlooked.insert(place, self.site.now().plus_seconds(RETRY_SECONDS_MAX));
        }
    }

    /// Whether a copy's node is here, free and able to look.
    fn may_look(&self, copy: &Copy, now: Timestamp) -> bool {
        let place = (copy.node.clone(), copy.name.clone());
        // A pause longer than the longest means that the clock went back since: it is over.
        let longest = now.plus_seconds(RETRY_SECONDS_MAX);
        let rests = self.unlooked.get(&place).is_some_and(|at| *at > now && *at <= longest);
        let session = self.site.sessions.proxy(&copy.node);
        !rests
            && !self.busy.contains_key(&place)
            && session.is_some_and(|session| looks(&session.software))
    }

    /// A proof that failed because of what was read, not because it could not be read now.
    pub(super) fn note_lost(&mut self, job: JobId, refusal: &Refusal) {
        if !matches!(refusal.kind, RefusalKind::Damaged | RefusalKind::Missing) {
            return;
        }
        let tasks = self.site.copy_tasks();
        let task = tasks.iter().find(|task| task.job == job && task.doing == Doing::Prove);
        let points = task.map(|task| task.points.clone()).unwrap_or_default();
        drop(tasks);
        let lost = points.into_iter().map(|point| (point, refusal.text.clone())).collect();
        self.lost.insert(job, lost);
    }

    /// Orders the proofs that are due: one a copy at a time, newest points before old proofs.
    pub(super) fn prove(
        &mut self,
        declared: &Declared,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut wanted = Vec::new();
        for workload in declared.workloads.keys() {
            let Some(policy) = declared.policy_of(workload) else { continue };
            let facts = self.site.catalog.point_facts(Some(workload))?;
            for copy in policy.copies.values() {
                let place = (copy.node.clone(), copy.name.clone());
                let here = self.site.sessions.proxy(&copy.node).is_some();
                if !here || self.busy.contains_key(&place) {
                    continue;
                }
                let present = facts.iter().rev().filter_map(|point| {
                    let row = point.copy(&copy.name)?;
                    (row.state == CopyState::Present).then_some((point.point, row.proof))
                });
                let due = present.enumerate().filter(|(age, (point, proof))| {
                    let doubted = self.doubtful.get(&(*point, copy.name.clone()));
                    doubted.is_none_or(|until| *until <= now)
                        && self.is_due(*age == 0, *proof, copy, now)
                });
                let first = due.min_by_key(|(age, (_, proof))| {
                    (*age > 0, proof.map_or(Timestamp(0), |proof| proof.at))
                });
                if let Some((_, (point, _))) = first {
                    wanted.push((workload.clone(), copy.clone(), point));
                }
            }
        }
        for (workload, copy, point) in wanted {
            // Another workload's may have taken the place just now.
            if self.busy.contains_key(&(copy.node.clone(), copy.name.clone())) {
                continue;
            }
            let work = Work::Prove { copy: copy.name.clone(), set: set_of(&copy), point };
            let task = self.task(Doing::Prove, &copy, &workload, vec![point], now);
            self.say(task, work, now)?;
        }
        Ok(())
    }

    fn proof_seconds(&self) -> i64 {
        i64::from(self.site.home.settings().scrub.proof_seconds)
    }

    /// How old the newest proof of a copy becomes before it is made again, in seconds: early
    /// enough that it is there when the policy wants it.
    fn newest_seconds(&self, copy: &Copy) -> i64 {
        let usual = self.proof_seconds();
        let rule = copy.prove.filter(|prove| prove.level <= copy.kind.proven_by_reading());
        let wanted = rule.map(|prove| prove.every_seconds - prove.every_seconds / 4);
        wanted.and_then(|seconds| i64::try_from(seconds).ok()).map_or(usual, |s| s.min(usual))
    }

    fn is_due(&self, is_newest: bool, proof: Option<Proof>, copy: &Copy, now: Timestamp) -> bool {
        let Some(proof) = proof else { return is_newest };
        let age = now.seconds_since(proof.at);
        let is_old = age >= self.proof_seconds();
        let is_wanted = proof.level < copy.kind.proven_by_reading();
        is_newest && (is_wanted || age >= self.newest_seconds(copy))
            || proof.level > look_proof(&copy.kind) && is_old
    }

    /// Orders looks at copies nobody looked at for long.
    pub(super) fn look(&mut self, declared: &Declared, now: Timestamp) -> Result<(), CatalogError> {
        let mut wanted: BTreeMap<Place, (Copy, WorkloadName, Vec<PointId>)> = BTreeMap::new();
        for workload in declared.workloads.keys() {
            let Some(policy) = declared.policy_of(workload) else { continue };
            let copies = policy.copies.values();
            let idle: Vec<&Copy> = copies.filter(|copy| self.may_look(copy, now)).collect();
            if idle.is_empty() {
                continue;
            }
            for point in self.site.catalog.point_facts(Some(workload))? {
                for copy in &idle {
                    let row = point.copy(&copy.name);
                    let row = row.filter(|row| row.state == CopyState::Present);
                    if !row.is_some_and(|row| self.is_unseen(point.point, copy, row.proof, now)) {
                        continue;
                    }
                    let place = (copy.node.clone(), copy.name.clone(), set_of(copy));
                    let fresh = || ((*copy).clone(), workload.clone(), Vec::new());
                    let (_, _, points) = wanted.entry(place).or_insert_with(fresh);
                    if points.len() < LOOKED_AT_ONCE {
                        points.push(point.point);
                    }
                }
            }
        }
        for ((_, name, set), (copy, workload, points)) in wanted {
            if self.busy.contains_key(&(copy.node.clone(), name.clone())) {
                continue;
            }
            for point in &points {
                self.looked.insert((*point, name.clone()), now);
            }
            let work = Work::Look { copy: name, set, points: points.clone() };
            let task = self.task(Doing::Look, &copy, &workload, points, now);
            self.say(task, work, now)?;
        }
        Ok(())
    }

    /// Whether nobody looked for long. Media are not loaded for it before their proof is old.
    fn is_unseen(&self, point: PointId, copy: &Copy, proof: Option<Proof>, now: Timestamp) -> bool {
        let longest = self.proof_seconds();
        let (longest, is_early) = match copy.kind {
            CopyKind::Aux { .. } => {
                (longest, proof.is_some_and(|proof| now.seconds_since(proof.at) < longest))
            }
            CopyKind::SecondarySnap => (longest.min(LOOK_SECONDS), false),
        };
        let seen = self.looked.get(&(point, copy.name.clone()));
        !is_early && seen.is_none_or(|at| *at > now || now.seconds_since(*at) >= longest)
    }
}
