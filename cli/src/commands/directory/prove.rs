//! `directory prove`: the whole domain of a point built again on a scratch domain controller
//! without a network, started, compared with the objects of the point, checked, and removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use strongroom_agent::restore::RestoreOptions;
use strongroom_agent::workload::directory::object::Object;
use strongroom_agent::workload::directory::picture::Picture;
use strongroom_agent::workload::directory::revived::Revived;
use strongroom_protocol::admin::PointRef;
use strongroom_protocol::control::Shown;
use strongroom_protocol::{Chain, PointId, Timestamp};

use crate::commands::restore::CopyArgs;
use crate::failure::{Ending, Failure, While};
use crate::human;
use crate::mariadb::Check;
use crate::origin::Origin;
use crate::point_at::point;
use crate::proving::{RecordArgs, Tried, tell};
use crate::restoring::write;
use crate::scene::Spot;
use crate::session::{Session, blocking};

/// Where the backup of the whole domain lies in a point.
const DOMAIN: &[u8] = b"domain";
/// The bit of `userAccountControl` that people's accounts have.
const NORMAL_ACCOUNT: i64 = 0x200;
/// Names that are told of those that differ.
const NAMES_TOLD: usize = 5;

/// Build the whole domain of a point again without a network, check it, and remove it again
#[derive(Args, Debug)]
pub(super) struct ProveArgs {
    /// A point of a directory with its whole domain: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    record: RecordArgs,
    /// Make the scratch directory in this one
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Longest the domain controller may take to come up, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    patience: u64,
}

/// What was proven.
#[derive(Debug, Serialize)]
struct Proof {
    point: PointId,
    domain: String,
    bytes_written: u64,
    seconds_to_restore: f64,
    /// Until the domain controller answered.
    seconds_to_start: f64,
    checks: Vec<Check>,
}

impl Proof {
    fn check(&mut self, what: &str, passed: bool, said: impl Into<String>) {
        self.checks.push(Check { what: what.to_owned(), passed, said: said.into() });
    }

    fn tried(&self) -> Tried {
        let (outcome, found) = match self.checks.iter().find(|check| !check.passed) {
            Some(check) => (Shown::Failed, format!("{}: {}", check.what, check.said.trim())),
            None => (Shown::Held, format!("{} checks passed", self.checks.len())),
        };
        let took = Duration::from_secs_f64(self.seconds_to_restore + self.seconds_to_start);
        Tried { point: self.point, outcome, took, detail: format!("{}: {found}", self.domain) }
    }

    fn told(&self) -> String {
        let mut lines = vec![format!(
            "{}: {} restored in {:.1} s, answered after {:.1} s",
            self.domain,
            human::bytes(self.bytes_written),
            self.seconds_to_restore,
            self.seconds_to_start,
        )];
        for Check { what, passed, said } in &self.checks {
            let outcome = if *passed { "passed" } else { "FAILED" };
            let colon = if said.is_empty() { "" } else { ": " };
            lines.push(format!("{outcome}  {what}{colon}{said}"));
        }
        lines.join("\n") + "\n"
    }
}

impl ProveArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("strongroom-proof-");
        let scratch = match &self.scratch {
            Some(dir) => builder.tempdir_in(dir),
            None => builder.tempdir(),
        };
        let scratch = scratch.doing("cannot make a scratch directory")?;
        let backup = scratch.path().join("backup");
        let origin = Origin::of(&self.copy, session, &backup).await?;
        let (mut proof, picture, moment) = restore(session, &origin, &self.point, &backup).await?;
        let patience = Duration::from_secs(self.patience);
        let proof = blocking(move || {
            examine(&mut proof, (&picture, moment), (scratch.path(), &backup), patience);
            scratch.close().doing("the scratch directory stays")?;
            Ok(proof)
        })
        .await?;
        session.out.either(&proof, |_| proof.told())?;
        let told = tell(session, origin.contact(), self.record, proof.tried()).await;
        match proof.checks.iter().all(|check| check.passed) {
            true => Ok(told),
            false => Err(Failure::new("the point is not proven")
                .hint("`strongroom verify` says whether its copies are whole")),
        }
    }
}

/// Puts the backup of the whole domain into `to`; and what the point says of its objects.
async fn restore(
    session: &Session,
    origin: &Origin,
    point: &PointRef,
    to: &Path,
) -> Result<(Proof, Picture, Timestamp), Failure> {
    let began = Instant::now();
    let (scene, keys, lacking) = origin.open(session, point).await?;
    let (point, moment) = (scene.manifest.head.point, scene.manifest.head.moment);
    let asked = scene.clone();
    let (picture, spot) = blocking(move || {
        let picture = Picture::open(&asked.tree)?;
        let Ok(Spot::Directory { page, meta }) = asked.spot(DOMAIN) else {
            return Err(Failure::new("the point has no backup of the whole domain").hint(
                "`domain = \"offline\"` or `\"online\"` of the workload keeps one in each point",
            ));
        };
        Ok((picture, (page, meta)))
    })
    .await?;
    let mut options = RestoreOptions::new(to);
    options.keys = Some(keys);
    let report = write(session, scene, spot, options).await?;
    origin.tidy()?;
    let mut proof = Proof {
        point,
        domain: picture.root.domain.clone(),
        bytes_written: report.bytes_written,
        seconds_to_restore: began.elapsed().as_secs_f64(),
        seconds_to_start: 0.0,
        checks: Vec::new(),
    };
    let told = report.problems.iter().map(|p| format!("{}: {}", human::name(&p.path), p.why));
    let problems: Vec<String> = lacking.into_iter().chain(told).collect();
    proof.check("restored whole", problems.is_empty(), problems.join("; "));
    Ok((proof, picture, moment))
}

