//! A point of a lab machine, as it was made and found right.

#![allow(clippy::unwrap_used, reason = "what tests share")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use strongroom_agent::quiesce::Evidence;
use strongroom_agent::restore::{RestoreOptions, Restorer};
use strongroom_agent::vmlab::LabDisk;
use strongroom_agent::workload::files::Protected;
use strongroom_agent::workload::vm::{DESCRIPTION, DISKS};
use strongroom_store::tree::Tree;

use super::blobs::Blobs;

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

/// Copies what the disks hold now, to be compared with later.
pub(crate) fn truth(dir: &Path, disks: &[LabDisk]) {
    for disk in disks {
        let truth = dir.join(format!("{}.truth", disk.name));
        let mut copy = Command::new("qemu-img");
        copy.args(["convert", "-U", "-O", "raw", "-f", &disk.format]);
        assert!(copy.arg(&disk.path).arg(truth).status().unwrap().success());
    }
}

/// Restores a point into a directory of its own, compares its disks with the truth in `dir`, and
/// says what it says of itself.
pub(crate) fn compare(
    blobs: &Blobs,
    protected: &Protected,
    dir: &Path,
    disks: &[LabDisk],
) -> Value {
    let to = tempfile::tempdir_in(dir).unwrap();
    let tree = Tree::new(blobs, protected.root);
    let page = protected.item.directory_page().unwrap();
    let restorer = Restorer::new(RestoreOptions::new(to.path()), Arc::new(AtomicBool::new(false)));
    let report = restorer.run(&tree, page, Some(protected.item.meta.clone())).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    for disk in disks {
        let image = to.path().join(DISKS).join(format!("{}.raw", disk.name));
        let truth = dir.join(format!("{}.truth", disk.name));
        let mut compare = Command::new("qemu-img");
        let compare = compare.args(["compare", "-f", "raw", "-F", "raw"]).arg(&image).arg(&truth);
        let compared = compare.output().unwrap();
        assert!(compared.status.success(), "{}: {compared:?}", disk.name);
        // A frozen file system is in order; one that was not needs its journal, on a copy.
        let check = Command::new("/sbin/e2fsck").args(["-fp"]).arg(&image).output().unwrap();
        assert!(check.status.code().unwrap() <= 1, "{}: {check:?}", disk.name);
    }
    let description = fs::read(to.path().join(DESCRIPTION)).unwrap();
    serde_json::from_slice(&description).unwrap()
}
