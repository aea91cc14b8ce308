//! From the directory to the lines of a point: everything at first, afterwards what changed and
//! whatever changes with it (the names below what was moved, the links to what was moved or
//! deleted), until nothing changes any more. What comes out is always the whole state.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use uuid::Uuid;

use crate::workload::directory::ldap::LdapProblem;
use crate::workload::directory::object::{Object, folded, named, parent};
use crate::workload::directory::read::{Mark, Reader};
use crate::workload::directory::state::{
    ContextHead, Files, Fresh, Head, Sorter, each_line, merge,
};

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
    pub(super) objects: u64,
    pub(super) mark: Mark,
    /// Read whole for this reason; otherwise only what changed.
    pub(super) whole: Option<String>,
    /// Objects that were read.
    pub(super) read: u64,
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

    /// What to remember with the point.
    pub(super) fn head(&self, harvest: &Harvest) -> Head {
        let memory = self.files.memory();
        let contexts = harvest.contexts.iter();
        Head {
            repo: memory.repo,
            point: memory.point,
            invocation: self.reader.root.invocation.clone(),
            exclude: self.exclude.to_vec(),
            contexts: contexts
                .map(|known| ContextHead { dn: known.dn.clone(), mark: known.mark.clone() })
                .collect(),
        }
    }

    /// The state to start from, as new lines.
    async fn begin(&self) -> Result<Harvest, GatherError> {
        let root = &self.reader.root;
        let last = self.files.last().and_then(|head| self.usable(head));
        let mut harvest = Harvest { contexts: Vec::new(), settled: false, notes: Vec::new() };
        for (at, dn) in root.contexts.iter().enumerate() {
            let gathered = match &last {
                Ok(head) => {
                    let mark = head.contexts.get(at).map(|known| known.mark.clone());
                    let objects = count(&self.files.lines(at))?;
                    fs::copy(self.files.lines(at), self.files.new_lines(at))?;
                    let mark = mark.unwrap_or(Mark::Usn(0));
                    Gathered { dn: dn.clone(), objects, mark, whole: None, read: 0 }
                }
                Err(why) => {
                    let (mark, note) = self.reader.first_mark(dn).await?;
                    harvest.notes.extend(note);
                    self.whole(at, dn, mark, why).await?
                }
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

    async fn whole(
        &self,
        at: usize,
        dn: &str,
        mark: Mark,
        why: &str,
    ) -> Result<Gathered, GatherError> {
        let to = self.files.new_lines(at);
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
        let objects = sorter.finish(&to)?;
        let whole = Some(why.to_owned());
        Ok(Gathered { dn: dn.to_owned(), objects, mark, whole, read: objects })
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
            self.beside(&mut fresh).await?;
        }
        for (at, (known, fresh)) in harvest.contexts.iter_mut().zip(&fresh).enumerate() {
            if fresh.is_empty() {
                continue;
            }
            let lines = self.files.new_lines(at);
            let merged = lines.with_extension("merged");
            known.objects = merge(&lines, fresh, &merged)?;
            known.read += fresh.len() as u64;
            fs::rename(merged, lines)?;
        }
        Ok(found)
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
    async fn beside(&self, fresh: &mut [Fresh]) -> Result<(), GatherError> {
        let mut moved = Moved::default();
        for (at, fresh) in fresh.iter().enumerate() {
            each_object(&self.files.new_lines(at), |old| {
                if let Some(now) = fresh.get(&old.guid) {
                    moved.compare(&old, now.as_ref());
                }
            })?;
        }
        if moved.is_empty() {
            return Ok(());
        }
        for at in 0..fresh.len() {
            each_object(&self.files.new_lines(at), |old| moved.below(&old))?;
        }
        for (at, fresh) in fresh.iter_mut().enumerate() {
            let mut again = BTreeSet::new();
            each_object(&self.files.new_lines(at), |old| {
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

fn each_object(path: &Path, mut take: impl FnMut(Object)) -> io::Result<()> {
    each_line(path, |line| {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a line that is no object");
        take(Object::read(line).ok_or_else(damaged)?);
        Ok(())
    })
}

fn count(path: &Path) -> io::Result<u64> {
    let mut count = 0;
    each_line(path, |_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}
