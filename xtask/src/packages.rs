//! The Debian packages the tests run against. Installed only when a program is missing, without
//! recommended extras; when that cannot be done the run fails and says which package is wanted.

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

const WANTED: &[Wanted] = &[
    Wanted { program: "rsync", package: "rsync", why: "an independent copy to compare with" },
    Wanted { program: "setfattr", package: "attr", why: "extended attributes of test trees" },
    Wanted { program: "setfacl", package: "acl", why: "access control lists of test trees" },
    Wanted { program: "mkfs.btrfs", package: "btrfs-progs", why: "snapshots of a real btrfs" },
    Wanted {
        program: "samba-tool",
        package: "samba samba-ad-dc samba-ad-provision samba-dsdb-modules samba-vfs-modules",
        why: "a real Active Directory",
    },
    Wanted { program: "winbindd", package: "winbind", why: "a real domain controller" },
    Wanted { program: "ldapsearch", package: "ldap-utils", why: "a second reader of a domain" },
    Wanted { program: "ip", package: "iproute2", why: "a network for each domain controller" },
    Wanted { program: "sqlite3", package: "sqlite3", why: "a second reader of the catalog" },
];

/// Where system programs lie when PATH does not name it.
const SYSTEM_FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Installs what is missing; afterwards every program is there or the run has failed.
pub(crate) fn ensure() -> Result<()> {
    let missing: Vec<&Wanted> = WANTED.iter().filter(|wanted| !present(wanted.program)).collect();
    if missing.is_empty() {
        println!("    all {} programs are there", WANTED.len());
        return Ok(());
    }
    for wanted in &missing {
        println!("    missing: {} (package {}): {}", wanted.program, wanted.package, wanted.why);
    }
    let packages: Vec<&str> = missing.iter().flat_map(|wanted| wanted.package.split(' ')).collect();
    install(&packages)?;
    let still: Vec<&str> = missing
        .iter()
        .filter(|wanted| !present(wanted.program))
        .map(|wanted| wanted.program)
        .collect();
    if still.is_empty() {
        return Ok(());
    }
    bail!("installed {packages:?}, but {still:?} cannot be found")
}

fn install(packages: &[&str]) -> Result<()> {
    if !present("apt-get") {
        bail!("the tests need the Debian packages {packages:?}, and there is no apt-get here");
    }
    let wish =
        || format!("as root: apt-get install --no-install-recommends {}", packages.join(" "));
    must(apt_get(&["update"])?.stdout(Stdio::null())).with_context(wish)?;
    let mut install = apt_get(&["install", "--yes", "--no-install-recommends"])?;
    must(install.args(packages).stdout(Stdio::null())).with_context(wish)
}

fn apt_get(arguments: &[&str]) -> Result<Command> {
    let mut command = if is_root()? {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "apt-get"]);
        sudo
    };
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    Ok(command)
}

fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().context("cannot run `id -u`")?;
    Ok(output.stdout.trim_ascii() == b"0")
}

fn present(program: &str) -> bool {
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
