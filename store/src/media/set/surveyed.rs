//! A library that was looked at once, before any of its sets is written: so that it can be decided
//! what may be written anew by what its cartridges themselves say. Refuses orders whose config or
//! keys are damaged.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use strongroom_protocol::{Clock, MediumId};

use crate::media::MediaError;
use crate::media::label::LabelV1;
use crate::media::lapsed::Lapsed;
use crate::media::order::SetOrder;
use crate::media::set::MediaSetWriter;
use crate::media::supply::Supply;
use crate::media::survey::{Depth, Health, Survey, survey};
use crate::tape::{Barcode, TapeLibrary};

/// A library that was looked at, and the sets that are to be written.
pub struct Surveyed {
    library: Arc<dyn TapeLibrary>,
    orders: Vec<SetOrder>,
    survey: Survey,
}

impl Surveyed {
    /// Reads the labels of all cartridges in the library and the last catalogs of the sets.
    pub fn of(library: &Arc<dyn TapeLibrary>, orders: Vec<SetOrder>) -> Result<Self, MediaError> {
        orders.iter().try_for_each(SetOrder::check)?;
        let ours = |label: &LabelV1| orders.iter().any(|order| order.names(label));
        let survey = survey(library.as_ref(), &Depth::Set(&ours))?;
        Ok(Self { library: Arc::clone(library), orders, survey })
    }

    /// The sets that are to be written.
    pub fn orders(&self) -> &[SetOrder] {
        &self.orders
    }

    /// The media of an order's set that nothing needs any more, and their cartridges. One that
    /// was released already is not named.
    pub fn lapsed(&self, order: &SetOrder, lapsed: &Lapsed) -> BTreeMap<MediumId, Barcode> {
        let of_set = || {
            let all = self.survey.media.iter();
            all.filter(|(id, medium)| order.names(&medium.label) && !order.released.contains(*id))
        };
        let free = lapsed.of_survey(of_set().map(|(_, medium)| medium));
        let free = of_set().filter(|(id, _)| free.contains(*id));
        free.map(|(id, medium)| (*id, medium.barcode.clone())).collect()
    }

    /// Releases media besides those that the orders name.
    pub fn release(&mut self, media: &BTreeSet<MediumId>) {
        self.orders.iter_mut().for_each(|order| order.released.extend(media));
    }

    /// Opens the sets for writing side by side: what is blank goes to whoever needs it first.
    pub fn open(self, clock: &Arc<dyn Clock>) -> Result<Vec<MediaSetWriter>, MediaError> {
        let Self { library, orders, mut survey } = self;
        let of_order = |survey: &Survey, order: &SetOrder| {
            let all = survey.media.iter();
            let its = all.filter(|(_, medium)| order.names(&medium.label));
            let media = its.map(|(id, medium)| (*id, medium.clone())).collect();
            Survey { media, blanks: Vec::new() }
        };
        let before: Vec<(u32, u32)> = orders
            .iter()
            .map(|order| {
                let survey = of_order(&survey, order);
                let sequences = survey.media.values().map(|medium| medium.label.sequence);
                (survey.session_last(), sequences.max().unwrap_or(0))
            })
            .collect();
        drop_written_over(&mut survey);
        let supply = Supply::of(&mut survey, &orders);
        let writers = orders.iter().zip(before).map(|(order, (sessions, sequences))| {
            let survey = of_order(&survey, order);
            MediaSetWriter {
                library: Arc::clone(&library),
                order: order.clone(),
                clock: Arc::clone(clock),
                held: survey.held(),
                survey,
                supply: supply.clone(),
                forgotten: HashSet::new(),
                session_before: sessions,
                sequence_before: sequences,
                session: None,
            }
        });
        Ok(writers.collect())
    }
}

/// Forgets media that only other catalogs tell of and whose cartridges are here with something else
/// on them, or with nothing: what they held is not there any more.
fn drop_written_over(survey: &mut Survey) {
    let here = survey.media.values().filter(|medium| medium.health != Health::Absent);
    let mut here: BTreeSet<Barcode> = here.map(|medium| medium.barcode.clone()).collect();
    here.extend(survey.blanks.iter().map(|(barcode, _)| barcode.clone()));
    survey
        .media
        .retain(|_, medium| medium.health != Health::Absent || !here.contains(&medium.barcode));
}
