//! Small machines of what is installed, for trying out, for proving a restored machine and for
//! tests: QEMU without any acceleration or network, a Debian kernel, a guest of busybox and the
//! guest agent. Promises that a machine ends with its value; what is missing is named.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::workload::vm::guest::{Guest, GuestError};

/// The script that makes the guest's file system in memory.
const INITRAMFS: &str = include_str!("vmlab/initramfs.sh");
const QEMU: &str = "qemu-system-x86_64";
/// On a host that has much else to do a guest's clock stands still at times: it is not to fret.
const WORDS: &str = "console=ttyS0 quiet loglevel=0 panic=-1 no_timer_check nowatchdog \
    rcupdate.rcu_cpu_stall_suppress=1";
/// Nothing in the guest runs longer.
const RUN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);
/// What a guest needs, in MiB, that is a busybox in memory.
pub const MEMORY_MIB: u64 = 256;

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The guest agent.
    #[error("the guest agent does not answer; the guest's console is in {}", .console.display())]
    Agent { console: PathBuf, source: GuestError },
    /// A machine that ended by itself.
    #[error("the machine ended ({status}): {said}")]
    Ended { status: String, said: String },
    /// A program that is not there, or failed.
    #[error("{program} failed: {said}; the Debian package {package} brings it")]
    Program { program: &'static str, package: &'static str, said: String },
    /// The system.
    #[error("{doing}")]
    System { doing: String, source: io::Error },
}

fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
    let doing = doing.into();
    move |source| LabError::System { doing, source }
}

fn run(
    command: &mut Command,
    program: &'static str,
    package: &'static str,
) -> Result<String, LabError> {
    let failed = |said: String| LabError::Program { program, package, said };
    let output = command.stdin(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// A kernel as its Debian package has it, unpacked.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub image: PathBuf,
    root: PathBuf,
    version: String,
}

impl Kernel {
    /// The kernel unpacked in `dir`; downloaded and unpacked there if there is none.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn get(dir: &Path) -> Result<Self, LabError> {
        if let Some(found) = Self::find(dir) {
            return Ok(found);
        }
        let doing = || format!("a kernel cannot be put into {}", dir.display());
        std::fs::create_dir_all(dir).map_err(system(doing()))?;
        let named = run(
            Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]),
            "apt-cache",
            "apt",
        )?;
        let package = named.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let package = package.map(str::to_owned).ok_or_else(|| LabError::Program {
            program: "apt-cache",
            package: "apt",
            said: "linux-image-cloud-amd64 is not known; run apt-get update".to_owned(),
        })?;
        let mut download = Command::new("apt-get");
        download.args(["download", &package]).current_dir(dir);
        run(&mut download, "apt-get", "apt")?;
        let listing = std::fs::read_dir(dir).map_err(system(doing()))?;
        let archive = listing.flatten().map(|entry| entry.path());
        let mut archive = archive.filter(|path| path.extension().is_some_and(|e| e == "deb"));
        let archive = archive.next().ok_or_else(|| io::ErrorKind::NotFound.into());
        let archive = archive.map_err(system(doing()))?;
        let mut unpack = Command::new("dpkg-deb");
        run(unpack.arg("-x").arg(&archive).arg(dir), "dpkg-deb", "dpkg")?;
        let _ = std::fs::remove_file(archive);
        Self::find(dir).ok_or_else(|| system(doing())(io::ErrorKind::NotFound.into()))
    }

    fn find(dir: &Path) -> Option<Self> {
        let listing = std::fs::read_dir(dir.join("boot")).ok()?;
        listing.flatten().find_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix("vmlinuz-")?.to_owned();
            Some(Self { image: entry.path(), root: dir.to_owned(), version })
        })
    }

    /// Makes a guest that lives in memory, with these programs of the host.
    ///
    /// # Errors
    /// Something it is made of is missing.
    pub fn initramfs(&self, out: &Path, programs: &[&str]) -> Result<(), LabError> {
        let script = out.with_extension("sh");
        std::fs::write(&script, INITRAMFS).map_err(system("the guest cannot be made"))?;
        let mut command = Command::new("sh");
        command.arg(&script).args([out, &self.root]).arg(&self.version).args(programs);
        let made = run(
            &mut command,
            "the making of the guest",
            "busybox-static, cpio, kmod and \
                        qemu-guest-agent",
        );
        let _ = std::fs::remove_file(&script);
        made.map(drop)
    }
}

