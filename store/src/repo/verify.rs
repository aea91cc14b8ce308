//! Verifying by order: every pack against its name as the medium gives it, every manifest
//! against its hash and, with the key, every blob against its id. Damage is reported with the
//! blobs it touches, is known to scrubbing from then on, and is never an error of verifying.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use strongroom_protocol::Chain;
use strongroom_protocol::id::{ChunkId, PackId, PointId, WorkloadId};

use super::Repo;
use super::error::RepoError;
use super::hurt::GONE;
use super::scrub::{Checked, Subject};
use crate::disk::ReadFile;
use crate::pack::{PackEntry, read_epoch, read_footer, scan_forward};
use crate::parcel;
use crate::seal::open_record;

/// Packs read side by side: one is waited for while another is hashed.
const SIDE_BY_SIDE: usize = 2;

/// How deep verifying looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Packs and manifests by their hashes: needs no key.
    Hashes,
    /// Every blob opened and named anew: needs the key.
    Plain,
}

/// What verifying found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerifyReport {
    pub packs: u64,
    pub bytes: u64,
    pub blobs: u64,
    pub points: u64,
    pub damaged_packs: Vec<DamagedPack>,
    pub damaged_points: Vec<DamagedPoint>,
}

/// A pack that is not what its name says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedPack {
    pub pack: PackId,
    pub problem: String,
    /// The blobs that cannot be counted on: with [`Depth::Plain`] those that do not open, else
    /// all that the pack is known to hold.
    pub blobs: Vec<ChunkId>,
    /// The blobs in it that were opened and hold, with [`Depth::Plain`]: whatever else is
    /// thought to lie in this pack is not to be counted on.
    pub sound: Vec<ChunkId>,
}

impl DamagedPack {
    /// A pack of which nothing is left.
    const fn lost(pack: PackId, problem: String) -> Self {
        Self { pack, problem, blobs: Vec::new(), sound: Vec::new() }
    }
}

/// A manifest that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedPoint {
    pub workload: WorkloadId,
    pub point: PointId,
    pub problem: String,
}

impl VerifyReport {
    /// Whether nothing was found.
    pub const fn is_sound(&self) -> bool {
        self.damaged_packs.is_empty() && self.damaged_points.is_empty()
    }

    fn add(&mut self, part: Self) {
        self.packs += part.packs;
        self.bytes += part.bytes;
        self.blobs += part.blobs;
        self.points += part.points;
        self.damaged_packs.extend(part.damaged_packs);
        self.damaged_points.extend(part.damaged_points);
    }
}

impl Repo {
    /// Reads everything back.
    pub fn verify(&self, depth: Depth) -> Result<VerifyReport, RepoError> {
        if depth == Depth::Plain {
            self.vault_key()?;
        }
        if depth == Depth::Plain {
            for pack in self.packs() {
                self.check_epoch(pack)?;
            }
        }
        let mut report = self.verify_packs(depth);
        for pack in self.health().missing_packs {
            let problem = GONE.to_owned();
            report.damaged_packs.push(DamagedPack::lost(pack, problem));
        }
        for (workload, point) in self.points()? {
            report.points += 1;
            if let Err(error) = self.manifest_bytes(workload, point) {
                let problem = error.to_string();
                report.damaged_points.push(DamagedPoint { workload, point, problem });
            }
        }
        Ok(report)
    }

    fn verify_packs(&self, depth: Depth) -> VerifyReport {
        let packs = Mutex::new(self.packs().into_iter());
        let next = || packs.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let mut report = VerifyReport::default();
            while let Some(pack) = next() {
                self.verify_pack(pack, depth, &mut report);
            }
            report
        };
        let mut whole = VerifyReport::default();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                match worker.join() {
                    Ok(part) => whole.add(part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        whole.damaged_packs.sort_unstable_by_key(|damaged| damaged.pack);
        whole
    }

    /// Reads one pack back into the report.
    pub fn verify_pack(&self, pack: PackId, depth: Depth, report: &mut VerifyReport) {
        report.packs += 1;
        let file = match self.inner.reopened(pack) {
            Ok(file) => file,
            // Collected since it was listed.
            Err(RepoError::NoSuchPack { .. }) if self.inner.index.class(&pack).is_none() => return,
            Err(error) => {
                let problem = match error {
                    RepoError::NoSuchPack { .. } => GONE.to_owned(),
                    // It may be there and whole behind a disk that fails.
                    error => Chain(&error).to_string(),
                };
                self.inner.set_hurt(Subject::Pack(pack), &problem);
                report.damaged_packs.push(DamagedPack::lost(pack, problem));
                return;
            }
        };
        report.bytes += file.len().unwrap_or(0);
        let checked = self.inner.check_pack(pack, &mut |_| ControlFlow::Continue(()));
        let mut problem = match checked {
            Checked::Hurt(why) => Some(why),
            Checked::Gone => return,
            Checked::Sound(_) | Checked::Stopped => None,
        };
        match &problem {
            Some(why) => self.inner.set_hurt(Subject::Pack(pack), why),
            None => self.inner.set_whole(Subject::Pack(pack)),
        }
        let footer = read_footer(&*file, self.id());
        if let Err(error) = &footer {
            problem.get_or_insert_with(|| error.to_string());
        }
        // With a damaged footer, what is read forward is what is left.
        let entries = footer.or_else(|_| scan_forward(&*file, self.id()));
        let entries = entries.map_or_else(|_| Vec::new(), |(_, entries)| entries);
        report.blobs += entries.len() as u64;
        let epoch = (depth == Depth::Plain).then(|| self.verified_epoch(&*file)).flatten();
        let (mut sound, mut blobs) = (BTreeSet::new(), BTreeSet::new());
        for entry in &entries {
            let holds = epoch.is_some_and(|epoch| self.opens(&*file, epoch, entry));
            if holds {
                sound.insert(entry.id)
            } else {
                blobs.insert(entry.id)
            };
        }
        if depth == Depth::Plain && !blobs.is_empty() {
            problem.get_or_insert_with(|| "blobs in it do not open".to_owned());
        }
        if let Some(problem) = problem {
            let (blobs, sound) = (blobs.into_iter().collect(), sound.into_iter().collect());
            report.damaged_packs.push(DamagedPack { pack, problem, blobs, sound });
        }
    }

    /// A damaged header hides the epoch; where there is one only, it is known all the same.
    fn verified_epoch(&self, file: &dyn ReadFile) -> Option<u32> {
        match self.vault_key().ok()?.epoch() {
            1 => Some(1),
            _ => read_epoch(file, self.id()).ok(),
        }
    }

    fn opens(&self, file: &dyn ReadFile, epoch: u32, entry: &PackEntry) -> bool {
        let (Ok(key), Ok(agent)) = (self.vault_key(), self.agent_keys()) else { return false };
        let mut record = vec![0; entry.record_len as usize];
        let read = file.read_exact_at(&mut record, u64::from(entry.offset)).is_ok();
        let parcel = read.then(|| open_record(key, self.id(), epoch, &record).ok()).flatten();
        parcel.is_some_and(|parcel| {
            parcel.head.id == entry.id && parcel::open(&parcel, agent).is_ok()
        })
    }
}
