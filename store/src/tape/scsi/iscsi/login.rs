//! The login: names, who we are (CHAP where a user is given), and the terms of the session.
//! Promises to use no more than both sides agreed on. Refuses a target that wants digests, and
//! says in words why a target refused.

use std::io::{self, Read, Write};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use data_encoding::HEXLOWER_PERMISSIVE;
use md5::{Digest as _, Md5};

use crate::tape::scsi::address::IscsiAddress;
use crate::tape::scsi::iscsi::Sequence;
use crate::tape::scsi::iscsi::pdu::{Head, HeadReader, opcode, send};

/// Who we are to targets, with the host's name behind it.
const INITIATOR: &str = "iqn.2026-01.invalid.strongroom";
/// What we take in one message.
const RECEIVE_BYTES_MAX: u32 = 256 << 10;
/// What we would send without being asked, and in one burst.
const BURST_BYTES: u32 = 1 << 20;
/// What a target takes in one message when it says nothing else.
const SEND_BYTES: usize = 8192;
/// Longest answer of a login.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// A login takes two to five steps.
const STEPS_MAX: usize = 12;
const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;
const TRANSIT: u8 = 0x80;
/// CHAP by MD5, the only one every target knows.
const CHAP_MD5: &str = "5";
/// A challenge that is longer is none.
const CHALLENGE_BYTES_MAX: usize = 1024;

/// Counts the sessions of this process: two with one number would end each other.
static SESSIONS: AtomicU16 = AtomicU16::new(0);

/// What both sides agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Terms {
    /// Bytes that go with a command.
    pub(super) immediate_max: usize,
    /// Bytes of one message of data.
    pub(super) send_max: usize,
}

struct Login<'a, S> {
    stream: &'a mut S,
    address: &'a IscsiAddress,
    session: [u8; 6],
    status: u32,
    /// The command number the session begins with; logins do not count.
    command: u32,
    told: Told,
}

/// What the target told so far.
#[derive(Default)]
struct Told {
    pairs: Vec<(String, String)>,
}

