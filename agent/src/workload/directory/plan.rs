//! What a restore does, decided before anything is done; pure. Objects come back parents first,
//! then their attributes, then links in both directions; what would undo it is said beside it.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use crate::workload::directory::change::{Act, Change, Edit, split};
use crate::workload::directory::compare;
use crate::workload::directory::object::{Attributes, Object, Values, depth, folded, parent};
use crate::workload::directory::picture::Picture;
use crate::workload::directory::wish::{PlanError, Wish, owners, wished};

/// Values added to one attribute in one request.
const VALUES_MAX: usize = 500;
/// What is written in a later step, or never by itself.
const APART: [&str; 4] =
    ["nTSecurityDescriptor", "objectCategory", "primaryGroupID", "userAccountControl"];
/// The groups of an object: the other end of their members.
const GROUPS: &str = "memberOf";

/// What is there now of what a restore touches, deleted objects too.
#[derive(Clone, Debug, Default)]
pub struct Live {
    pub objects: HashMap<Uuid, Object>,
    pub names: HashMap<String, Uuid>,
}

impl Live {
    /// Knows an object.
    pub fn insert(&mut self, object: Object) {
        self.names.insert(folded(&object.dn), object.guid);
        self.objects.insert(object.guid, object);
    }

    fn alive(&self, guid: &Uuid) -> Option<&Object> {
        self.objects.get(guid).filter(|object| !object.is_deleted())
    }
}

/// What is done, phase after phase; within a phase in any order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub phases: Vec<Vec<Change>>,
    /// Phases that take it back.
    pub undo: Vec<Vec<Change>>,
    /// What a person must know.
    pub notes: Vec<String>,
    /// Objects that come back from where they were deleted, with a new identity or the old.
    pub back: Vec<Uuid>,
    /// Of those, the ones whose identity is new, by the point's.
    pub anew: HashSet<Uuid>,
}

/// Decides.
///
/// # Errors
/// The wish cannot be carried out as it is.
pub fn plan(
    point: &Picture,
    live: &Live,
    now: &Setting<'_>,
    wish: &Wish,
) -> Result<Plan, PlanError> {
    let wished = wished(point, wish)?;
    for attribute in wish.attributes.iter().flatten() {
        let own = !attribute.eq_ignore_ascii_case(GROUPS)
            && !point.schema.is_writable(point.schema.name(attribute));
        if own {
            return Err(PlanError::Own { attribute: attribute.clone() });
        }
    }
    let mut planner =
        Planner { point, live, now, wish, plan: Plan::default(), names: HashMap::new() };
    planner.names = wished.iter().map(|object| (folded(&object.dn), object.guid)).collect();
    for object in &wished {
        planner.place(object)?;
    }
    let (mut edits, mut links) = (Vec::new(), Links::default());
    for object in &wished {
        edits.extend(planner.edits(object));
        planner.own_links(object, &mut links);
    }
    if planner.wants(GROUPS) {
        for owner in owners(point, &wished) {
            planner.links_to(owner, &mut links);
        }
    }
    planner.phase(edits);
    planner.links(links);
    planner.plan.undo.reverse();
    Ok(planner.plan)
}

/// What is known of the live directory as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'n> {
    pub recycle_bin: bool,
    pub domain: &'n str,
}

/// Values to be added and removed, by the name of the object and the attribute.
#[derive(Debug, Default)]
struct Links(BTreeMap<(String, String), (Values, Values)>);

struct Planner<'p> {
    point: &'p Picture,
    live: &'p Live,
    now: &'p Setting<'p>,
    wish: &'p Wish,
    plan: Plan,
    /// What is wished for, by name.
    names: HashMap<String, Uuid>,
}

