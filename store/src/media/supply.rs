//! Cartridges to begin: blank ones first, then those that were released for reuse. Shared by all
//! who write at once, so that none is begun twice. Refuses a cartridge that is not what it was
//! said to be when it is loaded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strongroom_protocol::MediumId;

use crate::media::SetOrder;
use crate::media::survey::{Health, LabelFound, Survey};
use crate::tape::{Barcode, Protection};

/// A cartridge that may be written from its beginning.
#[derive(Debug)]
pub(crate) enum Fresh {
    Blank(Barcode),
    /// The medium on it is not needed any more.
    Released(Barcode, MediumId),
}

impl Fresh {
    pub(crate) const fn barcode(&self) -> &Barcode {
        match self {
            Self::Blank(barcode) | Self::Released(barcode, _) => barcode,
        }
    }

    /// Whether what was found on the cartridge is what was expected.
    pub(crate) fn is(&self, found: &LabelFound) -> bool {
        match (self, found) {
            (Self::Blank(_), LabelFound::Blank) => true,
            (Self::Released(_, medium), LabelFound::Label(label)) => label.medium == *medium,
            _ => false,
        }
    }
}

#[derive(Debug, Default)]
struct Stock {
    fresh: VecDeque<Fresh>,
    /// Blank, and not to be written.
    protected: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Supply {
    stock: Arc<Mutex<Stock>>,
}

impl Supply {
    /// Takes what is blank, and what every order has released, out of a survey: the media on the
    /// latter are no part of their sets any more.
    pub(crate) fn of(survey: &mut Survey, orders: &[SetOrder]) -> Self {
        let mut stock = Stock::default();
        for (barcode, protection) in std::mem::take(&mut survey.blanks) {
            match protection {
                Protection::Writable => stock.fresh.push_back(Fresh::Blank(barcode)),
                Protection::WriteProtected => stock.protected += 1,
            }
        }
        let is_released = |id: &MediumId| orders.iter().all(|order| order.released.contains(id));
        let released: Vec<MediumId> = survey.media.keys().copied().filter(is_released).collect();
        for id in released {
            match survey.media.remove(&id) {
                Some(medium) if medium.health != Health::Absent => {
                    stock.fresh.push_back(Fresh::Released(medium.barcode, id));
                }
                _ => {}
            }
        }
        Self { stock: Arc::new(Mutex::new(stock)) }
    }

    fn locked(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one, which is the taker's alone.
    pub(crate) fn take(&self) -> Option<Fresh> {
        self.locked().fresh.pop_front()
    }

    pub(crate) fn writable(&self) -> usize {
        self.locked().fresh.len()
    }

    pub(crate) fn protected(&self) -> usize {
        self.locked().protected
    }
}
