//! How fast a media set is written and read through the SCSI driver, as a ratio to plain blocks
//! through the same driver and drive (tgt).
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints, and may stop")]

#[path = "../tests/media_kit/mod.rs"]
mod media_kit;
#[path = "../tests/scsi_kit/mod.rs"]
mod scsi_kit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use media_kit::{Load, fetch, order};
use scsi_kit::{Tgt, tape};
use strongroom_protocol::{FixedClock, Timestamp};
use strongroom_store::media::{BLOCK_BYTES, MediaReader, MediaSetWriter};
use strongroom_store::tape::{Drive, Readout, TapeLibrary};

/// Loading, labels and catalogs are part of what a set costs: 64 MiB is little to spread them
/// over.
const PACKS: u64 = 4;
const PACK_BYTES: usize = 16 << 20;

fn mib_per_second(took: Duration) -> f64 {
    (PACKS as f64) * (PACK_BYTES as f64) / f64::from(1 << 20) / took.as_secs_f64()
}

fn plain(drive: &mut dyn Drive, blocks: usize, bytes: &[u8]) -> (f64, f64) {
    drive.rewind().unwrap();
    let start = Instant::now();
    for _ in 0..blocks {
        drive.write_block(bytes).unwrap();
    }
    drive.write_filemark().unwrap();
    drive.flush().unwrap();
    let written = mib_per_second(start.elapsed());
    drive.rewind().unwrap();
    let mut buffer = vec![0; 1 << 20];
    let start = Instant::now();
    for _ in 0..blocks {
        assert_eq!(drive.read_block(&mut buffer).unwrap(), Readout::Block(BLOCK_BYTES));
    }
    (written, mib_per_second(start.elapsed()))
}

fn main() {
    let tgt = Tgt::start(3, 256);
    let library = tgt.library();
    let mut drive = library.load(&tape(3)).unwrap();
    let blocks = PACK_BYTES * usize::try_from(PACKS).unwrap() / BLOCK_BYTES;
    let (written, read) = plain(drive.as_mut(), blocks, &vec![7; BLOCK_BYTES]);
    library.unload(drive).unwrap();

    let load = Load::new(1, PACKS, PACK_BYTES);
    let clock = Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
    let mut writer = MediaSetWriter::open(library.clone(), order("weekly"), clock).unwrap();
    let start = Instant::now();
    load.session(&mut writer).unwrap();
    let set_written = mib_per_second(start.elapsed());
    drop(writer);
    let reader = MediaReader::open(library).unwrap();
    let start = Instant::now();
    let (report, _) = fetch(&reader, &load.ids());
    let set_read = mib_per_second(start.elapsed());
    assert!(report.missing.is_empty(), "{report:?}");
    let (share_written, share_read) = (set_written / written, set_read / read);
    println!(
        "plain blocks {written:.0} MiB/s written, {read:.0} read; a set {set_written:.0} \
         ({share_written:.2}) and {set_read:.0} ({share_read:.2})"
    );
}
