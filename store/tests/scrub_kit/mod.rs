//! A repository of two points, scrubbed by hand, and the whole copy it is healed from.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use strongroom_protocol::id::PackId;
use strongroom_protocol::time::Timestamp;
use strongroom_store::disk::sim::{Crash, SimDisk};
use strongroom_store::repo::{Begun, Checked, Repo, RepoError, ScrubTerms, Subject};

use crate::common::{create, key, manifest, open, protect, tree, write_small};

pub const DAY: i64 = 24 * 3600;
pub const TERMS: ScrubTerms = ScrubTerms { period_seconds: 30 * DAY, new_seconds: DAY / 2 };

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_700_000_000 + seconds)
}

/// Two points in packs that are durable; the log of changes is empty. Always the same bytes.
pub fn prepared() -> SimDisk {
    static WHOLE: OnceLock<SimDisk> = OnceLock::new();
    WHOLE.get_or_init(made).crash_image(0, Crash::Keep)
}

pub fn made() -> SimDisk {
    let disk = SimDisk::new();
    create(&disk);
    let repo = open(&disk);
    protect(&repo, 1).unwrap();
    protect(&repo, 2).unwrap();
    drop(repo);
    disk.crash_image(disk.log_len(), Crash::Keep)
}

pub fn reopened(disk: &SimDisk) -> Repo {
    Repo::open(Arc::new(disk.clone()), &key(), write_small()).unwrap()
}

pub fn pack_paths(disk: &SimDisk) -> Vec<String> {
    disk.paths().into_iter().filter(|path| path.starts_with("packs/")).collect()
}

pub fn pack_of(path: &str) -> PackId {
    path.rsplit('/').next().unwrap().parse().unwrap()
}

pub fn check(repo: &Repo, subject: Subject, now: Timestamp) -> Checked {
    repo.scrub_check(subject, now, &mut |_| ControlFlow::Continue(()))
}

/// Reads back all that is due; gives what is hurt.
pub fn round(repo: &Repo, now: Timestamp) -> Vec<Subject> {
    for subject in repo.scrub_due(TERMS, now).unwrap() {
        check(repo, subject, now);
    }
    repo.scrub_save().unwrap();
    repo.hurt().into_keys().collect()
}

/// Every pack of a whole copy with its bytes.
pub struct Source(pub Vec<(PackId, Vec<u8>)>);

impl Source {
    pub fn of(disk: &SimDisk) -> Self {
        let repo = open(disk);
        let packs = repo.packs().into_iter();
        Self(packs.map(|p| (p, repo.read_pack(p, 0, usize::MAX).unwrap().to_vec())).collect())
    }

    /// Brings back what is hurt, in two pieces each.
    pub fn heal(&self, repo: &Repo) -> Result<usize, RepoError> {
        let mut healed = 0;
        for (subject, _) in repo.hurt() {
            match subject {
                Subject::Pack(pack) => {
                    let bytes = &self.0.iter().find(|(id, _)| *id == pack).unwrap().1;
                    let Begun::Receiving(mut incoming) = repo.begin_pack(pack)? else {
                        panic!("a hurt pack counts as present");
                    };
                    let from = usize::try_from(incoming.offset()).unwrap();
                    let half = from.max(bytes.len() / 2);
                    incoming.write(&bytes[from..half])?;
                    incoming.write(&bytes[half..])?;
                    incoming.finish()?;
                }
                Subject::Point(workload, point) => {
                    let number = point.as_bytes()[0];
                    let whole = manifest(point, &[tree(u64::from(number)).reference()]);
                    repo.restore_point(workload, point, &whole)?;
                }
            }
            healed += 1;
        }
        repo.barrier()?;
        Ok(healed)
    }
}
