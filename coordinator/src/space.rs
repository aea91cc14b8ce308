//! Space at the coordinator: what a collection did goes into the audit log, what it refused is an
//! alarm. A reserve lets the books be written on a full disk, so that what must go can; what is
//! new is refused before the last room is taken.

use strongroom_node::collector::Outcome;
use strongroom_node::reserve::tells_of_no_room;
use strongroom_protocol::Chain;
use strongroom_protocol::opening::{Refusal, RefusalKind};

use crate::site::Site;

/// Room that is left to removals and collections: no point is begun with less.
const ROOM_BYTES_MIN: u64 = 16 << 20;
/// Whether an error, or one below it, says that there is no room: the catalog has its own word.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let code = error.downcast_ref().and_then(rusqlite::Error::sqlite_error_code);
        if code == Some(rusqlite::ErrorCode::DiskFull) {
            return true;
        }
        next = error.source();
    }
    tells_of_no_room(error)
}

/// Does something that needs a little room, giving up the reserve if there is none.
pub(crate) fn with_reserve<T, E: std::error::Error + 'static>(
    site: &Site,
    deed: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    match deed() {
        Err(error) if is_full(&error) && site.reserve.give_up() => deed(),
        done => done,
    }
}

/// Refuses what is new while there is no room: the last is for what gives space back.
pub(crate) fn room(site: &Site) -> Result<(), Refusal> {
    let free = site.repo.free_bytes().unwrap_or(u64::MAX);
    if free >= ROOM_BYTES_MIN {
        return Ok(());
    }
    let path = site.home.repo();
    let text = format!(
        "the disk of {} is full: {free} bytes are left, and the last {ROOM_BYTES_MIN} are for \
         removing and collecting; make room, or see `strongroom space`",
        path.display()
    );
    Err(Refusal::new(RefusalKind::Unavailable, text))
}

/// A collection ended.
pub(crate) fn note(site: &Site, outcome: &Outcome) {
    match outcome {
        Outcome::Done(done) => {
            site.all_clear("collection");
            if let Some(text) = done {
                let recorded = with_reserve(site, || {
                    site.try_record("coordinator", "collect", "repository", text)
                });
                if let Err(error) = recorded {
                    tracing::error!(error = %Chain(&error), "a collection is not in the audit log");
                }
            }
            site.reserve.make();
        }
        Outcome::Refused(why) => {
            let text = format!("no space comes back: {why}");
            if !site.alarms().contains(&text) {
                site.record("coordinator", "collect.refused", "repository", why);
            }
            site.alarm("collection", text);
        }
    }
}
