//! The judgement itself: for each copy, leaves of the copy graph first, which points have a
//! reason. Counting rules look at the copies that are there when they decide what stays, and at
//! all that could be there when they decide what is owed: nothing is expired in favour of a
//! copy that has not arrived.

use std::collections::{BTreeMap, BTreeSet};

use strongroom_protocol::{CopyName, PointId, Timestamp, WorkloadName};

use crate::retention::gfs::{Candidate, pick};
use crate::retention::{
    CopyFacts, CopyRules, CopyState, Keep, Marks, PointFacts, ProofLevel, Reason, Rules, Safety,
    Stance, Verdict, WorkloadRules,
};

/// Clocks of nodes may differ so much before a moment counts as lying in the future.
const CLOCK_SKEW_SECONDS_MAX: i64 = 900;

/// Judges every copy of every point that is there or wanted; by workload, then oldest first.
pub fn evaluate(
    points: &[PointFacts],
    rules: &Rules,
    marks: &Marks,
    now: Timestamp,
) -> Vec<Verdict> {
    let mut by_workload: BTreeMap<&WorkloadName, Vec<&PointFacts>> = BTreeMap::new();
    for point in points {
        by_workload.entry(&point.workload).or_default().push(point);
    }
    let mut verdicts = Vec::new();
    for (workload, mut points) in by_workload {
        points.sort_by_key(|point| (point.moment, point.point));
        let bench = Bench { rules: rules.workloads.get(workload), points, marks, now };
        let mut judged = bench.judge();
        judged.sort_by(|a, b| (a.moment, a.point, &a.copy).cmp(&(b.moment, b.point, &b.copy)));
        verdicts.append(&mut judged);
    }
    verdicts
}

/// The verdicts on one point: why it is kept, copy by copy.
pub fn why(
    point: PointId,
    points: &[PointFacts],
    rules: &Rules,
    marks: &Marks,
    now: Timestamp,
) -> Vec<Verdict> {
    let Some(subject) = points.iter().find(|facts| facts.point == point) else { return Vec::new() };
    let of_workload: Vec<PointFacts> =
        points.iter().filter(|facts| facts.workload == subject.workload).cloned().collect();
    let mut verdicts = evaluate(&of_workload, rules, marks, now);
    verdicts.retain(|verdict| verdict.point == point);
    verdicts
}

/// One workload on the bench.
struct Bench<'a> {
    /// Oldest first.
    points: Vec<&'a PointFacts>,
    rules: Option<&'a WorkloadRules>,
    marks: &'a Marks,
    now: Timestamp,
}

/// Reasons by index of the point.
type Reasons = BTreeMap<usize, Vec<Reason>>;

