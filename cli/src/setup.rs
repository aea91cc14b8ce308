//! A new organisation on disk: the root to be kept offline, a coordinator and a proxy ready to
//! run, and an operator who may talk to both. Promises that all of it is there or nothing;
//! refuses to touch anything that exists.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use strongroom_certs::{
    Authority, CaError, Cost, Credential, EnrolError, FileError, KeyError, KeyPair, NoRandomness,
    RecoveryKey, Root, RootFingerprint, Secret, files,
};
use strongroom_node::home::{DrillSettings, Floor, Home, HomeError, MediaSettings, Settings};
use strongroom_protocol::{Identity, NodeName, OrgName, RepoId, Role, SiteName, Timestamp};
use strongroom_store::cut::CutParams;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::repo::{Repo, RepoError, RepoSetup};
use strongroom_store::tape::{Barcode, Shape, TapeError, VirtualLibrary};

use crate::operator::{Context, OperatorError, OperatorHome, OperatorSettings};
use crate::vault::{self, VaultError};

/// Life of an operator's certificate, in seconds: people renew by hand, so as long as allowed.
pub(crate) const OPERATOR_LIFETIME_SECONDS: i64 = 90 * 24 * 60 * 60;
/// Life of a node's certificate, in seconds; nodes renew by themselves.
pub(crate) const NODE_LIFETIME_SECONDS: u32 = 24 * 60 * 60;
/// The operator a new organisation has.
pub(crate) const FIRST_OPERATOR: &str = "admin";
/// Directories beside those named after the sites.
const ORG: &str = "org";
const OPERATOR: &str = "operator";
const LIBRARY: &str = "library";

/// What is to be set up.
#[derive(Debug, Clone)]
pub(crate) struct InitOrder {
    /// May exist, and may hold other things.
    pub(crate) dir: PathBuf,
    pub(crate) org: OrgName,
    pub(crate) site: SiteName,
    pub(crate) dr_site: SiteName,
    pub(crate) passphrase: Secret,
    pub(crate) listen_coordinator: SocketAddr,
    pub(crate) listen_proxy: SocketAddr,
    /// What nodes and operators dial, `host:port`.
    pub(crate) coordinator_address: String,
    pub(crate) proxy_address: String,
    /// Blank cartridges of the proxy's virtual library.
    pub(crate) cartridges: u32,
    pub(crate) cartridge_bytes: u64,
    pub(crate) cost: Cost,
    pub(crate) now: Timestamp,
}

/// What was set up.
#[derive(Debug)]
pub(crate) struct InitReport {
    /// To be shown once: it is stored nowhere.
    pub(crate) recovery: RecoveryKey,
    pub(crate) root: RootFingerprint,
    pub(crate) repo: RepoId,
    pub(crate) org_dir: PathBuf,
    pub(crate) coordinator_dir: PathBuf,
    pub(crate) proxy_dir: PathBuf,
    pub(crate) operator_dir: PathBuf,
}

