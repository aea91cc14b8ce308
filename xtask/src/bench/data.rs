//! The trees that are measured: d1, a file tree of this system; d3, a disk image; d4, many
//! small text files. Each as v1, and as v2 with a little changed. Made once, from a seed, and
//! used again when they are there; nothing is read from outside this machine.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::parts::must;
use crate::random::Random;

/// Parts of the system that d1 is a copy of.
const SYSTEM: &[&str] = &[
    "/usr/bin",
    "/usr/sbin",
    "/usr/include",
    "/usr/share",
    "/usr/local",
    "/usr/libexec",
    "/usr/lib/jvm",
    "/usr/lib/postgresql",
    "/usr/lib/python3",
    "/usr/lib/gcc",
    "/usr/lib/git-core",
    "/usr/lib/x86_64-linux-gnu",
];
/// The image's size, and what of d1 goes into it.
const IMAGE_BYTES: u64 = 4 << 30;
const IMAGE_HOLDS_BYTES: u64 = 2_500 << 20;
/// Blocks of the image; 2 % of them change, in clusters.
const BLOCK_BYTES: u64 = 4096;
const CLUSTER_BLOCKS_MAX: u64 = 64;
/// d4: files, and files of a directory.
const SMALL_FILES: u64 = 200_000;
const TINY_FILES: u64 = 2_000;
const UPPER_DIRECTORY_FILES: u64 = 2_000;
const SMALL_DIRECTORY_FILES: u64 = 100;
/// One file in so many is changed, another added, another removed.
const CHANGED_EVERY: usize = 100;
/// Made-up words.
const SYLLABLES: &[&str] = &[
    "ba", "con", "ter", "re", "in", "ser", "ver", "ti", "mo", "de", "la", "st", "ex", "po", "ra",
    "ni", "lu", "ge", "so", "ka",
];
const WORDS: usize = 8000;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Data {
    /// A file tree
    D1,
    /// A disk image
    D3,
    /// 200,000 small files
    D4,
    /// 2,000 small files: to see that the measurement works
    Tiny,
}

impl Data {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::D1 => "d1",
            Self::D3 => "d3",
            Self::D4 => "d4",
            Self::Tiny => "tiny",
        }
    }

    /// Makes both versions below `top`, unless they are there.
    pub(crate) fn make(self, top: &Path) -> Result<PathBuf> {
        let dir = top.join(self.as_str());
        if dir.join("v1").is_dir() && dir.join("v2").is_dir() {
            return Ok(dir);
        }
        println!("    making {} in {}", self.as_str(), dir.display());
        let half = top.join(format!("{}.making", self.as_str()));
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        fs::create_dir_all(half.join("v1"))?;
        match self {
            Self::D1 => system_tree(&half)?,
            Self::D3 => image(&half, &Self::D1.make(top)?.join("v1"))?,
            Self::D4 => small_files(&half, SMALL_FILES)?,
            Self::Tiny => small_files(&half, TINY_FILES)?,
        }
        fs::rename(&half, &dir)?;
        Ok(dir)
    }
}

fn system_tree(half: &Path) -> Result<()> {
    let v1 = half.join("v1");
    let said = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let toolchain = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim()).join("lib");
    let parts = SYSTEM.iter().map(PathBuf::from).chain([toolchain]);
    for part in parts.filter(|part| part.is_dir()) {
        let to = v1.join(part.strip_prefix("/")?);
        fs::create_dir_all(&to)?;
        // Devices and owners are not the point; links and times are.
        let mut copy = Command::new("rsync");
        must(copy.args(["-rlt", "--chmod=u+r"]).arg(format!("{}/", part.display())).arg(&to))?;
    }
    let v2 = second(half)?;
    mutate(&v2, &mut Random::new(1))
}

