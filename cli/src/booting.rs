//! A machine straight from its point: its disks are read over an export as they are wanted, what
//! it writes goes into images over them. Promises that nothing of the point is changed, that the
//! machine has no network, and that what was made for it goes with it unless it is kept.

pub(crate) mod keeping;
pub(crate) mod words;

use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use strongroom_agent::vmlab::Boot;
use strongroom_present::export::Listen;

use crate::exporting::uri;
use crate::failure::{Failure, While};
use words::{Bus, Found, found_at};

/// A socket's path is at most this long, in bytes; those in the directory have short names.
const DIRECTORY_BYTES_MAX: usize = 90;
/// What is on its disks is for whoever starts the machine alone.
const PRIVATE: u32 = 0o700;
/// How long a TPM may take to begin.
const TPM_PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Where the pieces of a machine lie.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Sockets, the console, and what is thrown away.
    dir: PathBuf,
    /// Images that stay, where they are to.
    keep: Option<PathBuf>,
}

/// A disk of the machine.
#[derive(Debug, Clone)]
pub(crate) struct BootDisk {
    pub(crate) name: String,
    bus: Bus,
    image: PathBuf,
}

impl BootDisk {
    /// What its drive and its device are called.
    pub(crate) fn id(&self) -> String {
        format!("kept-{}", self.name)
    }
}

impl Place {
    /// Makes the directories; each must be new, or empty, and neither lie in the other.
    pub(crate) fn make(dir: &Path, keep: Option<&Path>) -> Result<Self, Failure> {
        let dir = std::path::absolute(dir)?;
        if dir.as_os_str().len() > DIRECTORY_BYTES_MAX {
            let text = format!("{} is too long a path for the sockets in it", dir.display());
            return Err(Failure::new(text).hint("name another directory with --dir"));
        }
        let keep = keep.map(std::path::absolute).transpose()?;
        if let Some(keep) = &keep {
            apart(&plain(&dir), &plain(keep))?;
        }
        for made in std::iter::once(&dir).chain(&keep) {
            let mut builder = std::fs::DirBuilder::new();
            let builder = builder.recursive(true).mode(PRIVATE);
            builder.create(made).doing(format!("cannot make {}", made.display()))?;
            if std::fs::read_dir(made)?.next().is_some() {
                let text = format!("{} is not empty", made.display());
                return Err(Failure::new(text).hint("name a new directory"));
            }
            // One that was there already may be open to others.
            std::fs::set_permissions(made, Permissions::from_mode(PRIVATE))
                .doing(format!("cannot make {} private", made.display()))?;
        }
        if let Some(keep) = &keep {
            // Through links the one may lie in the other all the same.
            apart(&dir.canonicalize()?, &keep.canonicalize()?)?;
        }
        let place = Self { dir, keep };
        std::fs::create_dir_all(place.kept_or(&place.dir).join("disks"))?;
        Ok(place)
    }

    fn kept_or<'p>(&'p self, dir: &'p Path) -> &'p Path {
        self.keep.as_deref().unwrap_or(dir)
    }

    /// Where the machine's sockets and its console are.
    pub(crate) fn machine(&self) -> PathBuf {
        self.dir.join("m")
    }

