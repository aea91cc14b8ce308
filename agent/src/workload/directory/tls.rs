//! Whom an LDAPS connection believes. With a `ca_file`: what chains to it and bears the name of
//! the server, or a certificate that stands in it itself (the domain controllers of Samba make
//! one without any name). Without: what the system believes. Dates are always looked at.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// Nobody can be believed with what there is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The file cannot be read as certificates.
    #[error("{} holds no certificate in PEM: {why}", .path.display())]
    File { path: PathBuf, why: String },
    /// There is nobody to believe.
    #[error("the system believes no authority; name the one of the domain with ca_file")]
    Nobody,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Setup(#[source] Error),
}

/// How to greet a server.
///
/// # Errors
/// Nobody can be believed.
pub(in crate::workload) fn config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let pins = match ca_file {
        Some(path) => read(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    // One that cannot be an authority may still be the server's own.
    roots.add_parsable_certificates(pins.iter().cloned());
    let chain = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let chain = chain.build().ok();
    if chain.is_none() && (pins.is_empty() || ca_file.is_none()) {
        return Err(TrustError::Nobody);
    }
    let pins = if ca_file.is_some() { pins } else { Vec::new() };
    let verifier = Believed { pins, chain, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(TrustError::Setup)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(Arc::new(builder.with_no_client_auth()))
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let file = |why: String| TrustError::File { path: path.to_owned(), why };
    let read = CertificateDer::pem_file_iter(path).map_err(|error| file(error.to_string()))?;
    let read: Result<Vec<_>, _> = read.collect();
    let read = read.map_err(|error| file(error.to_string()))?;
    if read.is_empty() { Err(file("nothing is in it".to_owned())) } else { Ok(read) }
}

/// Why a server was not believed, and the way out; none where it was something else.
pub(super) fn disbelief(error: &Error) -> Option<String> {
    let Error::InvalidCertificate(reason) = error else { return None };
    Some(match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired; give the domain controller a new one".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; look at the clocks of both hosts".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name; use the name it bears in url, or put this very \
             certificate into ca_file"
                .to_owned()
        }
        CertificateError::BadSignature => {
            "the authority of its certificate has the name of one known here, but another key; \
             name the right one with ca_file"
                .to_owned()
        }
        CertificateError::UnknownIssuer => {
            "its certificate is of an authority that is not known here; name the authority's \
             certificate with ca_file"
                .to_owned()
        }
        other => format!("its certificate is not believed ({other:?}); look at it with openssl"),
    })
}

#[derive(Debug)]
struct Believed {
    pins: Vec<CertificateDer<'static>>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Believed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pins.iter().any(|pin| pin.as_ref() == end_entity.as_ref()) {
            return dates(end_entity, now).map(|()| ServerCertVerified::assertion());
        }
        match &self.chain {
            Some(chain) => {
                chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
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

fn dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, read) = X509Certificate::from_der(certificate)
        .map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let now = ASN1Time::from_timestamp(seconds)
        .map_err(|_| Error::from(CertificateError::BadEncoding))?;
    if now < read.validity().not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > read.validity().not_after {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}
