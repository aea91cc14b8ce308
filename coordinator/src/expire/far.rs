//! Copies at the other site that nothing keeps. They are announced, and ordered away once the
//! proxy says that its own floor lets them go; before the order leaves, it is in the catalog and
//! the audit log. What became of an order whose answer was lost is asked, not assumed; a refusal
//! stands in the ledger. On media points are let go, and their cartridges may be written anew: one
//! that another copy on the same set of media keeps stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strongroom_protocol::control::{Ending, ExpireAnswer, ExpireOrder, ExpireOutcome, Work};
use strongroom_protocol::{
    Chain, CopyName, Generation, JobId, MediaSetName, NodeName, PointId, Timestamp,
};

use crate::catalog::{CatalogError, CopyEvent, Doomed, LedgerRow};
use crate::copies::{CopyTask, Doing};
use crate::expire::place::Places;
use crate::expire::{self, ExpireError, because, subject};
use crate::policy::{Copy, CopyKind, Declared};
use crate::retention::{CopyState, Grace};
use crate::site::Site;

/// Points of one order; proxies refuse more.
const POINTS_AN_ORDER: usize = 32;
/// How often it is looked what may be ordered away.
const LOOK_SECONDS: i64 = 5;
/// A refusal without a date is asked about again after this, one with a date at the latest then.
const ASK_AGAIN_SECONDS: i64 = 86_400;
/// A proxy that could not answer is not asked of the same copy for this long.
const REST_SECONDS: i64 = 600;

/// An order that was not answered yet.
struct Asked {
    job: JobId,
    order: ExpireOrder,
    copies: BTreeMap<PointId, Doomed>,
    place: Place,
}

/// Where copies lie at a proxy: which copy, and its set if it is on media.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    node: NodeName,
    copy: CopyName,
    set: Option<MediaSetName>,
}

/// What is under way with each proxy.
pub(crate) struct Far {
    site: Arc<Site>,
    asked: BTreeMap<NodeName, Asked>,
    /// The proxy would let them go.
    ready: BTreeSet<(PointId, CopyName)>,
    resting: BTreeMap<Place, Timestamp>,
    look_at: Option<Timestamp>,
}

impl Far {
    pub(crate) const fn new(site: Arc<Site>) -> Self {
        Self {
            site,
            asked: BTreeMap::new(),
            ready: BTreeSet::new(),
            resting: BTreeMap::new(),
            look_at: None,
        }
    }

    /// Something changed: look at the next tick.
    pub(crate) fn reconsider(&mut self) {
        self.look_at = None;
        self.resting.clear();
    }

    /// A proxy is here, still doing `live`.
    pub(crate) fn came(&mut self, node: &NodeName, live: &[(JobId, Generation)]) {
        let working =
            self.asked.get(node).is_some_and(|asked| live.iter().any(|(job, _)| *job == asked.job));
        if !working {
            self.asked.remove(node);
        }
    }

