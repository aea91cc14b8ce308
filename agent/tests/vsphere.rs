//! Machines of a vSphere server: vcsim, with disks and changes of the test's own behind it. Every
//! point is what the disks were, an increment is what was written, no snapshot of ours stays, and
//! what can go wrong is named.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod vsphere_parts;

use std::fs;
use std::time::Duration;

use strongroom_agent::quiesce::Consistency;
use strongroom_agent::workload::Workload as _;
use strongroom_agent::workload::vm::Quiesce;
use strongroom_agent::workload::vsphere::session::{Server, Session};
use strongroom_agent::workload::vsphere::tls::{Thumbprint, Trust};
use strongroom_agent::workload::vsphere::{Tracking, VsphereError};
use strongroom_protocol::Chain;
use vsphere_parts::{Lab, MACHINE, SIZES};

const MIB: usize = 1 << 20;

#[test]
fn points_are_what_the_disks_were_and_increments_what_was_written() {
    let mut lab = Lab::start("0");
    lab.order(
        "CreateSnapshot_Task",
        "<name>a person's</name><memory>false</memory><quiesce>false</quiesce>",
    );
    let first = lab.point();
    assert_eq!(first.evidence.consistency, Consistency::Filesystem, "{:?}", first.evidence);
    assert!(first.evidence.broken.is_empty(), "{:?}", first.evidence);
    assert_eq!(first.whole(), ["scsi0-0", "scsi0-1"]);
    assert!(first.told(0, "read_bytes") < first.told(0, "changed_bytes"), "zeroes were read");
    let left = &first.description["left_out"][0];
    assert!(left["why"].as_str().unwrap().contains("independent_persistent"), "{left}");
    assert_eq!(lab.snapshots(), ["a person's"]);
    // Without tracking a disk is read whole, and the point says so.
    let untracked = lab.point();
    assert_eq!(untracked.whole(), ["scsi0-0", "scsi0-1"]);
    let why = &untracked.evidence.broken[0];
    assert!(why.contains("its changes are not tracked"), "{why}");
    // Switched on, there is a first identity to count from.
    let on = lab.point_with(|workload| workload.tracking = Tracking::Enabled);
    assert_eq!(on.whole(), ["scsi0-0", "scsi0-1"]);
    for round in 0..3 {
        let at = round * 3 * MIB + 777;
        let written = [(0, at, 100_000), (0, 20 * MIB, 4096), (1, SIZES[1] - 512, 512)];
        lab.write(&written);
        let next = lab.point();
        assert!(next.evidence.broken.is_empty(), "{:?}", next.evidence);
        assert!(next.whole().is_empty(), "{:?}", next.whole());
        for disk in [0, 1] {
            assert_eq!(next.told(disk, "changed_bytes"), Lab::blocks(disk, &written));
            let kept = next.told(disk, "kept_bytes") + next.told(disk, "changed_bytes");
            assert_eq!(kept, SIZES[disk] as u64);
        }
    }
    // A run that is not committed leaves the chain where it was.
    lab.write(&[(0, MIB, 10)]);
    lab.uncommitted();
    assert!(lab.point().whole().is_empty());
    chain_in_doubt(&mut lab);
    assert_eq!(lab.snapshots(), ["a person's"]);
}

/// Each doubt about a disk reads that disk whole, says why, and the point after builds on it.
fn chain_in_doubt(lab: &mut Lab) {
    lab.write(&[(0, 2 * MIB, 10)]);
    lab.forget_areas(0);
    let silent = lab.point();
    assert_eq!(silent.whole(), ["scsi0-0"]);
    assert!(silent.evidence.broken[0].contains("does not tell its changes: Error caused by file"));
    lab.write(&[(1, MIB, 10)]);
    assert!(lab.point().whole().is_empty());
    lab.count_anew();
    let anew = lab.point();
    assert_eq!(anew.whole(), ["scsi0-0", "scsi0-1"]);
    assert!(anew.evidence.broken[0].contains("began anew"), "{:?}", anew.evidence);
    lab.write(&[(1, MIB, 10)]);
    fs::remove_file(lab.memory.path("vm-scsi0-1")).unwrap();
    let forgotten = lab.point();
    assert_eq!(forgotten.whole(), ["scsi0-1"]);
    assert!(forgotten.evidence.broken[0].contains("nothing is remembered of its last point"));
    lab.write(&[(1, 2 * MIB, 10)]);
    assert!(lab.point().whole().is_empty());
}

#[test]
fn what_goes_wrong_is_named_and_no_snapshot_stays() {
    let mut lab = Lab::start("0");
    who_is_believed(&lab);
    no_such_machine(&mut lab);
    // A run that was killed left its snapshot; the next takes it away, and no other.
    let workload = lab.workload();
    std::mem::forget(lab.view(&workload));
    let (another, mut other) = (lab.snapshots(), lab.workload());
    assert_eq!(another.len(), 1, "{another:?}");
    other.memory.workload = strongroom_protocol::WorkloadId::fresh(9);
    other.discover().unwrap();
    assert_eq!(lab.snapshots(), another, "another workload's was taken away");
    lab.point();
    assert!(lab.snapshots().is_empty(), "{:?}", lab.snapshots());
    // A disk that the server does not give.
    let workload = lab.workload();
    let (view, _) = lab.view(&workload);
    lab.lose_disk(1);
    let error = lab.fails(view);
    assert!(error.contains("answered with the status 404"), "{error}");
    assert!(lab.snapshots().is_empty(), "{:?}", lab.snapshots());
    lab.write(&[]);
    // One that was cut short.
    let workload = lab.workload();
    let (view, _) = lab.view(&workload);
    lab.cut_disk(0);
    let error = lab.fails(view);
    assert!(error.contains("cannot be read to its end") || error.contains("no sound"), "{error}");
    lab.write(&[]);
    not_running(&mut lab);
    assert!(lab.snapshots().is_empty(), "{:?}", lab.snapshots());
}

