//! A library of two drives that begin to write only together.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Condvar};
use std::time::Duration;

use strongroom_node::home::MediaSettings;
use strongroom_store::disk::sim::SimDisk;
use strongroom_store::media::MediaReader;
use strongroom_store::tape::{
    Barcode, Drive, Position, Protection, Readout, Room, Shape, Slot, TapeError, TapeLibrary,
    VirtualLibrary,
};
use tempfile::TempDir;

use super::*;
use crate::aux::testing::{manifest_of, media_of, page, repo};
use crate::aux::write_points;
use crate::cartridges::CARTRIDGES_FILE;
use crate::orders::Media;

/// How long a drive waits for another to begin: on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who wrote its first block; whoever writes waits there until so many did.
#[derive(Default)]
struct Meeting {
    began: Mutex<BTreeSet<Barcode>>,
    changed: Condvar,
}

impl Meeting {
    /// Whether the others came.
    fn meet(&self, barcode: &Barcode, wanted: usize) -> bool {
        let mut began = self.began.lock().unwrap();
        began.insert(barcode.clone());
        self.changed.notify_all();
        let waiting = |began: &mut BTreeSet<Barcode>| began.len() < wanted;
        let (began, _) = self.changed.wait_timeout_while(began, PATIENCE, waiting).unwrap();
        began.len() >= wanted
    }
}

/// A library whose drives begin to write only together.
struct Together {
    inner: VirtualLibrary,
    meeting: Arc<Meeting>,
    wanted: usize,
}

struct Waiting {
    inner: Box<dyn Drive>,
    meeting: Arc<Meeting>,
    wanted: usize,
}

impl TapeLibrary for Together {
    fn inventory(&self) -> Result<Vec<Slot>, TapeError> {
        self.inner.inventory()
    }

    fn load(&self, barcode: &Barcode) -> Result<Box<dyn Drive>, TapeError> {
        let (inner, meeting) = (self.inner.load(barcode)?, Arc::clone(&self.meeting));
        Ok(Box::new(Waiting { inner, meeting, wanted: self.wanted }))
    }

    fn unload(&self, drive: Box<dyn Drive>) -> Result<(), TapeError> {
        self.inner.unload(drive)
    }

    fn drives(&self) -> usize {
        self.inner.drives()
    }
}

impl Drive for Waiting {
    fn barcode(&self) -> &Barcode {
        self.inner.barcode()
    }

    fn block_bytes_max(&self) -> usize {
        self.inner.block_bytes_max()
    }

    fn protection(&self) -> Protection {
        self.inner.protection()
    }

    fn position(&self) -> Option<Position> {
        self.inner.position()
    }

    fn write_block(&mut self, block: &[u8]) -> Result<Room, TapeError> {
        let barcode = self.inner.barcode().clone();
        if !self.meeting.meet(&barcode, self.wanted) {
            return Err(TapeError::DriveBusy { barcode });
        }
        self.inner.write_block(block)
    }

    fn write_filemark(&mut self) -> Result<Room, TapeError> {
        self.inner.write_filemark()
    }

    fn flush(&mut self) -> Result<(), TapeError> {
        self.inner.flush()
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Readout, TapeError> {
        self.inner.read_block(buffer)
    }

    fn rewind(&mut self) -> Result<(), TapeError> {
        self.inner.rewind()
    }

    fn space_filemarks(&mut self, count: u32) -> Result<u32, TapeError> {
        self.inner.space_filemarks(count)
    }

    fn space_to_end_of_data(&mut self) -> Result<(), TapeError> {
        self.inner.space_to_end_of_data()
    }
}

struct Scene {
    _dir: TempDir,
    repo: Repo,
    media: Media,
    points: Vec<PointId>,
}

/// Points of so many workloads, one each, and a library of two drives.
fn scene(workloads: u8, wanted: usize) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let repo = repo(&SimDisk::new());
    let points = (0..workloads).map(|number| {
        let (workload, point) =
            (WorkloadId::from_bytes([number; 16]), PointId::from_bytes([100 + number; 16]));
        let manifest = manifest_of(workload, point, &[page(&repo)]);
        repo.commit_point(workload, point, &manifest).unwrap();
        point
    });
    let points = points.collect();
    let blanks: Vec<Barcode> =
        (1..=4).map(|number| format!("SR{number:04}L9").parse().unwrap()).collect();
    let shape = Shape { drives: 2, ..Shape::with_capacity(8 << 20) };
    let inner = VirtualLibrary::create(&dir.path().join("library"), shape, &blanks).unwrap();
    let library = Arc::new(Together { inner, meeting: Arc::default(), wanted });
    let media = media_of(&dir.path().join(CARTRIDGES_FILE), library);
    let drives = NonZeroU32::new(2).unwrap();
    let media = Media { settings: MediaSettings { drives, ..MediaSettings::default() }, ..media };
    Scene { _dir: dir, repo, media, points }
}