/// A disk of a machine.
#[derive(Clone, Debug)]
pub struct LabDisk {
    pub path: PathBuf,
    pub format: String,
    /// What its device is called.
    pub name: String,
}

/// How a machine boots.
#[derive(Clone, Debug)]
pub enum Boot {
    /// By its own boot loader.
    Disk,
    /// This kernel, with this file system in memory and these words.
    Kernel { image: PathBuf, initrd: PathBuf, words: String },
}

/// Whether a machine may change its disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writes {
    Kept,
    /// They go with the machine.
    Thrown,
}

/// What carries out a machine's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Accel {
    /// The processor, where the kernel of this host lets it.
    Kvm,
    #[default]
    Tcg,
}

/// What a machine is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    pub disks: Vec<LabDisk>,
    pub boot: Boot,
    pub writes: Writes,
    pub memory_mib: u64,
    pub accel: Accel,
    /// More words for QEMU, which count where they differ from what is said before them.
    pub more: Vec<String>,
}

/// A running machine; it ends with its value.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    dir: PathBuf,
}

impl Machine {
    /// Starts a machine whose sockets and console are in `dir`.
    ///
    /// # Errors
    /// There is no QEMU, or it does not start.
    pub fn start(dir: &Path, setup: &Setup) -> Result<Self, LabError> {
        let Setup { disks, boot, writes, memory_mib, accel, more } = setup;
        std::fs::create_dir_all(dir).map_err(system(format!("{}", dir.display())))?;
        let mut machine = Command::new(QEMU);
        machine.args(["-name", "lab", "-uuid", "5c0b7f4e-0000-4000-8000-000000000001"]);
        machine.args(match accel {
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accel::Tcg => ["-accel", "tcg", "-cpu", "max"],
        });
        machine.args(["-nodefaults", "-display", "none", "-nic", "none"]);
        machine.args(["-no-reboot", "-m", &memory_mib.to_string()]);
        match boot {
            Boot::Disk => {}
            Boot::Kernel { image, initrd, words } => {
                machine.arg("-kernel").arg(image).arg("-initrd").arg(initrd);
                machine.arg("-append").arg(format!("{WORDS} {words}"));
            }
        }
        if *writes == Writes::Thrown {
            machine.arg("-snapshot");
        }
        let text = |path: &Path| path.to_string_lossy().replace(',', ",,");
        for LabDisk { path, format, name } in disks {
            let drive = format!("if=none,id={name},format={format},file={}", text(path));
            machine.arg("-drive").arg(drive);
            machine.arg("-device").arg(format!("virtio-blk-pci,drive={name},id={name}"));
        }
        let socket = |name: &str| text(&dir.join(name));
        machine.arg("-serial").arg(format!("file:{}", socket("console")));
        machine.args(["-device", "virtio-serial", "-chardev"]);
        machine.arg(format!("socket,path={},server=on,wait=off,id=qga0", socket("qga")));
        machine.args(["-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"]);
        for name in ["qmp", "qmp2"] {
            machine.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket(name)));
        }
        machine.args(more);
        let said = std::fs::File::create(dir.join("qemu.log")).map_err(system("the log"))?;
        machine.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let child = machine.spawn().map_err(|error| LabError::Program {
            program: QEMU,
            package: "qemu-system-x86",
            said: error.to_string(),
        })?;
        Ok(Self { child, dir: dir.to_owned() })
    }

    /// The socket of its monitor.
    pub fn qmp(&self) -> PathBuf {
        self.dir.join("qmp")
    }

    /// Another monitor, for whoever looks on.
    pub fn qmp_beside(&self) -> PathBuf {
        self.dir.join("qmp2")
    }

    /// The socket of its guest agent.
    pub fn guest_agent(&self) -> PathBuf {
        self.dir.join("qga")
    }

    /// What its guest wrote to the console.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console")
    }

    /// Waits until the guest agent answers.
    ///
    /// # Errors
    /// It does not within `patience`, or the machine ended.
    pub fn await_agent(&mut self, patience: Duration) -> Result<Guest, LabError> {
        let until = Instant::now() + patience;
        loop {
            self.runs()?;
            match Guest::connect(&self.guest_agent()) {
                Ok(guest) => return Ok(guest),
                Err(source) if Instant::now() > until => {
                    return Err(LabError::Agent { console: self.console(), source });
                }
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Runs a command of a shell in the guest; its exit code and what it said.
    ///
    /// # Errors
    /// The guest agent does not answer.
    pub fn shell(&mut self, text: &str) -> Result<(i64, String), LabError> {
        let guest = self.await_agent(RUN)?;
        shell(guest, text).map_err(|source| LabError::Agent { console: self.console(), source })
    }

    /// Starts a command of a shell in the guest and leaves it running.
    ///
    /// # Errors
    /// The guest agent does not answer.
    pub fn leave(&mut self, text: &str) -> Result<(), LabError> {
        let mut guest = self.await_agent(RUN)?;
        let begun = guest.command("guest-exec", &order(text, false));
        let told = |source| LabError::Agent { console: self.console(), source };
        begun.map(drop).map_err(told)
    }

    /// Whether it runs, and was not ended by its guest or somebody else.
    ///
    /// # Errors
    /// It does not; what it said.
    pub fn runs(&mut self) -> Result<(), LabError> {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                let said = std::fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
                Err(LabError::Ended { status: status.to_string(), said })
            }
            _ => Ok(()),
        }
    }

    /// The machine's process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn wait(mut self) -> io::Result<()> {
        self.child.wait().map(drop)
    }

    /// Ends it at once, as a power cut does.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // One that ended by itself is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

