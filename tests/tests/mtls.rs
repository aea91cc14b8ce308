//! Who gets in, over the simulated network: real certificates of `certs`, real rustls and quinn.
//! Proves that both sides know each other, and that strangers, other roles, expired and revoked
//! nodes are refused by whoever should refuse them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::time::Duration;

use strongroom_certs::{Admitted, Expect, admit};
use strongroom_protocol::Role;
use strongroom_protocol::link::{Endpoint, Link, LinkError};
use strongroom_tests::net::{Path, SimNet};
use strongroom_tests::trust::{BEGINNING, LIFETIME_SECONDS, Node, Organisation};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, host], 4433))
}

fn coordinator() -> Expect {
    Expect { role: Some(Role::Coordinator), site: Some("north".parse().unwrap()) }
}

/// Dials `server` as `client`; both ends' views of how it went.
async fn meet(
    client: &Node,
    expect: Expect,
    server: &Node,
) -> (Result<Link, LinkError>, Result<Link, LinkError>) {
    let net = SimNet::new(7, Path::wan(Duration::from_millis(20), 0));
    let dialling = Endpoint::over(net.socket(address(1)), None, [1; 32]).unwrap();
    let tls = server.server().unwrap();
    let listening = Endpoint::over(net.socket(address(2)), Some(tls), [2; 32]).unwrap();
    let accept = async { listening.accept().await.unwrap().enter().await };
    let dial = async {
        let link = dialling.dial(address(2), client.client(expect).unwrap()).await?;
        // TLS 1.3: the client is done before the server has judged its certificate.
        match timeout(Duration::from_secs(2), link.closed()).await {
            Ok(ended) => Err(ended),
            Err(_) => Ok(link),
        }
    };
    timeout(PATIENCE, async { tokio::join!(dial, accept) }).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn both_sides_know_each_other() {
    let acme = Organisation::new().unwrap();
    let agent = acme.node("north/agent/files-1").unwrap();
    let server = acme.node("north/coordinator/brain").unwrap();
    let (dialled, accepted) = meet(&agent, coordinator(), &server).await;
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    for (link, identity) in [(accepted, &agent.identity), (dialled, &server.identity)] {
        let admitted = admit(&link.alpn().unwrap(), Some(&link.certificates())).unwrap();
        let Admitted::Node(peer) = admitted else { panic!("taken for a newcomer") };
        assert_eq!(peer.identity, *identity);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_does_not_take_another_role_or_site_for_its_coordinator() {
    let acme = Organisation::new().unwrap();
    let agent = acme.node("north/agent/files-1").unwrap();
    for path in ["north/agent/files-2", "north/proxy/dr", "south/coordinator/brain"] {
        let server = acme.node(path).unwrap();
        let (dialled, _) = meet(&agent, coordinator(), &server).await;
        assert!(matches!(dialled, Err(LinkError::Connect { .. })), "{path}: {dialled:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_organisation_of_the_same_name_is_a_stranger() {
    let acme = Organisation::new().unwrap();
    let twin = Organisation::named("acme").unwrap();
    for (one, other) in [(&acme, &twin), (&twin, &acme)] {
        let agent = one.node("north/agent/files-1").unwrap();
        let server = other.node("north/coordinator/brain").unwrap();
        let (dialled, accepted) = meet(&agent, Expect::ANYBODY, &server).await;
        assert!(dialled.is_err() && accepted.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_node_is_refused_by_the_clock_of_whoever_judges() {
    let acme = Organisation::new().unwrap();
    let agent = acme.node("north/agent/files-1").unwrap();
    acme.clock.set(BEGINNING.plus_seconds(LIFETIME_SECONDS - 60));
    let server = acme.node("north/coordinator/brain").unwrap();
    let (dialled, accepted) = meet(&agent, coordinator(), &server).await;
    assert!(dialled.is_ok() && accepted.is_ok(), "a minute before the end");
    acme.clock.set(BEGINNING.plus_seconds(LIFETIME_SECONDS + 60));
    let (dialled, accepted) = meet(&agent, coordinator(), &server).await;
    assert!(dialled.is_err() && accepted.is_err(), "a minute after the end");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_node_is_refused_and_a_newer_certificate_of_its_name_is_not() {
    let acme = Organisation::new().unwrap();
    let server = acme.node("north/coordinator/brain").unwrap();
    let agent = acme.node("north/agent/files-1").unwrap();
    acme.clock.set(BEGINNING.plus_seconds(600));
    let until = BEGINNING.plus_seconds(600);
    server.revocations.revoke_identity(&agent.identity, until).unwrap();
    let (dialled, accepted) = meet(&agent, coordinator(), &server).await;
    assert!(dialled.is_err() && accepted.is_err(), "revoked");
    acme.clock.set(BEGINNING.plus_seconds(1200));
    let renewed = acme.node("north/agent/files-1").unwrap();
    let (dialled, accepted) = meet(&renewed, coordinator(), &server).await;
    assert!(dialled.is_ok() && accepted.is_ok(), "issued after the revocation");
}
