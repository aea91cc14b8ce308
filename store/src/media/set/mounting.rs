//! Getting a cartridge to write on: the current one of the set, else one that is blank or was
//! released. Refuses one whose label is not what it was when it was chosen.

use strongroom_protocol::MediumId;

use crate::media::MediaError;
use crate::media::catalog::MediumState;
use crate::media::label::LabelV1;
use crate::media::mounted::{Mounted, carries};
use crate::media::reel::Reel;
use crate::media::set::MediaSetWriter;
use crate::media::survey::{Health, LabelFound, Medium, label, latest};
use crate::tape::{Barcode, Protection, Room};

impl MediaSetWriter {
    pub(super) fn resume(&mut self) -> Result<Option<Mounted>, MediaError> {
        let present = self.survey.media.values_mut().filter(|m| m.health != Health::Absent);
        let newest = present.max_by_key(|m| (m.label.sequence, m.label.written_ns));
        let Some(medium) = newest.filter(|medium| medium.state == MediumState::Open) else {
            return Ok(None);
        };
        let Some(resume) = medium.resume else { return Ok(None) };
        let mut reel = Reel::mount(self.library.as_ref(), &medium.barcode)?;
        if reel.protection() == Protection::WriteProtected {
            medium.state = MediumState::Sealed;
            reel.unmount(self.library.as_ref())?;
            return Ok(None);
        }
        let id = medium.label.medium;
        match label(&mut reel)? {
            LabelFound::Label(label) if label.medium == id => {}
            _ => return Err(MediaError::UnknownMedium { medium: id }),
        }
        let mut stale = Vec::new();
        for (what, bytes) in self.order.headers() {
            if !carries(&mut reel, latest(medium, what), bytes)? {
                stale.push((what, bytes));
            }
        }
        reel.go_behind(resume)?;
        let entries = medium.entries.clone();
        let mut mounted = Mounted::new(reel, id, entries);
        let number = self.session.as_ref().map_or(0, |session| session.number);
        for (what, bytes) in stale {
            let file = mounted.reel.file()?;
            match mounted.header(what, bytes, number) {
                // The session will close this medium before it writes anything.
                Err(MediaError::TooLargeForMedium { .. }) => {
                    mounted.reel.go_to(file)?;
                    mounted.room = Room::EarlyWarning;
                    break;
                }
                other => other?,
            }
        }
        Ok(Some(mounted))
    }

    pub(super) fn start(&mut self, bytes: u64) -> Result<Mounted, MediaError> {
        let number = self.open_session()?.number;
        while let Some(fresh) = self.supply.take() {
            let barcode = fresh.barcode().clone();
            let mut reel = Reel::mount(self.library.as_ref(), &barcode)?;
            let is_free = fresh.is(&label(&mut reel)?);
            if !is_free || reel.protection() == Protection::WriteProtected {
                reel.unmount(self.library.as_ref())?;
                continue;
            }
            let label = self.fresh_label(&barcode, reel.block_bytes());
            reel.go_to(0)?;
            let medium = label.medium;
            let mut mounted = Mounted::new(reel, medium, Vec::new());
            mounted.label(&label)?;
            for (what, bytes) in self.order.headers() {
                mounted.header(what, bytes, number)?;
            }
            let known = Medium {
                label,
                barcode,
                state: MediumState::Open,
                entries: Vec::new(),
                health: Health::Sound,
                resume: Some(0),
                session_last: 0,
            };
            self.survey.media.insert(medium, known);
            return Ok(mounted);
        }
        let session = self.open_session()?;
        let left = session.planned_bytes.saturating_sub(session.report.bytes);
        let protected = self.supply.protected();
        let set = self.order.set.clone();
        Err(MediaError::NoBlankCartridge { set, wanted_bytes: left.max(bytes), protected })
    }

    fn fresh_label(&self, barcode: &Barcode, block_bytes: usize) -> LabelV1 {
        let now = self.clock.now();
        let sequences = self.survey.media.values().map(|medium| medium.label.sequence);
        LabelV1 {
            medium: MediumId::fresh(now.unix_ms()),
            barcode: barcode.clone(),
            set: self.order.set.clone(),
            sequence: sequences.max().unwrap_or(0).max(self.sequence_before) + 1,
            org: self.order.identity.org.clone(),
            repo: self.order.identity.repo,
            written_ns: now.0,
            block: u32::try_from(block_bytes).unwrap_or(u32::MAX),
        }
    }
}
