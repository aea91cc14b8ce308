//! A new node, or a new operator, by a one-time token. Promises that repeating it after a lost
//! answer or a crash succeeds; refuses a home that belongs to somebody else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom_certs::{Token, TokenError, files};
use strongroom_node::enrol::{EnrolFailure, enrol as redeem, introduce};
use strongroom_node::home::{
    DrillSettings, Floor, Home, HomeError, MediaSettings, SETTINGS_FILE, Settings,
};
use strongroom_node::log::LogStyle;
use strongroom_protocol::{Clock, Identity, NodeName, Role, SiteName};

use crate::operator::{self, Context, OperatorError, OperatorHome, OperatorSettings};
use crate::setup::NODE_LIFETIME_SECONDS;

/// Who is to be enrolled, and where it will live.
#[derive(Debug, Clone)]
pub(crate) struct EnrolOrder {
    pub(crate) dir: PathBuf,
    /// As it was printed; spaces and line breaks do not matter.
    pub(crate) token: String,
    /// Needed where the token names nobody.
    pub(crate) name: Option<NodeName>,
    /// For a coordinator or proxy that is made here: where it listens.
    pub(crate) listen: Option<SocketAddr>,
    /// For an agent: its home may be of another site of the organisation, and moves.
    pub(crate) moving: Moving,
    /// For an operator: what answers at the token's address.
    pub(crate) answers: Role,
}

/// Whether an agent's home may change its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moving {
    Allowed,
    No,
}

/// Why nobody was enrolled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EnrolError {
    /// The conversation with the authority.
    #[error("enrolling {identity} failed")]
    Failed { identity: Box<Identity>, source: EnrolFailure },
    /// The home.
    #[error("the home of the node cannot be used")]
    Home(#[from] HomeError),
    /// Neither the token nor the order names the node.
    #[error("the token names nobody")]
    NoName,
    /// The operator's home.
    #[error("the operator's home cannot be used")]
    Operator(#[source] Box<OperatorError>),
    /// The same agent, at another site.
    #[error("{} is the home of {found}, and the token is of site {site}", path.display())]
    OtherSite { path: PathBuf, found: String, site: SiteName },
    /// The directory is somebody else's.
    #[error("{} is the home of {found}, not of {wanted}", path.display())]
    OtherHome { path: PathBuf, found: String, wanted: String },
    /// A proxy's home is made by `init`.
    #[error("{} is not the home of a proxy", path.display())]
    ProxyWithoutHome { path: PathBuf },
    /// The token.
    #[error("the token cannot be used")]
    Token(#[from] TokenError),
    /// A coordinator is made by `init` and never enrols.
    #[error("a token makes no {role}")]
    Role { role: Role },
}

impl From<OperatorError> for EnrolError {
    fn from(error: OperatorError) -> Self {
        Self::Operator(Box::new(error))
    }
}

impl EnrolError {
    /// What a person may do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Failed { source: EnrolFailure::Refused(_), .. } => {
                "make a new one: `strongroom token create`"
            }
            Self::Failed { .. } => "does the coordinator run, and may UDP pass to it?",
            Self::NoName => "choose one with --name",
            Self::OtherHome { .. } => "choose another directory",
            Self::OtherSite { .. } => {
                "stop the agent and say --move, where the other site leads now; what it remembers \
                 of its last runs stays"
            }
            Self::ProxyWithoutHome { .. } => {
                "`strongroom init` makes a proxy's home; the token makes it known"
            }
            Self::Token(_) => "copy the whole line that `strongroom token create` printed",
            _ => return None,
        })
    }
}

/// Redeems the token; returns who is now enrolled.
pub(crate) async fn enrol(
    order: &EnrolOrder,
    clock: Arc<dyn Clock>,
) -> Result<Identity, EnrolError> {
    let token: Token = order.token.parse()?;
    match token.role {
        Role::Agent => enrol_agent(order, &token, clock).await,
        Role::Operator => enrol_operator(order, &token, clock).await,
        Role::Proxy => introduce_proxy(order, &token, clock).await,
        role @ Role::Coordinator => Err(EnrolError::Role { role }),
    }
}