    /// The same, made.
    pub(crate) fn machine_made(&self) -> Result<PathBuf, Failure> {
        let dir = self.machine();
        std::fs::create_dir_all(&dir).doing(format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// Where the disks are served.
    pub(crate) fn listen(&self) -> Listen {
        Listen::Unix(self.dir.join("export"))
    }

    /// Where what belongs to the machine lies.
    pub(crate) fn config(&self) -> PathBuf {
        self.kept_or(&self.dir).join("config")
    }

    /// Where an image lies that takes what the machine writes.
    fn image(&self, name: &str) -> PathBuf {
        self.kept_or(&self.dir).join("disks").join(format!("{name}.qcow2"))
    }

    /// Removes what was made, but for what is to stay.
    pub(crate) fn clear(&self, kept: Kept) -> Result<(), Failure> {
        let gone = std::iter::once(&self.dir).chain(self.keep.iter().filter(|_| kept == Kept::Not));
        for dir in gone {
            std::fs::remove_dir_all(dir).doing(format!("cannot remove {}", dir.display()))?;
        }
        Ok(())
    }
}

/// An absolute path without `..`, by its words alone.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

/// What is kept must outlive what is thrown away.
fn apart(dir: &Path, keep: &Path) -> Result<(), Failure> {
    if !keep.starts_with(dir) && !dir.starts_with(keep) {
        return Ok(());
    }
    let (dir, keep) = (dir.display(), keep.display());
    let text = format!("{keep}, which is kept, and {dir}, which is not, lie in one another");
    Err(Failure::usage(text).hint("name a directory beside that of --dir with --keep"))
}

/// Whether a machine stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Not,
    Whole,
}

/// Makes the images over the disks that are served, empty as yet.
pub(crate) fn images(
    place: &Place,
    served: &[(String, u64)],
    about: &Value,
    found: &Found,
) -> Result<Vec<BootDisk>, Failure> {
    let told = about["disks"].as_array().cloned().unwrap_or_default();
    let disk = |(name, bytes): &(String, u64)| {
        let known = told.iter().find(|disk| disk["name"] == **name);
        let node = known.and_then(|disk| disk["node"].as_str()).unwrap_or_default();
        let image = place.image(name);
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b"]);
        create.arg(uri(&place.listen(), name, false)).arg(&image).arg(bytes.to_string());
        run(&mut create, "qemu-img", "qemu-utils")?;
        Ok(BootDisk { name: name.clone(), bus: found.bus_of(name, node), image })
    };
    served.iter().map(disk).collect()
}

fn run(command: &mut Command, program: &str, package: &str) -> Result<(), Failure> {
    let failed = |said: &str| {
        Failure::new(format!("{program} failed: {said}"))
            .hint(format!("the Debian package {package} brings it"))
    };
    let output = command.stdin(Stdio::null()).output().map_err(|e| failed(&e.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// What the machine is started with.
pub(crate) struct Outfit {
    pub(crate) words: Vec<String>,
    /// A kernel beside the disks, where it had one and nobody names another.
    pub(crate) beside: Option<Boot>,
    /// What it had and has no more.
    pub(crate) lacking: Vec<String>,
    /// Ends with this.
    pub(crate) _tpm: Option<Tpm>,
}

/// Makes the machine what it was, as far as the point and this host have it.
pub(crate) fn outfit(place: &Place, found: &Found, disks: &[BootDisk]) -> Result<Outfit, Failure> {
    let config = place.config();
    let mut words = vec!["-action".to_owned(), "reboot=reset".to_owned()];
    words.extend(found.words.iter().cloned());
    for flash in &found.flash {
        let Some(file) = found_at(&flash.file, &config) else {
            return Err(no_firmware(&flash.file));
        };
        let kept = file.starts_with(&config);
        let read_only = if flash.read_only || !kept { ",readonly=on" } else { "" };
        let file = commas(&file);
        let format = &flash.format;
        words.extend(["-drive".to_owned()]);
        words.push(format!("if=pflash,format={format}{read_only},file={file}"));
    }
    if let Some(bios) = &found.bios {
        let file = found_at(bios, &config).ok_or_else(|| no_firmware(bios))?;
        words.extend(["-bios".to_owned(), file.to_string_lossy().into_owned()]);
    }
    let (mut lacking, mut tpm) = (Vec::new(), None);
    if let Some(model) = &found.tpm {
        match tpm_state(&config) {
            Some(state) => tpm = Some(Tpm::start(&state, &place.dir)?),
            None => lacking.push(
                "the machine had a TPM, and the point has not its state: `keep` in the policy \
                 brings it"
                    .to_owned(),
            ),
        }
        words.extend(tpm.iter().flat_map(|tpm| tpm.words(model)));
    }
    words.extend(disk_words(disks));
    let beside = found.beside.as_ref().and_then(|beside| {
        let image = found_at(&beside.kernel, &config)?;
        let initrd = found_at(beside.initrd.as_ref()?, &config)?;
        Some(Boot::Kernel { image, initrd, words: beside.words.clone() })
    });
    Ok(Outfit { words, beside, lacking, _tpm: tpm })
}

fn no_firmware(file: &Path) -> Failure {
    Failure::new(format!("the firmware {} is neither in the point nor here", file.display()))
        .hint("install the package that brings it (ovmf for UEFI), or `keep` it in the policy")
}

/// A path in an option of QEMU.
fn commas(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

fn disk_words(disks: &[BootDisk]) -> Vec<String> {
    let mut words = Vec::new();
    if disks.iter().any(|disk| disk.bus == Bus::Scsi) {
        words.extend(["-device".to_owned(), "virtio-scsi-pci,id=kept-scsi".to_owned()]);
    }
    for disk in disks {
        let (id, file) = (disk.id(), commas(&disk.image));
        words.push("-drive".to_owned());
        words.push(format!("if=none,id={id},format=qcow2,discard=unmap,file={file}"));
        words.push("-device".to_owned());
        words.push(match disk.bus {
            Bus::Ide => format!("ide-hd,drive={id},id={id}"),
            Bus::Nvme => format!("nvme,drive={id},id={id},serial={}", disk.name),
            Bus::Scsi => format!("scsi-hd,drive={id},id={id}"),
            Bus::Virtio => format!("virtio-blk-pci,drive={id},id={id}"),
        });
    }
    words
}

/// The directory with the state of a TPM.
fn tpm_state(config: &Path) -> Option<(PathBuf, TpmVersion)> {
    let entries = std::fs::read_dir(config).ok()?.flatten();
    let (mut below, mut found) = (Vec::new(), None);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("tpm2-00") {
            found = Some((config.to_owned(), TpmVersion::Two));
        } else if name.starts_with("tpm-00") {
            found = found.or_else(|| Some((config.to_owned(), TpmVersion::One)));
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below.push(entry.path());
        }
    }
    found.or_else(|| below.iter().find_map(|dir| tpm_state(dir)))
}

/// Which of the two kinds of TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TpmVersion {
    One,
    Two,
}

/// A TPM in a process of its own; it ends with its value.
pub(crate) struct Tpm {
    child: Child,
    socket: PathBuf,
}

impl Tpm {
    fn start((state, version): &(PathBuf, TpmVersion), dir: &Path) -> Result<Self, Failure> {
        let socket = dir.join("tpm");
        let mut command = Command::new("swtpm");
        command.args(["socket", "--terminate", "--tpmstate"]);
        command.arg(format!("dir={}", state.display()));
        command.arg("--ctrl").arg(format!("type=unixio,path={}", socket.display()));
        if *version == TpmVersion::Two {
            command.arg("--tpm2");
        }
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = started.map_err(|error| {
            Failure::new(format!("the machine has a TPM, and swtpm cannot be started: {error}"))
                .hint("the Debian package swtpm brings it")
        })?;
        let tpm = Self { child, socket };
        let until = Instant::now() + TPM_PATIENCE;
        while !tpm.socket.exists() {
            if Instant::now() > until {
                return Err(Failure::new("the TPM does not begin"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(tpm)
    }

    fn words(&self, model: &str) -> Vec<String> {
        [
            "-chardev",
            &format!("socket,id=kept-tpm,path={}", commas(&self.socket)),
            "-tpmdev",
            "emulator,id=kept-tpm0,chardev=kept-tpm",
            "-device",
            &format!("{model},tpmdev=kept-tpm0"),
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        // It ends by itself when the machine does.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
#[path = "booting_tests.rs"]
mod tests;
