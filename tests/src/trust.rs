//! An organisation of two sites for tests: a root, an authority for each site, and the TLS
//! configurations of any node, all under one clock that the test owns.

use std::sync::Arc;

use anyhow::Context;
use strongroom_certs::tls::CurrentCredential;
use strongroom_certs::{
    Authority, CertRequest, Cost, Credential, Expect, KeyPair, RecoveryKey, Revocations, Root,
    Secret, TrustRoot, tls,
};
use strongroom_protocol::{ALPN_ENROL, ALPN_NODE, FixedClock, Identity, SiteName, Timestamp};

/// How long certificates of nodes are good for, in seconds.
pub const LIFETIME_SECONDS: i64 = 24 * 3600;
/// The moment every organisation begins.
pub const BEGINNING: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// Whom everybody in a test trusts.
pub struct Organisation {
    pub clock: Arc<FixedClock>,
    root: TrustRoot,
    sites: Vec<Authority>,
}

/// A node as the network sees it.
pub struct Node {
    pub identity: Identity,
    pub current: CurrentCredential,
    pub revocations: Arc<Revocations>,
    root: TrustRoot,
    clock: Arc<FixedClock>,
}

impl Organisation {
    /// `acme`, with the sites `north` and `south`.
    pub fn new() -> anyhow::Result<Self> {
        Self::named("acme")
    }

    /// Another organisation, whom nobody of the first should trust.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let (secret, recovery) = (Secret::new(b"word".to_vec()), RecoveryKey::generate()?);
        let root = Root::create(&name.parse()?, &secret, &recovery, Cost::TESTING, BEGINNING)?;
        let site = |name: &str| -> anyhow::Result<Authority> {
            Ok(root.issue_site(&name.parse::<SiteName>()?, BEGINNING)?)
        };
        let sites = vec![site("north")?, site("south")?];
        Ok(Self { clock: Arc::new(FixedClock::at(BEGINNING)), root: root.trust().clone(), sites })
    }

    /// A node by its URI's last three parts, as `north/agent/files-1`.
    pub fn node(&self, path: &str) -> anyhow::Result<Node> {
        let (site, rest) = path.split_once('/').context("SITE/ROLE/NAME")?;
        let authority = self.sites.iter().find(|one| one.site().as_str() == site);
        let authority = authority.with_context(|| format!("no site {site}"))?;
        let org = authority.org();
        let identity: Identity = format!("strongroom://{org}/site/{site}/{rest}").parse()?;
        let key = KeyPair::generate()?;
        let request = CertRequest::parse(&CertRequest::make(&identity, &key)?)?;
        let now = strongroom_protocol::Clock::now(&*self.clock);
        let chain = authority.issue_request(&request, &identity, now, LIFETIME_SECONDS)?;
        let credential = Credential::of(chain, key, self.root.clone())?;
        Ok(Node {
            identity,
            current: CurrentCredential::new(&credential)?,
            revocations: Arc::new(Revocations::in_memory()),
            root: self.root.clone(),
            clock: Arc::clone(&self.clock),
        })
    }
}

impl Node {
    /// For listening, to nodes and to those who enrol.
    pub fn server(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let (revocations, clock) = (Arc::clone(&self.revocations), self.clock.clone());
        let alpns = [ALPN_NODE, ALPN_ENROL];
        let config = tls::server_config(&self.current, &self.root, &alpns, revocations, clock)?;
        Ok(Arc::new(config))
    }

    /// For dialling whoever `expect` says.
    pub fn client(&self, expect: Expect) -> anyhow::Result<Arc<rustls::ClientConfig>> {
        let (revocations, clock) = (Arc::clone(&self.revocations), self.clock.clone());
        let (current, root) = (&self.current, &self.root);
        let config = tls::client_config(current, root, &[ALPN_NODE], expect, revocations, clock)?;
        Ok(Arc::new(config))
    }
}
