//! The block device client against a real server (`qemu-nbd`) and against servers that lie.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use proptest::prelude::*;
use strongroom_agent::workload::vm::nbd::{FLAG_DIRTY, FLAG_ZERO, Nbd, NbdError};

/// `qemu-nbd`, gone with its value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn qemu_img(arguments: &[&str]) {
    assert!(Command::new("qemu-img").args(arguments).status().unwrap().success(), "{arguments:?}");
}

fn serve(dir: &Path, arguments: &[&str]) -> (Server, UnixStream) {
    let socket = dir.join("nbd");
    let mut command = Command::new("qemu-nbd");
    command.args(["-r", "-t", "-x", "disk", "-k"]).arg(&socket).args(arguments);
    let server = Server(command.spawn().unwrap());
    for _ in 0..500 {
        if let Ok(stream) = UnixStream::connect(&socket) {
            return (server, stream);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("qemu-nbd does not listen");
}

const MIB: u64 = 1 << 20;

#[test]
fn what_lies_where_what_changed_and_every_byte_come_from_a_real_server() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image.qcow2"));
    let mut options = std::fs::File::options();
    let file = options.read(true).write(true).create_new(true).open(&raw).unwrap();
    file.set_len(64 * MIB + 512).unwrap();
    let data: Vec<u8> = (0..3 * MIB).map(|n| (n % 251 + 1) as u8).collect();
    file.write_all_at(&data, 5 * MIB).unwrap();
    file.write_all_at(&data[..512], 64 * MIB).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &text(&raw), &text(&image)]);
    qemu_img(&["bitmap", "--add", &text(&image), "b0"]);
    let write = ["-f", "qcow2", "-c", "write -P 7 6M 100k"];
    assert!(Command::new("qemu-io").args(write).arg(&image).status().unwrap().success());
    file.write_all_at(&[7; 100 << 10], 6 * MIB).unwrap();
    let (_server, stream) = serve(dir.path(), &["-f", "qcow2", "-B", "b0", &text(&image)]);
    let contexts = ["base:allocation", "qemu:dirty-bitmap:b0"];
    let mut device = Nbd::open(stream, "disk", &contexts).unwrap();
    assert_eq!(device.size(), 64 * MIB + 512);
    let status = device.status(0, device.size()).unwrap();
    let [allocation, dirty] = status.as_slice() else { panic!("{status:?}") };
    for list in [allocation, dirty] {
        assert_eq!(list.iter().map(|piece| piece.length).sum::<u64>(), device.size());
    }
    let data_bytes: u64 =
        allocation.iter().filter(|p| p.flags & FLAG_ZERO == 0).map(|p| p.length).sum();
    assert!((3 * MIB..4 * MIB).contains(&data_bytes), "{data_bytes}");
    let dirty: Vec<_> = dirty.iter().filter(|piece| piece.flags & FLAG_DIRTY != 0).collect();
    assert_eq!((dirty[0].offset, dirty[0].length, dirty.len()), (6 * MIB, 128 << 10, 1));
    let wanted = (0..65).map(|n| (n * MIB, if n == 64 { 512 } else { 1 << 20 }));
    let (mut expected, mut next) = (vec![0; 1 << 20], 0);
    let flow = device.read_each(wanted, |offset, bytes| {
        assert_eq!(offset, next);
        next += bytes.len() as u64;
        file.read_exact_at(&mut expected[..bytes.len()], offset).unwrap();
        assert!(bytes == &expected[..bytes.len()], "at {offset}");
        ControlFlow::Continue(())
    });
    assert!(flow.unwrap().is_continue());
    assert_eq!(next, device.size());
    // Ended early, the connection still serves.
    let stop = device.read_each((0..64).map(|n| (n * MIB, 1 << 20)), |_, _| ControlFlow::Break(()));
    assert!(stop.unwrap().is_break());
    assert_eq!(device.status(0, MIB).unwrap().len(), 2);
}

#[test]
fn an_export_or_a_context_that_is_not_there_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    std::fs::File::create(&raw).unwrap().set_len(MIB).unwrap();
    let (_server, stream) = serve(dir.path(), &["-f", "raw", raw.to_str().unwrap()]);
    let error = Nbd::open(stream, "other", &["base:allocation"]).unwrap_err();
    assert!(matches!(error, NbdError::Refused { .. }), "{error:?}");
    let stream = UnixStream::connect(dir.path().join("nbd")).unwrap();
    let contexts = ["base:allocation", "qemu:dirty-bitmap:none"];
    let error = Nbd::open(stream, "disk", &contexts).unwrap_err();
    assert!(error.to_string().contains("to tell what lies where"), "{error}");
}

