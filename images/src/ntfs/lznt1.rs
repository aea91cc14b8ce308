//! LZNT1, the compression of files: chunks of 4096 bytes, each stored or of back references whose
//! width depends on how far the chunk has come. Own code, because it is sixty lines and the crates
//! for it allocate what the input says.

/// A chunk holds so much at most.
const CHUNK_BYTES: usize = 4096;
const COMPRESSED: u16 = 0x8000;

/// Unpacks into all of `into`; what the input does not reach is zeros. The error says what is
/// wrong and at which byte of the input.
pub(super) fn unpack(from: &[u8], into: &mut [u8]) -> Result<(), (usize, &'static str)> {
    into.fill(0);
    let mut at = 0;
    for chunk in into.chunks_mut(CHUNK_BYTES) {
        let Some(head) = from.get(at..).and_then(|rest| rest.first_chunk::<2>()) else {
            return Ok(());
        };
        let head = u16::from_le_bytes(*head);
        if head == 0 {
            return Ok(());
        }
        let length = usize::from(head & 0xfff) + 1;
        let body = from.get(at + 2..).and_then(|rest| rest.get(..length));
        let body = body.ok_or((at, "a chunk ends beyond the end"))?;
        if head & COMPRESSED == 0 {
            let length = length.min(chunk.len());
            chunk[..length].copy_from_slice(&body[..length]);
        } else {
            unpack_chunk(body, chunk).map_err(|(more, why)| (at + 2 + more, why))?;
        }
        at += 2 + length;
    }
    Ok(())
}

fn unpack_chunk(body: &[u8], into: &mut [u8]) -> Result<(), (usize, &'static str)> {
    let (mut at, mut done) = (0, 0);
    while let Some(&flags) = body.get(at) {
        at += 1;
        for bit in 0..8 {
            let Some(&byte) = body.get(at) else { return Ok(()) };
            if done >= into.len() {
                return Err((at, "a chunk unpacks to more than it may"));
            }
            if flags >> bit & 1 == 0 {
                into[done] = byte;
                (at, done) = (at + 1, done + 1);
                continue;
            }
            let Some(&second) = body.get(at + 1) else {
                return Err((at, "a reference is cut off"));
            };
            let token = u16::from_le_bytes([byte, second]);
            let (back, length) = reference(token, done);
            if back > done || length > into.len() - done {
                return Err((at, "a reference leads out of its chunk"));
            }
            for index in done..done + length {
                into[index] = into[index - back];
            }
            (at, done) = (at + 2, done + length);
        }
    }
    Ok(())
}

/// How far back, and how much. The farther a chunk has come, the more bits are for the distance.
fn reference(token: u16, done: usize) -> (usize, usize) {
    let mut length_bits = 12;
    let mut reach = done.saturating_sub(1);
    while reach >= 0x10 {
        length_bits -= 1;
        reach >>= 1;
    }
    let token = usize::from(token);
    ((token >> length_bits) + 1, (token & ((1 << length_bits) - 1)) + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_protocol_documents_unpacks() {
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2,
            0x47, 0x01, 0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0,
            0x45, 0x20, 0x05, 0x24, 0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58,
            0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01,
            0x18, 0x90, 0x00,
        ];
        let plain = b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E \
                      F# D E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D";
        let mut into = vec![1; 200];
        unpack(&packed, &mut into).unwrap();
        assert_eq!(&into[..plain.len()], plain);
        assert!(into[plain.len() + 1..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_leads_out_is_refused() {
        let mut into = [0; 4096];
        assert_eq!(unpack(&[0x02, 0xb0, 1, 0, 0], &mut into), Err((3, LEADS_OUT)));
        assert!(unpack(&[0x09, 0xb0, 1], &mut into).is_err());
        assert_eq!(unpack(&[], &mut into), Ok(()));
        let mut small = [0; 4];
        assert_eq!(unpack(&[0x03, 0xb0, 2, b'a', 0xff, 0x0f], &mut small), Err((4, LEADS_OUT)));
    }

    const LEADS_OUT: &str = "a reference leads out of its chunk";
}
