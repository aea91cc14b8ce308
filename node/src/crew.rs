//! Threads for work that needs a processor and nothing else: compressing, checking, sealing. As
//! many as there are processors, so that memory does not grow with what is queued; how much is
//! queued is the caller's budget of bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use crossbeam_channel::{Sender, unbounded};
use tokio::sync::oneshot;

type Order = Box<dyn FnOnce() + Send>;

/// The process's crew.
pub struct Crew {
    orders: Sender<Order>,
}

/// Threads where the system does not say how many processors there are.
const THREADS_GUESS: usize = 2;

static CREW: OnceLock<Crew> = OnceLock::new();

/// The crew of this process, started at the first call.
pub fn crew() -> &'static Crew {
    CREW.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(THREADS_GUESS, usize::from);
        // Unbounded, for it is filled from tasks that must not wait here: every caller holds a
        // permit of its own budget for what it sends.
        let (orders, taken) = unbounded::<Order>();
        for number in 0..threads {
            let taken = taken.clone();
            let name = format!("crew-{number}");
            let started = std::thread::Builder::new().name(name).spawn(move || {
                for order in taken {
                    order();
                }
            });
            if let Err(error) = started {
                tracing::error!(%error, "a worker thread could not be started");
            }
        }
        Crew { orders }
    })
}

impl Crew {
    /// Has `work` done; the answer comes when it is. A panic of the work is an answer that
    /// never comes.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (answer, answered) = oneshot::channel();
        let order = move || {
            if let Ok(done) = catch_unwind(AssertUnwindSafe(work)) {
                // Whoever asked may have given up.
                let _ = answer.send(done);
            }
        };
        // Fails only when no thread could be started: the answer never comes then.
        let _ = self.orders.send(Box::new(order));
        answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_and_a_panic_ends_only_itself() {
        let sums: Vec<_> = (0..100_u64).map(|n| crew().call(move || n * n)).collect();
        let lost = crew().call(|| -> u32 { panic!("on purpose") });
        for (n, sum) in sums.into_iter().enumerate() {
            assert_eq!(sum.await.unwrap(), (n * n) as u64);
        }
        assert!(lost.await.is_err());
        assert_eq!(crew().call(|| 7).await.unwrap(), 7);
    }
}
