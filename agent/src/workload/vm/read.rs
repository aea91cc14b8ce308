//! Reads the disks of a machine's moment: what is zero is never read, what did not change is
//! named as the last point named it, the rest comes over the block device, many reads at once.

use std::io;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use strongroom_protocol::ChunkId;
use strongroom_store::content::FileContent;

use super::machine::Disk;
use super::nbd::{Nbd, NbdError, READ_BYTES_MAX};
use super::plan::{Step, reads, steps};
use super::remember::{Known, Remembered, Remembering, Unkept};
use crate::workload::compose::blocks::{BLOCK_BYTES, BlocksFile};
use crate::workload::files::ProtectError;
use crate::workload::files::progress::count;
use crate::workload::moment::Reading;

/// Bytes of a disk that are planned at once.
const WINDOW_BYTES: u64 = 1 << 30;
/// A machine that gives no byte for so long hangs.
const SILENCE: Duration = Duration::from_secs(60);
const ALLOCATION: &str = "base:allocation";

/// How a disk was read.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Told {
    /// Blocks that the bitmap says were written, in bytes; all for a whole read.
    pub changed_bytes: u64,
    pub read_bytes: u64,
    pub zero_bytes: u64,
    pub kept_bytes: u64,
}

/// A disk that was read.
#[derive(Debug)]
pub(super) struct DiskRead {
    pub(super) size: u64,
    pub(super) content: FileContent,
    pub(super) told: Told,
    /// What is to be remembered once the point is committed.
    pub(super) memory: Option<Unkept>,
}

/// What is known of a disk before it is read.
pub(super) struct Ground<'run> {
    /// The bitmap of what changed, with the blocks of the last point.
    pub(super) last: Option<(&'run str, Remembered)>,
    pub(super) memory: Option<Remembering>,
}

/// Reads one disk from the server at `socket`; `given_up` is asked now and then.
pub(super) fn disk(
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
    let mut writing = Writing {
        file: BlocksFile::new(reading),
        last: ground.last.map(|(_, last)| last),
        memory: ground.memory,
        told: Told::default(),
    };
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
    let memory = writing.memory.map(Remembering::finish).transpose();
    let memory = memory.unwrap_or_else(|error| {
        tracing::warn!(%error, disk = %disk.name, "nothing is remembered: the next read is whole");
        None
    });
    let (size, content) = writing.file.finish()?;
    Ok(DiskRead { size, content, told: writing.told, memory })
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
            writing.pass(&mut waiting)?;
            writing.read(bytes)
        });
        match reading.stop.load(Ordering::Relaxed) || given_up() || outcome.is_err() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    outcome?;
    match flow.map_err(failed)? {
        ControlFlow::Continue(()) => writing.pass(&mut waiting),
        ControlFlow::Break(()) => Err(ProtectError::Stopped),
    }
}

/// A disk being written into the point.
struct Writing<'run> {
    file: BlocksFile<'run>,
    last: Option<Remembered>,
    memory: Option<Remembering>,
    told: Told,
}

impl Writing<'_> {
    /// Writes the blocks that need no reading, up to and with the place of the next that does.
    fn pass(
        &mut self,
        waiting: &mut impl Iterator<Item = (Step, u32)>,
    ) -> Result<(), ProtectError> {
        for (step, length) in waiting {
            let last = self.last.as_mut().map(Remembered::next).transpose().map_err(failed)?;
            let bytes = u64::from(length);
            match (step, last) {
                (Step::Read, _) => return Ok(()),
                (Step::Keep, Some(Known::Chunk(id))) => {
                    self.told.kept_bytes += bytes;
                    self.file.known(id, length)?;
                    self.remember(Some(id));
                }
                (Step::Keep, _) => {
                    self.told.kept_bytes += bytes;
                    self.file.hole(bytes)?;
                    self.remember(None);
                }
                (Step::Hole, _) => {
                    self.told.changed_bytes += bytes;
                    self.told.zero_bytes += bytes;
                    self.file.hole(bytes)?;
                    self.remember(None);
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, block: &[u8]) -> Result<(), ProtectError> {
        self.told.changed_bytes += block.len() as u64;
        self.told.read_bytes += block.len() as u64;
        let id = self.file.data(block)?;
        self.remember(id);
        Ok(())
    }

    fn remember(&mut self, block: Option<ChunkId>) {
        let block = block.map_or(Known::Hole, Known::Chunk);
        let Some(Err(error)) = self.memory.as_mut().map(|memory| memory.push(block)) else {
            return;
        };
        tracing::warn!(%error, "nothing is remembered: the next read is whole");
        self.memory = None;
    }
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
