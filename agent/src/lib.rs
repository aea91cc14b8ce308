//! The agent: reads what is quiet, sends it, forgets it; and the same backwards. Knows no
//! policy and keeps nothing it cannot lose.

pub mod hooks;
pub mod oddities;
pub mod quiesce;
pub mod restore;
pub mod workload;
