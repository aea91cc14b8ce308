//! What the wire carries and costs, both ends in this process: raw quinn against this product's
//! link (mutual TLS, typed frames with bulk beside them), with datagrams as long as loopback
//! allows and as short as Ethernet's. Prints MB/s and CPU seconds (of both ends) per GB.
//!
//! `cargo bench -p strongroom-protocol --bench wire -- [--gib N] [--runs N] [--only WORD]`

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "a measurement's report is what it prints")]

mod disguise;
mod tls;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use disguise::Disguised;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustix::time::{ClockId, clock_gettime};
use strongroom_protocol::PackId;
use strongroom_protocol::data::{PIECE_BYTES, ToProxy};
use strongroom_protocol::link::{Endpoint, Link, Receiver};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Carried before the clock starts: path MTU and congestion window are found by then.
const WARM_PIECES: usize = 256;
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const NARROW_FOR: Duration = Duration::from_secs(2);
const WINDOW_BYTES: u32 = 16 << 20;
const LOOPBACK_MTU_BYTES: u16 = 65_000;
const RECEIVED_BYTES_MAX: u16 = 65_527;

struct Arguments {
    pieces: usize,
    runs: usize,
    only: String,
}

fn arguments() -> Arguments {
    let mut arguments = Arguments { pieces: 2048, runs: 3, only: String::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--gib" => arguments.pieces = words.next().unwrap().parse::<usize>().unwrap() * 1024,
            "--runs" => arguments.runs = words.next().unwrap().parse().unwrap(),
            "--only" => arguments.only = words.next().unwrap(),
            // Cargo's own.
            _ => {}
        }
    }
    arguments
}

/// Which datagrams there are.
#[derive(Clone, Copy, PartialEq)]
enum Road {
    /// Loopback as it is.
    Loopback,
    /// Loopback under addresses of another network: what a node does towards another host.
    Ethernet,
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    road: Road,
    streams: usize,
    ours: bool,
    congestion: Congestion,
}

#[derive(Clone, Copy)]
enum Congestion {
    Bbr,
    Cubic,
}

const fn case(name: &'static str, road: Road, streams: usize, ours: bool) -> Case {
    let congestion = match road {
        Road::Loopback => Congestion::Cubic,
        Road::Ethernet => Congestion::Bbr,
    };
    Case { name, road, streams, ours, congestion }
}

fn main() {
    let arguments = arguments();
    let cubic = Case {
        congestion: Congestion::Cubic,
        ..case("raw quinn, Ethernet, 1 stream, cubic", Road::Ethernet, 1, false)
    };
    let cases = [
        case("raw quinn, loopback, 1 stream", Road::Loopback, 1, false),
        case("our link, loopback, 1 stream", Road::Loopback, 1, true),
        case("raw quinn, loopback, 3 streams", Road::Loopback, 3, false),
        case("our link, loopback, 3 streams", Road::Loopback, 3, true),
        cubic,
        case("raw quinn, Ethernet, 1 stream, bbr", Road::Ethernet, 1, false),
        case("our link, Ethernet, 1 stream", Road::Ethernet, 1, true),
        case("our link, Ethernet, 3 streams", Road::Ethernet, 3, true),
    ];
    println!(
        "{:<40} {:>8} {:>8} {:>8} {:>10} {:>9}",
        "", "MB/s", "best", "worst", "CPU s/GB", "datagram"
    );
    // In turn, so that the machine's moods meet every case alike.
    let mut figures = vec![Vec::new(); cases.len()];
    for _ in 0..arguments.runs {
        for (case, figures) in cases.iter().zip(&mut figures) {
            if case.name.contains(&arguments.only) {
                figures.push(measure(*case, arguments.pieces));
            }
        }
    }
    for (case, mut figures) in cases.iter().zip(figures) {
        if figures.is_empty() {
            continue;
        }
        figures.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut cpu: Vec<f64> = figures.iter().map(|(_, cpu, _)| *cpu).collect();
        let datagram = figures[0].2;
        cpu.sort_by(f64::total_cmp);
        let (worst, best) = (figures[0].0, figures[figures.len() - 1].0);
        let (rate, cpu) = (figures[figures.len() / 2].0, cpu[cpu.len() / 2]);
        println!(
            "{:<40} {rate:>8.0} {best:>8.0} {worst:>8.0} {cpu:>10.2} {datagram:>9}",
            case.name
        );
    }
}

