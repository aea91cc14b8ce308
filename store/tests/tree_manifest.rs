//! Manifests: what was written comes back, and nothing else is believed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use strongroom_protocol::{BlobKind, ChunkId, PointId, Reference, RepoId, Timestamp, WorkloadId};
use strongroom_store::keys::VaultKey;
use strongroom_store::manifest::{
    Body, Consistency, Gap, GapList, GapReason, Head, Manifest, ManifestError, READER_VERSION,
    Stats, decode_gaps, encode_gaps, reader_version_min,
};

const KEY: VaultKey = VaultKey::from_bytes([7; 32]);

fn sample() -> Manifest {
    let root = ChunkId([1; 32]);
    let head = Head {
        repo: RepoId::from_bytes([1; 16]),
        workload: WorkloadId::from_bytes([2; 16]),
        point: PointId::from_bytes([3; 16]),
        moment: Timestamp(-4),
        kind: 0,
        roots: vec![Reference { kind: BlobKind::Page, id: root }],
        key_epoch: 1,
        reader_version_min: 1,
    };
    let body = Body {
        workload_name: "home@files".parse().unwrap(),
        agent: "files-1".parse().unwrap(),
        source: "/srv/home".to_owned(),
        consistency: Consistency::Filesystem,
        frozen_ms: 120,
        root,
        stats: Stats { files: 5, bytes: 1 << 50, ..Stats::default() },
        gaps: GapList::Inline(vec![Gap::new(b"a/\xff", GapReason::Permission, "EACCES")]),
        policy: "gold".parse().unwrap(),
        policy_version: 3,
        previous: Some(PointId::from_bytes([4; 16])),
        committed: Timestamp(99),
        software: "0.1.0".to_owned(),
        hooks: String::new(),
    };
    Manifest { head, body }
}

/// The bytes with the digest at their end made right again: what an attacker would do.
fn redigest(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 32);
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    bytes
}

#[test]
fn a_manifest_comes_back_and_its_head_needs_no_key() {
    let manifest = sample();
    let bytes = manifest.encode(&KEY).unwrap();
    assert_eq!(Manifest::decode(&bytes, &KEY).unwrap(), manifest);
    assert_eq!(Manifest::decode_head(&bytes).unwrap(), manifest.head);
    assert_ne!(bytes, manifest.encode(&KEY).unwrap(), "every nonce is fresh");
    assert!(!bytes.windows(9).any(|window| window == b"/srv/home"), "the body is sealed");
}

#[test]
fn every_flipped_bit_and_every_cut_is_met() {
    let bytes = sample().encode(&KEY).unwrap();
    for at in 0..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 1 << (at % 8);
        assert!(Manifest::decode(&broken, &KEY).is_err(), "byte {at}");
        assert!(Manifest::decode_head(&broken).is_err(), "byte {at}");
        assert!(Manifest::decode(&bytes[..at], &KEY).is_err(), "cut at {at}");
        if at < bytes.len() - 32 {
            assert!(Manifest::decode(&redigest(broken), &KEY).is_err(), "forged byte {at}");
        }
    }
    assert!(Manifest::decode(&[&bytes[..], &[0]].concat(), &KEY).is_err());
}

#[test]
fn a_wrong_key_is_not_called_damage() {
    let manifest = sample();
    let bytes = manifest.encode(&KEY).unwrap();
    let error = Manifest::decode(&bytes, &VaultKey::from_bytes([8; 32])).unwrap_err();
    assert!(matches!(error, ManifestError::Sealed { point } if point == manifest.head.point));
    let mut broken = bytes;
    broken[60] ^= 1;
    assert!(matches!(Manifest::decode(&broken, &KEY), Err(ManifestError::Damaged)));
    assert!(matches!(Manifest::decode(b"SRPACK01", &KEY), Err(ManifestError::NotManifest)));
}

#[test]
fn a_newer_version_says_so() {
    let mut newer = sample();
    newer.head.reader_version_min = READER_VERSION + 1;
    let bytes = newer.encode(&KEY).unwrap();
    for error in
        [Manifest::decode(&bytes, &KEY).unwrap_err(), Manifest::decode_head(&bytes).unwrap_err()]
    {
        assert!(error.to_string().contains("newer version"), "{error}");
    }
    let mut bytes = sample().encode(&KEY).unwrap();
    bytes[7] = b'2';
    assert!(matches!(Manifest::decode(&bytes, &KEY), Err(ManifestError::Damaged)));
    let error = Manifest::decode(&redigest(bytes), &KEY).unwrap_err();
    assert!(matches!(error, ManifestError::Newer { .. }));
}

