//! A domain built again from its backup and run without any network, to prove the backup. Promises
//! that nobody but this host's root reaches it, through a socket of its own, and that it is gone
//! with what holds it. Needs root and Samba's programs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::workload::directory::domain::{DomainError, TOOL, run};

/// What the only domain controller is called; the others are taken out of the domain.
const NAME: &str = "sr-proof";
/// A socket's path is at most this long, in bytes.
const SOCKET_BYTES_MAX: usize = 107;
/// In a network and a tree of processes of their own, which end with the first of them. A socket
/// of winbind has its place compiled in.
const RUN: &str = "ip link set lo up && mkdir -p /run/samba && mount -t tmpfs tmpfs /run/samba && \
                   exec samba -F --no-process-group -s \"$0\" --debug-stdout";
const LOOK: Duration = Duration::from_millis(100);
/// Lines of a log that are told.
const LINES_TOLD: usize = 4;

/// Such a domain; stopped when dropped.
#[derive(Debug)]
pub struct Revived {
    dir: PathBuf,
    running: Option<Child>,
}

/// What `samba-tool dbcheck` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub objects: u64,
    pub errors: u64,
    /// Its last words.
    pub said: String,
}

impl Revived {
    /// Builds it in `dir`, which is made, from a backup as `samba-tool` made it, unpacked.
    ///
    /// # Errors
    /// The programs for it are not there, or refuse the backup.
    pub fn build(dir: &Path, backup: &Path) -> Result<Self, DomainError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| DomainError::File { path, source }
        };
        let made = Self { dir: dir.to_owned(), running: None };
        if made.socket().as_os_str().len() > SOCKET_BYTES_MAX {
            let source = io::Error::other("the path is too long for the sockets in it");
            return Err(file(dir)(source));
        }
        fs::create_dir(dir).map_err(file(dir))?;
        let packed = dir.with_extension("tar");
        let listed = fs::read_dir(backup).map_err(file(backup))?;
        let mut python = Command::new("python3");
        python.args(["-m", "tarfile", "-c"]).arg(&packed).current_dir(backup);
        python.args(listed.flatten().map(|entry| entry.file_name()));
        run("python3", &mut python)?;
        let mut tool = Command::new(TOOL);
        tool.args(["domain", "backup", "restore", "--host-ip=127.0.0.1"]);
        tool.arg("--backup-file").arg(&packed).arg(format!("--newservername={NAME}"));
        run(TOOL, tool.arg("--targetdir").arg(dir))?;
        fs::remove_file(&packed).map_err(file(&packed))?;
        // It makes its keys there, and does not start where it cannot.
        let keys = dir.join("private/tls");
        fs::create_dir_all(&keys).map_err(file(&keys))?;
        Ok(made)
    }

    fn config(&self) -> PathBuf {
        self.dir.join("etc/smb.conf")
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("private/ldap_priv/ldapi")
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not come up within `patience`: its last words.
    pub fn start(&mut self, patience: Duration) -> Result<(), DomainError> {
        let log = self.dir.join("samba.log");
        let unmade = |source| DomainError::File { path: log.clone(), source };
        let out = File::create(&log).map_err(unmade)?;
        let both = out.try_clone().map_err(unmade)?;
        let mut samba = Command::new("setpriv");
        samba.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork"]);
        samba.args(["--mount-proc", "--kill-child", "sh", "-c", RUN]).arg(self.config());
        samba.stdin(Stdio::null()).stdout(out).stderr(both);
        let missing = |source| DomainError::Program { program: "setpriv".to_owned(), source };
        self.running = Some(samba.spawn().map_err(missing)?);
        let until = Instant::now() + patience;
        loop {
            let answers = self.socket().exists() && self.users().is_ok();
            let ended =
                self.running.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if answers && !ended {
                return Ok(());
            }
            if ended || Instant::now() > until {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> =
                    text.lines().filter(|line| !line.trim().is_empty()).collect();
                let from = lines.len().saturating_sub(LINES_TOLD);
                let said = lines.get(from..).unwrap_or_default().join(" | ");
                return Err(DomainError::Silent { said });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The names of the accounts of people, asked of the running domain controller.
    ///
    /// # Errors
    /// It does not answer.
    pub fn users(&self) -> Result<BTreeSet<String>, DomainError> {
        self.listed("user")
    }

    /// The names of the groups.
    ///
    /// # Errors
    /// It does not answer.
    pub fn groups(&self) -> Result<BTreeSet<String>, DomainError> {
        self.listed("group")
    }

    fn listed(&self, what: &str) -> Result<BTreeSet<String>, DomainError> {
        let path = self.socket();
        let socket = path.to_string_lossy().replace('%', "%25").replace('/', "%2F");
        let mut tool = Command::new(TOOL);
        tool.args([what, "list", "-H"]).arg(format!("ldapi://{socket}"));
        let said = run(TOOL, tool.arg("-s").arg(self.config()))?;
        Ok(said.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect())
    }

    /// Has Samba check every object of its database.
    ///
    /// # Errors
    /// The check could not be made; what it finds is no error.
    pub fn check(&self) -> Result<Checked, DomainError> {
        let mut tool = Command::new(TOOL);
        tool.args(["dbcheck", "--cross-ncs", "-s"]).arg(self.config()).stdin(Stdio::null());
        let missing = |source| DomainError::Program { program: TOOL.to_owned(), source };
        let output = tool.output().map_err(missing)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let text = text + &String::from_utf8_lossy(&output.stderr);
        checked(&text).ok_or_else(|| DomainError::Failed {
            program: format!("{TOOL} dbcheck"),
            status: output.status.to_string(),
            said: text.lines().last().unwrap_or_default().to_owned(),
        })
    }
}

/// From the line `Checked 6637 objects (0 errors)`.
fn checked(text: &str) -> Option<Checked> {
    let line = text.lines().rfind(|line| line.starts_with("Checked "))?;
    let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    let (objects, errors) = (numbers.next()?, numbers.next()?);
    let wrong = text.lines().filter(|line| line.starts_with("ERROR"));
    let mut said: Vec<&str> = wrong.take(LINES_TOLD).collect();
    said.push(line);
    Some(Checked { objects, errors, said: said.join(" | ") })
}

/// The first process of the tree that a child made, which it waits for.
fn first_of(child: &Child) -> Option<Pid> {
    let id = child.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
}

impl Drop for Revived {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            // Whatever runs in its tree of processes ends with the first of them, and is gone when
            // who waits for that has ended: nothing is written any more then.
            if first_of(&child).is_none_or(|first| kill_process(first, Signal::KILL).is_err()) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_checked_is_understood() {
        let found = checked("Checking 7 objects\nNOTE: old\nChecked 7 objects (0 errors)\n");
        let found = found.unwrap();
        assert_eq!((found.objects, found.errors), (7, 0));
        let hurt = checked("ERROR: missing\nPlease use --fix\nChecked 9 objects (1 errors)\n");
        let hurt = hurt.unwrap();
        assert_eq!(
            (hurt.errors, hurt.said.as_str()),
            (1, "ERROR: missing | Checked 9 objects (1 errors)")
        );
        assert_eq!(checked("Traceback (most recent call last):\n"), None);
    }
}