/// One runtime for each end, as two processes have them.
fn measure(case: Case, pieces: usize) -> (f64, f64, u16) {
    let (sending, receiving) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let bytes = (pieces * PIECE_BYTES) as f64;
    let ((wall, cpu), datagram) = if case.ours {
        ours(case, &sending, &receiving, pieces)
    } else {
        raw(case, &sending, &receiving, pieces)
    };
    (bytes / wall / 1e6, cpu / (bytes / 1e9), datagram)
}

/// Wall and processor seconds, and how long datagrams were in the end.
type Took = ((f64, f64), u16);

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES).unwrap();
    socket
}

fn payload() -> Bytes {
    let mut bytes = vec![0; PIECE_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    Bytes::from(bytes)
}

/// Both ends of a link of ours.
fn linked(road: Road, sending: &Runtime, receiving: &Runtime) -> (Link, Link, [Endpoint; 2]) {
    let (server_tls, client_tls) = tls::mutual();
    let bind = |runtime: &Runtime, server| {
        let _inside = runtime.enter();
        match road {
            Road::Loopback => Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), server).unwrap(),
            Road::Ethernet => Endpoint::over(Disguised::over(socket()), server, [7; 32]).unwrap(),
        }
    };
    let server = bind(receiving, Some(server_tls));
    let client = bind(sending, None);
    let address = road.seen(server.local_address().unwrap());
    let accepting = server.clone();
    let accepted =
        receiving.spawn(async move { accepting.accept().await.unwrap().enter().await.unwrap() });
    let dialled = sending.block_on(client.dial(address, client_tls)).unwrap();
    let accepted = receiving.block_on(accepted).unwrap();
    (dialled, accepted, [client, server])
}

impl Road {
    fn seen(self, address: SocketAddr) -> SocketAddr {
        match self {
            Self::Loopback => address,
            Self::Ethernet => disguise::outward(address),
        }
    }
}

fn ours(case: Case, sending: &Runtime, receiving: &Runtime, pieces: usize) -> Took {
    let (dialled, accepted, _ends) = linked(case.road, sending, receiving);
    let _bulk = accepted.bulk();
    let round = |pieces: usize| {
        let each = pieces / case.streams;
        let (dialled, accepted) = (dialled.clone(), accepted.clone());
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let sent = sending.spawn(async move {
            let mut streams = JoinSet::new();
            for _ in 0..case.streams {
                let link = dialled.clone();
                streams.spawn(async move { send_ours(&link, each).await });
            }
            streams.join_all().await;
        });
        let mut received = 0;
        receiving.block_on(async {
            let mut streams = JoinSet::new();
            for _ in 0..case.streams {
                let (_sender, receiver) = accepted.accept().await.unwrap();
                streams.spawn(receive_ours(receiver));
            }
            received = streams.join_all().await.into_iter().sum();
        });
        assert_eq!(received, each * case.streams * PIECE_BYTES);
        let took = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        sending.block_on(sent).unwrap();
        took
    };
    round(WARM_PIECES);
    (round(pieces), dialled.datagram_bytes())
}

async fn send_ours(link: &Link, pieces: usize) {
    let payload = payload();
    let (mut sender, _receiver) = link.open().await.unwrap();
    let id = PackId([7; 32]);
    for number in 0..pieces {
        let piece = ToProxy::Piece { id, offset: (number * PIECE_BYTES) as u64 };
        sender.send_with(&piece, payload.clone()).await.unwrap();
    }
    sender.finish();
    sender.delivered().await;
}

