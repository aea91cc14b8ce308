//! Threads that wait so that others need not: whoever must fetch something is put here with his
//! answer. Promises that a job is done or, where the threads have ended, dropped.

use std::io;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

type Job = Box<dyn FnOnce() + Send>;

/// How many jobs may wait.
#[derive(Clone, Copy)]
pub(super) enum Waiting {
    /// As many as come: each is a request the kernel waits for, and it bounds those itself.
    All,
    /// So many; more are not done.
    AtMost(usize),
}

/// The threads. Dropped, they end after the jobs that wait.
pub(super) struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new(name: &str, threads: usize, waiting: Waiting) -> io::Result<Self> {
        let (jobs, queue) = match waiting {
            Waiting::All => crossbeam_channel::unbounded::<Job>(),
            Waiting::AtMost(count) => crossbeam_channel::bounded::<Job>(count),
        };
        let spawn = |number| {
            let queue: Receiver<Job> = queue.clone();
            let builder = std::thread::Builder::new().name(format!("{name}-{number}"));
            builder.spawn(move || queue.into_iter().for_each(|job| job()))
        };
        let threads = (0..threads).map(spawn).collect::<io::Result<_>>()?;
        Ok(Self { jobs: Some(jobs), threads })
    }

    /// Has a job done; whether there was room for it.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(Box::new(job)).is_ok())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            // A job that panicked left its answer to its drop, which says that it failed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_job_is_done_before_it_ends_and_what_has_no_room_is_refused() {
        let (pool, done) =
            (Pool::new("t", 3, Waiting::All).unwrap(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..100 {
            let done = Arc::clone(&done);
            assert!(pool.run(move || {
                done.fetch_add(1, Ordering::Relaxed);
            }));
        }
        drop(pool);
        assert_eq!(done.load(Ordering::Relaxed), 100);
        let full = Pool::new("f", 1, Waiting::AtMost(1)).unwrap();
        let (begun, wait) = std::sync::mpsc::channel();
        let (go, hold) = std::sync::mpsc::channel::<()>();
        assert!(full.run(move || {
            begun.send(()).unwrap();
            let _ = hold.recv();
        }));
        wait.recv().unwrap();
        assert!(full.run(|| {}) && !full.run(|| {}), "one waits, and no more");
        drop(go);
    }
}
