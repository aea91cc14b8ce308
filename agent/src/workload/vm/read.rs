//! Reads the disks of a machine's moment: what is zero is never read, what did not change is
//! named as the last point named it, the rest comes over the block device, many reads at once.

use std::io;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::machine::Disk;
use super::nbd::{Nbd, NbdError, READ_BYTES_MAX};
use super::plan::{Step, reads, steps};
use super::remember::{Remembered, Remembering};
use super::writing::{DiskRead, Writing};
use crate::workload::compose::blocks::BLOCK_BYTES;
use crate::workload::files::ProtectError;
use crate::workload::files::progress::count;
use crate::workload::moment::Reading;

/// Bytes of a disk that are planned at once.
const WINDOW_BYTES: u64 = 1 << 30;
/// A machine that gives no byte for so long hangs.
const SILENCE: Duration = Duration::from_secs(60);
const ALLOCATION: &str = "base:allocation";

/// What is known of a disk before it is read.
pub(in crate::workload) struct Ground<'run> {
    /// The bitmap of what changed, with the blocks of the last point.
    pub(in crate::workload) last: Option<(&'run str, Remembered)>,
    pub(in crate::workload) memory: Option<Remembering>,
}

/// Reads one disk from the server at `socket`; `given_up` is asked now and then.
pub(in crate::workload) fn disk(
    reading: &Reading<'_>,
    socket: &Path,
    disk: &Disk,
    ground: Ground<'_>,
    given_up: &dyn Fn() -> bool,
) -> Result<DiskRead, ProtectError> {
    let stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(SILENCE)).map_err(failed)?;
    let dirty = ground.last.as_ref().map(|(bitmap, _)| format!("qemu:dirty-bitmap:{bitmap}"));
    let contexts: Vec<&str> = std::iter::once(ALLOCATION).chain(dirty.as_deref()).collect();
    let mut device = Nbd::open(stream, &disk.name, &contexts).map_err(failed)?;
    if device.size() != disk.bytes {
        let text = format!("disk {} became {} bytes meanwhile", disk.name, device.size());
        return Err(failed(io::Error::other(text)));
    }
    let last = ground.last.map(|(_, last)| last);
    let mut writing = Writing::new(reading, last, ground.memory);
    let mut at = 0;
    while at < disk.bytes {
        let window = (at, WINDOW_BYTES.min(disk.bytes - at));
        let status = device.status(window.0, window.1).map_err(failed)?;
        let (allocation, dirty) = match status.as_slice() {
            [allocation, dirty] => (allocation, Some(dirty.as_slice())),
            [allocation] => (allocation, None),
            _ => return Err(ProtectError::Stopped),
        };
        let steps = steps(window, u64::from(BLOCK_BYTES), allocation, dirty);
        window_of(reading, &mut device, &mut writing, (window, &steps), given_up)?;
        at += window.1;
    }
    writing.finish()
}

/// Carries out the steps of a window, in the order of the disk.
fn window_of(
    reading: &Reading<'_>,
    device: &mut Nbd<UnixStream>,
    writing: &mut Writing<'_>,
    ((offset, length), steps): ((u64, u64), &[Step]),
    given_up: &dyn Fn() -> bool,
) -> Result<(), ProtectError> {
    let block = u64::from(BLOCK_BYTES);
    let wanted = reads(steps, (offset, length), block, READ_BYTES_MAX);
    let mut waiting = steps.iter().zip(0_u64..).map(|(step, index)| {
        (*step, u32::try_from(block.min(length - index * block)).unwrap_or(BLOCK_BYTES))
    });
    let mut outcome = Ok(());
    let flow = device.read_each(wanted.into_iter(), |_, bytes| {
        count(&reading.progress.read_bytes, bytes.len() as u64);
        outcome = bytes.chunks(BLOCK_BYTES as usize).try_for_each(|bytes| {
            pass(writing, &mut waiting)?;
            writing.data(bytes)
        });
        match reading.stop.load(Ordering::Relaxed) || given_up() || outcome.is_err() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    outcome?;
    match flow.map_err(failed)? {
        ControlFlow::Continue(()) => pass(writing, &mut waiting),
        ControlFlow::Break(()) => Err(ProtectError::Stopped),
    }
}

/// Writes the blocks that need no reading, up to and with the place of the next that does.
fn pass(
    writing: &mut Writing<'_>,
    waiting: &mut impl Iterator<Item = (Step, u32)>,
) -> Result<(), ProtectError> {
    for (step, length) in waiting {
        match step {
            Step::Read => return Ok(()),
            Step::Keep => writing.keep(length)?,
            Step::Hole => writing.hole(length)?,
        }
    }
    Ok(())
}

fn failed(error: impl Into<DiskError>) -> ProtectError {
    ProtectError::Application(Box::new(error.into()))
}

/// Why a disk was not read.
#[derive(Debug, thiserror::Error)]
enum DiskError {
    #[error("a disk of the machine cannot be read")]
    Device(#[from] NbdError),
    #[error("a disk of the machine cannot be read")]
    System(#[from] io::Error),
}
