//! Devices against a model, and servers against clients that lie: over a point in memory, by the
//! protocol's own bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use strongroom_present::export::{
    Device, Image, Listen, Overlay, OverlayError, Piece, Server, Tally,
};
use strongroom_present::reader::Reader;
use strongroom_protocol::{BlobKind, PointId, Timestamp};
use strongroom_store::content::{ChunkExtent, FileContent};
use strongroom_store::list::ListBuilder;
use strongroom_store::tree::{BlobSink, MemoryBlobs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

const MODEL_BYTES: usize = 300_000;
const CHUNK: usize = 64 << 10;

/// An image of which every third chunk is a hole, and its bytes.
fn image(bytes: usize) -> (MemoryBlobs, FileContent, Vec<u8>) {
    let (mut blobs, mut list, mut all) = (MemoryBlobs::new(), ListBuilder::new(), Vec::new());
    for (number, at) in (0..bytes).step_by(CHUNK).enumerate() {
        let length = CHUNK.min(bytes - at);
        if number % 3 == 1 {
            all.resize(at + length, 0);
            list.push(ChunkExtent::Hole { length: length as u64 }, &mut blobs).unwrap();
            continue;
        }
        let plain: Vec<u8> = (0..length).map(|byte| (byte * 7 + number) as u8).collect();
        all.extend(&plain);
        let id = blobs.put(BlobKind::Data, Vec::new(), plain).unwrap();
        let extent = ChunkExtent::Chunk { id, offset: 0, length: length as u32 };
        list.push(extent, &mut blobs).unwrap();
    }
    let content = list.finish(&mut blobs).unwrap();
    (blobs, content, all)
}

fn device(bytes: usize, overlay: Option<Overlay>) -> (Device, Vec<u8>) {
    let (blobs, content, all) = image(bytes);
    let reader = Reader::new(Arc::new(blobs), 4 << 20).unwrap();
    let image = Image::new(reader.open(bytes as u64, &content));
    (Device::new("vda".to_owned(), "a disk".to_owned(), image, overlay), all)
}

fn overlay(path: &Path, bytes: usize) -> Overlay {
    let until = Timestamp::from_unix_seconds(2_000_000_000);
    let head = Overlay::head(PointId::from_bytes([1; 16]), [2; 32], bytes as u64, until);
    Overlay::open(path, head).unwrap()
}

fn joined(pieces: Vec<Piece>) -> Vec<u8> {
    let bytes = |piece: Piece| match piece {
        Piece::Data(bytes) => bytes,
        Piece::Zeroes(count) => Bytes::from(vec![0; count as usize]),
    };
    pieces.into_iter().map(bytes).collect::<Vec<_>>().concat()
}

#[derive(Clone, Debug)]
enum Deed {
    Flush,
    Read(usize, usize),
    Reopen,
    Write(usize, Vec<u8>),
    Zero(usize, usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    let place = 0..MODEL_BYTES;
    prop_oneof![
        1 => Just(Deed::Flush),
        1 => Just(Deed::Reopen),
        4 => (place.clone(), 0..70_000_usize).prop_map(|(at, length)| Deed::Read(at, length)),
        6 => (place.clone(), any::<u8>(), 0..9000_usize)
            .prop_map(|(at, byte, length)| Deed::Write(at, vec![byte; length])),
        2 => (place, 0..70_000_usize).prop_map(|(at, length)| Deed::Zero(at, length)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_was_written_is_read_and_the_rest_is_the_image(
        deeds in prop::collection::vec(deed(), 1..40)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overlay");
        let (mut device, mut model) = device(MODEL_BYTES, Some(overlay(&path, MODEL_BYTES)));
        for deed in deeds {
            match deed {
                Deed::Flush => device.flush().unwrap(),
                Deed::Reopen => {
                    device.flush().unwrap();
                    drop(device);
                    device = self::device(MODEL_BYTES, Some(overlay(&path, MODEL_BYTES))).0;
                }
                Deed::Read(at, length) => {
                    let end = (at + length).min(MODEL_BYTES);
                    let read = joined(device.read(at as u64..end as u64).unwrap());
                    prop_assert!(read == model[at..end], "{at}..{end} differs");
                }
                Deed::Write(at, mut bytes) => {
                    bytes.truncate(MODEL_BYTES - at);
                    device.write(at as u64, &bytes).unwrap();
                    model[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Deed::Zero(at, length) => {
                    let end = (at + length).min(MODEL_BYTES);
                    device.zero(at as u64..end as u64).unwrap();
                    model[at..end].fill(0);
                }
            }
        }
        let read = joined(device.read(0..MODEL_BYTES as u64).unwrap());
        prop_assert!(read == model, "the whole differs");
    }
}

#[test]
fn what_was_flushed_outlives_the_process_and_what_was_not_is_the_images_or_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlay");
    let (device, image) = device(MODEL_BYTES, Some(overlay(&path, MODEL_BYTES)));
    device.write(5000, b"flushed").unwrap();
    device.flush().unwrap();
    device.write(200_000, b"not flushed").unwrap();
    // As a killed process leaves it: the files as they are, and nothing told to them.
    let left = dir.path().join("left");
    std::fs::copy(&path, &left).unwrap();
    std::fs::copy(Overlay::map_path(&path), Overlay::map_path(&left)).unwrap();
    let again = self::device(MODEL_BYTES, Some(overlay(&left, MODEL_BYTES))).0;
    let mut wanted = image;
    wanted[5000..5007].copy_from_slice(b"flushed");
    assert!(joined(again.read(0..MODEL_BYTES as u64).unwrap()) == wanted);
    // The block that was half written before is filled up anew.
    again.write(200_020, b"x").unwrap();
    wanted[200_020] = b'x';
    assert!(joined(again.read(0..MODEL_BYTES as u64).unwrap()) == wanted);
    let written = again.written().unwrap();
    assert_eq!((written.own_bytes, written.written_bytes), (2 * 4096, 1));
}

#[test]
fn an_overlay_is_of_one_image_and_of_one_export() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("overlay");
    let open = |point: u8, bytes: u64| {
        let until = Timestamp::from_unix_seconds(1);
        Overlay::open(&path, Overlay::head(PointId::from_bytes([point; 16]), [2; 32], bytes, until))
    };
    let first = open(1, 8192).unwrap();
    assert!(matches!(open(1, 8192), Err(OverlayError::InUse { .. })));
    drop(first);
    drop(open(1, 8192).unwrap());
    let other = open(9, 8192).unwrap_err().to_string();
    assert!(other.contains("lies over point"), "{other}");
    let larger = open(1, 16_384).unwrap_err().to_string();
    assert!(larger.contains("an image of 8192 bytes, not 16384"), "{larger}");
    std::fs::remove_file(Overlay::map_path(&path)).unwrap();
    assert!(matches!(open(1, 8192), Err(OverlayError::NoMap { .. })));
    Overlay::remove(&path).unwrap();
    assert!(!path.exists());
    open(1, 8192).unwrap();
}

#[test]
fn writers_side_by_side_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (device, mut model) =
        device(MODEL_BYTES, Some(overlay(&dir.path().join("overlay"), MODEL_BYTES)));
    // Sixteen threads write into the same blocks, each its own bytes of them.
    std::thread::scope(|scope| {
        for number in 0..16_usize {
            let device = &device;
            scope.spawn(move || {
                for block in 0..40 {
                    let at = block * 4096 + number * 256;
                    device.write(at as u64, &[number as u8; 256]).unwrap();
                    if block % 10 == 0 {
                        device.flush().unwrap();
                    }
                }
            });
        }
    });
    for (at, byte) in model.iter_mut().take(40 * 4096).enumerate() {
        *byte = (at % 4096 / 256) as u8;
    }
    assert!(joined(device.read(0..MODEL_BYTES as u64).unwrap()) == model);
}

/// A server over a unix socket, and what ends it.
struct Served {
    path: std::path::PathBuf,
    stop: CancellationToken,
    tally: Arc<Tally>,
    running: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

async fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let (device, _) = device(MODEL_BYTES, None);
    let stop = CancellationToken::new();
    let listen = Listen::Unix(path.clone());
    let server = Server::bind(&listen, vec![Arc::new(device)], None, stop.clone()).await.unwrap();
    let tally = server.tally();
    let running = tokio::spawn(server.run());
    Served { path, stop, tally, running, _dir: dir }
}

impl Served {
    async fn connect(&self) -> UnixStream {
        let mut client = UnixStream::connect(&self.path).await.unwrap();
        let mut greeting = [0; 18];
        client.read_exact(&mut greeting).await.unwrap();
        assert!(greeting.starts_with(b"NBDMAGICIHAVEOPT"));
        client
    }

    /// Everything a server says to these bytes until it hangs up.
    async fn says(&self, bytes: &[u8]) -> Vec<u8> {
        let mut client = self.connect().await;
        // It may hang up in the middle.
        let _ = client.write_all(bytes).await;
        let mut said = Vec::new();
        let _ = client.read_to_end(&mut said).await;
        said
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.running).await.unwrap().unwrap();
        assert!(!self.path.exists(), "the socket is left");
    }
}

fn option(number: u32, length: u32, data: &[u8]) -> Vec<u8> {
    let flags = 3_u32.to_be_bytes();
    [&flags[..], b"IHAVEOPT", &number.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
    let head = [&0x2560_9513_u32.to_be_bytes()[..], &[0, 0], &command.to_be_bytes()].concat();
    [&head[..], &[7; 8], &offset.to_be_bytes(), &length.to_be_bytes()].concat()
}

#[tokio::test]
async fn lies_of_clients_cost_them_the_connection_or_an_error() {
    let served = served().await;
    assert!(served.says(&[0xff; 4]).await.is_empty(), "flags nobody offered");
    assert!(served.says(&[&3_u32.to_be_bytes()[..], &[0; 16]].concat()).await.is_empty());
    let absurd = served.says(&option(7, u32::MAX, &[])).await;
    assert_eq!(absurd[12..16], ((1_u32 << 31) + 9).to_be_bytes(), "told that it is too big");
    assert!(served.says(&option(1, 3, b"nil")).await.is_empty(), "no such export");
    // A name longer than its option, more queries than bytes.
    let lying = [&100_u32.to_be_bytes()[..], b"vda\0\0"].concat();
    let abort = [&b"IHAVEOPT"[..], &2_u32.to_be_bytes(), &[0; 4]].concat();
    let told = served.says(&[option(6, 9, &lying), abort].concat()).await;
    assert_eq!(told[12..16], ((1_u32 << 31) + 3).to_be_bytes());
    let served_to = |more: Vec<u8>| [option(1, 3, b"vda"), more].concat();
    // Answers come in any order: where the good one is first, the other is behind its 21 bytes.
    let number = |told: &[u8], at: usize| u32::from_be_bytes(told[at..at + 4].try_into().unwrap());
    let errno = |told: &[u8]| match number(told, 14) {
        0 => number(told, 14 + 21),
        errno => errno,
    };
    for (name, bytes, wanted) in [
        ("a read beyond the end", request(0, MODEL_BYTES as u64 - 1, 2), 22),
        ("a read from the other end", request(0, u64::MAX, 1), 22),
        ("a read of all there is", request(0, 0, u32::MAX), 22),
        ("a command nobody knows", request(77, 0, 1), 22),
        ("a write", [request(1, 0, 3), b"abc".to_vec()].concat(), 1),
        ("a trim", request(4, 0, 4096), 1),
        ("zeroes", request(6, 0, 4096), 1),
        ("a status nobody agreed on", request(7, 0, 4096), 22),
    ] {
        let good = [request(0, 0, 5), request(2, 0, 0)].concat();
        let told = served.says(&served_to([bytes, good].concat())).await;
        assert_eq!(errno(&told), wanted, "{name}");
        // The connection goes on: five bytes come.
        assert_eq!(told.len(), 10 + 16 + 16 + 5, "{name}");
    }
    let large = served.says(&served_to(request(1, 0, u32::MAX))).await;
    assert_eq!(large.len(), 10, "a write of 4 GiB is not waited for");
    let nonsense = served.says(&served_to(vec![0x55; 28])).await;
    assert_eq!(nonsense.len(), 10);
    assert!(served.tally.told().refused >= 4);
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn half_a_conversation_times_out() {
    let served = served().await;
    for begun in [&b""[..], &[0, 0], &option(7, 100, &[0; 50])] {
        assert!(served.says(begun).await.is_empty());
    }
    let half = [option(1, 3, b"vda"), request(0, 0, 5)[..20].to_vec()].concat();
    assert_eq!(served.says(&half).await.len(), 10);
    served.end().await;
}

#[tokio::test]
async fn clients_are_counted_and_one_too_many_is_let_go() {
    let served = served().await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(served.connect().await);
    }
    let mut more = UnixStream::connect(&served.path).await.unwrap();
    let mut said = Vec::new();
    more.read_to_end(&mut said).await.unwrap();
    assert!(said.is_empty(), "one too many was greeted");
    clients.clear();
    // Room is made as soon as they have gone.
    for _ in 0..100 {
        let mut client = UnixStream::connect(&served.path).await.unwrap();
        if client.read_u64().await.is_ok() {
            return served.end().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody is let in any more");
}

#[tokio::test]
async fn what_leaves_this_host_needs_a_certificate_and_a_socket_in_use_is_left_alone() {
    let served = served().await;
    let (device, _) = device(4096, None);
    let devices = vec![Arc::new(device)];
    let bind = |listen: Listen| {
        let (devices, stop) = (devices.clone(), served.stop.clone());
        async move { Server::bind(&listen, devices, None, stop).await }
    };
    let told = bind("0.0.0.0:0".parse().unwrap()).await.err().unwrap().to_string();
    assert!(told.contains("can be reached from other hosts"), "{told}");
    assert!(bind(Listen::Unix(served.path.clone())).await.is_err(), "a socket was taken over");
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(bind(Listen::Unix(file.path().to_owned())).await.is_err(), "a file was replaced");
    let open = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    assert!(open.place().unwrap().stays_here());
    served.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_bytes_end_a_conversation(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        begins in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let served = served().await;
            let bytes = if begins { [option(1, 3, b"vda"), bytes].concat() } else { bytes };
            let mut client = served.connect().await;
            let _ = client.write_all(&bytes).await;
            client.shutdown().await.ok();
            let mut said = Vec::new();
            let _ = client.read_to_end(&mut said).await;
            served.end().await;
        });
    }
}
