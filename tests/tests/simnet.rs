//! QUIC over the in-memory network: real quinn and rustls, a paused clock, seeded loss. Proves
//! that a far site, a bad link and a partition cost virtual time only, and that the bytes that
//! arrive are the bytes that were sent.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strongroom_protocol::frame::BULK_BYTES_MAX;
use strongroom_protocol::link::{Endpoint, Link, LinkError, Proven};
use strongroom_protocol::opening::{Opened, Opening};
use strongroom_tests::net::{Path, SimNet};
use strongroom_tests::seeded::Seeded;
use tokio::time::{Instant, timeout};

const ALPN: &[u8] = strongroom_protocol::ALPN_NODE;
const PIECE_BYTES: usize = 1 << 20;

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 4433))
}

/// A certificate of its own making and both TLS configurations around it.
fn tls() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    // Ed25519: signatures of one length, so that packets fall alike in every run.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = rcgen::CertificateParams::new(vec!["strongroom.invalid".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    server.alpn_protocols = vec![ALPN.to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN.to_vec()];
    (Arc::new(server), Arc::new(client))
}

struct Pair {
    net: SimNet,
    client: Endpoint,
    server: Endpoint,
    trust: Arc<rustls::ClientConfig>,
}

impl Pair {
    fn over(net: SimNet) -> Self {
        let (identity, trust) = tls();
        let client = Endpoint::over(net.socket(address(1)), None, [1; 32]).unwrap();
        let server = Endpoint::over(net.socket(address(2)), Some(identity), [2; 32]).unwrap();
        Self { net, client, server, trust }
    }

    /// Dials; gives both ends of the connection.
    async fn connect(&self) -> (Link, Link) {
        let (dialled, accepted) = self.meet().await;
        // As the door does with whom it admits, and a stream of bulk for as long as it lasts.
        accepted.widen();
        std::mem::forget(accepted.bulk());
        (dialled, accepted)
    }

    async fn meet(&self) -> (Link, Link) {
        let dial = self.client.dial(address(2), self.trust.clone());
        let accept = async { self.server.accept().await.unwrap().enter().await };
        let (dialled, accepted) = tokio::join!(dial, accept);
        (dialled.unwrap(), accepted.unwrap())
    }
}

/// Sends `pieces` MiB of seeded bytes one way and checks them at the other end.
async fn transfer(from: &Link, to: &Link, pieces: usize) -> Result<(), LinkError> {
    let sending = async {
        let mut chance = Seeded::new(7);
        let (mut sender, mut receiver) = from.open().await?;
        sender.send(&Opening::Packs).await?;
        for _ in 0..pieces {
            sender.send_with(&Opening::Admin, piece(&mut chance)).await?;
        }
        sender.finish();
        receiver.expect::<Opened>().await
    };
    let receiving = async {
        let mut chance = Seeded::new(7);
        let (mut sender, mut receiver) = to.accept().await?;
        assert_eq!(receiver.expect::<Opening>().await?.0, Opening::Packs);
        let mut seen = 0;
        while let Some((_, bulk)) = receiver.next::<Opening>().await? {
            assert_eq!(bulk, piece(&mut chance), "piece {seen} differs");
            seen += 1;
        }
        assert_eq!(seen, pieces);
        sender.send(&Opened::Granted).await?;
        sender.finish();
        sender.delivered().await;
        Ok::<_, LinkError>(())
    };
    let (sent, received) = tokio::join!(sending, receiving);
    received?;
    assert_eq!(sent?.0, Opened::Granted);
    Ok(())
}

