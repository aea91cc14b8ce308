//! iSCSI in this process (RFC 7143): one session of one connection to one logical unit, one
//! command at a time. Promises that bytes lie where the target says only if that is inside
//! what was asked for. Refuses what it did not negotiate; a session that went wrong is over.

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::tape::scsi::address::IscsiAddress;
use crate::tape::scsi::{Answer, Data, Transport};

mod login;
mod pdu;

use login::{Terms, login};
use pdu::{Head, HeadReader, opcode, receive_into, send};

/// How long a portal may take to answer the knock and each step of the login.
const LOGIN: Duration = Duration::from_secs(15);
/// How long a target may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// A tag that is none.
const NO_TAG: u32 = 0xffff_ffff;
const FINAL: u8 = 0x80;
const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const SIMPLE: u8 = 0x01;
const UNDERFLOW: u8 = 0x02;
const STATUS_HERE: u8 = 0x01;
/// Longest answer besides data: sense, or the text of a rejection.
const EXTRA_BYTES_MAX: usize = 64 << 10;

/// The numbers every message carries.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    command: u32,
    status: u32,
    tag: u32,
}

/// A session with one logical unit.
pub(super) struct Iscsi {
    stream: TcpStream,
    name: String,
    lun: [u8; 8],
    terms: Terms,
    sequence: Sequence,
    broken: bool,
}

impl Iscsi {
    pub(super) fn connect(address: &IscsiAddress) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for portal in address.portal.to_socket_addrs()? {
            match TcpStream::connect_timeout(&portal, LOGIN) {
                Ok(stream) => return Self::over(stream, address),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn over(mut stream: TcpStream, address: &IscsiAddress) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(LOGIN))?;
        stream.set_read_timeout(Some(LOGIN))?;
        let (terms, sequence) = login(&mut stream, address)?;
        let lun = address.lun.unwrap_or(0);
        let [high, low] = lun.to_be_bytes();
        // Peripheral addressing up to 255, flat addressing above.
        let first = if lun < 256 { 0 } else { 0x40 | high };
        let lun = [first, low, 0, 0, 0, 0, 0, 0];
        Ok(Self { stream, name: address.to_string(), lun, terms, sequence, broken: false })
    }

    fn exchange(&mut self, cdb: &[u8], mut data: Data<'_>) -> io::Result<Answer> {
        self.sequence.tag = self.sequence.tag.wrapping_add(1) & 0x7fff_ffff;
        let tag = self.sequence.tag;
        let (direction, expected) = match &data {
            Data::Nothing => (0, 0),
            Data::In(buffer) => (READ, buffer.len()),
            Data::Out(bytes) => (WRITE, bytes.len()),
        };
        let Terms { immediate_max, .. } = self.terms;
        let at_once = match &data {
            Data::Out(bytes) => &bytes[..bytes.len().min(immediate_max)],
            _ => &[],
        };
        let expected_word = u32::try_from(expected).map_err(|_| wrong("too much data"))?;
        let mut head = Head::new(opcode::COMMAND, FINAL | direction | SIMPLE);
        head.set(8, &self.lun);
        head.set_word(16, tag);
        head.set_word(20, expected_word);
        head.set_word(24, self.sequence.command);
        head.set_word(28, self.sequence.status);
        head.set(32, cdb);
        send(&mut self.stream, head, at_once)?;
        self.sequence.command = self.sequence.command.wrapping_add(1);
        loop {
            let head = HeadReader::receive(&mut self.stream)?;
            if let Some(answer) = self.heard(&head, tag, &mut data, expected)? {
                return Ok(answer);
            }
        }
    }

    /// One message of the target; the answer once it is complete.
    fn heard(
        &mut self,
        head: &HeadReader,
        tag: u32,
        data: &mut Data<'_>,
        expected: usize,
    ) -> io::Result<Option<Answer>> {
        let ours = head.word(16) == tag;
        match head.opcode() {
            opcode::DATA_IN if ours => {
                let Data::In(buffer) = data else { return Err(wrong("data nobody asked for")) };
                let from = head.word(40) as usize;
                let end = from.saturating_add(head.data_bytes());
                let part = buffer.get_mut(from..end).ok_or_else(|| wrong("data outside"))?;
                receive_into(&mut self.stream, part)?;
                if head.flags() & STATUS_HERE == 0 {
                    return Ok(None);
                }
                self.acknowledge(head);
                let transferred = moved(head, expected);
                Ok(Some(Answer { status: head.byte(3), sense: Vec::new(), transferred }))
            }
            opcode::RESPONSE if ours => {
                let extra = head.receive_data(&mut self.stream, EXTRA_BYTES_MAX)?;
                self.acknowledge(head);
                if head.byte(2) != 0 {
                    return Err(wrong("the target did not carry the command out"));
                }
                let length = extra.first_chunk::<2>().map_or(0, |n| u16::from_be_bytes(*n));
                let sense = extra.get(2..).unwrap_or_default();
                let sense = sense.get(..usize::from(length)).unwrap_or(sense).to_vec();
                let transferred = moved(head, expected);
                Ok(Some(Answer { status: head.byte(3), sense, transferred }))
            }
            opcode::R2T if ours => {
                let Data::Out(bytes) = data else { return Err(wrong("asked for no data")) };
                let from = head.word(40) as usize;
                let end = from.saturating_add(head.word(44) as usize);
                let part = bytes.get(from..end).ok_or_else(|| wrong("asked for data outside"))?;
                self.give(part, from, head.word(20), tag)?;
                Ok(None)
            }
            _ => self.aside(head).map(|()| None),
        }
    }

