//! Fuzz targets for what decides trust: enrolment tokens, signing requests, certificates and
//! recovery keys, all of which come from outside.

use data_encoding::BASE64URL_NOPAD;
use strongroom_certs::{
    Authority, CertRequest, Cost, KeyPair, Peer, RecoveryKey, Root, RootFingerprint, Secret, Token,
    TokenSecret,
};
use strongroom_protocol::{Identity, Role, Timestamp};

/// A token's text, and any bytes as the body of one whose checksum is right.
pub fn token(bytes: &[u8]) -> bool {
    let mut accepted = false;
    let check = blake3::derive_key("strongroom v1 token checksum", bytes);
    let body = BASE64URL_NOPAD.encode(&[bytes, &check[..4]].concat());
    let whole = format!("strongroom-token-1.{body}");
    for text in [std::str::from_utf8(bytes).unwrap_or_default(), &whole] {
        let Ok(token) = text.parse::<Token>() else { continue };
        let again = token.to_text().map(|text| text.parse::<Token>());
        assert_eq!(again.ok().and_then(Result::ok), Some(token), "a token changed by printing");
        accepted = true;
    }
    accepted
}

/// Recovery keys and fingerprints as a person types them.
pub fn typed(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let key = text.parse::<RecoveryKey>();
    if let Ok(key) = &key {
        let printed = key.to_text();
        assert!(printed.parse::<RecoveryKey>().is_ok_and(|again| again.to_text() == printed));
    }
    key.is_ok() || text.parse::<RootFingerprint>().is_ok()
}

/// DER from a peer: a signing request, and a chain whose leaf's length the first two bytes say.
pub fn der(bytes: &[u8]) -> bool {
    let request = CertRequest::parse(bytes);
    let Some((length, rest)) = bytes.split_first_chunk() else { return false };
    let (leaf, issuer) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    request.is_ok() || Peer::from_chain(&[leaf.into(), issuer.into()]).is_ok()
}

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// A token's line and its body.
pub(super) fn token_seeds() -> Vec<Vec<u8>> {
    let token = || {
        Some(Token {
            org: "acme".parse().ok()?,
            root: RootFingerprint([3; 32]),
            address: "vault.example:7441".to_owned(),
            site: "north".parse().ok()?,
            role: Role::Agent,
            name: "node-1".parse().ok(),
            secret: TokenSecret::from_bytes([4; 16]),
            expires: NOW,
        })
    };
    let Some(token) = token() else { return Vec::new() };
    let line = token.to_text().map(|text| text.as_bytes().to_vec()).ok();
    line.into_iter().chain(postcard::to_allocvec(&token).ok()).collect()
}

/// Keys as printed.
pub(super) fn typed_seeds() -> Vec<Vec<u8>> {
    let key = RecoveryKey::generate().map(|key| key.to_text().as_bytes().to_vec());
    let fingerprint = RootFingerprint([3; 32]).to_string().into_bytes();
    key.into_iter().chain([fingerprint]).collect()
}

/// A signing request and a node's chain, as [`der`] reads them.
pub(super) fn der_seeds() -> Vec<Vec<u8>> {
    made().unwrap_or_default()
}

fn made() -> anyhow::Result<Vec<Vec<u8>>> {
    let key = KeyPair::generate()?;
    let identity: Identity = "strongroom://acme/site/north/agent/node-1".parse()?;
    let request = CertRequest::make(&identity, &key)?;
    let (secret, recovery) = (Secret::new(b"word".to_vec()), RecoveryKey::generate()?);
    let root = Root::create(&identity.org, &secret, &recovery, Cost::TESTING, NOW)?;
    let site: Authority = root.issue_site(&identity.site, NOW)?;
    let chain = site.issue_request(&CertRequest::parse(&request)?, &identity, NOW, 3600)?;
    let (leaf, issuer) = (&chain.leaf[..], &chain.intermediate[..]);
    Peer::from_chain(&[leaf.into(), issuer.into()])?;
    let length = u16::try_from(leaf.len())?.to_le_bytes();
    Ok(vec![request, [&length[..], leaf, issuer].concat()])
}
