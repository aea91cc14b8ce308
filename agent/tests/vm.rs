//! A real machine of QEMU under write load: every point is the state that was frozen, an
//! incremental holds what was written and no more, and what can go wrong is named and leaves the
//! guest writing and the machine clean.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod vm_parts;

use std::time::{Duration, Instant};

use serde_json::json;
use strongroom_agent::holder::{Holder, Order, reap_note};
use strongroom_agent::quiesce::Consistency;
use strongroom_agent::workload::Workload as _;
use strongroom_agent::workload::apps;
use strongroom_agent::workload::vm::guest::{GUEST_AGENT, GuestFreeze};
use strongroom_agent::workload::vm::{Quiesce, VmError};
use vm_parts::{HOLDER, Lab, ending};

#[test]
fn points_under_load_are_what_was_frozen_and_increments_are_what_was_written() {
    let mut lab = Lab::start();
    lab.load();
    let first = lab.point();
    assert_eq!(first.evidence.consistency, Consistency::Filesystem, "{:?}", first.evidence);
    assert_eq!(first.whole(), ["vda", "vdb"]);
    assert!(first.told("vda", "read_bytes") < 100 << 20, "free space was read");
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(1));
        let next = lab.point();
        assert_eq!(next.evidence.consistency, Consistency::Filesystem, "{:?}", next.evidence);
        assert!(next.evidence.broken.is_empty(), "{:?}", next.evidence);
        assert!(next.whole().is_empty(), "{:?}", next.whole());
        for disk in ["vda", "vdb"] {
            let (sent, written) = (next.told(disk, "changed_bytes"), next.written[disk]);
            eprintln!("{disk}: {sent} bytes for {written} written");
            assert!(sent * 10 <= written * 12, "{disk}: {sent} bytes for {written} written");
        }
    }
    // A run that is not committed leaves the chain where it was.
    lab.uncommitted();
    assert!(lab.point().whole().is_empty());
    chain_in_doubt(&mut lab);
}

/// Each doubt about a disk reads that disk whole, says why, and the point after builds on it.
fn chain_in_doubt(lab: &mut Lab) {
    let bitmap = lab.bitmap();
    lab.monitor("block-dirty-bitmap-remove", json!({ "node": lab.node("vda"), "name": bitmap }));
    let missing = lab.point();
    assert_eq!(missing.whole(), ["vda"]);
    assert!(missing.evidence.broken[0].contains("is missing"), "{:?}", missing.evidence);
    lab.monitor("block_resize", json!({ "node-name": lab.node("vda"), "size": 320 << 20 }));
    let resized = lab.point();
    assert_eq!(resized.whole(), ["vda"]);
    assert!(resized.evidence.broken[0].contains("resized from 268435456 to 335544320"));
    lab.forget_memory("vdb");
    let forgotten = lab.point();
    assert_eq!(forgotten.whole(), ["vdb"]);
    assert!(forgotten.evidence.broken[0].contains("nothing is remembered"));
    assert!(lab.point().whole().is_empty());
    // Ended in order, the qcow2 image keeps its bitmap; a raw one has nowhere to.
    lab.shut_down();
    let after = lab.point();
    assert_eq!(after.whole(), ["vdb"]);
    assert!(after.evidence.broken[0].contains("is missing"), "{:?}", after.evidence);
    // A power cut while the kept bitmap is in use makes it inconsistent.
    lab.shut_down();
    lab.power_cut();
    let after = lab.point();
    assert_eq!(after.whole(), ["vda", "vdb"]);
    assert!(after.evidence.broken[0].contains("inconsistent"), "{:?}", after.evidence);
    assert!(lab.point().whole().is_empty());
}

#[test]
fn what_goes_wrong_is_named_and_the_guest_goes_on() {
    let mut lab = Lab::start();
    lab.load();
    lab.point();
    guest_agent_absent_or_hung(&mut lab);
    scratch_full(&mut lab);
    let wrote = lab.slow();
    assert!(wrote >= 3, "the guest wrote {wrote} times while a slow target was written to");
    lab.is_clean();
    monitor_busy(&mut lab);
    lab.expired();
    freeze_outlived(&mut lab);
    assert!(lab.point().whole().is_empty(), "the chain was lost on the way");
}

fn guest_agent_absent_or_hung(lab: &mut Lab) {
    let nobody = lab.dir().join("nobody");
    let absent = lab.point_with(|workload| workload.guest_agent = Some(nobody.clone()));
    assert_eq!(absent.evidence.consistency, Consistency::Crash);
    assert!(absent.evidence.broken[0].contains("cannot be reached"), "{:?}", absent.evidence);
    let mut strict = lab.workload();
    strict.guest_agent = Some(nobody);
    strict.quiesce = Quiesce::Required;
    strict.discover().unwrap();
    let error = strict.quiesce().unwrap_err();
    assert!(matches!(error, VmError::Guest { .. }), "{error:?}");
    drop(strict);
    lab.is_clean();
    // It hangs, and the run does not.
    lab.machine()
        .leave("(sleep 9; kill -CONT $(pidof qemu-ga)) & kill -STOP $(pidof qemu-ga)")
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    let hung = lab.point();
    assert_eq!(hung.evidence.consistency, Consistency::Crash);
    assert!(hung.evidence.broken[0].contains("did not answer"), "{:?}", hung.evidence);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    lab.machine().await_agent(Duration::from_secs(60)).unwrap();
    let never = lab.point_with(|workload| workload.quiesce = Quiesce::Never);
    assert_eq!(never.evidence.consistency, Consistency::Crash);
    assert!(never.evidence.broken.is_empty());
}

fn scratch_full(lab: &mut Lab) {
    let before = lab.ticks();
    let error = lab.fails(|workload| workload.scratch_free_bytes_min = u64::MAX);
    assert!(error.contains("nearly full"), "{error}");
    lab.is_clean();
    lab.ticks_after(before);
}

fn monitor_busy(lab: &mut Lab) {
    let held = lab.hold_monitor();
    let error = lab.workload().discover().unwrap_err();
    let told = strongroom_protocol::Chain(&error).to_string();
    assert!(told.contains("does not greet"), "{told}");
    drop(held);
    std::thread::sleep(Duration::from_millis(200));
}

/// A freeze ends when its deadline comes, when whoever wanted it dies, and, where its holder is
/// killed too, by the next one who looks.
fn freeze_outlived(lab: &mut Lab) {
    let note = lab.dir().join("note");
    let about = GuestFreeze { socket: lab.machine().guest_agent(), limit_ms: 20_000 };
    let order = |deadline_ms| Order {
        what: GUEST_AGENT.to_owned(),
        about: serde_json::to_value(&about).unwrap(),
        deadline_ms,
        note: Some(note.clone()),
    };
    let (holder, began) = (Holder::hold_by(HOLDER.as_ref(), &order(3000)).unwrap(), Instant::now());
    assert!(holder.seen["count"].as_u64().unwrap() >= 2, "{:?}", holder.seen);
    let second = Holder::hold_by(HOLDER.as_ref(), &order(3000)).unwrap_err().to_string();
    assert!(second.contains("another freeze of it is held"), "{second}");
    let frozen = lab.still();
    std::thread::sleep(Duration::from_secs(4).saturating_sub(began.elapsed()));
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
