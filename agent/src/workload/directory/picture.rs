//! The objects of a directory at one time, in memory: out of a point, or live. What browsing,
//! comparing and restoring look at.

use std::collections::{BTreeMap, HashMap};

use strongroom_store::content::Entry;
use strongroom_store::page::PageError;
use strongroom_store::tree::{BlobSource, Tree, TreeError};
use uuid::Uuid;

use crate::workload::directory::ldap::LdapProblem;
use crate::workload::directory::metadata::{self, Stamp};
use crate::workload::directory::object::{Object, folded, named};
use crate::workload::directory::point::{ABOUT, About, CONTEXTS};
use crate::workload::directory::read::{ANYTHING, Reader, Root};
use crate::workload::directory::schema::Schema;

/// Bytes of a file read at a time: a few chunks.
const STEP_BYTES: u64 = 4 << 20;
const KIND: &str = "directory";

/// Why a point does not show a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// A line of it is no object.
    #[error("contexts/{place} holds a line that is no object")]
    Line { place: String },
    /// Something else was protected.
    #[error("this is no point of a directory: it has no strongroom.json of that kind")]
    Other,
    /// A directory of it cannot be read.
    #[error("the point cannot be listed")]
    Page(#[from] PageError),
    /// It cannot be read.
    #[error("the point cannot be read")]
    Tree(#[from] TreeError),
}

/// A directory at one time.
#[derive(Clone, Debug)]
pub struct Picture {
    pub root: Root,
    /// What the point says of itself; none of a live directory.
    pub about: Option<About>,
    pub schema: Schema,
    objects: BTreeMap<Uuid, Object>,
    names: HashMap<String, Uuid>,
    /// Names of domain controllers by the identity of their database.
    controllers: HashMap<Uuid, String>,
}

impl Picture {
    /// Out of the tree of a point, from the item of the directory down.
    ///
    /// # Errors
    /// It is another kind of point, or damaged.
    pub fn open<S: BlobSource>(tree: &Tree<S>) -> Result<Self, PictureError> {
        let text = match tree.lookup(ABOUT.as_bytes())? {
            Some(entry) => whole(tree, &entry)?,
            None => return Err(PictureError::Other),
        };
        let about: About = serde_json::from_slice(&text).map_err(|_| PictureError::Other)?;
        if about.kind != KIND {
            return Err(PictureError::Other);
        }
        let mut objects = BTreeMap::new();
        for context in &about.naming_contexts {
            let place = format!("{CONTEXTS}/{}", context.place);
            let page = tree.lookup(place.as_bytes())?.and_then(|entry| entry.directory_page());
            let Some(page) = page else { continue };
            for shard in tree.directory(page) {
                let shard = shard?;
                let text = whole(tree, &shard)?;
                for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let damaged = || PictureError::Line { place: context.place.clone() };
                    let object = Object::read(line).ok_or_else(damaged)?;
                    objects.insert(object.guid, object);
                }
            }
        }
        let root = about.root.clone();
        let defined = |object: &&Object| object.attributes.0.contains_key("attributeID");
        let schema = Schema::of(objects.values().filter(defined));
        Ok(Self::of(root, Some(about), schema, objects))
    }

    /// The live directory, read whole.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn live(reader: &Reader) -> Result<Self, LdapProblem> {
        let mut objects = BTreeMap::new();
        for context in &reader.root.contexts {
            let found = reader.below(context, ANYTHING).await?;
            objects.extend(found.into_iter().map(|object| (object.guid, object)));
        }
        Ok(Self::of(reader.root.clone(), None, reader.schema.clone(), objects))
    }

    fn of(
        root: Root,
        about: Option<About>,
        schema: Schema,
        objects: BTreeMap<Uuid, Object>,
    ) -> Self {
        let names = objects.values().map(|object| (folded(&object.dn), object.guid)).collect();
        let mut controllers = HashMap::new();
        for object in objects.values() {
            let raw = object.values("invocationId").first();
            let server = object.dn.split(',').nth(1).and_then(|rdn| rdn.split_once('='));
            if let (Some(raw), Some((_, name))) = (raw, server)
                && let Ok(id) = Uuid::from_slice_le(raw)
            {
                controllers.insert(id, name.to_owned());
            }
        }
        Self { root, about, schema, objects, names, controllers }
    }

    /// Every object, deleted ones too.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    /// An object by its identity.
    pub fn object(&self, guid: &Uuid) -> Option<&Object> {
        self.objects.get(guid)
    }

    /// An object by its name.
    pub fn named(&self, dn: &str) -> Option<&Object> {
        self.objects.get(self.names.get(&folded(dn))?)
    }

    /// What a value means wherever its target has moved: the target's identity if it is a name
    /// of an object here, else the value.
    pub fn meaning(&self, value: &[u8]) -> Vec<u8> {
        let text = std::str::from_utf8(value).ok().filter(|text| text.contains('='));
        let target = text.and_then(|text| self.names.get(&folded(named(text))));
        target.map_or_else(|| value.to_vec(), |guid| guid.as_bytes().to_vec())
    }

    /// When an attribute was last changed, and on which domain controller.
    pub fn stamp(&self, object: &Object, attribute: &str) -> Option<(Stamp, Option<String>)> {
        let blob = object.values("replPropertyMetaData").first()?;
        let stamp = metadata::stamps(blob, &self.schema).remove(attribute)?;
        let name = self.controllers.get(&stamp.invocation).cloned();
        Some((stamp, name))
    }
}

/// The bytes of a file.
fn whole<S: BlobSource>(tree: &Tree<S>, entry: &Entry) -> Result<Vec<u8>, TreeError> {
    let mut bytes = Vec::new();
    loop {
        let more = tree.read_file(entry, bytes.len() as u64, STEP_BYTES)?;
        if more.is_empty() {
            return Ok(bytes);
        }
        bytes.extend(more);
    }
}
