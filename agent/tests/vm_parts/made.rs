//! A point of the lab machine, as it was made and found right.

#![allow(clippy::unwrap_used, reason = "what tests share")]

use std::collections::BTreeMap;

use serde_json::Value;
use strongroom_agent::quiesce::Evidence;

/// A point that was made, restored and found to be the truth.
pub(crate) struct Made {
    pub(crate) evidence: Evidence,
    pub(crate) description: Value,
    /// What the bitmap of the last point said was written, by disk.
    pub(crate) written: BTreeMap<String, u64>,
}

impl Made {
    /// The disks that were read whole.
    pub(crate) fn whole(&self) -> Vec<&str> {
        let disks = self.description["disks"].as_array().unwrap().iter();
        let whole = disks.filter(|disk| disk["read"] == "whole");
        whole.map(|disk| disk["name"].as_str().unwrap()).collect()
    }

    pub(crate) fn told(&self, disk: &str, key: &str) -> u64 {
        let disks = self.description["disks"].as_array().unwrap();
        let disk = disks.iter().find(|told| told["name"] == disk).unwrap();
        disk[key].as_u64().unwrap()
    }
}
