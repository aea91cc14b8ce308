//! A session with vCenter or ESXi, by SOAP. Promises that a session that ended is begun again
//! once and the question asked again, that the password is in no error, and that it logs out;
//! refuses an answer that is longer than any has reason to be.

use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;

use super::http::{Place, Request, Response, WebError, send};
use super::tls::{self, Trust};
use crate::workload::directory::tls::TrustError;
use crate::workload::xml::{Element, XmlError, escape};

/// The longest answer: all that is asked for of a machine, or of a thousand of them, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// The version of the interface that is spoken: all of it is in vSphere 6.5 and later.
const ACTION: &str = "urn:vim25/6.5";
const SDK: &str = "/sdk";
const COOKIE: &str = "vmware_soap_session";
const NOT_AUTHENTICATED: &str = "NotAuthenticated";

/// Who is asked, and as whom.
#[derive(Clone)]
pub struct Server {
    pub place: Place,
    pub user: String,
    pub password: String,
    pub trust: Trust,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { place, user, trust, .. } = self;
        write!(f, "Server({place:?} as {user:?}, {trust:?})")
    }
}

/// Something the server has: its kind and its name there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    pub kind: String,
    pub value: String,
}

impl Reference {
    pub fn new(kind: &str, value: &str) -> Self {
        Self { kind: kind.to_owned(), value: value.to_owned() }
    }

    /// From an element that holds one; the kind is said where the server leaves it out.
    pub fn of(element: &Element, kind: &str) -> Self {
        Self::new(element.attribute("type").unwrap_or(kind), &element.text)
    }

    /// As an element of this name.
    pub fn element(&self, name: &str) -> String {
        let (kind, value) = (escape(&self.kind), escape(&self.value));
        format!("<{name} type=\"{kind}\">{value}</{name}>")
    }
}

/// Why the server did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoapError {
    /// The server says no.
    #[error("{method} was refused: {text} ({kind})")]
    Fault { method: String, kind: String, text: String },
    /// The user, or the password.
    #[error("{host} lets {user} not in: the user or the password is wrong")]
    Login { host: String, user: String },
    /// What came back is no answer.
    #[error("the answer to {method} cannot be understood")]
    Odd { method: String, source: XmlError },
    /// What the user may not do.
    #[error(
        "{user} may not do what {method} needs: the privilege {privilege} is missing on {object}; \
         docs/workloads/vsphere.md lists what a role for this needs"
    )]
    Privilege { user: String, method: String, privilege: String, object: String },
    /// Nobody can be believed.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The connection.
    #[error(transparent)]
    Web(#[from] WebError),
}

impl SoapError {
    /// Whether the server answered with this fault.
    pub fn is(&self, fault: &str) -> bool {
        matches!(self, Self::Fault { kind, .. } if kind == fault)
    }
}

/// A session.
pub struct Session {
    server: Server,
    config: Arc<ClientConfig>,
    cookie: Mutex<Option<String>>,
    pub content: Content,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Session").field(&self.server).finish()
    }
}

/// What every question begins at.
#[derive(Clone, Debug, Default)]
pub struct Content(Element);

impl Content {
    /// Something that there is one of.
    pub fn the(&self, name: &str) -> Reference {
        self.0.at(name).map_or_else(|| Reference::new("", ""), |found| Reference::of(found, ""))
    }

    /// What the server is, in words.
    pub fn about(&self) -> String {
        self.0.text_at("about.fullName").to_owned()
    }

    /// The version of its interface.
    pub fn version(&self) -> String {
        self.0.text_at("about.apiVersion").to_owned()
    }
}

impl Session {
    /// Logs in.
    ///
    /// # Errors
    /// The server cannot be reached, is not believed, or does not let the user in.
    pub fn open(server: &Server) -> Result<Self, SoapError> {
        let config = tls::config(&server.trust)?;
        let content = Content::default();
        let mut this = Self { server: server.clone(), config, cookie: Mutex::new(None), content };
        let service = Reference::new("ServiceInstance", "ServiceInstance");
        let told = this.once("RetrieveServiceContent", &service, "")?;
        this.content = Content(told.child("returnval").cloned().unwrap_or_default());
        this.login()?;
        Ok(this)
    }

    /// Where the server is.
    pub fn host(&self) -> &str {
        &self.server.place.host
    }

    fn login(&self) -> Result<(), SoapError> {
        self.keep(None);
        let Server { user, password, .. } = &self.server;
        let words = format!(
            "<userName>{}</userName><password>{}</password>",
            escape(user),
            escape(password)
        );
        let who = self.content.the("sessionManager");
        self.once("Login", &who, &words).map(|_| ()).map_err(|error| match error {
            error if error.is("InvalidLogin") => {
                SoapError::Login { host: self.host().to_owned(), user: user.clone() }
            }
            other => other,
        })
    }

