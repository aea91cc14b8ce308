//! What needs a file system of its own: snapshots on btrfs, a target without room. Skipped,
//! and said so, where nothing may be mounted.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests and what they share")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use strongroom_agent::quiesce::Consistency;
use strongroom_agent::restore::{RestoreError, RestoreOptions, Restorer};
use strongroom_agent::workload::files::rules::RuleSet;
use strongroom_agent::workload::files::{FilesWorkload, Options, Progress, protect};
use strongroom_agent::workload::moment::Moment as _;
use strongroom_agent::workload::{ChunkSink, Workload, btrfs};
use strongroom_protocol::{BlobKind, ChunkId, JobId, Reference, SystemClock};
use strongroom_store::tree::{BlobSink as _, MemoryBlobs, SinkError, Tree};

struct Mounted(PathBuf);

/// Lazily: the snapshot left behind on purpose keeps a descriptor open.
impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], at: &Path) -> Mounted {
    fs::create_dir_all(at).unwrap();
    must(Command::new("mount").args(arguments).arg(at));
    Mounted(at.to_owned())
}

/// A part that is missing fails the test: nothing is skipped in silence.
fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[derive(Default)]
struct Blobs(Mutex<MemoryBlobs>);

impl ChunkSink for Blobs {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        self.0.lock().unwrap().put(kind, references, plain)
    }
}

#[test]
fn a_snapshot_is_one_moment_and_is_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::File::create(&image).unwrap().set_len(300 << 20).unwrap();
    must(Command::new("mkfs.btrfs").arg("-q").arg(&image));
    let image = image.to_string_lossy().into_owned();
    let place = mount(&["-o", "loop", &image], &dir.path().join("mnt"));
    let root = place.0.join("data");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), b"then").unwrap();
    let job = |byte| JobId::from_bytes([byte; 16]);
    let workload = FilesWorkload {
        root: root.clone(),
        rules: RuleSet::default(),
        job: job(1),
        freeze: None,
        journal: dir.path().join("journal"),
        clock: Arc::new(SystemClock),
    };
    assert_eq!(workload.discover().unwrap()[0].place, "btrfs");
    let quiesced = workload.quiesce().unwrap();
    let viewed = quiesced.view(|| {
        let view = workload.view()?;
        let reached = view.consistency();
        Ok::<_, strongroom_agent::workload::files::ViewError>((view, reached))
    });
    let viewed = viewed.unwrap();
    assert_eq!(viewed.evidence.consistency, Consistency::Filesystem);
    fs::write(root.join("file"), b"later").unwrap();
    assert_ne!(viewed.view.root(), root);
    assert_eq!(fs::read(viewed.view.root().join("file")).unwrap(), b"then");
    assert!(fs::write(viewed.view.root().join("new"), b"x").is_err());
    // A live reaper spares it, one that knows of no job takes another's leftover.
    assert_eq!(btrfs::reap(&root, &|live| live == job(1)).unwrap(), Vec::<String>::new());
    drop(viewed);
    assert_eq!(fs::read_dir(&place.0).unwrap().count(), 1);
    let left = btrfs::Snapshot::create(&root, job(2)).unwrap();
    std::mem::forget(left);
    assert_eq!(btrfs::reap(&root, &|_| false).unwrap(), [format!(".strongroom-{}", job(2))]);
    assert_eq!(fs::read_dir(&place.0).unwrap().count(), 1);
}

#[test]
fn a_full_target_is_named_once_and_ends_the_restore() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    for index in 0..20 {
        fs::write(source.join(format!("{index}")), vec![index; 1 << 20]).unwrap();
    }
    let arguments = ["-t", "tmpfs", "-o", "size=5m", "none"];
    let place = mount(&arguments, &dir.path().join("small"));
    let blobs = Blobs::default();
    let progress = Progress::default();
    let never = AtomicBool::new(false);
    let options = Options::new(&source, (1, 3));
    let protected = protect(&options, &blobs, &progress, &never, &SystemClock).unwrap();
    let blobs = blobs.0.into_inner().unwrap();
    let tree = Tree::new(&blobs, protected.root);
    let restorer = Restorer::new(RestoreOptions::new(&place.0), Arc::default());
    let page = protected.item.directory_page().unwrap();
    let ended = restorer.run(&tree, page, None).unwrap_err();
    assert!(matches!(&ended, RestoreError::Full { target } if *target == place.0), "{ended}");
}