fn identity_of(order: &EnrolOrder, token: &Token) -> Result<Identity, EnrolError> {
    let chosen = order.name.as_ref().or(token.name.as_ref()).ok_or(EnrolError::NoName)?;
    Ok(token.identity(chosen))
}

fn failed(identity: &Identity) -> impl FnOnce(EnrolFailure) -> EnrolError {
    let identity = Box::new(identity.clone());
    move |source| EnrolError::Failed { identity, source }
}

async fn enrol_agent(
    order: &EnrolOrder,
    token: &Token,
    clock: Arc<dyn Clock>,
) -> Result<Identity, EnrolError> {
    let identity = identity_of(order, token)?;
    if let Some(settings) = settings_to_move(order, &identity)? {
        redeem(&order.dir, token, &identity, clock).await.map_err(failed(&identity))?;
        let (site, coordinator) = (identity.site.clone(), Some(token.address.clone()));
        let moved = Settings { site, coordinator, coordinator_site: None, ..settings };
        Home::create(&order.dir, moved)?;
        return Ok(identity);
    }
    refuse_other(&order.dir, &identity)?;
    let private = files::create_private_directory(&order.dir);
    private.map_err(OperatorError::from)?;
    let settings = Settings {
        org: identity.org.clone(),
        site: identity.site.clone(),
        role: identity.role,
        name: identity.name.clone(),
        listen: order.listen,
        advertise: None,
        coordinator: Some(token.address.clone()),
        coordinator_site: None,
        dr_site: None,
        certificate_seconds: NODE_LIFETIME_SECONDS,
        library: None,
        floor: Floor::default(),
        media: MediaSettings::default(),
        drills: DrillSettings::default(),
        log: LogStyle::default(),
        scrub: strongroom_node::scrubber::ScrubSettings::default(),
    };
    Home::create(&order.dir, settings)?;
    redeem(&order.dir, token, &identity, clock).await.map_err(failed(&identity))?;
    Ok(identity)
}

/// The settings of a home that is the same agent's at another site, where it may move and does
/// not run.
fn settings_to_move(
    order: &EnrolOrder,
    identity: &Identity,
) -> Result<Option<Settings>, EnrolError> {
    if !order.dir.join(SETTINGS_FILE).exists() {
        return Ok(None);
    }
    let home = Home::open(&order.dir)?;
    let found = home.settings().identity();
    let elsewhere = Identity { site: identity.site.clone(), ..found.clone() };
    if found == *identity || elsewhere != *identity {
        return Ok(None);
    }
    if order.moving == Moving::No {
        return Err(EnrolError::OtherSite {
            path: order.dir.clone(),
            found: found.to_string(),
            site: identity.site.clone(),
        });
    }
    drop(home.lock()?);
    Ok(Some(home.settings().clone()))
}

/// A home that has settings already must be of the same node: an earlier attempt.
fn refuse_other(dir: &Path, identity: &Identity) -> Result<(), EnrolError> {
    if !dir.join(SETTINGS_FILE).exists() {
        return Ok(());
    }
    let found = Home::open(dir)?.settings().identity();
    match found == *identity {
        true => Ok(()),
        false => Err(EnrolError::OtherHome {
            path: dir.to_owned(),
            found: found.to_string(),
            wanted: identity.to_string(),
        }),
    }
}

async fn introduce_proxy(
    order: &EnrolOrder,
    token: &Token,
    clock: Arc<dyn Clock>,
) -> Result<Identity, EnrolError> {
    if !order.dir.join(SETTINGS_FILE).exists() {
        return Err(EnrolError::ProxyWithoutHome { path: order.dir.clone() });
    }
    let home = Home::open_as(&order.dir, Role::Proxy)?;
    let identity = home.settings().identity();
    introduce(token, &identity, clock).await.map_err(failed(&identity))?;
    Ok(identity)
}

