//! The export of a snapshot's disks: a lease that the server takes back unless it hears of it.
//! Promises that the server hears while disks are read, that a lease that was lost is noticed,
//! and that it is ended on every path.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use strongroom_protocol::Chain;

use super::disks::Disk;
use super::http::Response;
use super::inventory::properties;
use super::session::{Reference, Session, SoapError};
use crate::workload::xml::Element;

/// The server prepares disks before it gives them.
const READY: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(250);

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum LeaseError {
    /// The server does not give the disk.
    #[error("the export has no disk {disk} ({wanted}); it has {}", .has.join(", "))]
    Disk { disk: String, wanted: String, has: Vec<String> },
    /// The server ended it.
    #[error("the server ended the export while disks were read: {why}")]
    Lost { why: String },
    /// It was not made.
    #[error("the server gives no export of the snapshot: {why}")]
    None { why: String },
    /// The server.
    #[error(transparent)]
    Soap(#[from] SoapError),
}

/// An export.
pub(super) struct Lease {
    session: Arc<Session>,
    reference: Reference,
    disks: Vec<Exported>,
    lost: Arc<OnceLock<String>>,
    /// Of a hundred.
    done: Arc<AtomicU32>,
    pulse: Option<(Sender<()>, JoinHandle<()>)>,
}

/// A disk that can be had.
#[derive(Debug)]
struct Exported {
    key: String,
    url: String,
    thumbprint: String,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.reference).finish()
    }
}

impl Lease {
    /// Asks for the disks of a snapshot; the server hears of it at least every `pulse`.
    ///
    /// # Errors
    /// It gives none.
    pub(super) fn open(
        session: &Arc<Session>,
        snapshot: &Reference,
        pulse: Duration,
    ) -> Result<Self, LeaseError> {
        let begun = session.call("ExportSnapshot", snapshot, "")?;
        let found = begun.child("returnval").cloned().unwrap_or_default();
        let reference = Reference::of(&found, "HttpNfcLease");
        let mut this = Self {
            session: Arc::clone(session),
            reference,
            disks: Vec::new(),
            lost: Arc::default(),
            done: Arc::default(),
            pulse: None,
        };
        let until = Instant::now() + READY;
        loop {
            let known = properties(session, &this.reference, &["state", "error", "info"])?;
            match known.text("state") {
                "ready" => {
                    let info = known.value("info").cloned().unwrap_or_default();
                    this.disks = info.all("deviceUrl").map(exported).collect();
                    let timeout = info.number_at("leaseTimeout").unwrap_or(300);
                    this.beat(pulse.min(Duration::from_secs(timeout) / 4));
                    return Ok(this);
                }
                "error" => {
                    let error = known.value("error").cloned().unwrap_or_default();
                    let why = error.text_at("localizedMessage").to_owned();
                    return Err(LeaseError::None { why });
                }
                _ if Instant::now() > until => {
                    let why = "it is not ready after five minutes".to_owned();
                    return Err(LeaseError::None { why });
                }
                _ => std::thread::sleep(LOOK),
            }
        }
    }

    /// Tells the server at every beat how far it is, until it is told to end or the server does.
    fn beat(&mut self, every: Duration) {
        let (end, ended) = mpsc::channel();
        let (session, reference) = (Arc::clone(&self.session), self.reference.clone());
        let (lost, done) = (Arc::clone(&self.lost), Arc::clone(&self.done));
        let thread = std::thread::spawn(move || {
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let words = format!("<percent>{}</percent>", done.load(Ordering::Relaxed).min(100));
                match session.call("HttpNfcLeaseProgress", &reference, &words) {
                    Ok(_) => {}
                    // One beat that does not get through is not the end: the server waits longer.
                    Err(SoapError::Web(error)) => {
                        tracing::warn!(error = %Chain(&error), "the server did not hear");
                    }
                    Err(error) => {
                        let _ = lost.set(Chain(&error).to_string());
                        return;
                    }
                }
            }
        });
        self.pulse = Some((end, thread));
    }

    /// The stream of a disk.
    ///
    /// # Errors
    /// The export does not have it.
    pub(super) fn disk(&self, disk: &Disk) -> Result<Response, LeaseError> {
        let named = |exported: &&Exported| {
            exported.key.rsplit('/').next().is_some_and(|name| name == disk.export)
        };
        let none = || LeaseError::Disk {
            disk: disk.name.clone(),
            wanted: disk.export.clone(),
            has: self.disks.iter().map(|known| known.key.clone()).collect(),
        };
        let found = self.disks.iter().find(named).ok_or_else(none)?;
        Ok(self.session.download(&found.url, &found.thumbprint)?)
    }

    /// How far it is, of a hundred.
    pub(super) fn progress(&self, done: u64, of: u64) {
        let percent = done.saturating_mul(100).checked_div(of).unwrap_or(0);
        self.done.store(u32::try_from(percent).unwrap_or(100), Ordering::Relaxed);
    }

    /// Whether the server still holds to it.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn stands(&self) -> Result<(), LeaseError> {
        match self.lost.get() {
            None => Ok(()),
            Some(why) => Err(LeaseError::Lost { why: why.clone() }),
        }
    }

    fn still(&mut self) {
        if let Some((end, thread)) = self.pulse.take() {
            drop(end);
            let _ = thread.join();
        }
    }

    /// All was read.
    ///
    /// # Errors
    /// The server had ended it before.
    pub(super) fn complete(mut self) -> Result<(), LeaseError> {
        self.still();
        self.stands()?;
        let completed = self.session.call("HttpNfcLeaseComplete", &self.reference, "");
        let lost = |error: SoapError| LeaseError::Lost { why: Chain(&error).to_string() };
        completed.map_err(lost)?;
        self.reference.value.clear();
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.still();
        if self.reference.value.is_empty() {
            return;
        }
        if let Err(error) = self.session.call("HttpNfcLeaseAbort", &self.reference, "") {
            tracing::debug!(%error, "an export ends by itself");
        }
    }
}

fn exported(told: &Element) -> Exported {
    Exported {
        key: told.text_at("key").to_owned(),
        url: told.text_at("url").to_owned(),
        thumbprint: told.text_at("sslThumbprint").to_owned(),
    }
}
