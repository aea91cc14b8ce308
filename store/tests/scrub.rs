//! Scrubbing over a simulated disk: what is due and when, what only the medium knows, what is
//! noticed to be gone, and what is refused as a replacement.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;
mod scrub_kit;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::{
    WORKLOAD, check_point, create, insert, key, manifest, point_id, protect, send, tree,
    write_small,
};
use scrub_kit::{DAY, Source, TERMS, at, check, pack_of, pack_paths, prepared, reopened, round};
use strongroom_protocol::id::PackId;
use strongroom_store::disk::sim::{Crash, Damage, Fault, FaultPlan};
use strongroom_store::disk::{Disk, LocalDisk};
use strongroom_store::repo::{Begun, Checked, CollectLimits, Depth, Repo, RepoError, Subject};

#[test]
fn what_is_due_comes_oldest_first_and_a_lost_book_makes_all_due() {
    let disk = prepared();
    let repo = reopened(&disk);
    let files = repo.packs().len() + 2;
    let all = repo.scrub_due(TERMS, at(0)).unwrap();
    assert_eq!(all.len(), files, "without a book everything is due");
    for (n, subject) in all.iter().enumerate() {
        assert!(matches!(check(&repo, *subject, at(n as i64)), Checked::Sound(_)));
    }
    assert!(repo.scrub_due(TERMS, at(29 * DAY)).unwrap().is_empty());
    assert_eq!(repo.scrub_due(TERMS, at(31 * DAY)).unwrap(), all, "oldest first");
    repo.scrub_save().unwrap();
    drop(repo);

    let repo = reopened(&disk);
    assert!(repo.scrub_due(TERMS, at(29 * DAY)).unwrap().is_empty(), "the book was kept");
    protect(&repo, 3).unwrap();
    assert!(repo.scrub_due(TERMS, at(60)).unwrap().is_empty());
    let new = repo.scrub_due(TERMS, at(60 + DAY / 2)).unwrap();
    assert!(!new.is_empty() && new.iter().all(|subject| !all.contains(subject)), "{new:?}");
    let age = repo.scrub_age();
    assert_eq!((age.never, age.oldest), (new.len() as u64, Some(at(0))));
    assert!(age.never_bytes > 0);
    // A clock that went back, and came from the future, starves nothing.
    assert_eq!(repo.scrub_due(TERMS, at(-DAY)).unwrap().len(), files);
    repo.scrub_save().unwrap();
    drop(repo);

    disk.damage("scrub", |bytes| bytes[60] ^= 1);
    assert_eq!(reopened(&disk).scrub_due(TERMS, at(61)).unwrap().len(), files + new.len());
    disk.remove("scrub").unwrap();
    assert_eq!(reopened(&disk).scrub_due(TERMS, at(61)).unwrap().len(), files + new.len());
}

#[test]
fn a_disk_that_lies_is_found_out_where_ordinary_reads_are_deceived() {
    let disk = prepared();
    let repo = reopened(&disk);
    let path = pack_paths(&disk).remove(0);
    assert_eq!(disk.lie(&path, |bytes| bytes[100] ^= 1), Damage::Done);
    check_point(&repo, 1).unwrap();
    assert_eq!(round(&repo, at(0)), [Subject::Pack(pack_of(&path))]);
    let report = repo.verify(Depth::Hashes).unwrap();
    assert_eq!(report.damaged_packs.len(), 1, "verify reads the medium too");
    assert_eq!(Source::of(&prepared()).heal(&repo).unwrap(), 1);
    assert_eq!(round(&repo, at(DAY)), []);
}

#[test]
fn what_cannot_be_read_is_hurt_and_healed() {
    let disk = prepared();
    let repo = reopened(&disk);
    let source = Source::of(&prepared());
    let mut paths = pack_paths(&disk);
    paths.extend(disk.paths().into_iter().filter(|path| path.starts_with("points/")));
    for path in &paths {
        assert_eq!(disk.spoil(path), Damage::Done);
    }
    assert_eq!(round(&repo, at(0)).len(), paths.len());
    assert_eq!(repo.hurt_points().unwrap().len(), 2);
    let hurt = repo.hurt();
    assert!(hurt.values().all(|why| why.contains("input/output error")), "{hurt:?}");
    source.heal(&repo).unwrap();
    // A manifest that reads well from memory is not replaced: it is the point.
    let left = round(&repo, at(DAY));
    assert!(left.iter().all(|subject| matches!(subject, Subject::Point(..))), "{left:?}");
    for number in [1, 2] {
        check_point(&repo, number).unwrap();
    }
}

