//! The story of a virtual machine: a guest that writes is protected, its disk is destroyed, and
//! it boots again from each copy by itself with everything it had written down.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use strongroom_agent::vmlab::{
    Accel, Boot, Kernel, LabDisk, MEMORY_MIB, Machine, Setup, Writes, convert, ext4,
};

use super::rows::{Row, table};
use super::story::Lab;
use super::telling::Telling;
use crate::output::Output;

/// The workload's name in the lab's policy.
const WORKLOAD: &str = "lab-vm@host1";
const DISK: &str = "vda";
const DISK_BYTES: u64 = 512 << 20;
/// A guest without acceleration takes a few seconds; on a busy host many.
const BOOT: Duration = Duration::from_secs(180);
/// What the guest holds before it is protected, with its sums.
const FILL: &str = "cd /mnt/vda && mkdir data && for n in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom \
    of=data/$n bs=1M count=4 2>/dev/null; done && sha256sum data/* > sums && sync";
/// What it goes on writing: a journal of numbers, and files that come and go.
const LOAD: &str = "setsid sh -c 'cd /mnt/vda; n=0; while :; do n=$((n+1)); echo $n >> journal; \
    dd if=/dev/urandom of=scratch$((n%7)) bs=64k count=4 2>/dev/null; sync; sleep 0.05; done' \
    >/dev/null 2>&1 &";
/// What must hold after a restore: the sums, and a journal without a gap.
const CHECK: &str = "cd /mnt/vda && sha256sum -c -s sums && \
    awk 'NR != $1 { exit 1 } END { if (NR < 1) exit 1 }' journal";

/// Tells it; whether everything came back.
pub(crate) fn story(
    dir: &Path,
    kernel: Option<&Path>,
    tell: &Telling,
    out: &Output,
) -> anyhow::Result<bool> {
    let kernel_dir = kernel.map_or_else(|| dir.join("kernel"), Path::to_owned);
    tell.begin("starting a machine");
    let began = Instant::now();
    let (mut machine, disk) = start(dir, &kernel_dir)?;
    let (code, said) = machine.shell(FILL)?;
    ensure!(code == 0, "the guest could not be filled: {said}");
    machine.leave(LOAD)?;
    let booted = Row::new("a machine booted, its guest writes", began.elapsed());
    let mut lab = Lab::raise(dir, dir, tell)?;
    lab.rows.insert(0, booted);
    WORKLOAD.clone_into(&mut lab.watched);
    lab.apply_text(tell, &policy(&machine)?)?;
    lab.protect(tell, "protect the machine, under load", WORKLOAD)?;
    std::thread::sleep(Duration::from_secs(2));
    lab.protect(tell, "protect it again, what it wrote since", WORKLOAD)?;
    lab.await_copy(tell, "secondary snap at site b, read back", "secondary", "readable")?;
    lab.await_copy(tell, "aux copy on media, read back", "tape", "hash-verified")?;
    tell.begin("killing the machine and destroying its disk");
    machine.kill();
    std::fs::remove_file(&disk).with_context(|| format!("{}", disk.display()))?;
    let point = lab.latest(WORKLOAD)?["id"].as_str().context("no point")?.to_owned();
    let prove = Prove { point, kernel: kernel_dir };
    prove.from(&mut lab, tell, "booted from the primary snap", &["--from", "a"])?;
    lab.lose_site_a(tell)?;
    prove.from(&mut lab, tell, "site a lost: booted from the secondary", &["--from", "b"])?;
    let media = lab.lose_site_b(tell)?.to_string_lossy().into_owned();
    let key = dir.join("recovery-key").to_string_lossy().into_owned();
    let how = ["--media", media.as_str(), "--recovery-key-file", key.as_str()];
    prove.from(&mut lab, tell, "both sites lost: booted from media alone", &how)?;
    lab.put_back()?;
    tell.end();
    if out.is_json() {
        out.json(&serde_json::json!({ "stages": lab.rows, "differences": lab.differences }))?;
    } else {
        println!("{}", table(&lab.rows));
        println!("peak memory: {}\n", lab.peaks.join(", "));
        println!("The machine came back from every copy. To remove the lab:");
        println!("  rm -r {}", dir.display());
    }
    Ok(lab.differences == 0)
}

fn start(dir: &Path, kernel_dir: &Path) -> anyhow::Result<(Machine, PathBuf)> {
    let place = dir.join("vm");
    std::fs::create_dir_all(&place)?;
    let kernel = Kernel::get(kernel_dir)?;
    let (initrd, raw, disk) =
        (place.join("initrd"), place.join("vda.raw"), place.join("vda.qcow2"));
    kernel.initramfs(&initrd, &[])?;
    ext4(&raw, DISK_BYTES)?;
    convert((&raw, "raw"), (&disk, "qcow2"))?;
    std::fs::remove_file(raw)?;
    let image = LabDisk { path: disk.clone(), format: "qcow2".into(), name: DISK.into() };
    let boot = Boot::Kernel { image: kernel.image, initrd, words: String::new() };
    let (disks, writes) = (vec![image], Writes::Kept);
    let (accel, more) = (Accel::Tcg, Vec::new());
    let setup = Setup { disks, boot, writes, memory_mib: MEMORY_MIB, accel, more };
    let mut machine = Machine::start(&place, &setup)?;
    machine.await_agent(BOOT)?;
    Ok((machine, disk))
}

fn policy(machine: &Machine) -> anyhow::Result<String> {
    let quoted = |path: PathBuf| toml::Value::String(path.to_string_lossy().into()).to_string();
    Ok(format!(
        r#"# The storage policy of the lab.

[policy.standard]
schedule = "daily 22:00"
timezone = "Europe/London"
require = "crash"

[policy.standard.primary]
keep = {{ newest = 10, days = 14 }}

[policy.standard.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "proxy"
keep = {{ newest = 10, days = 30 }}

[policy.standard.copy.tape]
kind = "aux"
from = "secondary"
media_set = "weekly"
min_proof = "hash-verified"
keep = {{ newest = 10, years = 7 }}

[workload."{WORKLOAD}"]
agent = "host1"
kind = "vm"
machine = "lab"
qmp = {}
guest_agent = {}
policy = "standard"
"#,
        quoted(machine.qmp()),
        quoted(machine.guest_agent()),
    ))
}

/// A point that is to boot.
struct Prove {
    point: String,
    kernel: PathBuf,
}

impl Prove {
    fn from(&self, lab: &mut Lab, tell: &Telling, stage: &str, how: &[&str]) -> anyhow::Result<()> {
        tell.begin(stage);
        let began = Instant::now();
        let kernel = self.kernel.to_string_lossy().into_owned();
        let mut words = vec!["vm", "prove", &self.point, "--lab-kernel", &kernel];
        words.extend(["--check", CHECK]);
        words.extend_from_slice(how);
        let proved = lab.tool.json(&words)?;
        let seconds = proved["booted_seconds"].as_f64().unwrap_or_default();
        lab.rows.push(Row {
            proof: format!("guest answered after {seconds:.1} s, its data is right"),
            ..Row::new(stage, began.elapsed())
        });
        Ok(())
    }
}
