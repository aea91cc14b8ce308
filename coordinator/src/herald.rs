//! A site that leads in the place of another goes on dialling it, as the proxy that it was: tells
//! a coordinator that comes back that it was taken over, gives it every point that it lacks, and,
//! once two persons ordered it and nothing is lacking, what was marked here and the lead. The only
//! case in which a coordinator dials.

use std::sync::Arc;
use std::time::Duration;

use strongroom_node::ask::{AskError, open};
use strongroom_node::guard::Guard;
use strongroom_node::lead::Standing;
use strongroom_node::packs;
use strongroom_node::uplink::{Course, Uplink};
use strongroom_protocol::control::FromNode;
use strongroom_protocol::lead::Reseeded;
use strongroom_protocol::link::Link;
use strongroom_protocol::opening::Opening;
use strongroom_protocol::{Chain, SiteName};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::marked;
use crate::site::Site;

/// Between two offers: what was made meanwhile is little.
const PAUSE: Duration = Duration::from_secs(2);
/// What the other coordinator says is looked at by the uplink; the rest is thrown away.
const HEARD_MAX: usize = 64;

/// Where the other coordinator is.
pub(crate) struct Herald {
    pub(crate) site: Arc<Site>,
    /// The proxy that this site was.
    pub(crate) guard: Arc<Guard>,
    pub(crate) coordinator: String,
    pub(crate) coordinator_site: SiteName,
}

impl Herald {
    /// Dials and offers until `stop`.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        let Self { site, guard, coordinator, coordinator_site } = self;
        let told = Arc::clone(&site);
        let course = Course {
            guard,
            coordinator,
            coordinator_site: coordinator_site.clone(),
            host: format!("proxy {}", site.home.dir().display()),
            live: Arc::new(Vec::new),
            lead: Arc::clone(&site.lead),
            fenced: Arc::new(move |refusal| {
                told.record(coordinator_site.as_str(), "order.refused", "", &refusal.to_string());
            }),
        };
        let (orders, mut heard) = mpsc::channel(HEARD_MAX);
        let (uplink, talking) = Uplink::start(course, orders, stop.clone());
        let listening = async { while heard.recv().await.is_some() {} };
        let offering = stop.run_until_cancelled(offer_again_and_again(&site, &uplink));
        tokio::join!(listening, offering);
        // The uplink ends by itself with `stop`.
        let _ = talking.await;
    }
}

async fn offer_again_and_again(site: &Site, uplink: &Uplink) {
    while let Some(contact) = uplink.contact().await {
        // Read before the points are listed: from then on there are no new ones.
        let standing = site.lead.standing();
        match offer(site, &contact.link).await {
            Ok(Some(reseeded)) => {
                site.note_reseeding(reseeded.to_string());
                if let (Standing::HandsOver(next), 0) = (standing, reseeded.lacking) {
                    // On the same stream: they are there before the lead is.
                    marked::tell(site, uplink).await;
                    uplink.say(FromNode::HandBack(next)).await;
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "the other site does not take points");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Gives what is asked for, until nothing more is.
async fn offer(site: &Site, link: &Link) -> Result<Option<Reseeded>, AskError> {
    let (mut sender, mut receiver) = open(link, Opening::Reseed).await?;
    let given = packs::give(&site.repo, &mut sender, &mut receiver).await?;
    Ok(given.reseeded)
}