fn small_files(half: &Path, files: u64) -> Result<()> {
    let mut random = Random::new(4);
    let text = Text::new();
    let v1 = half.join("v1");
    let mut directory = v1.clone();
    for number in 0..files {
        if number % SMALL_DIRECTORY_FILES == 0 {
            let (upper, lower) = (number / UPPER_DIRECTORY_FILES, number);
            directory = v1.join(format!("s{upper:02}")).join(format!("d{lower:06}"));
            fs::create_dir_all(&directory)?;
        }
        let bytes = 1024 + random.below(7 * 1024);
        fs::write(directory.join(format!("f{number:06}.txt")), text.make(&mut random, bytes))?;
    }
    let v2 = second(half)?;
    mutate(&v2, &mut random)
}

/// v2 as a copy of v1 that keeps times.
fn second(half: &Path) -> Result<PathBuf> {
    let v2 = half.join("v2");
    must(Command::new("cp").arg("-a").arg(half.join("v1")).arg(&v2))?;
    Ok(v2)
}

/// 1 % of the files changed (appended to, overwritten, inserted into, touched), 1 % removed, and
/// 1 % added, half of them near copies of others.
fn mutate(tree: &Path, random: &mut Random) -> Result<()> {
    let mut files = Vec::new();
    list(tree, &mut files)?;
    files.sort();
    let text = Text::new();
    let count = files.len() / CHANGED_EVERY;
    for number in 0..count {
        let changed = files.swap_remove(random.below(files.len() as u64) as usize);
        writable(&changed)?;
        change(&changed, number, random, &text)?;
        let removed = files.swap_remove(random.below(files.len() as u64) as usize);
        fs::remove_file(removed)?;
        let near = files.swap_remove(random.below(files.len() as u64) as usize);
        let mut added = format!("copy {number}\n").into_bytes();
        if number % 2 == 0 {
            added.extend(text.make(random, fs::metadata(&near)?.len().min(8 << 20)));
        } else {
            added.extend(fs::read(&near)?);
        }
        fs::write(near.with_file_name(format!("added-{number}")), added)?;
    }
    Ok(())
}

fn change(file: &Path, number: usize, random: &mut Random, text: &Text) -> Result<()> {
    let bytes = fs::metadata(file)?.len();
    match number % 4 {
        0 => {
            let more = text.make(random, (64 + bytes / 50).min(4096));
            OpenOptions::new().append(true).open(file)?.write_all(&more)?;
        }
        1 => {
            let opened = OpenOptions::new().write(true).open(file)?;
            let patch = random_bytes(random, bytes.min(512) as usize);
            let at = random.below(bytes.saturating_sub(patch.len() as u64) + 1);
            opened.write_all_at(&patch, at)?;
        }
        2 => {
            let mut all = fs::read(file)?;
            let at = random.below(all.len() as u64 / 4 + 1) as usize;
            all.splice(at..at, format!("// inserted line {number}\n").into_bytes());
            fs::write(file, all)?;
        }
        _ => File::options().append(true).open(file)?.set_modified(std::time::UNIX_EPOCH)?,
    }
    Ok(())
}

