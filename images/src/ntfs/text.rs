//! UTF-16 as it lies on disk, and WTF-8 as the rest of the world names things: what is no UTF-16
//! in the strict sense keeps its meaning.

/// Little-endian UTF-16 of a text.
pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// UTF-16 as WTF-8: a surrogate without its other half becomes three bytes of its own.
pub(super) fn wtf8(bytes: &[u8]) -> Vec<u8> {
    let units = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let mut name = Vec::with_capacity(bytes.len());
    for decoded in char::decode_utf16(units) {
        match decoded {
            Ok(letter) => name.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(alone) => {
                let unit = alone.unpaired_surrogate();
                let low = |shift: u16| 0x80 | (unit >> shift & 0x3f) as u8;
                name.extend_from_slice(&[0xe0 | (unit >> 12) as u8, low(6), low(0)]);
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_letter_is_kept() {
        assert_eq!(wtf8(&utf16("größe 𝄞")), "größe 𝄞".as_bytes());
        assert_eq!(wtf8(&[0x61, 0, 0x00, 0xd8, 0x62, 0]), b"a\xed\xa0\x80b");
    }
}
