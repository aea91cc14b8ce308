//! Disk images of points as network block devices (NBD, fixed newstyle), served from user space.
//! Promises that no length of a client's is believed, that memory is bounded whoever connects,
//! and that the point is never written to: what a client writes goes into an overlay.

mod bits;
mod carry;
mod claims;
mod device;
mod haggle;
mod image;
mod map;
mod option;
mod order;
mod overlay;
mod reply;
mod server;
mod session;
mod socket;
mod tally;

pub use device::{Device, DeviceError, Piece};
pub use haggle::{Agreed, Answer, Begun, Broken, Haggle, Next, Offer, Secrecy, WHOLE_GREETING};
pub use image::Image;
pub use map::{MapError, MapHead, Run, read_map};
pub use order::{Durable, Order, REQUEST_BYTES, Refused, Request};
pub use overlay::{Overlay, OverlayError, Written};
pub use server::{ExportError, Guarded, Server};
pub use socket::{Listen, ListenError};
pub use tally::{Tally, Told};