#[test]
fn a_pack_that_is_gone_is_noticed_at_once_and_so_is_its_return() {
    let disk = prepared();
    let repo = reopened(&disk);
    assert_eq!(round(&repo, at(0)), []);
    let path = pack_paths(&disk).into_iter().find(|path| path.starts_with("packs/d/")).unwrap();
    let subject = Subject::Pack(pack_of(&path));
    disk.rename(&path, "tmp/away").unwrap();
    assert!(!repo.has_pack(pack_of(&path)));
    assert_eq!(repo.scrub_due(TERMS, at(60)).unwrap(), [subject], "long before it is due");
    assert!(!repo.hurt_points().unwrap().is_empty());
    assert!(matches!(check(&repo, subject, at(60)), Checked::Hurt(_)));
    disk.rename("tmp/away", &path).unwrap();
    assert_eq!(round(&repo, at(120)), []);
    for number in [1, 2] {
        check_point(&repo, number).unwrap();
    }
}

#[test]
fn an_index_that_never_knew_the_pack_learns_it_by_healing() {
    let disk = prepared();
    let path = pack_paths(&disk).into_iter().find(|path| path.starts_with("packs/m/")).unwrap();
    disk.remove(&path).unwrap();
    let repo = reopened(&disk);
    assert_eq!(repo.hurt().into_keys().collect::<Vec<_>>(), [Subject::Pack(pack_of(&path))]);
    assert!(!repo.hurt_points().unwrap().is_empty());
    assert_eq!(Source::of(&prepared()).heal(&repo).unwrap(), 1);
    assert!(repo.health().is_sound());
    assert_eq!(repo.hurt_points().unwrap(), []);
    for number in [1, 2] {
        check_point(&repo, number).unwrap();
    }
}

#[test]
fn a_check_that_is_stopped_proves_nothing() {
    let disk = prepared();
    let repo = reopened(&disk);
    let due = repo.scrub_due(TERMS, at(0)).unwrap();
    for subject in &due {
        let stopped = repo.scrub_check(*subject, at(0), &mut |_| ControlFlow::Break(()));
        assert_eq!(stopped, Checked::Stopped);
    }
    assert_eq!(repo.scrub_due(TERMS, at(0)).unwrap(), due);
    let [pack, point] = [pack_of(&pack_paths(&disk)[0]), PackId([9; 32])].map(Subject::Pack);
    assert!(matches!(check(&repo, pack, at(0)), Checked::Sound(_)));
    assert_eq!(check(&repo, point, at(0)), Checked::Gone, "nobody knows it");
}

#[test]
fn wrong_bytes_replace_nothing() {
    let disk = prepared();
    let path = pack_paths(&disk).remove(0);
    disk.damage(&path, |bytes| bytes[80] ^= 1);
    let repo = reopened(&disk);
    let pack = pack_of(&path);
    assert_eq!(round(&repo, at(0)), [Subject::Pack(pack)]);
    let wrong = Source::of(&prepared()).0.into_iter().find(|(id, _)| *id != pack).unwrap().1;
    let Begun::Receiving(mut incoming) = repo.begin_pack(pack).unwrap() else { panic!() };
    incoming.write(&wrong).unwrap();
    assert!(matches!(incoming.finish(), Err(RepoError::NotThePack { .. })));
    assert!(disk.exists(&path).unwrap(), "the hurt one stays until there is a better");
    assert!(!disk.paths().iter().any(|path| path.starts_with("quarantine/")));
    let point = point_id(1);
    let other = manifest(point, &[tree(2).reference()]);
    let refused = repo.restore_point(WORKLOAD, point, &other);
    assert!(matches!(refused, Err(RepoError::PointExists { .. })), "a whole manifest stays");
    disk.damage(&format!("points/{WORKLOAD}/{point}"), |bytes| bytes[30] ^= 1);
    let absent = manifest(point, &[tree(7).reference()]);
    let refused = repo.restore_point(WORKLOAD, point, &absent);
    assert!(matches!(refused, Err(RepoError::Incomplete(_))), "{refused:?}");
    assert_eq!(Source::of(&prepared()).heal(&repo).unwrap(), 1);
    assert!(disk.paths().iter().any(|path| path.starts_with("quarantine/")));
}

#[test]
fn ages_that_could_not_be_written_are_written_later() {
    let disk = prepared();
    let repo = reopened(&disk);
    for subject in repo.scrub_due(TERMS, at(0)).unwrap() {
        check(&repo, subject, at(0));
    }
    let start = disk.op_count();
    disk.fail(Some(FaultPlan { ops: start..usize::MAX, fault: Fault::Full }));
    assert!(repo.scrub_save().is_err());
    disk.fail(None);
    repo.scrub_save().unwrap();
    drop(repo);
    assert!(reopened(&disk).scrub_due(TERMS, at(DAY)).unwrap().is_empty());
}

