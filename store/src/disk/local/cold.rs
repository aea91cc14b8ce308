//! Reading past the page cache. Direct reads where the file system has them: they are answered
//! by the medium and leave the cache as it is. Elsewhere the file's pages are written back and
//! let go before and behind the read, which is as near as it comes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags};

use super::super::ColdSink;

/// Bytes read at once: a direct read has no reading ahead, so each must be worth its wait.
const READ_BYTES: usize = 4 << 20;
/// What direct reads want of memory, offset and length; the largest block of common disks.
const ALIGN: usize = 4096;

/// Hands on the whole file.
pub(super) fn read(path: &Path, take: &mut ColdSink<'_>) -> io::Result<()> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
    let file = match OpenOptions::new().read(true).custom_flags(direct).open(path) {
        Ok(file) => file,
        Err(error) if is_refusal(&error) => return read_beside(&File::open(path)?, 0, take),
        Err(error) => return Err(error),
    };
    let len = file.metadata()?.len();
    let size = usize::try_from(len).unwrap_or(READ_BYTES).next_multiple_of(ALIGN).min(READ_BYTES);
    let mut memory = vec![0_u8; size + ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
    let buffer = memory.get_mut(start..start + size).unwrap_or_default();
    let mut at = 0;
    while at < len {
        let count = match file.read_at(buffer, at) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if is_refusal(&error) => return read_beside(&File::open(path)?, at, take),
            Err(error) => return Err(error),
        };
        if count == 0 || take(buffer.get(..count).unwrap_or_default()).is_break() {
            return Ok(());
        }
        at += count as u64;
        if at < len && !count.is_multiple_of(ALIGN) {
            return read_beside(&File::open(path)?, at, take);
        }
    }
    Ok(())
}

/// Whether the file system has no direct reads, or not these.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// From `at` on through the cache, whose pages of the file are let go.
fn read_beside(file: &File, mut at: u64, take: &mut ColdSink<'_>) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    // Only clean pages are let go.
    file.sync_data()?;
    let_go(file);
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                at += count as u64;
                let onward = take(buffer.get(..count).unwrap_or_default());
                let_go(file);
                if onward.is_break() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn let_go(file: &File) {
    if let Err(errno) = rustix::fs::fadvise(file, 0, None, Advice::DontNeed) {
        tracing::trace!(%errno, "pages were not let go");
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn gathered(read: impl FnOnce(&mut ColdSink<'_>) -> io::Result<()>) -> Vec<u8> {
        let mut all = Vec::new();
        read(&mut |bytes| {
            all.extend_from_slice(bytes);
            ControlFlow::Continue(())
        })
        .unwrap();
        all
    }

    #[test]
    fn every_length_is_read_whole_either_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for len in [0, 1, 4095, 4096, 4097, READ_BYTES - 1, READ_BYTES, READ_BYTES + 4097] {
            let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert!(gathered(|take| read(&path, take)) == bytes, "{len} bytes, direct");
            let file = File::open(&path).unwrap();
            assert!(gathered(|take| read_beside(&file, 0, take)) == bytes, "{len} bytes, beside");
        }
        assert!(read(&dir.path().join("none"), &mut |_| ControlFlow::Continue(())).is_err());
    }

    #[test]
    fn a_read_ends_when_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 3 * READ_BYTES]).unwrap();
        let mut seen = 0;
        read(&path, &mut |bytes| {
            seen += bytes.len();
            ControlFlow::Break(())
        })
        .unwrap();
        assert!((1..=READ_BYTES).contains(&seen));
    }
}
