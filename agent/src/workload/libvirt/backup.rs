//! The backup job of a machine in libvirt: all disks at one instant, what the guest overwrites
//! put aside, the moment served as network block devices. Promises that all it makes is named as
//! this workload's and taken away again; never touches a job, a checkpoint or a file of others.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use super::virsh::{ANSWER, DEED, Virsh, VirshError, lines};
use crate::workload::vm::names::Names;
use crate::workload::xml::{Element, escape};

/// What the server of the moment listens at.
const SOCKET: &str = "nbd";
/// Of a directory that QEMU's user must get through.
const PASSABLE: u32 = 0o711;
const OWN: u32 = 0o700;
/// What libvirt says of a checkpoint whose bitmap it cannot find.
const LOST_BITMAP: &str = "not found in backing chain";
/// How often it is looked whether the job is gone.
const LOOK: Duration = Duration::from_millis(50);

/// One run of one machine.
#[derive(Clone, Debug)]
pub(super) struct Backup {
    pub(super) virsh: Virsh,
    pub(super) names: Names,
    /// The machine's UUID.
    pub(super) machine: String,
    pub(super) scratch: PathBuf,
}

/// A disk as it is to be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wish {
    pub(super) name: String,
    pub(super) changes: Changes,
    /// Whether its image can keep what changes from now on.
    pub(super) checkpoint: bool,
}

/// Whether what changed on a disk is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Changes {
    /// By this checkpoint.
    Since(String),
    Unknown,
}

/// Whose job runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Job {
    None,
    Others(String),
    /// Of this workload: of this run, or of one whose agent was killed.
    Ours,
}

impl Backup {
    /// What the bitmap of what changed is called in the export of a disk.
    pub(super) fn bitmap(disk: &str) -> String {
        format!("backup-{disk}")
    }

    /// Holds the socket and what is put aside; only QEMU's user and the agent get in.
    fn dir(&self) -> PathBuf {
        self.scratch.join(self.names.own_bitmap())
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir().join(SOCKET)
    }

    /// Makes the directory of the run, for the user of the machine's process.
    pub(super) fn make_dir(&self, owner: Option<(u32, u32)>) -> io::Result<()> {
        if !self.scratch.exists() {
            fs::create_dir_all(&self.scratch)?;
            fs::set_permissions(&self.scratch, fs::Permissions::from_mode(PASSABLE))?;
        }
        let dir = self.dir();
        fs::DirBuilder::new().mode(OWN).create(&dir)?;
        let Some((user, group)) = owner else { return Ok(()) };
        std::os::unix::fs::chown(&dir, Some(user), Some(group))
    }

    /// The machine's job.
    pub(super) fn job(&self) -> Result<Job, VirshError> {
        match self.virsh.ask(&["backup-dumpxml", "--domain", &self.machine], ANSWER) {
            Ok(xml) => {
                let socket = Element::parse(xml.as_bytes()).ok().and_then(|top| {
                    let server = top.child("server")?;
                    server.attribute("socket").map(PathBuf::from)
                });
                let run = socket.as_deref().and_then(Path::parent).and_then(Path::file_name);
                let ours = run.is_some_and(|run| self.names.owns(&run.to_string_lossy()));
                Ok(if ours { Job::Ours } else { Job::Others("a backup".to_owned()) })
            }
            Err(VirshError::Refused { .. }) => self.other_job(),
            Err(error) => Err(error),
        }
    }

