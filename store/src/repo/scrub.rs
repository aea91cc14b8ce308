//! Scrubbing by age: which packs and manifests are due, oldest first, and reading one of them
//! back from the medium itself, without any key. What is hurt is remembered until it was found
//! whole or replaced; nothing is removed here. The ages are a cache, their loss makes all due.

mod book;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use strongroom_protocol::blob::Reference;
use strongroom_protocol::id::{PackId, PointId, WorkloadId};
use strongroom_protocol::time::Timestamp;

use super::error::RepoError;
use super::hurt::GONE;
use super::{Inner, Repo};
use crate::disk::{DiskError, parent};
use crate::index::Doubt;
use crate::pack::{PackClass, pack_path, read_footer};

pub(super) use book::Book;
use book::Mark;
pub use book::Subject;

/// How often things are read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubTerms {
    /// What was found whole is due again after this.
    pub period_seconds: i64,
    /// What is new is due after this: long enough to have left all caches.
    pub new_seconds: i64,
}

/// What reading one thing back told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Checked {
    /// It is not here any more, rightly.
    Gone,
    /// It is not what its name says, or cannot be read, or is missing.
    Hurt(String),
    /// It is whole; so many bytes were read.
    Sound(u64),
    /// It was told to stop.
    Stopped,
}

/// How old what is known of the repository's files is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubAge {
    /// Packs and manifests in the book.
    pub files: u64,
    /// The oldest proof among what was read back; none when nothing was.
    pub oldest: Option<Timestamp>,
    /// Packs and manifests that were never read back.
    pub never: u64,
    /// Bytes of the packs among them.
    pub never_bytes: u64,
}

impl Repo {
    /// What is to be read back now: what is hurt, then what is due, oldest first. Looks at what
    /// is in place on the way: a pack that the index knows and that is gone is hurt at once.
    pub fn scrub_due(&self, terms: ScrubTerms, now: Timestamp) -> Result<Vec<Subject>, RepoError> {
        let inner = &self.inner;
        inner.note_missing_packs()?;
        let mut here: Vec<Subject> = self.packs().into_iter().map(Subject::Pack).collect();
        let points = self.points()?;
        here.extend(points.into_iter().map(|(workload, point)| Subject::Point(workload, point)));
        here.sort_unstable();
        let hurt = self.hurt();
        let mut book = inner.book();
        let mut marks = BTreeMap::new();
        // Without a book nobody knows since when it is here: it is due.
        let first_seen = if book.is_kept { now } else { Timestamp(0) };
        for subject in here {
            let fresh = Mark { seen: first_seen, verified: Timestamp(0) };
            let mark = book.marks.get(&subject).copied().unwrap_or(fresh);
            marks.insert(subject, mark);
        }
        book.is_changed |= marks != book.marks;
        (book.marks, book.is_kept) = (marks, true);
        let due = book.marks.iter().filter(|(subject, mark)| {
            // A moment of the future was a wrong clock's: it says nothing.
            let is_new = mark.verified.0 == 0 || mark.verified > now;
            let (since, wait) = match is_new {
                true => (mark.seen.min(now), terms.new_seconds),
                false => (mark.verified, terms.period_seconds),
            };
            since.plus_seconds(wait) <= now && !hurt.contains_key(*subject)
        });
        let mut due: Vec<(Timestamp, Subject)> =
            due.map(|(subject, mark)| (mark.verified, *subject)).collect();
        drop(book);
        due.sort_unstable();
        Ok(hurt.into_keys().chain(due.into_iter().map(|(_, subject)| subject)).collect())
    }

