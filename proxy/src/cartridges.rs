//! Where cartridges are that are not in the library, and which are retired: said by people, noticed
//! by inventories, each with who and when in an append-only file of this node that is on disk
//! before it counts. A cartridge that is away and not lost still holds its copies. Refuses to guess
//! where a cartridge is that nobody said anything of.

mod journal;
mod orders;
mod wait;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use strongroom_protocol::admin::Whereabouts;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, MediaSetName, MediumId, PointId, Timestamp};
use strongroom_store::media::{Lapsed, MediumInfo, WhatIsOn};
use strongroom_store::tape::{Barcode, TapeError, TapeLibrary};
use tokio::sync::Notify;

use self::journal::Journal;

pub use self::journal::JournalError;
pub(crate) use self::orders::{Keeping, carry_out};
pub(crate) use self::watch::watch;

/// Its file in the proxy's directory.
pub const CARTRIDGES_FILE: &str = "cartridges.log";

/// What a cartridge held when it left: with it alone in a vault, nothing here would tell.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Contents {
    pub(crate) medium: MediumId,
    pub(crate) set: MediaSetName,
    pub(crate) sequence: u32,
    pub(crate) written: Timestamp,
    pub(crate) used_bytes: u64,
    pub(crate) points: BTreeSet<PointId>,
}

impl Contents {
    pub(crate) fn of(info: &MediumInfo, points: BTreeSet<PointId>) -> Self {
        Self {
            medium: info.medium,
            set: info.set.clone(),
            sequence: info.sequence,
            written: info.written,
            used_bytes: info.bytes,
            points,
        }
    }
}

impl From<WhatIsOn> for Contents {
    fn from(what: WhatIsOn) -> Self {
        Self::of(&what.info, what.points)
    }
}

/// What became of a cartridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub(crate) enum What {
    /// It is on its way to a mail slot; a blank one holds nothing.
    Exported {
        contents: Option<Contents>,
    },
    /// It was taken to a place.
    Vaulted {
        place: String,
        contents: Option<Contents>,
    },
    Lost {
        contents: Option<Contents>,
    },
    /// An inventory met it.
    Returned,
    /// Packs on it could not be read.
    Flawed {
        packs: usize,
    },
    /// What is on it was written to another set.
    Copied {
        set: MediaSetName,
        onto: Vec<Barcode>,
    },
    /// All of it lies on younger cartridges too, and was read back from there.
    Retired {
        medium: MediumId,
        onto: Vec<Barcode>,
        /// What is on those now.
        #[serde(default)]
        media: BTreeSet<MediumId>,
    },
    /// A session that ended with it put these points on a set: the media that each needs.
    Written {
        set: MediaSetName,
        needs: Vec<(PointId, BTreeSet<MediumId>)>,
    },
    /// What was hurt on a set is written again: which media its points need is not known.
    Mended {
        set: MediaSetName,
    },
    /// Nothing that is kept needs what is on it: it may be written from its beginning.
    Lapsed {
        medium: MediumId,
    },
}

/// The media that each point of a set needs.
pub(crate) type Needs = BTreeMap<PointId, BTreeSet<MediumId>>;

/// A cartridge that left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Left {
    pub(crate) at: Timestamp,
    pub(crate) place: Place,
    pub(crate) contents: Option<Contents>,
}

/// Where it went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// To a mail slot, and nobody said where to from there.
    Mail,
    Vault(String),
    Lost,
}

impl Left {
    /// Whether somebody can fetch it.
    pub(crate) fn can_be_fetched(&self) -> bool {
        self.place != Place::Lost
    }

    pub(crate) fn whereabouts(&self) -> Whereabouts {
        let since = self.at;
        match &self.place {
            Place::Mail => Whereabouts::Out { since },
            Place::Vault(place) => Whereabouts::Vault { place: place.clone(), since },
            Place::Lost => Whereabouts::Lost { since },
        }
    }
}

/// What is known of cartridges beyond what they say themselves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Known {
    pub(crate) left: BTreeMap<Barcode, Left>,
    pub(crate) retired: BTreeMap<MediumId, Vec<Barcode>>,
    /// Since when packs could not be read.
    pub(crate) flawed: BTreeMap<Barcode, Timestamp>,
    /// By media set, as far as known.
    pub(crate) needs: BTreeMap<MediaSetName, Needs>,
    /// Media that nothing needed; their cartridges may have been written anew since.
    pub(crate) lapsed: BTreeSet<MediumId>,
}

