//! How far a run is, in numbers that several threads count up and anybody may read.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// Counters of a run under way.
        #[derive(Debug, Default)]
        pub struct Progress {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
        pub struct Statistics {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Progress {
            /// The counters now.
            pub fn statistics(&self) -> Statistics {
                Statistics { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Bundles and chunks of files given to the sink; the sink knows which were new.
    chunks
    /// Directories entered.
    directories
    /// Entries the rules left out.
    excluded
    /// Regular files protected as they were at one moment.
    files
    /// Bytes of those files.
    file_bytes
    /// Things not protected, or not as they were at one moment.
    gaps
    /// Names of inodes that had been met before.
    links
    /// Symlinks, fifos, sockets and devices protected.
    others
    /// Bytes asked of the disk.
    read_bytes
    /// Files taken from the last run without opening them.
    unchanged
    /// Bytes of those files.
    unchanged_bytes
}

/// Counts `by` more.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
