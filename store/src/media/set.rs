//! Writing a media set, session by session. Promises that what a finished session reported is
//! on media with a catalog behind it, and that a file which meets the end of a medium is
//! written whole on the next. Refuses to write on any cartridge that is neither blank nor the
//! current medium of this very set, and packs whose bytes are not their name's.

mod mounting;
mod surveyed;

use std::collections::{BTreeSet, HashSet};
use std::io::Cursor;
use std::sync::Arc;

use strongroom_protocol::{Clock, MediaSetName, MediumId, PackId, PointId, WorkloadId};

use crate::media::MediaError;
use crate::media::catalog::{
    CatalogV1, ClassV1, EarlierV1, Held, HistoryV1, MediumState, Place, WhatV1,
};
use crate::media::label::{LabelV1, ManifestHead};
use crate::media::mounted::{Mounted, PackSource, Placed};
use crate::media::order::SetOrder;
use crate::media::scan::SESSION_UNKNOWN;
use crate::media::supply::Supply;
use crate::media::survey::{Health, Survey};
use crate::tape::{Barcode, Room, TapeLibrary};

pub use surveyed::Surveyed;

/// Bytes of a pack's header, which name its class.
const PACK_HEAD_BYTES: usize = 64;

/// What became of a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    Written,
    /// The set has it, or this session wrote it already.
    AlreadyThere,
}

/// What a finished session added.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionReport {
    /// 0 when nothing was written.
    pub session: u32,
    pub packs: u64,
    pub points: u64,
    pub bytes: u64,
    /// The cartridges it lies on, in order.
    pub media: Vec<Barcode>,
}

struct Session {
    number: u32,
    planned_bytes: u64,
    packs: HashSet<PackId>,
    points: HashSet<PointId>,
    mounted: Option<Mounted>,
    report: SessionReport,
}

/// Appends sessions to one media set. Loads a cartridge only when there is something to write.
pub struct MediaSetWriter {
    library: Arc<dyn TapeLibrary>,
    order: SetOrder,
    clock: Arc<dyn Clock>,
    survey: Survey,
    supply: Supply,
    held: Held,
    /// Media everything on which is to be put again.
    forgotten: HashSet<MediumId>,
    /// The last session before any of this writer, and the last medium of the set, also of media
    /// that were released: numbers only grow.
    session_before: u32,
    sequence_before: u32,
    session: Option<Session>,
}

