//! A network in memory for QUIC: datagrams with latency, jitter, loss, reordering, bandwidth, a
//! queue that overflows, an MTU and partitions. Everything that happens by chance comes from one
//! seed, and time is tokio's, so a paused clock makes a slow link cost nothing. It promises what
//! UDP promises, and no more.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::seeded::Seeded;

/// What one direction between two hosts does to datagrams.
#[derive(Debug, Clone)]
pub struct Path {
    /// One way.
    pub latency: Duration,
    /// Up to this much more, evenly spread; datagrams then overtake one another.
    pub jitter: Duration,
    pub loss_per_million: u32,
    /// How many are held back by a further latency.
    pub reorder_per_million: u32,
    /// `None`: as fast as the computer.
    pub bits_per_second: Option<u64>,
    /// What waits for the link beyond this is dropped.
    pub queue_bytes: u64,
    /// Longer datagrams vanish, as behind a router that says nothing.
    pub mtu_bytes: usize,
}

impl Path {
    /// A switch in between: 200 microseconds, no loss.
    pub const fn lan() -> Self {
        Self {
            latency: Duration::from_micros(200),
            jitter: Duration::ZERO,
            loss_per_million: 0,
            reorder_per_million: 0,
            bits_per_second: None,
            queue_bytes: 4 << 20,
            mtu_bytes: 1472,
        }
    }

    /// Two sites far apart: `rtt` there and back, losing `loss_per_million`.
    pub const fn wan(rtt: Duration, loss_per_million: u32) -> Self {
        Self {
            latency: Duration::from_nanos((rtt.as_nanos() / 2) as u64),
            loss_per_million,
            ..Self::lan()
        }
    }
}

/// What became of the datagrams so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub sent: u64,
    pub delivered: u64,
    /// By chance.
    pub lost: u64,
    /// By a partition.
    pub cut: u64,
    /// By a full queue.
    pub overflowed: u64,
    /// By the MTU.
    pub too_long: u64,
    /// Nobody was there.
    pub unheard: u64,
}

/// A network; a cheap handle.
#[derive(Clone)]
pub struct SimNet {
    state: Arc<Mutex<State>>,
}

struct State {
    chance: Seeded,
    usual: Path,
    paths: BTreeMap<(IpAddr, IpAddr), Path>,
    busy_until: BTreeMap<(IpAddr, IpAddr), Instant>,
    cut: BTreeSet<(IpAddr, IpAddr)>,
    inboxes: BTreeMap<SocketAddr, Arc<Inbox>>,
    sequence: u64,
    counts: Counts,
}

