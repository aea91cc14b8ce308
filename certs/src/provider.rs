//! The cryptography of the handshake: aws-lc, TLS 1.3, Ed25519 signatures only, and a key
//! exchange that a recording kept for later quantum computers does not open. Refuses to fall
//! back to anything weaker.

use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use strongroom_protocol::Clock;

/// Everything but Ed25519 is taken out: certificates with other keys are not ours.
pub(crate) fn provider() -> Result<Arc<CryptoProvider>, rustls::Error> {
    let mut provider = default_provider();
    // Backups are secret for decades: the hybrid group first, plain X25519 for older peers.
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519];
    provider.signature_verification_algorithms = algorithms()?;
    Ok(Arc::new(provider))
}

pub(crate) fn algorithms() -> Result<WebPkiSupportedAlgorithms, rustls::Error> {
    let all = default_provider().signature_verification_algorithms.mapping;
    let ed25519 = all.iter().find(|(scheme, _)| *scheme == SignatureScheme::ED25519);
    let entry = ed25519
        .ok_or_else(|| rustls::Error::General("the TLS library has no Ed25519".to_owned()))?;
    Ok(WebPkiSupportedAlgorithms { all: entry.1, mapping: std::slice::from_ref(entry) })
}

/// The product's clock, as rustls wants it.
pub(crate) struct ClockTime(pub(crate) Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().unix_seconds()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}
