//! The agent: reads what is quiet, sends it, forgets it; and the same backwards. Knows no
//! policy and keeps nothing it cannot lose.

pub mod hooks;
pub mod oddities;
pub mod pipeline;
pub mod quiesce;
pub mod recover;
pub mod restore;
pub mod workload;

mod host;
mod orders;
mod protect;
mod run;

pub use host::host_mark;
pub use run::{AgentError, run};
