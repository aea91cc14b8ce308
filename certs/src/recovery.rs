//! The recovery key: 256 random bits on a sheet of paper. Fourteen groups of five characters
//! (Crockford's base 32: no I, L, O or U; case does not matter); the last character of each
//! group checks it, so that a typing error is found and named by its group. The fourteenth
//! group checks the whole. Refuses to accept a key it is not certain of.

use std::fmt;
use std::str::FromStr;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::secret::{NoRandomness, random};

/// Bytes of a recovery key.
pub const RECOVERY_KEY_BYTES: usize = 32;
/// Groups of a printed recovery key.
pub const RECOVERY_GROUPS: usize = 14;
/// Characters of a group, the last of which checks the others.
pub const RECOVERY_GROUP_CHARS: usize = 5;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const SYMBOL_BITS: usize = 5;
const DATA_SYMBOLS_PER_GROUP: usize = RECOVERY_GROUP_CHARS - 1;
/// 256 bits are 51.2 symbols: 52, which is 13 groups.
const KEY_SYMBOLS: usize = 52;
const SYMBOLS: usize = RECOVERY_GROUPS * DATA_SYMBOLS_PER_GROUP;
const CHECK_CONTEXT: &str = "strongroom v1 recovery key checksum";

/// Why a text is not a recovery key. Groups count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryKeyError {
    /// A character that is in no recovery key.
    #[error("group {group} of the recovery key has a character that does not belong: {found:?}")]
    Character { group: usize, found: char },
    /// A group with a character too few or too many.
    #[error("group {group} of the recovery key has {chars} characters instead of 5")]
    GroupLength { group: usize, chars: usize },
    /// Not fourteen groups.
    #[error("the recovery key has {groups} groups instead of 14")]
    Groups { groups: usize },
    /// The check character of one group does not fit it.
    #[error("group {group} of the recovery key has a typo")]
    Typo { group: usize },
    /// Every group fits its own check and the whole does not.
    #[error("the recovery key has a typo")]
    TypoSomewhere,
}

/// 256 random bits that open what a lost passphrase cannot.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct RecoveryKey([u8; RECOVERY_KEY_BYTES]);

impl RecoveryKey {
    /// A new key; print it once, it is stored nowhere.
    pub fn generate() -> Result<Self, NoRandomness> {
        random().map(Self)
    }

    /// From the 32 bytes.
    pub const fn from_bytes(bytes: [u8; RECOVERY_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; RECOVERY_KEY_BYTES] {
        &self.0
    }

    /// The text to print: `XXXXX-XXXXX-...`, wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        let symbols = Zeroizing::new(symbols(&self.0));
        let mut text =
            Zeroizing::new(String::with_capacity(RECOVERY_GROUPS * (RECOVERY_GROUP_CHARS + 1)));
        for (index, group) in symbols.chunks(DATA_SYMBOLS_PER_GROUP).enumerate() {
            if index > 0 {
                text.push('-');
            }
            for &symbol in group {
                text.push(letter(symbol));
            }
            text.push(letter(check_symbol(index, group)));
        }
        text
    }
}

impl FromStr for RecoveryKey {
    type Err = RecoveryKeyError;

