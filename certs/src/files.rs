//! Small files that matter: written whole or not at all, and durable before the call returns.
//! Refuses to read a private file that other people may read, and a file too large to be ours.
//! Every error names the path.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::secret::{Secret, random};

/// Largest file this crate reads: a list of a hundred thousand revocations fits, a disk image
/// put there by mistake does not.
pub const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Characters a line of PEM, as RFC 7468 asks.
const PEM_LINE_CHARS: usize = 64;
/// Characters of the first and the last line without their labels.
const PEM_FRAME_CHARS: usize = 32;
const PRIVATE_MODE: u32 = 0o600;
const PRIVATE_DIRECTORY_MODE: u32 = 0o700;
const PUBLIC_MODE: u32 = 0o644;
/// Permission bits of group and others.
const OTHERS_MASK: u32 = 0o077;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Something is there already that must not be replaced.
    #[error("{} exists already and is not replaced", path.display())]
    Exists { path: PathBuf },
    /// The operating system refused.
    #[error("cannot {verb} {}", path.display())]
    Io { verb: &'static str, path: PathBuf, source: std::io::Error },
    /// The content is not what the name promises.
    #[error("{} does not hold {expected}", path.display())]
    Malformed { path: PathBuf, expected: &'static str },
    /// Nothing of that name.
    #[error("{} does not exist", path.display())]
    Missing { path: PathBuf },
    /// A private file others may read: its key must be taken for known to them.
    #[error(
        "{} is a private file but its mode {mode:04o} lets others read it; \
         set it to 0600 and consider the key inside known to them", path.display()
    )]
    Permissions { path: PathBuf, mode: u32 },
    /// Larger than anything this crate writes.
    #[error("{} has {bytes} bytes, more than the {FILE_BYTES_MAX} expected at most",
        path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
}

impl FileError {
    /// True when the file is simply not there.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Writes a file only its owner may read (0600): whole, synced, then renamed into place.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, PRIVATE_MODE)
}

/// Writes a file everybody may read (0644): whole, synced, then renamed into place.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, PUBLIC_MODE)
}

/// Creates a directory only its owner may enter (0700), with its parents; an existing one stays.
pub fn create_private_directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIRECTORY_MODE)
        .create(path)
        .map_err(io("create the directory", path))
}

/// Reads a file that is no secret.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    read_open(open(path)?, path)
}

/// Reads a private file; refuses when group or others have any right to it.
pub fn read_private(path: &Path) -> Result<Secret, FileError> {
    let file = open(path)?;
    let mode = file.metadata().map_err(io("look at", path))?.mode() & 0o7777;
    if mode & OTHERS_MASK != 0 {
        return Err(FileError::Permissions { path: path.to_owned(), mode });
    }
    read_open(file, path).map(Secret::new)
}

/// Fails with [`FileError::Exists`] when something has that name.
pub fn refuse_existing(path: &Path) -> Result<(), FileError> {
    match path.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(FileError::Exists { path: path.to_owned() }),
        Err(source) => Err(io("look at", path)(source)),
    }
}

/// Gives the file another name in the same directory, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(io("rename", from))?;
    sync_directory(to)
}

/// Written as private as a key, but read without asking for it: hashes, revocations and
/// wrapped keys are no secrets, and a wrapped root key may lie on a stick that knows no modes.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let failed = |e: serde_json::Error| io("encode", path)(e.into());
    let mut bytes = serde_json::to_vec_pretty(value).map_err(failed)?;
    bytes.push(b'\n');
    write_private(path, &bytes)
}

pub(crate) fn read_json<T: DeserializeOwned>(
    path: &Path,
    expected: &'static str,
) -> Result<T, FileError> {
    let bytes = read(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|_| FileError::Malformed { path: path.to_owned(), expected })
}

pub(crate) fn write_certificates(path: &Path, ders: &[&[u8]]) -> Result<(), FileError> {
    let text: String = ders.iter().map(|der| pem("CERTIFICATE", der)).collect();
    write_public(path, text.as_bytes())
}

pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let bytes = read(path)?;
    let expected = "certificates in PEM";
    let malformed = || FileError::Malformed { path: path.to_owned(), expected };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| malformed())?;
    if certificates.is_empty() { Err(malformed()) } else { Ok(certificates) }
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    // It may be a key: no copy stays behind, neither the body nor a text that had to grow.
    let body = Zeroizing::new(data_encoding::BASE64.encode(der));
    let lines = body.len() / PEM_LINE_CHARS + 1;
    let mut text = String::with_capacity(body.len() + lines + PEM_FRAME_CHARS + 2 * label.len());
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in body.as_bytes().chunks(PEM_LINE_CHARS) {
        text.extend(line.iter().map(|&b| char::from(b)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let staged = staged_path(path)?;
    let written = write_staged(&staged, bytes, mode)
        .and_then(|()| std::fs::rename(&staged, path).map_err(io("rename into place", path)));
    if written.is_err() {
        // What is left of a failed write helps nobody; the first error is the one to report.
        std::fs::remove_file(&staged).ok();
    }
    written?;
    sync_directory(path)
}

fn write_staged(staged: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(staged)
        .map_err(io("create", staged))?;
    // The umask may have taken bits away; the mode is a promise, so it is set outright.
    file.set_permissions(Permissions::from_mode(mode)).map_err(io("protect", staged))?;
    file.write_all(bytes).map_err(io("write", staged))?;
    file.sync_all().map_err(io("sync", staged))
}

fn staged_path(path: &Path) -> Result<PathBuf, FileError> {
    let name = path.file_name().ok_or_else(|| {
        io("write", path)(std::io::Error::new(ErrorKind::InvalidInput, "not a file name"))
    })?;
    let unique: [u8; 8] = random().map_err(|_| io("name", path)(ErrorKind::Other.into()))?;
    let mut staged = std::ffi::OsString::from(".");
    staged.push(name);
    staged.push(format!(".{}.tmp", data_encoding::HEXLOWER.encode(&unique)));
    Ok(path.with_file_name(staged))
}

fn sync_directory(path: &Path) -> Result<(), FileError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or_else(|| Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io("sync the directory", directory))
}

fn open(path: &Path) -> Result<File, FileError> {
    File::open(path).map_err(io("open", path))
}

fn read_open(file: File, path: &Path) -> Result<Vec<u8>, FileError> {
    let bytes = file.metadata().map_err(io("look at", path))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { path: path.to_owned(), bytes });
    }
    let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
    file.take(FILE_BYTES_MAX).read_to_end(&mut content).map_err(io("read", path))?;
    Ok(content)
}

fn io<'a>(verb: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> FileError + use<'a> {
    move |source| match source.kind() {
        ErrorKind::NotFound => FileError::Missing { path: path.to_owned() },
        _ => FileError::Io { verb, path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        write_public(&path, b"old and longer").unwrap();
        write_private(&path, b"new").unwrap();
        let mode = std::fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(read_private(&path).unwrap().expose(), b"new");
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "no staged file is left behind");
    }

    #[test]
    fn a_private_file_others_may_read_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        for mode in [0o640, 0o604, 0o660, 0o644] {
            write_private(&path, b"key").unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path).unwrap_err();
            assert!(matches!(error, FileError::Permissions { mode: found, .. } if found == mode));
            let text = error.to_string();
            assert!(text.contains("node.key") && text.contains("0600"), "{text}");
        }
    }

    #[test]
    fn missing_and_oversized_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(read(&path).unwrap_err().is_missing());
        File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(read(&path).unwrap_err(), FileError::TooLarge { .. }));
        assert!(matches!(refuse_existing(&path).unwrap_err(), FileError::Exists { .. }));
    }

    #[test]
    fn certificates_survive_pem() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.crt");
        let (one, two) = (vec![1; 100], vec![2; 48]);
        write_certificates(&path, &[&one, &two]).unwrap();
        let back = read_certificates(&path).unwrap();
        assert_eq!((back[0].as_ref(), back[1].as_ref()), (&one[..], &two[..]));
        write_public(&path, b"hello").unwrap();
        assert!(matches!(read_certificates(&path), Err(FileError::Malformed { .. })));
    }
}
