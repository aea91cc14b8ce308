//! The enrolling node's book of tokens: what was issued, what was used, when and by whom. Only
//! hashes of the secrets are kept. A use is durable before it is granted; a second use is
//! refused unless it is the same node asking again because the answer was lost.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use strongroom_protocol::{Identity, NodeName, OrgName, Role, SiteName, Timestamp};

use crate::files::{FileError, read_json, write_json};
use crate::keys::PublicKey;
use crate::secret::NoRandomness;
use crate::token::{Token, TokenSecret};
use crate::trust::RootFingerprint;

/// How long a token waits to be used, unless the operator says otherwise: one hour.
pub const TOKEN_LIFETIME_SECONDS: i64 = 60 * 60;
/// The most an operator may say: a week, for a machine that is installed by somebody else.
pub const TOKEN_LIFETIME_SECONDS_MAX: i64 = 7 * 24 * 60 * 60;
/// The same key may ask again this long: the answer may have been lost on the wire.
pub const REPEAT_SECONDS_MAX: i64 = 10 * 60;
/// Tokens that are over are listed this long, then forgotten.
pub const KEPT_SECONDS: i64 = 30 * 24 * 60 * 60;
/// Tokens waiting at once; more is a script gone wild.
pub const TOKENS_MAX: usize = 10_000;

const HASH_BYTES: usize = 32;
const HASH_CONTEXT: &str = "strongroom v1 token secret";

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BookError {
    /// The book could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The book is full of tokens nobody used.
    #[error("{TOKENS_MAX} tokens are waiting already; withdraw some first")]
    Full,
    /// Too long, or over before it began.
    #[error("a token's lifetime of {seconds} s is not between 1 and {TOKEN_LIFETIME_SECONDS_MAX}")]
    Lifetime { seconds: i64 },
    /// No randomness for the secret.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// No such token, or one that was used: what it enrolled must be revoked instead.
    #[error("no unused token is called {id:?}")]
    NotWaiting { id: String },
}

/// Why a token was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It waited too long.
    #[error("the token expired at {when}")]
    Expired { when: Timestamp },
    /// The use could not be made durable, so it is not granted.
    #[error("the token's use could not be recorded")]
    File(#[from] FileError),
    /// No token of this node has that secret.
    #[error("the token is unknown here; it may be for another node, or was withdrawn")]
    Unknown,
    /// Somebody used it before.
    #[error("the token was used at {when} by {by}")]
    Used { when: Timestamp, by: Box<Identity> },
    /// It is for another name.
    #[error("the token is for the node {wanted}, not {claimed}")]
    WrongName { wanted: NodeName, claimed: NodeName },
    /// It is for another role.
    #[error("the token is for the role {wanted}, not {claimed}")]
    WrongRole { wanted: Role, claimed: Role },
    /// It is for another organisation or site.
    #[error("the token is for site {site} of {org}, not for {claimed}")]
    WrongSite { org: OrgName, site: SiteName, claimed: Box<Identity> },
}

/// What the operator wants a token for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOrder {
    pub org: OrgName,
    pub root: RootFingerprint,
    /// Where the enrolling node is dialled, `host:port`.
    pub address: String,
    pub site: SiteName,
    pub role: Role,
    /// Without a name the holder may take any, that of an existing node too: give one.
    pub name: Option<NodeName>,
    pub lifetime_seconds: i64,
}

/// What became of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokenState {
    Expired,
    Issued,
    Used { when: Timestamp, by: Identity, key: PublicKey },
}

/// A line of the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// By which it is withdrawn; says nothing about the secret.
    pub id: String,
    pub site: SiteName,
    pub role: Role,
    pub name: Option<NodeName>,
    pub created: Timestamp,
    pub expires: Timestamp,
    pub state: TokenState,
}

/// The right to be issued a certificate for `identity`, once recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGrant {
    pub identity: Identity,
    pub key: PublicKey,
    /// When the token was used first: now, or up to ten minutes ago.
    pub used: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    /// Hexadecimal hash of the secret.
    hash: String,
    org: OrgName,
    site: SiteName,
    role: Role,
    name: Option<NodeName>,
    created: Timestamp,
    expires: Timestamp,
    used: Option<Use>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Use {
    when: Timestamp,
    by: Identity,
    key: PublicKey,
}

/// The tokens of one enrolling node, in one file.
#[derive(Debug)]
pub struct TokenBook {
    path: PathBuf,
    /// Held while the file is written: of two that use one token, one must wait and lose.
    entries: Mutex<Vec<Entry>>,
}

