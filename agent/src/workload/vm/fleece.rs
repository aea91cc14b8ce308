//! The view of a machine's disks: what the guest overwrites meanwhile is put aside, and a copy
//! of the moment is read by network block device. Promises that all it makes in the machine
//! is named as this workload's and taken away again; never touches what others made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::machine::Disk;
use super::names::Names;
use super::qmp::{Qmp, QmpError, find};
use crate::workload::compose::blocks::BLOCK_BYTES;

/// How long something may take to end that was told to.
const ENDING: Duration = Duration::from_secs(30);
/// A socket's path is at most this long, in bytes.
const SOCKET_PATH_MAX: usize = 100;
const SOCKET_SUFFIX: &str = ".nbd";

/// Where the pieces of a run lie.
#[derive(Clone, Debug)]
pub(super) struct Fleece {
    pub(super) names: Names,
    pub(super) scratch: PathBuf,
    /// For the socket, where the scratch directory's path is too long for one.
    pub(super) run_dir: PathBuf,
}

/// Whether what changed on a disk is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Changes {
    /// By this bitmap.
    Since(String),
    Unknown,
}

impl Fleece {
    /// Takes away whatever earlier runs of this workload left; the bitmap `keep` stays.
    pub(super) fn reap(&self, qmp: &mut Qmp, keep: Option<&str>) -> Result<(), QmpError> {
        self.end(qmp)?;
        let nodes = qmp.command("query-named-block-nodes", &json!({ "flat": true }))?;
        for node in nodes.as_array().into_iter().flatten() {
            for bitmap in node["dirty-bitmaps"].as_array().into_iter().flatten() {
                let name = bitmap["name"].as_str().unwrap_or_default();
                if !self.names.owns(name) || Some(name) == keep {
                    continue;
                }
                let which = json!({ "node": node["node-name"], "name": name });
                if let Err(error) = qmp.command("block-dirty-bitmap-remove", &which) {
                    tracing::warn!(%error, name, "a bitmap that nobody needs stays");
                }
            }
        }
        Ok(())
    }

    /// Ends all but the bitmaps, of whichever run of this workload, and frees the scratch.
    pub(super) fn end(&self, qmp: &mut Qmp) -> Result<(), QmpError> {
        self.end_nodes(qmp)?;
        if self.owned_files().any(|path| path.to_string_lossy().ends_with(SOCKET_SUFFIX)) {
            self.stop_server(qmp)?;
        }
        self.clear();
        Ok(())
    }

