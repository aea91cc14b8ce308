//! What lies inside disk images: partition tables and file systems, read in user space and never
//! by a kernel. Every byte is taken for an enemy's: a reader answers right or says what is wrong
//! and where, in bounded memory and time. Knows nothing of points; an image is a [`Volume`].

mod bytes;
mod cached;
pub mod cell;
mod ext;
mod fat;
mod ntfs;
pub mod probe;
mod raw;
pub mod system;
pub mod table;
pub mod volume;
mod xfs;

pub use cached::Cached;
pub use ext::Ext;
pub use fat::Fat;
pub use ntfs::Ntfs;
pub use system::{Attributes, FileSystem, Kind, Named, NodeId, Problem};
pub use volume::{Volume, VolumeError, within};
pub use xfs::Xfs;
