//! A real machine that a real libvirt runs, under write load: every point is the state that was
//! frozen, an increment holds what was written and no more, and what can go wrong is named and
//! leaves the guest writing and libvirt clean.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod libvirt_parts;

use std::fs;
use std::time::{Duration, Instant};

use libvirt_parts::{HOLDER, Lab, Made, ending};
use strongroom_agent::holder::{Holder, Order, reap_note};
use strongroom_agent::quiesce::Consistency;
use strongroom_agent::workload::Workload as _;
use strongroom_agent::workload::apps;
use strongroom_agent::workload::libvirt::LibvirtError;
use strongroom_agent::workload::libvirt::guest::{LIBVIRT_GUEST, LibvirtFreeze};
use strongroom_agent::workload::libvirt::list::machines;
use strongroom_agent::workload::vm::Quiesce;

/// Why a raw image is read whole each time, which is no news of the others.
const RAW: &str = "its image keeps no checkpoint";

/// Why `vda` was read whole.
fn why(made: &Made) -> String {
    assert_eq!(made.whole(), ["vda", "vdb"], "{:?}", made.evidence);
    let mut told = made.evidence.broken.iter().filter(|why| why.starts_with("disk vda"));
    told.next().cloned().unwrap_or_default()
}

#[test]
fn points_under_load_are_what_was_frozen_and_increments_are_what_was_written() {
    let mut lab = Lab::start();
    lab.load();
    let first = lab.point();
    assert_eq!(first.evidence.consistency, Consistency::Filesystem, "{:?}", first.evidence);
    assert_eq!(first.whole(), ["vda", "vdb"]);
    assert!(first.evidence.broken.is_empty(), "{:?}", first.evidence);
    assert!(first.told("vda", "read_bytes") < 100 << 20, "free space was read");
    for _ in 0..2 {
        std::thread::sleep(Duration::from_secs(1));
        let next = lab.point();
        assert_eq!(next.evidence.consistency, Consistency::Filesystem, "{:?}", next.evidence);
        assert_eq!(next.whole(), ["vdb"]);
        assert!(next.evidence.broken.iter().all(|why| why.contains(RAW)), "{:?}", next.evidence);
        let (sent, written) = (next.told("vda", "changed_bytes"), next.written["vda"]);
        eprintln!("vda: {sent} bytes for {written} written, {} ms", next.evidence.frozen_ms);
        assert!(written > 0 && sent * 10 <= written * 12, "{sent} bytes for {written} written");
    }
    // A run that is not committed leaves the chain where it was, and so does one that is killed.
    lab.uncommitted();
    std::mem::forget(lab.view());
    assert_eq!(lab.checkpoints().len(), 2);
    assert_eq!(lab.point().whole(), ["vdb"]);
    chain_in_doubt(&mut lab);
}

/// Each doubt about a disk reads that disk whole, says why, and the point after builds on it.
fn chain_in_doubt(lab: &mut Lab) {
    lab.libvirt.virsh(&["checkpoint-delete", "lab", &lab.checkpoint()]);
    let missing = why(&lab.point());
    assert!(missing.contains("is missing"), "{missing}");
    lab.libvirt.virsh(&["blockresize", "lab", "vda", "320M"]);
    let resized = why(&lab.point());
    assert!(resized.contains("resized from 268435456 to 335544320"), "{resized}");
    lab.forget_memory("vda");
    let forgotten = why(&lab.point());
    assert!(forgotten.contains("nothing is remembered"), "{forgotten}");
    assert_eq!(lab.point().whole(), ["vdb"]);
    // Ended in order, the image keeps its bitmap and libvirt its checkpoint.
    lab.libvirt.virsh(&["destroy", "lab", "--graceful"]);
    lab.boot();
    lab.load();
    assert_eq!(lab.point().whole(), ["vdb"]);
    // A power cut while the bitmap is in use makes it inconsistent.
    lab.power_cut();
    let broken = why(&lab.point());
    assert!(broken.contains("has lost its bitmap"), "{broken}");
    assert_eq!(lab.point().whole(), ["vdb"]);
}

#[test]
fn what_goes_wrong_is_named_and_the_guest_goes_on() {
    let mut lab = Lab::start();
    lab.load();
    lab.point();
    named(&mut lab);
    others_at_work(&mut lab);
    guest_agent_hung(&mut lab);
    let before = lab.ticks();
    let error = lab.fails(|workload| workload.scratch_free_bytes_min = u64::MAX, |_| ());
    assert!(error.contains("nearly full"), "{error}");
    lab.is_clean();
    lab.ticks_after(before);
    freeze_outlived(&lab);
    assert_eq!(lab.point().whole(), ["vdb"], "the chain was lost on the way");
    shut_off(&mut lab);
}

fn named(lab: &mut Lab) {
    let listed = machines(lab.libvirt.uri()).unwrap();
    assert_eq!((listed.len(), listed[0].disks.len(), listed[0].left_out.len()), (1, 2, 1));
    assert!(listed[0].remarks[0].contains("vdb is raw"), "{:?}", listed[0].remarks);
    let error = lab.refused(|workload| workload.machine = "labb".to_owned());
    assert!(error.contains("has no machine \"labb\"; it has lab"), "{error}");
    let error = lab.refused(|workload| workload.uri = "qemu:///system?socket=/nobody".to_owned());
    assert!(error.contains("does libvirtd (or virtqemud) run"), "{error}");
    let error = lab.refused(|workload| workload.uri = "qemu+ssh://host/system".to_owned());
    assert!(error.contains("only that of this agent's own host"), "{error}");
    let all = ["vda", "vdb"].map(str::to_owned);
    let error = lab.refused(|workload| workload.exclude = all.to_vec());
    assert!(error.contains("has no disk to protect"), "{error}");
    // QEMU's user does not get there.
    let private = lab.dir().join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let error = lab.refused(|workload| workload.scratch = private.join("scratch"));
    assert!(error.contains("Permission denied"), "{error}");
    lab.is_clean();
}