    fn owned_files(&self) -> impl Iterator<Item = PathBuf> {
        let listed = [&self.scratch, &self.run_dir].into_iter().map(std::fs::read_dir);
        let entries = listed.flatten().flatten().flatten();
        entries
            .filter(|entry| self.names.owns(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
    }

    fn clear(&self) {
        for path in self.owned_files() {
            // What cannot be removed is tried again by the next run.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Stops the server, unless others use it by now.
    fn stop_server(&self, qmp: &mut Qmp) -> Result<(), QmpError> {
        let exports = qmp.command("query-block-exports", &Value::Null)?;
        if exports.as_array().is_some_and(Vec::is_empty) {
            // It may not run any more.
            let _ = qmp.command("nbd-server-stop", &Value::Null);
        }
        Ok(())
    }

    fn end_nodes(&self, qmp: &mut Qmp) -> Result<(), QmpError> {
        let owned = |value: &Value| {
            let name = value.as_str().unwrap_or_default();
            self.names.owns(name).then(|| name.to_owned())
        };
        let all = |list: &Value, key: &str| -> Vec<String> {
            list.as_array().into_iter().flatten().filter_map(|item| owned(&item[key])).collect()
        };
        for id in all(&qmp.command("query-block-exports", &Value::Null)?, "id") {
            qmp.command("block-export-del", &json!({ "id": id, "mode": "hard" }))?;
            qmp.until("query-block-exports", ENDING, |exports| gone(exports, "id", &id))?;
        }
        for id in all(&qmp.command("query-jobs", &Value::Null)?, "id") {
            self.end_job(qmp, &id)?;
        }
        // Those on top first: a node that is in use is refused.
        for _ in 0..3 {
            let flat = json!({ "flat": true });
            let nodes = all(&qmp.command("query-named-block-nodes", &flat)?, "node-name");
            for node in nodes {
                if let Err(error) = qmp.command("blockdev-del", &json!({ "node-name": node })) {
                    tracing::debug!(%error, node, "a node is in use still");
                }
            }
        }
        let left = qmp.command("query-named-block-nodes", &json!({ "flat": true }))?;
        match all(&left, "node-name").first() {
            None => Ok(()),
            Some(node) => Err(QmpError::Refused {
                command: "blockdev-del".to_owned(),
                why: format!("the node {node} of an earlier run stays in use"),
            }),
        }
    }

    fn end_job(&self, qmp: &mut Qmp, id: &str) -> Result<(), QmpError> {
        let jobs = qmp.command("query-jobs", &Value::Null)?;
        let concluded = find(&jobs, "id", id).map(|job| job["status"] == "concluded");
        match concluded {
            None => return Ok(()),
            Some(true) => qmp.command("job-dismiss", &json!({ "id": id }))?,
            Some(false) => qmp.command("job-cancel", &json!({ "id": id }))?,
        };
        qmp.until("query-jobs", ENDING, |jobs| gone(jobs, "id", id))
    }

    /// Makes the scratch image of a disk. Before the guest is frozen: this takes a moment.
    pub(super) fn prepare(
        &self,
        qmp: &mut Qmp,
        number: usize,
        disk: &Disk,
    ) -> Result<(), QmpError> {
        let (file_node, image) = (self.names.part('f', number), self.names.part('q', number));
        let path = self.scratch.join(&image);
        let file = json!({ "driver": "file", "filename": path, "size": 0 });
        qmp.create(&self.names.part('c', number), &file)?;
        let file = json!({ "driver": "file", "node-name": file_node, "filename": path });
        qmp.command("blockdev-add", &file)?;
        let format = json!({ "driver": "qcow2", "file": file_node, "size": disk.bytes });
        qmp.create(&self.names.part('c', number), &format)?;
        let image = json!({
            "driver": "qcow2", "node-name": image, "file": file_node, "backing": disk.node,
        });
        qmp.command("blockdev-add", &image).map(drop)
    }

    /// The moment: at one instant every disk is put aside for, and begins a new bitmap.
    pub(super) fn begin(
        &self,
        qmp: &mut Qmp,
        disks: &[(Disk, Changes)],
        breaks: Breaks,
    ) -> Result<(), QmpError> {
        let mut actions = Vec::new();
        let mut act = |kind: &str, data: Value| actions.push(json!({ "type": kind, "data": data }));
        for (number, (disk, changes)) in disks.iter().enumerate() {
            let bitmap = |name: String| {
                json!({
                    "node": disk.node, "name": name, "granularity": BLOCK_BYTES,
                })
            };
            let mut recording = bitmap(self.names.own_bitmap());
            recording["persistent"] = disk.persistent.into();
            act("block-dirty-bitmap-add", recording);
            if let Changes::Since(since) = changes {
                let mut changed = bitmap(self.names.changed());
                changed["disabled"] = true.into();
                act("block-dirty-bitmap-add", changed);
                let merged = json!({
                    "node": disk.node, "target": self.names.changed(), "bitmaps": [since],
                });
                act("block-dirty-bitmap-merge", merged);
            }
            let mut backup = json!({
                "job-id": self.names.part('j', number), "device": disk.node, "sync": "none",
                "target": self.names.part('q', number),
            });
            if breaks == Breaks::Backup {
                backup["on-cbw-error"] = "break-snapshot".into();
            }
            act("blockdev-backup", backup);
        }
        qmp.command("transaction", &json!({ "actions": actions })).map(drop)
    }

    /// Where the server listens.
    pub(super) fn socket(&self) -> PathBuf {
        let name = format!("{}{SOCKET_SUFFIX}", self.names.own_bitmap());
        let beside = self.scratch.join(&name);
        match beside.as_os_str().len() > SOCKET_PATH_MAX {
            true => self.run_dir.join(name),
            false => beside,
        }
    }

    /// Lets the disks of the moment be read.
    pub(super) fn export(&self, qmp: &mut Qmp, disks: &[(Disk, Changes)]) -> Result<(), QmpError> {
        self.listen(qmp, &self.socket())?;
        for (number, (disk, changes)) in disks.iter().enumerate() {
            let mut export = json!({
                "type": "nbd", "id": self.names.part('e', number),
                "node-name": self.names.part('q', number), "name": disk.name,
            });
            if let Changes::Since(_) = changes {
                let changed = json!({ "node": disk.node, "name": self.names.changed() });
                export["bitmaps"] = json!([changed]);
            }
            qmp.command("block-export-add", &export)?;
        }
        Ok(())
    }

    fn listen(&self, qmp: &mut Qmp, socket: &Path) -> Result<(), QmpError> {
        if let Some(dir) = socket.parent() {
            // What cannot be made is told by the server, which then finds no place.
            let _ = std::fs::create_dir_all(dir);
        }
        let place = json!({ "addr": { "type": "unix", "data": { "path": socket } } });
        qmp.command("nbd-server-start", &place).map(drop)
    }

    /// Ends the reading: exports, server, jobs, scratch images; the new bitmaps stay.
    pub(super) fn close(&self, qmp: &mut Qmp, disks: &[(Disk, Changes)]) -> Result<(), QmpError> {
        self.end(qmp)?;
        for (disk, changes) in disks {
            if let Changes::Since(_) = changes {
                let which = json!({ "node": disk.node, "name": self.names.changed() });
                qmp.command("block-dirty-bitmap-remove", &which)?;
            }
        }
        Ok(())
    }

    /// Removes a bitmap from every disk that has it.
    pub(super) fn forget(&self, qmp: &mut Qmp, disks: &[(Disk, Changes)], bitmap: &str) {
        for (disk, _) in disks {
            let which = json!({ "node": disk.node, "name": bitmap });
            if let Err(error) = qmp.command("block-dirty-bitmap-remove", &which) {
                tracing::debug!(%error, disk = %disk.name, bitmap, "there is no such bitmap");
            }
        }
    }

    /// Whether every disk is still put aside for: else what was read is of no one moment.
    pub(super) fn holds(&self, qmp: &mut Qmp, disks: usize) -> Result<bool, QmpError> {
        let jobs = qmp.command("query-block-jobs", &Value::Null)?;
        Ok((0..disks).all(|number| {
            let job = find(&jobs, "device", &self.names.part('j', number));
            job.is_some_and(|job| job["io-status"] == "ok" && job["status"] == "running")
        }))
    }
}

/// What breaks when what the guest overwrites cannot be put aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breaks {
    /// The backup: QEMU can be told so.
    Backup,
    /// The guest's write: all an older QEMU knows. The scratch is watched instead.
    Guest,
}

impl Breaks {
    /// Whether this QEMU can be told, by its own description.
    pub(super) fn of(qmp: &mut Qmp) -> Result<Self, QmpError> {
        let schema = qmp.command("query-qmp-schema", &Value::Null)?;
        let command = find(&schema, "name", "blockdev-backup");
        let arguments = command.and_then(|command| command["arg-type"].as_str());
        let arguments = arguments.and_then(|name| find(&schema, "name", name));
        let can = arguments.is_some_and(|a| find(&a["members"], "name", "on-cbw-error").is_some());
        Ok(if can { Self::Backup } else { Self::Guest })
    }
}

fn gone(list: &Value, key: &str, name: &str) -> Option<()> {
    find(list, key, name).is_none().then_some(())
}
