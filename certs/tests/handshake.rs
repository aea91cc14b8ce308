//! Whole handshakes over memory: who gets through, who does not, and what each side is told.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use std::sync::Arc;

use common::{ALPN, DAY, Failed, START, credential, current, handshake, id, world, world_of};
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use rustls_pki_types::CertificateDer;
use strongroom_certs::{
    Admitted, Authority, Chain, Credential, CurrentCredential, ENROL_ALPN, Expect, KeyPair, Peer,
    PeerError, RootFingerprint, SERVER_NAME, VerifyError, admit, enrol_client_config,
};
use strongroom_protocol::Role;

const COORDINATOR: &str = "a/coordinator/c1";
const AGENT: &str = "a/agent/db1";
const PROXY: &str = "b/proxy/p1";

fn to_coordinator() -> Expect {
    Expect { role: Some(Role::Coordinator), site: Some("a".parse().unwrap()) }
}

fn refused_by_client(failed: Failed) -> VerifyError {
    let Failed::Client(error) = failed else { panic!("the server refused: {failed:?}") };
    VerifyError::of(&error).unwrap_or_else(|| panic!("not our verdict: {error:?}")).clone()
}

fn refused_by_server(failed: Failed) -> Error {
    let Failed::Server(error) = failed else { panic!("the client refused: {failed:?}") };
    error
}