async fn enrol_operator(
    order: &EnrolOrder,
    token: &Token,
    clock: Arc<dyn Clock>,
) -> Result<Identity, EnrolError> {
    let identity = identity_of(order, token)?;
    let mut home = match order.dir.join(operator::SETTINGS_FILE).exists() {
        true => OperatorHome::open(&order.dir)?,
        false => {
            let (org, name) = (identity.org.clone(), identity.name.clone());
            OperatorHome::create(&order.dir, OperatorSettings { org, name, sites: Vec::new() })?
        }
    };
    let known = home.settings();
    if (&known.org, &known.name) != (&identity.org, &identity.name) {
        return Err(EnrolError::OtherHome {
            path: order.dir.clone(),
            found: format!("{} of {}", known.name, known.org),
            wanted: format!("{} of {}", identity.name, identity.org),
        });
    }
    let dir = home.credential_dir(&identity.site);
    redeem(&dir, token, &identity, clock).await.map_err(failed(&identity))?;
    home.place(Context {
        site: identity.site.clone(),
        role: order.answers,
        address: token.address.clone(),
    });
    home.save()?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use strongroom_certs::{RootFingerprint, TokenSecret};
    use strongroom_protocol::{FixedClock, Timestamp};

    use super::*;

    fn order(dir: &Path, token: &str) -> EnrolOrder {
        let token = token.to_owned();
        let (answers, moving) = (Role::Coordinator, Moving::No);
        EnrolOrder { dir: dir.to_owned(), token, name: None, listen: None, moving, answers }
    }

    fn token(role: Role, name: Option<&str>) -> String {
        let token = Token {
            org: "acme".parse().unwrap(),
            root: RootFingerprint([7; 32]),
            address: "127.0.0.1:9".to_owned(),
            site: "hq".parse().unwrap(),
            role,
            name: name.map(|name| name.parse().unwrap()),
            secret: TokenSecret::from_bytes([9; 16]),
            expires: Timestamp::from_unix_seconds(2_000_000_000),
        };
        token.to_text().unwrap().to_string()
    }

    fn clock() -> Arc<dyn Clock> {
        Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000)))
    }

    #[tokio::test]
    async fn garbage_is_named_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let whole = token(Role::Agent, Some("db1"));
        for text in ["", "hello", "strongroom-token-1.AAAA", &whole[..whole.len() - 3]] {
            let refused = enrol(&order(dir.path(), text), clock()).await.unwrap_err();
            assert!(matches!(refused, EnrolError::Token(_)), "{text}: {refused}");
            assert!(refused.hint().unwrap().contains("whole line"));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn names_roles_and_homes_are_checked_before_anybody_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let nameless = enrol(&order(dir.path(), &token(Role::Agent, None)), clock()).await;
        assert!(matches!(nameless, Err(EnrolError::NoName)));
        let wrong = enrol(&order(dir.path(), &token(Role::Coordinator, None)), clock()).await;
        assert!(matches!(wrong, Err(EnrolError::Role { .. })));
        let proxy = enrol(&order(dir.path(), &token(Role::Proxy, Some("p"))), clock()).await;
        assert!(matches!(proxy, Err(EnrolError::ProxyWithoutHome { .. })));
        let made = crate::setup::init(&crate::setup::tests::order(dir.path())).unwrap();
        let other = order(&made.proxy_dir, &token(Role::Agent, Some("db1")));
        let refused = enrol(&other, clock()).await.unwrap_err();
        assert!(matches!(refused, EnrolError::OtherHome { .. }), "{refused}");
        let agent = dir.path().join("agent");
        std::fs::create_dir(&agent).unwrap();
        let text = "org = \"acme\"\nsite = \"dr\"\nrole = \"agent\"\nname = \"db1\"\n";
        std::fs::write(agent.join(SETTINGS_FILE), text).unwrap();
        let moving = order(&agent, &token(Role::Agent, Some("db1")));
        let refused = enrol(&moving, clock()).await.unwrap_err();
        assert!(matches!(refused, EnrolError::OtherSite { .. }), "{refused}");
        let moving = EnrolOrder { moving: Moving::Allowed, ..moving };
        let refused = enrol(&moving, clock()).await.unwrap_err();
        assert!(matches!(refused, EnrolError::Failed { .. }), "{refused}");
        // Nobody was reached: it is what it was.
        assert_eq!(std::fs::read_to_string(agent.join(SETTINGS_FILE)).unwrap(), text);
        let other = order(&made.operator_dir, &token(Role::Operator, Some("eve")));
        let refused = enrol(&other, clock()).await.unwrap_err();
        assert!(matches!(refused, EnrolError::OtherHome { .. }), "{refused}");
    }
}