impl MediaSetWriter {
    /// Reads the labels of all cartridges in the library and the last catalogs of the set.
    pub fn open(
        library: Arc<dyn TapeLibrary>,
        order: SetOrder,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, MediaError> {
        let order = vec![order];
        let mut writers = Self::open_all(&library, order, &clock)?;
        writers.pop().ok_or(MediaError::ForeignFile { what: "order" })
    }

    /// The same for several sets that are written side by side: every cartridge is loaded once,
    /// and what is blank goes to whoever needs it first.
    pub fn open_all(
        library: &Arc<dyn TapeLibrary>,
        orders: Vec<SetOrder>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Vec<Self>, MediaError> {
        Surveyed::of(library, orders)?.open(clock)
    }

    /// Which set it writes.
    pub const fn set(&self) -> &MediaSetName {
        &self.order.set
    }

    /// The newest cartridge of the set that is here.
    pub fn current(&self) -> Option<&Barcode> {
        let here = self.survey.media.values().filter(|medium| medium.health != Health::Absent);
        here.max_by_key(|medium| medium.label.sequence).map(|medium| &medium.barcode)
    }

    /// The media that carry these barcodes now.
    pub fn media_of(&self, barcodes: &BTreeSet<Barcode>) -> BTreeSet<MediumId> {
        let here = self.survey.media.values().filter(|medium| medium.health != Health::Absent);
        let named = here.filter(|medium| barcodes.contains(&medium.barcode));
        named.map(|medium| medium.label.medium).collect()
    }

    /// What finished sessions hold, so that only the rest need be put.
    pub const fn held(&self) -> &Held {
        &self.held
    }

    /// Takes packs for lost (a check found them damaged), so that they may be put again.
    pub fn forget_packs(&mut self, packs: &HashSet<PackId>) {
        self.held.packs.retain(|id, _| !packs.contains(id));
    }

    /// Takes points for lost, so that their manifests may be put again.
    pub fn forget_points(&mut self, points: &HashSet<PointId>) {
        self.held.points.retain(|id, _| !points.contains(id));
    }

    /// Takes a cartridge for lost: what lies only there may be put again.
    pub fn forget_medium(&mut self, medium: MediumId) {
        self.held.forget(medium);
    }

    /// Takes everything that lies on a cartridge for lost, wherever else it lies, until it was
    /// put again.
    pub fn forget_all_on(&mut self, medium: MediumId) {
        self.forgotten.insert(medium);
        self.settle();
    }

    /// What is held after a session: all that media say, but for what was forgotten and not put
    /// again.
    fn settle(&mut self) {
        self.held = self.survey.held();
        let (forgotten, before) = (&self.forgotten, self.session_before);
        let counts = |places: &[Place]| {
            let is_new = |place: &Place| (before + 1..SESSION_UNKNOWN).contains(&place.session);
            places.iter().any(is_new)
                || places.iter().all(|place| !forgotten.contains(&place.medium))
        };
        self.held.packs.retain(|_, pack| counts(&pack.places));
        self.held.points.retain(|_, point| counts(&point.places));
    }

    /// Has nothing written on a cartridge any more.
    pub fn seal_medium(&mut self, medium: MediumId) {
        if let Some(medium) = self.survey.media.get_mut(&medium) {
            medium.state = MediumState::Sealed;
        }
    }

    /// Cartridges that may be written from their beginning.
    pub fn blanks(&self) -> usize {
        self.supply.writable()
    }

    /// Opens a session; `planned_bytes` is only for saying how much room is wanted.
    pub fn begin(&mut self, planned_bytes: u64) -> Result<(), MediaError> {
        if self.session.is_some() {
            return Err(MediaError::SessionOpen { set: self.order.set.clone() });
        }
        self.session = Some(Session {
            number: self.survey.session_last().max(self.session_before).saturating_add(1),
            planned_bytes,
            packs: HashSet::new(),
            points: HashSet::new(),
            mounted: None,
            report: SessionReport::default(),
        });
        Ok(())
    }

    /// Writes a pack of exactly `bytes`, hashing it on the way. After `PackMismatch` or a
    /// failing source nothing of it stays and the session goes on.
    pub fn put_pack(
        &mut self,
        pack: PackId,
        bytes: u64,
        source: &mut dyn PackSource,
    ) -> Result<Put, MediaError> {
        let known = self.held.has_pack(&pack);
        if known || self.open_session()?.packs.contains(&pack) {
            return Ok(Put::AlreadyThere);
        }
        let mut head = [0; PACK_HEAD_BYTES];
        let broken = |source| MediaError::Source { bytes: 0, source };
        source.rewind().map_err(broken)?;
        source.read_exact(&mut head).map_err(broken)?;
        let class = ClassV1::of(&head).ok_or(MediaError::PackMismatch { pack })?;
        self.put(WhatV1::Pack { id: pack, class }, bytes, source)?;
        let session = self.open_session()?;
        session.packs.insert(pack);
        session.report.packs += 1;
        session.report.bytes += bytes;
        Ok(Put::Written)
    }

    /// Writes the manifest of a point, all of whose packs were put before it or are held.
    pub fn put_manifest(
        &mut self,
        workload: WorkloadId,
        point: PointId,
        manifest: &[u8],
    ) -> Result<Put, MediaError> {
        let known = self.held.has_point(&point);
        if known || self.open_session()?.points.contains(&point) {
            return Ok(Put::AlreadyThere);
        }
        let head = ManifestHead::of(manifest)
            .filter(|head| (head.workload, head.point) == (workload, point))
            .filter(|head| head.repo == self.order.identity.repo)
            .ok_or(MediaError::PointMismatch { point })?;
        let what = WhatV1::Point { workload, point, moment_ns: head.moment_ns };
        self.put(what, manifest.len() as u64, &mut Cursor::new(manifest))?;
        let session = self.open_session()?;
        session.points.insert(point);
        session.report.points += 1;
        session.report.bytes += manifest.len() as u64;
        Ok(Put::Written)
    }

    /// Closes the session with its catalog. Only after this counts what it wrote.
    pub fn finish(&mut self) -> Result<SessionReport, MediaError> {
        self.open_session()?;
        self.close(MediumState::Open)?;
        self.settle();
        let session = self.session.take();
        let mut report = session.map(|session| session.report).unwrap_or_default();
        report.media.dedup();
        Ok(report)
    }

    fn open_session(&mut self) -> Result<&mut Session, MediaError> {
        let set = &self.order.set;
        self.session.as_mut().ok_or_else(|| MediaError::NoSession { set: set.clone() })
    }

    /// Writes a file, on the next medium when this one ends. An error that leaves the drive
    /// in doubt ends the session: what it wrote since the last catalog does not count.
    fn put(
        &mut self,
        what: WhatV1,
        bytes: u64,
        source: &mut dyn PackSource,
    ) -> Result<(), MediaError> {
        loop {
            let mut mounted = match self.open_session()?.mounted.take() {
                Some(mounted) if mounted.room == Room::Plenty => mounted,
                Some(mounted) => {
                    self.open_session()?.mounted = Some(mounted);
                    self.close(MediumState::Full)?;
                    continue;
                }
                None => self.mount(bytes)?,
            };
            let number = self.open_session()?.number;
            let outcome = mounted.place(what, bytes, source, number);
            if matches!(outcome, Err(MediaError::Tape(_) | MediaError::PositionDoubtful { .. })) {
                self.session = None;
                return outcome.map(drop);
            }
            self.open_session()?.mounted = Some(mounted);
            match outcome? {
                Placed::There => return Ok(()),
                Placed::NotHere => self.close(MediumState::Full)?,
            }
        }
    }

    /// The current medium of the set, or a new one.
    fn mount(&mut self, bytes: u64) -> Result<Mounted, MediaError> {
        let mounted = match self.resume()? {
            Some(mounted) => mounted,
            None => self.start(bytes)?,
        };
        let number = self.open_session()?.number;
        let report = &mut self.open_session()?.report;
        report.session = number;
        report.media.push(mounted.reel.barcode().clone());
        Ok(mounted)
    }

    /// Writes the catalog behind what the session put on the mounted medium, if any. The
    /// data is flushed first, so that a catalog never speaks of what is not there.
    fn close(&mut self, state: MediumState) -> Result<(), MediaError> {
        let session = self.open_session()?;
        let (number, taken) = (session.number, session.mounted.take());
        let Some(mut mounted) = taken else { return Ok(()) };
        let Some(medium) = self.survey.media.get(&mounted.medium) else { return Ok(()) };
        let closing = Closing { session: number, state };
        let catalog = self.catalog(&mounted, &medium.label, closing);
        let outcome = mounted.close(catalog);
        let Some(medium) = self.survey.media.get_mut(&mounted.medium) else { return Ok(()) };
        match outcome {
            Ok(file) => {
                medium.resume = Some(file);
                medium.entries = mounted.entries;
                medium.session_last = number;
            }
            // Nothing new was on it: the catalog it has is enough.
            Err(MediaError::CatalogDoesNotFit { .. }) if mounted.fresh == 0 => {}
            Err(error) => {
                if matches!(error, MediaError::CatalogDoesNotFit { .. }) {
                    medium.state = MediumState::Full;
                }
                self.session = None;
                return Err(error);
            }
        }
        let warned = mounted.room == Room::EarlyWarning;
        medium.state = if warned { MediumState::Full } else { state };
        mounted.reel.unmount(self.library.as_ref())
    }

    fn catalog(&self, mounted: &Mounted, label: &LabelV1, closing: Closing) -> CatalogV1 {
        let Closing { session, state } = closing;
        let warned = mounted.room == Room::EarlyWarning;
        CatalogV1 {
            label: label.clone(),
            session,
            written_ns: self.clock.now().0,
            file: 0,
            state: if warned { MediumState::Full } else { state },
            entries: mounted.entries.clone(),
            history: HistoryV1::Given,
            earlier: self.earlier(mounted.medium),
        }
    }

    fn earlier(&self, current: MediumId) -> Vec<EarlierV1> {
        let others = self.survey.media.iter().filter(|(id, _)| **id != current);
        let others = others.map(|(_, medium)| EarlierV1 {
            label: medium.label.clone(),
            state: match medium.state {
                MediumState::Full => MediumState::Full,
                MediumState::Open | MediumState::Sealed => MediumState::Sealed,
            },
            entries: medium.entries.clone(),
        });
        others.collect()
    }
}

struct Closing {
    session: u32,
    state: MediumState,
}
