//! Counts what the coordinator says and hears: everybody dials the relay, and it passes every
//! datagram on as it is. Nothing is delayed or dropped on purpose; a peer that is dead costs
//! its datagrams and nothing else.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

/// Datagrams wait here while the relay is not scheduled.
const BUFFER_BYTES: usize = 16 << 20;
/// The longest datagram there is.
const DATAGRAM_BYTES: usize = 65_536;

/// Bytes of datagrams so far, each way.
#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
}

/// A relay that runs until the program ends.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    counts: Arc<Counts>,
}

impl Relay {
    /// Starts passing on to `target`.
    pub(crate) fn start(target: SocketAddr) -> Result<Self> {
        let door = Arc::new(socket()?);
        let address = door.local_addr()?;
        let counts = Arc::<Counts>::default();
        let counting = Arc::clone(&counts);
        spawn("relay", move || {
            let mut lines: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut datagram = vec![0; DATAGRAM_BYTES];
            loop {
                let Ok((len, from)) = door.recv_from(&mut datagram) else { continue };
                counting.up.fetch_add(len as u64, Ordering::Relaxed);
                let line = match lines.entry(from) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => match line(&door, from, target, &counting) {
                        Ok(line) => new.insert(line),
                        Err(_) => continue,
                    },
                };
                if let Some(bytes) = datagram.get(..len) {
                    // Nobody listens there while the coordinator is dead.
                    let _ = line.send(bytes);
                }
            }
        })?;
        Ok(Self { address, counts })
    }

    /// Where to dial.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes towards the coordinator.
    pub(crate) fn up_bytes(&self) -> u64 {
        self.counts.up.load(Ordering::Relaxed)
    }

    /// Bytes from the coordinator.
    pub(crate) fn down_bytes(&self) -> u64 {
        self.counts.down.load(Ordering::Relaxed)
    }
}

/// The way back to one peer, on a thread of its own.
fn line(
    door: &Arc<UdpSocket>,
    peer: SocketAddr,
    target: SocketAddr,
    counts: &Arc<Counts>,
) -> Result<Arc<UdpSocket>> {
    let line = Arc::new(socket()?);
    line.connect(target)?;
    let (back, door, counts) = (Arc::clone(&line), Arc::clone(door), Arc::clone(counts));
    spawn("relay back", move || {
        let mut datagram = vec![0; DATAGRAM_BYTES];
        loop {
            // The target refuses while it is dead; it is the same line when it is back.
            let Ok(len) = back.recv(&mut datagram) else {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            };
            counts.down.fetch_add(len as u64, Ordering::Relaxed);
            if let Some(bytes) = datagram.get(..len) {
                let _ = door.send_to(bytes, peer);
            }
        }
    })?;
    Ok(line)
}

fn socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no free UDP port")?;
    // As much as the machine grants.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES);
    Ok(socket)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
    Ok(())
}
