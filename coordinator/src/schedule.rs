//! When things are to run: pure functions of the cadence, the time zone, what ran last and now.
//! A missed run is made up for once; a clock set back neither starves a workload nor runs it in
//! a storm; an hour that a summer night skips is made up for right after it, and one that an
//! autumn night repeats counts once. Refuses nothing: what cannot be a time is refused when
//! the cadence is parsed.

mod cadence;
mod throttle;

use std::collections::BTreeMap;
use std::fmt;

use jiff::tz::TimeZone;
use strongroom_protocol::{PolicyName, Timestamp, WorkloadName};

use crate::policy::Declared;

pub use cadence::{Cadence, CadenceError, MonthDay, Nth, parse_clock_minutes};
pub use throttle::{Days, Throttle, Window, next_open, open_at, rate_at};

/// A last run may lie so far ahead of now before the clock is said to have gone back.
const CLOCK_SKEW_SECONDS_MAX: i64 = 60;

/// When `cadence` is due next after `last`; at or before `now` means due at once.
///
/// Without a last run an interval is due now and a calendar time at its next occurrence. A last
/// run that lies in the future means the clock went back: due now, once, provided the caller
/// records the run under the clock's present time.
pub fn next_after(
    cadence: &Cadence,
    timezone: &TimeZone,
    last: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    match last {
        Some(last) if last > now.plus_seconds(CLOCK_SKEW_SECONDS_MAX) => now,
        Some(last) => cadence.occurrence_after(last, timezone),
        None if matches!(cadence, Cadence::Every { .. }) => now,
        None => cadence.occurrence_after(now, timezone),
    }
}

/// What is remembered of a workload's runs. Survives restarts because the caller reads it from
/// the catalog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History {
    /// When the workload was first declared: calendar times before it were not missed.
    pub since: Timestamp,
    /// The latest run that does not lie after now.
    pub last: Option<Timestamp>,
    /// A run that lies after now: the clock went back since.
    pub ahead: Option<Timestamp>,
}

impl History {
    /// From every known run, in any order.
    pub fn of(since: Timestamp, runs: &[Timestamp], now: Timestamp) -> Self {
        let limit = Self::newest_now(now);
        let past = runs.iter().copied().filter(|run| *run <= limit);
        let ahead = runs.iter().copied().filter(|run| *run > limit);
        Self { since, last: past.max(), ahead: ahead.min() }
    }

    /// The latest moment that counts as not lying after now.
    pub const fn newest_now(now: Timestamp) -> Timestamp {
        now.plus_seconds(CLOCK_SKEW_SECONDS_MAX)
    }
}

/// Something a person should hear about a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Note {
    /// A run is on record that lies after now.
    ClockWentBack { recorded: Timestamp },
    /// At least one earlier time passed without a run; made up for by this one.
    Missed { since: Timestamp },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClockWentBack { recorded } => {
                write!(
                    f,
                    "a run is on record for {recorded}, which is yet to come: check the clock"
                )
            }
            Self::Missed { since } => write!(f, "the run of {since} was missed; made up for now"),
        }
    }
}

/// A workload whose time has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Due {
    pub workload: WorkloadName,
    pub policy: PolicyName,
    /// The time it was due.
    pub slot: Timestamp,
    pub note: Option<Note>,
}

/// A run this late was missed, not merely queued behind others.
const LATE_SECONDS_MAX: i64 = 600;

/// The workloads to protect now. One without a history is treated as declared this moment.
pub fn due(
    declared: &Declared,
    history: &BTreeMap<WorkloadName, History>,
    now: Timestamp,
) -> Vec<Due> {
    let workloads = declared.workloads.values();
    let due = workloads.filter_map(|workload| {
        let slot = next_run(declared, &workload.name, history.get(&workload.name), now)?;
        let ahead = history.get(&workload.name).and_then(|history| history.ahead);
        let late = now.seconds_since(slot) > LATE_SECONDS_MAX;
        let missed = late.then_some(Note::Missed { since: slot });
        (slot <= now).then(|| Due {
            workload: workload.name.clone(),
            policy: workload.policy.clone(),
            slot,
            note: ahead.map(|recorded| Note::ClockWentBack { recorded }).or(missed),
        })
    });
    due.collect()
}

