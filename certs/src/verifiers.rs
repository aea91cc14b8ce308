//! The verifiers that rustls calls: thin, every decision is made in `verify`. The time is the
//! configuration's clock. Refuses TLS 1.2 signatures outright.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use strongroom_protocol::Timestamp;

use crate::peer::PeerError;
use crate::provider::algorithms;
use crate::revoked::Revocations;
use crate::trust::{RootFingerprint, TrustRoot};
use crate::verify::{Expect, SCHEMES, Usage, VerifyError, verify_chain};

/// Believes chains of one root that are not revoked. As a client verifier it also lets pass
/// clients without a certificate: see `tls`.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) root: TrustRoot,
    pub(crate) expect: Expect,
    pub(crate) revocations: Arc<Revocations>,
}

impl Judge {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let peer = verify_chain(chain, &self.root, &self.expect, usage, timestamp(now));
        logged(peer.and_then(|peer| {
            if self.revocations.is_revoked(&peer) {
                return Err(VerifyError::Revoked { identity: Box::new(peer.identity) });
            }
            Ok(())
        }))
    }
}

/// What rustls passes on names no identity; the log does.
fn logged(verdict: Result<(), VerifyError>) -> Result<(), Error> {
    verdict.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::info!(%error, cause, "a peer's certificate is refused");
        error.into()
    })
}

impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(&whole(end_entity, intermediates), Usage::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms()?)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

/// A server of a root we know.
#[derive(Debug)]
pub(crate) struct KnownServer(pub(crate) Judge);

impl KnownServer {
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        self.0.judge(chain, Usage::Server, now)
    }
}

/// A server of which only the root's fingerprint is known.
#[derive(Debug)]
pub(crate) struct PinnedServer {
    pub(crate) pinned: RootFingerprint,
    pub(crate) expect: Expect,
}

impl PinnedServer {
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        logged(self.judge(chain, timestamp(now)))
    }

    fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), VerifyError> {
        let [_, _, root] = chain else {
            return Err(PeerError::Shape { certificates: chain.len() }.into());
        };
        let found = RootFingerprint::of(root);
        if found != self.pinned {
            return Err(VerifyError::OtherRoot { pinned: self.pinned, found });
        }
        let root = TrustRoot::from_der(root.clone().into_owned())?;
        verify_chain(chain, &root, &self.expect, Usage::Server, now).map(|_| ())
    }
}

/// The two server verifiers differ in `verify` only.
macro_rules! server_verifier {
    ($name:ident) => {
        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                end_entity: &CertificateDer<'_>,
                intermediates: &[CertificateDer<'_>],
                _server_name: &ServerName<'_>,
                _ocsp_response: &[u8],
                now: UnixTime,
            ) -> Result<ServerCertVerified, Error> {
                self.verify(&whole(end_entity, intermediates), now)?;
                Ok(ServerCertVerified::assertion())
            }

            fn verify_tls12_signature(
                &self,
                _message: &[u8],
                _cert: &CertificateDer<'_>,
                _dss: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                Err(PeerIncompatible::Tls12NotOffered.into())
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                cert: &CertificateDer<'_>,
                dss: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                verify_tls13_signature(message, cert, dss, &algorithms()?)
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                SCHEMES.to_vec()
            }
        }
    };
}

server_verifier!(KnownServer);
server_verifier!(PinnedServer);

fn whole<'a>(
    end_entity: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    let borrowed = |der: &'a CertificateDer<'_>| CertificateDer::from_slice(der.as_ref());
    std::iter::once(end_entity).chain(intermediates).map(borrowed).collect()
}

fn timestamp(now: UnixTime) -> Timestamp {
    Timestamp::from_unix_seconds(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}
