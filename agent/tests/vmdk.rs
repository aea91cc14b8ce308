//! The reader of streamOptimized images against images that QEMU writes, and images of the kind
//! that vSphere sends, which QEMU reads; and against whatever bytes come instead.

#![allow(clippy::unwrap_used, reason = "tests")]

mod vsphere_parts;

use std::fs;

use strongroom_agent::workload::vsphere::vmdk::{Vmdk, VmdkError};
use vsphere_parts::image::{Kind, noise, picture, qemu, stream};

const MIB: usize = 1 << 20;

/// What the reader makes of a stream.
fn read(bytes: &[u8]) -> Result<Vec<u8>, VmdkError> {
    let mut image = Vmdk::open(bytes)?;
    // A size that was changed is not made room for: the end refuses it.
    let mut plain = vec![0; usize::try_from(image.size()).unwrap().min(256 * MIB)];
    while let Some(grain) = image.grain(&|_, _| true)? {
        let at = usize::try_from(grain.offset).unwrap();
        let bytes = grain.bytes.unwrap();
        if let Some(place) = plain.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
    Ok(plain)
}

#[test]
fn images_of_qemu_are_read_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    for (number, size) in [MIB, 40 * MIB, 40 * MIB + 512, 33 * MIB + 4096].into_iter().enumerate() {
        let raw = dir.path().join(format!("{number}.raw"));
        let truth = picture(size, number as u64);
        fs::write(&raw, &truth).unwrap();
        let packed = dir.path().join(format!("{number}.vmdk"));
        qemu(&raw, &packed, "vmdk", &["-o", "subformat=streamOptimized"]);
        let packed = fs::read(packed).unwrap();
        assert!(read(&packed).unwrap() == truth, "{size}");
        let end = content_end(&packed);
        for cut in [packed.len() / 2, end - 513, end - 1, end, packed.len() - 1] {
            cut_is_missed(&packed, cut, &truth);
        }
    }
}

#[test]
fn images_whose_tables_come_last_are_read_as_qemu_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    for (number, size) in [MIB, 70 * MIB, 40 * MIB + 512].into_iter().enumerate() {
        let truth = picture(size, 40 + number as u64);
        let packed = stream(&truth, Kind::Sound);
        let (from, to) = (dir.path().join("s.vmdk"), dir.path().join("s.raw"));
        fs::write(&from, &packed).unwrap();
        qemu(&from, &to, "raw", &[]);
        assert!(fs::read(&to).unwrap() == truth, "qemu reads {size} otherwise");
        assert!(read(&packed).unwrap() == truth, "{size}");
        for cut in (0..packed.len()).step_by(packed.len() / 37) {
            cut_is_missed(&packed, cut, &truth);
        }
    }
}

/// Where the zeroes begin that mark the end, by one sector or, of QEMU, by many.
fn content_end(packed: &[u8]) -> usize {
    let last = packed.iter().rposition(|byte| *byte != 0).unwrap();
    (last + 1).next_multiple_of(512)
}

/// What was cut off is missed, wherever it is cut. Where only the mark of the end is, the tables
/// may tell that the disk is complete all the same.
fn cut_is_missed(packed: &[u8], cut: usize, truth: &[u8]) {
    match read(&packed[..cut]) {
        Err(_) => {}
        Ok(plain) => {
            assert!(cut >= content_end(packed), "cut at {cut}");
            assert!(plain == truth, "cut at {cut}");
        }
    }
}

#[test]
fn what_is_not_sound_is_named() {
    let truth = picture(3 * MIB, 9);
    for (kind, expected) in [
        (Kind::Backwards, "not in order"),
        (Kind::GrainMissing, "name other grains than came"),
        (Kind::NoDirectory, "without a directory"),
        (Kind::NoFooter, "without a footer"),
        (Kind::OtherFooter, "of another disk"),
        (Kind::Outside, "outside of the disk"),
        (Kind::TableMissing, "name other grains than came"),
    ] {
        let error = read(&stream(&truth, kind)).unwrap_err().to_string();
        assert!(error.contains(expected), "{kind:?}: {error}");
    }
}

/// Any byte changed: the same disk, or an error; never another disk, and never a panic.
#[test]
fn a_stream_that_was_changed_is_never_another_disk() {
    let truth = picture(2 * MIB, 5);
    let sound = stream(&truth, Kind::Sound);
    let chances = noise(6000, 7);
    let mut refused = 0;
    for (round, chance) in chances.chunks_exact(4).enumerate() {
        let mut changed = sound.clone();
        let word = u32::from_le_bytes(chance.try_into().unwrap()) as usize;
        // The metadata is most of what can lie: half of the changes are in it.
        let at = if round % 2 == 0 { word % changed.len() } else { word % 2048 };
        changed[at] ^= 1 << (word >> 29);
        match read(&changed) {
            Ok(plain) => assert!(plain == truth, "byte {at} changed the disk in round {round}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 300, "{refused} were refused");
}
