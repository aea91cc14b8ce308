//! A one-time token as a person copies it from one screen to another: one line that names the
//! enrolling node, pins the organisation's root and carries a secret. Refuses text that was cut
//! or changed on the way, and says so.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strongroom_protocol::{Identity, NodeName, OrgName, Role, SiteName, Timestamp};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::secret::{NoRandomness, random};
use crate::trust::RootFingerprint;

/// Bytes of a token's secret: too many to guess, so wrong guesses need not be counted.
pub const TOKEN_SECRET_BYTES: usize = 16;
/// Longest text that is looked at; tokens have about 250 characters.
pub const TOKEN_CHARS_MAX: usize = 1024;
/// Longest `host:port`; DNS allows 253 for the name.
pub const ADDRESS_BYTES_MAX: usize = 300;
const PREFIX: &str = "strongroom-token-";
const VERSION: &str = "1";
const CHECKSUM_BYTES: usize = 4;

/// Why a text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The address cannot be dialled.
    #[error("the token names no usable address (host:port)")]
    Address,
    /// Characters are missing, added or changed.
    #[error("the token is damaged: characters are missing or changed; copy the whole line again")]
    Damaged,
    /// No randomness for the secret.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// Something else was pasted.
    #[error("this is not an enrolment token (they begin with strongroom-token-1.)")]
    NotAToken,
    /// Of a later version of this program.
    #[error("the token is of a version this program does not know; update this node first")]
    Version,
}

/// The secret of a token; never printed but in the token's own text.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct TokenSecret([u8; TOKEN_SECRET_BYTES]);

impl TokenSecret {
    /// A new secret.
    pub fn generate() -> Result<Self, NoRandomness> {
        random().map(Self)
    }

    /// From the bytes a node has sent.
    pub const fn from_bytes(bytes: [u8; TOKEN_SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be sent to the enrolling node and to nobody else.
    pub const fn as_bytes(&self) -> &[u8; TOKEN_SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// A one-time right to become a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub org: OrgName,
    pub root: RootFingerprint,
    /// Where the enrolling node listens, `host:port`: a hint, the pin decides.
    pub address: String,
    pub site: SiteName,
    pub role: Role,
    /// The only name it may be used for; without, the node chooses.
    pub name: Option<NodeName>,
    pub secret: TokenSecret,
    pub expires: Timestamp,
}

impl Token {
    /// The line to copy, wiped when dropped.
    pub fn to_text(&self) -> Result<Zeroizing<String>, TokenError> {
        if !usable_address(&self.address) {
            return Err(TokenError::Address);
        }
        let mut bytes = Zeroizing::new(postcard::to_stdvec(self).map_err(|_| TokenError::Address)?);
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        let body = Zeroizing::new(data_encoding::BASE64URL_NOPAD.encode(&bytes));
        Ok(Zeroizing::new(format!("{PREFIX}{VERSION}.{}", *body)))
    }

    /// Who the holder will be when it chooses `name`; the token's own name comes first.
    pub fn identity(&self, name: &NodeName) -> Identity {
        Identity {
            org: self.org.clone(),
            site: self.site.clone(),
            role: self.role,
            name: self.name.as_ref().unwrap_or(name).clone(),
        }
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Spaces and line breaks are dropped: terminals put them in.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_CHARS_MAX {
            return Err(TokenError::NotAToken);
        }
        let text: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect());
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        let (version, body) = rest.split_once('.').ok_or(TokenError::Damaged)?;
        if version != VERSION {
            return Err(TokenError::Version);
        }
        let bytes = data_encoding::BASE64URL_NOPAD.decode(body.as_bytes());
        let bytes = Zeroizing::new(bytes.map_err(|_| TokenError::Damaged)?);
        let (body, check) = bytes.split_last_chunk().ok_or(TokenError::Damaged)?;
        if checksum(body) != *check {
            return Err(TokenError::Damaged);
        }
        let token: Self = postcard::from_bytes(body).map_err(|_| TokenError::Damaged)?;
        if usable_address(&token.address) { Ok(token) } else { Err(TokenError::Address) }
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = blake3::derive_key("strongroom v1 token checksum", bytes);
    [a, b, c, d]
}

/// `host:port` with something on both sides; whether it answers is found out by dialling.
fn usable_address(address: &str) -> bool {
    let plain = address.len() <= ADDRESS_BYTES_MAX && !address.contains(char::is_whitespace);
    let parts = address.rsplit_once(':');
    plain && parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            org: "acme".parse().unwrap(),
            root: RootFingerprint([7; 32]),
            address: "coordinator.a.example:7433".to_owned(),
            site: "a".parse().unwrap(),
            role: Role::Agent,
            name: Some("db1".parse().unwrap()),
            secret: TokenSecret::from_bytes([9; 16]),
            expires: Timestamp::from_unix_seconds(2_000_000_000),
        }
    }

    #[test]
    fn is_one_line_and_survives_a_terminal() {
        let text = token().to_text().unwrap();
        assert!(text.len() < 256 && !text.contains(char::is_whitespace), "{}", text.len());
        assert_eq!(text.parse(), Ok(token()));
        let broken = format!("  {}\r\n {}\n", &text[..80], &text[80..]);
        assert_eq!(broken.parse(), Ok(token()));
    }

    #[test]
    fn every_changed_or_missing_character_is_noticed() {
        let text = token().to_text().unwrap().to_string();
        for at in 0..text.len() {
            let other = if text.as_bytes()[at] == b'x' { "y" } else { "x" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(changed.parse::<Token>().is_err(), "{changed}");
            let cut = text[..at].parse::<Token>().unwrap_err();
            let expected = [TokenError::Damaged, TokenError::NotAToken];
            assert!(expected.contains(&cut), "{cut:?}");
        }
        let later = text.replacen("-1.", "-2.", 1);
        assert_eq!(later.parse::<Token>(), Err(TokenError::Version));
        assert_eq!("hello".parse::<Token>(), Err(TokenError::NotAToken));
    }

    #[test]
    fn an_address_that_cannot_be_dialled_is_refused() {
        for address in ["", "host", ":7433", "host:port", "a b:1"] {
            let token = Token { address: address.to_owned(), ..token() };
            assert_eq!(token.to_text().unwrap_err(), TokenError::Address, "{address}");
        }
    }

    #[test]
    fn debug_keeps_the_secret() {
        assert!(!format!("{:?}", token()).contains("9, 9"));
    }

    #[test]
    fn its_own_name_comes_before_the_chosen_one() {
        let chosen: NodeName = "db2".parse().unwrap();
        assert_eq!(token().identity(&chosen).name.as_str(), "db1");
        let free = Token { name: None, ..token() };
        assert_eq!(free.identity(&chosen).to_string(), "strongroom://acme/site/a/agent/db2");
    }
}