#[test]
fn both_sides_know_each_other() {
    let world = world();
    let server = current(&credential(&world.a, &id(COORDINATOR), START));
    for (authority, name) in [(&world.a, AGENT), (&world.b, PROXY)] {
        let mine = credential(authority, &id(name), START);
        let client = world.client(&current(&mine), to_coordinator());
        let (client, server) = handshake(client, world.server(&server)).unwrap();
        let seen = Peer::from_chain(server.peer_certificates().unwrap()).unwrap();
        assert_eq!(seen, *mine.peer());
        assert_eq!(seen.issued_by, id(name).site);
        let seen = Peer::from_chain(client.peer_certificates().unwrap()).unwrap();
        assert_eq!(seen.identity, id(COORDINATOR));
        assert_eq!(server.alpn_protocol(), Some(ALPN));
        assert_eq!(server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let group = client.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    }
}

#[test]
fn chains_fit_two_packets() {
    let world = world();
    let long = "n".repeat(64);
    let mine = credential(&world.a, &id(&format!("a/coordinator/{long}")), START);
    let chain = mine.chain.leaf.len() + mine.chain.intermediate.len();
    let shown = chain + world.root.trust().der().len();
    assert!(shown < 2 * 1200, "a server shows {shown} bytes of certificates");
    // Serial numbers, keys and signatures do not vary, so neither does the size.
    let again = credential(&world.a, mine.identity(), START.plus_seconds(7));
    assert_eq!(again.chain.leaf.len(), mine.chain.leaf.len());
}

#[test]
fn another_root_is_refused_by_both() {
    let (ours, theirs) = (world(), world_of("acme"));
    let server = current(&credential(&theirs.a, &id(COORDINATOR), START));
    let client = current(&credential(&ours.a, &id(AGENT), START));
    let failed = handshake(ours.client(&client, to_coordinator()), theirs.server(&server));
    let error = refused_by_client(failed.unwrap_err());
    assert!(matches!(error, VerifyError::OtherRoot { .. }), "{error:?}");
    // A client that believes the server meets a server that does not believe it.
    let stranger = theirs.client(&client, to_coordinator());
    let error = refused_by_server(handshake(stranger, theirs.server(&server)).unwrap_err());
    let error = VerifyError::of(&error).unwrap();
    assert!(
        matches!(
            error,
            VerifyError::Chain {
                source: Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature
                ),
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn the_dialer_meets_the_role_and_site_it_expects_or_nobody() {
    let world = world();
    let client = current(&credential(&world.a, &id(AGENT), START));
    let proxy = current(&credential(&world.b, &id(PROXY), START));
    let site_a = Expect { role: None, site: Some("a".parse().unwrap()) };
    let failed = handshake(world.client(&client, site_a), world.server(&proxy));
    let error = refused_by_client(failed.unwrap_err());
    assert!(matches!(error, VerifyError::WrongSite { .. }), "{error:?}");
    let role = Expect { role: Some(Role::Coordinator), site: None };
    let failed = handshake(world.client(&client, role), world.server(&proxy));
    let error = refused_by_client(failed.unwrap_err());
    assert!(matches!(error, VerifyError::WrongRole { expected: Role::Coordinator, .. }));
    let anybody = world.client(&client, Expect::ANYBODY);
    assert!(handshake(anybody, world.server(&proxy)).is_ok());
}

#[test]
fn an_agent_cannot_play_a_server() {
    let world = world();
    let agent = current(&credential(&world.a, &id(AGENT), START));
    let failed = handshake(world.client(&agent, Expect::ANYBODY), world.server(&agent));
    let error = refused_by_client(failed.unwrap_err());
    assert!(matches!(error, VerifyError::Chain { .. }), "{error:?}");
}

#[test]
fn certificates_end_with_the_clock() {
    let world = world();
    let server = current(&credential(&world.a, &id(COORDINATOR), START));
    let client = current(&credential(&world.a, &id(AGENT), START));
    let attempt = || handshake(world.client(&client, to_coordinator()), world.server(&server));
    world.clock.set(START.plus_seconds(DAY - 1));
    assert!(attempt().is_ok());
    world.clock.set(START.plus_seconds(DAY + 1));
    let Failed::Client(error) = attempt().unwrap_err() else { panic!() };
    let expired =
        matches!(error, Error::InvalidCertificate(CertificateError::ExpiredContext { .. }));
    assert!(expired, "{error:?}");
    // Dated back by five minutes, and no more.
    world.clock.set(START.plus_seconds(-299));
    assert!(attempt().is_ok());
    world.clock.set(START.plus_seconds(-301));
    assert!(attempt().is_err());
}

#[test]
fn a_server_refuses_an_expired_client_and_says_why() {
    let world = world();
    let later = START.plus_seconds(2 * DAY);
    let server = current(&credential(&world.a, &id(COORDINATOR), later));
    let client = current(&credential(&world.a, &id(AGENT), START));
    world.clock.set(later);
    let failed = handshake(world.client(&client, to_coordinator()), world.server(&server));
    let error = refused_by_server(failed.unwrap_err());
    let Error::InvalidCertificate(reason) = error else { panic!("{error:?}") };
    assert_eq!(AlertDescription::from(reason), AlertDescription::CertificateExpired);
}

#[test]
fn the_revoked_are_refused_until_they_enrol_again() {
    let world = world();
    let server = current(&credential(&world.a, &id(COORDINATOR), START));
    let client = current(&credential(&world.a, &id(AGENT), START));
    let attempt = |client: &CurrentCredential| {
        handshake(world.client(client, to_coordinator()), world.server(&server))
    };
    assert!(attempt(&client).is_ok());
    world.revocations.revoke_identity(&id(AGENT), START).unwrap();
    let error = refused_by_server(attempt(&client).unwrap_err());
    assert_eq!(error, Error::InvalidCertificate(CertificateError::Revoked));
    let again = current(&credential(&world.a, &id(AGENT), START.plus_seconds(1)));
    assert!(attempt(&again).is_ok());
    world.revocations.revoke_serial(again.peer().serial, START).unwrap();
    assert!(attempt(&again).is_err());
    // The server's own authority: now the client refuses.
    world.revocations.revoke_serial(world.a.serial(), START).unwrap();
    let proxied = current(&credential(&world.b, &id(PROXY), START));
    assert!(matches!(attempt(&proxied), Err(Failed::Client(_))));
}

/// The authority of site B, stolen, signs a leaf that names site A.
fn forged(world: &common::World) -> (Chain, KeyPair) {
    let dir = tempfile::tempdir().unwrap();
    world.b.save(dir.path()).unwrap();
    let pem = std::fs::read_to_string(dir.path().join("site.key")).unwrap();
    let stolen = KeyPair::from_pem(&pem.into()).unwrap();
    let key = KeyPair::generate().unwrap();
    let honest = world.b.issue(&id(PROXY), &key.public(), START, DAY).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x55; 16]));
    let uri = id(COORDINATOR).to_string().try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let issuer = rcgen::Issuer::from_ca_cert_der(&honest.intermediate, &stolen).unwrap();
    let leaf = params.signed_by(&key.public(), &issuer).unwrap().into();
    (Chain { leaf, intermediate: honest.intermediate }, key)
}

fn shown(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> rustls::sign::CertifiedKey {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let der = key.to_pkcs8().unwrap().expose().to_vec();
    let der = rustls_pki_types::PrivateKeyDer::Pkcs8(der.into());
    rustls::sign::CertifiedKey::new(chain, provider.key_provider.load_private_key(der).unwrap())
}

/// A server that shows whatever it likes.
fn liar(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> rustls::ServerConfig {
    #[derive(Debug)]
    struct Always(Arc<rustls::sign::CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Always {
        fn resolve(
            &self,
            _: rustls::server::ClientHello<'_>,
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(Arc::new(shown(chain, key)))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

#[test]
fn the_authority_of_one_site_does_not_speak_for_another() {
    let world = world();
    let client = current(&credential(&world.a, &id(AGENT), START));
    let (chain, key) = forged(&world);
    let root = world.root.trust().der().clone();
    let own = world.a.issue(&id(AGENT), &key.public(), START, DAY).unwrap().intermediate;
    let dial = |shown| {
        let client = world.client(&client, to_coordinator());
        refused_by_client(handshake(client, liar(shown, &key)).unwrap_err())
    };
    // Shown with its true issuer.
    let error = dial(vec![chain.leaf.clone(), chain.intermediate.clone(), root]);
    let other_site = matches!(&error, VerifyError::Peer(PeerError::OtherSite { issuer, .. })
        if issuer.as_str() == "b");
    assert!(other_site, "{error:?}");
    // Shown behind the honest authority of site A, to mislead who looks at the second place.
    let error = dial(vec![chain.leaf.clone(), own.clone(), chain.intermediate.clone()]);
    assert!(matches!(error, VerifyError::Peer(PeerError::OtherIssuer { .. })), "{error:?}");
    let error = dial(vec![chain.leaf.clone(), own]);
    assert!(matches!(error, VerifyError::Peer(PeerError::OtherIssuer { .. })), "{error:?}");
    // The credential does not even come together on the thief's side.
    let trust = world.root.trust().clone();
    assert!(Credential::of(chain, key, trust).is_err());
}

#[test]
fn a_name_borrowed_from_the_honest_authority_does_not_help() {
    // An authority of the thief's own making, named like that of site A.
    let (world, thief) = (world(), world_of("acme"));
    let client = current(&credential(&world.a, &id(AGENT), START));
    let key = KeyPair::generate().unwrap();
    let leaf = |authority: &Authority| {
        authority.issue(&id(COORDINATOR), &key.public(), START, DAY).unwrap()
    };
    let (forged, honest) = (leaf(&thief.a).leaf, leaf(&world.a).intermediate);
    let root = world.root.trust().der().clone();
    let client = world.client(&client, to_coordinator());
    let failed = handshake(client, liar(vec![forged, honest, root], &key));
    let error = refused_by_client(failed.unwrap_err());
    assert!(matches!(error, VerifyError::Chain { .. }), "{error:?}");
}

#[test]
fn a_client_without_a_certificate_may_only_enrol() {
    let world = world();
    let server = current(&credential(&world.a, &id(COORDINATOR), START));
    let fingerprint = world.root.fingerprint();
    let enrol = |alpn: &[u8]| {
        let mut client =
            enrol_client_config(fingerprint, to_coordinator(), world.clock.clone()).unwrap();
        client.alpn_protocols = vec![alpn.to_vec()];
        handshake(client, world.server(&server)).unwrap()
    };
    let (client, anonymous) = enrol(ENROL_ALPN);
    let root = client.peer_certificates().unwrap().last().unwrap();
    assert_eq!(RootFingerprint::of(root), fingerprint);
    let admitted = admit(anonymous.alpn_protocol().unwrap(), anonymous.peer_certificates());
    assert_eq!(admitted, Ok(Admitted::Enrolling));
    let (_, anonymous) = enrol(ALPN);
    let admitted = admit(anonymous.alpn_protocol().unwrap(), anonymous.peer_certificates());
    assert_eq!(admitted, Err(PeerError::Anonymous));
}

#[test]
fn an_enrolling_client_talks_only_to_the_pinned_root() {
    let (world, other) = (world(), world_of("acme"));
    let server = current(&credential(&other.a, &id(COORDINATOR), START));
    let pinned = world.root.fingerprint();
    let config = |expect| enrol_client_config(pinned, expect, world.clock.clone()).unwrap();
    let failed = handshake(config(Expect::ANYBODY), other.server(&server));
    let error = refused_by_client(failed.unwrap_err());
    assert!(matches!(error, VerifyError::OtherRoot { .. }), "{error:?}");
    // The right root shown behind certificates it never signed.
    let key = KeyPair::generate().unwrap();
    let chain = other.a.issue(&id(COORDINATOR), &key.public(), START, DAY).unwrap();
    let shown = vec![chain.leaf, chain.intermediate, world.root.trust().der().clone()];
    let mut server = liar(shown, &key);
    server.alpn_protocols = vec![ENROL_ALPN.to_vec()];
    let error = refused_by_client(handshake(config(Expect::ANYBODY), server).unwrap_err());
    assert!(matches!(error, VerifyError::Chain { .. }), "{error:?}");
}

#[test]
fn a_new_credential_is_used_by_the_next_connection() {
    let world = world();
    let first = credential(&world.a, &id(COORDINATOR), START);
    let second = credential(&world.a, &id(COORDINATOR), START.plus_seconds(60));
    let (server, agent) = (current(&first), credential(&world.a, &id(AGENT), START));
    let client = current(&agent);
    let config = Arc::new(world.server(&server));
    let seen = || {
        let client = world.client(&client, to_coordinator());
        let (client, server) = handshake(client, (*config).clone()).unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        let server = Peer::from_chain(server.peer_certificates().unwrap()).unwrap().serial;
        (Peer::from_chain(client.peer_certificates().unwrap()).unwrap().serial, server)
    };
    assert_eq!(seen(), (first.peer().serial, agent.peer().serial));
    server.replace(&second).unwrap();
    let renewed = credential(&world.a, &id(AGENT), START);
    client.replace(&renewed).unwrap();
    assert_eq!(seen(), (second.peer().serial, renewed.peer().serial));
    assert_eq!(server.renew_at(), second.renew_at());
    assert!(server.replace(&agent).is_err(), "another identity is no renewal");
}

#[test]
fn nothing_is_resumed() {
    let world = world();
    let server = current(&credential(&world.a, &id(COORDINATOR), START));
    let client = current(&credential(&world.a, &id(AGENT), START));
    let (client, server) = (world.client(&client, to_coordinator()), world.server(&server));
    for _ in 0..2 {
        let (client, _) = handshake(client.clone(), server.clone()).unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
    }
}

#[test]
fn tls_1_2_is_refused() {
    let world = world();
    let server = current(&credential(&world.a, &id(COORDINATOR), START));
    let client = current(&credential(&world.a, &id(AGENT), START));
    let client = Arc::new(world.client(&client, to_coordinator()));
    let name = SERVER_NAME.try_into().unwrap();
    let mut hello = Vec::new();
    rustls::ClientConnection::new(client, name).unwrap().write_tls(&mut hello).unwrap();
    // The extension "supported versions" with one version, TLS 1.3: our client offers no other.
    let offer = [0x00, 0x2B, 0x00, 0x03, 0x02, 0x03, 0x04];
    let at = hello.windows(offer.len()).position(|window| window == offer).unwrap();
    let answer = |hello: &[u8]| {
        let config = Arc::new(world.server(&server));
        let mut server = rustls::ServerConnection::new(config).unwrap();
        server.read_tls(&mut &hello[..]).unwrap();
        server.process_new_packets().map(|_| ())
    };
    assert_eq!(answer(&hello), Ok(()));
    hello[at + 6] = 0x03;
    let refused = PeerIncompatible::Tls12NotOfferedOrEnabled;
    assert_eq!(answer(&hello), Err(Error::PeerIncompatible(refused)));
}