async fn receive_ours(mut receiver: Receiver) -> usize {
    let mut received = 0;
    while let Some((_, bulk)) = receiver.next::<ToProxy>().await.unwrap() {
        received += bulk.len();
    }
    received
}

fn transport(case: Case) -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config
        .stream_receive_window(WINDOW_BYTES.into())
        .receive_window(WINDOW_BYTES.into())
        .send_window(WINDOW_BYTES.into());
    if case.road == Road::Loopback {
        let mut discovery = quinn::MtuDiscoveryConfig::default();
        discovery.upper_bound(LOOPBACK_MTU_BYTES).black_hole_cooldown(NARROW_FOR);
        config.mtu_discovery_config(Some(discovery)).enable_segmentation_offload(false);
    }
    if let Congestion::Bbr = case.congestion {
        config.congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()));
    }
    Arc::new(config)
}

fn raw(case: Case, sending: &Runtime, receiving: &Runtime, pieces: usize) -> Took {
    let (server_tls, client_tls) = tls::mutual();
    let crypto = QuicServerConfig::try_from(server_tls).unwrap();
    let mut server_config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server_config.transport_config(transport(case));
    let bind = |runtime: &Runtime, server| {
        let _inside = runtime.enter();
        let (mut config, quinn) = (quinn::EndpointConfig::default(), Arc::new(quinn::TokioRuntime));
        if case.road == Road::Loopback {
            config.max_udp_payload_size(RECEIVED_BYTES_MAX).unwrap();
        }
        match case.road {
            Road::Loopback => quinn::Endpoint::new(config, server, socket(), quinn).unwrap(),
            Road::Ethernet => {
                let socket = Disguised::over(socket());
                quinn::Endpoint::new_with_abstract_socket(config, server, socket, quinn).unwrap()
            }
        }
    };
    let server = bind(receiving, Some(server_config));
    let client = bind(sending, None);
    let address = case.road.seen(server.local_addr().unwrap());
    let crypto = QuicClientConfig::try_from(client_tls).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(case));
    let accepting = server;
    let accepted = receiving.spawn(async move { accepting.accept().await.unwrap().await.unwrap() });
    let dialled = sending.block_on(async {
        client.connect_with(config, address, "strongroom.invalid").unwrap().await.unwrap()
    });
    let accepted = receiving.block_on(accepted).unwrap();
    let round = |pieces: usize| {
        let each = pieces / case.streams;
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let link = dialled.clone();
        let sent = sending.spawn(async move {
            let mut streams = JoinSet::new();
            for _ in 0..case.streams {
                streams.spawn(send_raw(link.clone(), each));
            }
            streams.join_all().await;
        });
        let received = receiving.block_on(receive_raw(&accepted, case.streams));
        assert_eq!(received, each * case.streams * PIECE_BYTES);
        let took = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        sending.block_on(sent).unwrap();
        took
    };
    round(WARM_PIECES);
    (round(pieces), dialled.stats().path.current_mtu)
}

async fn send_raw(link: quinn::Connection, pieces: usize) {
    let payload = payload();
    let mut stream = link.open_uni().await.unwrap();
    for _ in 0..pieces {
        stream.write_chunk(payload.clone()).await.unwrap();
    }
    stream.finish().unwrap();
    let _ = stream.stopped().await;
}

async fn receive_raw(link: &quinn::Connection, streams: usize) -> usize {
    let mut receiving = JoinSet::new();
    for _ in 0..streams {
        let mut stream = link.accept_uni().await.unwrap();
        receiving.spawn(async move {
            let mut received = 0;
            while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.unwrap() {
                received += chunk.bytes.len();
            }
            received
        });
    }
    receiving.join_all().await.into_iter().sum()
}
