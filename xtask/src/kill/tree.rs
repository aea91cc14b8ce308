//! The tree that is protected: made from a seed, rewritten in parts, and remembered file by
//! file as it was at each point.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::random::Random;

/// Small files beside the large ones: one in so many.
const SMALL_EVERY: usize = 4;
const SMALL_BYTES_MAX: u64 = 20_000;
/// Large files hold between these.
const LARGE_BYTES_MIN: u64 = 256 << 10;
const LARGE_BYTES_MAX: u64 = 12 << 20;
/// Of each block so much is random; the rest is zero, so that compression has work.
const BLOCK_WORDS: usize = 128;
const BLOCK_RANDOM_WORDS: usize = 96;
/// Files of a directory.
const DIRECTORY_FILES: usize = 50;

/// Every file of a point, with its hash.
pub(crate) type Manifest = BTreeMap<PathBuf, blake3::Hash>;

/// The tree on disk and what is in it now.
pub(crate) struct Tree {
    root: PathBuf,
    random: Random,
    files: Vec<(PathBuf, u64)>,
    now: Manifest,
}

impl Tree {
    /// Makes a tree of at least `bytes`.
    pub(crate) fn make(root: &Path, bytes: u64, seed: u64) -> Result<Self> {
        let (root, random) = (root.to_owned(), Random::new(seed));
        let mut tree = Self { root, random, files: Vec::new(), now: Manifest::new() };
        let mut made = 0;
        while made < bytes {
            let number = tree.files.len();
            let len = match number % SMALL_EVERY {
                0 => 1 + tree.random.below(SMALL_BYTES_MAX),
                _ => LARGE_BYTES_MIN + tree.random.below(LARGE_BYTES_MAX - LARGE_BYTES_MIN),
            };
            let path = format!("d{:03}/f{number:05}", number / DIRECTORY_FILES).into();
            tree.files.push((path, len));
            tree.write(number)?;
            made += len;
        }
        Ok(tree)
    }

    /// Rewrites files picked at random until at least `bytes` are new; returns how many are.
    pub(crate) fn rewrite(&mut self, bytes: u64) -> Result<u64> {
        let mut order: Vec<usize> = (0..self.files.len()).collect();
        for last in (1..order.len()).rev() {
            let other = self.random.below(last as u64 + 1) as usize;
            order.swap(last, other);
        }
        let mut fresh = 0;
        for number in order {
            if fresh >= bytes {
                break;
            }
            fresh += self.write(number)?;
        }
        Ok(fresh)
    }

    /// What is in it now.
    pub(crate) fn manifest(&self) -> Manifest {
        self.now.clone()
    }

    fn write(&mut self, number: usize) -> Result<u64> {
        let (path, len) = self.files.get(number).cloned().context("no such file")?;
        let place = self.root.join(&path);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = BufWriter::new(File::create(&place)?);
        let mut hasher = blake3::Hasher::new();
        let mut block = [0; BLOCK_WORDS * 8];
        let mut left = len;
        while left > 0 {
            for word in block.chunks_exact_mut(8).take(BLOCK_RANDOM_WORDS) {
                word.copy_from_slice(&self.random.next().to_le_bytes());
            }
            let some = usize::try_from(left).unwrap_or(block.len()).min(block.len());
            let bytes = block.get(..some).unwrap_or(&block);
            hasher.update(bytes);
            file.write_all(bytes)?;
            left -= some as u64;
        }
        file.flush()?;
        self.now.insert(path, hasher.finalize());
        Ok(len)
    }
}

/// Fails unless the directory holds exactly the files of the manifest.
pub(crate) fn compare(restored: &Path, wanted: &Manifest) -> Result<()> {
    let mut found = Manifest::new();
    let mut waiting = vec![restored.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
                continue;
            }
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(entry.path())?)?;
            found.insert(entry.path().strip_prefix(restored)?.to_owned(), hasher.finalize());
        }
    }
    let differ = wanted.iter().filter(|(path, hash)| found.get(*path) != Some(*hash)).count();
    if differ > 0 || found.len() != wanted.len() {
        bail!("{differ} of {} files differ, {} were found", wanted.len(), found.len());
    }
    Ok(())
}
