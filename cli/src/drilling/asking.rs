//! What the policy asks of what was recovered, as the order carries it.

use std::path::PathBuf;
use std::time::Duration;

/// A server or a guest may take so long to answer unless the policy says otherwise.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The settings of an order.
pub(super) struct Settings<'s>(pub(super) &'s [(String, String)]);

impl Settings<'_> {
    pub(super) fn first(&self, key: &str) -> Option<String> {
        self.all(key).into_iter().next()
    }

    pub(super) fn all(&self, key: &str) -> Vec<String> {
        let found = self.0.iter().filter(|(known, _)| known == key);
        found.map(|(_, value)| value.clone()).collect()
    }

    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        self.first(key).map(PathBuf::from)
    }

    pub(super) fn patience(&self) -> Duration {
        let seconds = self.first("patience").and_then(|seconds| seconds.parse().ok());
        seconds.map_or(PATIENCE, Duration::from_secs)
    }
}