    /// What a target may say at any time.
    fn aside(&mut self, head: &HeadReader) -> io::Result<()> {
        let opcode = head.opcode();
        let ours = head.word(16);
        drop(head.receive_data(&mut self.stream, EXTRA_BYTES_MAX)?);
        match opcode {
            opcode::NOP_IN => {
                if head.word(20) == NO_TAG {
                    return Ok(());
                }
                let mut pong = Head::new(opcode::NOP_OUT, FINAL);
                pong.set(8, head.bytes(8, 8));
                pong.set_word(16, NO_TAG);
                pong.set_word(20, head.word(20));
                pong.set_word(24, self.sequence.command);
                pong.set_word(28, self.sequence.status);
                send(&mut self.stream, pong, &[])
            }
            // Events 1 to 3 end the session; 0 is sense we are told again with a command.
            opcode::ASYNC if !(1..=3).contains(&head.byte(36)) => {
                self.acknowledge(head);
                Ok(())
            }
            opcode::ASYNC => Err(wrong("the target ends the session")),
            opcode::REJECT => Err(wrong("the target rejected a message")),
            _ => Err(wrong(&format!("message {opcode:#04x} about {ours:#x} was not expected"))),
        }
    }

    fn give(&mut self, bytes: &[u8], from: usize, transfer: u32, tag: u32) -> io::Result<()> {
        let mut at = from;
        let mut parts = bytes.chunks(self.terms.send_max).enumerate().peekable();
        while let Some((number, part)) = parts.next() {
            let last = if parts.peek().is_none() { FINAL } else { 0 };
            let mut head = Head::new(opcode::DATA_OUT, last);
            head.set(8, &self.lun);
            head.set_word(16, tag);
            head.set_word(20, transfer);
            head.set_word(28, self.sequence.status);
            head.set_word(36, u32::try_from(number).unwrap_or(0));
            head.set_word(40, u32::try_from(at).map_err(|_| wrong("too much data"))?);
            send(&mut self.stream, head, part)?;
            at += part.len();
        }
        self.stream.flush()
    }

    const fn acknowledge(&mut self, head: &HeadReader) {
        self.sequence.status = head.word(24).wrapping_add(1);
    }

    fn goodbye(&mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(GOODBYE))?;
        self.stream.set_write_timeout(Some(GOODBYE))?;
        let mut head = Head::new(opcode::LOGOUT, FINAL);
        head.set_word(16, self.sequence.tag.wrapping_add(1));
        head.set_word(24, self.sequence.command);
        head.set_word(28, self.sequence.status);
        send(&mut self.stream, head, &[])?;
        while HeadReader::receive(&mut self.stream)?.opcode() != opcode::LOGOUT_RESPONSE {}
        Ok(())
    }
}

impl Transport for Iscsi {
    fn execute(&mut self, cdb: &[u8], data: Data<'_>, patience: Duration) -> io::Result<Answer> {
        if self.broken {
            return Err(io::ErrorKind::NotConnected.into());
        }
        // Set before the attempt: whatever leaves early leaves a session in doubt.
        self.broken = true;
        self.stream.set_read_timeout(Some(patience))?;
        self.stream.set_write_timeout(Some(patience))?;
        let answer = self.exchange(cdb, data)?;
        self.broken = false;
        Ok(answer)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Iscsi {
    fn drop(&mut self) {
        if !self.broken
            && let Err(error) = self.goodbye()
        {
            tracing::debug!(unit = self.name, %error, "the session ended without a goodbye");
        }
    }
}

/// What was moved of what was expected.
fn moved(head: &HeadReader, expected: usize) -> usize {
    let short = if head.flags() & UNDERFLOW != 0 { head.word(44) as usize } else { 0 };
    expected.saturating_sub(short)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("iSCSI: {what}"))
}
