//! A running agent: stays connected, does what it is assigned, forgets it. What it keeps
//! on disk (its identity apart) may be lost at any time.

use std::path::PathBuf;
use std::sync::Arc;

use strongroom_node::desk::Desk;
use strongroom_node::guard::Guard;
use strongroom_node::home::{Home, HomeError};
use strongroom_node::lead::LeadBook;
use strongroom_node::uplink::{Course, Uplink};
use strongroom_protocol::{Clock, Role};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::host::host_mark;
use crate::orders::Hands;

/// Orders waiting to be looked at.
const ORDERS_MAX: usize = 64;

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Its directory is not usable.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// It does not know whom to dial.
    #[error("{} names no coordinator", path.display())]
    NoCoordinator { path: PathBuf },
}

/// Runs the agent whose directory `home` is until `stop`.
///
/// # Errors
/// The directory is not one of an enrolled agent, or another process runs it.
pub async fn run(
    home: Home,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let lock = home.lock()?;
    let settings = home.settings().clone();
    let guard = Arc::new(Guard::open(&home, Arc::clone(&clock))?);
    let coordinator = settings
        .coordinator
        .clone()
        .ok_or_else(|| AgentError::NoCoordinator { path: home.dir().to_owned() })?;
    let site = settings.coordinator_site.clone().unwrap_or_else(|| settings.site.clone());
    debug_assert_eq!(settings.role, Role::Agent);
    let desk = Desk::default();
    let hands = Arc::new(Hands::new(&home, clock));
    hands.put_in_order().await;
    let course = Course {
        guard,
        coordinator,
        coordinator_site: site,
        host: host_mark(home.dir()),
        live: Arc::new({
            let desk = desk.clone();
            move || desk.live()
        }),
        lead: Arc::new(LeadBook::open(&home)?),
        // Said by the uplink already, and an agent keeps no audit log.
        fenced: Arc::new(|_| {}),
    };
    let (orders, heard) = mpsc::channel(ORDERS_MAX);
    let (uplink, talking) = Uplink::start(course, orders, stop.clone());
    desk.work(hands, uplink, heard, stop).await;
    // The uplink ends by itself with `stop`.
    let _ = talking.await;
    drop(lock);
    Ok(())
}