#[test]
fn the_roots_lead_to_all_the_body_names() {
    let mut manifest = sample();
    manifest.body.gaps = GapList::Blob { id: ChunkId([9; 32]), count: 1000 };
    assert!(matches!(manifest.encode(&KEY), Err(ManifestError::Roots { .. })));
    manifest.head.roots.push(Reference { kind: BlobKind::Gaps, id: ChunkId([9; 32]) });
    let bytes = manifest.encode(&KEY).unwrap();
    assert_eq!(Manifest::decode(&bytes, &KEY).unwrap().body.gaps.count(), 1000);
    manifest.head.roots.remove(0);
    assert!(matches!(manifest.encode(&KEY), Err(ManifestError::Roots { .. })));
    manifest = sample();
    manifest.body.gaps = GapList::Inline(vec![Gap::new(b"a", GapReason::Changed, ""); 101]);
    assert!(manifest.encode(&KEY).is_err());
}

#[test]
fn many_gaps_fill_a_blob_and_no_more() {
    let few = vec![Gap::new(b"a", GapReason::Vanished, "\u{e9}"); 500];
    let (plain, kept) = encode_gaps(&few).unwrap();
    assert_eq!((kept, decode_gaps(&plain).unwrap()), (500, few));
    let long = "\u{e9}".repeat(400);
    let many = vec![Gap::new(&[b'p'; 5000], GapReason::Unreadable, &long); 2000];
    assert_eq!((many[0].path.len(), many[0].text.len()), (4096, 512));
    let (plain, kept) = encode_gaps(&many).unwrap();
    assert!(plain.len() <= 4 << 20 && (800..2000).contains(&kept), "{kept}");
    assert_eq!(decode_gaps(&plain).unwrap(), many[..kept]);
    assert!(decode_gaps(&plain[..plain.len() - 1]).is_err());
    assert!(decode_gaps(&[&plain[..], &[0]].concat()).is_err());
}

#[test]
fn a_manifest_of_version_one_stays_readable() {
    let bytes = data_encoding::HEXLOWER.decode(GOLDEN.as_bytes()).unwrap();
    assert_eq!(Manifest::decode(&bytes, &KEY).unwrap(), sample());
}

const GOLDEN: &str = "\
    5352504f494e30315600000001010101010101010101010101010101020202020202020202020202\
    02020202030303030303030303030303030303030700010101010101010101010101010101010101\
    0101010101010101010101010101010101018e00000044d2a5d955ef96db43cff5be5fea2d5f0368\
    409811a827ba79d632100b8145a65a379a3851271071121cd627d159a66fe4975fefe79dc259adf8\
    eb37513da2323dd849b436e4fdd802155f9d1d657578ef7d71a4f6c0813e6291150d5c33e9d57780\
    a75a6e9ec4f7284bf8730bb282f0fb234fb95685bb2313f05e467d4bf9c2edd6eca6df1f1da42929\
    d62af2e8bd5d45576c04f30c891e2bf5477ca9715fe4b61f080fd71207511e65dbaa25d7175774af\
    1c04044d659699ad";

#[test]
fn a_point_opens_with_the_key_of_its_epoch_and_says_so_where_there_is_none() {
    let two = KEY.rotated().unwrap();
    let old = sample().encode(&two).unwrap();
    assert_eq!(Manifest::decode(&old, &KEY).unwrap(), sample(), "epoch 1 is as it was");
    let mut manifest = sample();
    manifest.head.key_epoch = 2;
    manifest.head.reader_version_min = reader_version_min(2);
    let bytes = manifest.encode(&two).unwrap();
    assert_eq!(Manifest::decode(&bytes, &two).unwrap(), manifest);
    let refused = Manifest::decode(&bytes, &KEY);
    assert!(matches!(refused, Err(ManifestError::Epoch { epoch: 2, known: 1, .. })));
    let other = KEY.rotated().unwrap();
    assert!(matches!(Manifest::decode(&bytes, &other), Err(ManifestError::Sealed { .. })));
    manifest.head.key_epoch = 0;
    assert!(matches!(manifest.encode(&two), Err(ManifestError::Epoch { epoch: 0, .. })));
    assert_eq!((reader_version_min(1), reader_version_min(2), READER_VERSION), (1, 2, 2));
}
