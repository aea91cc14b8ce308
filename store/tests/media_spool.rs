//! Packs read ahead: every byte as it is in the repository, however they are taken.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use strongroom_protocol::{BlobKind, PackId, RepoId, Timestamp};
use strongroom_store::cut::CutParams;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::media::Spool;
use strongroom_store::parcel::Compressor;
use strongroom_store::repo::{Mode, Options, Repo, RepoSetup};
use strongroom_store::seal::seal;
use strongroom_store::writer::WriterLimits;

const REPO: RepoId = RepoId::from_bytes([5; 16]);
const KEY: VaultKey = VaultKey::from_bytes([1; 32]);
/// More than is read ahead at once, in packs that are no multiple of what is read at once.
const CHUNKS: u32 = 90;
const CHUNK_BYTES: usize = 1_000_000;
const PACK_BYTES: u64 = 7_000_000;

fn repo(root: &Path) -> Repo {
    let setup = RepoSetup {
        repo: REPO,
        org: "acme".parse().unwrap(),
        cut: CutParams::FILES,
        created: Timestamp(1),
        wraps: vec![b"wrapped".to_vec()],
    };
    Repo::create(&LocalDisk::new(root), &setup, &KEY).unwrap();
    let limits = WriterLimits { data_pack_bytes: PACK_BYTES, ..WriterLimits::default() };
    let options = Options { mode: Mode::Write, limits };
    let repo = Repo::open(Arc::new(LocalDisk::new(root)), &KEY, options).unwrap();
    let mut compressor = Compressor::new().unwrap();
    for number in 0..CHUNKS {
        let mut plain = vec![0; CHUNK_BYTES];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut plain);
        let keys = KEY.agent_keys();
        let parcel = compressor.pack(&keys, BlobKind::Data, vec![], &plain, 1).unwrap();
        repo.insert(seal(&KEY, REPO, &parcel).unwrap(), &[]).unwrap();
    }
    repo.barrier().unwrap();
    repo
}

fn planned(repo: &Repo) -> Vec<(PackId, u64)> {
    repo.packs().into_iter().map(|pack| (pack, repo.pack_len(pack).unwrap())).collect()
}

fn whole(repo: &Repo, pack: PackId) -> Vec<u8> {
    repo.read_pack(pack, 0, usize::MAX).unwrap().to_vec()
}

#[test]
fn packs_come_whole_and_in_order_and_again_after_a_rewind() {
    let root = tempfile::tempdir().unwrap();
    let repo = repo(root.path());
    let planned = planned(&repo);
    assert!(planned.len() > 10 && planned.iter().any(|(_, bytes)| bytes % (1 << 20) != 0));
    let mut seen = Vec::new();
    Spool::run(&repo, planned.clone(), |spool| {
        for (place, (pack, bytes, source)) in spool.packs().enumerate() {
            let mut source = source.unwrap();
            seen.push((pack, bytes));
            let expected = whole(&repo, pack);
            let mut head = [0; 64];
            source.read_exact(&mut head).unwrap();
            assert_eq!(head.as_slice(), &expected[..64]);
            source.rewind().unwrap();
            // Some are given up in the middle and some are read twice, as on a full medium.
            if place % 4 == 1 {
                source.read_exact(&mut vec![0; 3_000_000]).unwrap();
                continue;
            }
            if place % 4 == 2 {
                source.read_exact(&mut vec![0; 3_000_000]).unwrap();
                source.rewind().unwrap();
            }
            let mut found = Vec::new();
            source.read_to_end(&mut found).unwrap();
            assert!(found == expected, "pack {place}");
            source.seek(SeekFrom::End(-100)).unwrap();
            source.seek(SeekFrom::Current(40)).unwrap();
            found.clear();
            source.read_to_end(&mut found).unwrap();
            assert!(found == expected[expected.len() - 60..], "the end of pack {place}");
        }
    });
    assert_eq!(seen, planned);
}

#[test]
fn readers_end_with_the_work_also_when_it_panics_and_a_lost_pack_costs_only_itself() {
    let root = tempfile::tempdir().unwrap();
    let repo = repo(root.path());
    let mut planned = planned(&repo);
    // Work that takes nothing at all, and work that stops at its first pack.
    Spool::run(&repo, planned.clone(), |_| ());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        Spool::run(&repo, planned.clone(), |spool| {
            let first = spool.packs().next().unwrap().2;
            first.unwrap().read_exact(&mut [0; 64]).unwrap();
            panic!("as a test does");
        });
    }));
    assert!(panicked.is_err());
    planned.insert(1, (PackId([9; 32]), 5 << 20));
    let read = Spool::run(&repo, planned.clone(), |spool| {
        let read = |(_, _, source): (PackId, u64, Result<_, _>)| -> Option<Vec<u8>> {
            let mut bytes = Vec::new();
            let mut source: strongroom_store::media::SpooledPack<'_> = source.ok()?;
            source.read_to_end(&mut bytes).ok()?;
            Some(bytes)
        };
        spool.packs().map(read).collect::<Vec<_>>()
    });
    for (place, ((pack, _), found)) in planned.iter().zip(read).enumerate() {
        match place {
            1 => assert!(found.is_none()),
            _ => assert!(found.unwrap() == whole(&repo, *pack), "pack {place}"),
        }
    }
}