impl TokenBook {
    /// The book in `path`; empty when there is no such file yet.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let entries = match read_json(path, "a book of tokens") {
            Ok(entries) => entries,
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), entries: Mutex::new(entries) })
    }

    /// A new token, recorded before it is returned; its secret is not kept.
    pub fn create(&self, order: TokenOrder, now: Timestamp) -> Result<Token, BookError> {
        let seconds = order.lifetime_seconds;
        if !(1..=TOKEN_LIFETIME_SECONDS_MAX).contains(&seconds) {
            return Err(BookError::Lifetime { seconds });
        }
        let secret = TokenSecret::generate()?;
        let expires = now.plus_seconds(seconds);
        let mut entries = self.entries();
        let mut next: Vec<Entry> =
            entries.iter().filter(|entry| !entry.forgettable(now)).cloned().collect();
        if next.len() >= TOKENS_MAX {
            return Err(BookError::Full);
        }
        next.push(Entry {
            hash: hash(&secret),
            org: order.org.clone(),
            site: order.site.clone(),
            role: order.role,
            name: order.name.clone(),
            created: now,
            expires,
            used: None,
        });
        self.replace(&mut entries, next)?;
        let TokenOrder { org, root, address, site, role, name, .. } = order;
        Ok(Token { org, root, address, site, role, name, secret, expires })
    }

    /// Uses a token for the node that claims `claimed` and proved to hold `key`. The use is on
    /// disk before this returns. Asked again with the same key for the same identity within
    /// ten minutes, the answer is the same; any other second use is refused.
    pub fn redeem(
        &self,
        secret: &TokenSecret,
        now: Timestamp,
        claimed: &Identity,
        key: PublicKey,
    ) -> Result<TokenGrant, Refusal> {
        let hash = hash(secret);
        let mut entries = self.entries();
        let mut next = entries.clone();
        let entry = next.iter_mut().find(|entry| entry.hash == hash).ok_or(Refusal::Unknown)?;
        let identity = claimed.clone();
        if let Some(earlier) = &entry.used {
            return earlier.repeated(now, claimed, key);
        }
        entry.check(now, claimed)?;
        entry.used = Some(Use { when: now, by: identity.clone(), key });
        self.replace(&mut entries, next)?;
        Ok(TokenGrant { identity, key, used: now })
    }

    /// Takes back a token that was not used; `id` is that of its row.
    pub fn withdraw(&self, id: &str) -> Result<(), BookError> {
        let mut entries = self.entries();
        let mut next = entries.clone();
        next.retain(|entry| entry.used.is_some() || entry.id() != id);
        if next.len() == entries.len() {
            return Err(BookError::NotWaiting { id: id.to_owned() });
        }
        Ok(self.replace(&mut entries, next)?)
    }

    /// Every token the book remembers, oldest first.
    pub fn rows(&self, now: Timestamp) -> Vec<TokenRow> {
        self.entries().iter().map(|entry| entry.row(now)).collect()
    }

    fn replace(
        &self,
        entries: &mut MutexGuard<'_, Vec<Entry>>,
        next: Vec<Entry>,
    ) -> Result<(), FileError> {
        write_json(&self.path, &next)?;
        **entries = next;
        Ok(())
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// A wrong name or role does not use the token up: the right node may still come.
    fn check(&self, now: Timestamp, claimed: &Identity) -> Result<(), Refusal> {
        if now >= self.expires {
            return Err(Refusal::Expired { when: self.expires });
        }
        if claimed.org != self.org || claimed.site != self.site {
            let (org, site) = (self.org.clone(), self.site.clone());
            return Err(Refusal::WrongSite { org, site, claimed: Box::new(claimed.clone()) });
        }
        if claimed.role != self.role {
            return Err(Refusal::WrongRole { wanted: self.role, claimed: claimed.role });
        }
        match &self.name {
            Some(wanted) if *wanted != claimed.name => {
                Err(Refusal::WrongName { wanted: wanted.clone(), claimed: claimed.name.clone() })
            }
            _ => Ok(()),
        }
    }

    fn forgettable(&self, now: Timestamp) -> bool {
        let over = self.used.as_ref().map_or(self.expires, |used| used.when);
        now.seconds_since(over) > KEPT_SECONDS
    }

    fn id(&self) -> String {
        self.hash.chars().take(12).collect()
    }

    fn row(&self, now: Timestamp) -> TokenRow {
        let state = match &self.used {
            Some(Use { when, by, key }) => {
                TokenState::Used { when: *when, by: by.clone(), key: *key }
            }
            None if now >= self.expires => TokenState::Expired,
            None => TokenState::Issued,
        };
        TokenRow {
            id: self.id(),
            site: self.site.clone(),
            role: self.role,
            name: self.name.clone(),
            created: self.created,
            expires: self.expires,
            state,
        }
    }
}

impl Use {
    fn repeated(
        &self,
        now: Timestamp,
        claimed: &Identity,
        key: PublicKey,
    ) -> Result<TokenGrant, Refusal> {
        let same = self.key == key && self.by == *claimed;
        if same && now.seconds_since(self.when) < REPEAT_SECONDS_MAX {
            return Ok(TokenGrant { identity: self.by.clone(), key, used: self.when });
        }
        Err(Refusal::Used { when: self.when, by: Box::new(self.by.clone()) })
    }
}

fn hash(secret: &TokenSecret) -> String {
    let bytes: [u8; HASH_BYTES] = blake3::derive_key(HASH_CONTEXT, secret.as_bytes());
    data_encoding::HEXLOWER.encode(&bytes)
}
