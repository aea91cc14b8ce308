//! A machine that stays: while it runs, QEMU copies what it has not read yet into its own images.
//! Promises that an image is called whole only once QEMU says that nothing lies below it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use strongroom_agent::vmlab::Machine;
use strongroom_agent::workload::vm::qmp::Qmp;
use tokio_util::sync::CancellationToken;

use super::BootDisk;
use crate::failure::Failure;

/// How often QEMU is asked how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// How long a machine that was told to end may take to write what it still holds.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// Streams every disk into its image; blocking. How long it took, or none where it was told to
/// stop before.
pub(crate) fn keep(
    monitor: &Path,
    disks: &[BootDisk],
    stop: &CancellationToken,
) -> Result<Option<Duration>, Failure> {
    let began = Instant::now();
    let mut qmp = Qmp::connect(monitor)?;
    for disk in disks {
        let job = job_of(disk);
        let order = json!({ "job-id": job, "device": disk.id(), "auto-dismiss": false });
        qmp.command("block-stream", &order)?;
    }
    let mut left: Vec<String> = disks.iter().map(job_of).collect();
    while !left.is_empty() {
        if stop.is_cancelled() {
            return Ok(None);
        }
        let jobs = qmp.command("query-jobs", &Value::Null)?;
        for (job, error) in concluded(&jobs) {
            qmp.command("job-dismiss", &json!({ "id": job }))?;
            if let Some(error) = error {
                let text = format!("the disks could not be copied ({job}): {error}");
                return Err(Failure::new(text).hint("the machine still runs from its point"));
            }
            left.retain(|known| *known != job);
        }
        std::thread::sleep(LOOK);
    }
    let blocks = qmp.command("query-block", &Value::Null)?;
    match disks.iter().find(|disk| !stands_alone(&blocks, &disk.id())) {
        None => Ok(Some(began.elapsed())),
        Some(disk) => Err(Failure::new(format!("disk {} still lies over its point", disk.name))),
    }
}

fn job_of(disk: &BootDisk) -> String {
    format!("keep-{}", disk.name)
}

/// Jobs that came to an end, and what went wrong.
fn concluded(jobs: &Value) -> Vec<(String, Option<String>)> {
    let ended = jobs.as_array().into_iter().flatten().filter(|job| job["status"] == "concluded");
    let told = ended.filter_map(|job| {
        let error = job["error"].as_str().map(str::to_owned);
        Some((job["id"].as_str()?.to_owned(), error))
    });
    told.filter(|(job, _)| job.starts_with("keep-")).collect()
}

/// Whether the image of a drive needs nothing below it.
fn stands_alone(blocks: &Value, drive: &str) -> bool {
    let found = blocks.as_array().into_iter().flatten().find(|block| block["device"] == drive);
    found.is_some_and(|block| block["inserted"]["backing_file_depth"] == 0)
}

/// Ends a machine whose images stay: what it wrote is in them before it goes. One that is gone
/// already, or does not hear, is ended by who has it.
pub(crate) fn quit(machine: &mut Machine) {
    let quit = Qmp::connect(&machine.qmp()).and_then(|mut qmp| qmp.command("quit", &Value::Null));
    if let Err(error) = quit {
        tracing::debug!(%error, "the machine did not take the word to end");
    }
    let until = Instant::now() + END_PATIENCE;
    while machine.runs().is_ok() && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_counts_once_it_has_ended_and_an_image_once_it_stands_alone() {
        let jobs = json!([
            { "id": "keep-vda", "status": "concluded" },
            { "id": "keep-vdb", "status": "running" },
            { "id": "keep-vdc", "status": "concluded", "error": "no room" },
            { "id": "other", "status": "concluded" },
        ]);
        let wanted = [("keep-vda", None), ("keep-vdc", Some("no room"))];
        let wanted = wanted.map(|(job, error)| (job.to_owned(), error.map(str::to_owned)));
        assert_eq!(concluded(&jobs), wanted);
        let blocks = json!([
            { "device": "kept-vda", "inserted": { "backing_file_depth": 0 } },
            { "device": "kept-vdb", "inserted": { "backing_file_depth": 1 } },
        ]);
        assert!(stands_alone(&blocks, "kept-vda"));
        assert!(!stands_alone(&blocks, "kept-vdb") && !stands_alone(&blocks, "kept-vdc"));
    }
}