impl Scene {
    fn write(&self, points: &[PointId]) -> Outcome {
        let tally = Tally::new(CancellationToken::new(), |_| {});
        write_points(&self.repo, &self.media, "weekly".parse().unwrap(), points, &tally)
    }

    fn sets(&self) -> Vec<(String, u64)> {
        let reader = MediaReader::open(Arc::clone(&self.media.library)).unwrap();
        let media = reader.media().into_iter();
        media.map(|medium| (medium.set.to_string(), medium.points)).collect()
    }
}

#[test]
fn two_drives_write_one_copy_at_once() {
    let scene = scene(4, 2);
    // No drive writes a block before the other has one to write: in turns this would not end well.
    let (progress, text) = scene.write(&scene.points).unwrap();
    assert!(text.contains("SR0001L9") && text.contains("SR0002L9"), "{text}");
    assert!(progress.bytes_sent > 0);
    let both = [("weekly".to_owned(), 2), ("weekly.2".to_owned(), 2)];
    assert_eq!(scene.sets(), both);
    // What is held by either is not written again.
    assert!(scene.write(&scene.points).unwrap().1.contains("holds it already"));
    assert_eq!(scene.sets(), both);
}

#[test]
fn a_workload_stays_with_its_set_and_one_drive_is_enough_for_one() {
    let scene = scene(3, 1);
    scene.write(&scene.points[..1]).unwrap();
    assert_eq!(scene.sets(), [("weekly".to_owned(), 1)]);
    // Another point of the same workload follows it, also where the other set is emptier.
    let workload = WorkloadId::from_bytes([0; 16]);
    let later = PointId::from_bytes([200; 16]);
    let manifest = manifest_of(workload, later, &[page(&scene.repo)]);
    scene.repo.commit_point(workload, later, &manifest).unwrap();
    scene.write(&[later, scene.points[1], scene.points[2]]).unwrap();
    let reader = MediaReader::open(Arc::clone(&scene.media.library)).unwrap();
    let media = reader.media();
    let set_of = |point: PointId| {
        let place = reader.held().points[&point].places[0];
        let medium = media.iter().find(|medium| medium.medium == place.medium).unwrap();
        medium.set.to_string()
    };
    assert_eq!(set_of(later), "weekly");
    assert_eq!(set_of(scene.points[1]), "weekly.2");
}

#[test]
fn what_goes_wrong_in_one_lane_costs_the_other_nothing() {
    let good = (Progress { bytes_sent: 5, ..Progress::default() }, "on SR0001L9".to_owned());
    let bad = Refusal::new(RefusalKind::Unavailable, "no blank");
    let refusal = merged(vec![Err(bad.clone()), Ok(good.clone())]).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    assert!(refusal.text.contains("on SR0001L9") && refusal.text.contains("no blank"), "{refusal}");
    let stopped = Refusal::new(RefusalKind::Cancelled, "stopped");
    assert_eq!(merged(vec![Err(bad), Err(stopped)]).unwrap_err().kind, RefusalKind::Cancelled);
    assert_eq!(merged(vec![Ok(good.clone()), Ok(good)]).unwrap().0.bytes_sent, 10);
    let order = |set: &str| {
        let repo = repo(&SimDisk::new());
        crate::aux::order_of(&repo, set.parse().unwrap()).unwrap().0
    };
    let names: Vec<String> =
        orders(&order("w"), 3).unwrap().iter().map(|order| order.set.to_string()).collect();
    assert_eq!(names, ["w", "w.2", "w.3"]);
    assert_eq!(orders(&order(&"w".repeat(64)), 2).unwrap_err().kind, RefusalKind::Invalid);
}