/// A backup of somebody else is left alone, and named.
fn others_at_work(lab: &mut Lab) {
    let dir = lab.dir().join("others");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let xml = dir.join("backup.xml");
    let text = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{0}/nbd'/><disks>\
         <disk name='vda' backup='yes' type='file'><scratch file='{0}/vda'/></disk>\
         <disk name='vdb' backup='no'/></disks></domainbackup>",
        dir.display()
    );
    fs::write(&xml, text).unwrap();
    lab.libvirt.virsh(&["backup-begin", "lab", &xml.to_string_lossy()]);
    let error = lab.refused(|_| ());
    assert!(error.contains("has a job of somebody else's (a backup)"), "{error}");
    assert!(lab.libvirt.try_virsh(&["backup-dumpxml", "lab"]).is_ok(), "it was taken away");
    lab.libvirt.virsh(&["domjobabort", "lab"]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(lab.point().whole(), ["vdb"]);
}

fn guest_agent_hung(lab: &mut Lab) {
    let mut workload = lab.workload();
    workload.discover().unwrap();
    lab.leave(
        "(sleep 45; kill -CONT $(pidof qemu-ga)) & echo HUNG > /dev/ttyS0; \
         kill -STOP $(pidof qemu-ga)",
    );
    lab.await_said("HUNG");
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    let viewed =
        workload.quiesce().unwrap().view(|| Ok::<_, LibvirtError>(((), Consistency::Application)));
    let evidence = viewed.unwrap().evidence;
    assert_eq!(evidence.consistency, Consistency::Crash);
    assert!(evidence.broken[0].contains("did not answer guestinfo"), "{evidence:?}");
    workload.quiesce = Quiesce::Required;
    let error = workload.quiesce().unwrap_err();
    assert!(matches!(error, LibvirtError::Guest { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    drop(workload);
    let until = Instant::now() + Duration::from_secs(60);
    while lab.libvirt.try_virsh(&["guestinfo", "lab", "--os"]).is_err() {
        assert!(Instant::now() < until, "the guest agent stays away");
    }
    let never = lab.point_with(|workload| workload.quiesce = Quiesce::Never);
    assert_eq!(never.evidence.consistency, Consistency::Crash);
    assert!(never.evidence.broken.iter().all(|why| why.contains(RAW)), "{:?}", never.evidence);
}

/// A freeze ends when its deadline comes, when whoever wanted it dies, and, where its holder is
/// killed too, by the next one who looks.
fn freeze_outlived(lab: &Lab) {
    let note = lab.dir().join("note");
    let (uri, machine) = (lab.libvirt.uri().to_owned(), lab.uuid());
    let about = LibvirtFreeze { uri, machine, limit_ms: 20_000 };
    let order = |deadline_ms| Order {
        what: LIBVIRT_GUEST.to_owned(),
        about: serde_json::to_value(&about).unwrap(),
        deadline_ms,
        note: Some(note.clone()),
    };
    let (holder, began) = (Holder::hold_by(HOLDER.as_ref(), &order(6000)).unwrap(), Instant::now());
    assert!(holder.seen["count"].as_u64().unwrap() >= 2, "{:?}", holder.seen);
    let second = Holder::hold_by(HOLDER.as_ref(), &order(6000)).unwrap_err().to_string();
    assert!(second.contains("another freeze of it is held"), "{second}");
    // Somebody else's freeze is not ended by one who could not have it.
    let other = Order { note: None, ..order(6000) };
    let refused = Holder::hold_by(HOLDER.as_ref(), &other).unwrap_err().to_string();
    assert!(refused.contains("guest-fsfreeze-freeze"), "{refused}");
    let frozen = lab.still();
    std::thread::sleep(Duration::from_secs(7).saturating_sub(began.elapsed()));
    lab.ticks_after(frozen);
    assert!(holder.release().unwrap_err().to_string().contains("deadline"));
    // Killed with the agent: the pipe ends, and the guest goes.
    let mut child = ending(&order(60_000));
    let frozen = lab.still();
    drop(child.stdin.take());
    lab.ticks_after(frozen);
    assert!(child.wait().unwrap().success());
    // The holder too.
    let mut child = ending(&order(60_000));
    child.kill().unwrap();
    child.wait().unwrap();
    let frozen = lab.still();
    reap_note(&note, apps::held);
    lab.ticks_after(frozen);
    assert!(!note.with_extension("freeze").exists());
}

/// A machine that is off is read from its images, while nobody starts it.
fn shut_off(lab: &mut Lab) {
    lab.libvirt.virsh(&["destroy", "lab", "--graceful"]);
    let off = lab.point();
    assert_eq!(off.evidence.consistency, Consistency::Crash);
    assert!(off.evidence.broken[0].contains("does not run"), "{:?}", off.evidence);
    assert!(why(&off).contains("shut off"), "{}", why(&off));
    let error = lab.fails(|_| (), |lab| lab.boot());
    assert!(error.contains("was stopped or started"), "{error}");
    lab.load();
    let on = lab.point();
    assert_eq!(on.evidence.consistency, Consistency::Filesystem, "{:?}", on.evidence);
    assert!(why(&on).contains("is missing"), "{}", why(&on));
    assert_eq!(lab.point().whole(), ["vdb"]);
}