    /// No backup: whether something else goes on with the machine, such as a migration.
    fn other_job(&self) -> Result<Job, VirshError> {
        let told = match self.virsh.ask(&["domjobinfo", "--domain", &self.machine], ANSWER) {
            // It does not run: then it has none.
            Err(VirshError::Refused { .. }) => return Ok(Job::None),
            told => told?,
        };
        let value = |key: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(key));
            line.map(|value| value.trim_start_matches(':').trim().to_owned())
        };
        match value("Job type") {
            None => Ok(Job::None),
            Some(kind) if kind.is_empty() || kind == "None" => Ok(Job::None),
            Some(kind) => Ok(Job::Others(value("Operation").unwrap_or(kind).to_lowercase())),
        }
    }

    /// The moment. The machine's disks are put aside for and begin new checkpoints at once.
    pub(super) fn begin(&self, disks: &[Wish]) -> Result<(), VirshError> {
        let dir = self.dir();
        let file = |name: &str, text: String| {
            let path = dir.join(name);
            let made = fs::write(&path, text);
            let command = "backup-begin".to_owned();
            made.map_err(|source| VirshError::Process { command, source })?;
            Ok::<_, VirshError>(path.to_string_lossy().into_owned())
        };
        let backup = file("backup.xml", self.backup_xml(disks))?;
        let mut words = vec!["backup-begin", "--domain", &self.machine, "--backupxml", &backup];
        let checkpoint;
        if disks.iter().any(|disk| disk.checkpoint) {
            checkpoint = file("checkpoint.xml", self.checkpoint_xml(disks))?;
            words.extend(["--checkpointxml", checkpoint.as_str()]);
        }
        self.virsh.ask(&words, DEED).map(drop)
    }

    fn backup_xml(&self, disks: &[Wish]) -> String {
        let disk = |Wish { name, changes, .. }: &Wish| {
            let scratch = self.dir().join(name);
            let mode = match changes {
                Changes::Since(last) => {
                    format!("backupmode='incremental' incremental='{}'", escape(last))
                }
                Changes::Unknown => "backupmode='full'".to_owned(),
            };
            format!(
                "<disk name='{name}' backup='yes' type='file' {mode} exportname='{name}' \
                 exportbitmap='{}'><scratch file='{}'/></disk>",
                Self::bitmap(name),
                escape(&*scratch.to_string_lossy())
            )
        };
        let socket = self.socket();
        format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{}'/>\
             <disks>{}</disks></domainbackup>",
            escape(&*socket.to_string_lossy()),
            disks.iter().map(disk).collect::<String>()
        )
    }

    fn checkpoint_xml(&self, disks: &[Wish]) -> String {
        let disk = |Wish { name, checkpoint, .. }: &Wish| {
            let how = if *checkpoint { "bitmap" } else { "no" };
            format!("<disk name='{name}' checkpoint='{how}'/>")
        };
        format!(
            "<domaincheckpoint><name>{}</name><disks>{}</disks></domaincheckpoint>",
            self.names.own_bitmap(),
            disks.iter().map(disk).collect::<String>()
        )
    }

    /// Ends the job, if it is this workload's, waits until it is gone, and frees the scratch.
    pub(super) fn end(&self) -> Result<(), VirshError> {
        if self.job()? == Job::Ours {
            let aborted = self.virsh.ask(&["domjobabort", "--domain", &self.machine], DEED);
            let until = Instant::now() + DEED;
            // What it refuses may be a job that ended meanwhile.
            while self.job()? == Job::Ours {
                if Instant::now() > until {
                    aborted?;
                    let command = "domjobabort".to_owned();
                    return Err(VirshError::Silent { command, limit: DEED });
                }
                std::thread::sleep(LOOK);
            }
        }
        self.clear();
        Ok(())
    }

    fn clear(&self) {
        let entries = fs::read_dir(&self.scratch).into_iter().flatten().flatten();
        for entry in entries {
            if self.names.owns(&entry.file_name().to_string_lossy()) {
                // What cannot be removed is tried again by the next run.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// What a checkpoint says of itself.
    pub(super) fn checkpoint(&self, name: &str) -> Result<String, VirshError> {
        let machine = self.machine.as_str();
        let words = ["--domain", machine, "--checkpointname", name, "--size", "--no-domain"];
        self.virsh.ask(&[&["checkpoint-dumpxml"], &words[..]].concat(), ANSWER)
    }

    /// Takes away the checkpoints that earlier runs of this workload left; `keep` stays.
    pub(super) fn reap(&self, keep: Option<&str>) -> Result<(), VirshError> {
        let list = ["checkpoint-list", "--domain", &self.machine, "--name"];
        let all = lines(&self.virsh.ask(&list, ANSWER)?);
        for name in all.iter().filter(|name| self.names.owns(name) && Some(name.as_str()) != keep) {
            self.forget(name);
        }
        Ok(())
    }

    /// Removes a checkpoint; what it recorded goes to the one before it.
    pub(super) fn forget(&self, name: &str) {
        let words = ["--domain", self.machine.as_str(), "--checkpointname", name];
        let delete = |more: &[&str]| {
            self.virsh.ask(&[&["checkpoint-delete"], &words[..], more].concat(), DEED)
        };
        let deleted = match delete(&[]) {
            // Its bitmap did not survive the machine's process: only libvirt remembers it.
            Err(VirshError::Refused { why, .. }) if why.contains(LOST_BITMAP) => {
                delete(&["--metadata"])
            }
            deleted => deleted,
        };
        let Err(error) = deleted else { return };
        tracing::warn!(%error, name, "a checkpoint that nobody needs stays until the next run");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strongroom_protocol::{PointId, WorkloadId};

    #[test]
    fn what_libvirt_is_told_names_each_disk_and_escapes_places() {
        let backup = Backup {
            virsh: Virsh::of("qemu:///system").unwrap(),
            names: Names::new(WorkloadId::fresh(1), PointId::fresh(2)),
            machine: "u".to_owned(),
            scratch: PathBuf::from("/s'<"),
        };
        let wish =
            |name: &str, changes, checkpoint| Wish { name: name.to_owned(), changes, checkpoint };
        let wishes = [
            wish("vda", Changes::Since("sr.1.2".to_owned()), true),
            wish("vdb", Changes::Unknown, false),
        ];
        let told = Element::parse(backup.backup_xml(&wishes).as_bytes()).unwrap();
        let disks: Vec<&Element> = told.child("disks").unwrap().all("disk").collect();
        assert_eq!(disks[0].attribute("incremental"), Some("sr.1.2"));
        assert_eq!(disks[1].attribute("backupmode"), Some("full"));
        let scratch = disks[1].child("scratch").unwrap().attribute("file").unwrap();
        assert!(scratch.starts_with("/s'</sr.") && scratch.ends_with("/vdb"), "{scratch}");
        let told = Element::parse(backup.checkpoint_xml(&wishes).as_bytes()).unwrap();
        let disks = told.child("disks").unwrap().all("disk");
        let hows: Vec<_> = disks.map(|disk| disk.attribute("checkpoint").unwrap()).collect();
        assert_eq!(hows, ["bitmap", "no"]);
    }
}
