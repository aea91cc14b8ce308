//! A running coordinator: opens its parts, takes up what an earlier run left, keeps the door
//! until it is told to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use strongroom_certs::{FileError, TokenBook, files};
use strongroom_node::door;
use strongroom_node::guard::Guard;
use strongroom_node::home::{Home, HomeError};
use strongroom_node::kept::KeptPolicy;
use strongroom_node::lasting::lasting_key;
use strongroom_node::lead::{LeadBook, Turn};
use strongroom_node::run::renew_own;
use strongroom_protocol::link::{Endpoint, LinkError};
use strongroom_protocol::{Chain, Clock, Identity, Role};
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::repo::{Mode, Repo, RepoError};
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, CatalogError};
use crate::herald::Herald;
use crate::scrub::SiteMender;
use crate::site::{InForce, Parts, Site};
use crate::strangers::Strangers;
use crate::visitors::{Reception, STREAMS_MAX};
use crate::{admin, commit, expire, foreman, policy, space};
use strongroom_node::audit::{self, AuditError, AuditLog};

/// The catalog's file in the coordinator's directory.
pub const CATALOG_FILE: &str = "catalog.db";
/// The audit log's file.
pub const AUDIT_FILE: &str = audit::AUDIT_FILE;
/// The certificate of a coordinator that leads in the place of another, beside the proxy's.
const LEAD_DIRECTORY: &str = "leading";
/// Between giving the lead back and ending.
const SWITCH_PAUSE: Duration = Duration::from_millis(300);

