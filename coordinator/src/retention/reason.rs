//! Reasons, verdicts, and the difference between two sets of verdicts.

use std::collections::BTreeMap;
use std::fmt;

use strongroom_protocol::{CopyName, PointId, Timestamp, WorkloadName};

use crate::retention::{Label, Marks, Period, PointFacts, ProofLevel, Rules, evaluate};

/// Why a copy of a point is kept. Any one suffices.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// Another copy is still to be made from this one.
    Dependency {
        copy: CopyName,
    },
    /// So long after an event; `until` is none while the event is open or unknown.
    EventRule {
        event: Label,
        until: Option<Timestamp>,
    },
    /// Its moment lies after now: the clock went back, and nothing is decided by it.
    FutureDated,
    /// Picked for a calendar period, such as `2026-W07`.
    Gfs {
        period: Period,
        label: String,
    },
    Hold {
        name: Label,
        by: String,
        why: String,
    },
    /// The medium refuses deletion.
    Lock {
        until: Timestamp,
    },
    MinAge {
        until: Timestamp,
    },
    /// Among the newest `count`.
    Newest {
        count: u32,
    },
    Pin {
        by: String,
        until: Option<Timestamp>,
    },
    Safety(Safety),
    /// No policy declares this copy (any more): someone must decide.
    Undecided,
}

/// What must never be expired whatever the rules say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Safety {
    /// The newest without gaps and with the consistency the policy requires.
    LastGood,
    /// The newest that was proven so far.
    LastProven(ProofLevel),
    /// The newest of all.
    Latest,
}

impl Reason {
    /// When the reason ends by itself; none when no date is known.
    pub const fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Lock { until } | Self::MinAge { until } => Some(*until),
            Self::EventRule { until, .. } | Self::Pin { until, .. } => *until,
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dependency { copy } => write!(f, "copy {copy} is still to be made from it"),
            Self::EventRule { event, until: Some(until) } => {
                write!(f, "event {event} ended; kept until {until}")
            }
            Self::EventRule { event, until: None } => write!(f, "event {event} has not ended"),
            Self::FutureDated => f.write_str("its moment lies after now: check the clock"),
            Self::Gfs { period, label } => write!(f, "picked for the {} {label}", period.as_str()),
            Self::Hold { name, by, why } => write!(f, "hold {name} by {by}: {why}"),
            Self::Lock { until } => write!(f, "locked until {until}"),
            Self::MinAge { until } => write!(f, "younger than the minimum age until {until}"),
            Self::Newest { count } => write!(f, "among the newest {count}"),
            Self::Pin { by, until: Some(until) } => write!(f, "pinned by {by} until {until}"),
            Self::Pin { by, until: None } => write!(f, "pinned by {by}"),
            Self::Safety(Safety::LastGood) => f.write_str("the last good point"),
            Self::Safety(Safety::LastProven(level)) => write!(f, "the last point proven {level}"),
            Self::Safety(Safety::Latest) => f.write_str("the newest point"),
            Self::Undecided => f.write_str("no policy declares it: kept until someone decides"),
        }
    }
}

/// What follows from the reasons and from where the copy is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stance {
    /// There, and no reason is left: to be removed after the grace time.
    Expire,
    /// There, and kept.
    Keep,
    /// Was owed, and nothing wants it any more.
    Lapse,
    /// Not there yet, and wanted.
    Owe,
}

impl Stance {
    /// The word in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expire => "expire",
            Self::Keep => "keep",
            Self::Lapse => "lapse",
            Self::Owe => "owe",
        }
    }
}

impl fmt::Display for Stance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The judgement on one copy of one point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    pub point: PointId,
    pub workload: WorkloadName,
    pub moment: Timestamp,
    pub copy: CopyName,
    pub stance: Stance,
    /// Empty exactly when the stance is to expire or to lapse.
    pub keep: Vec<Reason>,
    /// When the last reason ends by itself; none when some reason has no date.
    pub expires_at: Option<Timestamp>,
    /// For what is owed: not before then.
    pub due_at: Option<Timestamp>,
}

impl Verdict {
    /// Every reason in one text; empty when none is left.
    pub fn reasons(&self) -> String {
        let reasons: Vec<String> = self.keep.iter().map(ToString::to_string).collect();
        reasons.join("; ")
    }
}

/// One verdict before and after; a side is none where the copy is neither there nor wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    pub point: PointId,
    pub workload: WorkloadName,
    pub moment: Timestamp,
    pub copy: CopyName,
    pub before: Option<Stance>,
    pub after: Option<Stance>,
    /// The reasons that hold afterwards, or, when none does, those that held before.
    pub reasons: Vec<Reason>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |stance: Option<Stance>| stance.map_or("nothing", Stance::as_str);
        let (before, after) = (word(self.before), word(self.after));
        let short = self.point.short();
        write!(f, "{} {short} of {}, copy ", self.workload, self.moment)?;
        write!(f, "{}: {before} -> {after}", self.copy)?;
        let lead = match self.after {
            Some(Stance::Keep | Stance::Owe) => "because",
            _ => "was kept because",
        };
        for (index, reason) in self.reasons.iter().enumerate() {
            write!(f, "{} {reason}", if index == 0 { format!(" ({lead}") } else { ";".into() })?;
        }
        if self.reasons.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// What other rules would change, point by point, oldest first.
pub fn what_if(
    points: &[PointFacts],
    before: &Rules,
    after: &Rules,
    marks: &Marks,
    now: Timestamp,
) -> Vec<Difference> {
    type Key = (WorkloadName, Timestamp, PointId, CopyName);
    let keyed = |rules| -> BTreeMap<Key, Verdict> {
        let verdicts = evaluate(points, rules, marks, now);
        let key = |v: &Verdict| (v.workload.clone(), v.moment, v.point, v.copy.clone());
        verdicts.into_iter().map(|verdict| (key(&verdict), verdict)).collect()
    };
    let (old, mut new) = (keyed(before), keyed(after));
    let mut pairs: BTreeMap<Key, (Option<Verdict>, Option<Verdict>)> = BTreeMap::new();
    for (key, verdict) in old {
        let other = new.remove(&key);
        pairs.insert(key, (Some(verdict), other));
    }
    pairs.extend(new.into_iter().map(|(key, verdict)| (key, (None, Some(verdict)))));
    let differing =
        pairs.into_iter().filter_map(|((workload, moment, point, copy), (old, new))| {
            let (before, after) = (old.as_ref().map(|v| v.stance), new.as_ref().map(|v| v.stance));
            let mut reasons = new.map(|verdict| verdict.keep).unwrap_or_default();
            if reasons.is_empty() {
                reasons = old.map(|verdict| verdict.keep).unwrap_or_default();
            }
            let difference = Difference { point, workload, moment, copy, before, after, reasons };
            (before != after).then_some(difference)
        });
    differing.collect()
}