fn piece(chance: &mut Seeded) -> Bytes {
    assert_eq!(PIECE_BYTES % 8, 0);
    const { assert!(PIECE_BYTES <= BULK_BYTES_MAX) };
    (0..PIECE_BYTES / 8).flat_map(|_| chance.word().to_le_bytes()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_far_site_with_loss_receives_every_byte() {
    let rtt = Duration::from_millis(150);
    let pair = Pair::over(SimNet::new(42, Path::wan(rtt, 1_000)));
    let started = Instant::now();
    let (dialled, accepted) = pair.connect().await;
    let handshake = started.elapsed();
    assert!(handshake >= rtt && handshake <= 4 * rtt, "handshake took {handshake:?}");
    assert_eq!(dialled.alpn().as_deref(), Some(ALPN));

    transfer(&dialled, &accepted, 16).await.unwrap();
    let counts = pair.net.counts();
    println!("16 MiB in {:?} of virtual time; {counts:?}", started.elapsed());
    assert!(counts.lost > 0, "no loss in {counts:?}: the test proved nothing");
    assert!(counts.delivered > 10_000, "{counts:?}");
    assert!(started.elapsed() > 4 * rtt, "no time passed on a slow link");
}

#[tokio::test(start_paused = true)]
async fn reordering_and_jitter_change_nothing_that_arrives() {
    let path = Path {
        jitter: Duration::from_millis(8),
        reorder_per_million: 50_000,
        ..Path::wan(Duration::from_millis(20), 5_000)
    };
    let pair = Pair::over(SimNet::new(43, path));
    let (dialled, accepted) = pair.connect().await;
    transfer(&accepted, &dialled, 4).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_link_is_as_fast_as_its_bandwidth() {
    let bits_per_second = 80_000_000;
    let path = Path { bits_per_second: Some(bits_per_second), ..Path::lan() };
    let pair = Pair::over(SimNet::new(44, path));
    let (dialled, accepted) = pair.connect().await;
    let started = Instant::now();
    transfer(&dialled, &accepted, 16).await.unwrap();
    let ideal = Duration::from_secs_f64(16.0 * 8.0 * 1_048_576.0 / bits_per_second as f64);
    let took = started.elapsed();
    assert!(took >= ideal, "{took:?} is faster than the link allows ({ideal:?})");
    assert!(took <= 3 * ideal, "{took:?} for what takes {ideal:?} at line rate");
}

#[tokio::test(start_paused = true)]
async fn a_far_link_that_loses_is_filled_to_three_quarters_and_more() {
    let bits_per_second = 200_000_000;
    let rtt = Duration::from_millis(150);
    let path = Path { bits_per_second: Some(bits_per_second), ..Path::wan(rtt, 1_000) };
    let pair = Pair::over(SimNet::new(50, path));
    let (dialled, accepted) = pair.connect().await;
    // What a link is worth is found out in the first seconds of it.
    transfer(&dialled, &accepted, 64).await.unwrap();
    // Long enough that opening a stream and hearing of its end do not count.
    let (before, started) = (pair.net.counts(), Instant::now());
    transfer(&dialled, &accepted, 240).await.unwrap();
    let ideal = Duration::from_secs_f64(240.0 * 8.0 * 1_048_576.0 / bits_per_second as f64);
    let (took, counts) = (started.elapsed(), pair.net.counts());
    let filled = ideal.as_secs_f64() / took.as_secs_f64();
    println!("240 MiB in {took:?}: {filled:.2} of the link; {before:?}, then {counts:?}");
    assert!(counts.lost > before.lost, "nothing was lost: the test proved nothing");
    assert!(filled >= 0.75, "{filled:.2} of the link; {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_partition_heals_and_a_long_one_ends_the_connection() {
    let pair = Pair::over(SimNet::new(45, Path::wan(Duration::from_millis(30), 0)));
    let (one, two) = (address(1).ip(), address(2).ip());
    let (dialled, accepted) = pair.connect().await;

    pair.net.partition(one, two);
    let blocked = timeout(Duration::from_secs(5), transfer(&dialled, &accepted, 1)).await;
    assert!(blocked.is_err(), "bytes crossed a partition");
    assert!(pair.net.counts().cut > 0);
    assert!(dialled.ended().is_none(), "five seconds are not the end");
    pair.net.heal(one, two);
    // The stream of the attempt before was reset; the next one is new.
    let (_, mut old) = timeout(Duration::from_secs(5), accepted.accept()).await.unwrap().unwrap();
    assert!(old.next::<Opening>().await.is_err(), "a cancelled stream must not look whole");
    transfer(&dialled, &accepted, 1).await.unwrap();

    pair.net.partition(one, two);
    let ended = timeout(Duration::from_secs(60), dialled.closed()).await.unwrap();
    assert!(matches!(ended, LinkError::Lost { .. }), "{ended}");
    let redial = pair.client.dial(address(2), pair.trust.clone());
    assert!(matches!(redial.await, Err(LinkError::Connect { .. })));
    pair.net.heal(one, two);
    let (dialled, accepted) = pair.connect().await;
    transfer(&dialled, &accepted, 1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restarted_host_takes_its_address_again() {
    let net = SimNet::new(46, Path::lan());
    let (identity, trust) = tls();
    let client = Endpoint::over(net.socket(address(1)), None, [1; 32]).unwrap();
    for life in 0..3 {
        let server =
            Endpoint::over(net.socket(address(2)), Some(identity.clone()), [life; 32]).unwrap();
        let accept = async { server.accept().await.unwrap().enter().await };
        let (dialled, accepted) = tokio::join!(client.dial(address(2), trust.clone()), accept);
        transfer(&dialled.unwrap(), &accepted.unwrap(), 1).await.unwrap();
        server.close("restart");
    }
}

#[tokio::test(start_paused = true)]
async fn peers_of_a_killed_host_are_told_by_the_one_that_follows_it() {
    let net = SimNet::new(47, Path::lan());
    let (identity, trust) = tls();
    let client = Endpoint::over(net.socket(address(1)), None, [1; 32]).unwrap();
    let key = [2; 32];
    let killed = Endpoint::over(net.socket(address(2)), Some(identity.clone()), key).unwrap();
    let accept = async { killed.accept().await.unwrap().enter().await };
    let (dialled, accepted) = tokio::join!(client.dial(address(2), trust.clone()), accept);
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    transfer(&dialled, &accepted, 1).await.unwrap();
    // From here on the first one hears nothing: its address is the second one's.
    let _follower = Endpoint::over(net.socket(address(2)), Some(identity), key).unwrap();
    let told = timeout(Duration::from_secs(6), dialled.accept()).await;
    assert!(matches!(told, Ok(Err(LinkError::Lost { .. }))), "{:?}", told.map(|_| ()));
}

#[tokio::test(start_paused = true)]
async fn a_peer_not_admitted_yet_is_heard_in_small_portions() {
    let pair = Pair::over(SimNet::new(48, Path::lan()));
    let dial = pair.client.dial(address(2), pair.trust.clone());
    let accept = async { pair.server.accept().await.unwrap().enter().await };
    let (dialled, accepted) = tokio::join!(dial, accept);
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    let (mut sender, _receiver) = dialled.open().await.unwrap();
    let flood = Bytes::from(vec![7; 4 << 20]);
    let flooding = sender.send_raw(flood);
    tokio::pin!(flooding);
    assert!(timeout(Duration::from_secs(5), &mut flooding).await.is_err(), "all of it was taken");
    let (strange, _) = dialled.bytes_on_wire();
    assert!(strange < 512 << 10, "{strange} bytes were taken from a stranger");
    accepted.widen();
    let _bulk = accepted.bulk();
    timeout(Duration::from_secs(5), flooding).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_asked_again_proves_its_address_and_comes_in() {
    let pair = Pair::over(SimNet::new(49, Path::lan()));
    let dial = pair.client.dial(address(2), pair.trust.clone());
    let accept = async {
        let first = pair.server.accept().await.unwrap();
        assert_eq!(first.proven(), Proven::NotYet);
        first.ask_again();
        let again = pair.server.accept().await.unwrap();
        assert_eq!(again.proven(), Proven::Yes);
        again.enter().await
    };
    let (dialled, accepted) = tokio::join!(dial, accept);
    let accepted = accepted.unwrap();
    accepted.widen();
    transfer(&dialled.unwrap(), &accepted, 1).await.unwrap();
}
