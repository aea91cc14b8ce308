//! Where a copy that goes lies: where the policy says, or, for one that no policy declares any
//! more, where the last version that declared it said. What is being removed must end, whatever
//! became of the policy meanwhile.

use std::collections::BTreeMap;

use strongroom_protocol::{CopyName, WorkloadName};

use crate::catalog::{CatalogError, Doomed};
use crate::policy::{self, Copy, Declared, PRIMARY};
use crate::site::Site;

/// What the last versions that declared them said of copies, looked up once each.
#[derive(Default)]
pub(crate) struct Places {
    known: BTreeMap<(WorkloadName, CopyName), Option<Copy>>,
}

impl Places {
    /// The copy as it is declared, or was last.
    pub(crate) fn copy_of(
        &mut self,
        site: &Site,
        declared: &Declared,
        doomed: &Doomed,
    ) -> Result<Option<Copy>, CatalogError> {
        let (workload, copy) = (&doomed.workload, &doomed.row.copy);
        if let Some(copy) = find(declared, workload, copy) {
            return Ok(Some(copy));
        }
        let key = (workload.clone(), copy.clone());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let versions = site.catalog.policy_versions()?;
        let last = versions.iter().find_map(|version| {
            // One that an older program took and this one does not says nothing.
            let parsed = policy::parse(&version.file, &version.toml).ok()?;
            find(&parsed.declared, workload, copy)
        });
        self.known.insert(key, last.clone());
        Ok(last)
    }
}

fn find(declared: &Declared, workload: &WorkloadName, copy: &CopyName) -> Option<Copy> {
    declared.policy_of(workload)?.copies.get(copy).cloned()
}

/// Whether it is the primary snap.
pub(crate) fn is_primary(doomed: &Doomed) -> bool {
    doomed.row.copy.as_str() == PRIMARY
}
