//! What people marked at a site while it led in another's place travels with the lead: the site
//! that hands over tells every hold, pin and event of that time, the one that leads again adds them
//! to its own. A mark only ever keeps: nothing is narrowed, shortened or ended by what is told.

use std::collections::BTreeSet;

use strongroom_node::uplink::Uplink;
use strongroom_protocol::control::FromNode;
use strongroom_protocol::lead::Mark;
use strongroom_protocol::{Chain, Identity, PointId, Role};

use crate::catalog::CatalogError;
use crate::retention::{Hold, Label, LabelError, Pin};
use crate::site::Site;

/// Points of a hold in one message, well within what a frame may carry.
const POINTS_A_MESSAGE: usize = 1000;
/// Longest name of a hold of the other site whose own name is taken here, with what is put to it.
const NAME_CHARACTERS_MAX: usize = 100;

/// Why a mark was not taken in.
#[derive(Debug, thiserror::Error)]
enum MarkError {
    #[error("the catalog does not take it")]
    Catalog(#[from] CatalogError),
    #[error("it has no usable name")]
    Name(#[from] LabelError),
}

/// Tells everything that was marked here.
pub(crate) async fn tell(site: &Site, uplink: &Uplink) {
    let marks = match site.catalog.marks() {
        Ok(marks) => marks,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "what was marked here cannot be told");
            return;
        }
    };
    let mut told = Vec::new();
    for hold in marks.holds {
        let workloads: Vec<_> = hold.workloads.into_iter().collect();
        let points: Vec<PointId> = hold.points.into_iter().collect();
        let mut parts: Vec<Vec<PointId>> =
            points.chunks(POINTS_A_MESSAGE).map(<[PointId]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        told.extend(parts.into_iter().map(|points| Mark::Hold {
            name: hold.name.to_string(),
            by: hold.by.clone(),
            why: hold.why.clone(),
            placed: hold.placed,
            points,
            workloads: workloads.clone(),
        }));
    }
    told.extend(marks.pins.into_iter().map(|pin| {
        let Pin { point, copy, by, why, until } = pin;
        Mark::Pin { point, copy, by, why, until }
    }));
    let events = marks.events.into_iter();
    told.extend(events.map(|(name, ended)| Mark::Event { name: name.to_string(), ended }));
    for mark in told {
        uplink.say(FromNode::Marked(mark)).await;
    }
}

/// Hears of a mark; only from the proxy of the site that leads in this one's place.
pub(crate) fn hear(site: &Site, from: &Identity, mark: Mark) {
    let who = from.to_string();
    let lead = site.lead.lead();
    if from.role != Role::Proxy || lead.site != from.site {
        site.record(&who, "mark.refused", "lead", &format!("{lead}: it is not theirs to mark"));
        return;
    }
    match take(site, from, mark) {
        Ok(None) => {}
        Ok(Some((action, subject))) => {
            let detail = format!("marked at site {} while it led", from.site);
            site.record(&who, action, &subject, &detail);
        }
        Err(error) => {
            let text = format!("a mark of site {} was not taken in: {}", from.site, Chain(&error));
            tracing::error!("{text}");
            site.alarm("marks", text);
        }
    }
}

/// Takes it in; what is on record of it if it is new.
fn take(
    site: &Site,
    from: &Identity,
    mark: Mark,
) -> Result<Option<(&'static str, String)>, MarkError> {
    let (catalog, now) = (&site.catalog, site.now());
    match mark {
        Mark::Hold { name, by, why, placed, points, workloads } => {
            let points: BTreeSet<PointId> = points.into_iter().collect();
            let workloads = workloads.into_iter().collect();
            let hold = Hold { name: name.parse()?, by, why, placed, points, workloads };
            let taken = match catalog.take_hold(&hold) {
                Err(CatalogError::HoldTaken { .. }) => {
                    let short: String = name.chars().take(NAME_CHARACTERS_MAX).collect();
                    let name: Label = format!("{} (site {})", short.trim(), from.site).parse()?;
                    catalog.take_hold(&Hold { name, ..hold })?
                }
                other => other?,
            };
            Ok(taken.then_some(("hold.taken", name)))
        }
        Mark::Pin { point, copy, by, why, until } => {
            let known = catalog.pins()?;
            let known = known.iter().find(|pin| pin.point == point && pin.copy == copy);
            let is_longer = known.is_none_or(|pin| match (pin.until, until) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(known), Some(until)) => until > known,
            });
            if is_longer {
                catalog.pin(&Pin { point, copy, by, why, until })?;
            }
            Ok(is_longer.then(|| ("pin.taken", format!("point {point}"))))
        }
        Mark::Event { name, ended } => {
            let label: Label = name.parse()?;
            let known = catalog.marks()?.events.get(&label).copied();
            let keeps_more = match (known, ended) {
                (None, _) | (Some(Some(_)), None) => true,
                (Some(None), _) => false,
                (Some(Some(known)), Some(ended)) => ended > known,
            };
            if keeps_more {
                catalog.note_event(&label, ended, &from.to_string(), now)?;
            }
            Ok(keeps_more.then_some(("event.taken", name)))
        }
    }
}
