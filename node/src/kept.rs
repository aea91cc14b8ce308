//! The policy that was last in force at the coordinator, in `policy.json` of a proxy's home: what
//! the proxy's site goes by on the day it has to lead. Written whole; the newest replaces the
//! last.

use serde::{Deserialize, Serialize};
use strongroom_certs::{FileError, files};

use crate::home::Home;

/// The file in a proxy's home.
pub const POLICY_FILE: &str = "policy.json";

/// A policy file as it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptPolicy {
    pub version: u64,
    pub file: String,
    pub toml: String,
}

impl KeptPolicy {
    /// Keeps it.
    ///
    /// # Errors
    /// It cannot be written: the last one stays.
    pub fn keep(&self, home: &Home) -> Result<(), FileError> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        files::write_private(&home.path(POLICY_FILE), &text)
    }

    /// The one that was kept, if any.
    ///
    /// # Errors
    /// The file is there and cannot be used.
    pub fn read(home: &Home) -> Result<Option<Self>, FileError> {
        let path = home.path(POLICY_FILE);
        match files::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|_| FileError::Malformed { path, expected: "a policy" }),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
