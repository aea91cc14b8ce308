//! A running proxy: opens its repository and library, keeps the door for operators of its
//! site, stays connected to the coordinator. Without the coordinator everything here still
//! lists and restores.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use strongroom_certs::{FileError, TokenBook, files};
use strongroom_node::audit::{AUDIT_FILE, AuditError, AuditLog};
use strongroom_node::collector::Collector;
use strongroom_node::desk::Desk;
use strongroom_node::door;
use strongroom_node::guard::Guard;
use strongroom_node::home::{Home, HomeError};
use strongroom_node::lasting::lasting_key;
use strongroom_node::lead::{LeadBook, Standing, Turn};
use strongroom_node::persons::Persons;
use strongroom_node::reserve::Reserve;
use strongroom_node::run::renew_own;
use strongroom_node::scrubber::Scrubber;
use strongroom_node::uplink::{Course, Uplink};
use strongroom_protocol::link::{Endpoint, LinkError};
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{Clock, Lead};
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::repo::{Mode, Repo, RepoError};
use strongroom_store::tape::{self, TapeError, TapeLibrary};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cartridges::{self, CARTRIDGES_FILE, Cartridges, JournalError as CartridgesError};
use crate::drills;
use crate::expire::{JOURNAL_FILE, JournalError, Keeper, MEDIA_FOLDER, MediaKeeper};
use crate::heal::ProxyMender;
use crate::orders::Hands;
use crate::proofs::{PROOFS_FILE, Proofs};
use crate::visitors::Site;

/// Orders waiting to be looked at.
const ORDERS_MAX: usize = 64;
/// In the proxy's directory: what is between two cartridges, where there is one drive.
const SPARE_FOLDER: &str = "media-spool";

/// Between the order that this site leads and the end of the proxy.
const SWITCH_PAUSE: Duration = Duration::from_millis(300);

/// Why a proxy is not running any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Its site leads: its home is to be opened as a coordinator.
    Leads,
    Stopped,
}

