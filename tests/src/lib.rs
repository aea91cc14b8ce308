//! What the tests share: an in-memory network under a paused clock, a seeded source of chance,
//! one value of every message, the bodies of the fuzz targets, and the checkout's own text.

pub mod ageing;
pub mod domain;
pub mod fuzzing;
pub mod lab;
pub mod mounted;
pub mod net;
pub mod played;
pub mod samples;
pub mod seeded;
pub mod site;
pub mod source;
pub mod takeover;
pub mod trust;

pub use net::SimNet;
