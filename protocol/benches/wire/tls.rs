//! Mutual TLS between two ends with certificates of their own making.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;

/// The server's side and the client's; both prove themselves.
pub(crate) fn mutual() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let alpn = strongroom_protocol::ALPN_NODE.to_vec();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (server, client) = (Identity::fresh(), Identity::fresh());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(client.roots(), Arc::clone(&provider));
    let mut accepting = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![server.certificate.clone()], server.key())
        .unwrap();
    accepting.alpn_protocols = vec![alpn.clone()];
    let mut dialling = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(server.roots())
        .with_client_auth_cert(vec![client.certificate.clone()], client.key())
        .unwrap();
    dialling.alpn_protocols = vec![alpn];
    (Arc::new(accepting), Arc::new(dialling))
}

struct Identity {
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    fn fresh() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let params = rcgen::CertificateParams::new(vec!["strongroom.invalid".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, key: key.serialize_der() }
    }

    fn key(&self) -> rustls::pki_types::PrivateKeyDer<'static> {
        rustls::pki_types::PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }
}
