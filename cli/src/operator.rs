//! An operator's home: `operator.toml` says which sites there are and where, and one directory
//! per site holds the credential for it. Promises that what is reached is the node that was
//! meant; refuses to dial with a certificate that has run out, and says how to renew it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strongroom_certs::{
    Credential, CurrentCredential, EnrolError, Expect, FileError, Revocations, TlsError,
    client_config, files,
};
use strongroom_node::ask::{AskError, ask};
use strongroom_node::enrol::{EnrolFailure, resolve, unspecified};
use strongroom_protocol::admin::{Request, Response};
use strongroom_protocol::link::{Endpoint, Link, LinkError};
use strongroom_protocol::opening::Refusal;
use strongroom_protocol::{ALPN_NODE, Clock, NodeName, OrgName, Role, SiteName, Timestamp};

/// The file that says which sites there are.
pub(crate) const SETTINGS_FILE: &str = "operator.toml";
/// A node that listens answers within this, wherever it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `operator.toml` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OperatorSettings {
    pub(crate) org: OrgName,
    pub(crate) name: NodeName,
    /// The first is meant where none is named.
    #[serde(default, rename = "site")]
    pub(crate) sites: Vec<Context>,
}

/// A site as the operator knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    #[serde(rename = "name")]
    pub(crate) site: SiteName,
    /// Of the node that answers operators there.
    pub(crate) role: Role,
    /// Where it listens, `host:port`.
    pub(crate) address: String,
}

/// Why a site cannot be talked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OperatorError {
    /// The conversation failed.
    #[error("{site} did not answer")]
    Ask { site: SiteName, source: AskError },
    /// The certificate for the site cannot be used.
    #[error("the certificate for site {site} cannot be used")]
    Credential { site: SiteName, source: EnrolError },
    /// The certificate has run out.
    #[error("the certificate for site {site} expired at {when}")]
    Expired { site: SiteName, when: Timestamp },
    /// `operator.toml` cannot be written.
    #[error("the operator's home cannot be written")]
    File(#[from] FileError),
    /// `operator.toml` does not say what it must.
    #[error("{}: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    /// There is no operator's home.
    #[error("{} is not an operator's home", path.display())]
    NotAHome { path: PathBuf },
    /// Nobody answers there.
    #[error("nobody answers at {address}, where the {role} of {site} should be")]
    NobodyListens { site: SiteName, role: Role, address: String },
    /// The node said no.
    #[error("{site} refused")]
    Refused { site: SiteName, source: Refusal },
    /// The address means nothing.
    #[error("the {role} of {site} cannot be found")]
    Resolve { site: SiteName, role: Role, source: EnrolFailure },
    /// The link failed.
    #[error("cannot connect to the {role} of {site} at {address}")]
    Link { site: SiteName, role: Role, address: String, source: LinkError },
    /// TLS cannot be set up.
    #[error("the certificate for site {site} cannot be used")]
    Tls { site: SiteName, source: TlsError },
    /// A site nobody told the operator of.
    #[error("site {site} is not known here; known: {known}")]
    UnknownSite { site: SiteName, known: String },
}

impl OperatorError {
    /// What a person may do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Expired { site, .. } => format!(
                "on the host that holds the authority of {site}, run `strongroom operator renew \
                 NODE_DIR`, or enrol again with a token"
            ),
            Self::NotAHome { .. } => "name it with --home DIR or STRONGROOM_HOME; `strongroom \
                 init` makes one, and `strongroom enrol` with an operator's token"
                .to_owned(),
            Self::NobodyListens { address, .. } => format!(
                "is the node running? its address is in {SETTINGS_FILE}, and UDP to {address} \
                 must pass the firewall"
            ),
            Self::Link { source, .. } if is_identity(source) => {
                "another node answers at this address: check it".to_owned()
            }
            Self::UnknownSite { .. } => format!("add it to {SETTINGS_FILE}"),
            _ => return None,
        })
    }
}

fn is_identity(error: &LinkError) -> bool {
    let text = error.to_string();
    text.contains("certificate") || text.contains("handshake")
}

/// An operator's home that was opened.
#[derive(Debug, Clone)]
pub(crate) struct OperatorHome {
    dir: PathBuf,
    settings: OperatorSettings,
}

impl OperatorHome {
    /// Makes a home; never over another.
    pub(crate) fn create(dir: &Path, settings: OperatorSettings) -> Result<Self, OperatorError> {
        files::create_private_directory(dir)?;
        files::refuse_existing(&dir.join(SETTINGS_FILE))?;
        let home = Self { dir: dir.to_owned(), settings };
        home.save()?;
        Ok(home)
    }

