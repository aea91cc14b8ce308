//! A guest of busybox with a database on its disk, to which it writes from its first moment on,
//! saying so on its console.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::packages::kernel;
use crate::parts::{must, root};

const DISK_BYTES: u64 = 512 << 20;
/// A guest without acceleration takes a few seconds; on a busy host many.
const BOOT: Duration = Duration::from_secs(180);
/// On a host that has much else to do a guest's clock stands still at times: it is not to fret.
const WORDS: &str = "console=ttyS0 quiet loglevel=0 panic=-1 no_timer_check nowatchdog \
    rcupdate.rcu_cpu_stall_suppress=1";
/// What the guest runs: every row is a transaction, and every transaction a tick.
const LOAD: &str = "cd /mnt/vda
sqlite3 db 'pragma journal_mode=wal; create table if not exists t(n integer primary key, x blob);'
n=0
while :; do
  n=$((n+1))
  sqlite3 db 'pragma synchronous=full; insert into t(x) values (randomblob(9000));'
  dd if=/dev/urandom of=f$((n%7)) bs=64k count=$((n%5+1)) 2>/dev/null
  sync
  echo TICK > /dev/ttyS0
done
";

/// A running machine; it ends with its value.
pub(crate) struct Guest {
    child: Child,
    dir: PathBuf,
}

impl Guest {
    pub(crate) fn start(dir: &Path, kernel_dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (image, version) = kernel::image(kernel_dir)?;
        let (initrd, raw, disk) = (dir.join("initrd"), dir.join("raw"), dir.join("vda.qcow2"));
        let script = root().join("agent/src/vmlab/initramfs.sh");
        let mut make = Command::new("sh");
        must(make.arg(script).args([&initrd, kernel_dir]).args([&version, "sqlite3"]))?;
        std::fs::File::create(&raw)?.set_len(DISK_BYTES)?;
        must(Command::new("/sbin/mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&raw))?;
        let mut convert = Command::new("qemu-img");
        must(convert.args(["convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &disk]))?;
        std::fs::remove_file(raw)?;
        let load = dir.join("load");
        std::fs::write(&load, LOAD)?;
        let encoded = Command::new("base64").arg("-w0").arg(&load).output()?.stdout;
        let words = format!("{WORDS} lab.run={}", String::from_utf8_lossy(&encoded).trim());
        let place = |name: &str| dir.join(name).display().to_string();
        let mut machine = Command::new("qemu-system-x86_64");
        machine.args(["-name", "lab", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-m", "256"]);
        machine.args(["-display", "none", "-no-reboot", "-append", &words]);
        machine.arg("-kernel").arg(image).arg("-initrd").arg(initrd);
        machine.arg("-drive").arg(format!("if=none,id=vda,format=qcow2,file={}", disk.display()));
        machine.args(["-device", "virtio-blk-pci,drive=vda,id=vda", "-device", "virtio-serial"]);
        machine.arg("-serial").arg(format!("file:{}", place("console")));
        let socket = format!("socket,path={},server=on,wait=off,id=qga0", place("qga"));
        machine.arg("-chardev").arg(socket);
        machine.args(["-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"]);
        machine.arg("-qmp").arg(format!("unix:{},server=on,wait=off", place("qmp")));
        let child = machine.stdin(Stdio::null()).spawn().context("qemu-system-x86_64")?;
        let mut guest = Self { child, dir: dir.to_owned() };
        let until = Instant::now() + BOOT;
        while guest.ticks().unwrap_or_default() < 2 {
            if let Some(status) = guest.child.try_wait()? {
                bail!("the machine ended ({status})");
            }
            ensure!(Instant::now() < until, "the guest does not write; see {}", place("console"));
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(guest)
    }

    pub(crate) fn qmp(&self) -> PathBuf {
        self.dir.join("qmp")
    }

    pub(crate) fn guest_agent(&self) -> PathBuf {
        self.dir.join("qga")
    }

    /// How often the guest has written.
    pub(crate) fn ticks(&self) -> Result<usize> {
        let said = std::fs::read_to_string(self.dir.join("console"))?;
        Ok(said.matches("TICK").count())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // One that ended by itself is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
