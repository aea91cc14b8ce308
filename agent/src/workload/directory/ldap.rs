//! A connection to a domain controller: LDAPS only, a simple bind, searches that come in pages,
//! and changes. Every refusal is told with what was asked, of whom, and what to do about it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ldap3::asn1::StructureTag;
use ldap3::controls::RawControl;
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, LdapResult, Mod, Scope};
use rustls::ClientConfig;
use tokio::task::JoinSet;

use crate::workload::directory::ber;
use crate::workload::directory::object::Values;
use crate::workload::directory::tls::{self, TrustError};

/// A server that says nothing for so long is not there.
const CONNECT: Duration = Duration::from_secs(20);
/// One answer of a busy domain controller may take this long.
const ANSWER: Duration = Duration::from_secs(300);
/// Objects asked for at a time; what Active Directory gives at most.
const PAGE: i64 = 1000;

/// Where a directory is and who asks.
#[derive(Clone)]
pub struct Server {
    /// `ldaps://HOST[:PORT]`.
    pub url: String,
    /// `user@domain`, `DOMAIN\user` or a distinguished name.
    pub bind: String,
    pub password: String,
    pub ca_file: Option<PathBuf>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} as {}", self.url, self.bind)
    }
}

/// Why the server did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LdapProblem {
    /// The server showed a certificate that is not believed.
    #[error("{url} is not believed: {why}")]
    Certificate { url: String, why: String },
    /// The account may not do that.
    #[error("{bind} may not {what}: {text}; grant it the right, see docs/workloads/directory.md")]
    Denied { bind: String, what: String, text: String },
    /// The bind was refused.
    #[error("{url} refuses {bind}: {why}")]
    Login { url: String, bind: String, why: String },
    /// Not an address that is asked.
    #[error("{url:?} cannot be used: write ldaps://HOST, without it a password would be seen")]
    Plain { url: String },
    /// The server answers no, with its code.
    #[error("{what}: the server says {code} {text}")]
    Refused { what: String, code: u32, text: String },
    /// Nobody can be believed.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The connection was not made, or broke.
    #[error("{url} cannot be reached; is it up, and does it serve LDAPS (port 636)?")]
    Unreachable { url: String, source: Box<LdapError> },
    /// An answer that is none.
    #[error("{url} answered {what} with something that cannot be read")]
    Unreadable { url: String, what: String },
}

impl LdapProblem {
    /// The server's code, where it gave one.
    pub const fn code(&self) -> Option<u32> {
        match self {
            Self::Denied { .. } => Some(INSUFFICIENT_RIGHTS),
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// There is no object of that name.
    pub fn is_absent(&self) -> bool {
        self.code() == Some(NO_SUCH_OBJECT)
    }
}

const NO_SUCH_OBJECT: u32 = 32;
const INVALID_CREDENTIALS: u32 = 49;
const INSUFFICIENT_RIGHTS: u32 = 50;

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) base: &'a str,
    pub(super) scope: Scope,
    pub(super) filter: &'a str,
    pub(super) attributes: &'a [&'a str],
    pub(super) controls: Vec<RawControl>,
}

/// An object as it came.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) dn: String,
    pub(super) attributes: Vec<(String, Values)>,
}

impl Found {
    /// The values of an attribute, whatever the case of its name.
    pub(super) fn values(&self, name: &str) -> &[Vec<u8>] {
        let found = self.attributes.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, values)| values.as_slice()).unwrap_or_default()
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.values(name).first().map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

/// A bound connection; copies of it are the same connection, used at the same time.
#[derive(Clone)]
pub struct Connection {
    ldap: Ldap,
    server: Arc<Server>,
    _driver: Arc<JoinSet<()>>,
}

/// One thing to be changed of an object.
pub(super) type Modification = Mod<Vec<u8>>;

