//! A guest that is held by a holder process.

use std::path::PathBuf;

use strongroom_protocol::Chain;

use crate::holder::{Holder, HolderError, reap_note};
use crate::quiesce::{Evidence, Freeze, Thaw};
use crate::workload::apps;

/// A guest held by a holder.
pub(in crate::workload) struct HeldGuest {
    pub(in crate::workload) holder: Option<Holder>,
    pub(in crate::workload) frozen: u64,
    pub(in crate::workload) note: PathBuf,
}

impl Freeze for HeldGuest {
    fn thaw(&mut self, _evidence: &mut Evidence) -> Thaw {
        let Some(holder) = self.holder.take() else { return Thaw::Observed };
        match holder.release() {
            Ok(seen) => match seen["count"].as_u64() {
                Some(thawed) if thawed >= self.frozen => Thaw::Observed,
                thawed => Thaw::Lost {
                    why: format!(
                        "{} file systems were frozen and {} thawed: some went earlier",
                        self.frozen,
                        thawed.unwrap_or_default()
                    ),
                },
            },
            Err(error @ HolderError::Expired { .. }) => Thaw::Lost { why: error.to_string() },
            Err(error) => {
                reap_note(&self.note, apps::held);
                Thaw::Unseen { why: Chain(&error).to_string() }
            }
        }
    }
}
