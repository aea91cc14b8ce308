//! What a proxy and the process that carries out a drill say to one another. The order is one line
//! of JSON on the standard input of the process, which stays open as long as the proxy wants it to
//! live; the answer is a file in the drill's directory. The vault key goes this way and no other:
//! not by words, environment or disk.

use std::io::{self, BufRead, Read as _, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strongroom_protocol::control::Shown;
use strongroom_protocol::drill::DrillWork;
use strongroom_store::keys::VaultKey;

/// The hidden command of `strongroom` that carries out a drill.
pub const DRILL_PROCESS: &str = "drill-process";
/// The answer, in the drill's directory.
const ANSWER_FILE: &str = "answer.json";
/// An answer is a few sentences.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// An order is a policy's few settings.
const ORDER_BYTES_MAX: u64 = 1 << 20;

/// What the process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrillOrder {
    /// The directory of the repository.
    pub repo: PathBuf,
    pub work: DrillWork,
    /// A directory that is only this drill's.
    pub dir: PathBuf,
}

impl DrillOrder {
    /// Tells a process what to do, and the key with which.
    ///
    /// # Errors
    /// The process is gone.
    pub fn send(&self, key: &VaultKey, to: &mut impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        to.write_all(&line)?;
        let secret = key.to_secret();
        let length = u16::try_from(secret.len()).map_err(io::Error::other)?;
        to.write_all(&length.to_le_bytes())?;
        to.write_all(&secret)?;
        to.flush()
    }

    /// What a process is told.
    ///
    /// # Errors
    /// It is told nothing, or something else.
    pub fn receive(from: &mut impl BufRead) -> io::Result<(Self, VaultKey)> {
        let mut line = Vec::new();
        from.take(ORDER_BYTES_MAX).read_until(b'\n', &mut line)?;
        let order = serde_json::from_slice(&line)?;
        let mut length = [0; 2];
        from.read_exact(&mut length)?;
        let mut secret = zeroize::Zeroizing::new(vec![0; u16::from_le_bytes(length).into()]);
        from.read_exact(&mut secret)?;
        let key = VaultKey::from_secret(&secret);
        let key = key.ok_or_else(|| io::Error::other("what was sent is no vault key"))?;
        Ok((order, key))
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillAnswer {
    /// Nothing can be said of the copy, and why.
    Nothing { why: String },
    /// The copy was used.
    Shown {
        outcome: Shown,
        /// From the start of the process until what was recovered answered, in milliseconds.
        took_ms: u64,
        detail: String,
    },
}

impl DrillAnswer {
    /// Writes it where the proxy looks for it.
    ///
    /// # Errors
    /// The disk.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        std::fs::write(dir.join(ANSWER_FILE), serde_json::to_vec(self)?)
    }

    /// The answer in a drill's directory; none where the process left none that can be read.
    pub fn read(dir: &Path) -> Option<Self> {
        let path = dir.join(ANSWER_FILE);
        let length = std::fs::metadata(&path).ok()?.len();
        let bytes = std::fs::read(path).ok().filter(|_| length <= ANSWER_BYTES_MAX)?;
        serde_json::from_slice(&bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use strongroom_protocol::PointId;
    use strongroom_protocol::drill::DrillKind;

    use super::*;

    #[test]
    fn an_order_and_its_key_arrive_as_they_were_sent() {
        let work = DrillWork {
            copy: "far".parse().unwrap(),
            point: PointId::from_bytes([1; 16]),
            workload: "web@a".parse().unwrap(),
            kind: DrillKind::Vm,
            settings: vec![("check".to_owned(), "true\nfalse".to_owned())],
            seconds_max: 60,
        };
        let order = DrillOrder { repo: "/r".into(), work, dir: "/d".into() };
        let key = VaultKey::from_bytes([3; 32]);
        let mut sent = Vec::new();
        order.send(&key, &mut sent).unwrap();
        let (told, opened) = DrillOrder::receive(&mut sent.as_slice()).unwrap();
        assert_eq!(told.work, order.work);
        assert_eq!(opened.to_secret(), key.to_secret());
        for cut in [0, 5, sent.len() - 1] {
            assert!(DrillOrder::receive(&mut &sent[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(DrillAnswer::read(dir.path()), None);
        let answer = DrillAnswer::Nothing { why: "no room".to_owned() };
        answer.write(dir.path()).unwrap();
        assert_eq!(DrillAnswer::read(dir.path()), Some(answer));
        std::fs::write(dir.path().join(ANSWER_FILE), "{").unwrap();
        assert_eq!(DrillAnswer::read(dir.path()), None);
    }
}