/// Why a coordinator does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// Its directory is not usable.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Its door cannot be opened.
    #[error("the coordinator cannot listen")]
    Listen(#[from] LinkError),
    /// `node.toml` lacks something.
    #[error("{}: {lacking} is not set", path.display())]
    Lacking { path: PathBuf, lacking: &'static str },
    /// The vault key or the book of tokens.
    #[error("the coordinator's own files are not usable")]
    File(#[from] FileError),
    /// The vault key has the wrong length.
    #[error("{} does not hold a vault key", path.display())]
    VaultKey { path: PathBuf },
    /// The repository.
    #[error("the repository in {} cannot be opened", path.display())]
    Repo { path: PathBuf, source: RepoError },
    /// The catalog.
    #[error("the catalog is not usable")]
    Catalog(#[from] CatalogError),
    /// The audit log.
    #[error("the audit log is not usable")]
    Audit(#[from] AuditError),
    /// The catalog could not be brought up to the repository.
    #[error("the catalog cannot be brought up to the repository")]
    CatchUp(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// A coordinator whose parts are open.
pub struct Coordinator {
    site: Arc<Site>,
    endpoint: Endpoint,
    lock: std::fs::File,
    /// Where this site leads in the place of another: who it was there.
    was: Option<Arc<Guard>>,
}

impl Coordinator {
    /// Opens everything; nothing is served yet. The home of a proxy is opened where two persons
    /// ordered that its site leads: it is a coordinator then until it gives the lead back.
    ///
    /// # Errors
    /// What cannot be opened is named.
    pub fn open(home: Home, clock: Arc<dyn Clock>) -> Result<Self, CoordinatorError> {
        let lock = home.lock()?;
        let lead = Arc::new(LeadBook::open(&home)?);
        let own = Guard::open(&home, clock)?;
        let settings = home.settings();
        let (guard, was, in_place_of, catalog) = match settings.role {
            Role::Proxy => {
                let beside = own.beside(&home, Role::Coordinator, home.path(LEAD_DIRECTORY))?;
                let site = settings.coordinator_site.clone();
                let file = format!("catalog-term-{}.db", lead.lead().term);
                (beside, Some(Arc::new(own)), site, file)
            }
            _ => (own, None, None, CATALOG_FILE.to_owned()),
        };
        let guard = Arc::new(guard);
        let now = guard.clock().now();
        let repo = open_repo(&home)?;
        let catalog = Catalog::open(&home.path(&catalog))?;
        let anchor = catalog.audit_anchor()?;
        let audit_path = home.path(AUDIT_FILE);
        let audit_is_new = anchor.is_some() && !audit_path.exists();
        let audit = AuditLog::open(&audit_path, anchor.as_ref(), now)?;
        let lacking = |lacking| CoordinatorError::Lacking { path: home.dir().to_owned(), lacking };
        let listen = home.settings().listen.ok_or_else(|| lacking("listen"))?;
        if guard.authority().is_none() {
            return Err(lacking("authority/"));
        }
        let endpoint = Endpoint::listen(listen, guard.server_tls()?, lasting_key(&home)?)?;
        let book = Arc::new(TokenBook::open(&home.path("tokens.json"))?);
        let in_force = in_force(&catalog)?;
        let parts = Parts { home, guard, repo, catalog, audit, book, in_force, lead, in_place_of };
        let site = Arc::new(Site::new(parts));
        if audit_is_new {
            let text = "the audit log was moved away and begins anew".to_owned();
            site.alarm("audit", text);
        }
        let found = commit::catch_up(&site).map_err(CoordinatorError::CatchUp)?;
        if site.in_place_of.is_some() {
            go_by_kept_policy(&site)?;
        } else if anchor.is_none() && found > 0 {
            remember(&site);
        }
        site.show_lead();
        if found > 0 {
            tracing::warn!(points = found, "the catalog learnt of points from the repository");
        }
        expire::take_up(&site)?;
        Ok(Self { site, endpoint, lock, was })
    }

    /// Where it is reached.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> Result<std::net::SocketAddr, LinkError> {
        self.endpoint.local_address()
    }

    /// Serves until `stop`, or until the lead that it has in another's place is given back.
    ///
    /// # Errors
    /// A thread could not be started.
    pub async fn run(self, stop: CancellationToken) -> Result<(), CoordinatorError> {
        let Self { site, endpoint, lock, was } = self;
        let stop = stop.child_token();
        site.record("coordinator", "start", "", strongroom_node::uplink::SOFTWARE);
        let heralding = herald(&site, was, stop.clone());
        let (foreman, thread) =
            foreman::start(Arc::clone(&site), stop.clone()).map_err(CoordinatorError::Thread)?;
        let mender = SiteMender {
            site: Arc::clone(&site),
            foreman: foreman.clone(),
            stop: stop.clone(),
            known: tokio::sync::Mutex::default(),
        };
        let reception = Arc::new(Reception {
            site: Arc::clone(&site),
            foreman,
            streams: tokio::sync::Semaphore::new(STREAMS_MAX),
            strangers: Strangers::default(),
        });
        let guard = Arc::clone(&site.guard);
        let renewing = renew_own(&guard, stop.clone());
        let (told, clock) = (Arc::clone(&site), Arc::clone(&guard));
        let collecting = Arc::clone(&site.collector).run(
            stop.clone(),
            move || clock.clock().now(),
            move |outcome| space::note(&told, outcome),
        );
        let keeping = door::keep(endpoint, Arc::clone(&guard), reception, stop);
        // The mender goes with its end: the foreman waits for everybody who may tell it something.
        let scrubbing = async move { mender.site.scrubber.keep(&mender, &mender.stop).await };
        tokio::join!(keeping, renewing, collecting, scrubbing, heralding);
        let put_away = tokio::task::spawn_blocking(move || {
            // The foreman ends when nobody is left to tell it anything.
            let ended = thread.join().is_ok();
            if let Err(error) = site.repo.barrier() {
                tracing::error!(error = %Chain(&error), "the repository was not put away");
            }
            site.record("coordinator", "stop", "", if ended { "" } else { "the foreman died" });
            drop(lock);
        });
        // A panic while putting away leaves what a crash leaves.
        let _ = put_away.await;
        Ok(())
    }
}

/// As long as this site leads in the place of another: tells that one, and ends by `stop` what
/// runs when the lead is given back.
async fn herald(site: &Arc<Site>, was: Option<Arc<Guard>>, stop: CancellationToken) {
    let (Some(guard), settings) = (was, site.home.settings()) else { return };
    let renewing = renew_own(&guard, stop.clone());
    let place = settings.coordinator.clone().zip(settings.coordinator_site.clone());
    let telling = async {
        let Some((coordinator, coordinator_site)) = place else { return };
        let (site, guard) = (Arc::clone(site), Arc::clone(&guard));
        Herald { site, guard, coordinator, coordinator_site }.keep(stop.clone()).await;
    };
    let following = async {
        if stop.run_until_cancelled(site.lead.until(Turn::Follow)).await.is_some() {
            site.record("coordinator", "lead.given", "", &site.lead.lead().to_string());
            // Who asked last is answered first.
            tokio::time::sleep(SWITCH_PAUSE).await;
            stop.cancel();
        }
    };
    tokio::join!(renewing, telling, following);
}

/// The policy that the coordinator last told this site is in force, until another is applied.
fn go_by_kept_policy(site: &Site) -> Result<(), CoordinatorError> {
    if site.in_force().version > 0 {
        return Ok(());
    }
    let Some(kept) = KeptPolicy::read(&site.home)? else {
        let text = "no policy was kept here: `strongroom policy apply` puts one in force";
        site.alarm("policy", text.to_owned());
        return Ok(());
    };
    let by = format!("version {} of the site before", kept.version);
    if let Err(refusal) = admin::policy_apply(site, &kept.file, &kept.toml, &by) {
        site.alarm("policy", format!("the policy that was kept here is not usable: {refusal}"));
    }
    Ok(())
}

/// A catalog that was lost took more with it than the repository knows: the proxies that
/// showed their token are in the audit log, the rest is for people.
fn remember(site: &Site) {
    let known = audit::tail(site.audit.path(), usize::MAX).map(|(_, records)| records);
    let enrolled = known.into_iter().flatten().filter(|record| record.action == "enrol");
    for identity in enrolled.filter_map(|record| record.subject.parse::<Identity>().ok()) {
        if identity.role == Role::Proxy {
            admin::make_known(site, &identity);
        }
    }
    let text = "the catalog was lost and made anew: apply the policy again, and place holds, pins \
                and events again, which the audit log names";
    site.alarm("catalog", text.to_owned());
}

fn open_repo(home: &Home) -> Result<Repo, CoordinatorError> {
    let path = home.vault_key();
    let secret = files::read_private(&path)?;
    let key = VaultKey::from_secret(secret.expose()).ok_or(CoordinatorError::VaultKey { path })?;
    let path = home.repo();
    let disk = Arc::new(LocalDisk::new(&path));
    Repo::open(disk, &key, Mode::Write).map_err(|source| CoordinatorError::Repo { path, source })
}

fn in_force(catalog: &Catalog) -> Result<InForce, CatalogError> {
    let Some(version) = catalog.current_policy()? else { return Ok(InForce::default()) };
    match policy::parse(&version.file, &version.toml) {
        Ok(parsed) => Ok(InForce { version: version.version, declared: parsed.declared }),
        Err(problems) => {
            // It was parsed when it was applied: an older version of this software wrote it.
            tracing::error!(%problems, "the policy in force does not parse any more");
            Ok(InForce::default())
        }
    }
}
