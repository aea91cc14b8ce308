//! Where a SCSI library is: the text of `library` in a proxy's `node.toml`. Promises that a
//! secret is never printed. Refuses what is not wholly understood.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where targets listen when no port is named.
const ISCSI_PORT: u16 = 3260;

/// Why a text names no library.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no library: {reason}")]
pub struct AddressError {
    pub text: String,
    pub reason: &'static str,
}

/// One logical unit of an iSCSI target.
#[derive(Clone, PartialEq, Eq)]
pub struct IscsiAddress {
    /// `host:port`.
    pub portal: String,
    pub target: String,
    pub lun: Option<u16>,
    pub user: Option<String>,
    /// Of CHAP; comes from a file, never from the address.
    pub secret: Option<String>,
}

impl fmt::Debug for IscsiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for IscsiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iscsi://{}/{}", self.portal, self.target)?;
        self.lun.map_or(Ok(()), |lun| write!(f, "/{lun}"))
    }
}

/// A device: a drive or a changer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnitAddress {
    Iscsi(IscsiAddress),
    /// `/dev/sg*`.
    Sg(PathBuf),
}

impl fmt::Display for UnitAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iscsi(address) => fmt::Display::fmt(address, f),
            Self::Sg(path) => fmt::Display::fmt(&path.display(), f),
        }
    }
}

/// A library: `iscsi://[USER@]HOST[:PORT]/TARGET`, whose units are asked for, or
/// `scsi:CHANGER?drives=DRIVE,DRIVE` with a device for each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LibraryAddress {
    Iscsi(IscsiAddress),
    Units { changer: UnitAddress, drives: Vec<UnitAddress> },
}

impl LibraryAddress {
    /// Whether a text is meant to be such an address, and not a directory.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("iscsi:") || text.starts_with("scsi:")
    }

    /// With the secret for CHAP.
    pub fn with_secret(mut self, secret: &str) -> Self {
        let give = |address: &mut IscsiAddress| address.secret = Some(secret.to_owned());
        match &mut self {
            Self::Iscsi(address) => give(address),
            Self::Units { changer, drives } => {
                for unit in drives.iter_mut().chain([changer]) {
                    if let UnitAddress::Iscsi(address) = unit {
                        give(address);
                    }
                }
            }
        }
        self
    }
}

impl FromStr for LibraryAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refuse = |reason| AddressError { text: text.to_owned(), reason };
        if text.starts_with("iscsi:") {
            let address = iscsi(text).map_err(refuse)?;
            return match address.lun {
                None => Ok(Self::Iscsi(address)),
                Some(_) => Err(refuse("a library is a whole target, without a LUN")),
            };
        }
        let units = text.strip_prefix("scsi:").ok_or_else(|| refuse("no iscsi: and no scsi:"))?;
        let (changer, drives) = units
            .split_once("?drives=")
            .ok_or_else(|| refuse("scsi:CHANGER?drives=DRIVE,DRIVE is wanted"))?;
        let unit = |text: &str| unit(text).map_err(refuse);
        let drives: Result<Vec<_>, _> = drives.split(',').map(unit).collect();
        Ok(Self::Units { changer: unit(changer)?, drives: drives? })
    }
}

fn unit(text: &str) -> Result<UnitAddress, &'static str> {
    if text.starts_with("iscsi:") {
        let address = iscsi(text)?;
        address.lun.ok_or("an iSCSI unit is named with its LUN")?;
        return Ok(UnitAddress::Iscsi(address));
    }
    match text.starts_with('/') {
        true => Ok(UnitAddress::Sg(PathBuf::from(text))),
        false => Err("a device is an absolute path such as /dev/sg3"),
    }
}

fn iscsi(text: &str) -> Result<IscsiAddress, &'static str> {
    let rest = text.strip_prefix("iscsi://").ok_or("iscsi:// is wanted")?;
    let (portal, path) = rest.split_once('/').ok_or("the target is missing")?;
    let (user, portal) = match portal.rsplit_once('@') {
        Some((user, portal)) => (Some(user), portal),
        None => (None, portal),
    };
    if user.is_some_and(|user| user.is_empty() || user.contains([':', '%'])) {
        return Err("the user is a plain name; the secret has a file of its own");
    }
    let (target, lun) = match path.split_once('/') {
        Some((target, lun)) => (target, Some(lun.parse().map_err(|_| "a LUN is a number")?)),
        None => (path, None),
    };
    if !["iqn.", "eui.", "naa."].iter().any(|kind| target.starts_with(kind)) {
        return Err("the target begins with iqn., eui. or naa.");
    }
    let named = portal.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    let portal = match named {
        Some((_, port)) if port.parse::<u16>().is_err() => return Err("a port is a number"),
        Some(_) => portal.to_owned(),
        None => format!("{portal}:{ISCSI_PORT}"),
    };
    if portal.starts_with(':') {
        return Err("the host is missing");
    }
    let (target, user) = (target.to_owned(), user.map(str::to_owned));
    Ok(IscsiAddress { portal, target, lun, user, secret: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_printed_without_their_secret() {
        let text = "iscsi://backup@[::1]/iqn.2026-01.test:vtl";
        let address: LibraryAddress = text.parse().unwrap();
        let LibraryAddress::Iscsi(found) = &address else { panic!("{address:?}") };
        assert_eq!((found.portal.as_str(), found.user.as_deref()), ("[::1]:3260", Some("backup")));
        let told = format!("{:?}", address.with_secret("of twelve characters"));
        assert_eq!(told, "Iscsi(iscsi://[::1]:3260/iqn.2026-01.test:vtl)");
        let text = "scsi:/dev/sg3?drives=/dev/sg1,iscsi://host:99/iqn.a:b/2";
        let LibraryAddress::Units { changer, drives } = text.parse().unwrap() else { panic!() };
        assert_eq!(changer, UnitAddress::Sg("/dev/sg3".into()));
        assert_eq!(drives[1].to_string(), "iscsi://host:99/iqn.a:b/2");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, wanted) in [
            ("iscsi://host", "target is missing"),
            ("iscsi://host/disk", "begins with iqn."),
            ("iscsi://host:high/iqn.a", "port is a number"),
            ("iscsi:///iqn.a", "host is missing"),
            ("iscsi://u:secret@host/iqn.a", "file of its own"),
            ("iscsi://host/iqn.a/1", "without a LUN"),
            ("scsi:/dev/sg3", "drives="),
            ("scsi:/dev/sg3?drives=sg1", "absolute path"),
            ("scsi:/dev/sg3?drives=iscsi://host/iqn.a", "with its LUN"),
        ] {
            let error = text.parse::<LibraryAddress>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!(!LibraryAddress::is_meant("library"));
    }
}
