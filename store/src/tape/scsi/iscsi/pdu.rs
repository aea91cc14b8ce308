//! Messages of iSCSI: a head of 48 bytes and data, filled up to four bytes. Promises that no
//! more is read than the head says and the caller allows. Digests are not negotiated.

use std::io::{self, Read, Write};

const HEAD_BYTES: usize = 48;
/// Data up to here goes out with its head in one piece.
const TOGETHER_BYTES_MAX: usize = 16 << 10;

/// What a message is for.
pub(super) mod opcode {
    pub(crate) const ASYNC: u8 = 0x32;
    pub(crate) const COMMAND: u8 = 0x01;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const DATA_OUT: u8 = 0x05;
    /// At once, outside the order of commands, as are login and logout.
    pub(crate) const LOGIN: u8 = 0x43;
    pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
    pub(crate) const LOGOUT: u8 = 0x46;
    pub(crate) const LOGOUT_RESPONSE: u8 = 0x26;
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const NOP_OUT: u8 = 0x40;
    pub(crate) const R2T: u8 = 0x31;
    pub(crate) const REJECT: u8 = 0x3f;
    pub(crate) const RESPONSE: u8 = 0x21;
}

/// The head of a message to be sent.
pub(super) struct Head([u8; HEAD_BYTES]);

impl Head {
    pub(super) const fn new(opcode: u8, flags: u8) -> Self {
        let mut head = [0; HEAD_BYTES];
        head[0] = opcode;
        head[1] = flags;
        Self(head)
    }

    pub(super) fn set(&mut self, at: usize, bytes: &[u8]) {
        let end = (at + bytes.len()).min(HEAD_BYTES);
        self.0[at..end].copy_from_slice(&bytes[..end - at]);
    }

    pub(super) fn set_word(&mut self, at: usize, word: u32) {
        self.set(at, &word.to_be_bytes());
    }
}

/// Sends a message.
pub(super) fn send(stream: &mut impl Write, mut head: Head, data: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let length = u32::try_from(data.len()).map_err(too_long)?;
    let [_, a, b, c] = length.to_be_bytes();
    head.set(5, &[a, b, c]);
    let fill = &[0; 3][..data.len().next_multiple_of(4) - data.len()];
    if data.len() <= TOGETHER_BYTES_MAX {
        return stream.write_all(&[&head.0[..], data, fill].concat());
    }
    stream.write_all(&head.0)?;
    stream.write_all(data)?;
    stream.write_all(fill)
}

/// The head of a message that came.
pub(super) struct HeadReader([u8; HEAD_BYTES]);

impl HeadReader {
    pub(super) fn receive(stream: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; HEAD_BYTES];
        stream.read_exact(&mut head)?;
        let head = Self(head);
        let mut more = vec![0; usize::from(head.byte(4)) * 4];
        stream.read_exact(&mut more)?;
        Ok(head)
    }

    pub(super) const fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    pub(super) fn bytes(&self, at: usize, length: usize) -> &[u8] {
        &self.0[at..at + length]
    }

    pub(super) const fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    pub(super) const fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    pub(super) const fn flags(&self) -> u8 {
        self.0[1]
    }

    pub(super) const fn data_bytes(&self) -> usize {
        (self.word(4) & 0x00ff_ffff) as usize
    }

    /// The data behind it, at most `limit` bytes.
    pub(super) fn receive_data(&self, stream: &mut impl Read, limit: usize) -> io::Result<Vec<u8>> {
        if self.data_bytes() > limit {
            let text = format!("iSCSI: {} bytes where {limit} may be", self.data_bytes());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut data = vec![0; self.data_bytes()];
        receive_into(stream, &mut data)?;
        Ok(data)
    }
}

/// Data that fills `into`, and what fills it up.
pub(super) fn receive_into(stream: &mut impl Read, into: &mut [u8]) -> io::Result<()> {
    stream.read_exact(into)?;
    let mut fill = [0; 3];
    stream.read_exact(&mut fill[..into.len().next_multiple_of(4) - into.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        for length in [0, 1, 3, 4, 5, TOGETHER_BYTES_MAX + 1] {
            let data: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut head = Head::new(opcode::DATA_OUT, 0x80);
            head.set_word(40, 0x0102_0304);
            let mut wire = Vec::new();
            send(&mut wire, head, &data).unwrap();
            assert_eq!(wire.len() % 4, 0);
            let mut rest = wire.as_slice();
            let head = HeadReader::receive(&mut rest).unwrap();
            assert_eq!((head.opcode(), head.flags(), head.word(40)), (5, 0x80, 0x0102_0304));
            assert_eq!(head.receive_data(&mut rest, 1 << 20).unwrap(), data);
            assert!(rest.is_empty());
        }
        let mut wire = Vec::new();
        send(&mut wire, Head::new(opcode::RESPONSE, 0), &[0; 100]).unwrap();
        let head = HeadReader::receive(&mut wire.as_slice()).unwrap();
        assert!(head.receive_data(&mut &wire[48..], 99).is_err());
    }
}
