//! Whom a connection to vSphere believes: one certificate, told by its thumbprint, or what
//! chains to the authorities of a file or of the system. There is no way to believe anyone.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as crypto};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::workload::directory::tls::{self, TrustError};

const SHA1_BYTES: usize = 20;
const SHA256_BYTES: usize = 32;

/// Whom to believe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// The authorities in this file, or a certificate that stands in it itself.
    CaFile(PathBuf),
    /// The authorities that the system believes.
    System,
    /// The one certificate of this thumbprint.
    Thumbprint(Thumbprint),
}

/// The hash of a certificate, as vSphere's own tools print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Thumbprint(Vec<u8>);

impl Thumbprint {
    /// SHA-256 in hexadecimal, with colons or without.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of_length(text, SHA256_BYTES)
    }

    /// What a server that is believed says of another: SHA-1 is all that older ones say.
    pub(super) fn told(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| Self::of_length(text, SHA1_BYTES))
    }

    fn of_length(text: &str, length: usize) -> Option<Self> {
        let plain: String = text.chars().filter(|c| *c != ':').collect();
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(plain.as_bytes()).ok()?;
        (bytes.len() == length).then_some(Self(bytes))
    }

    fn of(certificate: &CertificateDer<'_>, length: usize) -> Self {
        let algorithm = if length == SHA1_BYTES { &SHA1_FOR_LEGACY_USE_ONLY } else { &SHA256 };
        Self(digest(algorithm, certificate.as_ref()).as_ref().to_vec())
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How to greet a server.
///
/// # Errors
/// Nobody can be believed.
pub(super) fn config(trust: &Trust) -> Result<Arc<ClientConfig>, TrustError> {
    let pin = match trust {
        Trust::CaFile(path) => return tls::config(Some(path)),
        Trust::System => return tls::config(None),
        Trust::Thumbprint(pin) => pin.clone(),
    };
    let provider = Arc::new(crypto::default_provider());
    let verifier = Arc::new(Pinned { pin, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(TrustError::Setup)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    Ok(Arc::new(builder.with_no_client_auth()))
}

/// Why a server was not believed, and the way out; none where it was something else.
pub(super) fn disbelief(error: &Error) -> Option<String> {
    match error {
        Error::General(why) => Some(why.clone()),
        Error::InvalidCertificate(reason) => Some(format!(
            "its certificate is not believed ({reason}); name its authority with \
                          ca_file, or its SHA-256 with thumbprint"
        )),
        _ => None,
    }
}

#[derive(Debug)]
struct Pinned {
    pin: Thumbprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = Thumbprint::of(end_entity, self.pin.0.len());
        if found == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General(format!(
            "its certificate has the thumbprint {found}, and {} is believed; compare with what \
             the server's console shows before the policy is changed",
            self.pin
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_whole_or_none() {
        let plain = "0f".repeat(SHA256_BYTES);
        let read = Thumbprint::parse(&plain).unwrap();
        assert_eq!(Thumbprint::parse(&read.to_string()), Some(read));
        let short = "0f".repeat(SHA1_BYTES);
        for wrong in ["", "0f:0f", "zz", &short, &plain[1..]] {
            assert_eq!(Thumbprint::parse(wrong), None, "{wrong}");
        }
        assert!(Thumbprint::told(&short).is_some());
    }
}