/// Why a proxy does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// Its directory is not usable.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Its door cannot be opened.
    #[error("the proxy cannot listen")]
    Listen(#[from] LinkError),
    /// `node.toml` lacks something.
    #[error("{}: {lacking} is not set", path.display())]
    Lacking { path: PathBuf, lacking: &'static str },
    /// The vault key or the book of tokens.
    #[error("the proxy's own files are not usable")]
    File(#[from] FileError),
    /// The vault key has the wrong length.
    #[error("{} does not hold a vault key", path.display())]
    VaultKey { path: PathBuf },
    /// The repository.
    #[error("the repository in {} cannot be opened", path.display())]
    Repo { path: PathBuf, source: RepoError },
    /// The journal of orders to remove points.
    #[error("the journal of expiry is not usable")]
    Journal(#[from] JournalError),
    /// The book of cartridges.
    #[error("the book of cartridges is not usable")]
    Cartridges(#[from] CartridgesError),
    /// Who did what.
    #[error("the audit log is not usable")]
    Audit(#[from] AuditError),
    /// Two persons ordered that this site leads: it is no proxy until it gives the lead back.
    #[error(
        "{lead}: this home is a coordinator's now; run it with `strongroom run proxy {}`",
        path.display()
    )]
    Leads { path: PathBuf, lead: Box<Lead> },
    /// The tape library.
    #[error("the tape library {} cannot be opened", path.display())]
    Library { path: PathBuf, source: TapeError },
}

/// A proxy whose parts are open.
pub struct Proxy {
    site: Arc<Site>,
    hands: Arc<Hands>,
    guard: Arc<Guard>,
    endpoint: Endpoint,
    course: Option<(String, strongroom_protocol::SiteName)>,
    home: Home,
    lock: std::fs::File,
}

impl Proxy {
    /// Opens everything; nothing is served yet.
    ///
    /// # Errors
    /// What cannot be opened is named.
    pub fn open(home: Home, clock: Arc<dyn Clock>) -> Result<Self, ProxyError> {
        let lock = home.lock()?;
        let lead = Arc::new(LeadBook::open(&home)?);
        if lead.standing() != Standing::Follows {
            let (path, lead) = (home.dir().to_owned(), Box::new(lead.lead()));
            return Err(ProxyError::Leads { path, lead });
        }
        let audit = AuditLog::open(&home.path(AUDIT_FILE), None, clock.now())?;
        drills::sweep(&home);
        let settings = home.settings().clone();
        let guard = Arc::new(Guard::open(&home, Arc::clone(&clock))?);
        let repo = open_repo(&home)?;
        let library = settings.library.clone().map(|path| open_library(&home, path)).transpose()?;
        let lacking = |lacking| ProxyError::Lacking { path: home.dir().to_owned(), lacking };
        let listen = settings.listen.ok_or_else(|| lacking("listen"))?;
        let endpoint = Endpoint::listen(listen, guard.server_tls()?, lasting_key(&home)?)?;
        let (journal, floor) = (home.path(JOURNAL_FILE), settings.floor.clone());
        let media_keeper =
            MediaKeeper::open(&home.path(MEDIA_FOLDER), floor.clone(), Arc::clone(&clock))?;
        let keeper = Keeper::open(&journal, floor, repo.clone(), Arc::clone(&clock))?;
        let hands = Arc::new(Hands {
            repo: repo.clone(),
            library: library.clone(),
            cartridges: Arc::new(Cartridges::open(&home.path(CARTRIDGES_FILE))?),
            media: settings.media.clone(),
            spare: home.path(SPARE_FOLDER),
            drives: tokio::sync::Mutex::new(()),
            clock,
            keeper: Arc::new(keeper),
            media_keeper: Arc::new(media_keeper),
            proofs: Arc::new(Proofs::open(&home.path(PROOFS_FILE))),
            collector: Arc::new(Collector::new(repo.clone(), Reserve::of(home.dir()))),
            home: home.clone(),
        });
        let book = Arc::new(TokenBook::open(&home.path("tokens.json"))?);
        let scrubber =
            Arc::new(Scrubber::new(repo.clone(), Arc::clone(guard.clock()), settings.scrub));
        let (held, guarded) = (Arc::clone(&hands), Arc::clone(&guard));
        let address = settings.advertise.clone().unwrap_or_else(|| listen.to_string());
        let site = Arc::new(Site {
            repo,
            hands: held,
            guard: guarded,
            book,
            scrubber,
            lead,
            persons: Persons::default(),
            audit,
            address,
            uplink: OnceLock::new(),
        });
        let at = settings.coordinator_site.unwrap_or(settings.site);
        let course = settings.coordinator.map(|coordinator| (coordinator, at));
        Ok(Self { site, hands, guard, endpoint, course, home, lock })
    }

    /// Where operators reach it.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> Result<std::net::SocketAddr, LinkError> {
        self.endpoint.local_address()
    }

    /// Serves until `stop`, or until two persons ordered that this site leads.
    pub async fn run(self, stop: CancellationToken) -> After {
        let Self { site, hands, guard, endpoint, course, home, lock } = self;
        let stop = stop.child_token();
        let lead = Arc::clone(&site.lead);
        let leading = until_it_leads(&lead, stop.clone());
        let shown = Arc::clone(&site);
        let (repo, scrubber) = (site.repo.clone(), Arc::clone(&site.scrubber));
        let keeping = door::keep(endpoint, Arc::clone(&guard), site, stop.clone());
        let renewing = renew_own(&guard, stop.clone());
        let on_media = Arc::clone(&hands.media_keeper).count(stop.clone());
        let of_snap = Arc::clone(&hands.keeper).count(stop.clone());
        let counting = async { tokio::join!(of_snap, on_media) };
        let clock = Arc::clone(&hands.clock);
        let collecting =
            Arc::clone(&hands.collector).run(stop.clone(), move || clock.now(), |_| {});
        let (uplink_known, uplink_wanted) = tokio::sync::oneshot::channel();
        let obeying = async {
            let Some((coordinator, coordinator_site)) = course else {
                tracing::warn!("no coordinator is named: serving what is here");
                return;
            };
            let desk = Desk::default();
            let live = desk.clone();
            let course = Course {
                guard: Arc::clone(&guard),
                coordinator,
                coordinator_site,
                host: format!("proxy {}", home.dir().display()),
                live: Arc::new(move || live.live()),
                lead: Arc::clone(&lead),
                fenced: fenced_by(Arc::clone(&shown)),
            };
            let (orders, heard) = mpsc::channel(ORDERS_MAX);
            let (uplink, talking) = Uplink::start(course, orders, stop.clone());
            // Fails only when the node is stopping.
            let _ = uplink_known.send(uplink.clone());
            // There is one uplink a run.
            let _ = shown.uplink.set(uplink.clone());
            let telling = Arc::clone(&hands.proofs).hand_over(uplink.clone(), stop.clone());
            let watching = cartridges::watch(Arc::clone(&hands), uplink.clone(), stop.clone());
            tokio::join!(desk.work(hands, uplink, heard, stop.clone()), telling, watching);
            // The uplink ends by itself with `stop`.
            let _ = talking.await;
        };
        let scrubbing = async {
            // Without a coordinator nobody can heal, and what is hurt is told all the same.
            let uplink = uplink_wanted.await.ok();
            let (stop, told) = (stop.clone(), tokio::sync::Mutex::default());
            let mender = ProxyMender { repo, scrubber: Arc::clone(&scrubber), uplink, stop, told };
            scrubber.keep(&mender, &mender.stop).await;
        };
        tokio::join!(keeping, renewing, counting, collecting, obeying, scrubbing, leading);
        drop(lock);
        match lead.standing() {
            Standing::Follows => After::Stopped,
            _ => After::Leads,
        }
    }
}

/// Ends a proxy whose site is to lead; who ordered it is answered first.
async fn until_it_leads(lead: &LeadBook, stop: CancellationToken) {
    if stop.run_until_cancelled(lead.until(Turn::Lead)).await.is_some() {
        tokio::time::sleep(SWITCH_PAUSE).await;
        stop.cancel();
    }
}

/// What is put on record of a coordinator whose orders are not obeyed.
fn fenced_by(site: Arc<Site>) -> Arc<dyn Fn(&Refusal) + Send + Sync> {
    Arc::new(move |refusal| {
        // Refused all the same; that it could not be written was said.
        let _ = site.record("coordinator", "order.refused", "", &refusal.to_string());
    })
}

fn open_repo(home: &Home) -> Result<Repo, ProxyError> {
    let path = home.vault_key();
    let secret = files::read_private(&path)?;
    let key = VaultKey::from_secret(secret.expose()).ok_or(ProxyError::VaultKey { path })?;
    let path = home.repo();
    let disk = Arc::new(LocalDisk::new(&path));
    Repo::open(disk, &key, Mode::Write).map_err(|source| ProxyError::Repo { path, source })
}

fn open_library(home: &Home, path: PathBuf) -> Result<Arc<dyn TapeLibrary>, ProxyError> {
    let opened = tape::open_library(&path, home.dir());
    opened.map_err(|source| ProxyError::Library { path, source })
}