#[test]
fn what_lies_in_a_hurt_pack_is_sent_again_and_comes_to_lie_in_a_whole_one() {
    for class in ["packs/d/", "packs/m/"] {
        let disk = prepared();
        let repo = reopened(&disk);
        let session = repo.session();
        assert_eq!(session.has(&[tree(1).id()]).unwrap(), [true]);
        let hurt: Vec<String> =
            pack_paths(&disk).into_iter().filter(|path| path.starts_with(class)).collect();
        for path in &hurt {
            disk.damage(path, |bytes| bytes[70] ^= 1);
        }
        assert_eq!(round(&repo, at(0)).len(), hurt.len());
        assert_eq!(session.has(&[tree(1).id()]).unwrap(), [false], "counted on, in {class}");
        let point = point_id(9);
        let refused =
            session.commit_point(WORKLOAD, point, &manifest(point, &[tree(1).reference()]));
        assert!(matches!(refused, Err(RepoError::Incomplete(_))), "{refused:?}");
        assert!(!session.hurt_points().unwrap().is_empty());

        for number in [1, 2] {
            send(&session, &tree(number)).unwrap();
        }
        session.commit_point(WORKLOAD, point, &manifest(point, &[tree(1).reference()])).unwrap();
        assert_eq!(session.hurt_points().unwrap(), [], "the whole ones are found first");
        let before = repo.packs().len();
        insert(&session, &tree(1).children[0].children[0]).unwrap();
        session.barrier().unwrap();
        assert_eq!(repo.packs().len(), before, "once is enough");
        drop((session, repo));
        for path in &hurt {
            disk.remove(path).unwrap();
        }
        let repo = reopened(&disk);
        for number in [1, 2] {
            check_point(&repo, number).unwrap();
        }
    }
}

#[test]
fn what_a_point_needs_is_looked_at_at_the_same_pace_and_stays_meanwhile() {
    let disk = prepared();
    let repo = reopened(&disk);
    let point = Subject::Point(WORKLOAD, point_id(1));
    let manifest_bytes = manifest(point_id(1), &[tree(1).reference()]).len() as u64;
    let mut paced = Vec::new();
    let checked = repo.scrub_check(point, at(0), &mut |bytes| {
        assert_eq!(repo.open_sessions(), 1, "nothing keeps what is looked at");
        paced.push(bytes);
        ControlFlow::Continue(())
    });
    assert_eq!(checked, Checked::Sound(manifest_bytes));
    let total: u64 = paced.iter().sum();
    assert!(total > manifest_bytes + 4 * 4096, "{paced:?}: the pages are not paced");
    assert_eq!(repo.open_sessions(), 0);
    for calls in 1..paced.len() {
        let mut left = calls;
        let stopped = repo.scrub_check(point, at(0), &mut |_| match left {
            0 => ControlFlow::Break(()),
            _ => {
                left -= 1;
                ControlFlow::Continue(())
            }
        });
        assert_eq!(stopped, Checked::Stopped, "after {calls} of {}", paced.len());
        // Removed and collected in the middle of the look: no loss.
        let repo = reopened(&disk.crash_image(disk.log_len(), Crash::Keep));
        let mut left = calls;
        let checked = repo.scrub_check(point, at(0), &mut |_| {
            if left == 0 {
                repo.remove_point(WORKLOAD, point_id(1)).unwrap();
                let limits = CollectLimits::default();
                repo.collect(&limits, &mut |_| ControlFlow::Continue(())).unwrap();
            }
            left = left.wrapping_sub(1);
            ControlFlow::Continue(())
        });
        assert!(matches!(checked, Checked::Sound(_)), "after {calls}: {checked:?}");
        assert!(repo.hurt().is_empty());
    }
}

#[test]
fn a_pack_that_cannot_be_opened_is_not_called_gone() {
    let dir = tempfile::tempdir().unwrap();
    let disk = LocalDisk::new(dir.path());
    create(&disk);
    let repo = Repo::open(Arc::new(disk), &key(), write_small()).unwrap();
    protect(&repo, 1).unwrap();
    let [looping, gone] = *repo.packs().first_chunk().unwrap();
    let path = |pack: PackId| {
        let name = pack.to_string();
        let class = ["d", "m"].map(|class| dir.path().join("packs").join(class).join(&name[..2]));
        class.into_iter().map(|fan| fan.join(&name)).find(|path| path.exists()).unwrap()
    };
    let (loop_path, gone_path) = (path(looping), path(gone));
    std::fs::remove_file(&gone_path).unwrap();
    std::fs::remove_file(&loop_path).unwrap();
    std::os::unix::fs::symlink(&loop_path, &loop_path).unwrap();
    let report = repo.verify(Depth::Hashes).unwrap();
    assert_eq!(report.damaged_packs.len(), 2);
    let hurt = repo.hurt();
    assert_eq!(hurt[&Subject::Pack(gone)], "it is gone");
    let why = &hurt[&Subject::Pack(looping)];
    assert!(why.contains("symbolic links"), "{why}");
}
