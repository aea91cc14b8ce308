//! The whole domain, for a forest that is to be built again: the backup that `samba-tool` makes
//! on a domain controller, kept unpacked, and SYSVOL beside it; and whether both halves of each
//! group policy are of one version.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::workload::directory::ldap::Server;

/// The database of a domain controller of this host, where Debian and others have it.
const DATABASE: &str = "/var/lib/samba/private/sam.ldb";
/// The program that makes and restores backups of a domain.
pub(super) const TOOL: &str = "samba-tool";
/// What `samba-tool` puts group policies into, within its backup.
const SYSVOL: &str = "sysvol.tar.gz";

/// Runs a script of Python whose archives are written as they are.
const PLAIN: &str = r#"
import runpy, sys, tarfile
packed = tarfile.open
def plain(name=None, mode="r", *rest, **named):
    return packed(name, "w" if mode.startswith("w:") else mode, *rest, **named)
tarfile.open = plain
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"#;

/// How the whole domain is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// By replication from the domain controller that is asked.
    Online,
    /// From the files of the domain controller of this host.
    Offline,
}

/// The whole domain could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// Neither did what it was for.
    #[error("{program} failed ({status}): {said}")]
    Failed { program: String, status: String, said: String },
    /// A file of the backup.
    #[error("{}: the backup of the domain cannot be unpacked", .path.display())]
    File { path: PathBuf, source: io::Error },
    /// It is not there.
    #[error("{program} cannot be run; the whole domain needs it, or say domain = \"none\"")]
    Program { program: String, source: io::Error },
    /// A domain that was built again does not run.
    #[error("the domain controller does not come up: {said}")]
    Silent { said: String },
}

impl Way {
    /// What is done where the policy does not say: offline on a domain controller.
    pub(super) fn usual(samba_config: Option<&Path>) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let there = std::env::split_paths(&path).any(|dir| dir.join(TOOL).is_file());
        let controller = samba_config.is_some() || Path::new(DATABASE).is_file();
        (there && controller).then_some(Self::Offline)
    }
}

/// The whole domain, unpacked on this host until it is dropped.
#[derive(Debug)]
pub struct Unpacked {
    dir: tempfile::TempDir,
}

impl Unpacked {
    /// Takes the domain into a new directory below `scratch`.
    ///
    /// # Errors
    /// The programs for it are not there, or fail.
    pub fn take(
        way: Way,
        server: &Server,
        samba_config: Option<&Path>,
        scratch: &Path,
    ) -> Result<Self, DomainError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| DomainError::File { path, source }
        };
        fs::create_dir_all(scratch).map_err(file(scratch))?;
        let made = tempfile::tempdir_in(scratch);
        let made = Self { dir: made.map_err(file(scratch))? };
        let packed = made.dir.path().join("packed");
        fs::create_dir(&packed).map_err(file(&packed))?;
        let mut tool = uncompressed();
        tool.args(["domain", "backup"]);
        match way {
            Way::Offline => tool.arg("offline"),
            Way::Online => tool.arg("online").arg("--server").arg(host(&server.url)),
        };
        tool.arg("--targetdir").arg(&packed);
        if let Some(config) = samba_config {
            tool.arg("--configfile").arg(config);
        }
        if way == Way::Online {
            let password = made.dir.path().join("password");
            strongroom_certs::files::write_private(&password, server.password.as_bytes())
                .map_err(|error| file(&password)(io::Error::other(error)))?;
            tool.arg("-U").arg(&server.bind).env("PASSWD_FILE", &password);
        }
        run(TOOL, &mut tool)?;
        let mut made_here = fs::read_dir(&packed).map_err(file(&packed))?.flatten();
        let tar = made_here.next().map(|entry| entry.path()).unwrap_or_default();
        unpack(&tar, &made.domain())?;
        let sysvol = made.domain().join(SYSVOL);
        if sysvol.is_file() {
            unpack(&sysvol, &made.sysvol())?;
        }
        // What stays is read; twice as much need not lie there meanwhile.
        fs::remove_dir_all(&packed).map_err(file(&packed))?;
        Ok(made)
    }

    /// What was in the backup of `samba-tool`: to be packed again for its `restore`.
    pub fn domain(&self) -> PathBuf {
        self.dir.path().join("domain")
    }

    /// Group policies and scripts; access lists beside them as `.NTACL`.
    pub fn sysvol(&self) -> PathBuf {
        self.dir.path().join("sysvol")
    }

    /// The version each group policy has in SYSVOL, by its GUID as it is written.
    pub(super) fn policy_versions(&self) -> BTreeMap<String, u64> {
        let mut versions = BTreeMap::new();
        for domain in listed(&self.sysvol()) {
            for policy in listed(&domain.join("Policies")) {
                let named = |path: &PathBuf| {
                    path.file_name().is_some_and(|name| name.eq_ignore_ascii_case("gpt.ini"))
                };
                let text = listed(&policy).into_iter().find(named);
                let text = text.and_then(|path| fs::read(path).ok()).unwrap_or_default();
                let version = version(&String::from_utf8_lossy(&text));
                let name = policy.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
                if let (Some(version), true) = (version, name.starts_with('{')) {
                    versions.insert(name.to_uppercase(), version);
                }
            }
        }
        versions
    }
}

