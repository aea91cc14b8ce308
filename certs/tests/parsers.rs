//! Whatever bytes arrive, the parsers answer and do not panic; and what was printed is read
//! back as it was.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use strongroom_certs::{
    CertRequest, KeyPair, Peer, RecoveryKey, RootFingerprint, Secret, Serial, Token, TrustRoot,
    Wrapped,
};
use strongroom_protocol::Identity;

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(CertRequest::parse(&bytes).is_err());
        let der = CertificateDer::from(bytes.clone());
        prop_assert!(Peer::from_chain(&[der.clone(), der.clone()]).is_err());
        prop_assert!(TrustRoot::from_der(der).is_err());
        prop_assert!(KeyPair::from_pkcs8(&Secret::new(bytes.clone())).is_err());
        // A record may decode; that it opens is what its checksum prevents.
        postcard::from_bytes::<Wrapped>(&bytes).ok();
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in any::<String>()) {
        prop_assert!(text.parse::<RecoveryKey>().is_err());
        prop_assert!(text.parse::<Token>().is_err());
        let body = format!("strongroom-token-1.{text}");
        prop_assert!(body.parse::<Token>().is_err());
        prop_assert!(text.parse::<RootFingerprint>().is_err());
        prop_assert!(text.parse::<Serial>().is_err());
    }

    #[test]
    fn a_request_with_one_byte_changed_never_asks_for_something_else(
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let key = KeyPair::generate().unwrap();
        let identity: Identity = "strongroom://acme/site/a/agent/db1".parse().unwrap();
        let mut der = CertRequest::make(&identity, &key).unwrap();
        let at = at.index(der.len());
        der[at] ^= flip;
        // The frame around what is signed has bits that mean nothing; the content has none.
        if let Ok(parsed) = CertRequest::parse(&der) {
            let asked = CertRequest { identity, public_key: key.public() };
            prop_assert_eq!(parsed, asked, "byte {} xor {}", at, flip);
        }
    }

    #[test]
    fn every_recovery_key_is_read_back(bytes in any::<[u8; 32]>()) {
        let key = RecoveryKey::from_bytes(bytes);
        prop_assert_eq!(key.to_text().parse::<RecoveryKey>().unwrap(), key);
    }
}
