//! A request for a certificate (PKCS #10): an identity, a public key and the proof that the
//! asker holds the private one. Refuses requests for more or other names than one identity, and
//! takes nothing else from them: powers and lifetimes are the authority's to decide.

use rcgen::{CertificateParams, DistinguishedName, SanType};
use strongroom_protocol::Identity;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::keys::{KeyPair, PublicKey};
use crate::x509::{Subject, public_key, requested_names, sole_uri};

/// Largest request that is looked at; ours have about 300 bytes.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request could not be made.
    #[error("cannot make a certificate request for {identity}")]
    Encode { identity: Box<Identity>, source: rcgen::Error },
    /// Not a request, or one too large to be ours.
    #[error("this is not a certificate request")]
    Malformed,
    /// No name, several names, or a name that is not a node's.
    #[error("the request must ask for exactly one node identity")]
    NotOneIdentity,
    /// The asker did not prove to hold the private key.
    #[error("the request's signature does not fit its key")]
    Signature,
    /// Another kind of key.
    #[error("the request's key is not Ed25519")]
    WrongKey,
}

/// What a request asks for, once its signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertRequest {
    pub identity: Identity,
    pub public_key: PublicKey,
}

impl CertRequest {
    /// The DER of a request for `identity` by the holder of `key`.
    pub fn make(identity: &Identity, key: &KeyPair) -> Result<Vec<u8>, RequestError> {
        let encode = |source| RequestError::Encode { identity: Box::new(identity.clone()), source };
        let uri = identity.to_string().try_into().map_err(encode)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri)];
        let request = params.serialize_request(key).map_err(encode)?;
        Ok(request.der().to_vec())
    }

    /// Reads a request and checks that it was signed by the key it names.
    pub fn parse(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::Malformed);
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let info = &request.certification_request_info;
        let public_key = public_key(&info.subject_pki).ok_or(RequestError::WrongKey)?;
        request.verify_signature().map_err(|_| RequestError::Signature)?;
        let names: Vec<GeneralName<'_>> = request
            .requested_extensions()
            .into_iter()
            .flatten()
            .flat_map(requested_names)
            .cloned()
            .collect();
        match sole_uri(&names) {
            Some(Subject::Node(identity)) => Ok(Self { identity, public_key }),
            _ => Err(RequestError::NotOneIdentity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = "strongroom://acme/site/a/agent/db1";

    #[test]
    fn says_what_was_asked_and_by_which_key() {
        let key = KeyPair::generate().unwrap();
        let identity: Identity = AGENT.parse().unwrap();
        let request = CertRequest::parse(&CertRequest::make(&identity, &key).unwrap()).unwrap();
        assert_eq!(request, CertRequest { identity, public_key: key.public() });
    }

    #[test]
    fn a_changed_request_is_refused() {
        let key = KeyPair::generate().unwrap();
        let der = CertRequest::make(&AGENT.parse().unwrap(), &key).unwrap();
        let at = der.windows(3).position(|window| window == b"db1").unwrap();
        let mut changed = der.clone();
        changed[at + 2] = b'2';
        assert_eq!(CertRequest::parse(&changed), Err(RequestError::Signature));
        assert_eq!(CertRequest::parse(&der[1..]), Err(RequestError::Malformed));
        assert_eq!(CertRequest::parse(&[]), Err(RequestError::Malformed));
    }

    #[test]
    fn two_names_no_name_and_foreign_names_are_refused() {
        let key = KeyPair::generate().unwrap();
        for uris in [&[][..], &[AGENT, AGENT], &["strongroom://acme/site/a"], &["https://x"]] {
            let mut params = CertificateParams::default();
            params.subject_alt_names =
                uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())).collect();
            let der = params.serialize_request(&key).unwrap();
            let error = CertRequest::parse(der.der()).unwrap_err();
            assert_eq!(error, RequestError::NotOneIdentity, "{uris:?}");
        }
    }

    #[test]
    fn another_kind_of_key_is_refused() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(AGENT.try_into().unwrap())];
        let der = params.serialize_request(&key).unwrap();
        assert_eq!(CertRequest::parse(der.der()), Err(RequestError::WrongKey));
    }
}