/// `samba-tool` packing without compressing: what it packs is unpacked at once, and its bzip2
/// would take most of the time of a point. As it is where it is no program of Python.
fn uncompressed() -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tool = std::env::split_paths(&path).map(|dir| dir.join(TOOL)).find(|path| path.is_file());
    let text = tool.as_ref().and_then(|tool| fs::read_to_string(tool).ok()).unwrap_or_default();
    let (Some(tool), Some(python)) = (tool, python_of(&text)) else {
        return Command::new(TOOL);
    };
    let mut python = Command::new(python);
    python.arg("-c").arg(PLAIN).arg(tool);
    python
}

/// The Python that a script is run by.
fn python_of(script: &str) -> Option<&str> {
    let program = script.lines().next()?.strip_prefix("#!")?.trim();
    let name = program.rsplit('/').next().unwrap_or_default();
    (name.starts_with("python") && !program.contains(' ')).then_some(program)
}

fn version(ini: &str) -> Option<u64> {
    let lines = ini.lines().filter_map(|line| line.split_once('='));
    let mut named = lines.filter(|(key, _)| key.trim().eq_ignore_ascii_case("version"));
    named.next()?.1.trim().parse().ok()
}

fn listed(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The host of an address.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find([':', '/']).unwrap_or(rest.len());
    rest.get(..end).unwrap_or(rest)
}

/// Unpacks an archive however it is compressed: `samba-tool` is of Python, so Python is there.
fn unpack(archive: &Path, to: &Path) -> Result<(), DomainError> {
    let mut python = Command::new("python3");
    run("python3", python.args(["-m", "tarfile", "-e"]).arg(archive).arg(to)).map(drop)
}

/// Runs a program; what it said.
pub(super) fn run(program: &str, command: &mut Command) -> Result<String, DomainError> {
    let program = program.to_owned();
    let output: Output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| DomainError::Program { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let said = text.lines().rfind(|line| !line.trim().is_empty());
    let said = said.unwrap_or("it said nothing").to_owned();
    Err(DomainError::Failed { program, status: output.status.to_string(), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_hosts_are_read_as_they_are_written() {
        assert_eq!(version("[General]\r\nVersion=65537\r\n"), Some(65537));
        assert_eq!(version("[General]\nversion = 3\ndisplayName=x"), Some(3));
        assert_eq!(version("[General]\n"), None);
        assert_eq!(host("ldaps://dc1.test.lan:636/x"), "dc1.test.lan");
        assert_eq!(host("ldaps://dc1.test.lan"), "dc1.test.lan");
        assert_eq!(python_of("#! /usr/bin/python3\nimport x"), Some("/usr/bin/python3"));
        assert_eq!(python_of("#!/usr/bin/env python3\n"), None);
        assert_eq!(python_of("\x7fELF"), None);
    }
}