/// A server that says these bytes and hears everything.
struct Liar(std::io::Cursor<Vec<u8>>);

impl Read for Liar {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Liar {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What an honest server says to a client that asks for one context and reads 4096 bytes.
fn honest() -> Vec<u8> {
    let mut said = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    let mut answer = |option: u32, kind: u32, body: &[u8]| {
        said.extend(0x0003_e889_0455_65a9_u64.to_be_bytes());
        said.extend(option.to_be_bytes());
        said.extend(kind.to_be_bytes());
        said.extend((body.len() as u32).to_be_bytes());
        said.extend(body);
    };
    answer(8, 1, &[]);
    answer(10, 4, b"\0\0\0\x09base:allocation");
    answer(10, 1, &[]);
    answer(7, 3, &[&[0, 0][..], &(1_u64 << 20).to_be_bytes(), &[0, 1]].concat());
    answer(7, 1, &[]);
    let mut chunk = |last: u16, kind: u16, cookie: u64, body: &[u8]| {
        said.extend(0x668e_33ef_u32.to_be_bytes());
        said.extend(last.to_be_bytes());
        said.extend(kind.to_be_bytes());
        said.extend(cookie.to_be_bytes());
        said.extend((body.len() as u32).to_be_bytes());
        said.extend(body);
    };
    let piece = |length: u32, flags: u32| [length.to_be_bytes(), flags.to_be_bytes()].concat();
    let pieces = [piece(1 << 19, 0), piece(1 << 19, 3)].concat();
    chunk(1, 5, 1, &[&9_u32.to_be_bytes()[..], &pieces].concat());
    chunk(0, 1, 2, &[&0_u64.to_be_bytes()[..], &[7; 2048]].concat());
    chunk(1, 2, 2, &[&2048_u64.to_be_bytes()[..], &2048_u32.to_be_bytes()].concat());
    said
}

fn talk(said: Vec<u8>) -> Result<Vec<u8>, NbdError> {
    let mut device = Nbd::open(Liar(std::io::Cursor::new(said)), "disk", &["base:allocation"])?;
    device.status(0, device.size().min(1 << 20))?;
    let mut read = Vec::new();
    let wanted = std::iter::once((0, 4096));
    let flow = device.read_each(wanted, |_, bytes| {
        read.extend(bytes);
        ControlFlow::Continue(())
    })?;
    assert!(flow.is_continue());
    Ok(read)
}

#[test]
fn an_honest_server_is_understood() {
    let read = talk(honest()).unwrap();
    assert_eq!(read, [[7; 2048], [0; 2048]].concat());
}

#[test]
fn lengths_that_lie_are_refused_before_memory_is_asked_for() {
    let honest = honest();
    // The length of each structured chunk, in turn, as long as it can be.
    let magic = 0x668e_33ef_u32.to_be_bytes();
    let places: Vec<usize> =
        (0..honest.len() - 20).filter(|at| honest[*at..].starts_with(&magic)).collect();
    assert_eq!(places.len(), 3);
    for at in places {
        let mut said = honest.clone();
        said[at + 16..at + 20].copy_from_slice(&u32::MAX.to_be_bytes());
        let error = talk(said).unwrap_err();
        assert!(matches!(error, NbdError::Protocol { .. }), "{error:?}");
    }
    // A size past the longest file, and pieces of no length.
    let at = honest.windows(8).position(|bytes| bytes == (1_u64 << 20).to_be_bytes()).unwrap();
    let mut said = honest.clone();
    said[at..at + 8].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(matches!(talk(said), Err(NbdError::Protocol { .. })));
    let pieces = [(1_u32 << 19).to_be_bytes(), 0_u32.to_be_bytes()].concat();
    let at = honest.windows(8).position(|bytes| bytes == pieces).unwrap();
    let mut said = honest;
    said[at..at + 4].fill(0);
    said[at + 8..at + 12].fill(0);
    assert!(matches!(talk(said), Err(NbdError::Protocol { .. })));
}

proptest! {
    #[test]
    fn no_server_makes_the_client_hang_or_panic(
        at in 0_usize..2300,
        bytes in prop::collection::vec(any::<u8>(), 1..12),
        cut in 0_usize..2400,
    ) {
        let mut said = honest();
        let end = (at + bytes.len()).min(said.len());
        if at < end {
            said[at..end].copy_from_slice(&bytes[..end - at]);
        }
        let _ = talk(said.clone());
        said.truncate(cut);
        let _ = talk(said);
    }
}
