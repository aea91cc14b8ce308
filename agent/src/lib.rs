//! The agent: reads what is quiet, sends it, forgets it; and the same backwards. Knows no
//! policy and keeps nothing it cannot lose.

pub mod holder;
pub mod hooks;
pub mod oddities;
pub mod pipeline;
pub mod quiesce;
pub mod recover;
pub mod restore;
pub mod samba;
pub mod vmlab;
pub mod workload;

mod assignment;
mod host;
mod orders;
mod protect;
mod run;

pub use host::host_mark;

/// Runs this process as the holder of a freeze, over standard input and output, until it has
/// let go. False: something may still be frozen.
pub fn hold_freeze() -> bool {
    // On a thread of its own: a room's client may have a runtime, and the caller may be in one.
    let serving = || holder::serve(workload::apps::held);
    std::thread::scope(|scope| scope.spawn(serving).join()).unwrap_or(false)
}

pub use run::{AgentError, run};
