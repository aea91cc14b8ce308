//! What runs the writer's work: a thread of its own. With the feature `shuttle`, whoever waits for
//! a barrier does the work in its own turn, so that a scheduler can try every order.

use crossbeam_channel::Receiver;

use super::{Message, Onward, Work};

#[cfg(not(feature = "shuttle"))]
pub(super) struct Runner {
    thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

#[cfg(not(feature = "shuttle"))]
impl Runner {
    pub(super) fn start(
        mut work: Work,
        receiver: Receiver<Message>,
    ) -> Result<Self, std::io::Error> {
        let run = move || {
            while let Ok(message) = receiver.recv() {
                if work.turn(message, &receiver) == Onward::Stop {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("pack-writer".to_owned()).spawn(run)?;
        Ok(Self { thread: std::sync::Mutex::new(Some(thread)) })
    }

    /// The thread does it.
    #[expect(clippy::unused_self, reason = "the other runner works here")]
    pub(super) const fn work_off(&self) {}

    /// Waits for the end, which was asked for.
    pub(super) fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the pack writer ended in a panic");
        }
    }
}

#[cfg(feature = "shuttle")]
pub(super) struct Runner {
    work: crate::sync::Mutex<(Work, Receiver<Message>)>,
}

#[cfg(feature = "shuttle")]
impl Runner {
    pub(super) fn start(work: Work, receiver: Receiver<Message>) -> Result<Self, std::io::Error> {
        Ok(Self { work: crate::sync::Mutex::new((work, receiver)) })
    }

    pub(super) fn work_off(&self) {
        let mut held = self.work.lock().unwrap_or_else(crate::sync::PoisonError::into_inner);
        let (work, receiver) = &mut *held;
        while let Ok(message) = receiver.try_recv() {
            if work.turn(message, receiver) == Onward::Stop {
                return;
            }
        }
    }

    pub(super) fn join(&self) {
        self.work_off();
    }
}
