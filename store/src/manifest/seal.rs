//! Seals and opens the body of a point with the point's own key, bound to its head.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use strongroom_protocol::PointId;

use crate::keys::VaultKey;
use crate::manifest::ManifestError;

const NONCE_BYTES: usize = 12;

/// A fresh nonce and the sealed body.
pub(super) fn seal(
    vault_key: &VaultKey,
    epoch: u32,
    point: PointId,
    head: &[u8],
    mut body: Vec<u8>,
) -> Result<([u8; NONCE_BYTES], Vec<u8>), ManifestError> {
    let mut nonce = [0; NONCE_BYTES];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| ManifestError::NoRandomness)?;
    let key = key_of(vault_key, epoch, point)?;
    let sealed = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(sealed, Aad::from(head), &mut body)
        .map_err(|_| ManifestError::Sealed { point })?;
    Ok((nonce, body))
}

/// The body, if the key and the head are those it was sealed with.
pub(super) fn open(
    vault_key: &VaultKey,
    epoch: u32,
    point: PointId,
    head: &[u8],
    nonce: [u8; NONCE_BYTES],
    sealed: &[u8],
) -> Result<Vec<u8>, ManifestError> {
    let key = key_of(vault_key, epoch, point)?;
    let mut body = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let length = key
        .open_in_place(nonce, Aad::from(head), &mut body)
        .map_err(|_| ManifestError::Sealed { point })?
        .len();
    body.truncate(length);
    Ok(body)
}

fn key_of(key: &VaultKey, epoch: u32, point: PointId) -> Result<LessSafeKey, ManifestError> {
    let known = key.epoch();
    let key = key.point_key(epoch, point);
    let key = key.ok_or(ManifestError::Epoch { point, epoch, known })?;
    let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| ManifestError::Sealed { point })?;
    Ok(LessSafeKey::new(key))
}
