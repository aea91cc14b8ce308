//! A file system made for one tool's restores. ext4 does not give an inode out again within
//! minutes of its removal, and looks at each such one anew for every file it makes: a tree that
//! another tool's run removed would make creating files ten times as slow.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Room for two trees of 4 GiB.
const IMAGE_BYTES: u64 = 10 << 30;

/// A mounted file system; gone when dropped.
pub(super) struct Fresh {
    at: PathBuf,
    device: String,
    image: PathBuf,
}

impl Fresh {
    /// Makes one in a file beside `at` and mounts it there. Needs to be root.
    pub(super) fn mount(at: &Path) -> Result<Self> {
        let image = at.with_extension("img");
        File::create(&image)?.set_len(IMAGE_BYTES)?;
        std::fs::create_dir_all(at)?;
        // All of it is written now: nothing is left for a thread of the kernel to do meanwhile.
        let whole = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        said(Command::new("mkfs.ext4").args(["-q", "-F", "-E", whole]).arg(&image))?;
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show", "--direct-io=on"]).arg(&image);
        let device = said(&mut attach)?.trim().to_owned();
        let fresh = Self { at: at.to_owned(), device, image };
        said(Command::new("mount").arg(&fresh.device).arg(at))?;
        let lost = at.join("lost+found");
        std::fs::remove_dir(&lost).with_context(|| format!("{}", lost.display()))?;
        Ok(fresh)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // What cannot be let go is said, and stays for a person to look at.
        let gone = said(Command::new("umount").arg(&self.at))
            .and_then(|_| said(Command::new("losetup").arg("--detach").arg(&self.device)))
            .and_then(|_| Ok(std::fs::remove_file(&self.image)?));
        if let Err(error) = gone {
            println!("    {} stays: {error:#}", self.image.display());
        }
    }
}

/// What a command that worked said.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{command:?}: {}", why.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