impl Bench<'_> {
    fn judge(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let mut owed: BTreeMap<&CopyName, BTreeSet<usize>> = BTreeMap::new();
        if let Some(rules) = self.rules {
            for copy in leaves_first(&rules.copies) {
                let reasons = self.reasons(rules, copy, &owed);
                let mut owes = BTreeSet::new();
                for (index, keep) in reasons {
                    let verdict = self.verdict(index, copy, keep);
                    if let Some(verdict) = verdict {
                        if verdict.stance == Stance::Owe {
                            owes.insert(index);
                        }
                        verdicts.push(verdict);
                    }
                }
                owed.insert(&copy.copy, owes);
            }
        }
        self.undeclared(&mut verdicts);
        verdicts
    }

    /// Every reason of every point for one copy; points nothing wants get an empty list.
    fn reasons(
        &self,
        rules: &WorkloadRules,
        copy: &CopyRules,
        owed: &BTreeMap<&CopyName, BTreeSet<usize>>,
    ) -> Reasons {
        let mut all = self.candidates(rules, copy);
        if let Some(period) = copy.every {
            let first = pick(&all, period, usize::MAX, &rules.timezone);
            let first: BTreeSet<usize> = first.into_iter().map(|(index, _)| index).collect();
            all.retain(|c| first.contains(&c.index) || self.present(c.index, &copy.copy));
        }
        let there: Vec<Candidate> =
            all.iter().copied().filter(|c| self.present(c.index, &copy.copy)).collect();
        let mut reasons: Reasons = (0..self.points.len()).map(|index| (index, vec![])).collect();
        self.count(&there, rules, &copy.keep, &mut reasons);
        self.safety(&there, rules, Some(&copy.copy), &mut reasons);
        let mut wanted = Reasons::new();
        self.count(&all, rules, &copy.keep, &mut wanted);
        self.safety(&all, rules, None, &mut wanted);
        wanted.retain(|index, _| !self.present(*index, &copy.copy));
        for (index, more) in wanted {
            reasons.entry(index).or_default().extend(more);
        }
        for candidate in &all {
            let kept = reasons.entry(candidate.index).or_default();
            self.dated(candidate.moment, &copy.keep, kept);
        }
        for (index, kept) in &mut reasons {
            self.future(*index, copy, rules, kept);
            for child in rules.copies.iter().filter(|c| c.from.as_ref() == Some(&copy.copy)) {
                if owed.get(&child.copy).is_some_and(|owes| owes.contains(index)) {
                    kept.push(Reason::Dependency { copy: child.copy.clone() });
                }
            }
            self.marked(*index, &copy.copy, kept);
        }
        reasons
    }

    /// The points that are, or could come to be, in this copy and are not of the future.
    fn candidates(&self, rules: &WorkloadRules, copy: &CopyRules) -> Vec<Candidate> {
        let points = self.points.iter().enumerate();
        let eligible = points.filter(|(index, point)| {
            !self.of_the_future(point) && self.obtainable(*index, copy, rules, rules.copies.len())
        });
        let candidates = eligible.map(|(index, point)| Candidate {
            index,
            moment: point.moment,
            preferred: u8::from(!self.present(index, &copy.copy)) * 2
                + u8::from(point.consistency < rules.require),
        });
        candidates.collect()
    }

    fn of_the_future(&self, point: &PointFacts) -> bool {
        point.moment > self.now.plus_seconds(CLOCK_SKEW_SECONDS_MAX)
    }

    fn state(&self, index: usize, copy: &CopyName) -> Option<CopyState> {
        self.points.get(index).and_then(|point| point.copy(copy)).map(|facts| facts.state)
    }

    fn present(&self, index: usize, copy: &CopyName) -> bool {
        self.state(index, copy) == Some(CopyState::Present)
    }

    /// There, on its way, or made from something that is.
    fn obtainable(
        &self,
        index: usize,
        copy: &CopyRules,
        rules: &WorkloadRules,
        steps_left: usize,
    ) -> bool {
        match self.state(index, &copy.copy) {
            Some(CopyState::Present | CopyState::Working) => true,
            Some(CopyState::Expired | CopyState::Removing) => false,
            // A primary that was lost may come back from any other copy.
            Some(CopyState::Owed | CopyState::Failed) if copy.from.is_none() => true,
            Some(CopyState::Owed | CopyState::Failed) | None => {
                let source = rules.copies.iter().find(|c| Some(&c.copy) == copy.from.as_ref());
                steps_left > 0
                    && source.is_some_and(|s| self.obtainable(index, s, rules, steps_left - 1))
            }
        }
    }

    /// Newest and calendar rules.
    fn count(&self, of: &[Candidate], rules: &WorkloadRules, keep: &Keep, into: &mut Reasons) {
        let newest = usize::try_from(keep.newest).unwrap_or(usize::MAX);
        for candidate in of.iter().rev().take(newest) {
            let reason = Reason::Newest { count: keep.newest };
            into.entry(candidate.index).or_default().push(reason);
        }
        for (period, count) in &keep.gfs {
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            for (index, label) in pick(of, *period, count, &rules.timezone) {
                let reason = Reason::Gfs { period: *period, label };
                into.entry(index).or_default().push(reason);
            }
        }
    }

    /// What no rule may take away. `proven`: the copy whose proofs count, if any.
    fn safety(
        &self,
        of: &[Candidate],
        rules: &WorkloadRules,
        proven: Option<&CopyName>,
        into: &mut Reasons,
    ) {
        let mut newest = |safety: Safety, fits: &dyn Fn(&PointFacts) -> bool| {
            let found = of.iter().rev().find(|candidate| {
                self.points.get(candidate.index).is_some_and(|point| fits(point))
            });
            if let Some(candidate) = found {
                into.entry(candidate.index).or_default().push(Reason::Safety(safety));
            }
        };
        newest(Safety::Latest, &|_| true);
        newest(Safety::LastGood, &|point| point.gaps == 0 && point.consistency >= rules.require);
        let Some(copy) = proven else { return };
        for level in ProofLevel::ALL.iter().filter(|level| **level > ProofLevel::Written) {
            let holds = |point: &PointFacts| {
                let proof = point.copy(copy).and_then(CopyFacts::proven);
                proof.is_some_and(|proof| proof.level >= *level)
            };
            let sound = |point: &PointFacts| {
                holds(point) && point.copy(copy).is_some_and(|facts| facts.suspect.is_none())
            };
            // One that is suspect does not take the place of an older one that is not.
            let mut all = of.iter().filter_map(|candidate| self.points.get(candidate.index));
            let some_sound = all.any(|point| sound(point));
            newest(Safety::LastProven(*level), &|point| match some_sound {
                true => sound(point),
                false => holds(point),
            });
        }
    }

    /// Rules that end at a date.
    fn dated(&self, moment: Timestamp, keep: &Keep, kept: &mut Vec<Reason>) {
        let later = |from: Timestamp, seconds: u64| {
            from.plus_seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
        };
        let until = later(moment, keep.min_age_seconds.unwrap_or(0));
        if until > self.now {
            kept.push(Reason::MinAge { until });
        }
        for rule in &keep.after {
            let ended = self.marks.events.get(&rule.event).copied().flatten();
            let until = ended.map(|ended| later(ended, rule.keep_seconds));
            if until.is_none_or(|until| until > self.now) {
                kept.push(Reason::EventRule { event: rule.event.clone(), until });
            }
        }
    }

    fn future(
        &self,
        index: usize,
        copy: &CopyRules,
        rules: &WorkloadRules,
        kept: &mut Vec<Reason>,
    ) {
        let Some(point) = self.points.get(index) else { return };
        let wanted = self.present(index, &copy.copy)
            || copy.every.is_none() && self.obtainable(index, copy, rules, rules.copies.len());
        if wanted && self.of_the_future(point) {
            kept.push(Reason::FutureDated);
        }
    }

    /// Holds, pins and locks: of what is there, and of debts on the books.
    fn marked(&self, index: usize, copy: &CopyName, kept: &mut Vec<Reason>) {
        let Some(point) = self.points.get(index) else { return };
        let goes = |state| matches!(state, CopyState::Expired | CopyState::Removing);
        let Some(facts) = point.copy(copy).filter(|c| !goes(c.state)) else { return };
        for hold in &self.marks.holds {
            if hold.points.contains(&point.point) || hold.workloads.contains(&point.workload) {
                let (name, by, why) = (hold.name.clone(), hold.by.clone(), hold.why.clone());
                kept.push(Reason::Hold { name, by, why });
            }
        }
        for pin in self.marks.pins.iter().filter(|pin| pin.point == point.point) {
            let this_copy = pin.copy.as_ref().is_none_or(|pinned| pinned == copy);
            if this_copy && pin.until.is_none_or(|until| until > self.now) {
                kept.push(Reason::Pin { by: pin.by.clone(), until: pin.until });
            }
        }
        if let Some(until) = facts.lock_until.filter(|until| *until > self.now) {
            kept.push(Reason::Lock { until });
        }
    }

    fn verdict(&self, index: usize, copy: &CopyRules, keep: Vec<Reason>) -> Option<Verdict> {
        let point = self.points.get(index)?;
        let state = self.state(index, &copy.copy);
        let stance = match (state, keep.is_empty()) {
            (Some(CopyState::Expired | CopyState::Removing), _) | (None, true) => return None,
            (Some(CopyState::Present), false) => Stance::Keep,
            (Some(CopyState::Present), true) => Stance::Expire,
            (_, false) => Stance::Owe,
            (Some(_), true) => Stance::Lapse,
        };
        let defer = i64::try_from(copy.defer_seconds).unwrap_or(i64::MAX);
        let due_at = (stance == Stance::Owe).then(|| point.moment.plus_seconds(defer));
        Some(self.sealed(point, &copy.copy, stance, keep, due_at))
    }

    fn sealed(
        &self,
        point: &PointFacts,
        copy: &CopyName,
        stance: Stance,
        keep: Vec<Reason>,
        due_at: Option<Timestamp>,
    ) -> Verdict {
        let ends: Option<Vec<Timestamp>> = keep.iter().map(Reason::until).collect();
        let expires_at = ends.map(|ends| ends.into_iter().max().unwrap_or(self.now));
        Verdict {
            point: point.point,
            workload: point.workload.clone(),
            moment: point.moment,
            copy: copy.clone(),
            stance,
            keep,
            expires_at,
            due_at,
        }
    }

    /// Copies no rule names: what is there stays, debts lapse.
    fn undeclared(&self, verdicts: &mut Vec<Verdict>) {
        let declared = |copy: &CopyName| {
            self.rules.is_some_and(|rules| rules.copies.iter().any(|c| c.copy == *copy))
        };
        for (index, point) in self.points.iter().enumerate() {
            for facts in point.copies.iter().filter(|facts| !declared(&facts.copy)) {
                let (stance, mut keep) = match facts.state {
                    CopyState::Expired | CopyState::Removing => continue,
                    CopyState::Present | CopyState::Working => {
                        (Stance::Keep, vec![Reason::Undecided])
                    }
                    CopyState::Owed | CopyState::Failed => (Stance::Lapse, vec![]),
                };
                if stance == Stance::Keep {
                    self.marked(index, &facts.copy, &mut keep);
                }
                verdicts.push(self.sealed(point, &facts.copy, stance, keep, None));
            }
        }
    }
}

/// Copies ordered so that each comes before the one it is made from.
fn leaves_first(copies: &[CopyRules]) -> Vec<&CopyRules> {
    let depth = |copy: &CopyRules| {
        let mut depth = 0;
        let mut from = copy.from.as_ref();
        while let Some(source) = from.and_then(|f| copies.iter().find(|c| c.copy == *f)) {
            depth += 1;
            if depth > copies.len() {
                break;
            }
            from = source.from.as_ref();
        }
        depth
    };
    let mut ordered: Vec<&CopyRules> = copies.iter().collect();
    ordered.sort_by_key(|copy| std::cmp::Reverse(depth(copy)));
    ordered
}
