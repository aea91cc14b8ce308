//! A secret at rest, wrapped for a passphrase (argon2id) or for a recovery key, sealed with
//! AES-256-GCM. Tells a wrong passphrase from a damaged record by the BLAKE3 of the record, and
//! refuses a record made for another purpose or owner.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::recovery::RecoveryKey;
use crate::secret::{NoRandomness, Secret, random};

/// Largest secret that is wrapped; keys are far smaller.
pub const SECRET_BYTES_MAX: usize = 4096;
/// The only version so far.
const VERSION: u8 = 1;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
/// A record that asks for more memory than this is hostile or damaged, not ours.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
/// As for memory: more passes than anyone chose.
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
const RECOVERY_CONTEXT: &str = "strongroom v1 recovery kek";

/// Why a secret was not wrapped or not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WrapError {
    /// The argon2 parameters are outside what is accepted.
    #[error("the wrapping asks for impossible argon2 parameters: {cost:?}")]
    Cost { cost: Cost },
    /// The record's checksum does not fit: a disk or a person changed it.
    #[error("the wrapped {purpose} is damaged")]
    Damaged { purpose: String },
    /// An empty passphrase protects nothing.
    #[error("an empty passphrase is not accepted")]
    EmptyPassphrase,
    /// No randomness for salt and nonce.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// A record for something else, or for somebody else.
    #[error("this wraps the {found_purpose} of {found_owner}, not the {purpose} of {owner}")]
    OtherContext { purpose: String, owner: String, found_purpose: String, found_owner: String },
    /// The record is for a recovery key and a passphrase was given, or the reverse.
    #[error("this record is opened by a {needed}")]
    OtherRecipient { needed: &'static str },
    /// More bytes than a secret has.
    #[error("a secret of {bytes} bytes is larger than the {SECRET_BYTES_MAX} accepted")]
    TooLarge { bytes: usize },
    /// Written by a newer version of this program.
    #[error("the wrapped record has version {version}, this program reads version 1")]
    Version { version: u8 },
    /// The record is whole, so the passphrase is wrong.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// The record is whole, so this is the recovery key of something else.
    #[error("the recovery key is not the one of this record")]
    WrongRecoveryKey,
}

/// What argon2id costs, stored with each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Cost {
    /// RFC 9106's choice where memory is not plentiful: 64 MiB, 3 passes.
    pub const STANDARD: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
    /// Protects nothing: so that tests are quick.
    pub const TESTING: Self = Self { memory_kib: 64, passes: 1, lanes: 1 };
}

/// Whom a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientKind {
    Passphrase,
    Recovery,
}

impl RecipientKind {
    /// The words in tables and errors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::Recovery => "recovery key",
        }
    }
}

/// What is wrapped and whose it is; bound into the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrapContext<'a> {
    /// Such as `root key`.
    pub purpose: &'a str,
    /// The organisation or the repository id.
    pub owner: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Recipient {
    Passphrase { cost: Cost, salt: Bytes },
    Recovery { salt: Bytes },
}

/// Everything the checksum covers but the sealed bytes; also the associated data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    version: u8,
    purpose: String,
    owner: String,
    recipient: Recipient,
}

/// A secret that only its passphrase, or only its recovery key, opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapped {
    head: Head,
    nonce: Bytes,
    sealed: Bytes,
    checksum: Bytes,
}

impl Wrapped {
    /// Wraps `secret` for a passphrase.
    pub fn by_passphrase(
        secret: &Secret,
        passphrase: &Secret,
        context: WrapContext<'_>,
        cost: Cost,
    ) -> Result<Self, WrapError> {
        let salt: [u8; SALT_BYTES] = random()?;
        let key = passphrase_key(passphrase, &salt, cost)?;
        let recipient = Recipient::Passphrase { cost, salt: Bytes(salt.to_vec()) };
        Self::seal(secret, &key, context, recipient)
    }

    /// Wraps `secret` for a recovery key.
    pub fn by_recovery(
        secret: &Secret,
        recovery: &RecoveryKey,
        context: WrapContext<'_>,
    ) -> Result<Self, WrapError> {
        let salt: [u8; SALT_BYTES] = random()?;
        let key = recovery_key(recovery, &salt);
        let recipient = Recipient::Recovery { salt: Bytes(salt.to_vec()) };
        Self::seal(secret, &key, context, recipient)
    }

    /// Opens a record made by [`Wrapped::by_passphrase`].
    pub fn open_with_passphrase(
        &self,
        passphrase: &Secret,
        context: WrapContext<'_>,
    ) -> Result<Secret, WrapError> {
        self.check(context)?;
        let Recipient::Passphrase { cost, salt } = &self.head.recipient else {
            return Err(WrapError::OtherRecipient { needed: "recovery key" });
        };
        let key = passphrase_key(passphrase, &salt.0, *cost)?;
        self.unseal(&key, WrapError::WrongPassphrase)
    }

    /// Opens a record made by [`Wrapped::by_recovery`].
    pub fn open_with_recovery(
        &self,
        recovery: &RecoveryKey,
        context: WrapContext<'_>,
    ) -> Result<Secret, WrapError> {
        self.check(context)?;
        let Recipient::Recovery { salt } = &self.head.recipient else {
            return Err(WrapError::OtherRecipient { needed: "passphrase" });
        };
        self.unseal(&recovery_key(recovery, &salt.0), WrapError::WrongRecoveryKey)
    }

