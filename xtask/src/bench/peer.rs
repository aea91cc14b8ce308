//! The programs we are measured beside, each as its manual says to use it: encrypted where it
//! can, straight into a directory of this machine, no network between. What is not installed
//! is said and left out.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::measure::{Cost, bytes_below, run};
use super::{Figures, Place, Step, Tool};

/// Nothing is kept secret by it: what is made is removed behind the measurement.
const PASSPHRASE: &str = "bench";

/// A program that protects trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    Borg,
    Bupstash,
    Conserve,
    Restic,
    Rsync,
    Rustic,
    /// tar and zstd: no deduplication, no encryption
    Tar,
}

impl Peer {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Borg => "borg",
            Self::Bupstash => "bupstash",
            Self::Conserve => "conserve",
            Self::Restic => "restic",
            Self::Rsync => "rsync",
            Self::Rustic => "rustic",
            Self::Tar => "tar",
        }
    }

    /// The program, if it is here: `TOOLS/NAME/bin/NAME` where no package brings it, else by PATH.
    pub(crate) fn find(self, tools: Option<&Path>) -> Option<PathBuf> {
        let name = self.as_str();
        let own = tools.map(|dir| dir.join(name).join("bin").join(name));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let named = std::env::split_paths(&path).map(|dir| dir.join(name));
        own.into_iter().chain(named).find(|path| path.is_file())
    }

    /// What it says of itself.
    pub(crate) fn version(self, program: &Path) -> String {
        let word = if self == Self::Restic { "version" } else { "--version" };
        let said = Command::new(program).arg(word).output();
        let said = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
        said.unwrap_or_default().lines().next().unwrap_or("no version").to_owned()
    }
}

/// A peer at work on one tree.
pub(crate) struct AtWork<'a> {
    peer: Peer,
    program: PathBuf,
    place: &'a Place,
    repo: PathBuf,
    cache: PathBuf,
}

impl<'a> AtWork<'a> {
    /// Makes an empty repository.
    pub(crate) fn begin(peer: Peer, program: PathBuf, place: &'a Place) -> Result<Self> {
        let (repo, cache) = (place.own.join("repo"), place.own.join("cache"));
        std::fs::create_dir_all(&cache)?;
        let this = Self { peer, program, place, repo, cache };
        match peer {
            Peer::Borg => run(this.command(["init", "-e", "repokey"]).arg(&this.repo))?,
            Peer::Bupstash => {
                run(this.command(["init", "-r"]).arg(&this.repo))?;
                run(this.command(["new-key", "-o"]).arg(this.key()))?
            }
            Peer::Conserve => run(this.command(["-P", "init"]).arg(&this.repo))?,
            Peer::Restic | Peer::Rustic => run(&mut this.command(["init"]))?,
            Peer::Rsync | Peer::Tar => {
                std::fs::create_dir_all(&this.repo)?;
                Cost::default()
            }
        };
        Ok(this)
    }

    fn key(&self) -> PathBuf {
        self.cache.join("key")
    }

