//! The package sources of this host with the backports of its release beside them, for one
//! installation: nothing of the host's own configuration is changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// Such a configuration.
pub(super) struct Apt {
    dir: TempDir,
    /// What `-t` is told.
    pub(super) release: String,
}

impl Apt {
    pub(super) fn make() -> Result<Self> {
        let system = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
        let codename = system.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let codename = codename.context("/etc/os-release names no release")?.trim_matches('"');
        let dir = tempfile::tempdir()?;
        let parts = dir.path().join("parts");
        fs::create_dir_all(&parts)?;
        fs::create_dir_all(dir.path().join("lists/partial"))?;
        let mut found = false;
        for path in sources()? {
            let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
            let Some(more) = with_backports(&text, codename) else { continue };
            let name = path.file_name().context("a file has a name")?;
            fs::write(parts.join(name), more)?;
            found = true;
        }
        if !found {
            bail!("no package source of {codename} is known here: QEMU cannot be installed");
        }
        Ok(Self { dir, release: format!("{codename}-backports") })
    }

    /// The words that make apt use it.
    pub(super) fn options(&self) -> Vec<String> {
        let place = |name: &str| self.dir.path().join(name).to_string_lossy().into_owned();
        let settings = [
            format!("Dir::Etc::sourceparts={}", place("parts")),
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::State::lists={}", place("lists")),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
        ];
        settings.into_iter().flat_map(|setting| ["-o".to_owned(), setting]).collect()
    }
}

fn sources() -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::from("/etc/apt/sources.list")];
    let listing = fs::read_dir("/etc/apt/sources.list.d").context("/etc/apt/sources.list.d")?;
    found.extend(listing.flatten().map(|entry| entry.path()));
    let used = |path: &Path| path.extension().is_some_and(|e| e == "sources" || e == "list");
    found.retain(|path| used(path) && path.is_file());
    Ok(found)
}

/// The text with the backports wherever the release's updates are; none where they are not.
fn with_backports(text: &str, codename: &str) -> Option<String> {
    let (updates, backports) = (format!("{codename}-updates"), format!("{codename}-backports"));
    let mut more = String::new();
    let mut found = false;
    for line in text.lines() {
        let line = line.trim_end();
        let here = line.split_whitespace().any(|word| word == updates);
        found |= here && !line.starts_with('#');
        match here {
            true if line.starts_with("Suites:") => more.push_str(&format!("{line} {backports}")),
            true => more.push_str(&format!("{line}\n{}", line.replace(&updates, &backports))),
            false => more.push_str(line),
        }
        more.push('\n');
    }
    found.then_some(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_stand_beside_the_updates_in_both_formats() {
        let new = "Types: deb\nSuites: bookworm bookworm-updates\nComponents: main\n";
        let more = with_backports(new, "bookworm").unwrap();
        assert!(more.contains("Suites: bookworm bookworm-updates bookworm-backports\n"), "{more}");
        let old = "deb mirror:/x bookworm main\ndeb mirror:/x bookworm-updates main\n";
        let more = with_backports(old, "bookworm").unwrap();
        assert!(more.ends_with("deb mirror:/x bookworm-backports main\n"), "{more}");
        assert_eq!(with_backports("Suites: other-updates\n", "bookworm"), None);
    }
}
