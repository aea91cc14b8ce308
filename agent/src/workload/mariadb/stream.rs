//! The stream of mariabackup (`--stream=mbstream`), piece by piece: every piece belongs to a
//! file, and pieces of several files come mixed. Promises that no byte passes whose checksum
//! does not fit, and no path that leads out of the data directory; refuses kinds of pieces it
//! does not know.

use std::io::{self, Read};

/// What every piece begins with.
const MAGIC: [u8; 8] = *b"XBSTCK01";
/// Magic, flags, kind, and the length of the path.
const HEAD_BYTES: usize = 14;
/// Set where a reader that does not know the kind may pass it over.
const IGNORABLE: u8 = 1;
/// Paths are no longer where the stream is made.
const PATH_BYTES_MAX: u32 = 4096;
/// Pieces are ten mebibytes where the stream is made; more is no piece.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// A piece of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    /// Relative to the data directory.
    pub path: Vec<u8>,
    pub what: What,
}

/// What a piece says of its file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// These bytes are at this offset, which is where the last ones ended.
    Bytes { at: u64, bytes: Vec<u8> },
    /// It is whole.
    End,
    /// What comes next is at this offset; in between is nothing.
    Hole { until: u64 },
}

/// What is no stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// It ended or broke.
    #[error("the stream broke off after {at} bytes")]
    Broken { at: u64, source: io::Error },
    /// Not what was read where it was made.
    #[error("the bytes of {path} at {at} do not fit their checksum")]
    Checksum { path: String, at: u64 },
    /// Files were still open.
    #[error("the stream ended in the middle of {path}")]
    Cut { path: String },
    /// Not the beginning of a piece.
    #[error("there is no piece of a stream at byte {at}")]
    NoPiece { at: u64 },
    /// Bytes that do not follow the last ones.
    #[error("the bytes of {path} go on at {at}, and not at {expected}")]
    OutOfOrder { path: String, at: u64, expected: u64 },
    /// A path that no file of a server has.
    #[error("{path:?} is no path of a data directory")]
    Path { path: String },
    /// A kind of piece that is not known.
    #[error(
        "a piece of kind {kind:?} of {path} is not known: a statement such as ALTER TABLE or \
         RENAME TABLE ran meanwhile; the next run tries again"
    )]
    Unknown { kind: char, path: String },
}

/// A path for people.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Reads a stream.
pub(super) struct Pieces<R> {
    from: R,
    at: u64,
}

impl<R: Read> Pieces<R> {
    pub(super) const fn new(from: R) -> Self {
        Self { from, at: 0 }
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// What is there is no piece.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, StreamError> {
        loop {
            let start = self.at;
            let mut head = [0_u8; HEAD_BYTES];
            let (first, rest) = head.split_at_mut(1);
            if self.read_some(first)? == 0 {
                return Ok(None);
            }
            self.fill(rest)?;
            let [magic @ .., flags, kind, a, b, c, d] = head;
            let path_bytes = u32::from_le_bytes([a, b, c, d]);
            if magic != MAGIC || path_bytes > PATH_BYTES_MAX {
                return Err(StreamError::NoPiece { at: start });
            }
            let mut path = vec![0; path_bytes as usize];
            self.fill(&mut path)?;
            let path = clean(path)?;
            let what = match kind {
                b'P' => self.payload(&path)?,
                b'E' => What::End,
                b'S' => What::Hole { until: self.number()? },
                _ if flags & IGNORABLE != 0 => continue,
                _ => {
                    return Err(StreamError::Unknown { kind: kind.into(), path: shown(&path) });
                }
            };
            return Ok(Some(Piece { path, what }));
        }
    }

    fn payload(&mut self, path: &[u8]) -> Result<What, StreamError> {
        let start = self.at;
        let (length, at) = (self.number()?, self.number()?);
        let mut checksum = [0; 4];
        self.fill(&mut checksum)?;
        let bytes = usize::try_from(length).ok().filter(|_| length <= PAYLOAD_BYTES_MAX);
        let mut bytes = vec![0; bytes.ok_or(StreamError::NoPiece { at: start })?];
        self.fill(&mut bytes)?;
        match crc32fast::hash(&bytes) == u32::from_le_bytes(checksum) {
            true => Ok(What::Bytes { at, bytes }),
            false => Err(StreamError::Checksum { path: shown(path), at }),
        }
    }

    fn number(&mut self) -> Result<u64, StreamError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), StreamError> {
        let at = self.at;
        self.from.read_exact(bytes).map_err(|source| StreamError::Broken { at, source })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn read_some(&mut self, bytes: &mut [u8]) -> Result<usize, StreamError> {
        let at = self.at;
        loop {
            match self.from.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    let read = read.map_err(|source| StreamError::Broken { at, source })?;
                    self.at += read as u64;
                    return Ok(read);
                }
            }
        }
    }
}

