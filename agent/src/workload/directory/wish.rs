//! What a person wants back of a point, and the objects of the point that this means.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use crate::workload::directory::object::{Object, depth, folded, is_within};
use crate::workload::directory::picture::Picture;

/// What is to come back.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub names: Vec<String>,
    /// With everything below.
    pub subtree: bool,
    /// Only these attributes; `memberOf` are the groups the object is in.
    pub attributes: Option<Vec<String>>,
}

/// Nothing can be planned.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The point has no such object.
    #[error("the point has no object {dn}; `strongroom directory search` looks for one")]
    Absent { dn: String },
    /// A parent is missing.
    #[error("{above}, above {dn}, is not there any more: restore it first, or with it")]
    Orphan { dn: String, above: String },
    /// An attribute nobody may write.
    #[error("{attribute} is the directory's own: it cannot be restored")]
    Own { attribute: String },
}

/// The objects of the point that are wished for, parents first.
///
/// # Errors
/// A name the point does not have.
pub fn wished<'p>(point: &'p Picture, wish: &Wish) -> Result<Vec<&'p Object>, PlanError> {
    let mut found: BTreeMap<Uuid, &Object> = BTreeMap::new();
    for dn in &wish.names {
        let named = point.named(dn).filter(|object| !object.is_deleted());
        let object = named.ok_or_else(|| PlanError::Absent { dn: dn.clone() })?;
        found.insert(object.guid, object);
        if wish.subtree {
            let below = point.objects().filter(|o| !o.is_deleted() && is_within(&o.dn, dn));
            found.extend(below.map(|object| (object.guid, object)));
        }
    }
    let mut found: Vec<&Object> = found.into_values().collect();
    found.sort_by_key(|object| (depth(&object.dn), object.dn.clone()));
    Ok(found)
}

/// Objects of the point with links to what is wished for.
pub fn owners<'p>(point: &'p Picture, wished: &[&Object]) -> Vec<&'p Object> {
    let names: HashSet<String> = wished.iter().map(|object| folded(&object.dn)).collect();
    let links = |object: &&Object| {
        let mut attributes = object.attributes.0.iter();
        !object.is_deleted()
            && attributes.any(|(name, values)| {
                point.schema.is_link(name) && values.iter().any(|value| is_one(value, &names))
            })
    };
    point.objects().filter(links).collect()
}

fn is_one(value: &[u8], names: &HashSet<String>) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| names.contains(&folded(text)))
}
