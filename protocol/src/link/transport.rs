//! How QUIC is set up for bulk: windows for a long fat link, path MTU to the interface's
//! limit, no segmentation offload where datagrams may be as large as the interface allows.
//! Figures behind the choices: docs/performance.md.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// Bytes in flight on one stream: 150 ms at 800 Mbit/s.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes in flight on one connection, and kept for sending again.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes in flight from a peer who came in and was not admitted yet: enough for any first words,
/// too little for strangers to fill the memory with.
const STRANGER_WINDOW_BYTES: u32 = 256 << 10;
/// Kernel buffers: stock ones drop datagrams when the receiving task is descheduled.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Most streams a peer may have open at once: one control, some data, some questions.
const STREAMS_MAX: u32 = 64;
/// A silent peer is gone after this.
const IDLE: Duration = Duration::from_secs(20);
/// Keeps the peer from thinking so of us.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// Largest datagram tried on the loopback interface.
const LOOPBACK_MTU_BYTES: u16 = 65_000;

/// The transport towards a peer that is dialled.
pub(super) fn dialling(peer: SocketAddr) -> Arc<quinn::TransportConfig> {
    Arc::new(config(peer))
}

/// The transport of a peer that comes in: narrow until [`widen`].
pub(super) fn accepting(peer: SocketAddr) -> Arc<quinn::TransportConfig> {
    let mut config = config(peer);
    config.receive_window(quinn::VarInt::from_u32(STRANGER_WINDOW_BYTES));
    Arc::new(config)
}

/// Gives a peer that came in what one that was dialled has.
pub(super) fn widen(connection: &quinn::Connection) {
    connection.set_receive_window(quinn::VarInt::from_u32(CONNECTION_WINDOW_BYTES));
}

fn config(peer: SocketAddr) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    config
        .stream_receive_window(quinn::VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(quinn::VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .max_concurrent_bidi_streams(quinn::VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(quinn::VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE).ok());
    if peer.ip().is_loopback() {
        // One datagram of 65,000 bytes costs less than ten of 1,452 in one call.
        let mut discovery = quinn::MtuDiscoveryConfig::default();
        discovery.upper_bound(LOOPBACK_MTU_BYTES);
        config.mtu_discovery_config(Some(discovery)).enable_segmentation_offload(false);
    } else {
        // Loss is not congestion on a long link: with 150 ms and 0.1 % loss Cubic carried
        // 5 Mbit/s where this fills the link.
        config.congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()));
    }
    config
}

/// A bound UDP socket with large kernel buffers (as far as the kernel lets us).
pub(super) fn bound_socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    Ok(socket)
}
