//! Who is at the other end: read from the certificates that the handshake has verified. A
//! [`Peer`] says only what the chain says; whether to believe the chain was decided before, by
//! the verifiers of `tls`. Refuses chains that are not leaf, site authority and perhaps root.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use strongroom_protocol::{Identity, OrgName, SiteName, Timestamp};

use crate::keys::PublicKey;
use crate::secret::{NoRandomness, random};
use crate::x509::{Facts, Subject};

/// Certificates are dated back by this, so that a node whose clock is a little behind takes
/// part at once.
pub const BACKDATED_SECONDS: i64 = 300;
/// Bytes of a serial number, always all of them.
pub const SERIAL_BYTES: usize = 16;

/// Why certificates do not make a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The dialer of an enrolment: nobody yet.
    #[error("the peer showed no certificate")]
    Anonymous,
    /// Not X.509, or not of the shape this product issues.
    #[error("the {which} certificate is not one of ours: {reason}")]
    Malformed { which: &'static str, reason: &'static str },
    /// A certificate issued by another one than the next in the chain.
    #[error("the certificate of {identity} was not issued by the authority shown with it")]
    OtherIssuer { identity: Box<Identity> },
    /// A site's authority speaks for its own site only.
    #[error("the authority of site {issuer} issued a certificate for {identity}")]
    OtherSite { identity: Box<Identity>, issuer: SiteName },
    /// Too few or too many certificates.
    #[error("the peer showed {certificates} certificates instead of two or three")]
    Shape { certificates: usize },
}

/// A certificate's serial number: 128 bits, random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; SERIAL_BYTES]);

impl Serial {
    /// A new one: positive, and never shortened by DER.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes: [u8; SERIAL_BYTES] = random()?;
        let [first, ..] = &mut bytes;
        *first = (*first & 0x3F) | 0x40;
        Ok(Self(bytes))
    }

    /// The sixteen bytes.
    pub const fn as_bytes(&self) -> &[u8; SERIAL_BYTES] {
        &self.0
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the 32 hexadecimal digits of a serial number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a serial number of 32 hexadecimal digits")]
pub struct SerialError {
    pub text: String,
}

impl FromStr for Serial {
    type Err = SerialError;
    fn from_str(text: &str) -> Result<Self, SerialError> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        let serial = bytes.and_then(|bytes| Self::from_slice(&bytes));
        serial.ok_or_else(|| SerialError { text: text.to_owned() })
    }
}

impl Serialize for Serial {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Serial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; SERIAL_BYTES]>::deserialize(deserializer).map(Self)
        }
    }
}

/// Who a verified chain says its holder is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peer {
    pub identity: Identity,
    pub serial: Serial,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// The site whose authority issued it; always `identity.site`.
    pub issued_by: SiteName,
    /// The certificate of that authority, which may itself be revoked.
    pub issuer_serial: Serial,
    pub public_key: PublicKey,
}

impl Peer {
    /// From the chain as the peer showed it: leaf, its site's authority and perhaps the root.
    ///
    /// Give it only what a handshake of this crate has verified (quinn's `peer_identity`): no
    /// signature is checked here.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Result<Self, PeerError> {
        let (leaf, issuer) = match chain {
            [] => return Err(PeerError::Anonymous),
            [leaf, issuer] | [leaf, issuer, _] => (leaf, issuer),
            _ => return Err(PeerError::Shape { certificates: chain.len() }),
        };
        let leaf = Facts::read(leaf, "node")?;
        let issuer = Facts::read(issuer, "site")?;
        let malformed = |which, reason| PeerError::Malformed { which, reason };
        let Subject::Node(identity) = leaf.subject else {
            return Err(malformed("node", "its name is not that of a node"));
        };
        let Subject::Site(org, site) = issuer.subject else {
            return Err(malformed("site", "its name is not that of a site"));
        };
        if leaf.issuer_name != issuer.subject_name {
            return Err(PeerError::OtherIssuer { identity: Box::new(identity) });
        }
        if identity.org != org || identity.site != site {
            return Err(PeerError::OtherSite { identity: Box::new(identity), issuer: site });
        }
        Ok(Self {
            identity,
            serial: leaf.serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            issued_by: site,
            issuer_serial: issuer.serial,
            public_key: leaf.public_key,
        })
    }

    /// When the authority signed it, to the second.
    #[must_use]
    pub const fn issued(&self) -> Timestamp {
        self.not_before.plus_seconds(BACKDATED_SECONDS)
    }

    /// The organisation.
    pub const fn org(&self) -> &OrgName {
        &self.identity.org
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_whole_positive_and_readable() {
        for _ in 0..64 {
            let serial = Serial::generate().unwrap();
            assert!((0x40..0x80).contains(&serial.as_bytes()[0]));
            assert_eq!(serial.to_string().parse(), Ok(serial));
        }
        assert!("12".parse::<Serial>().is_err());
    }

    #[test]
    fn nothing_and_nonsense_are_told_apart() {
        assert_eq!(Peer::from_chain(&[]), Err(PeerError::Anonymous));
        let junk = CertificateDer::from(vec![1, 2, 3]);
        assert_eq!(
            Peer::from_chain(&vec![junk.clone(); 4]),
            Err(PeerError::Shape { certificates: 4 })
        );
        let error = Peer::from_chain(&[junk.clone(), junk]).unwrap_err();
        assert!(matches!(error, PeerError::Malformed { which: "node", .. }));
    }
}
