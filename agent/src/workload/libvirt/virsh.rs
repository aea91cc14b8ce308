//! libvirt, asked by its own program `virsh`, one question a process. Promises that every
//! question ends within its time and that an answer is bounded; decides by exit codes, and tells
//! people what libvirt said. Links to no library: a host without libvirt needs none.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The program.
const PROGRAM: &str = "virsh";
/// How long a question may take that changes nothing.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// How long something may take that waits for what the machine does: libvirt itself gives up
/// after 30 s.
pub(super) const DEED: Duration = Duration::from_secs(60);
/// Longest answer, in bytes: a definition is some ten thousand.
const ANSWER_BYTES_MAX: u64 = 8 << 20;
/// How often it is looked whether it ended.
const LOOK: Duration = Duration::from_millis(5);
/// What a connection begins with that stays on this host: the disks of the moment are read by
/// a unix socket, and what is overwritten is put aside in a directory.
const LOCAL: [&str; 2] = ["qemu:///", "qemu+unix:///"];

/// A libvirt of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Virsh {
    uri: String,
}

/// Why libvirt did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VirshError {
    /// Not a libvirt of this host.
    #[error(
        "libvirt at {uri:?} cannot be used: only that of this agent's own host can, such as \
         qemu:///system; let an agent on the machine's host protect it"
    )]
    Elsewhere { uri: String },
    /// The program is not there.
    #[error("there is no `virsh` on this host: install libvirt's clients (libvirt-clients)")]
    Missing { source: io::Error },
    /// No such machine.
    #[error("libvirt at {uri} has no machine {name:?}; it has {}", listed(.others))]
    NoDomain { uri: String, name: String, others: Vec<String> },
    /// The program could not be run.
    #[error("virsh {command} could not be run")]
    Process { command: String, source: io::Error },
    /// libvirt says no.
    #[error("libvirt refused {command}: {why}")]
    Refused { command: String, why: String },
    /// No answer in time.
    #[error(
        "libvirt did not answer {command} within {} s: it or the machine hangs", .limit.as_secs()
    )]
    Silent { command: String, limit: Duration },
    /// Nobody is there.
    #[error(
        "libvirt cannot be reached at {uri}: {why}; does libvirtd (or virtqemud) run, and may \
         this agent use its socket?"
    )]
    Unreachable { uri: String, why: String },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Virsh {
    /// For a connection such as `qemu:///system`.
    ///
    /// # Errors
    /// It leads to another host, or to no QEMU.
    pub fn of(uri: &str) -> Result<Self, VirshError> {
        match LOCAL.iter().any(|local| uri.starts_with(local)) {
            true => Ok(Self { uri: uri.to_owned() }),
            false => Err(VirshError::Elsewhere { uri: uri.to_owned() }),
        }
    }

    /// As it was told.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What libvirt answers to these words, the first of which is the command.
    ///
    /// # Errors
    /// It is not there, refuses, or does not answer within `limit`.
    pub fn ask(&self, words: &[&str], limit: Duration) -> Result<String, VirshError> {
        let command = words.first().copied().unwrap_or_default().to_owned();
        let mut virsh = Command::new(PROGRAM);
        virsh.args(["--connect", &self.uri]).args(words);
        // What is told from each other by words must come in these.
        virsh.env("LC_ALL", "C").env_remove("LANGUAGE");
        virsh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = virsh.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VirshError::Missing { source },
            _ => VirshError::Process { command: command.clone(), source },
        })?;
        let (said, why) = (hear(child.stdout.take()), hear(child.stderr.take()));
        let ended = ended(&mut child, limit);
        let (said, why) = (said.join().unwrap_or_default(), why.join().unwrap_or_default());
        match ended {
            Ok(Some(true)) => Ok(said),
            Ok(Some(false)) => Err(self.refused(command, &why)),
            Ok(None) => Err(VirshError::Silent { command, limit }),
            Err(source) => Err(VirshError::Process { command, source }),
        }
    }

    fn refused(&self, command: String, why: &str) -> VirshError {
        let lines = why.lines().map(|line| line.strip_prefix("error: ").unwrap_or(line).trim());
        let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        let unreachable = lines.iter().any(|line| line.starts_with("failed to connect to"));
        let lines = lines.into_iter().filter(|line| !line.starts_with("failed to connect to"));
        let why = lines.collect::<Vec<_>>().join("; ");
        match unreachable {
            true => VirshError::Unreachable { uri: self.uri.clone(), why },
            false => VirshError::Refused { command, why },
        }
    }

    /// The UUID of a machine: its name may begin with a dash or look like a number.
    ///
    /// # Errors
    /// There is none of that name, and which there are.
    pub(super) fn uuid(&self, name: &str) -> Result<String, VirshError> {
        match self.ask(&["domuuid", "--domain", name], ANSWER) {
            Ok(uuid) => Ok(uuid.trim().to_owned()),
            Err(VirshError::Refused { .. }) => {
                let (uri, name) = (self.uri.clone(), name.to_owned());
                Err(VirshError::NoDomain { uri, name, others: self.names()? })
            }
            Err(error) => Err(error),
        }
    }

    /// The names of all machines.
    ///
    /// # Errors
    /// libvirt is not there.
    pub(super) fn names(&self) -> Result<Vec<String>, VirshError> {
        Ok(lines(&self.ask(&["list", "--all", "--name"], ANSWER)?))
    }
}

/// The lines of an answer that say something.
pub(super) fn lines(answer: &str) -> Vec<String> {
    answer.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Reads to the end by a thread of its own, so that neither end waits for the other.
fn hear(from: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let Some(mut from) = from else { return String::new() };
        let mut heard = Vec::new();
        // What broke off is as far as it came.
        let _ = (&mut from).take(ANSWER_BYTES_MAX).read_to_end(&mut heard);
        let _ = io::copy(&mut from, &mut io::sink());
        String::from_utf8_lossy(&heard).into_owned()
    })
}

/// Whether it succeeded; none if it did not end in time, and is ended.
fn ended(child: &mut Child, limit: Duration) -> io::Result<Option<bool>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_libvirt_of_this_host_is_used() {
        for uri in ["qemu:///system", "qemu:///session?socket=/a", "qemu+unix:///system"] {
            assert_eq!(Virsh::of(uri).unwrap().uri(), uri);
        }
        for uri in ["qemu+ssh://host/system", "qemu://host/system", "xen:///", "--help", ""] {
            assert!(Virsh::of(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn what_is_said_tells_who_refused() {
        let virsh = Virsh::of("qemu:///system").unwrap();
        let said = "error: failed to connect to the hypervisor\nerror: Failed to connect socket \
                    to '/x': No such file or directory\n";
        let told = virsh.refused("list".to_owned(), said).to_string();
        assert!(told.contains("cannot be reached at qemu:///system: Failed to connect"), "{told}");
        let told = virsh.refused("domfsfreeze".to_owned(), "error: Unable\n\nerror: no agent\n");
        assert_eq!(told.to_string(), "libvirt refused domfsfreeze: Unable; no agent");
    }
}