impl Told {
    fn value(&self, key: &str) -> Option<&str> {
        let mut pairs = self.pairs.iter().rev();
        pairs.find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

/// Logs in to the target of `address`.
pub(super) fn login<S: Read + Write>(
    stream: &mut S,
    address: &IscsiAddress,
) -> io::Result<(Terms, Sequence)> {
    let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
    let [_, a, b, c] = process::id().to_be_bytes();
    let [d, e] = number.to_be_bytes();
    let session = [0x80, a, b, c, d, e];
    let told = Told::default();
    let mut login = Login { stream, address, session, status: 0, command: 1, told };
    let first = login.security()?;
    if first == OPERATIONAL {
        login.operational()?;
    }
    let terms = terms(&login.told)?;
    Ok((terms, Sequence { command: login.command, status: login.status, tag: 0 }))
}

impl<S: Read + Write> Login<'_, S> {
    /// Says who we are; the stage that follows.
    fn security(&mut self) -> io::Result<u8> {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().to_lowercase();
        let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        let host: String = host.chars().filter(plain).collect();
        let chap = self.address.user.is_some();
        let who = format!("{INITIATOR}:{host}");
        let names = [
            ("InitiatorName", who.as_str()),
            ("SessionType", "Normal"),
            ("TargetName", self.address.target.as_str()),
            ("AuthMethod", if chap { "CHAP" } else { "None" }),
        ];
        if !chap {
            return self.until(SECURITY, OPERATIONAL, &names);
        }
        self.step(SECURITY, None, &names)?;
        self.step(SECURITY, None, &[("CHAP_A", CHAP_MD5)])?;
        let (user, answer) = self.chap()?;
        self.until(SECURITY, OPERATIONAL, &[("CHAP_N", &user), ("CHAP_R", &answer)])
    }

    /// The answer to the target's challenge.
    fn chap(&self) -> io::Result<(String, String)> {
        let refuse = |what: &str| denied(&format!("{}: {what}", self.address));
        let told = |key| self.told.value(key).ok_or_else(|| refuse("it sent no challenge"));
        if told("CHAP_A")? != CHAP_MD5 {
            return Err(refuse("it wants another digest for CHAP than MD5"));
        }
        let identifier: u8 =
            told("CHAP_I")?.parse().map_err(|_| refuse("the challenge has no number"))?;
        let challenge = told("CHAP_C")?;
        let challenge = challenge.strip_prefix("0x").or_else(|| challenge.strip_prefix("0X"));
        let challenge = challenge
            .and_then(|hex| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok())
            .filter(|challenge| challenge.len() <= CHALLENGE_BYTES_MAX)
            .ok_or_else(|| refuse("the challenge is not in hexadecimal"))?;
        let (Some(user), Some(secret)) = (&self.address.user, &self.address.secret) else {
            return Err(refuse("a user is named and no secret is given"));
        };
        Ok((user.clone(), response(identifier, secret, &challenge)))
    }

    fn operational(&mut self) -> io::Result<()> {
        let (receive, burst) = (RECEIVE_BYTES_MAX.to_string(), BURST_BYTES.to_string());
        let wanted = [
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            ("MaxRecvDataSegmentLength", receive.as_str()),
            ("MaxBurstLength", burst.as_str()),
            ("FirstBurstLength", burst.as_str()),
            ("InitialR2T", "Yes"),
            ("ImmediateData", "Yes"),
            ("MaxConnections", "1"),
            ("MaxOutstandingR2T", "1"),
            ("ErrorRecoveryLevel", "0"),
            ("DefaultTime2Wait", "2"),
            ("DefaultTime2Retain", "0"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
        ];
        match self.until(OPERATIONAL, FULL_FEATURE, &wanted)? {
            FULL_FEATURE => Ok(()),
            stage => Err(denied(&format!("{}: it leads to stage {stage}", self.address))),
        }
    }

    /// Asks for the next stage until the target grants it.
    fn until(&mut self, stage: u8, next: u8, pairs: &[(&str, &str)]) -> io::Result<u8> {
        let mut granted = self.step(stage, Some(next), pairs)?;
        for _ in 0..STEPS_MAX {
            if let Some(granted) = granted {
                return Ok(granted);
            }
            granted = self.step(stage, Some(next), &[])?;
        }
        Err(denied(&format!("{}: the login does not come to an end", self.address)))
    }

    /// One question and its answer; the stage the target moves to.
    fn step(
        &mut self,
        stage: u8,
        next: Option<u8>,
        pairs: &[(&str, &str)],
    ) -> io::Result<Option<u8>> {
        let text: String = pairs.iter().map(|(key, value)| format!("{key}={value}\0")).collect();
        let flags = (stage << 2) | next.map_or(0, |next| TRANSIT | next);
        let mut head = Head::new(opcode::LOGIN, flags);
        head.set(8, &self.session);
        head.set_word(24, self.command);
        head.set_word(28, self.status);
        send(self.stream, head, text.as_bytes())?;
        let head = HeadReader::receive(self.stream)?;
        if head.opcode() != opcode::LOGIN_RESPONSE {
            return Err(denied(&format!("{}: it answers no login", self.address)));
        }
        let text = head.receive_data(self.stream, TEXT_BYTES_MAX)?;
        let (class, detail) = (head.byte(36), head.byte(37));
        if class != 0 {
            return Err(denied(&format!("{}: {}", self.address, reason(class, detail))));
        }
        self.status = head.word(24).wrapping_add(1);
        self.command = head.word(28);
        let pairs = text.split(|byte| *byte == 0).filter_map(|pair| {
            let (key, value) = str::from_utf8(pair).ok()?.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        });
        self.told.pairs.extend(pairs);
        let moved = head.flags() & TRANSIT != 0;
        Ok(moved.then_some(head.flags() & 0x03))
    }
}

/// MD5 over identifier, secret and challenge.
fn response(identifier: u8, secret: &str, challenge: &[u8]) -> String {
    let mut digest = Md5::new();
    digest.update([identifier]);
    digest.update(secret.as_bytes());
    digest.update(challenge);
    let digest: [u8; 16] = digest.finalize().into();
    format!("0x{}", data_encoding::HEXLOWER.encode(&digest))
}

fn terms(told: &Told) -> io::Result<Terms> {
    for digest in ["HeaderDigest", "DataDigest"] {
        if told.value(digest).is_some_and(|value| value != "None") {
            return Err(denied(&format!("{digest} was not offered")));
        }
    }
    let number = |key, otherwise: usize| {
        let told = told.value(key).and_then(|value| value.parse::<usize>().ok());
        told.filter(|told| *told >= 512).unwrap_or(otherwise)
    };
    let send_max = number("MaxRecvDataSegmentLength", SEND_BYTES).min(1 << 20);
    // What the standard has where nothing is said.
    let first_burst = number("FirstBurstLength", 64 << 10).min(BURST_BYTES as usize);
    let immediate = told.value("ImmediateData") != Some("No");
    let immediate_max = if immediate { send_max.min(first_burst) } else { 0 };
    Ok(Terms { immediate_max, send_max })
}

fn reason(class: u8, detail: u8) -> String {
    let words = match (class, detail) {
        (1, _) => "the target has moved to another portal",
        (2, 0x01) => "the target does not accept this user and secret",
        (2, 0x02) => "the target does not allow this host",
        (2, 0x03) => "there is no such target",
        (2, 0x04) => "the target is gone for good",
        (2, 0x06) => "the target has too many connections",
        (2, _) => "the target does not accept the login",
        (3, _) => "the target is not able to serve now",
        _ => "the target refuses",
    };
    format!("{words} ({class:02x}{detail:02x})")
}

fn denied(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("iSCSI: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_challenge_is_that_of_the_standard() {
        // MD5 over 01 "secret" 00112233, by md5sum.
        let expected = "0x98ce819c9fdb98a42d8bbc93ef2af654";
        assert_eq!(response(1, "secret", &[0, 0x11, 0x22, 0x33]), expected);
    }

    #[test]
    fn terms_are_never_more_than_the_target_takes() {
        let told = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Told { pairs: pairs.collect() }
        };
        assert_eq!(terms(&told(&[])).unwrap(), Terms { immediate_max: 8192, send_max: 8192 });
        let pairs = [("MaxRecvDataSegmentLength", "262144"), ("FirstBurstLength", "65536")];
        let found = terms(&told(&pairs)).unwrap();
        assert_eq!(found, Terms { immediate_max: 65_536, send_max: 262_144 });
        assert_eq!(terms(&told(&[("ImmediateData", "No")])).unwrap().immediate_max, 0);
        let digests = terms(&told(&[("DataDigest", "CRC32C")])).unwrap_err();
        assert!(digests.to_string().contains("DataDigest"));
    }
}
