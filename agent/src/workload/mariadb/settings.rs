//! What the policy file says of a server, understood; and the password, from a file that only
//! its owner may read.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::workload::apps::{SettingError, Settings};
use crate::workload::mariadb::error::MariaError;
use crate::workload::mariadb::session::Dial;

const PORT: u16 = 3306;
const USER: &str = "strongroom";
/// Longest that transactions may be kept from committing, unless the policy says otherwise.
const COMMITS_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a lock of the backup is waited for, unless the policy says otherwise.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// Longest it may be set to: while it waits, others wait behind it.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3600);

/// How the files are to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WantedWay {
    /// By snapshot where the data directory can be snapshot, by stream otherwise.
    Auto,
    Snapshot,
    Stream,
}

/// A server as the policy file says it.
#[derive(Clone, Debug)]
pub struct Target {
    pub dial: Dial,
    /// The data directory as this host sees it; none: as the server says.
    pub data: Option<PathBuf>,
    pub way: WantedWay,
    /// Where mariabackup is, if not where programs are.
    pub program: Option<PathBuf>,
    /// Longest that transactions may be kept from committing.
    pub commits_wait_max: Duration,
}

impl Target {
    /// From the words of the policy.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn read(settings: &Settings) -> Result<Self, MariaError> {
        let unusable = |key, value: &str| SettingError::Unusable { key, value: value.to_owned() };
        let way = match settings.get("way") {
            None | Some("auto") => WantedWay::Auto,
            Some("snapshot") => WantedWay::Snapshot,
            Some("stream") => WantedWay::Stream,
            Some(other) => return Err(unusable("way", other).into()),
        };
        let host = settings.wanted("host")?;
        if !is_here(host) {
            return Err(unusable("host", host).into());
        }
        let seconds = |key| settings.parsed::<u64>(key).map(|s| s.map(Duration::from_secs));
        let lock_wait = seconds("lock_wait")?.unwrap_or(LOCK_WAIT);
        let commits_wait_max = seconds("freeze_deadline")?.unwrap_or(COMMITS_WAIT_MAX);
        if lock_wait.is_zero() || lock_wait > LOCK_WAIT_MAX {
            return Err(unusable("lock_wait", &lock_wait.as_secs().to_string()).into());
        }
        if commits_wait_max.is_zero() {
            return Err(unusable("freeze_deadline", "0").into());
        }
        let password = settings.get("password_file").map(|path| password(Path::new(path)));
        Ok(Self {
            dial: Dial {
                host: host.to_owned(),
                port: settings.parsed("port")?.unwrap_or(PORT),
                user: settings.get("user").unwrap_or(USER).to_owned(),
                password: password.transpose()?,
                lock_wait_seconds: lock_wait.as_secs(),
            },
            data: settings.get("data").map(PathBuf::from),
            way,
            program: settings.get("program").map(PathBuf::from),
            commits_wait_max,
        })
    }
}

/// Files are read on the server's host, and the password goes unsealed: nothing else will do.
fn is_here(host: &str) -> bool {
    let loopback = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    host.starts_with('/') || loopback
}

fn password(path: &Path) -> Result<String, MariaError> {
    let refused = |why: String| MariaError::PasswordFile { path: path.to_owned(), why };
    let meta = fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(refused(format!("others may read it (mode {mode:o}); chmod 600")));
    }
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(refused("it is empty".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Target, MariaError> {
        let owned = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Target::read(&Settings::new(owned.collect()))
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let target = read(&[("host", "/run/mysqld/mysqld.sock")]).unwrap();
        assert_eq!((target.dial.user.as_str(), target.way), ("strongroom", WantedWay::Auto));
        assert_eq!(target.commits_wait_max, Duration::from_secs(10));
        for pairs in [
            [("host", "db.example.com"), ("port", "3306")],
            [("host", "::1"), ("way", "dump")],
            [("host", "::1"), ("lock_wait", "0")],
            [("host", "::1"), ("lock_wait", "7200")],
            [("host", "::1"), ("freeze_deadline", "0")],
            [("host", "::1"), ("port", "high")],
        ] {
            assert!(read(&pairs).is_err(), "{pairs:?}");
        }
    }
}
