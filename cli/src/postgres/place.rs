//! The directory a cluster is put into: refused while a server runs in it, and while something
//! lies there that the point does not have and nobody said may go. An old file of the log left
//! behind would be replayed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};
use strongroom_protocol::ChunkId;
use strongroom_store::content::Node;

use crate::failure::{Failure, While};
use crate::scene::Scene;

/// Extra files named in a refusal.
const TOLD_MAX: usize = 5;

/// Refuses a directory that a running server uses.
pub(crate) fn refuse_running(target: &Path) -> Result<(), Failure> {
    let Ok(text) = fs::read_to_string(target.join("postmaster.pid")) else { return Ok(()) };
    let number: i32 = text.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    let Some(pid) = Pid::from_raw(number) else { return Ok(()) };
    let lives = !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH));
    // Another process may have the number of a server that is gone: a server is in its data.
    let elsewhere = fs::read_link(format!("/proc/{number}/cwd"))
        .is_ok_and(|cwd| fs::canonicalize(target).is_ok_and(|target| target != cwd));
    if lives && !elsewhere {
        let shown = target.display();
        return Err(Failure::new(format!("a server runs in {shown} (process {number})"))
            .hint("stop it first: pg_ctl stop -m fast -D DIR, or the service that runs it"));
    }
    Ok(())
}

/// Whether nothing is there yet.
pub(crate) fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut listing| listing.next().is_none())
}

/// What lies below `target` and not in the directory `page` of the point, highest first; where
/// links of tablespaces lead is not looked into.
pub(crate) fn extras(scene: &Scene, page: ChunkId, target: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut extras = Vec::new();
    let mut open = vec![(page, target.to_owned())];
    while let Some((page, dir)) = open.pop() {
        let Ok(listing) = fs::read_dir(&dir) else { continue };
        let mut known = BTreeMap::new();
        for entry in scene.tree.directory(page) {
            let entry = entry?;
            known.insert(entry.name, entry.node);
        }
        for there in listing {
            let there = there.doing(format!("cannot list {}", dir.display()))?;
            let path = there.path();
            let kind = there.file_type().doing(path.display().to_string())?;
            match known.get(there.file_name().as_bytes()) {
                Some(Node::Directory { page }) if kind.is_dir() => open.push((*page, path)),
                Some(Node::Directory { .. }) if kind.is_symlink() && is_space(&path) => {}
                Some(Node::File { .. }) if kind.is_file() => {}
                Some(Node::Symlink { .. }) if kind.is_symlink() => {}
                _ => extras.push(path),
            }
        }
    }
    extras.sort();
    Ok(extras)
}

/// The link of a tablespace.
fn is_space(path: &Path) -> bool {
    path.parent().and_then(Path::file_name).is_some_and(|name| name == "pg_tblspc")
}

/// Refuses extra files, or removes them.
pub(crate) fn clear(extras: &[PathBuf], may_remove: bool) -> Result<(), Failure> {
    if extras.is_empty() {
        return Ok(());
    }
    if !may_remove {
        let mut names: Vec<String> =
            extras.iter().take(TOLD_MAX).map(|path| path.display().to_string()).collect();
        if extras.len() > TOLD_MAX {
            names.push(format!("and {} more", extras.len() - TOLD_MAX));
        }
        let names = names.join(", ");
        return Err(Failure::new(format!("the point does not have what lies there: {names}"))
            .hint("--remove-extra removes it; nothing was changed yet"));
    }
    for path in extras {
        let meta = fs::symlink_metadata(path).doing(path.display().to_string())?;
        let removed = match meta.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        removed.doing(format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_server_is_told_from_one_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        refuse_running(dir.path()).unwrap();
        let pid = dir.path().join("postmaster.pid");
        fs::write(&pid, "999999999\n").unwrap();
        refuse_running(dir.path()).unwrap();
        // This process lives, and does not run in that directory.
        fs::write(&pid, format!("{}\n", std::process::id())).unwrap();
        refuse_running(dir.path()).unwrap();
        let mut sleep = std::process::Command::new("sleep");
        let mut child = sleep.arg("60").current_dir(dir.path()).spawn().unwrap();
        fs::write(&pid, format!("{}\n/x\n", child.id())).unwrap();
        let refused = refuse_running(dir.path()).unwrap_err().to_string();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(refused.contains("a server runs in"), "{refused}");
        refuse_running(dir.path()).unwrap();
    }

    #[test]
    fn nothing_extra_goes_unless_it_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let (file, tree) = (dir.path().join("file"), dir.path().join("tree"));
        fs::write(&file, "x").unwrap();
        fs::create_dir_all(tree.join("below")).unwrap();
        let extras = [file.clone(), tree.clone()];
        let refused = clear(&extras, false).unwrap_err().to_string();
        assert!(refused.contains("--remove-extra"), "{refused}");
        assert!(file.exists());
        clear(&extras, true).unwrap();
        assert!(!file.exists() && !tree.exists());
    }
}
