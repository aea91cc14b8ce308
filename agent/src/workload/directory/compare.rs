//! What is different between two pictures of a directory: objects by their identity, attributes
//! and links value by value, with when and where each was last changed.

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;
use uuid::Uuid;

use crate::workload::directory::metadata::Stamp;
use crate::workload::directory::object::{Object, Values, is_within};
use crate::workload::directory::picture::Picture;

/// What changes whenever something else does: never a difference by itself.
const BY_ITSELF: [&str; 7] = [
    "dSCorePropagationData",
    "msDS-ReplValueMetaData",
    "replPropertyMetaData",
    "uSNChanged",
    "uSNCreated",
    "whenChanged",
    "logonCount",
];

/// How an object differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is in the later picture only.
    Added,
    /// It has other values, perhaps another name.
    Changed { before: Option<String>, attributes: Vec<AttributeChange> },
    /// It is in the earlier picture only, or deleted in the later one.
    Gone,
}

/// An object that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    pub guid: Uuid,
    /// As it is now, or was.
    pub dn: String,
    pub change: Change,
}

/// An attribute that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttributeChange {
    pub attribute: String,
    pub removed: Values,
    pub added: Values,
    pub by: Option<By>,
}

/// When, and on which domain controller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct By {
    #[serde(flatten)]
    pub stamp: Stamp,
    pub controller: Option<String>,
}

/// Every difference at or below `base`, or anywhere.
pub fn compare(earlier: &Picture, later: &Picture, base: Option<&str>) -> Vec<Difference> {
    let wanted = |dn: &str| base.is_none_or(|base| is_within(dn, base));
    let mut differences = Vec::new();
    for old in earlier.objects().filter(|object| !object.is_deleted()) {
        let new = later.object(&old.guid).filter(|object| !object.is_deleted());
        let within = wanted(&old.dn) || new.is_some_and(|new| wanted(&new.dn));
        let change = match new {
            _ if !within => None,
            None => Some(Change::Gone),
            Some(new) => changed(earlier, later, old, new),
        };
        let dn = new.map_or(&old.dn, |new| &new.dn).clone();
        differences.extend(change.map(|change| Difference { guid: old.guid, dn, change }));
    }
    for new in later.objects().filter(|object| !object.is_deleted() && wanted(&object.dn)) {
        if earlier.object(&new.guid).is_none_or(Object::is_deleted) {
            let (guid, dn) = (new.guid, new.dn.clone());
            differences.push(Difference { guid, dn, change: Change::Added });
        }
    }
    differences.sort_by(|a, b| a.dn.cmp(&b.dn));
    differences
}

fn changed(earlier: &Picture, later: &Picture, old: &Object, new: &Object) -> Option<Change> {
    let names: BTreeSet<&String> = old.attributes.0.keys().chain(new.attributes.0.keys()).collect();
    let names = names.into_iter().filter(|name| !BY_ITSELF.contains(&name.as_str()));
    let attributes: Vec<AttributeChange> = names
        .filter_map(|name| {
            let (removed, added) = values(earlier, later, old.values(name), new.values(name));
            if removed.is_empty() && added.is_empty() {
                return None;
            }
            let by = later.stamp(new, name).map(|(stamp, controller)| By { stamp, controller });
            Some(AttributeChange { attribute: name.clone(), removed, added, by })
        })
        .collect();
    let before = (old.dn != new.dn).then(|| old.dn.clone());
    (before.is_some() || !attributes.is_empty()).then_some(Change::Changed { before, attributes })
}

/// Values only the earlier one has, and only the later one.
pub(super) fn values(
    earlier: &Picture,
    later: &Picture,
    old: &[Vec<u8>],
    new: &[Vec<u8>],
) -> (Values, Values) {
    if old == new {
        return Default::default();
    }
    let before: HashSet<Vec<u8>> = old.iter().map(|value| earlier.meaning(value)).collect();
    let after: HashSet<Vec<u8>> = new.iter().map(|value| later.meaning(value)).collect();
    let removed = old.iter().filter(|value| !after.contains(&earlier.meaning(value)));
    let added = new.iter().filter(|value| !before.contains(&later.meaning(value)));
    (removed.cloned().collect(), added.cloned().collect())
}
