//! Where a restored cluster is to recover to, and the settings and the signal that make the
//! server do it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use strongroom_agent::workload::postgres::about::ClusterPoint;
use strongroom_agent::workload::postgres::lsn::Lsn;
use strongroom_protocol::WorkloadName;

use crate::failure::{Failure, While};

/// Where the log of other points is put, in the data directory.
pub(crate) const LOG_DIRECTORY: &str = "strongroom-wal";
/// What settings of a recovery begin with: those left from an earlier one stop the server.
const OURS: [&str; 2] = ["recovery_target", "restore_command"];

/// How far to recover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Until {
    /// As far as there is log.
    Latest,
    Lsn(Lsn),
    Name(String),
    Time(String),
    Xid(u64),
}

/// Log beyond that of the point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Log {
    /// That of the point alone.
    Own,
    /// Files that lie in this directory.
    Directory(PathBuf),
    /// The points of this workload.
    Workload(WorkloadName),
}

/// What is wanted of the recovery.
#[derive(Debug, Clone)]
pub(crate) struct Recovery {
    pub(crate) until: Until,
    pub(crate) log: Log,
}

impl Recovery {
    /// Refuses what the point cannot give.
    pub(crate) fn check(&self, point: &ClusterPoint) -> Result<(), Failure> {
        if self.log == Log::Own && self.until != Until::Latest {
            return Err(Failure::usage("a place to recover to needs log beyond that of the point")
                .hint("name it with --wal-from WORKLOAD or --wal DIR"));
        }
        match &self.until {
            Until::Lsn(lsn) if *lsn < point.stop_lsn => {
                let stop = point.stop_lsn;
                Err(Failure::new(format!("this point is whole from {stop} on, {lsn} is before it"))
                    .hint("choose an older point"))
            }
            _ => Ok(()),
        }
    }

    /// The settings, as lines of a configuration file.
    pub(crate) fn settings(&self, data: &Path) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let from = |dir: &Path| {
            let dir = dir.display().to_string().replace('%', "%%");
            format!("cp \"{dir}/%f\" \"%p\"")
        };
        let command = match &self.log {
            // It has none: the server then looks into its own directory.
            Log::Own => "false".to_owned(),
            Log::Directory(dir) => from(dir),
            Log::Workload(_) => from(&data.join(LOG_DIRECTORY)),
        };
        let (wanted, value) = match &self.until {
            Until::Latest => ("", String::new()),
            Until::Lsn(lsn) => ("lsn", lsn.to_string()),
            Until::Name(name) => ("name", name.clone()),
            Until::Time(time) => ("time", time.clone()),
            Until::Xid(xid) => ("xid", xid.to_string()),
        };
        let mut lines = vec![format!("restore_command = {}", quoted(&command))];
        if !wanted.is_empty() {
            lines.push(format!("recovery_target_{wanted} = {}", quoted(&value)));
        }
        lines.push("recovery_target_inclusive = 'on'".to_owned());
        lines.push("recovery_target_timeline = 'latest'".to_owned());
        lines.push("recovery_target_action = 'promote'".to_owned());
        lines.join("\n") + "\n"
    }

    /// Writes the settings and the signal into a data directory.
    pub(crate) fn write(&self, data: &Path) -> Result<(), Failure> {
        let path = data.join("postgresql.auto.conf");
        let before = fs::read_to_string(&path).unwrap_or_default();
        let stays = |line: &&str| !OURS.iter().any(|ours| line.trim_start().starts_with(ours));
        let mut text: String =
            before.lines().filter(stays).map(|line| format!("{line}\n")).collect();
        text.push_str("# Written by `strongroom postgres restore`.\n");
        text.push_str(&self.settings(data));
        put(&path, &text)?;
        put(&data.join("recovery.signal"), "")
    }
}

/// Writes a file of a data directory, owned as its other files are.
pub(crate) fn put(path: &Path, text: &str) -> Result<(), Failure> {
    let shown = || format!("cannot write {}", path.display());
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).doing(shown())?;
    file.write_all(text.as_bytes()).doing(shown())?;
    file.sync_all().doing(shown())?;
    let dir = path.parent().unwrap_or(path);
    own_like(path, &dir.join("PG_VERSION"))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).doing(shown())
}

/// Gives a path to the owner of another.
pub(crate) fn own_like(path: &Path, other: &Path) -> Result<(), Failure> {
    let wanted = fs::metadata(other).doing(other.display().to_string())?;
    let is = fs::metadata(path).doing(path.display().to_string())?;
    if (is.uid(), is.gid()) == (wanted.uid(), wanted.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(wanted.uid()), Some(wanted.gid()))
        .doing(format!("cannot give {} to its owner", path.display()))
}

/// Gives a directory of files to the owner of another path.
pub(crate) fn give(dir: &Path, other: &Path) -> Result<(), Failure> {
    own_like(dir, other)?;
    for entry in fs::read_dir(dir).doing(dir.display().to_string())? {
        own_like(&entry.doing(dir.display().to_string())?.path(), other)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_target_is_set() {
        let log = Log::Directory("/srv/it's 100%".into());
        let until = Until::Time("2026-11-26 04:00:00+00".to_owned());
        let text = Recovery { until, log }.settings(Path::new("/data"));
        assert!(text.contains("restore_command = 'cp \"/srv/it''s 100%%/%f\" \"%p\"'"), "{text}");
        assert!(text.contains("recovery_target_time = '2026-11-26 04:00:00+00'"), "{text}");
        assert!(!text.contains("recovery_target_xid"), "{text}");
        let latest = Recovery { until: Until::Latest, log: Log::Own };
        let text = latest.settings(Path::new("/data"));
        assert!(!text.contains("recovery_target_time ="), "{text}");
        assert!(text.contains("restore_command = 'false'"), "{text}");
    }

    #[test]
    fn settings_replace_those_of_an_earlier_recovery() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
        let auto = dir.path().join("postgresql.auto.conf");
        fs::write(auto, "work_mem = '8MB'\n recovery_target_xid = '7'").unwrap();
        let latest = Recovery { until: Until::Latest, log: Log::Own };
        latest.write(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join("postgresql.auto.conf")).unwrap();
        assert!(text.starts_with("work_mem = '8MB'\n# Written"), "{text}");
        assert!(!text.contains("recovery_target_xid"), "{text}");
        assert!(dir.path().join("recovery.signal").exists());
    }
}
