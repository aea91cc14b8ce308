//! What bytes look like, from a few kilobytes of them: whether counting alone says that they
//! shrink, and which tables of the compressor suit them.

/// Plaintexts shorter than this are compressed without asking: asking would cost as much.
pub(super) const SAMPLED_BYTES_MIN: usize = 64 << 10;
/// Bytes of each piece of a sample.
const PIECE_BYTES: usize = 4 << 10;
/// Pieces of a sample: head, middle and tail.
const PIECES: usize = 3;
/// One byte in this many may be none of text.
const ODD_PARTS: usize = 32;
/// As uneven as bytes that need at most six and a half of eight bits.
const EVEN_SYMBOLS: u64 = 90;

/// Which tables suit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Texture {
    Binary,
    Text,
}

impl Texture {
    /// Chain log, hash log and shortest match of zstd's double-fast search. Measured on d1 and
    /// d4: as fast as level 2 within a tenth, and 2 % denser.
    pub(super) const fn tables(self) -> (u32, u32, u32) {
        match self {
            Self::Binary => (14, 15, 5),
            Self::Text => (15, 16, 6),
        }
    }
}

/// A few kilobytes of a plaintext, counted.
pub(super) struct Sample {
    bytes: Vec<u8>,
    counts: [u32; 256],
}

impl Sample {
    /// Head, middle and tail; all of a short one.
    pub(super) fn of(plain: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(PIECE_BYTES * PIECES);
        if plain.len() < SAMPLED_BYTES_MIN {
            bytes.extend_from_slice(plain.get(..PIECE_BYTES).unwrap_or(plain));
        } else {
            let stride = (plain.len() - PIECE_BYTES) / (PIECES - 1);
            for start in (0..PIECES).map(|n| n * stride) {
                bytes.extend_from_slice(plain.get(start..start + PIECE_BYTES).unwrap_or_default());
            }
        }
        let mut counts = [0; 256];
        for byte in &bytes {
            if let Some(count) = counts.get_mut(usize::from(*byte)) {
                *count += 1;
            }
        }
        Self { bytes, counts }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether some bytes are so much more frequent than others that it shrinks whatever their
    /// order is.
    pub(super) fn is_skewed(&self) -> bool {
        let all = self.bytes.len() as u64;
        let squares: u64 = self.counts.iter().map(|count| u64::from(*count).pow(2)).sum();
        squares * EVEN_SYMBOLS > all * all
    }

    pub(super) fn texture(&self) -> Texture {
        let is_text = |byte: usize| matches!(byte, 0x09 | 0x0a | 0x0d | 0x20..=0x7e);
        let odd = self.counts.iter().enumerate().filter(|(byte, _)| !is_text(*byte));
        let odd: usize = odd.map(|(_, count)| *count as usize).sum();
        if odd * ODD_PARTS <= self.bytes.len() { Texture::Text } else { Texture::Binary }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_noise_and_code_are_told_apart() {
        let mut noise = vec![0; 200_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let text = b"fn main() { println!(\"one line\"); }\n".repeat(5000);
        let code: Vec<u8> =
            noise.iter().map(|byte| if byte & 1 == 0 { 0 } else { *byte }).collect();
        for (bytes, texture, skewed) in [
            (&noise, Texture::Binary, false),
            (&text, Texture::Text, true),
            (&code, Texture::Binary, true),
        ] {
            let sample = Sample::of(bytes);
            assert_eq!((sample.texture(), sample.is_skewed()), (texture, skewed));
            assert_eq!(sample.bytes().len(), PIECE_BYTES * PIECES);
        }
        assert_eq!(Sample::of(b"short").bytes(), b"short");
    }
}
