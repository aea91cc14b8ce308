//! An organisation with two sites, and a wire that is two vectors.
#![allow(dead_code, reason = "every test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use strongroom_certs::{
    Authority, Cost, Credential, CurrentCredential, Enrolment, Expect, RecoveryKey, Revocations,
    Root, SERVER_NAME, client_config, server_config,
};
use strongroom_protocol::{FixedClock, Identity, Timestamp};

pub(crate) const START: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
pub(crate) const ALPN: &[u8] = b"strongroom/1";
pub(crate) const DAY: i64 = 86_400;

pub(crate) struct World {
    pub(crate) root: Root,
    pub(crate) a: Authority,
    pub(crate) b: Authority,
    pub(crate) clock: Arc<FixedClock>,
    pub(crate) revocations: Arc<Revocations>,
}

pub(crate) fn world() -> World {
    world_of("acme")
}

pub(crate) fn world_of(org: &str) -> World {
    let recovery = RecoveryKey::from_bytes([3; 32]);
    let org = org.parse().unwrap();
    let root = Root::create(&org, &"pass".into(), &recovery, Cost::TESTING, START).unwrap();
    World {
        a: root.issue_site(&"a".parse().unwrap(), START).unwrap(),
        b: root.issue_site(&"b".parse().unwrap(), START).unwrap(),
        root,
        clock: Arc::new(FixedClock::at(START)),
        revocations: Arc::new(Revocations::in_memory()),
    }
}

pub(crate) fn id(rest: &str) -> Identity {
    format!("strongroom://acme/site/{rest}").parse().unwrap()
}

pub(crate) fn credential(authority: &Authority, identity: &Identity, now: Timestamp) -> Credential {
    let enrolment = Enrolment::begin(identity).unwrap();
    let chain = authority.issue(identity, &enrolment.public_key(), now, DAY).unwrap();
    let pinned = authority.root().fingerprint();
    enrolment.finish(chain, authority.root_der().clone(), pinned, now).unwrap()
}

pub(crate) fn current(credential: &Credential) -> CurrentCredential {
    CurrentCredential::new(credential).unwrap()
}

impl World {
    pub(crate) fn server(&self, credential: &CurrentCredential) -> ServerConfig {
        let alpns = [ALPN, strongroom_certs::ENROL_ALPN];
        let revocations = Arc::clone(&self.revocations);
        server_config(credential, self.root.trust(), &alpns, revocations, self.clock.clone())
            .unwrap()
    }

    pub(crate) fn client(&self, credential: &CurrentCredential, expect: Expect) -> ClientConfig {
        let revocations = Arc::clone(&self.revocations);
        let root = self.root.trust();
        client_config(credential, root, &[ALPN], expect, revocations, self.clock.clone()).unwrap()
    }
}

/// What went wrong, and on which side.
#[derive(Debug)]
pub(crate) enum Failed {
    Client(rustls::Error),
    Server(rustls::Error),
}

pub(crate) type Pair = (ClientConnection, ServerConnection);

/// A handshake over two vectors; the first error ends it.
pub(crate) fn handshake(client: ClientConfig, server: ServerConfig) -> Result<Pair, Failed> {
    let name = SERVER_NAME.try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().map_err(Failed::Server)?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().map_err(Failed::Client)?;
        }
    }
    Ok((client, server))
}
