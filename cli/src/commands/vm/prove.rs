//! `vm prove`: a machine restored and booted, its guest asked, and everything thrown away.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use strongroom_agent::vmlab::{Accel, MEMORY_MIB, Machine, Setup, Writes};
use strongroom_protocol::admin::PointRef;
use strongroom_protocol::control::Shown;
use strongroom_protocol::{Chain, PointId};

use super::ask::{AskArgs, Asking, told};
use super::{described, description, restore};
use crate::commands::restore::{CopyArgs, copy_site};
use crate::failure::{Ending, Failure};
use crate::operator::Contact;
use crate::point_at::point;
use crate::proving::{RecordArgs, Tried, tell, unrecorded};
use crate::restoring::find;
use crate::scene::resolve;
use crate::session::{Session, blocking};
use crate::shelf::Shelf;

/// Restore a machine, boot it without a network, and wait until its guest answers
#[derive(Args, Debug)]
pub(super) struct VmProveArgs {
    /// A point: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    #[command(flatten)]
    record: RecordArgs,
    /// Where to restore it meanwhile; a temporary directory otherwise
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    copy: CopyArgs,
}

impl VmProveArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let temporary = tempfile::tempdir()?;
        let to = self.to.clone().unwrap_or_else(|| temporary.path().join("restored"));
        let quiet = Session {
            home: session.home.clone(),
            site: session.site.clone(),
            out: session.out.without_answers(),
            clock: session.clock.clone(),
        };
        let meant = meant(session, &self).await?;
        let began = Instant::now();
        let exactly = meant.as_ref().map(|(_, point)| PointRef::Id(point.to_string()));
        let restore = restore(self.copy, exactly.unwrap_or(self.point), &to, Vec::new());
        if restore.run(&quiet).await? != Ending::Done {
            let said = "the machine was not restored whole, and is not booted";
            if let Some((reader, point)) = meant {
                let proved = json!({ "checks": [], "why": said });
                let tried = tried(&proved, point, began.elapsed());
                tell(session, reader.as_ref(), self.record, tried).await;
            }
            return Err(Failure::new(said));
        }
        let restored = began.elapsed();
        let asking = self.ask.asking();
        let place = temporary.path().join("machine");
        let proved = blocking(move || prove(&to, &place, asking)).await?;
        drop(temporary);
        session.out.either(&proved, |_| told(&proved))?;
        let recorded = match meant {
            Some((reader, point)) => {
                let tried = tried(&proved, point, restored);
                tell(session, reader.as_ref(), self.record, tried).await
            }
            None => unrecorded(session),
        };
        match (proved["proved"] == true, proved["why"].as_str()) {
            (true, _) => Ok(recorded),
            (false, Some(_)) => Err(Failure::new("the machine did not answer")),
            (false, None) => {
                Err(Failure::new("the machine booted, and what its guest was asked failed"))
            }
        }
    }
}

/// Which point is meant, and the node it is read from; none where its proof is told to nobody.
async fn meant(
    session: &Session,
    args: &VmProveArgs,
) -> Result<Option<(Option<Contact>, PointId)>, Failure> {
    let Some(media) = args.copy.media.clone() else {
        let site = copy_site(session, args.copy.from.as_deref())?;
        let contact = session.contact_at(site.as_ref()).await?;
        let point = resolve(&contact, &args.point).await?;
        return Ok(Some((Some(contact), point)));
    };
    if args.record.record.is_none() {
        return Ok(None);
    }
    let (opener, point) = (args.copy.opener.opener()?, args.point.clone());
    let found = blocking(move || find(Shelf::open(&media)?.points(Some(&opener))?, &point)).await?;
    Ok(Some((None, found.point)))
}

/// What came of it, for the books.
pub(super) fn tried(proved: &Value, point: PointId, restored: Duration) -> Tried {
    let booted = proved["booted_seconds"].as_f64().unwrap_or_default();
    let took = restored + Duration::from_secs_f64(booted);
    let checks = proved["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let failed = checks.iter().find(|check| check["code"] != 0);
    let (outcome, detail) = match (proved["why"].as_str(), failed) {
        (Some(why), _) => (Shown::Failed, why.to_owned()),
        (None, Some(check)) => {
            let words = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
            (Shown::Failed, format!("{}: {}", words("command"), words("said")))
        }
        (None, None) => (Shown::Held, format!("booted, {} checks passed", checks.len())),
    };
    Tried { point, outcome, took, detail }
}

/// Boots what was restored into `dir`, and asks its guest; nothing of it is changed.
fn prove(dir: &Path, place: &Path, asking: Asking) -> Result<Value, Failure> {
    let about = description(dir)?;
    std::fs::create_dir_all(place)?;
    let memory = about["machine"]["memory_bytes"].as_u64().unwrap_or_default() >> 20;
    let (disks, memory_mib) = (described(dir)?, memory.max(MEMORY_MIB));
    let (boot, began) = (asking.boot(place)?, Instant::now());
    let (writes, accel, more) = (Writes::Thrown, Accel::Tcg, Vec::new());
    let setup = Setup { disks, boot, writes, memory_mib, accel, more };
    let mut machine = Machine::start(place, &setup)?;
    if let Err(error) = machine.await_agent(asking.patience) {
        let (why, name) = (Chain(&error).to_string(), &about["machine"]["name"]);
        return Ok(json!({ "machine": name, "checks": [], "proved": false, "why": why }));
    }
    let booted = began.elapsed();
    // A guest that dies over a question did not answer it.
    asking.ask(&mut machine, &about, booted).or_else(|failure| {
        let (why, name) = (failure.to_string(), &about["machine"]["name"]);
        Ok(json!({ "machine": name, "checks": [], "proved": false, "why": why }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_and_a_silent_guest_are_told_from_one_that_answered() {
        let (point, second) = (PointId::from_bytes([1; 16]), Duration::from_secs(1));
        let check = |code: i64| json!({ "command": "fsck", "code": code, "said": "hurt" });
        for (proved, outcome, detail) in [
            (
                json!({ "booted_seconds": 2.0, "checks": [check(0)] }),
                Shown::Held,
                "booted, 1 checks passed",
            ),
            (
                json!({ "booted_seconds": 2.0, "checks": [check(0), check(1)] }),
                Shown::Failed,
                "fsck: hurt",
            ),
            (json!({ "checks": [], "why": "no answer" }), Shown::Failed, "no answer"),
        ] {
            let tried = tried(&proved, point, second);
            assert_eq!((tried.outcome, tried.detail.as_str()), (outcome, detail));
        }
    }
}
