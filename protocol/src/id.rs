//! The names of things: typed ids that cannot be swapped by mistake, and the identity a
//! certificate carries. An id is valid once it exists; parsing is the only check.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Longest name of an organisation, site, node, policy, copy or workload, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Why a text is not an id or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text is not hexadecimal of the right length.
    #[error("{text:?} is not a {what}: expected {expected}")]
    Malformed { what: &'static str, text: String, expected: &'static str },
    /// A name with characters outside `a-z 0-9 . _ - @`, or too long, or empty.
    #[error(
        "{text:?} is not a usable name: 1 to 64 of the characters a-z, 0-9, '.', '_', '-', '@', \
         starting with a letter or digit"
    )]
    Name { text: String },
    /// A certificate URI that is not one of ours.
    #[error("{text:?} is not a node identity (strongroom://ORG/site/SITE/ROLE/NAME)")]
    Identity { text: String },
}

/// What an [`Id`] is the id of; gives the word used in error messages.
pub trait Kind: 'static {
    /// The glossary's word.
    const WORD: &'static str;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $alias:ident $word:literal)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $kind {}
        impl Kind for $kind { const WORD: &'static str = $word; }
        $(#[$doc])*
        pub type $alias = Id<$kind>;
    )*};
}

kinds! {
    /// One run of a saga or of a copy.
    JobKind JobId "job id"
    /// One cartridge, or directory that plays one.
    MediumKind MediumId "medium id"
    /// One recovery point of a workload; the same in every copy.
    PointKind PointId "point id"
    /// One vault: the repositories that share keys and packs across sites.
    RepoKind RepoId "repository id"
    /// One protected thing.
    WorkloadKind WorkloadId "workload id"
}

/// A UUID (version 7: sorts by creation) that knows what it names.
pub struct Id<K>(Uuid, PhantomData<fn() -> K>);

impl<K: Kind> Id<K> {
    /// A fresh id; `unix_ms` comes from the caller's clock.
    pub fn fresh(unix_ms: u64) -> Self {
        let seconds = unix_ms / 1000;
        let nanos = (unix_ms % 1000) as u32 * 1_000_000;
        let context = uuid::NoContext;
        Self(Uuid::new_v7(uuid::Timestamp::from_unix(context, seconds, nanos)), PhantomData)
    }

    /// From the 16 bytes as stored.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes), PhantomData)
    }

    /// The 16 bytes as stored.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The last eight hexadecimal digits: enough for a person to tell points apart.
    pub fn short(&self) -> String {
        let text = self.0.simple().to_string();
        text.get(24..).unwrap_or_default().to_owned()
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}
impl<K: Kind> FromStr for Id<K> {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text).map(|uuid| Self(uuid, PhantomData)).map_err(|_| IdError::Malformed {
            what: K::WORD,
            text: text.to_owned(),
            expected: "a UUID",
        })
    }
}
impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.as_bytes().serialize(serializer)
        }
    }
}
impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 16]>::deserialize(deserializer).map(Self::from_bytes)
        }
    }
}

macro_rules! digests {
    ($($(#[$doc:meta])* $name:ident $word:literal)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let head = self.0.first_chunk::<6>().unwrap_or(&[0; 6]);
                f.write_str(&data_encoding::HEXLOWER.encode(head))
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
                bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| {
                    IdError::Malformed {
                        what: $word,
                        text: text.to_owned(),
                        expected: "64 hexadecimal digits",
                    }
                })
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self)
                }
            }
        }
    )*};
}

digests! {
    /// The name of a chunk or object: keyed BLAKE3-256 of its plaintext.
    ChunkId "chunk id"
    /// The name of a pack: BLAKE3-256 of the whole file, so that no key is needed to check it.
    PackId "pack id"
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if usable_name(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError::Name { text: text.to_owned() })
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )*};
}

names! {
    /// An edge or source of a policy's copy graph, such as `primary` or `tape`.
    CopyName
    /// A media set: the cartridges one aux copy writes to.
    MediaSetName
    /// A node within its site.
    NodeName
    /// The organisation, the same in every certificate.
    OrgName
    /// A storage policy.
    PolicyName
    /// A site of the organisation.
    SiteName
    /// A workload as the operator calls it.
    WorkloadName
}

fn usable_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-' | b'@'))
}

/// What a certificate lets its holder do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads protected hosts; may write points of its own workloads and nothing else.
    Agent,
    /// Decides and remembers for its site.
    Coordinator,
    /// A person or their automation, through the `strongroom` tool.
    Operator,
    /// Holds the copies at the other site.
    Proxy,
}

impl Role {
    /// The word in certificates, tables and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Coordinator => "coordinator",
            Self::Operator => "operator",
            Self::Proxy => "proxy",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "agent" => Ok(Self::Agent),
            "coordinator" => Ok(Self::Coordinator),
            "operator" => Ok(Self::Operator),
            "proxy" => Ok(Self::Proxy),
            _ => Err(IdError::Malformed {
                what: "role",
                text: text.to_owned(),
                expected: "agent, coordinator, operator or proxy",
            }),
        }
    }
}

/// Who a certificate says its holder is: the SAN URI
/// `strongroom://ORG/site/SITE/ROLE/NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub org: OrgName,
    pub site: SiteName,
    pub role: Role,
    pub name: NodeName,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "strongroom://{}/site/{}/{}/{}", self.org, self.site, self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Identity { text: text.to_owned() };
        let rest = text.strip_prefix("strongroom://").ok_or_else(wrong)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [org, "site", site, role, name] = parts.as_slice() else { return Err(wrong()) };
        Ok(Self {
            org: org.parse().map_err(|_| wrong())?,
            site: site.parse().map_err(|_| wrong())?,
            role: role.parse().map_err(|_| wrong())?,
            name: name.parse().map_err(|_| wrong())?,
        })
    }
}

/// Counts the assignments of one job; whoever holds an older one is stale and is refused.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
