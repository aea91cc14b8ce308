//! The archives of a backup, entry by entry as they stream past. Promises that no path leads out
//! of the data directory and that a head fits its checksum; refuses kinds of entries that a
//! server does not make. An archive may end with or without its two empty blocks.

use std::io::{self, Read};

const BLOCK_BYTES: usize = 512;
/// Bytes of a head: the checksum counts as spaces.
const SUM: std::ops::Range<usize> = 148..156;
const MAGIC: &[u8] = b"ustar";
/// What is skipped of an entry at a time, in bytes.
const SKIP_BYTES: usize = 64 << 10;

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Directory,
    File,
    Link { target: Vec<u8> },
}

/// The head of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    /// Names with a slash between; relative to the data directory or to the tablespace.
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) modified: i64,
}

/// What is no archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum TarError {
    /// It broke off.
    #[error("the archive broke off after {at} bytes")]
    Broken { at: u64, source: io::Error },
    /// Not the head of an entry.
    #[error("there is no entry of an archive at byte {at}: {why}")]
    NoEntry { at: u64, why: &'static str },
    /// A path that no file of a cluster has.
    #[error("{path:?} is no path of a data directory")]
    Path { path: String },
}

/// Reads an archive; its own `read` gives the content of the entry that is open.
pub(super) struct Archive<R> {
    from: R,
    at: u64,
    /// Of the entry's content.
    left: u64,
    /// Behind it.
    padding: u64,
}

impl<R: Read> Archive<R> {
    pub(super) const fn new(from: R) -> Self {
        Self { from, at: 0, left: 0, padding: 0 }
    }

    /// The next entry; none at the end. What was not read of the last is passed over.
    ///
    /// # Errors
    /// What is there is no entry.
    pub(super) fn next(&mut self) -> Result<Option<Head>, TarError> {
        let passed = self.left + std::mem::take(&mut self.padding);
        self.left = 0;
        self.skip(passed)?;
        let start = self.at;
        let mut block = [0; BLOCK_BYTES];
        match self.block(&mut block)? {
            Filled::Nothing => Ok(None),
            Filled::Whole if block.iter().all(|byte| *byte == 0) => {
                while self.block(&mut block)? == Filled::Whole {
                    if block.iter().any(|byte| *byte != 0) {
                        let why = "it follows the end of the archive";
                        return Err(TarError::NoEntry { at: self.at, why });
                    }
                }
                Ok(None)
            }
            Filled::Whole => {
                let head = head(&block).map_err(|fault| fault.at(start))?;
                self.left = head.size;
                self.padding =
                    (BLOCK_BYTES as u64 - head.size % BLOCK_BYTES as u64) % BLOCK_BYTES as u64;
                Ok(Some(head))
            }
        }
    }