impl Planner<'_> {
    fn wants(&self, attribute: &str) -> bool {
        let wanted = self.wish.attributes.as_ref();
        wanted.is_none_or(|wanted| wanted.iter().any(|name| name.eq_ignore_ascii_case(attribute)))
    }

    fn phase(&mut self, changes: Vec<(Change, Option<Change>)>) {
        let (changes, undo): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
        if !changes.is_empty() {
            self.plan.phases.push(changes);
            self.plan.undo.push(undo.into_iter().flatten().collect());
        }
    }

    /// One more change at a depth: a phase for each depth, since parents come first.
    fn at_depth(&mut self, depth: usize, change: Change, undo: Change) {
        while self.plan.phases.len() <= depth {
            self.plan.phases.push(Vec::new());
            self.plan.undo.push(Vec::new());
        }
        if let (Some(changes), Some(undos)) =
            (self.plan.phases.get_mut(depth), self.plan.undo.get_mut(depth))
        {
            changes.push(change);
            undos.push(undo);
        }
    }

    /// Brings an object to where it was.
    fn place(&mut self, object: &Object) -> Result<(), PlanError> {
        let dn = object.dn.clone();
        let there = self.live.objects.get(&object.guid);
        let level = depth(&dn);
        if let Some(there) = there.filter(|there| !there.is_deleted()) {
            if folded(&there.dn) != folded(&dn) && self.wish.attributes.is_none() {
                self.above(object)?;
                let from = there.dn.clone();
                let undo = Change::Rename { dn: dn.clone(), to: from.clone() };
                self.at_depth(level, Change::Rename { dn: from, to: dn }, undo);
            }
            return Ok(());
        }
        if self.wish.attributes.is_some() {
            self.plan.notes.push(format!("{dn} is deleted: restore it whole first"));
            return Ok(());
        }
        if self.live.names.get(&folded(&dn)).is_some_and(|guid| self.live.alive(guid).is_some()) {
            self.plan.notes.push(format!("{dn} is left out: another object has that name now"));
            return Ok(());
        }
        self.above(object)?;
        let undo = Change::Delete { dn: dn.clone() };
        let recycled = there.is_some_and(|there| there.text("isRecycled") == Some("TRUE"));
        let change = match there {
            Some(there) if !(recycled && self.now.recycle_bin) => Change::Reanimate {
                tombstone: there.dn.clone(),
                guid: object.guid,
                edits: self.carried(object).map(|(name, v)| Edit::replace(name, v)).collect(),
                dn,
            },
            _ => {
                self.plan.anew.insert(object.guid);
                Change::Add { attributes: self.made(object), dn }
            }
        };
        self.plan.back.push(object.guid);
        self.at_depth(level, change, undo);
        Ok(())
    }

    /// Whatever is above must be there, or come back as well.
    fn above(&self, object: &Object) -> Result<(), PlanError> {
        let Some(above) = parent(&object.dn) else { return Ok(()) };
        let name = folded(above);
        let there = self.names.contains_key(&name)
            || name == folded(self.now.domain)
            || self.live.names.get(&name).is_some_and(|guid| self.live.alive(guid).is_some());
        let (dn, above) = (object.dn.clone(), above.to_owned());
        if there { Ok(()) } else { Err(PlanError::Orphan { dn, above }) }
    }

    /// Attributes that are written with the object itself.
    fn carried<'o>(
        &self,
        object: &'o Object,
    ) -> impl Iterator<Item = (&'o String, &'o Vec<Vec<u8>>)> {
        let naming = split(&object.dn).0.split('=').next().unwrap_or_default().to_owned();
        let schema = &self.point.schema;
        object.attributes.0.iter().filter(move |(name, _)| {
            schema.is_writable(name)
                && !schema.is_link(name)
                && !APART.contains(&name.as_str())
                && !name.eq_ignore_ascii_case(&naming)
        })
    }

    fn made(&self, object: &Object) -> Attributes {
        let carried = self.carried(object).map(|(name, values)| (name.clone(), values.clone()));
        let mut made: BTreeMap<_, _> = carried.collect();
        made.insert("objectClass".to_owned(), object.values("objectClass").to_vec());
        if let Some(control) = object.text("userAccountControl").and_then(|t| t.parse::<i64>().ok())
        {
            // Disabled until it has a password.
            let control = (control | DISABLED).to_string();
            made.insert("userAccountControl".to_owned(), vec![control.into_bytes()]);
        }
        Attributes(made)
    }

    /// What must be written for an object that is there.
    fn edits(&self, object: &Object) -> Option<(Change, Option<Change>)> {
        let there = self.live.alive(&object.guid)?;
        let edits = differing(self.point, object, there, self.wish);
        if edits.is_empty() {
            return None;
        }
        let back =
            edits.iter().map(|edit| Edit::replace(&edit.attribute, there.values(&edit.attribute)));
        let dn = match self.wish.attributes {
            None => object.dn.clone(),
            Some(_) => there.dn.clone(),
        };
        let undo = Change::Modify { dn: dn.clone(), edits: back.collect() };
        Some((Change::Modify { dn, edits }, Some(undo)))
    }

    /// How a link to an object is written: by its identity wherever it is now.
    fn target(&self, value: &[u8]) -> Vec<u8> {
        let text = std::str::from_utf8(value).unwrap_or_default();
        match self.point.named(text) {
            Some(object) if !self.plan.anew.contains(&object.guid) => {
                format!("<GUID={}>", object.guid).into_bytes()
            }
            _ => value.to_vec(),
        }
    }

    /// The links an object has itself.
    fn own_links(&self, object: &Object, links: &mut Links) {
        let back = self.plan.back.contains(&object.guid);
        let there = self.live.alive(&object.guid);
        if there.is_none() && !back {
            return;
        }
        let empty =
            Object { guid: object.guid, dn: String::new(), attributes: Attributes::default() };
        let there = there.unwrap_or(&empty);
        let names: HashSet<&String> =
            object.attributes.0.keys().chain(there.attributes.0.keys()).collect();
        for name in names {
            if !self.point.schema.is_link(name)
                || !self.point.schema.is_writable(name)
                || !self.wants(name)
            {
                continue;
            }
            let (was, is) = (object.values(name), there.values(name));
            let (missing, extra) = compare::values(self.point, self.point, was, is);
            if missing.is_empty() && extra.is_empty() {
                continue;
            }
            let entry = links.0.entry((object.dn.clone(), name.clone())).or_default();
            entry.0.extend(missing.iter().map(|value| self.target(value)));
            entry.1.extend(extra);
        }
    }

    /// The links of another object to what comes back.
    fn links_to(&self, owner: &Object, links: &mut Links) {
        if self.names.contains_key(&folded(&owner.dn)) {
            return;
        }
        let Some(there) = self.live.alive(&owner.guid) else { return };
        for (name, values) in &owner.attributes.0 {
            if !self.point.schema.is_link(name) || !self.point.schema.is_writable(name) {
                continue;
            }
            let is: HashSet<Vec<u8>> =
                there.values(name).iter().map(|value| self.point.meaning(value)).collect();
            let missing: Vec<Vec<u8>> = values
                .iter()
                .filter(|value| {
                    let target = std::str::from_utf8(value).map(folded).unwrap_or_default();
                    self.names.contains_key(&target) && !is.contains(&self.point.meaning(value))
                })
                .map(|value| self.target(value))
                .collect();
            if !missing.is_empty() {
                links.0.entry((there.dn.clone(), name.clone())).or_default().0.extend(missing);
            }
        }
    }

    fn links(&mut self, links: Links) {
        let back: HashSet<String> = self
            .plan
            .back
            .iter()
            .filter_map(|guid| self.point.object(guid).map(|object| folded(&object.dn)))
            .collect();
        let mut changes = Vec::new();
        for ((dn, attribute), (add, remove)) in links.0 {
            let own = back.contains(&folded(&dn));
            for (act, undo, values) in
                [(Act::Add, Act::Remove, add), (Act::Remove, Act::Add, remove)]
            {
                for values in values.chunks(VALUES_MAX) {
                    let edit = |act| Change::Modify {
                        dn: dn.clone(),
                        edits: vec![Edit {
                            attribute: attribute.clone(),
                            act,
                            values: values.to_vec(),
                        }],
                    };
                    // A link of what is deleted again goes with it.
                    changes.push((edit(act), (!own).then(|| edit(undo))));
                }
            }
        }
        self.phase(changes);
    }
}

/// The account is disabled.
pub const DISABLED: i64 = 2;

/// Attributes of an object that are not as in the point: all of them, or those wished for.
pub fn differing(point: &Picture, was: &Object, is: &Object, wish: &Wish) -> Vec<Edit> {
    let naming = split(&was.dn).0.split('=').next().unwrap_or_default();
    let names: std::collections::BTreeSet<&String> =
        was.attributes.0.keys().chain(is.attributes.0.keys()).collect();
    let wants = |name: &str| {
        let wanted = wish.attributes.as_ref();
        wanted.is_none_or(|wanted| wanted.iter().any(|w| w.eq_ignore_ascii_case(name)))
    };
    let schema = &point.schema;
    names
        .into_iter()
        .filter(|name| schema.is_writable(name) && !schema.is_link(name) && wants(name))
        .filter(|name| !name.eq_ignore_ascii_case(naming) && *name != "objectCategory")
        .filter(|name| {
            let (removed, added) = compare::values(point, point, was.values(name), is.values(name));
            !removed.is_empty() || !added.is_empty()
        })
        .map(|name| Edit::replace(name, was.values(name)))
        .collect()
}
