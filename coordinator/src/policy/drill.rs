//! The drills of a copy: when it is recovered from, and what is wanted of that.

use std::fmt;

use strongroom_protocol::control::AppKind;
use strongroom_protocol::drill::DrillKind;

use crate::policy::{Prove, Seconds, Source};
use crate::retention::ProofLevel;
use crate::schedule::Cadence;

/// A rule for drills.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drill {
    /// Never empty.
    pub schedule: Vec<Cadence>,
    /// What a recovery may take, in seconds; none: it is measured only.
    pub recovery_seconds_max: Option<u64>,
    /// The newest proof may be so old.
    pub age_seconds_max: u64,
    /// A drill that takes longer is broken off.
    pub seconds_max: u32,
}

impl Drill {
    /// The proof that it demands of a workload that reads `source`.
    pub fn proof(&self, source: &Source) -> Prove {
        Prove { level: level_of(kind_of(source)), every_seconds: self.age_seconds_max }
    }
}

impl fmt::Display for Drill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schedule: Vec<String> = self.schedule.iter().map(ToString::to_string).collect();
        write!(f, "{}, age {}", schedule.join("; "), Seconds(self.age_seconds_max))?;
        if let Some(most) = self.recovery_seconds_max {
            write!(f, ", recovery {}", Seconds(most))?;
        }
        write!(f, ", within {}", Seconds(self.seconds_max.into()))
    }
}

/// What a drill does with points of a workload that reads `source`.
pub fn kind_of(source: &Source) -> DrillKind {
    let Source::App(app) = source else { return DrillKind::Files };
    match app.kind {
        // A stretch of log is nothing to start from.
        AppKind::Postgres if app.says("mode") != Some("wal") => DrillKind::Postgres,
        AppKind::Vm => DrillKind::Vm,
        AppKind::Directory | AppKind::Mariadb | AppKind::Postgres | AppKind::Vsphere => {
            DrillKind::Files
        }
    }
}

/// The proof level that a drill shows.
pub const fn level_of(kind: DrillKind) -> ProofLevel {
    match kind {
        DrillKind::Files => ProofLevel::MountedChecked,
        DrillKind::Postgres | DrillKind::Vm => ProofLevel::Started,
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::{parse, plan};
    use crate::retention::Marks;

    #[test]
    fn an_edit_of_a_drill_is_in_the_plan() {
        let policy = |drill: &str, asked: &str| {
            let text = format!(
                "[policy.p]\ntimezone = \"UTC\"\nprimary.keep = {{ newest = 9 }}\n\
                 [policy.p.copy.far]\nkind = \"secondary-snap\"\nfrom = \"primary\"\n\
                 node = \"dr1\"\nkeep = {{ newest = 9 }}\n{drill}\n[workload.\"db@a\"]\n\
                 agent = \"a\"\nkind = \"postgres\"\nhost = \"/run/pg\"\npolicy = \"p\"\n\
                 {asked}\n"
            );
            parse("p.toml", &text).unwrap().declared
        };
        let rule = "drill = { schedule = \"every 1d\", age = \"3d\", recovery = \"2h\" }";
        let now = strongroom_protocol::Timestamp::from_unix_seconds(1_780_000_000);
        let (old, new) = (policy("", ""), policy(rule, "drill = { query = \"SELECT 1\" }"));
        let changes = plan(Some(&old), &new, &[], &Marks::default(), now);
        let said: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let said = said.join("\n");
        for part in ["copy.far.drill", "age 3d, recovery 2h, within 4h", "query SELECT 1"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
