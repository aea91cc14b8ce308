//! What the policy file says of a cluster, understood; and the password, from a file that only
//! its owner may read.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::workload::apps::{SettingError, Settings};
use crate::workload::postgres::error::PgError;
use crate::workload::postgres::session::{Dial, Reach, Tls};

const PORT: u16 = 5432;
const USER: &str = "strongroom";
const DATABASE: &str = "postgres";
/// What a coordinator adds that chose a member: the cluster it must be of.
const CLUSTER: &str = "cluster";

/// What is protected of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// All of it, as it is now, read on its host.
    Direct,
    /// What was written to its log since the last point, read on its host.
    LogFiles,
    /// What was written to its log since the last point, streamed.
    LogStream,
    /// All of it, as it is now, streamed.
    Wire,
}

/// Which member of a cluster is to be protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prefer {
    Any,
    PreferStandby,
    Primary,
    StandbyOnly,
}

/// A cluster as the policy file says it.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub dial: Dial,
    pub mode: Mode,
    /// The data directory as this host sees it; none: as the server says.
    pub data: Option<PathBuf>,
    pub prefer: Prefer,
    pub lag_max: Option<Duration>,
    pub slot: Option<String>,
    /// The system identifier it must have: that of the points there are.
    pub system: Option<u64>,
}

impl Cluster {
    /// From the words of the policy.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn read(settings: &Settings) -> Result<Self, PgError> {
        let unusable = |key, value: &str| SettingError::Unusable { key, value: value.to_owned() };
        let by = settings.get("by");
        let mode = match (settings.get("mode"), by) {
            (None | Some("direct"), None) => Mode::Direct,
            (Some("wal"), None | Some("files")) => Mode::LogFiles,
            (Some("wal"), Some("stream")) => Mode::LogStream,
            (Some("wire"), None) => Mode::Wire,
            (None | Some("direct" | "wal" | "wire"), Some(by)) => {
                return Err(unusable("by", by).into());
            }
            (Some(other), _) => return Err(unusable("mode", other).into()),
        };
        let prefer = match settings.get("prefer") {
            None | Some("any") => Prefer::Any,
            Some("prefer-standby") => Prefer::PreferStandby,
            Some("primary") => Prefer::Primary,
            Some("standby-only") => Prefer::StandbyOnly,
            Some(other) => return Err(unusable("prefer", other).into()),
        };
        let host = settings.wanted("host")?;
        let reach = reach(settings, mode, host)?;
        let slot = settings.get("slot");
        if let Some(slot) = slot.filter(|slot| !is_slot(slot)) {
            return Err(unusable("slot", slot).into());
        }
        let password = settings.get("password_file").map(|path| password(Path::new(path)));
        Ok(Self {
            dial: Dial {
                host: host.to_owned(),
                port: settings.parsed("port")?.unwrap_or(PORT),
                user: settings.get("user").unwrap_or(USER).to_owned(),
                database: settings.get("database").unwrap_or(DATABASE).to_owned(),
                password: password.transpose()?,
                reach,
            },
            mode,
            data: settings.get("data").map(PathBuf::from),
            prefer,
            lag_max: settings.parsed("max_lag")?.map(Duration::from_secs),
            slot: slot.map(str::to_owned),
            system: settings.parsed(CLUSTER)?,
        })
    }
}

/// How far the server may be, and whether what is said on the way is sealed.
fn reach(settings: &Settings, mode: Mode, host: &str) -> Result<Reach, PgError> {
    let unusable = |key, value: &str| SettingError::Unusable { key, value: value.to_owned() };
    let ca_file = settings.get("ca_file");
    let (here, is_file) = (is_here(host), host.starts_with('/'));
    let tls = match settings.get("tls") {
        Some("off") => Tls::Off,
        // Nobody listens in between.
        None if here && ca_file.is_none() => Tls::Off,
        None | Some("verify") => Tls::Verify { ca_file: ca_file.map(PathBuf::from) },
        Some(other) => return Err(unusable("tls", other).into()),
    };
    match (&tls, ca_file) {
        (Tls::Off, Some(file)) => return Err(unusable("ca_file", file).into()),
        (Tls::Verify { .. }, _) if is_file => return Err(unusable("tls", "verify").into()),
        _ => {}
    }
    match mode {
        Mode::LogStream | Mode::Wire if host.is_empty() => Err(unusable("host", host).into()),
        Mode::LogStream | Mode::Wire => Ok(Reach::Anywhere(tls)),
        Mode::Direct | Mode::LogFiles if !here => Err(PgError::Elsewhere { host: host.to_owned() }),
        Mode::Direct | Mode::LogFiles if tls != Tls::Off => Err(unusable("tls", "verify").into()),
        Mode::Direct | Mode::LogFiles => Ok(Reach::Here),
    }
}

