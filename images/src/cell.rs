//! Where images are read: a process of its own that has nothing but one socket to who asks. It can
//! open no file, reach no network, start nothing, and its memory is bounded; what hostile bytes
//! make of it is an answer that is wrong or an end that is told, for who asked lives elsewhere.
//!
//! The child is the same program, started again as [`inhabit`]; the other side is [`Cell`]. One
//! question is open at a time, and while it is the child may want bytes of the image.

mod keep;
mod serve;
mod survey;
mod talk;
mod walls;

pub use keep::{Cell, CellError, Listing};
pub use serve::inhabit;
pub use survey::{Partition, State, Survey};
pub use talk::Thing;
pub use walls::WallsError;