    fn from_str(text: &str) -> Result<Self, RecoveryKeyError> {
        let groups = split(text);
        let mut data = Zeroizing::new(Vec::with_capacity(SYMBOLS));
        // A group of the wrong length is named before a wrong count of groups: it explains more.
        for (index, group) in groups.iter().enumerate().take(RECOVERY_GROUPS) {
            let decoded = Zeroizing::new(decode_group(index, group)?);
            data.extend_from_slice(&decoded);
        }
        if groups.len() != RECOVERY_GROUPS {
            return Err(RecoveryKeyError::Groups { groups: groups.len() });
        }
        let key = Self(key_bytes(&data));
        let again = Zeroizing::new(symbols(&key.0));
        if *again == *data { Ok(key) } else { Err(RecoveryKeyError::TypoSomewhere) }
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

/// By the separators a person typed; a text without any is cut every five characters.
fn split(text: &str) -> Zeroizing<Vec<Vec<char>>> {
    let separates = |c: char| c == '-' || c == '_' || c == '.' || c.is_whitespace();
    let groups: Vec<Vec<char>> = text
        .split(separates)
        .filter(|group| !group.is_empty())
        .map(|group| group.chars().collect())
        .collect();
    let groups = Zeroizing::new(groups);
    match groups.as_slice() {
        [only] => Zeroizing::new(only.chunks(RECOVERY_GROUP_CHARS).map(<[char]>::to_vec).collect()),
        _ => groups,
    }
}

fn decode_group(index: usize, group: &[char]) -> Result<Vec<u8>, RecoveryKeyError> {
    let number = index + 1;
    if group.len() != RECOVERY_GROUP_CHARS {
        return Err(RecoveryKeyError::GroupLength { group: number, chars: group.len() });
    }
    let mut symbols = Zeroizing::new(Vec::with_capacity(RECOVERY_GROUP_CHARS));
    for &found in group {
        let known = symbol(found);
        symbols.push(known.ok_or(RecoveryKeyError::Character { group: number, found })?);
    }
    let (data, check) = symbols.split_at(DATA_SYMBOLS_PER_GROUP);
    if check == [check_symbol(index, data)] {
        Ok(data.to_vec())
    } else {
        Err(RecoveryKeyError::Typo { group: number })
    }
}

fn letter(symbol: u8) -> char {
    ALPHABET.get(usize::from(symbol)).map_or('?', |&b| char::from(b))
}

/// Letters easily taken for digits are read as the digits they look like.
fn symbol(letter: char) -> Option<u8> {
    let letter = match letter.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    ALPHABET.iter().zip(0..).find(|(known, _)| char::from(**known) == letter).map(|(_, s)| s)
}

/// The key's 52 symbols and four more that check it.
fn symbols(key: &[u8; RECOVERY_KEY_BYTES]) -> Vec<u8> {
    let hash = blake3::derive_key(CHECK_CONTEXT, key);
    let key_bits = (0..KEY_SYMBOLS).map(|index| take_symbol(key, index));
    key_bits.chain((0..SYMBOLS - KEY_SYMBOLS).map(|index| take_symbol(&hash, index))).collect()
}

fn take_symbol(bytes: &[u8], index: usize) -> u8 {
    (0..SYMBOL_BITS).fold(0, |symbol, offset| {
        let bit = index * SYMBOL_BITS + offset;
        let byte = bytes.get(bit / 8).copied().unwrap_or_default();
        (symbol << 1) | ((byte >> (7 - bit % 8)) & 1)
    })
}

fn key_bytes(symbols: &[u8]) -> [u8; RECOVERY_KEY_BYTES] {
    let mut key = [0; RECOVERY_KEY_BYTES];
    for (index, symbol) in symbols.iter().take(KEY_SYMBOLS).enumerate() {
        for offset in 0..SYMBOL_BITS {
            let bit = index * SYMBOL_BITS + offset;
            if let Some(byte) = key.get_mut(bit / 8) {
                *byte |= ((symbol >> (SYMBOL_BITS - 1 - offset)) & 1) << (7 - bit % 8);
            }
        }
    }
    key
}

/// A polynomial over GF(32) at a generator: any one wrong symbol and any two exchanged
/// neighbours change it. The group's number goes in, so exchanged groups are found too.
fn check_symbol(group: usize, data: &[u8]) -> u8 {
    let seed = u8::try_from(group + 1).unwrap_or_default();
    data.iter().fold(seed, |sum, symbol| times_generator(sum) ^ symbol)
}

/// Times x modulo x^5 + x^2 + 1.
const fn times_generator(value: u8) -> u8 {
    let shifted = value << 1;
    if shifted & 0x20 != 0 { (shifted ^ 0x25) & 0x1F } else { shifted & 0x1F }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RecoveryKey {
        RecoveryKey::from_bytes(std::array::from_fn(|i| (i * 37 + 5) as u8))
    }

    #[test]
    fn the_text_never_changes() {
        assert_eq!(
            sample().to_text().split('-').next_back().map(str::len),
            Some(RECOVERY_GROUP_CHARS)
        );
        assert_eq!(sample().to_text().len(), 14 * 5 + 13);
        assert_eq!(sample().to_text().parse(), Ok(sample()));
    }

    #[test]
    fn case_spaces_and_lookalikes_do_not_matter() {
        let text = sample().to_text().to_string();
        let loose = text.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
        assert_eq!(loose.parse(), Ok(sample()));
        assert_eq!(text.replace('-', "").parse(), Ok(sample()));
    }

    #[test]
    fn every_single_typo_is_named_by_its_group() {
        let text: Vec<char> = sample().to_text().chars().collect();
        for position in (0..text.len()).filter(|&position| text[position] != '-') {
            let group = position / 6 + 1;
            for &other in ALPHABET {
                let mut typo = text.clone();
                typo[position] = char::from(other);
                if typo != text {
                    let typo: String = typo.into_iter().collect();
                    let error = typo.parse::<RecoveryKey>().unwrap_err();
                    assert_eq!(error, RecoveryKeyError::Typo { group }, "{typo}");
                }
            }
        }
    }

    #[test]
    fn exchanged_neighbours_and_groups_are_found() {
        let text = sample().to_text().to_string();
        let groups: Vec<&str> = text.split('-').collect();
        let mut exchanged = groups.clone();
        exchanged.swap(3, 9);
        let error = exchanged.join("-").parse::<RecoveryKey>().unwrap_err();
        assert_eq!(error, RecoveryKeyError::Typo { group: 4 });
        let chars: Vec<char> = text.chars().collect();
        for position in 0..chars.len() - 1 {
            let pair = (chars[position], chars[position + 1]);
            if pair.0 != pair.1 && pair.0 != '-' && pair.1 != '-' {
                let mut swapped = chars.clone();
                swapped.swap(position, position + 1);
                let swapped: String = swapped.into_iter().collect();
                assert!(swapped.parse::<RecoveryKey>().is_err(), "{swapped}");
            }
        }
    }

    #[test]
    fn missing_and_foreign_characters_are_named() {
        let text = sample().to_text().to_string();
        let short = text.chars().take(40).chain(text.chars().skip(41)).collect::<String>();
        let error = short.parse::<RecoveryKey>().unwrap_err();
        assert_eq!(error, RecoveryKeyError::GroupLength { group: 7, chars: 4 });
        let foreign = format!("!{}", &text[1..]);
        let error = foreign.parse::<RecoveryKey>().unwrap_err();
        assert_eq!(error, RecoveryKeyError::Character { group: 1, found: '!' });
        let error = text[..text.len() - 6].parse::<RecoveryKey>().unwrap_err();
        assert_eq!(error, RecoveryKeyError::Groups { groups: 13 });
        assert!("".parse::<RecoveryKey>().is_err());
    }

    #[test]
    fn what_every_group_lets_pass_the_whole_refuses() {
        // Two keys, one group each from the other: each group fits its own check.
        let other = RecoveryKey::from_bytes([9; 32]).to_text().to_string();
        let text = sample().to_text().to_string();
        let mut groups: Vec<&str> = text.split('-').collect();
        groups[2] = other.split('-').nth(2).unwrap();
        let error = groups.join("-").parse::<RecoveryKey>().unwrap_err();
        assert_eq!(error, RecoveryKeyError::TypoSomewhere);
        assert_eq!(error.to_string(), "the recovery key has a typo");
    }
}