/// Where files are read on the server's host.
fn is_here(host: &str) -> bool {
    let loopback = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    host.starts_with('/') || host == "localhost" || loopback
}

/// What PostgreSQL takes as the name of a slot.
fn is_slot(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..64).contains(&name.len()) && name.bytes().all(plain)
}

fn password(path: &Path) -> Result<String, PgError> {
    let refused = |why: String| PgError::PasswordFile { path: path.to_owned(), why };
    let meta = fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(refused(format!("others may read it (mode {mode:o}); chmod 600")));
    }
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let line = text.lines().next().unwrap_or_default();
    match line.is_empty() {
        true => Err(refused("it is empty".to_owned())),
        false => Ok(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn read(pairs: &[(&str, &str)]) -> Result<Cluster, PgError> {
        let owned = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Cluster::read(&Settings::new(owned.collect()))
    }

    #[test]
    fn a_server_elsewhere_is_refused() {
        let cluster = read(&[("host", "/run/postgresql")]).unwrap();
        assert_eq!((cluster.dial.port, cluster.mode), (5432, Mode::Direct));
        assert!(read(&[("host", "::1"), ("max_lag", "30")]).is_ok());
        for host in ["db.example.com", "192.0.2.1", ""] {
            assert!(read(&[("host", host)]).is_err(), "{host}");
        }
        assert!(read(&[("host", "::1"), ("slot", "No Slot")]).is_err());
        let said = read(&[("host", "db.example.com")]).unwrap_err().to_string();
        assert!(said.contains("mode = \"wire\""), "{said}");
    }

    #[test]
    fn what_goes_over_a_network_is_sealed_unless_somebody_says_otherwise() {
        let reach = |more: &[(&str, &str)]| {
            let pairs = [&[("mode", "wire")], more].concat();
            read(&pairs).map(|cluster| cluster.dial.reach)
        };
        let verify =
            |file: Option<&str>| Reach::Anywhere(Tls::Verify { ca_file: file.map(PathBuf::from) });
        let far = ("host", "db.example.com");
        assert_eq!(reach(&[far]).unwrap(), verify(None));
        assert_eq!(reach(&[far, ("ca_file", "/ca")]).unwrap(), verify(Some("/ca")));
        assert_eq!(reach(&[far, ("tls", "off")]).unwrap(), Reach::Anywhere(Tls::Off));
        assert_eq!(reach(&[("host", "127.0.0.1")]).unwrap(), Reach::Anywhere(Tls::Off));
        assert_eq!(reach(&[("host", "::1"), ("tls", "verify")]).unwrap(), verify(None));
        assert!(reach(&[far, ("tls", "off"), ("ca_file", "/ca")]).is_err());
        assert!(reach(&[("host", "/run/postgresql"), ("tls", "verify")]).is_err());
        assert!(reach(&[("host", "")]).is_err());
        assert!(reach(&[far, ("by", "stream")]).is_err());
        let log = read(&[("mode", "wal"), ("by", "stream"), far]).unwrap();
        assert_eq!((log.mode, log.dial.reach), (Mode::LogStream, verify(None)));
        assert!(read(&[("mode", "wal"), far]).is_err());
    }

    #[test]
    fn a_password_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "secret\n").unwrap();
        let path = file.to_str().unwrap();
        let pairs = [("host", "::1"), ("password_file", path)];
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(&pairs).unwrap_err().to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let dial = read(&pairs).unwrap().dial;
        assert_eq!(dial.password.as_deref(), Some("secret"));
        assert!(!format!("{dial:?}").contains("secret"));
    }
}
