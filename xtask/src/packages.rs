//! The Debian packages the tests run against. Installed only when a program is missing, without
//! recommended extras; when that cannot be done the run fails and says which package is wanted.

mod backports;
pub(crate) mod kernel;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::parts::must;

/// A program a test runs, the package that brings it (with others it needs, after spaces), and
/// what for.
struct Wanted {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

/// A machine in a guest of busybox, for the workloads that are virtual machines.
const GUEST: &[Wanted] = &[
    Wanted { program: "busybox", package: "busybox-static", why: "a guest in memory" },
    Wanted { program: "cpio", package: "cpio", why: "a guest in memory" },
    Wanted { program: "depmod", package: "kmod", why: "the modules of a guest's kernel" },
    Wanted { program: "mke2fs", package: "e2fsprogs", why: "the disks of a guest" },
    Wanted { program: "nbdcopy", package: "libnbd-bin", why: "a second client of block devices" },
];
/// All of QEMU in one version: one that is partly there would lose what it has.
const QEMU: &[Wanted] = &[
    Wanted { program: "qemu-system-x86_64", package: "qemu-system-x86", why: "real machines" },
    Wanted { program: "qemu-nbd", package: "qemu-utils", why: "a real block device server" },
    Wanted { program: "qemu-ga", package: "qemu-guest-agent", why: "the agent in a guest" },
    Wanted { program: "qemu/block-iscsi.so", package: "qemu-block-extra", why: "tape in a guest" },
];

/// After QEMU: it would bring an older one.
const LIBVIRT: &[Wanted] = &[
    Wanted { program: "virsh", package: "libvirt-clients", why: "machines through libvirt" },
    Wanted {
        program: "libvirtd",
        package: "libvirt-daemon-driver-qemu libvirt-daemon-system",
        why: "a real libvirt that runs machines",
    },
];

const WANTED: &[Wanted] = &[
    Wanted { program: "rsync", package: "rsync", why: "an independent copy to compare with" },
    Wanted { program: "setfattr", package: "attr", why: "extended attributes of test trees" },
    Wanted { program: "setfacl", package: "acl", why: "access control lists of test trees" },
    Wanted { program: "mkfs.xfs", package: "xfsprogs", why: "a real XFS to read" },
    Wanted { program: "ntfs-3g", package: "ntfs-3g", why: "a real NTFS to read" },
    Wanted { program: "mkfs.btrfs", package: "btrfs-progs", why: "snapshots of a real btrfs" },
    Wanted { program: "mkfs.vfat", package: "dosfstools", why: "images with FAT" },
    Wanted { program: "mcopy", package: "mtools", why: "files into images without a mount" },
    Wanted { program: "sfdisk", package: "fdisk", why: "images with partitions" },
    Wanted {
        program: "mariadbd",
        package: "mariadb-server",
        why: "a second real server to protect",
    },
    Wanted { program: "mbstream", package: "mariadb-backup", why: "what streams that server" },
    Wanted { program: "pg_ctlcluster", package: "postgresql", why: "a real server to protect" },
    Wanted {
        program: "samba-tool",
        package: "samba samba-ad-dc samba-ad-provision samba-dsdb-modules samba-vfs-modules",
        why: "a real Active Directory",
    },
    Wanted { program: "winbindd", package: "winbind", why: "a real domain controller" },
    Wanted { program: "ldapsearch", package: "ldap-utils", why: "a second reader of a domain" },
    Wanted { program: "ip", package: "iproute2", why: "a network for each domain controller" },
    Wanted {
        program: "go",
        package: "golang-go golang-github-vmware-govmomi-dev",
        why: "vcsim, a simulated vSphere server",
    },
    Wanted { program: "sqlite3", package: "sqlite3", why: "a second reader of the catalog" },
    Wanted { program: "tgtd", package: "tgt", why: "a real tape library over iSCSI" },
    Wanted { program: "python3", package: "python3", why: "a second reader of media" },
];

/// Where system programs lie when PATH does not name it.
const SYSTEM_FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Installs what is missing; afterwards every program is there or the run has failed.
pub(crate) fn ensure() -> Result<()> {
    let plain: Vec<&Wanted> = WANTED.iter().collect();
    bring(&plain, &[], &[])?;
    ensure_machines()
}

/// Installs what machines need, and clients of their disks.
pub(crate) fn ensure_machines() -> Result<()> {
    let guest: Vec<&Wanted> = GUEST.iter().collect();
    bring(&guest, &[], &[])?;
    let qemu: Vec<&Wanted> = QEMU.iter().collect();
    if qemu.iter().any(|wanted| !present(wanted.program)) {
        let apt = backports::Apt::make()?;
        bring(&qemu, &apt.options(), &["-t", &apt.release])?;
    }
    let libvirt: Vec<&Wanted> = LIBVIRT.iter().collect();
    bring(&libvirt, &[], &[])?;
    kernel::ensure()
}

fn bring(wanted: &[&Wanted], options: &[String], release: &[&str]) -> Result<()> {
    let missing: Vec<&&Wanted> = wanted.iter().filter(|wanted| !present(wanted.program)).collect();
    if missing.is_empty() {
        println!("    all {} programs are there", wanted.len());
        return Ok(());
    }
    for wanted in &missing {
        println!("    missing: {} (package {}): {}", wanted.program, wanted.package, wanted.why);
    }
    // With a release of its own the whole group comes from it.
    let named: Vec<&str> = if release.is_empty() {
        missing.iter().map(|wanted| wanted.package).collect()
    } else {
        wanted.iter().map(|wanted| wanted.package).collect()
    };
    let group: Vec<&str> = named.iter().flat_map(|package| package.split(' ')).collect();
    install(&group, options, release)?;
    let still = missing.iter().filter(|wanted| !present(wanted.program));
    let still: Vec<&str> = still.map(|wanted| wanted.program).collect();
    if still.is_empty() {
        return Ok(());
    }
    bail!("installed {group:?}, but {still:?} cannot be found")
}

fn install(packages: &[&str], options: &[String], release: &[&str]) -> Result<()> {
    if !present("apt-get") {
        bail!("the tests need the Debian packages {packages:?}, and there is no apt-get here");
    }
    let wish =
        || format!("as root: apt-get install --no-install-recommends {}", packages.join(" "));
    let mut update = apt_get(&["update"])?;
    must(update.args(options).stdout(Stdio::null())).with_context(wish)?;
    let mut install = apt_get(&["install", "--yes", "--no-install-recommends"])?;
    install.args(options).args(release).args(packages);
    must(install.stdout(Stdio::null())).with_context(wish)
}

fn apt_get(arguments: &[&str]) -> Result<Command> {
    let mut command = if is_root()? {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "apt-get"]);
        sudo
    };
    command.args(arguments).args(["-o", "DPkg::Lock::Timeout=600"]);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    Ok(command)
}

fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().context("cannot run `id -u`")?;
    Ok(output.stdout.trim_ascii() == b"0")
}

/// A program by its name, or a library of one by its path below a folder of `/usr/lib`.
fn present(program: &str) -> bool {
    if program.contains('/') {
        let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        return folders.into_iter().any(|folder| folder.path().join(program).is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    named || SYSTEM_FOLDERS.iter().any(|folder| Path::new(folder).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_path_and_not_invented() {
        assert!(present("sh"));
        assert!(!present("no-such-program-of-strongroom"));
    }
}
