//! What people mark by hand: holds, pins and events. A mark only ever keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strongroom_protocol::{CopyName, PointId, Timestamp, WorkloadName};

/// Longest name of a hold or an event, in bytes: it is a key of the catalog and a column.
const LABEL_BYTES_MAX: usize = 128;

/// Why a text cannot name a hold or an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot name a hold or an event: 1 to 128 bytes, printable, no blanks around it")]
pub struct LabelError {
    pub text: String,
}

/// The name of a hold or of an event: free text, printable, short.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Label {
    type Err = LabelError;
    fn from_str(text: &str) -> Result<Self, LabelError> {
        let usable = !text.is_empty()
            && text.len() <= LABEL_BYTES_MAX
            && text.trim() == text
            && !text.chars().any(char::is_control);
        if usable { Ok(Self(text.to_owned())) } else { Err(LabelError { text: text.to_owned() }) }
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;
    fn try_from(text: String) -> Result<Self, LabelError> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

/// Someone forbids expiry of some points, or of all of a workload, until the hold is released.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hold {
    pub name: Label,
    pub by: String,
    pub why: String,
    pub placed: Timestamp,
    pub points: BTreeSet<PointId>,
    pub workloads: BTreeSet<WorkloadName>,
}

/// Someone wants one point kept, in one copy or in all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pin {
    pub point: PointId,
    pub copy: Option<CopyName>,
    pub by: String,
    pub why: String,
    /// None: until it is taken away.
    pub until: Option<Timestamp>,
}

/// Every mark in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    pub holds: Vec<Hold>,
    pub pins: Vec<Pin>,
    /// Known events; `None` while the event is open.
    pub events: BTreeMap<Label, Option<Timestamp>>,
}
