//! A part of the tree that the lab may change, because it is the lab's own copy.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The copy holds no more than this.
const COPY_BYTES_MAX: u64 = 64 << 20;
/// Nor more files than this.
const COPY_FILES_MAX: usize = 2000;
/// One file in so many is changed.
const CHANGE_EVERY: usize = 100;

/// Copies regular files of `source` into `target`, flat, until there is enough.
pub(crate) fn copy_some(source: &Path, target: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut copied = Vec::new();
    let mut bytes = 0;
    let mut waiting = vec![source.to_owned()];
    while let Some(directory) = waiting.pop() {
        let Ok(listing) = fs::read_dir(&directory) else { continue };
        for entry in listing.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                waiting.push(entry.path());
                continue;
            }
            let size = entry.metadata().map_or(0, |meta| meta.len());
            if !kind.is_file() || size == 0 || bytes + size > COPY_BYTES_MAX {
                continue;
            }
            let place = target.join(format!("{:06}", copied.len()));
            if fs::copy(entry.path(), &place).is_ok() {
                bytes += size;
                copied.push(place);
            }
            if copied.len() >= COPY_FILES_MAX {
                return Ok(copied);
            }
        }
    }
    Ok(copied)
}

/// Appends a line to one file in a hundred; returns how many were changed.
pub(crate) fn change_some(files: &[PathBuf]) -> anyhow::Result<usize> {
    let some = files.iter().step_by(CHANGE_EVERY);
    let mut changed = 0;
    for path in some {
        let failed = || format!("{}", path.display());
        let mut permissions = fs::metadata(path).with_context(failed)?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        fs::set_permissions(path, permissions).with_context(failed)?;
        let mut file = fs::OpenOptions::new().append(true).open(path).with_context(failed)?;
        file.write_all(b"changed by the lab\n").with_context(failed)?;
        changed += 1;
    }
    Ok(changed)
}
