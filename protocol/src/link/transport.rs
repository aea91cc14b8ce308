//! How QUIC is set up for bulk: windows for a long fat link, and datagrams as long as the
//! interface towards the peer takes. Figures behind the choices: docs/performance.md, and
//! `cargo bench -p strongroom-protocol --bench wire`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{ip_mtu, ipv6_mtu};

/// Bytes in flight on one stream: 150 ms at 800 Mbit/s.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes in flight on one connection, and kept for sending again.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes kept for sending again where the peer is near: what a round trip of 4 ms holds at 1 GB/s.
/// Whoever writes faster than the link fills whatever is allowed.
const NEAR_WINDOW_BYTES: u64 = 4 << 20;
const NEAR: Duration = Duration::from_millis(4);
/// Bytes in flight from a peer who came in and was not admitted yet: enough for any first words,
/// too little for strangers to fill the memory with.
const STRANGER_WINDOW_BYTES: u32 = 256 << 10;
/// Most streams a peer may have open at once: one control, some data, some questions.
const STREAMS_MAX: u32 = 64;
/// A silent peer is gone after this.
const IDLE: Duration = Duration::from_secs(20);
/// Keeps the peer from thinking so of us.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// Longest datagram received: the longest there is. Without it peers keep to 1472.
const RECEIVED_BYTES_MAX: u16 = 65_527;
/// Longest datagram tried where nothing is known of the way, and the shortest limit ever set.
const USUAL_BYTES: u16 = 1452;
/// Longest datagram tried at all: a little below the longest that loopback takes.
const SENT_BYTES_MAX: u16 = 65_000;
/// From here on one datagram a call costs less than a few cut by the kernel.
const UNCUT_BYTES_MIN: u16 = 32_768;
/// Losses that look like a path grown narrow are looked into again after this: a busy receiver's
/// full buffer looks the same, and short datagrams cost ten times as much where long ones pass.
const NARROW_FOR: Duration = Duration::from_secs(2);
/// Bytes of IP and UDP before the payload.
const IPV4_HEADERS_BYTES: u32 = 28;
const IPV6_HEADERS_BYTES: u32 = 48;

/// What lies below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Below {
    /// A network of somebody else's making: the kernel knows nothing of it.
    Given,
    /// The kernel's own network.
    Kernel,
}

/// The transport towards a peer that is dialled.
pub(super) fn dialling(peer: SocketAddr, below: Below) -> Arc<quinn::TransportConfig> {
    Arc::new(config(peer, below))
}

/// The transport of a peer that comes in: narrow until it is admitted.
pub(super) fn accepting(peer: SocketAddr, below: Below) -> Arc<quinn::TransportConfig> {
    let mut config = config(peer, below);
    config.receive_window(quinn::VarInt::from_u32(STRANGER_WINDOW_BYTES));
    Arc::new(config)
}

/// Lets peers send datagrams of any length.
pub(super) fn receive_any(endpoint: &mut quinn::EndpointConfig) {
    // Refuses only what is shorter than QUIC allows, or longer than UDP.
    let _ = endpoint.max_udp_payload_size(RECEIVED_BYTES_MAX);
}

fn config(peer: SocketAddr, below: Below) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    let longest = longest_datagram(peer, below);
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(longest).black_hole_cooldown(NARROW_FOR);
    config
        .stream_receive_window(quinn::VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(quinn::VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .max_concurrent_bidi_streams(quinn::VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(quinn::VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(discovery))
        .enable_segmentation_offload(longest < UNCUT_BYTES_MIN)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE).ok());
    if !peer.ip().is_loopback() {
        // Loss is not congestion on a long link: with 150 ms and 0.1 % loss Cubic carried
        // 5 Mbit/s where this fills the link.
        config.congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()));
    }
    config
}

/// After the handshake with a peer that was dialled: what is kept for sending again goes by the
/// way there and back.
pub(super) fn keep_less_if_near(connection: &quinn::Connection) {
    if connection.rtt() < NEAR {
        connection.set_send_window(NEAR_WINDOW_BYTES);
    }
}

/// What the interface towards a peer takes; discovery finds out what the rest of the way does.
fn longest_datagram(peer: SocketAddr, below: Below) -> u16 {
    let known = if below == Below::Kernel { interface_bytes(peer) } else { None };
    known.unwrap_or(USUAL_BYTES).clamp(USUAL_BYTES, SENT_BYTES_MAX)
}

/// Asks the kernel; nothing is sent.
fn interface_bytes(peer: SocketAddr) -> Option<u16> {
    let (any, headers): (IpAddr, u32) = match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), IPV4_HEADERS_BYTES),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), IPV6_HEADERS_BYTES),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(peer).ok()?;
    let mtu = if peer.is_ipv4() { ip_mtu(&socket) } else { ipv6_mtu(&socket) };
    Some(u16::try_from(mtu.ok()?.saturating_sub(headers)).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_as_long_as_the_interface_takes() {
        let near = SocketAddr::from((Ipv4Addr::LOCALHOST, 4433));
        assert_eq!(longest_datagram(near, Below::Given), USUAL_BYTES);
        let asked = longest_datagram(near, Below::Kernel);
        let told = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
        let mtu: u32 = told.trim().parse().unwrap();
        let wanted = (mtu - IPV4_HEADERS_BYTES).clamp(u32::from(USUAL_BYTES), 65_000);
        assert_eq!(u32::from(asked), wanted);
    }
}
