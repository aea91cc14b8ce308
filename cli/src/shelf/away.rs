//! Cartridges that are not in the library and may hold what is wanted: all of them are named
//! before anything is read, with where they are if the book of the proxy beside says so.

use std::collections::BTreeSet;
use std::path::Path;

use strongroom_agent::restore::select::Selection;
use strongroom_protocol::ChunkId;
use strongroom_store::media::wanting;
use strongroom_store::tape::Barcode;

use super::{Shelf, Staged, needed};
use crate::failure::{AWAY, Failure};

/// What must be fetched, as one failure.
pub(super) fn fetch(barcodes: &BTreeSet<Barcode>, library: &Path) -> Failure {
    // Without the book, or with one that cannot be read, the names must do.
    let home = library.parent().unwrap_or(library);
    let places = strongroom_proxy::places(home).unwrap_or_default();
    let one = |barcode: &Barcode| match places.get(barcode) {
        Some(place) => format!("{barcode} from {place}"),
        None => barcode.to_string(),
    };
    let each: Vec<String> = barcodes.iter().map(one).collect();
    Failure::new(format!("fetch cartridges {}", each.join(", "))).with_code(AWAY).hint(
        "put them into the library, by its mail slots or its door, and run this again; `restore \
         --wait SECONDS` waits for them",
    )
}

impl Shelf {
    /// Takes in what lies in the mail slots.
    pub(crate) fn take_in(&self) -> Result<(), Failure> {
        self.library.import()?;
        Ok(())
    }
}

impl Staged<'_> {
    /// Says which cartridges must be fetched for what the selection below `page` needs; nothing
    /// when all that may hold it are here.
    pub(crate) fn away(
        &self,
        page: ChunkId,
        selection: &Selection,
    ) -> Result<Option<Failure>, Failure> {
        let lacking = self.lacking(needed(&self.scene.tree, page, selection)?)?;
        if lacking.is_empty() {
            return Ok(None);
        }
        let packs = self.packs_for(&lacking);
        let away = wanting(&self.shelf.reader, &packs, &[], &|_| true).fetch;
        let barcodes: BTreeSet<Barcode> = away.into_values().collect();
        Ok((!barcodes.is_empty()).then(|| fetch(&barcodes, &self.shelf.path)))
    }
}