    /// Reads one thing back from the medium. `pace` is told of the bytes as they come, and may
    /// take its time or end it.
    pub fn scrub_check(
        &self,
        subject: Subject,
        now: Timestamp,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Checked {
        let checked = match subject {
            Subject::Pack(pack) => self.inner.check_pack(pack, pace),
            Subject::Point(workload, point) => self.check_point(workload, point, pace),
        };
        let checked = match checked {
            Checked::Sound(bytes) => self.inner.settled(subject, bytes),
            other => other,
        };
        match &checked {
            Checked::Sound(_) => {
                let mut book = self.inner.book();
                let fresh = Mark { seen: now, verified: now };
                book.marks.entry(subject).or_insert(fresh).verified = now;
                book.is_changed = true;
                drop(book);
                self.inner.set_whole(subject);
            }
            Checked::Gone => self.inner.set_whole(subject),
            Checked::Hurt(why) => self.inner.set_hurt(subject, why),
            Checked::Stopped => {}
        }
        checked
    }

    /// Reads back those of the packs that are here, whatever their age, to know which are hurt.
    pub fn recheck_packs(&self, packs: &[PackId], pace: &mut dyn FnMut(u64) -> ControlFlow<()>) {
        for pack in packs.iter().filter(|pack| self.inner.index.class(pack).is_some()) {
            match self.inner.check_pack(*pack, pace) {
                Checked::Hurt(why) => self.inner.set_hurt(Subject::Pack(*pack), &why),
                Checked::Sound(_) => self.inner.set_whole(Subject::Pack(*pack)),
                Checked::Gone => {}
                Checked::Stopped => return,
            }
        }
    }

    /// Writes the ages down, if any changed.
    pub fn scrub_save(&self) -> Result<(), RepoError> {
        self.inner.writer()?;
        let bytes = {
            let mut book = self.inner.book();
            if !std::mem::take(&mut book.is_changed) {
                return Ok(());
            }
            book.encode(self.id())
        };
        let saved = book::save(&*self.inner.disk, &bytes);
        if saved.is_err() {
            self.inner.book().is_changed = true;
        }
        Ok(saved?)
    }

    /// How old what is known is.
    pub fn scrub_age(&self) -> ScrubAge {
        let marks: Vec<(Subject, Mark)> = {
            let book = self.inner.book();
            book.marks.iter().map(|(subject, mark)| (*subject, *mark)).collect()
        };
        let mut age = ScrubAge { files: marks.len() as u64, ..ScrubAge::default() };
        for (subject, mark) in marks {
            if mark.verified.0 != 0 {
                age.oldest = Some(age.oldest.map_or(mark.verified, |at| at.min(mark.verified)));
                continue;
            }
            age.never += 1;
            if let Subject::Pack(pack) = subject {
                age.never_bytes += self.pack_len(pack).unwrap_or_default();
            }
        }
        age
    }

    /// Whether a point misses something though no pack is known to be hurt: one was lost
    /// together with all that knew of it.
    fn check_needs(
        &self,
        roots: &[Reference],
        bytes: u64,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Checked {
        let is_explained = || self.hurt().keys().any(|subject| matches!(subject, Subject::Pack(_)));
        if is_explained() {
            return Checked::Sound(bytes);
        }
        match self.is_whole(roots, pace) {
            Ok(Some(())) => Checked::Sound(bytes),
            Ok(None) => Checked::Stopped,
            Err(_) if is_explained() => Checked::Sound(bytes),
            Err(error) => Checked::Hurt(strongroom_protocol::Chain(&error).to_string()),
        }
    }

    fn check_point(
        &self,
        workload: WorkloadId,
        point: PointId,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Checked {
        // What the point needs stays while it is looked at, however slowly, and though it is
        // removed meanwhile.
        let _session = self.session();
        let path = super::points::path_of(workload, point);
        let mut bytes = Vec::new();
        let mut onward = ControlFlow::Continue(());
        let read = self.inner.disk.read_cold(&path, &mut |piece| {
            bytes.extend_from_slice(piece);
            onward = match bytes.len() as u64 > super::points::MANIFEST_BYTES_MAX {
                true => ControlFlow::Break(()),
                false => pace(piece.len() as u64),
            };
            onward
        });
        let is_short = bytes.len() as u64 <= super::points::MANIFEST_BYTES_MAX;
        match read {
            // Whether it was to go is not known here.
            Err(error) if error.is_missing() => Checked::Gone,
            Err(error) => Checked::Hurt(told(&error)),
            Ok(()) if onward.is_break() && is_short => Checked::Stopped,
            Ok(()) => match self.inner.checked_roots(workload, point, &bytes) {
                Ok(roots) => self.check_needs(&roots, bytes.len() as u64, pace),
                Err(error) => Checked::Hurt(error.to_string()),
            },
        }
    }
}

fn told(error: &DiskError) -> String {
    format!("{error}: {}", error.source)
}

impl Inner {
    /// The ages, read when they are first asked for.
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        let loaded = self
            .book
            .get_or_init(|| std::sync::Mutex::new(Book::load(&*self.disk, self.config.repo)));
        loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// It is to be read back as something new is.
    pub(super) fn forget_age(&self, subject: Subject) {
        let mut book = self.book();
        book.is_changed |= book.marks.remove(&subject).is_some();
    }

    /// Where a pack lies, or should.
    pub(super) fn pack_place(&self, pack: PackId) -> Result<Option<PackClass>, DiskError> {
        if let Some(class) = self.index.class(&pack) {
            return Ok(Some(class));
        }
        for class in [PackClass::Data, PackClass::Metadata] {
            if self.disk.exists(&pack_path(class, pack))? {
                return Ok(Some(class));
            }
        }
        Ok(None)
    }

    pub(super) fn check_pack(
        &self,
        pack: PackId,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Checked {
        let class = match self.pack_place(pack) {
            Ok(Some(class)) => class,
            // The index never knew it: it was gone when the repository was opened.
            Ok(None) if self.health().missing_packs.contains(&pack) => {
                return Checked::Hurt(GONE.to_owned());
            }
            Ok(None) => return Checked::Gone,
            Err(error) => return Checked::Hurt(told(&error)),
        };
        let path = pack_path(class, pack);
        let mut hasher = blake3::Hasher::new();
        let mut onward = ControlFlow::Continue(());
        let read = self.disk.read_cold(&path, &mut |piece| {
            hasher.update(piece);
            onward = pace(piece.len() as u64);
            onward
        });
        match read {
            Err(error) if error.is_missing() && self.index.class(&pack).is_none() => Checked::Gone,
            Err(error) if error.is_missing() => Checked::Hurt(GONE.to_owned()),
            Err(error) => Checked::Hurt(told(&error)),
            Ok(()) if onward.is_break() => Checked::Stopped,
            Ok(()) if *hasher.finalize().as_bytes() != pack.0 => {
                Checked::Hurt("its bytes do not hash to its name".to_owned())
            }
            Ok(()) => {
                self.take_back(pack, class, &path);
                Checked::Sound(hasher.count())
            }
        }
    }

    /// What was hurt and is whole now may have come by a move that failed behind it: its name is
    /// made durable before it is believed.
    fn settled(&self, subject: Subject, bytes: u64) -> Checked {
        if !self.is_hurt(subject) || self.writer.is_none() {
            return Checked::Sound(bytes);
        }
        let directory = match subject {
            Subject::Pack(pack) => self.pack_place(pack).map(|class| {
                class.map(|class| parent(&pack_path(class, pack)).to_owned()).unwrap_or_default()
            }),
            Subject::Point(workload, _) => Ok(super::points::directory_of(workload)),
        };
        match directory.and_then(|directory| self.disk.sync_dir(&directory)) {
            Ok(()) => Checked::Sound(bytes),
            Err(error) => Checked::Hurt(told(&error)),
        }
    }

    /// A pack that was hurt and is whole: somebody put it back, or the disk is better. The index
    /// may know a part of it, or nothing.
    fn take_back(&self, pack: PackId, class: PackClass, path: &str) {
        if !self.is_hurt(Subject::Pack(pack)) {
            return;
        }
        self.forget_reader(pack);
        let footer = self.disk.open(path).map(|file| read_footer(&*file, self.config.repo));
        if let Ok(Ok((_, entries))) = footer {
            self.index.publish(pack, class, &entries, Doubt::Doubted);
        }
    }
}