/// Why nothing was set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SetupError {
    /// A certificate authority.
    #[error("the certificate authority of {whose} cannot be made")]
    Authority { whose: String, source: Box<CaError> },
    /// A credential.
    #[error("the operator's certificate cannot be made")]
    Credential(#[from] EnrolError),
    /// Something is there already.
    #[error("{} exists already and is not touched", path.display())]
    Exists { path: PathBuf },
    /// A file.
    #[error("a file of the new organisation cannot be written")]
    File(#[from] FileError),
    /// The directory.
    #[error("{} cannot be used", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A key.
    #[error("a key cannot be made")]
    Key(#[from] KeyError),
    /// The cartridges.
    #[error("the tape library cannot be made")]
    Library(#[from] TapeError),
    /// Names that make directories collide, or sites that are one.
    #[error("{reason}")]
    Names { reason: String },
    /// A node's home.
    #[error("the home of a node cannot be made")]
    Home(#[from] HomeError),
    /// Nothing secret can be made.
    #[error("a key cannot be made")]
    NoRandomness(#[from] NoRandomness),
    /// The operator's home.
    #[error("the operator's home cannot be made")]
    Operator(#[source] Box<OperatorError>),
    /// A repository.
    #[error("a repository cannot be made")]
    Repo(#[from] RepoError),
    /// The vault key.
    #[error("the vault key cannot be made")]
    Vault(#[from] VaultError),
    /// The vault key, for want of randomness.
    #[error("the vault key cannot be made")]
    VaultRandomness(#[from] strongroom_store::keys::NoRandomness),
}

impl From<OperatorError> for SetupError {
    fn from(error: OperatorError) -> Self {
        Self::Operator(Box::new(error))
    }
}

/// Sets up an organisation with two sites.
///
/// # Errors
/// Something is there already, or cannot be made; nothing is left behind then.
pub(crate) fn init(order: &InitOrder) -> Result<InitReport, SetupError> {
    let places = Places::of(order)?;
    let io = |source| SetupError::Io { path: order.dir.clone(), source };
    std::fs::create_dir_all(&order.dir).map_err(io)?;
    // Everything is made beside its place and moved there when all of it is whole.
    let staging = tempfile::Builder::new().prefix(".init-").tempdir_in(&order.dir).map_err(io)?;
    let recovery = RecoveryKey::generate()?;
    let (root, repo) = make(order, &recovery, staging.path())?;
    for place in places.all() {
        let name = place.file_name().unwrap_or_default();
        std::fs::rename(staging.path().join(name), place)
            .map_err(|source| SetupError::Io { path: place.clone(), source })?;
    }
    Ok(InitReport {
        recovery,
        root,
        repo,
        org_dir: places.org,
        coordinator_dir: places.site.join("coordinator"),
        proxy_dir: places.dr_site.join("proxy"),
        operator_dir: places.operator,
    })
}

/// A credential for an operator, from a site's authority.
///
/// # Errors
/// The authority is of another site or has run out.
pub(crate) fn issue_operator(
    authority: &Authority,
    name: &NodeName,
    now: Timestamp,
) -> Result<Credential, SetupError> {
    let identity = Identity {
        org: authority.org().clone(),
        site: authority.site().clone(),
        role: Role::Operator,
        name: name.clone(),
    };
    let key = KeyPair::generate()?;
    let chain = authority
        .issue(&identity, &key.public(), now, OPERATOR_LIFETIME_SECONDS)
        .map_err(authority_of(&identity))?;
    Ok(Credential::of(chain, key, authority.root().clone())?)
}

/// Where the four parts go.
struct Places {
    org: PathBuf,
    site: PathBuf,
    dr_site: PathBuf,
    operator: PathBuf,
}

impl Places {
    fn of(order: &InitOrder) -> Result<Self, SetupError> {
        let refused = |reason: String| Err(SetupError::Names { reason });
        for site in [&order.site, &order.dr_site] {
            if [ORG, OPERATOR].contains(&site.as_str()) {
                return refused(format!("a site cannot be called {site}"));
            }
        }
        if order.site == order.dr_site {
            return refused(format!("the two sites are both called {}", order.site));
        }
        if order.cartridges == 0 {
            return refused("a library needs at least one cartridge".to_owned());
        }
        let places = Self {
            org: order.dir.join(ORG),
            site: order.dir.join(order.site.as_str()),
            dr_site: order.dir.join(order.dr_site.as_str()),
            operator: order.dir.join(OPERATOR),
        };
        let taken =
            places.all().into_iter().find(|place| place.symlink_metadata().is_ok()).cloned();
        taken.map_or(Ok(places), |path| Err(SetupError::Exists { path }))
    }

    const fn all(&self) -> [&PathBuf; 4] {
        [&self.org, &self.site, &self.dr_site, &self.operator]
    }
}

/// What both repositories and both nodes have in common.
struct Vault {
    key: VaultKey,
    setup: RepoSetup,
}

fn make(
    order: &InitOrder,
    recovery: &RecoveryKey,
    dir: &Path,
) -> Result<(RootFingerprint, RepoId), SetupError> {
    let root = Root::create(&order.org, &order.passphrase, recovery, order.cost, order.now)
        .map_err(authority_of(&order.org))?;
    root.save(&dir.join(ORG)).map_err(authority_of(&order.org))?;
    let authority = root.issue_site(&order.site, order.now).map_err(authority_of(&order.site))?;
    let dr_authority =
        root.issue_site(&order.dr_site, order.now).map_err(authority_of(&order.dr_site))?;
    let repo = RepoId::fresh(order.now.unix_ms());
    let key = VaultKey::fresh()?;
    let wraps = vault::wrap(&key, repo, &order.passphrase, recovery, order.cost)?;
    let (org, cut) = (order.org.clone(), CutParams::FILES);
    let vault = Vault { key, setup: RepoSetup { repo, org, cut, created: order.now, wraps } };
    make_coordinator(order, &dir.join(order.site.as_str()), &authority, &vault)?;
    make_proxy(order, &dir.join(order.dr_site.as_str()), &dr_authority, &vault)?;
    make_operator(order, &dir.join(OPERATOR), [&authority, &dr_authority])?;
    Ok((root.fingerprint(), repo))
}

fn make_coordinator(
    order: &InitOrder,
    site_dir: &Path,
    authority: &Authority,
    vault: &Vault,
) -> Result<(), SetupError> {
    let mut settings = settings(order, Role::Coordinator)?;
    settings.listen = Some(order.listen_coordinator);
    settings.advertise = Some(order.coordinator_address.clone());
    settings.dr_site = Some(order.dr_site.clone());
    make_node(&site_dir.join("coordinator"), settings, authority, vault).map(|_| ())
}

fn make_proxy(
    order: &InitOrder,
    site_dir: &Path,
    authority: &Authority,
    vault: &Vault,
) -> Result<(), SetupError> {
    let mut settings = settings(order, Role::Proxy)?;
    settings.listen = Some(order.listen_proxy);
    settings.advertise = Some(order.proxy_address.clone());
    settings.coordinator = Some(order.coordinator_address.clone());
    settings.coordinator_site = Some(order.site.clone());
    // Relative to the home, so that the home may be moved.
    settings.library = Some(LIBRARY.into());
    let home = make_node(&site_dir.join("proxy"), settings, authority, vault)?;
    let blanks: Result<Vec<Barcode>, TapeError> =
        (1..=order.cartridges).map(|number| format!("SR{number:04}").parse()).collect();
    VirtualLibrary::create(
        &home.path(LIBRARY),
        Shape::with_capacity(order.cartridge_bytes),
        &blanks?,
    )?;
    Ok(())
}

fn settings(order: &InitOrder, role: Role) -> Result<Settings, SetupError> {
    let site = if role == Role::Proxy { &order.dr_site } else { &order.site };
    Ok(Settings {
        org: order.org.clone(),
        site: site.clone(),
        role,
        name: name(role.as_str())?,
        listen: None,
        advertise: None,
        coordinator: None,
        coordinator_site: None,
        dr_site: None,
        certificate_seconds: NODE_LIFETIME_SECONDS,
        library: None,
        floor: Floor::default(),
        media: MediaSettings::default(),
        drills: DrillSettings::default(),
        log: strongroom_node::log::LogStyle::default(),
        scrub: strongroom_node::scrubber::ScrubSettings::default(),
    })
}

fn make_node(
    dir: &Path,
    settings: Settings,
    authority: &Authority,
    vault: &Vault,
) -> Result<Home, SetupError> {
    files::create_private_directory(dir)?;
    let site = settings.site.clone();
    let home = Home::create(dir, settings)?;
    authority.save(&home.authority()).map_err(authority_of(&site))?;
    files::write_private(&home.vault_key(), &vault.key.to_secret())?;
    Repo::create(&LocalDisk::new(home.repo()), &vault.setup, &vault.key)?;
    Ok(home)
}

fn make_operator(
    order: &InitOrder,
    dir: &Path,
    authorities: [&Authority; 2],
) -> Result<(), SetupError> {
    let name = name(FIRST_OPERATOR)?;
    let context = |site: &SiteName, role, address: &String| Context {
        site: site.clone(),
        role,
        address: address.clone(),
    };
    let settings = OperatorSettings {
        org: order.org.clone(),
        name: name.clone(),
        sites: vec![
            context(&order.site, Role::Coordinator, &order.coordinator_address),
            context(&order.dr_site, Role::Proxy, &order.proxy_address),
        ],
    };
    let home = OperatorHome::create(dir, settings)?;
    for authority in authorities {
        let credential = issue_operator(authority, &name, order.now)?;
        credential.save(&home.credential_dir(authority.site()))?;
    }
    Ok(())
}

fn authority_of(whose: &dyn std::fmt::Display) -> impl FnOnce(CaError) -> SetupError + use<> {
    let whose = whose.to_string();
    move |source| SetupError::Authority { whose, source: Box::new(source) }
}

fn name(text: &str) -> Result<NodeName, SetupError> {
    text.parse().map_err(|_| SetupError::Names { reason: format!("{text:?} is not a usable name") })
}

#[cfg(test)]
#[path = "setup_tests.rs"]
pub(crate) mod tests;
