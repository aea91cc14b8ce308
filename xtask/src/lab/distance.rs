//! A far link in a network namespace of this machine: every datagram that a rule hands over is held
//! back for the time that light and routers take, and a few never arrive. `tc netem` would do the
//! same, where the kernel has it; the queue of netfilter needs no module here.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nfq::{Queue, Verdict};

use crate::random::Random;

/// The queue that the rules name.
pub(super) const QUEUE: u16 = 7433;
/// What is printed once the queue is there.
pub(super) const READY: &str = "ready";
/// One way; both ways go through the queue, so that an answer takes twice as long.
const ONE_WAY: Duration = Duration::from_millis(75);
/// One datagram of so many is lost.
const LOST_PART: u64 = 1000;
/// How often it is looked whose time has come.
const LOOK: Duration = Duration::from_millis(1);
/// As many as a link of a gigabit has under way for that time.
const HELD_MAX: u32 = 1 << 14;
/// Nothing of a datagram is looked at; the kernel takes 0 for all of it.
const COPIED_BYTES: u16 = 1;

/// Holds back and loses, until its standard input ends: with whoever started it.
///
/// # Errors
/// The kernel has no such queue, or somebody else has it.
pub(crate) fn run() -> Result<()> {
    let mut queue = Queue::open().context("no socket of netfilter")?;
    queue.bind(QUEUE).with_context(|| format!("queue {QUEUE} of netfilter"))?;
    queue.set_copy_range(QUEUE, COPIED_BYTES)?;
    queue.set_queue_max_len(QUEUE, HELD_MAX)?;
    queue.set_nonblocking(true);
    println!("{READY}");
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    });
    let mut random = Random::new(1);
    let mut held = VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        loop {
            match queue.recv() {
                Ok(datagram) => held.push_back((Instant::now() + ONE_WAY, datagram)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("the queue of netfilter"),
            }
        }
        while held.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let Some((_, mut datagram)) = held.pop_front() else { break };
            let lost = random.below(LOST_PART) == 0;
            datagram.set_verdict(if lost { Verdict::Drop } else { Verdict::Accept });
            queue.verdict(datagram)?;
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
