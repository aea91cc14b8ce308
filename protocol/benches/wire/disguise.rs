//! A real loopback socket whose peers are seen under addresses of another network, so that QUIC
//! is set up as towards another host.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

/// What 127.0.0.1 looks like from above.
const OUTWARD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));

/// The address above the disguise.
pub(crate) fn outward(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(OUTWARD, address.port())
}

/// A socket on loopback.
pub(crate) struct Disguised {
    inner: Arc<dyn AsyncUdpSocket>,
}

impl Disguised {
    /// Over a bound socket; called inside a runtime.
    pub(crate) fn over(socket: UdpSocket) -> Arc<dyn AsyncUdpSocket> {
        Arc::new(Self { inner: TokioRuntime.wrap_udp_socket(socket).unwrap() })
    }
}

impl fmt::Debug for Disguised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disguised").field("inner", &self.inner).finish()
    }
}

impl AsyncUdpSocket for Disguised {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let destination = (Ipv4Addr::LOCALHOST, transmit.destination.port()).into();
        self.inner.try_send(&Transmit { destination, ..transmit.clone() })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = received {
            for one in meta.iter_mut().take(count) {
                one.addr = outward(one.addr);
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
