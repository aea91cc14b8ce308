//! How a block or filemark lies in a cartridge file of the virtual library: a checked head,
//! then the block's bytes. Refuses a head whose check fails, so that a torn tail and a
//! flipped bit are both seen.

/// Bytes of a head.
pub(super) const FRAME_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"SRBK";

/// What a frame frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FrameKind {
    Block,
    Filemark,
}

/// The head of one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    /// Bytes that follow the head.
    pub(super) bytes: u32,
    /// Records before this one on the cartridge.
    pub(super) number: u32,
    /// Filemarks before this one on the cartridge.
    pub(super) file: u32,
    /// The first 8 bytes of BLAKE3 over the block.
    pub(super) check: [u8; 8],
}

impl Frame {
    pub(super) fn encode(&self) -> [u8; FRAME_BYTES] {
        let kind = match self.kind {
            FrameKind::Block => 1u8,
            FrameKind::Filemark => 2,
        };
        let mut head = [0u8; FRAME_BYTES];
        head[0..4].copy_from_slice(&MAGIC);
        head[4] = kind;
        head[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        head[12..16].copy_from_slice(&self.number.to_le_bytes());
        head[16..20].copy_from_slice(&self.file.to_le_bytes());
        head[20..28].copy_from_slice(&self.check);
        let check = check_of(&head[..28]);
        head[28..32].copy_from_slice(&check[..4]);
        head
    }

    pub(super) fn decode(head: &[u8]) -> Option<Self> {
        let head: &[u8; FRAME_BYTES] = head.first_chunk()?;
        if head[0..4] != MAGIC || check_of(&head[..28])[..4] != head[28..32] {
            return None;
        }
        let kind = match head[4] {
            1 => FrameKind::Block,
            2 => FrameKind::Filemark,
            _ => return None,
        };
        let word = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            u32::from_le_bytes(bytes)
        };
        let mut check = [0; 8];
        check.copy_from_slice(&head[20..28]);
        Some(Self { kind, bytes: word(8), number: word(12), file: word(16), check })
    }
}

/// The first 8 bytes of BLAKE3.
pub(super) fn check_of(bytes: &[u8]) -> [u8; 8] {
    let mut check = [0; 8];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    check
}

/// The first whole head in `window` numbered after `number`, with its place.
pub(super) fn find_frame(window: &[u8], number: u32) -> Option<(usize, Frame)> {
    let starts = window.windows(FRAME_BYTES).enumerate();
    starts
        .filter(|(_, head)| head.starts_with(&MAGIC))
        .filter_map(|(at, head)| Frame::decode(head).map(|frame| (at, frame)))
        .find(|(_, frame)| frame.number > number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_head_is_seen() {
        let frame = Frame { kind: FrameKind::Block, bytes: 7, number: 3, file: 1, check: [9; 8] };
        let head = frame.encode();
        assert_eq!(Frame::decode(&head), Some(frame));
        for bit in 0..FRAME_BYTES * 8 {
            let mut flipped = head;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Frame::decode(&flipped), None, "bit {bit}");
        }
    }
}
