//! The UDP socket below QUIC. Datagrams may be as long as UDP allows and still go out in one call
//! where the kernel can cut it: what one call cannot take goes out in several. A buffer for one
//! call's datagrams is no longer than the kernel ever fills it.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

/// Bytes the kernel takes in one call, whether it cuts them or not.
const CALL_BYTES_MAX: usize = 65_507;
/// Kernel buffers: stock ones drop datagrams when the receiving task is descheduled.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A bound socket.
pub(super) struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
}

impl Socket {
    /// Binds with large kernel buffers, as far as the kernel lets us.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Arc<Self>> {
        let socket = UdpSocket::bind(address)?;
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        Ok(Arc::new(Self { inner: TokioRuntime.wrap_udp_socket(socket)? }))
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("inner", &self.inner).finish()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    /// After `WouldBlock` all of it is sent again: what went out already arrives twice, which
    /// QUIC does not mind.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(each) = transmit.segment_size else { return self.inner.try_send(transmit) };
        let taken = each * (CALL_BYTES_MAX / each.max(1)).max(1);
        for contents in transmit.contents.chunks(taken.max(1)) {
            let segment_size = Some(each).filter(|each| contents.len() > *each);
            self.inner.try_send(&Transmit { contents, segment_size, ..transmit.clone() })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    /// Together they are never longer than one of the longest, which is what buffers are for.
    fn max_receive_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
