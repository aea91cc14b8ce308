//! Bytes nobody may see: wiped when dropped, never printed, and the source of new ones. The
//! randomness is the operating system's and is never handed in: a key must not be repeatable.

use std::fmt;

use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Secret bytes; `Debug` prints nothing of them and dropping wipes them.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; other copies of them are the caller's to wipe.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, named so that every use is easy to find.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// By what it holds.
impl ZeroizeOnDrop for Secret {}

impl Clone for Secret {
    fn clone(&self) -> Self {
        Self::new(self.expose().to_vec())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The operating system gave no random bytes: nothing secret can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system has no random bytes to give")]
pub struct NoRandomness;

/// Fresh bytes from the operating system's generator.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::RecoveryKey;
    use crate::token::TokenSecret;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::from("correct horse");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(..) Some(Secret(..))");
        let key = RecoveryKey::from_bytes([77; 32]);
        let token = TokenSecret::from_bytes([77; 16]);
        assert_eq!(format!("{key:?} {token:?}"), "RecoveryKey(..) TokenSecret(..)");
    }

    #[test]
    fn what_opens_something_is_wiped() {
        const fn wiped<T: ZeroizeOnDrop>() {}
        wiped::<Secret>();
        wiped::<RecoveryKey>();
        wiped::<TokenSecret>();
        wiped::<Zeroizing<[u8; 32]>>();
        wiped::<Zeroizing<Vec<argon2::Block>>>();
    }
}