    fn block(&mut self, block: &mut [u8; BLOCK_BYTES]) -> Result<Filled, TarError> {
        let mut done = 0;
        while let Some(rest) = block.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest) {
                Ok(0) if done == 0 => return Ok(Filled::Nothing),
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(got) => {
                    done += got;
                    self.at += got as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(Filled::Whole)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), TarError> {
        let mut passed = [0; SKIP_BYTES];
        while bytes > 0 {
            let most = passed.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            match self.from.read(passed.get_mut(..most).unwrap_or_default()) {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(got) => {
                    bytes -= got as u64;
                    self.at += got as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    const fn broken(&self, source: io::Error) -> TarError {
        TarError::Broken { at: self.at, source }
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let got = self.from.read(buffer.get_mut(..most).unwrap_or_default())?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        self.at += got as u64;
        Ok(got)
    }
}

#[derive(PartialEq, Eq)]
enum Filled {
    Nothing,
    Whole,
}

/// What is wrong with a head.
enum Fault {
    Path(String),
    Why(&'static str),
}

impl Fault {
    fn at(self, at: u64) -> TarError {
        match self {
            Self::Path(path) => TarError::Path { path },
            Self::Why(why) => TarError::NoEntry { at, why },
        }
    }
}

/// Pure: what a head says.
fn head(block: &[u8; BLOCK_BYTES]) -> Result<Head, Fault> {
    let field = |at: usize, length: usize| block.get(at..at + length).unwrap_or_default();
    let text = |at, length| field(at, length).split(|byte| *byte == 0).next().unwrap_or_default();
    let number_at = |at, length| number(field(at, length)).ok_or(Fault::Why("a number is none"));
    let counted = block.iter().enumerate();
    let counted = counted.map(|(at, byte)| if SUM.contains(&at) { b' ' } else { *byte });
    let sum: u64 = counted.map(u64::from).sum();
    if !field(257, MAGIC.len()).eq(MAGIC) || number_at(SUM.start, SUM.len())? != sum {
        return Err(Fault::Why("its head does not fit its checksum"));
    }
    let (name, prefix) = (text(0, 100), text(345, 155));
    let joined = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
    let kind = match field(156, 1) {
        b"0" | [0] => Kind::File,
        b"2" => Kind::Link { target: text(157, 100).to_vec() },
        b"5" => Kind::Directory,
        _ => return Err(Fault::Why("it is neither file nor directory nor link")),
    };
    let short = |value: u64| u32::try_from(value).map_err(|_| Fault::Why("a number is too large"));
    Ok(Head {
        path: clean(&joined)?,
        size: if kind == Kind::File { number_at(124, 12)? } else { 0 },
        kind,
        mode: short(number_at(100, 8)?)?,
        uid: short(number_at(108, 8)?)?,
        gid: short(number_at(116, 8)?)?,
        modified: i64::try_from(number_at(136, 12)?).unwrap_or_default(),
    })
}

/// A number in octal digits, or in bytes where the first says so.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first == 0x80 {
        return rest
            .iter()
            .try_fold(0_u64, |value, byte| Some(value.checked_mul(256)? + u64::from(*byte)));
    }
    let digits = field.iter().skip_while(|byte| **byte == b' ');
    let digits = digits.take_while(|byte| !matches!(byte, b' ' | 0));
    let mut value = 0_u64;
    for digit in digits {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value = value.checked_mul(8)? + u64::from(digit);
    }
    Some(value)
}

/// The path, if it leads to where it may.
fn clean(path: &[u8]) -> Result<String, Fault> {
    let shown = || Fault::Path(String::from_utf8_lossy(path).into_owned());
    let text = std::str::from_utf8(path).map_err(|_| shown())?;
    let text = text.strip_prefix("./").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    let sound = |name: &str| !name.is_empty() && name != "." && name != ".." && name.len() < 256;
    if text.split('/').all(sound) { Ok(text.to_owned()) } else { Err(shown()) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn entries(bytes: &[u8]) -> Result<Vec<(Head, Vec<u8>)>, TarError> {
        let mut archive = Archive::new(bytes);
        let mut found = Vec::new();
        while let Some(head) = archive.next()? {
            let mut content = Vec::new();
            archive.read_to_end(&mut content).map_err(|source| archive.broken(source))?;
            found.push((head, content));
        }
        Ok(found)
    }

    /// An archive of another program, with a directory, a link and files of odd lengths.
    fn made() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("base/5")).unwrap();
        std::fs::write(dir.path().join("base/5/1247"), vec![7; 8192]).unwrap();
        std::fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
        std::os::unix::fs::symlink("/srv/space", dir.path().join("link")).unwrap();
        let names = ["base", "PG_VERSION", "link"];
        let mut tar = Command::new("tar");
        tar.args(["--format=ustar", "-cf", "-", "-C"]).arg(dir.path()).args(names);
        tar.output().unwrap().stdout
    }

    #[test]
    fn an_archive_is_read_entry_by_entry() {
        let made = made();
        let found = entries(&made).unwrap();
        let paths: Vec<&str> = found.iter().map(|(head, _)| head.path.as_str()).collect();
        assert_eq!(paths, ["base", "base/5", "base/5/1247", "PG_VERSION", "link"]);
        assert_eq!((found[2].0.size, found[2].1.len()), (8192, 8192));
        assert_eq!((found[3].0.size, found[3].1.as_slice()), (3, &b"15\n"[..]));
        assert_eq!(found[4].0.kind, Kind::Link { target: b"/srv/space".to_vec() });
        // What nobody read is passed over.
        let mut archive = Archive::new(made.as_slice());
        let mut count = 0;
        while archive.next().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 5);
    }

    #[test]
    fn an_archive_may_end_without_empty_blocks_and_nowhere_else() {
        let made = made();
        let end = made.len() - made.iter().rev().take_while(|byte| **byte == 0).count();
        let end = end.next_multiple_of(BLOCK_BYTES);
        assert_eq!(entries(&made[..end]).unwrap().len(), 5);
        for cut in [end - 100, end - 512 - 3, 700, 100] {
            assert!(entries(&made[..cut]).is_err(), "{cut}");
        }
        let more = [&made[..], &made[..512]].concat();
        assert!(entries(&more).is_err());
    }

    #[test]
    fn a_head_that_was_hurt_and_a_path_that_leads_out_are_refused() {
        let made = made();
        // The last byte of the checksum says nothing.
        for at in (0..500).filter(|at| *at != SUM.end - 1) {
            let mut hurt = made.clone();
            hurt[at] ^= 0x40;
            assert!(entries(&hurt).is_err(), "byte {at}");
        }
        for path in ["../x", "/etc/passwd", "a//b", "a/../../b", ""] {
            assert!(clean(path.as_bytes()).is_err(), "{path:?}");
        }
        assert_eq!(clean(b"./pg_wal/").ok().as_deref(), Some("pg_wal"));
    }

    #[test]
    fn numbers_are_octal_or_bytes() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"00000020000 "), Some(0o20000));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]), Some((2 << 32) + 1));
        assert_eq!(number(b"00090"), None);
        assert_eq!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), None);
    }
}
