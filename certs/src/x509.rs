//! What this product reads from a certificate, and nothing else of it. Refuses certificates
//! with other keys than Ed25519, with more or other names than one URI of ours, or with serial
//! numbers we would not give.

use rustls_pki_types::CertificateDer;
use strongroom_protocol::{Identity, OrgName, SiteName, Timestamp};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::keys::PublicKey;
use crate::peer::{PeerError, Serial};

const SCHEME: &str = "strongroom://";
/// RFC 8410's id-Ed25519.
const ED25519_OID: &str = "1.3.101.112";

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// `strongroom://ORG/site/SITE/ROLE/NAME`
    Node(Identity),
    /// `strongroom://ORG`
    Organisation(OrgName),
    /// `strongroom://ORG/site/SITE`
    Site(OrgName, SiteName),
}

impl Subject {
    pub(crate) fn to_uri(&self) -> String {
        match self {
            Self::Node(identity) => identity.to_string(),
            Self::Organisation(org) => format!("{SCHEME}{org}"),
            Self::Site(org, site) => format!("{SCHEME}{org}/site/{site}"),
        }
    }

    fn parse(uri: &str) -> Option<Self> {
        let parts: Vec<&str> = uri.strip_prefix(SCHEME)?.split('/').collect();
        match parts.as_slice() {
            [org] => Some(Self::Organisation(org.parse().ok()?)),
            [org, "site", site] => Some(Self::Site(org.parse().ok()?, site.parse().ok()?)),
            _ => uri.parse().ok().map(Self::Node),
        }
    }
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) subject: Subject,
    pub(crate) subject_name: Vec<u8>,
    pub(crate) issuer_name: Vec<u8>,
    pub(crate) serial: Serial,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) public_key: PublicKey,
}

impl Facts {
    pub(crate) fn read(der: &CertificateDer<'_>, which: &'static str) -> Result<Self, PeerError> {
        let malformed = |reason| PeerError::Malformed { which, reason };
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| malformed("it is not X.509"))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow it"));
        }
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.ok_or_else(|| malformed("it has no alternative name"))?;
        let subject = sole_uri(&names.value.general_names)
            .ok_or_else(|| malformed("its alternative name is not one URI of ours"))?;
        let validity = certificate.validity();
        Ok(Self {
            subject,
            subject_name: certificate.subject().as_raw().to_vec(),
            issuer_name: certificate.issuer().as_raw().to_vec(),
            serial: Serial::from_slice(certificate.raw_serial())
                .ok_or_else(|| malformed("its serial number has another length"))?,
            not_before: Timestamp::from_unix_seconds(validity.not_before.timestamp()),
            not_after: Timestamp::from_unix_seconds(validity.not_after.timestamp()),
            public_key: public_key(certificate.public_key())
                .ok_or_else(|| malformed("its key is not Ed25519"))?,
        })
    }
}

/// The one URI among `names`, when there is nothing else.
pub(crate) fn sole_uri(names: &[GeneralName<'_>]) -> Option<Subject> {
    match names {
        [GeneralName::URI(uri)] => Subject::parse(uri),
        _ => None,
    }
}

pub(crate) fn public_key(info: &SubjectPublicKeyInfo<'_>) -> Option<PublicKey> {
    let ed25519 = info.algorithm.algorithm.to_id_string() == ED25519_OID;
    if ed25519 { PublicKey::from_slice(&info.subject_public_key.data) } else { None }
}

/// The names a request asks for.
pub(crate) fn requested_names<'a>(extension: &'a ParsedExtension<'a>) -> &'a [GeneralName<'a>] {
    match extension {
        ParsedExtension::SubjectAlternativeName(names) => &names.general_names,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_read_as_written() {
        for uri in [
            "strongroom://acme",
            "strongroom://acme/site/a",
            "strongroom://acme/site/a/agent/db1.example",
        ] {
            assert_eq!(Subject::parse(uri).unwrap().to_uri(), uri);
        }
        for uri in [
            "strongroom://",
            "strongroom:///site/a",
            "strongroom://acme/",
            "strongroom://acme/site/",
            "strongroom://acme/sites/a",
            "strongroom://acme/site/a/",
            "strongroom://acme/site/a/root/x",
            "https://acme/site/a",
        ] {
            assert_eq!(Subject::parse(uri), None, "{uri}");
        }
    }
}