    /// The program with what each of its commands wants.
    fn command<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut command = Command::new(&self.program);
        match self.peer {
            Peer::Restic => {
                command.arg("-q").arg("-r").arg(&self.repo).arg("--cache-dir").arg(&self.cache);
            }
            Peer::Rustic => {
                command.args(["--no-progress", "--log-level", "warn", "-r"]).arg(&self.repo);
                command.arg("--cache-dir").arg(&self.cache);
            }
            _ => {}
        }
        command.args(words);
        for name in ["RESTIC_PASSWORD", "BORG_PASSPHRASE", "RUSTIC_PASSWORD"] {
            command.env(name, PASSPHRASE);
        }
        command.env("BORG_BASE_DIR", &self.cache).current_dir(&self.place.own);
        command
    }

    fn shell(&self, script: &str, words: &[&OsStr]) -> Command {
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-c", script, "bench"]).args(words);
        command
    }

    fn archive(&self) -> PathBuf {
        self.repo.join("tree.tar.zst")
    }

    fn protect(&self, name: &str) -> Result<Cost> {
        let tree = &self.place.tree;
        match self.peer {
            Peer::Borg => {
                let archive = format!("{}::{name}", self.repo.display());
                run(self.command(["create"]).arg(archive).arg(tree))
            }
            Peer::Bupstash => {
                let mut put = self.command(["put", "-q", "-r"]);
                put.arg(&self.repo).arg("-k").arg(self.key()).arg("--send-log");
                run(put.arg(self.cache.join("send.log")).arg(format!("name={name}")).arg(tree))
            }
            Peer::Conserve => run(self.command(["-P", "backup"]).arg(&self.repo).arg(tree)),
            Peer::Restic | Peer::Rustic => run(self.command(["backup"]).arg(tree)),
            Peer::Rsync => {
                let from = format!("{}/", tree.display());
                run(self.command(["-a", "--delete"]).arg(from).arg(self.repo.join("tree")))
            }
            Peer::Tar => {
                let script = "tar -C \"$1\" -cf - . | zstd -q -T0 -f -o \"$2\"";
                run(&mut self.shell(script, &[tree.as_os_str(), self.archive().as_os_str()]))
            }
        }
    }

    fn restore(&self, name: &str) -> Result<Cost> {
        let to = &self.place.restored;
        std::fs::create_dir_all(to)?;
        match self.peer {
            Peer::Borg => {
                let archive = format!("{}::{name}", self.repo.display());
                run(self.command(["extract"]).arg(archive).current_dir(to))
            }
            Peer::Bupstash => {
                let mut get = self.command(["restore", "-q", "-r"]);
                get.arg(&self.repo).arg("-k").arg(self.key()).arg("--query-cache");
                get.arg(self.cache.join("query")).arg("--into").arg(to);
                run(get.arg(format!("name={name}")))
            }
            Peer::Conserve => run(self.command(["-P", "restore"]).arg(&self.repo).arg(to)),
            Peer::Restic => run(self.command(["restore", "latest", "--target"]).arg(to)),
            Peer::Rustic => run(self.command(["restore", "latest"]).arg(to)),
            Peer::Rsync => {
                let from = format!("{}/", self.repo.join("tree").display());
                run(self.command(["-a"]).arg(from).arg(to))
            }
            Peer::Tar => {
                let script = "zstd -q -dc \"$1\" | tar -C \"$2\" -xf -";
                run(&mut self.shell(script, &[self.archive().as_os_str(), to.as_os_str()]))
            }
        }
    }

    /// Reads everything back; none where the program has no such command.
    fn verify(&self) -> Result<Option<Cost>> {
        let cost = match self.peer {
            Peer::Borg => run(self.command(["check", "--verify-data"]).arg(&self.repo))?,
            Peer::Conserve => run(self.command(["-P", "validate"]).arg(&self.repo))?,
            Peer::Restic | Peer::Rustic => run(&mut self.command(["check", "--read-data"]))?,
            Peer::Tar => run(Command::new("zstd").args(["-q", "-t"]).arg(self.archive()))?,
            Peer::Bupstash | Peer::Rsync => return Ok(None),
        };
        Ok(Some(cost))
    }
}

impl Tool for AtWork<'_> {
    fn step(&mut self, step: Step) -> Result<Option<Figures>> {
        let cost = match step {
            Step::First => Some(self.protect("first")?),
            Step::Again => Some(self.protect("again")?),
            Step::Changed => Some(self.protect("changed")?),
            Step::Restore => Some(self.restore("changed")?),
            Step::Verify => self.verify()?,
            // Theirs is one site; and not all of them restore into what is there.
            Step::Replicate | Step::InPlace => None,
        };
        let Some(cost) = cost else { return Ok(None) };
        let stored_bytes = bytes_below(&self.repo).context("the repository")?;
        Ok(Some(Figures { cost, stored_bytes, note: String::new() }))
    }
}