impl Known {
    fn apply(&mut self, at: Timestamp, barcode: &Barcode, what: &What) {
        let mut leave = |place, contents: &Option<Contents>| {
            let before = self.left.remove(barcode).and_then(|left| left.contents);
            let contents = contents.clone().or(before);
            self.left.insert(barcode.clone(), Left { at, place, contents });
        };
        match what {
            What::Exported { contents } => leave(Place::Mail, contents),
            What::Vaulted { place, contents } => leave(Place::Vault(place.clone()), contents),
            What::Lost { contents } => leave(Place::Lost, contents),
            What::Returned => drop(self.left.remove(barcode)),
            What::Flawed { .. } => {
                self.flawed.entry(barcode.clone()).or_insert(at);
            }
            What::Copied { .. } => {}
            What::Retired { medium, onto, media } => {
                self.flawed.remove(barcode);
                self.retired.insert(*medium, onto.clone());
                for needs in self.needs.values_mut() {
                    move_needs(needs, *medium, media);
                }
            }
            What::Written { set, needs } => {
                self.needs.entry(set.clone()).or_default().extend(needs.iter().cloned());
            }
            What::Mended { set } => drop(self.needs.remove(set)),
            What::Lapsed { medium } => {
                self.flawed.remove(barcode);
                self.lapsed.insert(*medium);
            }
        }
    }

    /// What has lapsed on a set where these points were let go.
    pub(crate) fn lapsed_on(&self, set: &MediaSetName, points: &BTreeSet<PointId>) -> Lapsed {
        let left = self.left.values().filter(|left| left.can_be_fetched());
        let contents = left.filter_map(|left| left.contents.as_ref());
        let away = contents.filter(|on| on.set == *set && !self.lapsed.contains(&on.medium));
        Lapsed {
            points: points.clone(),
            needs: self.needs.get(set).cloned().unwrap_or_default(),
            away: away.flat_map(|on| on.points.iter().copied()).collect(),
        }
    }

    /// Where a medium went, which is what its label says it is.
    pub(crate) fn left(&self, medium: MediumId, barcode: &Barcode) -> Option<&Left> {
        let is_it = |left: &&Left| left.contents.as_ref().is_some_and(|on| on.medium == medium);
        self.left.values().find(is_it).or_else(|| {
            let named = self.left.get(barcode);
            named.filter(|left| left.contents.as_ref().is_none_or(|on| on.medium == medium))
        })
    }
}

/// What lay on a medium lies on others now; where those are not known, what needed it is not.
fn move_needs(needs: &mut Needs, medium: MediumId, onto: &BTreeSet<MediumId>) {
    needs.retain(|_, media| {
        let moves = media.remove(&medium);
        if moves {
            media.extend(onto);
        }
        !moves || !onto.is_empty()
    });
}

/// Where the cartridges are that a proxy's book says are in a vault, for whoever has only its
/// directory left; nothing where there is no book.
///
/// # Errors
/// The book cannot be read.
pub fn places(home: &Path) -> Result<BTreeMap<Barcode, String>, JournalError> {
    let path = home.join(CARTRIDGES_FILE);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other.map_err(|source| JournalError::Io { path: path.clone(), source })?,
    };
    let mut known = Known::default();
    journal::read(&path, &mut file, |line| known.apply(line.at, &line.barcode, &line.what))?;
    let vaulted = known.left.into_iter().filter_map(|(barcode, left)| match left.place {
        Place::Vault(place) => Some((barcode, place)),
        Place::Mail | Place::Lost => None,
    });
    Ok(vaulted.collect())
}

/// The book of this site's cartridges.
pub(crate) struct Cartridges {
    inner: Mutex<(Journal, Known)>,
    /// Something came back.
    returned: Notify,
}

fn unavailable(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
}

impl Cartridges {
    /// Opens the book.
    ///
    /// # Errors
    /// Its file cannot be read, or says what this version does not know.
    pub(crate) fn open(path: &Path) -> Result<Self, JournalError> {
        let mut known = Known::default();
        let journal = Journal::open(path, |line| known.apply(line.at, &line.barcode, &line.what))?;
        Ok(Self { inner: Mutex::new((journal, known)), returned: Notify::new() })
    }

    fn locked(&self) -> MutexGuard<'_, (Journal, Known)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub(crate) fn known(&self) -> Known {
        self.locked().1.clone()
    }

    /// Notes what became of a cartridge; it is on disk when this returns. Blocking.
    ///
    /// # Errors
    /// It cannot be put on disk, and does not count.
    pub(crate) fn note(
        &self,
        at: Timestamp,
        by: &str,
        barcode: &Barcode,
        what: What,
    ) -> Result<(), Refusal> {
        let mut inner = self.locked();
        let (journal, known) = &mut *inner;
        journal.append(at, by, barcode, &what).map_err(|error| unavailable(&error))?;
        known.apply(at, barcode, &what);
        tracing::info!(%barcode, by, ?what, "noted of a cartridge");
        Ok(())
    }

    /// Looks at the library: what left and is in a slot or drive again has returned. Blocking.
    ///
    /// # Errors
    /// The library does not answer, or the return cannot be put on disk.
    pub(crate) fn look(&self, library: &dyn TapeLibrary, at: Timestamp) -> Result<Known, Refusal> {
        let known = self.known();
        if known.left.is_empty() {
            return Ok(known);
        }
        let slots = library.inventory().map_err(|error: TapeError| unavailable(&error))?;
        for barcode in slots.into_iter().filter_map(|slot| slot.barcode) {
            if known.left.contains_key(&barcode) {
                self.note(at, "inventory", &barcode, What::Returned)?;
                self.returned.notify_one();
            }
        }
        Ok(self.known())
    }
}

#[cfg(test)]
mod tests;