fn who_is_believed(lab: &Lab) {
    let told = |change: &dyn Fn(&mut Server)| {
        let mut server = lab.server();
        change(&mut server);
        let error = Session::open(&server).unwrap_err();
        Chain(&error).to_string()
    };
    let error = told(&|server| server.password = "other".to_owned());
    assert!(error.contains("user or the password is wrong"), "{error}");
    assert!(!error.contains("other"), "{error}");
    let wrong = Thumbprint::parse(&"ab".repeat(32)).unwrap();
    let error = told(&|server| server.trust = Trust::Thumbprint(wrong.clone()));
    assert!(error.contains("has the thumbprint") && error.contains("AB:AB"), "{error}");
    let error = told(&|server| server.trust = Trust::System);
    assert!(error.contains("is not believed"), "{error}");
    let error = told(&|server| server.place.port = 1);
    assert!(error.contains("cannot be reached"), "{error}");
    let mut server = lab.server();
    server.trust = Trust::CaFile(lab.ca_file());
    Session::open(&server).unwrap();
}

fn no_such_machine(lab: &mut Lab) {
    let mut workload = lab.workload();
    workload.machine = "nobody".to_owned();
    let error = workload.discover().unwrap_err().to_string();
    assert!(error.contains("no machine called nobody"), "{error}");
    workload.machine = lab.beside().1.value;
    assert_eq!(workload.discover().unwrap().len(), SIZES.len());
    workload.machine = MACHINE.to_owned();
    workload.exclude = vec!["scsi0-0".to_owned(), "scsi0-1".to_owned()];
    let error = workload.discover().unwrap_err();
    assert!(matches!(error, VsphereError::NoDisks { .. }), "{error:?}");
}

fn not_running(lab: &mut Lab) {
    let never = lab.point_with(|workload| workload.quiesce = Quiesce::Never);
    assert_eq!(never.evidence.consistency, Consistency::Crash);
    assert!(never.evidence.broken.iter().all(|why| !why.contains("quiet")), "{:?}", never.evidence);
    lab.order("PowerOffVM_Task", "");
    let off = lab.point();
    assert_eq!(off.evidence.consistency, Consistency::Crash);
    assert!(off.evidence.broken[0].contains("does not run"), "{:?}", off.evidence);
    let mut strict = lab.workload();
    strict.quiesce = Quiesce::Required;
    strict.discover().unwrap();
    let error = strict.view().unwrap_err();
    assert!(matches!(error, VsphereError::Guest { .. }), "{error:?}");
}

#[test]
fn a_guest_that_refuses_and_a_disk_that_grew_cost_what_they_must() {
    let mut lab = Lab::start("0");
    lab.point_with(|workload| workload.tracking = Tracking::Enabled);
    // The point is made all the same, claims less, and is an increment.
    lab.write(&[(0, MIB, 10)]);
    lab.refuse_once();
    let refused = lab.point();
    assert_eq!(refused.evidence.consistency, Consistency::Crash, "{:?}", refused.evidence);
    let why = &refused.evidence.broken[0];
    assert!(why.contains("not made quiet") && why.contains("ApplicationQuiesceFault"), "{why}");
    assert!(refused.whole().is_empty(), "{:?}", refused.whole());
    // Unless the policy wants nothing less.
    lab.refuse_once();
    let mut strict = lab.workload();
    strict.quiesce = Quiesce::Required;
    strict.discover().unwrap();
    let error = strict.view().unwrap_err();
    assert!(matches!(error, VsphereError::Guest { .. }), "{error:?}");
    assert!(lab.snapshots().is_empty(), "{:?}", lab.snapshots());
    // Only the disk that grew is read whole, and the next builds on it.
    let grown = SIZES[1] + 3 * MIB;
    lab.grow(1, grown);
    lab.write(&[(1, grown - 512, 512)]);
    let larger = lab.point();
    assert_eq!(larger.evidence.consistency, Consistency::Filesystem, "{:?}", larger.evidence);
    assert_eq!(larger.whole(), ["scsi0-1"]);
    assert!(larger.evidence.broken[0].contains("it was resized from"), "{:?}", larger.evidence);
    lab.write(&[(1, grown - 512, 512)]);
    assert!(lab.point().whole().is_empty());
    assert!(lab.snapshots().is_empty(), "{:?}", lab.snapshots());
}

/// Between questions a session is begun again; an export that goes with its session is not
/// believed to the end, and its snapshot goes.
#[test]
fn a_session_that_ends_is_begun_again_or_its_export_given_up() {
    let mut lab = Lab::start("1s");
    let workload = lab.workload();
    let (view, _) = lab.view(&workload);
    std::thread::sleep(Duration::from_millis(2500));
    lab.reads(view);
    assert!(lab.snapshots().is_empty(), "{:?}", lab.snapshots());
    // The server hears too rarely, and ends the session in the middle of a disk.
    let mut workload = lab.workload();
    workload.pulse = Duration::from_millis(2500);
    let (view, _) = lab.view(&workload);
    let error = lab.fails_slowly(view);
    assert!(error.contains("ended the export while disks were read"), "{error}");
    assert!(lab.snapshots().is_empty(), "{:?}", lab.snapshots());
    // Often enough, it lives however long the disks take.
    let mut workload = lab.workload();
    workload.pulse = Duration::from_millis(300);
    let (view, _) = lab.view(&workload);
    lab.reads_slowly(view);
    assert!(lab.snapshots().is_empty(), "{:?}", lab.snapshots());
}