impl Connection {
    /// Connects and binds.
    ///
    /// # Errors
    /// The server is not there, not believed, or refuses the account.
    pub async fn open(server: &Server) -> Result<Self, LdapProblem> {
        if !server.url.to_lowercase().starts_with("ldaps://") {
            return Err(LdapProblem::Plain { url: server.url.clone() });
        }
        let config: Arc<ClientConfig> = tls::config(server.ca_file.as_deref())?;
        let settings = LdapConnSettings::new().set_conn_timeout(CONNECT).set_config(config);
        let opened = LdapConnAsync::with_settings(settings, &server.url).await;
        let (driver, ldap) = opened.map_err(|source| unreachable(server, source))?;
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            if let Err(error) = driver.drive().await {
                tracing::debug!(%error, "the connection to the directory ended");
            }
        });
        let server = Arc::new(server.clone());
        let mut open = Self { ldap, server, _driver: Arc::new(driving) };
        open.bind().await?;
        Ok(open)
    }

    async fn bind(&mut self) -> Result<(), LdapProblem> {
        let Server { url, bind, password, .. } = &*self.server;
        let refused = |why: &str| LdapProblem::Login {
            url: url.clone(),
            bind: bind.clone(),
            why: why.to_owned(),
        };
        // An empty password would be a bind as nobody, which succeeds.
        if password.is_empty() {
            return Err(refused("the password file is empty"));
        }
        let answer = self.ldap.with_timeout(ANSWER).simple_bind(bind, password).await;
        let answer = answer.map_err(|source| unreachable(&self.server, source))?;
        match answer.rc {
            0 => Ok(()),
            INVALID_CREDENTIALS => Err(refused(login(&answer.text))),
            _ => Err(refused(&answer.text)),
        }
    }

    /// How it was bound.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// What the server says of itself.
    pub(super) async fn root(&self) -> Result<Found, LdapProblem> {
        let filter = "(objectClass=*)";
        let ask =
            Ask { base: "", scope: Scope::Base, filter, attributes: &["*", "+"], controls: vec![] };
        let (mut found, _) = self.search(&ask).await?;
        found.pop().ok_or_else(|| self.unreadable("its rootDSE"))
    }

    /// A search whose answer is taken at once.
    pub(super) async fn search(
        &self,
        ask: &Ask<'_>,
    ) -> Result<(Vec<Found>, Vec<RawControl>), LdapProblem> {
        let mut ldap = self.ldap.clone();
        ldap.with_timeout(ANSWER).with_controls(ask.controls.clone());
        let Ask { base, scope, filter, attributes, .. } = *ask;
        let answer = ldap.search(base, scope, filter, attributes.to_vec()).await;
        let answer = answer.map_err(|source| unreachable(&self.server, source))?;
        self.check(&answer.1, || format!("read {base:?}"))?;
        let entries = answer.0.into_iter().filter(|e| !e.is_ref() && !e.is_intermediate());
        let found: Option<Vec<Found>> = entries.map(|entry| found(entry.0)).collect();
        let found = found.ok_or_else(|| self.unreadable(filter))?;
        Ok((found, answer.1.ctrls.into_iter().map(|control| control.1).collect()))
    }

    /// A page of a search: what is in it, and the cookie of the next one, empty after the last.
    pub(super) async fn page(
        &self,
        ask: &Ask<'_>,
        cookie: &[u8],
    ) -> Result<(Vec<Found>, Vec<u8>), LdapProblem> {
        let mut page = ask.clone();
        page.controls.push(ber::page(PAGE, cookie));
        let (found, controls) = self.search(&page).await?;
        Ok((found, ber::page_answer(&controls).unwrap_or_default()))
    }

    /// A search whose answer comes in pages, taken whole.
    pub(super) async fn all(&self, ask: &Ask<'_>) -> Result<Vec<Found>, LdapProblem> {
        let (mut all, mut cookie) = self.page(ask, &[]).await?;
        while !cookie.is_empty() {
            let (found, next) = self.page(ask, &cookie).await?;
            all.extend(found);
            cookie = next;
        }
        Ok(all)
    }

    /// Changes an object.
    pub(super) async fn modify(
        &self,
        dn: &str,
        changes: Vec<Modification>,
        controls: Vec<RawControl>,
    ) -> Result<(), LdapProblem> {
        let mut ldap = self.ldap.clone();
        ldap.with_timeout(ANSWER).with_controls(controls);
        let answer = ldap.modify(dn, changes).await;
        self.done(answer, || format!("change {dn}"))
    }

    /// Makes an object.
    pub(super) async fn add(
        &self,
        dn: &str,
        attributes: Vec<(Vec<u8>, HashSet<Vec<u8>>)>,
        controls: Vec<RawControl>,
    ) -> Result<(), LdapProblem> {
        let mut ldap = self.ldap.clone();
        ldap.with_timeout(ANSWER).with_controls(controls);
        let answer = ldap.add(dn, attributes).await;
        self.done(answer, || format!("make {dn}"))
    }

    /// Deletes an object that has nothing below it.
    pub(super) async fn delete(&self, dn: &str) -> Result<(), LdapProblem> {
        let mut ldap = self.ldap.clone();
        ldap.with_timeout(ANSWER);
        let answer = ldap.delete(dn).await;
        self.done(answer, || format!("delete {dn}"))
    }

    /// Gives an object another name, perhaps below something else.
    pub(super) async fn rename(&self, dn: &str, rdn: &str, above: &str) -> Result<(), LdapProblem> {
        let mut ldap = self.ldap.clone();
        ldap.with_timeout(ANSWER);
        let answer = ldap.modifydn(dn, rdn, true, Some(above)).await;
        self.done(answer, || format!("rename {dn}"))
    }

    fn done(
        &self,
        answer: Result<LdapResult, LdapError>,
        what: impl Fn() -> String,
    ) -> Result<(), LdapProblem> {
        let answer = answer.map_err(|source| unreachable(&self.server, source))?;
        self.check(&answer, what)
    }

    fn check(&self, answer: &LdapResult, what: impl Fn() -> String) -> Result<(), LdapProblem> {
        let text = answer.text.trim().to_owned();
        match answer.rc {
            0 => Ok(()),
            INSUFFICIENT_RIGHTS => {
                let bind = self.server.bind.clone();
                Err(LdapProblem::Denied { bind, what: what(), text })
            }
            code => Err(LdapProblem::Refused { what: what(), code, text }),
        }
    }

    fn unreadable(&self, what: &str) -> LdapProblem {
        LdapProblem::Unreadable { url: self.server.url.clone(), what: what.to_owned() }
    }
}