    /// Reads `operator.toml`.
    pub(crate) fn open(dir: &Path) -> Result<Self, OperatorError> {
        let path = dir.join(SETTINGS_FILE);
        let malformed = |reason: String| OperatorError::Malformed { path: path.clone(), reason };
        let bytes = match files::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => {
                return Err(OperatorError::NotAHome { path: dir.to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        let text = String::from_utf8(bytes).map_err(|_| malformed("not text".to_owned()))?;
        let settings: OperatorSettings =
            toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if settings.sites.is_empty() {
            return Err(malformed("it names no site".to_owned()));
        }
        Ok(Self { dir: dir.to_owned(), settings })
    }

    /// Writes `operator.toml` as it is now.
    pub(crate) fn save(&self) -> Result<(), OperatorError> {
        let path = self.dir.join(SETTINGS_FILE);
        let text = toml::to_string(&self.settings).map_err(|error| OperatorError::Malformed {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        Ok(files::write_private(&path, text.as_bytes())?)
    }

    /// What `operator.toml` says.
    pub(crate) const fn settings(&self) -> &OperatorSettings {
        &self.settings
    }

    /// Where the credential for a site lies.
    pub(crate) fn credential_dir(&self, site: &SiteName) -> PathBuf {
        self.dir.join(site.as_str())
    }

    /// Sets where a site is reached; on disk only after [`OperatorHome::save`].
    pub(crate) fn place(&mut self, context: Context) {
        let sites = &mut self.settings.sites;
        match sites.iter_mut().find(|known| known.site == context.site) {
            Some(known) => *known = context,
            None => sites.push(context),
        }
    }

    /// The site meant: the one named, or the first.
    pub(crate) fn context(&self, site: Option<&SiteName>) -> Result<&Context, OperatorError> {
        let sites = &self.settings.sites;
        let found = match site {
            Some(site) => sites.iter().find(|context| context.site == *site),
            None => sites.first(),
        };
        found.ok_or_else(|| {
            let known: Vec<&str> = sites.iter().map(|context| context.site.as_str()).collect();
            let known = known.join(", ");
            match site {
                Some(site) => OperatorError::UnknownSite { site: site.clone(), known },
                None => OperatorError::NotAHome { path: self.dir.clone() },
            }
        })
    }

    /// The first site where a node of `role` answers.
    pub(crate) fn site_of(&self, role: Role) -> Option<&Context> {
        self.settings.sites.iter().find(|context| context.role == role)
    }

    /// Connects to the node of a site (the first where none is named).
    pub(crate) async fn connect(
        &self,
        site: Option<&SiteName>,
        clock: Arc<dyn Clock>,
    ) -> Result<Contact, OperatorError> {
        let context = self.context(site)?.clone();
        let Context { site, role, address } = context.clone();
        let credential = Credential::load(&self.credential_dir(&site));
        let credential = credential
            .map_err(|source| OperatorError::Credential { site: site.clone(), source })?;
        let when = credential.peer().not_after;
        if clock.now() >= when {
            return Err(OperatorError::Expired { site, when });
        }
        let no_tls = |source| OperatorError::Tls { site: site.clone(), source };
        let current = CurrentCredential::new(&credential).map_err(no_tls)?;
        // A proxy's site may lead in the place of another: a coordinator answers there then.
        // Only these two have certificates to answer with.
        let expect = Expect { role: None, site: Some(site.clone()) };
        let revoked = Arc::new(Revocations::in_memory());
        let tls = client_config(&current, &credential.root, &[ALPN_NODE], expect, revoked, clock)
            .map_err(|source| OperatorError::Tls { site: site.clone(), source })?;
        let socket = resolve(&address).await.map_err(|source| OperatorError::Resolve {
            site: site.clone(),
            role,
            source,
        })?;
        let failed = |source| OperatorError::Link {
            site: site.clone(),
            role,
            address: address.clone(),
            source,
        };
        let endpoint = Endpoint::bind(unspecified(socket), None).map_err(failed)?;
        let dialled = endpoint.dial(socket, Arc::new(tls));
        match tokio::time::timeout(PATIENCE, dialled).await {
            Ok(Ok(link)) => Ok(Contact { link, context, until: when }),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(OperatorError::NobodyListens { site, role, address }),
        }
    }
}

/// A site that answered.
#[derive(Clone)]
pub(crate) struct Contact {
    pub(crate) link: Link,
    pub(crate) context: Context,
    /// When the operator's certificate ends.
    pub(crate) until: Timestamp,
}

impl Contact {
    /// Asks one question; a refusal is an error.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Response, OperatorError> {
        ask(&self.link, request).await.map_err(|error| self.failed(error))
    }

    /// What went wrong on this link, with whose it is.
    pub(crate) fn failed(&self, error: AskError) -> OperatorError {
        let site = self.context.site.clone();
        match error {
            AskError::Refused(source) => OperatorError::Refused { site, source },
            source => OperatorError::Ask { site, source },
        }
    }
}