fn order(text: &str, capture: bool) -> Value {
    json!({ "path": "/bin/sh", "arg": ["-c", text], "capture-output": capture })
}

/// Runs a command of a shell in a guest; its exit code and what it said.
///
/// # Errors
/// The guest agent does not answer, or refuses to run anything.
pub fn shell(mut guest: Guest, text: &str) -> Result<(i64, String), GuestError> {
    let begun = guest.command("guest-exec", &order(text, true))?;
    let until = Instant::now() + RUN;
    loop {
        let state = guest.command("guest-exec-status", &json!({ "pid": begun["pid"] }))?;
        if state["exited"] == true {
            let said = ["out-data", "err-data"].map(|key| {
                let text = state[key].as_str().unwrap_or_default();
                data_encoding::BASE64.decode(text.as_bytes()).unwrap_or_default()
            });
            let said = String::from_utf8_lossy(&said.concat()).into_owned();
            return Ok((state["exitcode"].as_i64().unwrap_or(-1), said));
        }
        if Instant::now() > until {
            return Err(GuestError::Silent { command: text.to_owned(), limit: RUN });
        }
        std::thread::sleep(LOOK);
    }
}

/// Makes an ext4 file system of `bytes` in a new image.
///
/// # Errors
/// Something it is made of is missing.
pub fn ext4(path: &Path, bytes: u64) -> Result<(), LabError> {
    let file = std::fs::File::create(path).map_err(system(format!("{}", path.display())))?;
    file.set_len(bytes).map_err(system(format!("{}", path.display())))?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(system(format!("{}", path.display())))?;
    let mut mkfs = Command::new("/sbin/mke2fs");
    run(mkfs.args(["-q", "-F", "-t", "ext4"]).arg(path), "mke2fs", "e2fsprogs").map(drop)
}

/// Writes an image in another format.
///
/// # Errors
/// There is no qemu-img, or it failed.
pub fn convert(from: (&Path, &str), to: (&Path, &str)) -> Result<(), LabError> {
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", from.1, "-O", to.1]).arg(from.0).arg(to.0);
    run(&mut convert, "qemu-img", "qemu-utils").map(drop)
}
