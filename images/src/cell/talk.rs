//! What is said between the two sides, in frames of bounded length: four bytes of length, then the
//! message. Both are of one program and one run, so there are no versions.

use std::io::{self, Read, Write};
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cell::survey::Survey;
use crate::system::{Attributes, NodeId};

/// Longest frame: what is read at once, and room for what is said of it.
pub(super) const FRAME_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Bytes of a file or of the image that are asked for at once.
pub(super) const READ_BYTES_MAX: usize = 1 << 20;
/// Names and what is said of them are sent when they are this many bytes: the heaviest of them
/// fits into a frame beside them.
pub(super) const BATCH_BYTES: usize = 64 << 10;
/// Bytes of extended attributes that go with a name; of longer ones it is said that they lack.
pub(super) const EXTENDED_BYTES_MAX: usize = 512 << 10;

/// To the process that reads.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum ToCell {
    /// The first: there is an image of so many bytes.
    Image {
        bytes: u64,
    },
    /// What was wanted of it.
    Bytes(Vec<u8>),
    /// It cannot be had.
    Lost {
        why: String,
    },
    Ask(Question),
}

/// What may be asked. Partitions are named by their place in the survey.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(super) enum Question {
    Survey,
    Attributes { partition: u32, node: NodeId },
    Data { partition: u32, node: NodeId, at: u64 },
    List { partition: u32, node: NodeId },
    Read { partition: u32, node: NodeId, at: u64, bytes: u32 },
}

/// From it.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum FromCell {
    /// It is confined, and waits for the image.
    Ready,
    /// It cannot be confined here.
    Open {
        why: String,
    },
    /// Before it can answer.
    Want {
        at: u64,
        bytes: u32,
    },
    Survey(Survey),
    Attributes(Attributes),
    Data(Option<Range<u64>>),
    /// Some names; more follow.
    Things(Vec<Thing>),
    /// A list is over.
    Listed,
    Read(Vec<u8>),
    /// The answer, or the rest of it, cannot be given.
    Problem {
        why: String,
    },
    /// Bytes of the image were wanted and could not be had.
    Unread {
        why: String,
    },
}

/// A name in a directory, with what is said of what it names.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Thing {
    pub name: Vec<u8>,
    pub node: NodeId,
    /// Or why nothing is said of it.
    pub attributes: Result<Attributes, String>,
    /// Of a link.
    pub target: Vec<u8>,
    pub extended: Vec<(Vec<u8>, Vec<u8>)>,
    /// What could not be read of it beside its bytes.
    pub lacks: Option<String>,
}

impl Thing {
    /// About what it takes in a frame.
    pub(super) fn weight(&self) -> usize {
        let extended: usize =
            self.extended.iter().map(|(name, value)| name.len() + value.len()).sum();
        128 + self.name.len() + self.target.len() + extended
    }
}

pub(super) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut frame = vec![0; 4];
    frame = postcard::to_extend(message, frame).map_err(io::Error::other)?;
    let length = frame.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame is longer than it may be"));
    }
    let prefix = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    frame.splice(..4, prefix);
    to.write_all(&frame)
}

pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut prefix = [0; 4];
    from.read_exact(&mut prefix)?;
    let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is longer than it may be"));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    let (message, rest) = postcard::take_from_bytes(&frame)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match rest.len() {
        0 => Ok(message),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "bytes follow the end of a frame")),
    }
}