fn writable(file: &Path) -> Result<()> {
    let mut rights = fs::metadata(file)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o644);
    Ok(fs::set_permissions(file, rights)?)
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// An ext4 of part of d1, written out whole; v2 has 2 % of its blocks overwritten in clusters.
fn image(half: &Path, tree: &Path) -> Result<()> {
    let content = tempfile::tempdir_in(half)?;
    let mut files = Vec::new();
    list(tree, &mut files)?;
    files.sort();
    let mut held = 0;
    for file in files {
        held += fs::metadata(&file)?.len();
        if held > IMAGE_HOLDS_BYTES {
            break;
        }
        let to = content.path().join(file.strip_prefix(tree)?);
        fs::create_dir_all(to.parent().context("a file lies in a directory")?)?;
        if fs::hard_link(&file, &to).is_err() {
            fs::copy(&file, &to)?;
        }
    }
    let first = half.join("v1/disk.img");
    File::create(&first)?.set_len(IMAGE_BYTES)?;
    let mut make = Command::new("mkfs.ext4");
    must(make.args(["-q", "-F", "-d"]).arg(content.path()).arg(&first))?;
    fill_holes(&first)?;
    fs::create_dir_all(half.join("v2"))?;
    let second = half.join("v2/disk.img");
    must(Command::new("cp").args(["--sparse=never", "-p"]).arg(&first).arg(&second))?;
    let (mut random, file) = (Random::new(3), OpenOptions::new().write(true).open(&second)?);
    let blocks = IMAGE_BYTES / BLOCK_BYTES;
    let mut left = blocks / 50;
    while left > 0 {
        let run = (1 + random.below(CLUSTER_BLOCKS_MAX)).min(left);
        let at = random.below(blocks - run);
        let fresh = random_bytes(&mut random, (run * BLOCK_BYTES) as usize);
        file.write_all_at(&fresh, at * BLOCK_BYTES)?;
        left -= run;
    }
    Ok(())
}

/// A sparse image is written out, as images on block devices are.
fn fill_holes(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < IMAGE_BYTES {
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut buffer)?;
        file.write_all_at(&buffer, at)?;
        at += buffer.len() as u64;
    }
    Ok(())
}

fn random_bytes(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let seed = random.below(u64::MAX).to_le_bytes();
    blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut bytes);
    bytes
}

/// Text-like bytes: made-up words, some of them often, some numbers, lines.
struct Text {
    words: Vec<String>,
}

impl Text {
    fn new() -> Self {
        let mut random = Random::new(4242);
        let mut syllable = |_| {
            let at = random.below(SYLLABLES.len() as u64) as usize;
            SYLLABLES.get(at).copied().unwrap_or_default()
        };
        let word = |number: usize| (0..=number % 4).map(&mut syllable).collect::<String>();
        Self { words: (0..WORDS).map(word).collect() }
    }

    fn make(&self, random: &mut Random, bytes: u64) -> Vec<u8> {
        let bytes = bytes as usize;
        let mut out = Vec::with_capacity(bytes + 32);
        let mut line = 0;
        while out.len() < bytes {
            let before = out.len();
            match random.below(100) {
                0..6 => out.extend(random.below(1_000_000).to_string().bytes()),
                6..8 => out.extend(format!("{:016x}", random.below(u64::MAX)).bytes()),
                _ => {
                    // A product of three is small more often than not: some words are common.
                    let share =
                        |random: &mut Random| random.below(1 << 20) as f64 / f64::from(1 << 20);
                    let at = share(random) * share(random) * share(random) * WORDS as f64;
                    out.extend(
                        self.words.get(at as usize).map(String::as_str).unwrap_or("a").bytes(),
                    );
                }
            }
            line += out.len() - before;
            let ends = line > 72;
            out.push(if ends { b'\n' } else { b' ' });
            line = if ends { 0 } else { line + 1 };
        }
        out.truncate(bytes);
        out
    }
}

/// Brings `work` to what `wanted` holds, touching only what differs.
pub(crate) fn bring(wanted: &Path, work: &Path) -> Result<()> {
    fs::create_dir_all(work)?;
    let from = format!("{}/", wanted.display());
    let mut sync = Command::new("rsync");
    let status = sync.args(["-a", "--delete"]).arg(from).arg(work).status()?;
    if !status.success() {
        bail!("rsync to {} ended with {status}", work.display());
    }
    Ok(())
}

/// Reads everything once, so that what is measured does not wait for a cold disk.
pub(crate) fn warm(dir: &Path) -> Result<u64> {
    let mut files = Vec::new();
    list(dir, &mut files)?;
    let (mut bytes, mut buffer) = (0, vec![0; 1 << 20]);
    for file in files {
        let mut file = File::open(file)?;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
        }
    }
    Ok(bytes)
}