    /// Whom the record is for.
    pub const fn recipient(&self) -> RecipientKind {
        match self.head.recipient {
            Recipient::Passphrase { .. } => RecipientKind::Passphrase,
            Recipient::Recovery { .. } => RecipientKind::Recovery,
        }
    }

    /// What is wrapped, as the record says.
    pub fn purpose(&self) -> &str {
        &self.head.purpose
    }

    /// Whose it is, as the record says.
    pub fn owner(&self) -> &str {
        &self.head.owner
    }

    fn seal(
        secret: &Secret,
        key: &[u8; KEY_BYTES],
        context: WrapContext<'_>,
        recipient: Recipient,
    ) -> Result<Self, WrapError> {
        if secret.len() > SECRET_BYTES_MAX {
            return Err(WrapError::TooLarge { bytes: secret.len() });
        }
        let head = Head {
            version: VERSION,
            purpose: context.purpose.to_owned(),
            owner: context.owner.to_owned(),
            recipient,
        };
        let damaged = || WrapError::Damaged { purpose: context.purpose.to_owned() };
        let aad = head.bytes().ok_or_else(damaged)?;
        let nonce: [u8; NONCE_BYTES] = random()?;
        // Room for the tag: a vector that grows would leave the secret behind.
        let mut sealed = Zeroizing::new(Vec::with_capacity(secret.len() + TAG_BYTES));
        sealed.extend_from_slice(secret.expose());
        cipher(key)
            .ok_or_else(damaged)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&aad),
                &mut *sealed,
            )
            .map_err(|_| damaged())?;
        let sealed = std::mem::take(&mut *sealed);
        let checksum = checksum(&aad, &nonce, &sealed);
        let [nonce, sealed, checksum] = [nonce.to_vec(), sealed, checksum].map(Bytes);
        Ok(Self { head, nonce, sealed, checksum })
    }

    /// In this order: a record that is whole, of a known version, and the one that is wanted.
    fn check(&self, context: WrapContext<'_>) -> Result<(), WrapError> {
        let damaged = || WrapError::Damaged { purpose: context.purpose.to_owned() };
        let head = self.head.bytes().ok_or_else(damaged)?;
        if checksum(&head, &self.nonce.0, &self.sealed.0) != self.checksum.0 {
            return Err(damaged());
        }
        if self.head.version != VERSION {
            return Err(WrapError::Version { version: self.head.version });
        }
        if self.head.purpose != context.purpose || self.head.owner != context.owner {
            return Err(WrapError::OtherContext {
                purpose: context.purpose.to_owned(),
                owner: context.owner.to_owned(),
                found_purpose: self.head.purpose.clone(),
                found_owner: self.head.owner.clone(),
            });
        }
        Ok(())
    }

    fn unseal(&self, key: &[u8; KEY_BYTES], wrong: WrapError) -> Result<Secret, WrapError> {
        let damaged = || WrapError::Damaged { purpose: self.head.purpose.clone() };
        let aad = self.head.bytes().ok_or_else(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(&self.nonce.0).map_err(|_| damaged())?;
        let mut plain = Zeroizing::new(self.sealed.0.clone());
        let opened = cipher(key)
            .ok_or_else(damaged)?
            .open_in_place(nonce, Aad::from(&aad), &mut plain)
            .map_err(|_| wrong)?;
        Ok(Secret::new(opened.to_vec()))
    }
}

impl Head {
    fn bytes(&self) -> Option<Vec<u8>> {
        postcard::to_stdvec(&("strongroom v1 wrapped", self)).ok()
    }
}

/// Bytes that are base64 where people read them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&data_encoding::BASE64.encode(&self.0))
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return Vec::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        data_encoding::BASE64.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

fn checksum(head: &[u8], nonce: &[u8], sealed: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new_derive_key("strongroom v1 wrapped checksum");
    hasher.update(head).update(nonce).update(sealed);
    hasher.finalize().as_bytes().to_vec()
}

fn cipher(key: &[u8; KEY_BYTES]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

fn passphrase_key(
    passphrase: &Secret,
    salt: &[u8],
    cost: Cost,
) -> Result<Zeroizing<[u8; KEY_BYTES]>, WrapError> {
    if passphrase.is_empty() {
        return Err(WrapError::EmptyPassphrase);
    }
    let impossible = || WrapError::Cost { cost };
    if cost.memory_kib > MEMORY_KIB_MAX || cost.passes > PASSES_MAX || cost.lanes > LANES_MAX {
        return Err(impossible());
    }
    let params = argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY_BYTES))
        .map_err(|_| impossible())?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    // The blocks lead to the key, so they are ours to wipe.
    let mut blocks = Zeroizing::new(vec![argon2::Block::new(); params.block_count()]);
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into_with_memory(
            passphrase.expose(),
            salt,
            key.as_mut(),
            blocks.as_mut_slice(),
        )
        .map_err(|_| impossible())?;
    Ok(key)
}

/// A recovery key is already random: it needs no stretching, only a key of its own per record.
fn recovery_key(recovery: &RecoveryKey, salt: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut hasher = blake3::Hasher::new_derive_key(RECOVERY_CONTEXT);
    hasher.update(recovery.as_bytes()).update(salt);
    Zeroizing::new(*hasher.finalize().as_bytes())
}