    /// Asks; what comes back is the element of the answer. A session that ended is begun again.
    ///
    /// # Errors
    /// The server says no, or no answer came.
    pub fn call(&self, method: &str, of: &Reference, words: &str) -> Result<Element, SoapError> {
        match self.once(method, of, words) {
            Err(error) if error.is(NOT_AUTHENTICATED) => {
                tracing::info!(host = self.host(), "the session ended: it is begun again");
                self.login()?;
                self.once(method, of, words)
            }
            answered => answered,
        }
    }

    fn once(&self, method: &str, of: &Reference, words: &str) -> Result<Element, SoapError> {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>\
             <{method} xmlns=\"urn:vim25\">{}{words}</{method}></soapenv:Body></soapenv:Envelope>",
            of.element("_this")
        );
        let place = Place { path: SDK.to_owned(), ..self.server.place.clone() };
        let cookie = self.cookie();
        let mut headers =
            vec![("Content-Type", "text/xml; charset=\"utf-8\""), ("SOAPAction", ACTION)];
        headers.extend(cookie.as_deref().map(|cookie| ("Cookie", cookie)));
        let request =
            Request { method: "POST", place: &place, headers: &headers, body: body.as_bytes() };
        let mut response = send(&self.config, &request)?;
        if let Some(cookie) = session_cookie(&response) {
            self.keep(Some(cookie));
        }
        let mut bytes = Vec::new();
        let read = (&mut response).take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|source| WebError::Unreachable { host: self.host().to_owned(), source })?;
        let odd = |source| SoapError::Odd { method: method.to_owned(), source };
        let envelope = Element::parse(&bytes).map_err(|source| match response.status {
            200 | 500 => odd(source),
            status => SoapError::Web(WebError::Odd {
                host: self.host().to_owned(),
                what: format!("{method} is answered with the status {status}"),
            }),
        })?;
        let body = envelope.child("Body").ok_or_else(|| odd(XmlError::Lacks("a body")))?;
        match body.child("Fault") {
            Some(fault) => Err(self.fault(method, fault)),
            None => body.children.first().cloned().ok_or_else(|| odd(XmlError::Lacks("an answer"))),
        }
    }

    fn fault(&self, method: &str, fault: &Element) -> SoapError {
        let detail = fault.child("detail").and_then(|detail| detail.children.first());
        let named = |detail: &Element| match detail.kind() {
            "" => detail.name.trim_end_matches("Fault").to_owned(),
            kind => kind.to_owned(),
        };
        let kind = detail.map_or_else(|| fault.text_at("faultcode").to_owned(), named);
        if let (Some(detail), "NoPermission") = (detail, kind.as_str()) {
            return SoapError::Privilege {
                user: self.server.user.clone(),
                method: method.to_owned(),
                privilege: detail.text_at("privilegeId").to_owned(),
                object: detail.text_at("object").to_owned(),
            };
        }
        let text = fault.text_at("faultstring").trim().to_owned();
        SoapError::Fault { method: method.to_owned(), kind, text }
    }

    /// Something that is not SOAP. The session goes along only to the server it is with; another
    /// host is believed by what this server says of it.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn download(&self, url: &str, thumbprint: &str) -> Result<Response, SoapError> {
        let mut place = Place::parse(url)?;
        let own = &self.server.place;
        let here = place.host == "*" || place.host == own.host;
        if place.host == "*" {
            (place.host, place.port) = (own.host.clone(), own.port);
        }
        let config = match tls::Thumbprint::told(thumbprint) {
            Some(pin) if !here => tls::config(&Trust::Thumbprint(pin))?,
            _ => Arc::clone(&self.config),
        };
        let cookie = self.cookie().filter(|_| here);
        let headers: Vec<(&str, &str)> =
            cookie.as_deref().map(|cookie| ("Cookie", cookie)).into_iter().collect();
        let request = Request { method: "GET", place: &place, headers: &headers, body: b"" };
        let response = send(&config, &request)?;
        match response.status {
            200 => Ok(response),
            status => Err(SoapError::Web(WebError::Odd {
                host: place.host,
                what: format!("a disk's export is answered with the status {status}"),
            })),
        }
    }

    fn cookie(&self) -> Option<String> {
        self.cookie.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, cookie: Option<String>) {
        *self.cookie.lock().unwrap_or_else(PoisonError::into_inner) = cookie;
    }
}

fn session_cookie(response: &Response) -> Option<String> {
    let mut set = response.header("set-cookie").filter_map(|text| text.split(';').next());
    let own = set.find(|pair| pair.trim_start().starts_with(COOKIE))?;
    Some(own.trim().to_owned())
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.cookie().is_none() {
            return;
        }
        if let Err(error) = self.once("Logout", &self.content.the("sessionManager"), "") {
            tracing::debug!(%error, "not logged out: the session ends by itself");
        }
    }
}