/// When a workload runs next by the earliest of its policy's cadences; none when the workload is
/// not declared or its policy has no schedule.
pub fn next_run(
    declared: &Declared,
    workload: &WorkloadName,
    history: Option<&History>,
    now: Timestamp,
) -> Option<Timestamp> {
    let policy = declared.policies.get(&declared.workloads.get(workload)?.policy)?;
    let fresh = History { since: now, last: None, ahead: None };
    let history = history.copied().unwrap_or(fresh);
    let next = policy.schedule.iter().map(|cadence| {
        let anchor = match (history.last, cadence) {
            (None, Cadence::Every { .. }) => None,
            (None, _) => Some(history.since),
            (last, _) => last,
        };
        next_after(cadence, &policy.timezone, anchor, now)
    });
    next.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_jiff(text.parse().unwrap())
    }

    fn next(cadence: &str, zone: &str, last: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let now = at("2026-01-01T00:00:00Z").max(at(last));
        next_after(&cadence.parse().unwrap(), &zone, Some(at(last)), now).to_string()
    }

    #[test]
    fn a_skipped_hour_is_made_up_for_and_a_repeated_one_counts_once() {
        let (london, york) = ("Europe/London", "America/New_York");
        assert_eq!(next("daily 01:30", london, "2026-03-28T12:00:00Z"), "2026-03-29T01:30:00Z");
        assert_eq!(next("daily 01:30", london, "2026-03-29T01:30:00Z"), "2026-03-30T00:30:00Z");
        assert_eq!(next("daily 01:30", london, "2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(next("daily 01:30", london, "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
        assert_eq!(next("daily 02:30", york, "2026-03-07T12:00:00Z"), "2026-03-08T07:30:00Z");
        assert_eq!(next("daily 02:30", york, "2026-03-08T07:30:00Z"), "2026-03-09T06:30:00Z");
        assert_eq!(next("daily 01:30", york, "2026-10-31T12:00:00Z"), "2026-11-01T05:30:00Z");
        assert_eq!(next("daily 01:30", york, "2026-11-01T05:30:00Z"), "2026-11-02T06:30:00Z");
    }

    #[test]
    fn intervals_are_elapsed_time_through_both_nights() {
        for last in ["2026-03-29T00:00:00Z", "2026-10-25T00:00:00Z"] {
            let zone = TimeZone::get("Europe/London").unwrap();
            let mut moment = at(last);
            for _ in 0..12 {
                let cadence: Cadence = "every 15m".parse().unwrap();
                let next = next_after(&cadence, &zone, Some(moment), moment);
                assert_eq!(next.seconds_since(moment), 900);
                moment = next;
            }
        }
    }

    #[test]
    fn months_and_weekdays() {
        let utc = "UTC";
        assert_eq!(next("first sunday 03:00", utc, "2026-02-01T03:00:00Z"), "2026-03-01T03:00:00Z");
        assert_eq!(next("last friday 21:00", utc, "2026-02-01T00:00:00Z"), "2026-02-27T21:00:00Z");
        assert_eq!(next("monthly 31 02:00", utc, "2026-02-01T00:00:00Z"), "2026-02-28T02:00:00Z");
        assert_eq!(next("monthly last 02:00", utc, "2028-02-01T00:00:00Z"), "2028-02-29T02:00:00Z");
        assert_eq!(
            next("weekly friday 20:00", utc, "2026-02-06T20:00:00Z"),
            "2026-02-13T20:00:00Z"
        );
        assert_eq!(
            next("weekly mon-wed 20:00", utc, "2026-02-04T20:00:00Z"),
            "2026-02-09T20:00:00Z"
        );
        assert_eq!(next("daily 06:00,18:00", utc, "2026-02-04T06:00:00Z"), "2026-02-04T18:00:00Z");
        assert_eq!(
            next("third tuesday 01:00", utc, "2026-02-01T00:00:00Z"),
            "2026-02-17T01:00:00Z"
        );
    }

    fn declared(schedule: &str) -> Declared {
        let text = format!(
            "[policy.p]\nschedule = \"{schedule}\"\ntimezone = \"Europe/London\"\n\
             require = \"crash\"\n[policy.p.primary]\nkeep = {{ newest = 3 }}\n\
             [workload.\"w@a\"]\nagent = \"a\"\nkind = \"files\"\npath = \"/x\"\npolicy = \"p\"\n"
        );
        crate::policy::parse("t.toml", &text).unwrap().declared
    }

    /// Ticks every minute for `minutes`, recording each run at the clock's time.
    fn ticks(
        declared: &Declared,
        runs: &mut Vec<Timestamp>,
        since: Timestamp,
        from: &str,
        minutes: i64,
    ) -> Vec<Due> {
        let mut all = Vec::new();
        for minute in 0..minutes {
            let now = at(from).plus_seconds(minute * 60);
            let history = History::of(since, runs, now);
            let of = BTreeMap::from([("w@a".parse().unwrap(), history)]);
            let mut due = due(declared, &of, now);
            if !due.is_empty() {
                runs.push(now);
            }
            all.append(&mut due);
        }
        all
    }

    #[test]
    fn missed_runs_run_once_after_a_long_absence() {
        for cadence in ["every 4h", "daily 22:00"] {
            let declared = declared(cadence);
            let since = at("2026-01-01T00:00:00Z");
            let mut runs = vec![at("2026-01-02T22:00:00Z")];
            let caught = ticks(&declared, &mut runs, since, "2026-02-10T09:00:00Z", 60);
            assert_eq!(caught.len(), 1, "{cadence}");
            assert!(matches!(caught[0].note, Some(Note::Missed { .. })));
        }
    }

    #[test]
    fn a_clock_set_back_a_year_neither_storms_nor_starves() {
        for (cadence, a_day) in [("every 4h", 7), ("daily 22:00", 2)] {
            let declared = declared(cadence);
            let since = at("2026-01-01T00:00:00Z");
            let mut runs = vec![at("2026-06-01T00:00:00Z"), at("2026-06-01T04:00:00Z")];
            let back = ticks(&declared, &mut runs, since, "2025-06-01T06:00:00Z", 24 * 60);
            assert!(!back.is_empty() && back.len() <= a_day, "{cadence}: {}", back.len());
            assert_eq!(
                back[0].note,
                Some(Note::ClockWentBack { recorded: at("2026-06-01T00:00:00Z") })
            );
        }
    }

    #[test]
    fn a_new_workload_waits_for_its_calendar_time_and_then_runs() {
        let declared = declared("daily 22:00");
        let since = at("2026-01-05T09:00:00Z");
        let mut runs = Vec::new();
        let due = ticks(&declared, &mut runs, since, "2026-01-05T09:00:00Z", 24 * 60);
        assert_eq!(due.len(), 1);
        assert_eq!(runs, [at("2026-01-05T22:00:00Z")]);
        assert_eq!(due[0].note, None);
    }

    #[test]
    fn a_last_run_in_the_future_is_due_now() {
        let cadence: Cadence = "every 1h".parse().unwrap();
        let now = at("2026-01-01T00:00:00Z");
        let last = Some(at("2027-01-01T00:00:00Z"));
        assert_eq!(next_after(&cadence, &TimeZone::UTC, last, now), now);
    }
}
