//! Which media set is to be written. Refuses config and keys files that are damaged or of
//! another repository, as every medium would carry them.

use std::collections::BTreeSet;

use strongroom_protocol::{MediaSetName, MediumId};

use crate::media::catalog::WhatV1;
use crate::media::label::{FileKind, LabelV1, checked, repo_of};
use crate::media::{MediaError, MediaIdentity};

/// Which set is to be written, and what each of its media carries besides packs.
#[derive(Clone, Debug)]
pub struct SetOrder {
    pub set: MediaSetName,
    pub identity: MediaIdentity,
    /// The repository's `config` file.
    pub config: Vec<u8>,
    /// The repository's `keys` file, as it is now.
    pub keys: Vec<u8>,
    /// Media that are not needed any more: their cartridges may be written from the beginning.
    /// None for a set that is written once.
    pub released: BTreeSet<MediumId>,
}

impl SetOrder {
    pub(crate) fn check(&self) -> Result<(), MediaError> {
        let own = |bytes: &[u8], kind| {
            FileKind::of(bytes) == kind
                && checked(bytes).is_some()
                && repo_of(bytes) == Some(self.identity.repo)
        };
        if !own(&self.config, FileKind::Config) {
            return Err(MediaError::ForeignFile { what: "config" });
        }
        if !own(&self.keys, FileKind::Keys) {
            return Err(MediaError::ForeignFile { what: "keys file" });
        }
        Ok(())
    }

    /// Whether a label is of this set.
    pub(crate) fn names(&self, label: &LabelV1) -> bool {
        let MediaIdentity { org, repo } = &self.identity;
        label.set == self.set && label.org == *org && label.repo == *repo
    }

    pub(crate) fn headers(&self) -> [(WhatV1, &[u8]); 2] {
        [(WhatV1::Config, self.config.as_slice()), (WhatV1::Keys, self.keys.as_slice())]
    }
}