/// The path without a beginning that says nothing, if it leads to where it may.
fn clean(path: Vec<u8>) -> Result<Vec<u8>, StreamError> {
    let path = match path.strip_prefix(b"./") {
        Some(below) => below.to_vec(),
        None => path,
    };
    let sound = |name: &[u8]| !name.is_empty() && name != b"." && name != b".." && name.len() < 256;
    match path.split(|byte| *byte == b'/').all(sound) && !path.contains(&0) {
        true => Ok(path),
        false => Err(StreamError::Path { path: shown(&path) }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};
    use std::process::Command;

    use super::*;

    fn head(kind: u8, path: &[u8]) -> Vec<u8> {
        let length = u32::try_from(path.len()).unwrap().to_le_bytes();
        [&MAGIC[..], &[0, kind], &length, path].concat()
    }

    fn payload(path: &[u8], at: u64, bytes: &[u8]) -> Vec<u8> {
        let length = (bytes.len() as u64).to_le_bytes();
        let checksum = crc32fast::hash(bytes).to_le_bytes();
        [&head(b'P', path)[..], &length, &at.to_le_bytes(), &checksum, bytes].concat()
    }

    fn read(stream: &[u8]) -> Result<Vec<Piece>, StreamError> {
        let mut pieces = Pieces::new(stream);
        std::iter::from_fn(|| pieces.next().transpose()).collect()
    }

    #[test]
    fn pieces_of_several_files_come_mixed() {
        let hole = [head(b'S', b"x/t.ibd"), 4096_u64.to_le_bytes().to_vec()].concat();
        let stream = [
            payload(b"./x/t.ibd", 0, b"abc"),
            payload(b"ib_logfile0", 0, b""),
            hole,
            head(b'E', b"x/t.ibd"),
        ];
        let found = read(&stream.concat()).unwrap();
        let bytes = What::Bytes { at: 0, bytes: b"abc".to_vec() };
        assert_eq!(found[0], Piece { path: b"x/t.ibd".to_vec(), what: bytes });
        assert_eq!(found[2].what, What::Hole { until: 4096 });
        assert_eq!((found.len(), &found[3].what), (4, &What::End));
    }

    /// A piece that passes over what is empty is not in the streams of every server.
    #[test]
    fn holes_are_what_the_program_that_unpacks_streams_takes_them_for() {
        let hole = [head(b'S', b"t"), 8192_u64.to_le_bytes().to_vec()].concat();
        let stream = [payload(b"t", 0, b"abc"), hole, payload(b"t", 8192, b"z"), head(b'E', b"t")];
        let stream = stream.concat();
        assert!(read(&stream).unwrap().iter().any(|p| p.what == What::Hole { until: 8192 }));
        let (dir, mut file) = (tempfile::tempdir().unwrap(), tempfile::tempfile().unwrap());
        file.write_all(&stream).unwrap();
        file.rewind().unwrap();
        let mut unpack = Command::new("mbstream");
        let done = unpack.arg("-x").arg("-C").arg(dir.path()).stdin(file).status().unwrap();
        assert!(done.success());
        let whole = [&b"abc"[..], &[0; 8189], b"z"].concat();
        assert_eq!(std::fs::read(dir.path().join("t")).unwrap(), whole);
    }

    #[test]
    fn a_stream_that_was_hurt_is_refused_wherever() {
        let whole = [payload(b"x/t.ibd", 0, b"some bytes"), head(b'E', b"x/t.ibd")].concat();
        for at in 0..whole.len() {
            // The flags of a piece that is known say nothing.
            let flags = at == 8 || at == whole.len() - head(b'E', b"x/t.ibd").len() + 8;
            // A path or an offset has no checksum: another one is for who puts files together.
            let is_path = |name: &[u8]| name != b"x/t.ibd";
            let mut hurt = whole.clone();
            hurt[at] ^= 0x40;
            let elsewhere = |found: &[Piece]| {
                found.iter().any(|piece| {
                    is_path(&piece.path) || matches!(piece.what, What::Bytes { at, .. } if at > 0)
                })
            };
            match read(&hurt) {
                Ok(found) => assert!(flags || elsewhere(&found), "byte {at}"),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
            let cut = read(&whole[..at]);
            let boundary = at == 0 || at == payload(b"x/t.ibd", 0, b"some bytes").len();
            assert_eq!(cut.is_ok(), boundary, "cut at {at}");
        }
    }

    #[test]
    fn no_path_leads_out() {
        for path in ["../etc/passwd", "/etc/passwd", "x//y", "x/../../y", "", "x/\0"] {
            assert!(read(&head(b'E', path.as_bytes())).is_err(), "{path:?}");
        }
        let unknown = read(&head(b'N', b"x/t.ibd")).unwrap_err().to_string();
        assert!(unknown.contains("RENAME TABLE"), "{unknown}");
        let mut ignorable = head(b'N', b"x/t.ibd");
        ignorable[8] = IGNORABLE;
        assert_eq!(read(&ignorable).unwrap(), vec![]);
    }
}
