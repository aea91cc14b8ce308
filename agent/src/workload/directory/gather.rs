//! From the directory to the lines of a point: everything at first, afterwards what changed and
//! whatever changes with it (the names below what was moved, the links to what was moved or
//! deleted), until nothing changes any more. What comes out is always the whole state.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;

use uuid::Uuid;

use crate::workload::directory::ldap::LdapProblem;
use crate::workload::directory::object::{Object, folded, named, parent};
use crate::workload::directory::read::{Mark, Reader, Root};
use crate::workload::directory::shards::{
    Fresh, Shard, Shards, Sorter, each_line, merge, shard_of,
};
use crate::workload::directory::state::{ContextHead, Files, Head};
use crate::workload::moment::Memory;

/// How often it is looked again whether anything changed meanwhile.
const LOOKS_MAX: usize = 8;

/// Why the directory could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum GatherError {
    /// What is remembered, or was to be.
    #[error("what the agent remembers of the directory cannot be written or read")]
    Memory(#[from] io::Error),
    /// The server.
    #[error(transparent)]
    Server(#[from] LdapProblem),
    /// Somebody asked to stop.
    #[error("the run was stopped")]
    Stopped,
}

/// What is known of a naming context once it is read.
#[derive(Clone, Debug)]
pub(super) struct Gathered {
    pub(super) dn: String,
    pub(super) shards: Shards,
    pub(super) mark: Mark,
    /// Read whole for this reason; otherwise only what changed.
    pub(super) whole: Option<String>,
    /// Objects that were read.
    pub(super) read: u64,
}

impl Gathered {
    /// How many objects it has.
    pub(super) fn objects(&self) -> u64 {
        self.shards.values().map(|shard| shard.objects).sum()
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Harvest {
    pub(super) contexts: Vec<Gathered>,
    /// Nothing had changed when it was looked at last.
    pub(super) settled: bool,
    /// What is less than could be had.
    pub(super) notes: Vec<String>,
}

impl Harvest {
    /// What to remember with the point.
    pub(super) fn head(&self, memory: &Memory, root: &Root, exclude: &[String]) -> Head {
        let contexts = self.contexts.iter().map(|known| ContextHead {
            dn: known.dn.clone(),
            mark: known.mark.clone(),
            shards: known.shards.clone(),
        });
        Head {
            repo: memory.repo,
            point: memory.point,
            invocation: root.invocation.clone(),
            exclude: exclude.to_vec(),
            contexts: contexts.collect(),
        }
    }
}

/// A gathering under way.
pub(super) struct Gathering<'g> {
    pub(super) reader: &'g Reader,
    pub(super) files: &'g Files,
    pub(super) exclude: &'g [String],
    /// Called between two requests; ends the run by an error.
    pub(super) stopped: &'g dyn Fn() -> Result<(), GatherError>,
}

impl Gathering<'_> {
    /// Reads everything, or what changed since the last point.
    pub(super) async fn run(&self) -> Result<Harvest, GatherError> {
        let mut harvest = self.begin().await?;
        self.settle(&mut harvest).await?;
        Ok(harvest)
    }

    /// Follows what changes until nothing does.
    pub(super) async fn settle(&self, harvest: &mut Harvest) -> Result<(), GatherError> {
        harvest.settled = false;
        for _ in 0..LOOKS_MAX {
            if self.follow(harvest).await? == 0 {
                harvest.settled = true;
                break;
            }
        }
        Ok(())
    }

    /// The state to start from.
    async fn begin(&self) -> Result<Harvest, GatherError> {
        let root = &self.reader.root;
        let last = self.files.last().and_then(|head| self.usable(head));
        let mut harvest = Harvest { contexts: Vec::new(), settled: false, notes: Vec::new() };
        for (at, dn) in root.contexts.iter().enumerate() {
            let known = last.as_ref().map(|head| head.contexts.get(at).cloned());
            let gathered = match known {
                Ok(Some(ContextHead { mark, shards, .. })) => {
                    Gathered { dn: dn.clone(), shards, mark, whole: None, read: 0 }
                }
                Ok(None) => self.first(at, dn, "it is new", &mut harvest).await?,
                Err(why) => self.first(at, dn, why, &mut harvest).await?,
            };
            harvest.contexts.push(gathered);
        }
        Ok(harvest)
    }

    fn usable(&self, head: Head) -> Result<Head, String> {
        let root = &self.reader.root;
        let known: Vec<&String> = head.contexts.iter().map(|known| &known.dn).collect();
        let marked =
            |known: &ContextHead| matches!(known.mark, Mark::Usn(usn) if usn > root.highest_usn);
        if head.invocation != root.invocation {
            return Err(format!(
                "the database is another one ({}, it was {})",
                root.invocation, head.invocation
            ));
        }
        if head.contexts.iter().any(marked) {
            return Err("the update sequence number went back: it was restored".to_owned());
        }
        if known.into_iter().ne(&root.contexts) {
            return Err("the naming contexts are others".to_owned());
        }
        if head.exclude != self.exclude {
            return Err("the policy excludes something else now".to_owned());
        }
        Ok(head)
    }

    async fn first(
        &self,
        at: usize,
        dn: &str,
        why: &str,
        harvest: &mut Harvest,
    ) -> Result<Gathered, GatherError> {
        let (mark, note) = self.reader.first_mark(dn).await?;
        harvest.notes.extend(note);
        self.whole(at, dn, mark, why).await
    }

    async fn whole(
        &self,
        at: usize,
        dn: &str,
        mark: Mark,
        why: &str,
    ) -> Result<Gathered, GatherError> {
        let mut sorter = Sorter::new(&self.files.scratch())?;
        let mut cookie = Vec::new();
        loop {
            (self.stopped)()?;
            let (objects, next) = self.reader.page(dn, &cookie).await?;
            objects.iter().try_for_each(|object| sorter.push(object))?;
            cookie = next;
            if cookie.is_empty() {
                break;
            }
        }
        let shards = sorter.finish(|shard| self.files.fresh(at, shard))?;
        let whole = Some(why.to_owned());
        let mut gathered = Gathered { dn: dn.to_owned(), shards, mark, whole, read: 0 };
        gathered.read = gathered.objects();
        Ok(gathered)
    }

    /// Brings the lines up to what the directory is now; how many objects changed.
    async fn follow(&self, harvest: &mut Harvest) -> Result<usize, GatherError> {
        let mut fresh = vec![Fresh::new(); harvest.contexts.len()];
        let mut found = 0;
        for (at, known) in harvest.contexts.iter_mut().enumerate() {
            (self.stopped)()?;
            let Some(changes) = self.reader.changes(&known.dn, &known.mark).await? else {
                let why = format!("the server does not know the {} any more", known.mark.kind());
                let (mark, note) = self.reader.first_mark(&known.dn).await?;
                harvest.notes.extend(note);
                *known = self.whole(at, &known.dn.clone(), mark, &why).await?;
                found += 1;
                continue;
            };
            known.mark = changes.next;
            if let Some(slot) = fresh.get_mut(at) {
                self.fetch(changes.guids, slot).await?;
                found += slot.len();
            }
        }
        if fresh.iter().any(|fresh| !fresh.is_empty()) {
            self.beside(harvest, &mut fresh).await?;
        }
        for (at, (known, fresh)) in harvest.contexts.iter_mut().zip(fresh).enumerate() {
            known.read += fresh.len() as u64;
            self.put(at, &mut known.shards, fresh)?;
        }
        Ok(found)
    }

    /// Puts what is fresh into the parts it belongs to; the others stay as they are.
    fn put(&self, context: usize, shards: &mut Shards, fresh: Fresh) -> io::Result<()> {
        let mut parts: BTreeMap<u8, Fresh> = BTreeMap::new();
        for (guid, object) in fresh {
            parts.entry(shard_of(&guid)).or_default().insert(guid, object);
        }
        fs::create_dir_all(self.files.scratch())?;
        for (at, fresh) in parts {
            let from = shards.get(&at).map(|shard| self.files.lines(context, at, shard));
            let to = self.files.fresh(context, at);
            let merged = to.with_extension("merged");
            let objects = merge(from.as_deref(), &fresh, &merged)?;
            fs::rename(merged, to)?;
            match objects {
                0 => shards.remove(&at),
                _ => shards.insert(at, Shard { objects, kept: None, new: true }),
            };
        }
        Ok(())
    }

    /// Every object of a naming context, or of the parts of it that are asked for.
    fn each_object(
        &self,
        context: usize,
        known: &Gathered,
        asked: impl Fn(u8) -> bool,
        mut take: impl FnMut(Object),
    ) -> io::Result<()> {
        for (at, shard) in known.shards.iter().filter(|(at, _)| asked(**at)) {
            each_line(&self.files.lines(context, *at, shard), |line| {
                let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a line of no object");
                take(Object::read(line).ok_or_else(damaged)?);
                Ok(())
            })?;
        }
        Ok(())
    }

    async fn fetch(&self, guids: BTreeSet<Uuid>, into: &mut Fresh) -> Result<(), GatherError> {
        let new: Vec<Uuid> = guids.into_iter().filter(|guid| !into.contains_key(guid)).collect();
        into.extend(new.iter().map(|guid| (*guid, None)));
        for object in self.reader.objects(new).await? {
            into.insert(object.guid, Some(object));
        }
        Ok(())
    }

    /// What changed with the changes: nobody tells of a child whose parent was moved, nor of
    /// a link whose target was.
    async fn beside(&self, harvest: &Harvest, fresh: &mut [Fresh]) -> Result<(), GatherError> {
        let mut moved = Moved::default();
        for (at, (known, fresh)) in harvest.contexts.iter().zip(&*fresh).enumerate() {
            let touched: BTreeSet<u8> = fresh.keys().map(shard_of).collect();
            self.each_object(
                at,
                known,
                |part| touched.contains(&part),
                |old| {
                    if let Some(now) = fresh.get(&old.guid) {
                        moved.compare(&old, now.as_ref());
                    }
                },
            )?;
        }
        if moved.is_empty() {
            return Ok(());
        }
        let all = |_: u8| true;
        for (at, known) in harvest.contexts.iter().enumerate() {
            self.each_object(at, known, all, |old| moved.below(&old))?;
        }
        for (at, (known, fresh)) in harvest.contexts.iter().zip(fresh).enumerate() {
            let mut again = BTreeSet::new();
            self.each_object(at, known, all, |old| {
                if moved.concerns(&old) {
                    again.insert(old.guid);
                }
            })?;
            self.fetch(again, fresh).await?;
        }
        Ok(())
    }
}

/// Names that are not what they were.
#[derive(Debug, Default)]
struct Moved {
    /// Names of moved or deleted objects, as they were.
    names: HashSet<String>,
    /// Of those, and of containers whose descriptor changed: what is below changes too.
    above: HashSet<String>,
}

impl Moved {
    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.above.is_empty()
    }

    fn compare(&mut self, old: &Object, now: Option<&Object>) {
        let descriptor = "nTSecurityDescriptor";
        let renamed = now.is_none_or(|now| now.dn != old.dn);
        if renamed {
            self.names.insert(folded(&old.dn));
        }
        if renamed || now.is_some_and(|now| now.values(descriptor) != old.values(descriptor)) {
            self.above.insert(folded(&old.dn));
        }
    }

    fn below(&mut self, old: &Object) {
        let name = folded(&old.dn);
        let mut above = std::iter::successors(parent(&name), |above| parent(above));
        if above.any(|above| self.above.contains(above)) {
            self.names.insert(name);
        }
    }

    fn concerns(&self, old: &Object) -> bool {
        let named = |value: &Vec<u8>| {
            let text = std::str::from_utf8(value).ok().map(named);
            text.is_some_and(|text| text.contains('=') && self.names.contains(&folded(text)))
        };
        self.names.contains(&folded(&old.dn)) || old.attributes.0.values().flatten().any(named)
    }
}
