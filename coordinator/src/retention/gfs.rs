//! Calendar buckets: which period a moment falls into, in the policy's time zone, and which point
//! of each period is picked. ISO weeks; quarters start in January, April, July and October.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use strongroom_protocol::Timestamp;

/// A calendar period, shortest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

impl Period {
    /// Every period, shortest first.
    pub const ALL: &[Self] =
        &[Self::Hour, Self::Day, Self::Week, Self::Month, Self::Quarter, Self::Year];

    /// The word in `every` and in reasons.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::Year => "year",
        }
    }

    /// The key under `keep`.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Hour => "hours",
            Self::Day => "days",
            Self::Week => "weeks",
            Self::Month => "months",
            Self::Quarter => "quarters",
            Self::Year => "years",
        }
    }

    /// The period `moment` falls into: labels sort as time does, and a repeated hour of an
    /// autumn night is two hours, told apart by the offset.
    pub(super) fn label(self, moment: Timestamp, timezone: &TimeZone) -> String {
        let local = moment.to_jiff().to_zoned(timezone.clone());
        let (year, month) = (local.year(), local.month());
        match self {
            Self::Hour => local.strftime("%Y-%m-%dT%H%:z").to_string(),
            Self::Day => local.strftime("%Y-%m-%d").to_string(),
            Self::Week => {
                let week = local.date().iso_week_date();
                format!("{:04}-W{:02}", week.year(), week.week())
            }
            Self::Month => format!("{year:04}-{month:02}"),
            Self::Quarter => format!("{year:04}-Q{}", (month - 1) / 3 + 1),
            Self::Year => format!("{year:04}"),
        }
    }
}

/// A point as far as picking goes: `preferred` is lower for points that should win their bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub index: usize,
    pub moment: Timestamp,
    pub preferred: u8,
}

/// The point picked from each of the newest `count` non-empty periods, with the period's label:
/// the preferred, and among equals the first, so that a pick stays picked as points are added.
pub(super) fn pick(
    candidates: &[Candidate],
    period: Period,
    count: usize,
    timezone: &TimeZone,
) -> Vec<(usize, String)> {
    let mut buckets: BTreeMap<(Timestamp, String), Candidate> = BTreeMap::new();
    let mut oldest_of: BTreeMap<String, Timestamp> = BTreeMap::new();
    for candidate in candidates {
        let label = period.label(candidate.moment, timezone);
        let oldest = oldest_of.entry(label).or_insert(candidate.moment);
        *oldest = (*oldest).min(candidate.moment);
    }
    for candidate in candidates {
        let label = period.label(candidate.moment, timezone);
        let oldest = oldest_of.get(&label).copied().unwrap_or(candidate.moment);
        let best = buckets.entry((oldest, label)).or_insert(*candidate);
        let rank = |c: &Candidate| (c.preferred, c.moment, c.index);
        if rank(candidate) < rank(best) {
            *best = *candidate;
        }
    }
    let newest_first = buckets.into_iter().rev().take(count);
    newest_first.map(|((_, label), candidate)| (candidate.index, label)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_jiff(text.parse().unwrap())
    }

    #[test]
    fn labels_follow_the_zone_and_the_iso_calendar() {
        let london = TimeZone::get("Europe/London").unwrap();
        let moment = at("2026-06-30T23:30:00Z");
        assert_eq!(Period::Day.label(moment, &london), "2026-07-01");
        assert_eq!(Period::Month.label(moment, &london), "2026-07");
        assert_eq!(Period::Quarter.label(moment, &london), "2026-Q3");
        assert_eq!(Period::Day.label(moment, &TimeZone::UTC), "2026-06-30");
        assert_eq!(Period::Week.label(at("2027-01-01T12:00:00Z"), &london), "2026-W53");
    }

    #[test]
    fn the_repeated_hour_is_two_buckets() {
        let london = TimeZone::get("Europe/London").unwrap();
        let first = Period::Hour.label(at("2026-10-25T00:30:00Z"), &london);
        let second = Period::Hour.label(at("2026-10-25T01:30:00Z"), &london);
        assert_ne!(first, second);
    }

    #[test]
    fn the_first_of_a_bucket_wins_unless_another_is_preferred() {
        let points = [
            ("2026-01-01T04:00:00Z", 1),
            ("2026-01-01T08:00:00Z", 0),
            ("2026-01-01T12:00:00Z", 0),
            ("2026-01-02T04:00:00Z", 1),
        ];
        let candidates: Vec<Candidate> = points
            .iter()
            .enumerate()
            .map(|(index, (text, preferred))| Candidate {
                index,
                moment: at(text),
                preferred: *preferred,
            })
            .collect();
        let picked = pick(&candidates, Period::Day, 9, &TimeZone::UTC);
        assert_eq!(picked, [(3, "2026-01-02".to_owned()), (1, "2026-01-01".to_owned())]);
        assert_eq!(pick(&candidates, Period::Day, 1, &TimeZone::UTC).len(), 1);
    }
}