impl SimNet {
    /// A network where every pair of hosts is joined by `usual`.
    pub fn new(seed: u64, usual: Path) -> Self {
        let state = State {
            chance: Seeded::new(seed),
            usual,
            paths: BTreeMap::new(),
            busy_until: BTreeMap::new(),
            cut: BTreeSet::new(),
            inboxes: BTreeMap::new(),
            sequence: 0,
            counts: Counts::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A socket at `address`, for `Endpoint::over`. A second one takes the first one's place, as
    /// after a restart. Addresses should not be loopback ones: QUIC is set up otherwise there.
    pub fn socket(&self, address: SocketAddr) -> Arc<dyn AsyncUdpSocket> {
        let inbox = Arc::new(Inbox::default());
        self.lock().inboxes.insert(address, inbox.clone());
        Arc::new(Socket { net: self.clone(), address, inbox })
    }

    /// What lies between two hosts from now on, both ways.
    pub fn join(&self, one: IpAddr, other: IpAddr, path: &Path) {
        let mut state = self.lock();
        state.paths.insert((one, other), path.clone());
        state.paths.insert((other, one), path.clone());
    }

    /// Nothing passes between the two any more; what is on its way still arrives.
    pub fn partition(&self, one: IpAddr, other: IpAddr) {
        self.partition_one_way(one, other);
        self.partition_one_way(other, one);
    }

    /// Nothing passes from `from` to `to` any more.
    pub fn partition_one_way(&self, from: IpAddr, to: IpAddr) {
        self.lock().cut.insert((from, to));
    }

    /// Ends every partition between the two.
    pub fn heal(&self, one: IpAddr, other: IpAddr) {
        let mut state = self.lock();
        state.cut.remove(&(one, other));
        state.cut.remove(&(other, one));
    }

    /// What became of the datagrams so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    fn send(&self, from: SocketAddr, transmit: &Transmit<'_>) {
        let mut state = self.lock();
        let length = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for contents in transmit.contents.chunks(length) {
            state.route(from, transmit.destination, transmit.ecn, contents);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn route(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        ecn: Option<EcnCodepoint>,
        contents: &[u8],
    ) {
        self.counts.sent += 1;
        let hosts = (from.ip(), to.ip());
        if self.cut.contains(&hosts) {
            self.counts.cut += 1;
            return;
        }
        let path = self.paths.get(&hosts).unwrap_or(&self.usual).clone();
        if contents.len() > path.mtu_bytes {
            self.counts.too_long += 1;
            return;
        }
        let Some(leaves) = self.leaves(hosts, &path, contents.len() as u64) else {
            self.counts.overflowed += 1;
            return;
        };
        if self.chance.happens(path.loss_per_million) {
            self.counts.lost += 1;
            return;
        }
        let Some(inbox) = self.inboxes.get(&to) else {
            self.counts.unheard += 1;
            return;
        };
        let jitter_nanos = self.chance.below(path.jitter.as_nanos() as usize + 1) as u64;
        let mut due = leaves + path.latency + Duration::from_nanos(jitter_nanos);
        if self.chance.happens(path.reorder_per_million) {
            due += path.latency;
        }
        self.sequence += 1;
        self.counts.delivered += 1;
        let contents = Bytes::copy_from_slice(contents);
        inbox.put(Datagram { due, sequence: self.sequence, from, ecn, contents });
    }

    /// When the last bit of a datagram has left; `None` when the queue is full.
    fn leaves(&mut self, hosts: (IpAddr, IpAddr), path: &Path, bytes: u64) -> Option<Instant> {
        let now = Instant::now();
        let Some(bits_per_second) = path.bits_per_second else { return Some(now) };
        let nanos = |bytes: u64| bytes.saturating_mul(8_000_000_000) / bits_per_second.max(1);
        let free = self.busy_until.get(&hosts).copied().unwrap_or(now).max(now);
        if free - now > Duration::from_nanos(nanos(path.queue_bytes)) {
            return None;
        }
        let leaves = free + Duration::from_nanos(nanos(bytes));
        self.busy_until.insert(hosts, leaves);
        Some(leaves)
    }
}

/// Ordered by arrival, then by departure.
#[derive(PartialEq, Eq)]
struct Datagram {
    due: Instant,
    sequence: u64,
    from: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Bytes,
}

impl Ord for Datagram {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

impl PartialOrd for Datagram {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    datagrams: BinaryHeap<Reverse<Datagram>>,
    reader: Option<Waker>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Inbox {
    fn put(&self, datagram: Datagram) {
        let mut waiting = self.lock();
        let earliest = waiting.datagrams.peek().is_none_or(|Reverse(first)| datagram < *first);
        waiting.datagrams.push(Reverse(datagram));
        // A reader that waits for an earlier one finds this one when it gets there.
        if earliest && let Some(reader) = waiting.reader.take() {
            reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take_due(&mut self, now: Instant) -> Option<Datagram> {
        let Reverse(first) = self.datagrams.peek()?;
        if first.due > now {
            return None;
        }
        self.datagrams.pop().map(|Reverse(datagram)| datagram)
    }

    /// Waits for the earliest datagram; ready when it is due by the timer's coarser clock.
    fn poll_earliest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.reader = Some(cx.waker().clone());
        let Some(Reverse(first)) = self.datagrams.peek() else { return Poll::Pending };
        let due = first.due;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        timer.as_mut().reset(due);
        timer.as_mut().poll(cx)
    }
}

struct Socket {
    net: SimNet,
    address: SocketAddr,
    inbox: Arc<Inbox>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        let ours = |inbox: &Arc<Inbox>| Arc::ptr_eq(inbox, &self.inbox);
        if state.inboxes.get(&self.address).is_some_and(ours) {
            state.inboxes.remove(&self.address);
        }
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.net.send(self.address, transmit);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut waiting = self.inbox.lock();
        loop {
            let now = Instant::now();
            let mut filled = 0;
            for (buffer, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
                let Some(datagram) = waiting.take_due(now) else { break };
                let len = datagram.contents.len().min(buffer.len());
                buffer[..len].copy_from_slice(&datagram.contents[..len]);
                *meta = RecvMeta::default();
                meta.addr = datagram.from;
                meta.len = len;
                meta.stride = len;
                meta.ecn = datagram.ecn;
                meta.dst_ip = Some(self.address.ip());
                filled += 1;
            }
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
            if waiting.poll_earliest(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
