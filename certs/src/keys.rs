//! Ed25519 keys: the only kind there is here. A private key leaves this file as PKCS #8 inside
//! a [`Secret`], never otherwise. Refuses keys of any other kind.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::files::pem;
use crate::secret::{NoRandomness, Secret};

/// Bytes of an Ed25519 public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// Why bytes are not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a private key, or not an Ed25519 one.
    #[error("this is not an Ed25519 private key in PKCS #8")]
    Malformed,
    /// A new key could not be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    /// From raw bytes of the right length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

/// An Ed25519 key pair.
pub struct KeyPair {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl KeyPair {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| NoRandomness)?;
        Self::of(pair)
    }

    /// From PKCS #8 DER.
    pub fn from_pkcs8(der: &Secret) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.expose());
        Self::of(pair.map_err(|_| KeyError::Malformed)?)
    }

    /// From PKCS #8 in PEM.
    pub fn from_pem(text: &Secret) -> Result<Self, KeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.expose());
        let mut key = key.map_err(|_| KeyError::Malformed)?;
        let der = Secret::new(key.secret_pkcs8_der().to_vec());
        key.zeroize();
        Self::from_pkcs8(&der)
    }

    /// The private key as PKCS #8 DER.
    pub fn to_pkcs8(&self) -> Result<Secret, KeyError> {
        let der = self.pair.as_der().map_err(|_| KeyError::Malformed)?;
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'static> = der;
        Ok(Secret::new(der.as_ref().to_vec()))
    }

    /// The private key as PKCS #8 in PEM.
    pub fn to_pem(&self) -> Result<Secret, KeyError> {
        Ok(pem("PRIVATE KEY", self.to_pkcs8()?.expose()).into())
    }

    /// Its public half.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn to_rustls(&self) -> Result<PrivateKeyDer<'static>, KeyError> {
        Ok(PrivateKeyDer::Pkcs8(self.to_pkcs8()?.expose().to_vec().into()))
    }

    fn of(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let public = PublicKey::from_slice(pair.public_key().as_ref());
        Ok(Self { public: public.ok_or(KeyError::Malformed)?, pair })
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair(public {:?})", self.public)
    }
}

impl rcgen::PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        &self.public.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for KeyPair {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.try_sign(msg).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_pem_and_prints_no_secret() {
        let key = KeyPair::generate().unwrap();
        let back = KeyPair::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(back.public(), key.public());
        let secret = key.to_pkcs8().unwrap();
        let tail = data_encoding::HEXLOWER.encode(&secret.expose()[secret.len() - 32..]);
        assert!(!format!("{key:?}").contains(&tail));
        assert_eq!(KeyPair::from_pem(&"nonsense".into()).unwrap_err(), KeyError::Malformed);
    }

    #[test]
    fn another_kind_of_key_is_refused() {
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let error = KeyPair::from_pem(&other.serialize_pem().into()).unwrap_err();
        assert_eq!(error, KeyError::Malformed);
    }
}