/// Why a password was refused, by the code that Active Directory and Samba put into the text.
fn login(text: &str) -> &'static str {
    let reasons = [
        ("52e", "the password is wrong, or there is no such account"),
        ("525", "there is no such account"),
        ("530", "the account may not log on at this hour"),
        ("531", "the account may not log on from this host"),
        ("532", "the password has expired; set a new one"),
        ("533", "the account is disabled"),
        ("701", "the account has expired"),
        ("773", "the password must be changed first"),
        ("775", "the account is locked out"),
    ];
    let told = reasons.iter().find(|(code, _)| text.contains(&format!("data {code},")));
    told.map_or("the password is wrong, or there is no such account", |(_, why)| why)
}

fn unreachable(server: &Server, source: LdapError) -> LdapProblem {
    let url = server.url.clone();
    let reason = match &source {
        LdapError::Io { source } => source.get_ref().and_then(|inner| inner.downcast_ref()),
        LdapError::Rustls { source } => Some(source),
        _ => None,
    };
    match reason.and_then(tls::disbelief) {
        Some(why) => LdapProblem::Certificate { url, why },
        None => LdapProblem::Unreachable { url, source: Box::new(source) },
    }
}

/// An entry of a search, taken apart; the library's own way panics on a bad one.
fn found(entry: StructureTag) -> Option<Found> {
    let mut parts = entry.expect_constructed()?.into_iter();
    let dn = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
    let mut attributes = Vec::new();
    for attribute in parts.next()?.expect_constructed()? {
        let mut parts = attribute.expect_constructed()?.into_iter();
        let name = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
        let values = parts.next()?.expect_constructed()?.into_iter();
        let values: Option<Values> = values.map(StructureTag::expect_primitive).collect();
        attributes.push((name, values?));
    }
    Some(Found { dn, attributes })
}
