//! The root every chain must end in, named by its SHA-256 fingerprint: the same that
//! `openssl x509 -fingerprint -sha256` prints. Refuses a root that is not one of ours.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use strongroom_protocol::OrgName;

use crate::files::{FileError, read_certificates};
use crate::peer::PeerError;
use crate::x509::{Facts, Subject};

/// Bytes of a fingerprint.
pub const FINGERPRINT_BYTES: usize = 32;

/// SHA-256 of the root certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootFingerprint(pub [u8; FINGERPRINT_BYTES]);

impl RootFingerprint {
    /// The fingerprint of a certificate.
    pub fn of(der: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        let mut bytes = [0; FINGERPRINT_BYTES];
        bytes.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }
}

impl fmt::Display for RootFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RootFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a root fingerprint of 64 hexadecimal digits")]
pub struct FingerprintError {
    pub text: String,
}

impl FromStr for RootFingerprint {
    type Err = FingerprintError;
    /// Takes `openssl`'s colons and capitals too.
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits: String = text.chars().filter(|&c| c != ':').collect();
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| FingerprintError { text: text.to_owned() })
    }
}

impl Serialize for RootFingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for RootFingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; FINGERPRINT_BYTES]>::deserialize(deserializer).map(Self)
        }
    }
}

/// Why a certificate is no root to trust.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The file with the root could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not the root of an organisation of this product.
    #[error("the root certificate is not one of ours")]
    Malformed(#[source] PeerError),
    /// A certificate of ours, but of a site or a node.
    #[error("{subject} is not the root of an organisation")]
    NotRoot { subject: String },
    /// The TLS library does not accept it.
    #[error("the root of {org} is not usable")]
    Unusable { org: OrgName, source: rustls::Error },
}

/// The organisation's root certificate.
#[derive(Clone)]
pub struct TrustRoot {
    der: CertificateDer<'static>,
    org: OrgName,
    fingerprint: RootFingerprint,
    store: Arc<RootCertStore>,
}

impl TrustRoot {
    /// From a certificate the caller has reason to trust: its own file, or a pinned one.
    pub fn from_der(der: CertificateDer<'static>) -> Result<Self, TrustError> {
        let facts = Facts::read(&der, "root").map_err(TrustError::Malformed)?;
        let Subject::Organisation(org) = facts.subject else {
            return Err(TrustError::NotRoot { subject: facts.subject.to_uri() });
        };
        let mut store = RootCertStore::empty();
        store
            .add(der.clone())
            .map_err(|source| TrustError::Unusable { org: org.clone(), source })?;
        let fingerprint = RootFingerprint::of(&der);
        Ok(Self { der, org, fingerprint, store: Arc::new(store) })
    }

    /// From a `root.crt`.
    pub fn load(path: &Path) -> Result<Self, TrustError> {
        let mut certificates = read_certificates(path)?;
        Self::from_der(certificates.swap_remove(0))
    }

    /// The certificate.
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The organisation it speaks for.
    pub const fn org(&self) -> &OrgName {
        &self.org
    }

    /// The name tokens pin it by.
    pub const fn fingerprint(&self) -> RootFingerprint {
        self.fingerprint
    }

    pub(crate) const fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }
}

impl fmt::Debug for TrustRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustRoot({} {})", self.org, self.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_openssl_prints_them() {
        let fingerprint = RootFingerprint::of(b"abc");
        let text = fingerprint.to_string();
        assert!(text.starts_with("ba7816bf"), "SHA-256 of abc: {text}");
        let colons: Vec<String> = fingerprint.0.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(colons.join(":").parse(), Ok(fingerprint));
        assert!("ba78".parse::<RootFingerprint>().is_err());
    }
}
