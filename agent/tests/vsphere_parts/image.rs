//! Images to read: pictures of disks, what QEMU makes of them, and streams as vSphere sends them,
//! sound or wrong in one way.

#![allow(clippy::unwrap_used, reason = "what tests share")]
#![allow(dead_code, reason = "not every test needs all of it")]

use std::path::Path;
use std::process::Command;

const SECTOR: usize = 512;
const GRAIN: usize = 128 * SECTOR;
const ENTRIES: usize = 512;
const AT_THE_END: u64 = u64::MAX;

/// Bytes that do not compress, the same in every run.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A disk with noise, words, and much that is zero.
pub(crate) fn picture(length: usize, seed: u64) -> Vec<u8> {
    let mut disk = vec![0; length];
    for (index, piece) in disk.chunks_mut(96 << 10).enumerate() {
        match index % 5 {
            0 => piece.copy_from_slice(&noise(piece.len(), seed + index as u64)),
            2 => piece.fill(b'w'),
            _ => {}
        }
    }
    if let Some(last) = disk.last_mut() {
        *last = 1;
    }
    disk
}

/// Converts an image by QEMU.
pub(crate) fn qemu(from: &Path, to: &Path, format: &str, more: &[&str]) {
    let mut command = Command::new("qemu-img");
    let source = if format == "raw" { "vmdk" } else { "raw" };
    command.args(["convert", "-f", source, "-O", format]).args(more).arg(from).arg(to);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// In which way a stream is as it should be, or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Backwards,
    GrainMissing,
    NoDirectory,
    NoFooter,
    OtherFooter,
    Outside,
    Sound,
    TableMissing,
}

/// A streamOptimized image whose tables come last.
pub(crate) fn stream(disk: &[u8], kind: Kind) -> Vec<u8> {
    let sectors = (disk.len() / SECTOR) as u64;
    let mut out = header(sectors, AT_THE_END);
    // A descriptor is not read by anyone here but QEMU.
    let text = descriptor(sectors);
    out.extend(&text);
    out.resize(GRAIN, 0);
    let mut grains: Vec<(usize, &[u8])> = disk.chunks(GRAIN).enumerate().collect();
    grains.retain(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
    if kind == Kind::Backwards {
        grains.reverse();
    }
    let mut tables = vec![vec![0_u32; ENTRIES]; disk.len().div_ceil(GRAIN * ENTRIES)];
    for (number, (index, bytes)) in grains.iter().enumerate() {
        tables[index / ENTRIES][index % ENTRIES] = u32::try_from(out.len() / SECTOR).unwrap();
        if kind == Kind::GrainMissing && number == 3 {
            continue;
        }
        let mut whole = bytes.to_vec();
        whole.resize(GRAIN, 0);
        let packed = miniz_oxide::deflate::compress_to_vec_zlib(&whole, 1);
        let far =
            if kind == Kind::Outside && number == 3 { sectors.next_multiple_of(128) } else { 0 };
        out.extend((*index as u64 * 128 + far).to_le_bytes());
        out.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        out.extend(packed);
        pad(&mut out);
    }
    let mut directory = Vec::new();
    for (number, table) in tables.iter().enumerate() {
        if kind == Kind::TableMissing && number == 0 {
            directory.push(0);
            continue;
        }
        marker(&mut out, 4, 1);
        directory.push(u32::try_from(out.len() / SECTOR).unwrap());
        out.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
    }
    let mut lies = 0;
    if kind != Kind::NoDirectory {
        let bytes: Vec<u8> = directory.iter().flat_map(|entry: &u32| entry.to_le_bytes()).collect();
        marker(&mut out, bytes.len().div_ceil(SECTOR) as u64, 2);
        lies = (out.len() / SECTOR) as u64;
        out.extend(bytes);
        pad(&mut out);
    }
    if kind != Kind::NoFooter {
        marker(&mut out, 1, 3);
        out.extend(header(sectors + u64::from(kind == Kind::OtherFooter) * 128, lies));
    }
    marker(&mut out, 0, 0);
    out
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(SECTOR), 0);
}

fn marker(out: &mut Vec<u8>, sectors: u64, kind: u32) {
    out.extend(sectors.to_le_bytes());
    out.extend(0_u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    pad(out);
}

fn header(sectors: u64, directory: u64) -> Vec<u8> {
    let mut out = b"KDMV".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((1_u32 | 1 << 16 | 1 << 17).to_le_bytes());
    for word in [sectors, 128, 1, 20] {
        out.extend(word.to_le_bytes());
    }
    out.extend(512_u32.to_le_bytes());
    for word in [0, directory, 128] {
        out.extend(u64::to_le_bytes(word));
    }
    out.push(0);
    out.extend(b"\n \r\n");
    out.extend(1_u16.to_le_bytes());
    pad(&mut out);
    out
}

fn descriptor(sectors: u64) -> Vec<u8> {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
         createType=\"streamOptimized\"\n\n# Extent description\n\
         RW {sectors} SPARSE \"disk.vmdk\"\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\nddb.virtualHWVersion = \"13\"\n"
    );
    let mut bytes = text.into_bytes();
    bytes.resize(20 * SECTOR, 0);
    bytes
}
