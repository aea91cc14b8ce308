//! Snapshots of a machine that this workload made: made quiet where that works, told by their
//! names, taken away whoever left them. Snapshots of others are never touched.

use std::time::{Duration, Instant};

use strongroom_protocol::{PointId, WorkloadId};

use super::inventory::properties;
use super::session::{Reference, Session, SoapError};
use crate::workload::xml::{Element, escape};

/// A guest is given five minutes by the server itself to become quiet; consolidating a large
/// delta takes long.
const TASK: Duration = Duration::from_secs(3600);
/// How often a task is looked at, first and at most.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(2);
const KIND: &str = "VirtualMachineSnapshot";

/// A task that did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It failed.
    #[error("{method} failed: {text} ({kind})")]
    Failed { method: String, kind: String, text: String },
    /// It goes on and on.
    #[error("{method} did not end within an hour")]
    Long { method: String },
    /// It was not even begun.
    #[error(transparent)]
    Soap(#[from] SoapError),
}

/// Begins a task and waits until it ends; what it made.
///
/// # Errors
/// It failed, or was not begun.
pub fn done(
    session: &Session,
    method: &str,
    of: &Reference,
    words: &str,
) -> Result<Element, TaskError> {
    let begun = session.call(method, of, words)?;
    let task = begun.child("returnval").cloned().unwrap_or_default();
    let task = Reference::of(&task, "Task");
    let (until, mut pause) = (Instant::now() + TASK, LOOK);
    loop {
        let known = properties(session, &task, &["info"])?;
        let info = known.value("info").cloned().unwrap_or_default();
        match info.text_at("state") {
            "success" => return Ok(info.child("result").cloned().unwrap_or_default()),
            "error" => {
                let error = info.child("error").cloned().unwrap_or_default();
                let fault = error.child("fault").cloned().unwrap_or_default();
                return Err(TaskError::Failed {
                    method: method.to_owned(),
                    kind: fault.kind().to_owned(),
                    text: error.text_at("localizedMessage").to_owned(),
                });
            }
            _ if Instant::now() > until => {
                return Err(TaskError::Long { method: method.to_owned() });
            }
            _ => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(LOOK_MAX);
    }
}

/// What this workload calls its snapshots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    owner: String,
    own: String,
}

impl Names {
    pub fn new(workload: WorkloadId, point: PointId) -> Self {
        let owner = format!("sr.{}.", workload.short());
        Self { own: format!("{owner}{}", point.short()), owner }
    }

    /// Of this run.
    pub fn own(&self) -> &str {
        &self.own
    }

    fn owns(&self, name: &str) -> bool {
        name.starts_with(&self.owner)
    }
}

/// A snapshot of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    pub reference: Reference,
    pub name: String,
    pub quiesced: bool,
}

/// All snapshots of a machine.
///
/// # Errors
/// The server does not tell.
pub fn snapshots(session: &Session, machine: &Reference) -> Result<Vec<Snapshot>, SoapError> {
    let known = properties(session, machine, &["snapshot"])?;
    let mut found = Vec::new();
    if let Some(info) = known.value("snapshot") {
        info.all("rootSnapshotList").for_each(|tree| gather(tree, &mut found));
    }
    Ok(found)
}

fn gather(tree: &Element, found: &mut Vec<Snapshot>) {
    let reference = tree.child("snapshot").cloned().unwrap_or_default();
    found.push(Snapshot {
        reference: Reference::of(&reference, KIND),
        name: tree.text_at("name").to_owned(),
        quiesced: tree.text_at("quiesced") == "true",
    });
    tree.all("childSnapshotList").for_each(|below| gather(below, found));
}

/// Makes the snapshot of this run, quiet or not.
///
/// # Errors
/// It was not made; what is half there is taken away by [`reap`].
pub fn create(
    session: &Session,
    machine: &Reference,
    names: &Names,
    quiet: Quiet,
) -> Result<Snapshot, TaskError> {
    let words = format!(
        "<name>{}</name><description>a recovery point is read from it; it goes by itself\
         </description><memory>false</memory><quiesce>{}</quiesce>",
        escape(names.own()),
        quiet == Quiet::Asked
    );
    let made = done(session, "CreateSnapshot_Task", machine, &words)?;
    let reference = Reference::of(&made, KIND);
    // What the server did is what counts, not what it was asked for.
    let all = snapshots(session, machine)?;
    let own = all.into_iter().find(|known| known.reference.value == reference.value);
    own.ok_or_else(|| TaskError::Failed {
        method: "CreateSnapshot_Task".to_owned(),
        kind: "NotFound".to_owned(),
        text: "the server says that it made a snapshot, and has none".to_owned(),
    })
}

/// Whether the guest is to be quiet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quiet {
    Asked,
    Not,
}

/// Takes away one snapshot, and puts what was written meanwhile back into the disks.
///
/// # Errors
/// It stays.
pub fn remove(session: &Session, snapshot: &Reference) -> Result<(), TaskError> {
    let words = "<removeChildren>false</removeChildren><consolidate>true</consolidate>";
    done(session, "RemoveSnapshot_Task", snapshot, words).map(|_| ())
}

/// Takes away what runs of this workload left; how many that were.
///
/// # Errors
/// One stays.
pub fn reap(session: &Session, machine: &Reference, names: &Names) -> Result<usize, TaskError> {
    let all = snapshots(session, machine)?;
    let mut count = 0;
    for left in all.iter().filter(|known| names.owns(&known.name)) {
        tracing::warn!(snapshot = %left.name, "a snapshot that a run left is taken away");
        remove(session, &left.reference)?;
        count += 1;
    }
    Ok(count)
}