/// Builds the domain, starts it and looks; what fails is the proof's word.
fn examine(
    proof: &mut Proof,
    (picture, moment): (&Picture, Timestamp),
    (scratch, backup): (&Path, &Path),
    patience: Duration,
) {
    let began = Instant::now();
    let started = Revived::build(&scratch.join("dc"), backup).and_then(|mut domain| {
        domain.start(patience)?;
        Ok((domain.users()?, domain.groups()?, domain))
    });
    let (users, groups, domain) = match started {
        Ok(started) => started,
        Err(error) => return proof.check("built and started", false, Chain(&error).to_string()),
    };
    proof.seconds_to_start = began.elapsed().as_secs_f64();
    proof.check("built and started", true, "");
    let expected = Expected { picture, moment };
    for (what, there, kind) in [("users", users, Kind::User), ("groups", groups, Kind::Group)] {
        let (passed, said) = expected.compare(kind, &there);
        proof.check(what, passed, said);
    }
    match domain.check() {
        Ok(found) => {
            let passed = found.errors == 0 && found.objects > 0;
            proof.check("samba-tool dbcheck --cross-ncs", passed, found.said);
        }
        Err(error) => {
            proof.check("samba-tool dbcheck --cross-ncs", false, Chain(&error).to_string());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Group,
    User,
}

/// What the objects of the point say should be there.
struct Expected<'p> {
    picture: &'p Picture,
    moment: Timestamp,
}

impl Expected<'_> {
    /// Whether the names that are there are those of the point. The backup is made before the
    /// objects are read: what was made or deleted since the moment may be on one side alone.
    fn compare(&self, kind: Kind, there: &BTreeSet<String>) -> (bool, String) {
        let (mut wanted, mut either) = (BTreeSet::new(), BTreeSet::new());
        for object in self.picture.objects().filter(|object| is_kind(object, kind)) {
            let Some(name) = object.text("sAMAccountName") else { continue };
            match (object.is_deleted(), self.is_later(object)) {
                (false, false) => wanted.insert(name.to_owned()),
                (true, false) => false,
                (_, true) => either.insert(name.to_owned()),
            };
        }
        let lacking: Vec<&str> = wanted.difference(there).map(String::as_str).collect();
        let beyond: Vec<&str> = there
            .iter()
            .filter(|name| !wanted.contains(*name) && !either.contains(*name))
            .map(String::as_str)
            .collect();
        let mut said = vec![format!("{} of {}", wanted.len() - lacking.len(), wanted.len())];
        for (what, names) in [("lacking", &lacking), ("not in the point", &beyond)] {
            if !names.is_empty() {
                let some = names.iter().take(NAMES_TOLD).copied().collect::<Vec<_>>().join(", ");
                said.push(format!("{} {what}: {some}", names.len()));
            }
        }
        let passed = lacking.is_empty() && beyond.is_empty() && !wanted.is_empty();
        (passed, said.join("; "))
    }

    /// Whether it was made, or deleted, since the moment of the point.
    fn is_later(&self, object: &Object) -> bool {
        let attribute = if object.is_deleted() { "whenChanged" } else { "whenCreated" };
        let since = self.moment.unix_ms() / 1000;
        object.text(attribute).and_then(seconds).is_some_and(|at| at >= since)
    }
}

fn is_kind(object: &Object, kind: Kind) -> bool {
    let class = |name: &str| object.values("objectClass").iter().any(|one| one == name.as_bytes());
    match kind {
        Kind::Group => class("group"),
        Kind::User => {
            let control = object.text("userAccountControl").and_then(|text| text.parse().ok());
            class("user") && control.is_some_and(|bits: i64| bits & NORMAL_ACCOUNT != 0)
        }
    }
}

/// Seconds since 1970 of a generalised time as directories write it: `20261127114622.0Z`.
fn seconds(text: &str) -> Option<u64> {
    let digits = text.get(..14)?;
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        digits.get(..4)?,
        digits.get(4..6)?,
        digits.get(6..8)?,
        digits.get(8..10)?,
        digits.get(10..12)?,
        digits.get(12..14)?,
    );
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_directory_are_understood() {
        assert_eq!(seconds("19700102000001.0Z"), Some(86_401));
        assert_eq!(seconds("2026"), None);
        assert_eq!(seconds("20261340000000.0Z"), None);
    }
}