    /// Orders what can be ordered.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        if self.look_at.is_some_and(|at| at > now && at <= now.plus_seconds(LOOK_SECONDS)) {
            return;
        }
        self.look_at = Some(now.plus_seconds(LOOK_SECONDS));
        if let Err(error) = self.look(now) {
            tracing::error!(error = %Chain(&error), "what the other site holds cannot be expired");
        }
    }

    fn look(&mut self, now: Timestamp) -> Result<(), ExpireError> {
        let in_force = self.site.in_force();
        let mut places = Places::default();
        let unknown = self.site.catalog.removing()?;
        let unknown = self.by_node(&in_force.declared, &mut places, unknown, now)?;
        for (place, doomed) in unknown {
            self.order(&place, doomed, ExpireOrder::Announce, now);
        }
        let clock = expire::clock(&self.site, now)?;
        let mut due = self.site.catalog.doomed()?;
        due.retain(|doomed| {
            let (declared, row) = (&in_force.declared, &doomed.row);
            let grace = expire::grace_of(declared, &doomed.workload, row, clock, now);
            grace == Grace::Over && (self.ready.contains(&doomed.key()) || is_due(doomed, now))
        });
        let due = self.by_node(&in_force.declared, &mut places, due, now)?;
        if due.is_empty() {
            return Ok(());
        }
        // A hold is placed before or after this, never between the verdict and the order.
        let site = Arc::clone(&self.site);
        let _keeping = site.keeping();
        let judged = expire::judge(&site, now)?;
        let ripe = expire::ripe(&site, &judged)?;
        let ripe: BTreeSet<(PointId, CopyName)> = ripe.iter().map(Doomed::key).collect();
        for (place, mut doomed) in due {
            doomed.retain(|doomed| ripe.contains(&doomed.key()));
            let (ready, rest): (Vec<Doomed>, Vec<Doomed>) =
                doomed.into_iter().partition(|doomed| self.ready.contains(&doomed.key()));
            if !ready.is_empty() && !self.asked.contains_key(&place.node) {
                self.order_away(&place, ready, now)?;
            }
            self.order(&place, rest, ExpireOrder::Announce, now);
        }
        Ok(())
    }

    /// Copies at proxies that are here and free, by where they lie.
    fn by_node(
        &self,
        declared: &Declared,
        places: &mut Places,
        all: Vec<Doomed>,
        now: Timestamp,
    ) -> Result<BTreeMap<Place, Vec<Doomed>>, CatalogError> {
        let mut found: BTreeMap<Place, Vec<Doomed>> = BTreeMap::new();
        for doomed in all {
            let Some(copy) = places.copy_of(&self.site, declared, &doomed)? else { continue };
            let set = match &copy.kind {
                CopyKind::SecondarySnap => None,
                CopyKind::Aux { media_set } => Some(media_set.clone()),
            };
            let place = Place { node: copy.node.clone(), copy: copy.name.clone(), set };
            let rests = self.resting.get(&place).is_some_and(|until| *until > now);
            let here = self.site.sessions.proxy(&copy.node).is_some();
            if !here || rests || self.asked.contains_key(&copy.node) {
                continue;
            }
            if place.set.is_none() || !self.is_shared(declared, places, &doomed, &copy)? {
                found.entry(place).or_default().push(doomed);
            }
        }
        Ok(found)
    }

    /// Whether another copy of the point is kept on the same set of media.
    fn is_shared(
        &self,
        declared: &Declared,
        places: &mut Places,
        doomed: &Doomed,
        copy: &Copy,
    ) -> Result<bool, CatalogError> {
        for row in self.site.catalog.ledger_of(doomed.row.point)? {
            let goes = matches!(row.state, CopyState::Expired | CopyState::Removing)
                || row.doomed.is_some();
            if goes || row.copy == copy.name {
                continue;
            }
            let other = Doomed { row, ..doomed.clone() };
            let other = places.copy_of(&self.site, declared, &other)?;
            if other.is_some_and(|other| other.kind == copy.kind && other.node == copy.node) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Decides and records, then orders.
    fn order_away(
        &mut self,
        place: &Place,
        mut doomed: Vec<Doomed>,
        now: Timestamp,
    ) -> Result<(), ExpireError> {
        doomed.truncate(POINTS_AN_ORDER);
        let Place { node, copy, .. } = place;
        for one in &doomed {
            let detail = format!("ordered of {node}: {}", because(&one.row));
            self.site.try_record("coordinator", "expire.order", &subject(one), &detail)?;
            self.site.catalog.record_copy(one.row.point, copy, &CopyEvent::Removing, now)?;
            self.ready.remove(&one.key());
        }
        self.order(place, doomed, ExpireOrder::Remove, now);
        Ok(())
    }

    fn order(
        &mut self,
        place: &Place,
        mut doomed: Vec<Doomed>,
        order: ExpireOrder,
        now: Timestamp,
    ) {
        doomed.truncate(POINTS_AN_ORDER);
        let Place { node, copy, set } = place;
        if doomed.is_empty() || self.asked.contains_key(node) {
            return;
        }
        let job = JobId::fresh(now.unix_ms());
        let points: Vec<PointId> = doomed.iter().map(|doomed| doomed.row.point).collect();
        let (name, named) = (copy.clone(), points.clone());
        let work = match set {
            None => Work::Expire { copy: name, points: named, order },
            Some(set) => Work::Release { copy: name, set: set.clone(), points: named, order },
        };
        if let Err(why) = self.site.sessions.order_proxy(node, job, work) {
            self.unmet(place, &doomed, &why, now);
            return;
        }
        if let (ExpireOrder::Remove, Some(first)) = (order, doomed.first()) {
            self.site.note_task(CopyTask {
                job,
                doing: Doing::Expire,
                copy: copy.clone(),
                workload: first.workload.clone(),
                node: node.clone(),
                points,
                began: now,
                ended: None,
                outcome: None,
            });
        }
        let copies = doomed.into_iter().map(|doomed| (doomed.row.point, doomed)).collect();
        self.asked.insert(node.clone(), Asked { job, order, copies, place: place.clone() });
    }

    /// An order could not be given, or was not carried out: what it was about says so.
    fn unmet(&mut self, place: &Place, copies: &[Doomed], why: &str, now: Timestamp) {
        tracing::warn!(node = %place.node, %why, "an order to expire was not carried out");
        let until = now.plus_seconds(REST_SECONDS);
        self.resting.insert(place.clone(), until);
        for doomed in copies.iter().filter(|doomed| doomed.row.state == CopyState::Present) {
            let (point, copy) = doomed.key();
            let is_there = |rows: Vec<LedgerRow>| {
                rows.iter().any(|row| row.copy == copy && row.state == CopyState::Present)
            };
            // What an order to remove was about is asked about again: its fate is not known.
            let noted = self.site.catalog.ledger_of(point).map(is_there).and_then(|is_there| {
                let stayed = CopyEvent::Stayed { why: why.to_owned(), until };
                match is_there {
                    true => self.site.catalog.record_copy(point, &copy, &stayed, now).map(drop),
                    false => Ok(()),
                }
            });
            if let Err(error) = noted {
                tracing::error!(%point, error = %Chain(&error), "it was not noted");
            }
        }
    }

    /// What a proxy says to an order.
    pub(crate) fn answered(&mut self, node: &NodeName, job: JobId, answers: &[ExpireAnswer]) {
        let Some(asked) = self.asked.get(node).filter(|asked| asked.job == job) else { return };
        let known = answers.iter().filter_map(|answer| {
            asked.copies.get(&answer.point).map(|doomed| (doomed.clone(), answer.outcome.clone()))
        });
        let known: Vec<(Doomed, ExpireOutcome)> = known.collect();
        let how = match &asked.place.set {
            None => format!("{node} removed it"),
            Some(set) => format!("let go on media set {set}, whose cartridges {node} writes anew"),
        };
        let order = asked.order;
        for (doomed, outcome) in known {
            if let Err(error) = self.book((node, &how), &doomed, order, outcome) {
                let point = doomed.row.point;
                tracing::error!(%point, error = %Chain(&error), "an answer was not booked");
            }
        }
    }

    fn book(
        &mut self,
        (node, how): (&NodeName, &str),
        doomed: &Doomed,
        order: ExpireOrder,
        outcome: ExpireOutcome,
    ) -> Result<(), CatalogError> {
        let (now, catalog) = (self.site.now(), &self.site.catalog);
        let (point, copy) = doomed.key();
        let rows = catalog.ledger_of(point)?;
        let Some(row) = rows.iter().find(|row| row.copy == copy) else { return Ok(()) };
        let going = row.state == CopyState::Removing;
        let (event, action, detail) = match outcome {
            ExpireOutcome::Gone if going || row.doomed.is_some() => {
                let detail = format!("{how}: {}", because(&doomed.row));
                (CopyEvent::Expired, Some("expire"), detail)
            }
            ExpireOutcome::Gone => {
                let error = format!("{node} says that it is not there");
                (CopyEvent::Lost { error: error.clone() }, Some("copy.lost"), error)
            }
            ExpireOutcome::Ready if going => {
                self.ready.insert((point, copy.clone()));
                let why = "the order to remove it did not arrive".to_owned();
                (CopyEvent::Stayed { why: why.clone(), until: now }, None, why)
            }
            ExpireOutcome::Ready => {
                self.ready.insert((point, copy));
                return Ok(());
            }
            ExpireOutcome::Stays { why, until } => {
                let date = until.map(|until| format!(" until {until}")).unwrap_or_default();
                let text = format!("kept by {node}{date}: {why}");
                let again = now.plus_seconds(ASK_AGAIN_SECONDS);
                let until = until.unwrap_or(again).min(again);
                let news = row.last_error.as_ref() != Some(&text);
                let action = news.then_some("expire.refused");
                (CopyEvent::Stayed { why: text.clone(), until }, action, text)
            }
        };
        if let Some(action) = action {
            self.site.record("coordinator", action, &subject(doomed), &detail);
        }
        tracing::info!(%point, %copy, ?order, %detail, "an order to expire was answered");
        catalog.record_copy(point, &copy, &event, now).map(drop)
    }

    /// An order ended at its proxy.
    pub(crate) fn ended(&mut self, node: &NodeName, job: JobId, ending: &Ending) {
        if self.asked.get(node).is_none_or(|asked| asked.job != job) {
            return;
        }
        let asked = self.asked.remove(node);
        let now = self.site.now();
        let outcome = match ending {
            Ending::Done { text, .. } => Ok(text.clone()),
            Ending::Failed { refusal, .. } => Err(refusal.to_string()),
            Ending::Cancelled => Err("cancelled".to_owned()),
        };
        if let (Err(why), Some(asked)) = (&outcome, asked) {
            let copies: Vec<Doomed> = asked.copies.into_values().collect();
            self.unmet(&asked.place, &copies, why, now);
        }
        self.site.end_task(job, outcome, now);
        self.look_at = None;
    }
}

/// Whether the other site is to be asked (again).
fn is_due(doomed: &Doomed, now: Timestamp) -> bool {
    // A date later than the latest means that the clock went back since.
    let latest = now.plus_seconds(ASK_AGAIN_SECONDS);
    doomed.row.next_attempt.is_none_or(|at| at <= now || at > latest)
}
