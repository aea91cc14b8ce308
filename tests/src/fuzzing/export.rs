//! Fuzz targets for exports: what a client of a block device may send, and the map of an overlay
//! as a disk may hand it back.

use strongroom_present::export::{
    Begun, Haggle, Next, Offer, Order, Overlay, REQUEST_BYTES, Request, Secrecy, read_map,
};
use strongroom_protocol::{PointId, Timestamp};

/// Longest read or write a server takes, in bytes.
const LENGTH_MAX: u32 = 32 << 20;
/// An answer to an option: what is offered, with heads.
const ANSWER_BYTES_MAX: usize = 128 << 10;

fn offers() -> [Offer; 2] {
    [("vda", 1 << 30, true), ("vdb", 12_345, false)].map(|(name, bytes, writable)| Offer {
        name: name.to_owned(),
        description: "a disk".to_owned(),
        bytes,
        writable,
    })
}

/// A whole conversation out of any bytes: haggling, then requests. Whether a device was reached.
pub fn export(bytes: &[u8]) -> bool {
    let offers = offers();
    let Some((flags, mut rest)) = bytes.split_first_chunk() else { return false };
    let mut haggle = Haggle::new(&offers, Secrecy::Wanted);
    let mut open = Haggle::new(&offers, Secrecy::Plain);
    if haggle.client_flags(*flags).is_err() || open.client_flags(*flags).is_err() {
        return false;
    }
    while let Some((head, after)) = rest.split_first_chunk() {
        let Ok(Begun::Data { option, length }) = open.begins(head) else { return false };
        let Some((data, after)) = after.split_at_checked(length as usize) else { return false };
        rest = after;
        let guarded = haggle.option(option, data).next;
        assert!(!matches!(guarded, Next::Transmit(_)), "served without encryption");
        let answer = open.option(option, data);
        assert!(answer.bytes.len() <= ANSWER_BYTES_MAX, "{} bytes", answer.bytes.len());
        match answer.next {
            Next::Option => {}
            Next::End | Next::StartTls => return false,
            Next::Transmit(agreed) => {
                while let Some((request, after)) = rest.split_first_chunk::<REQUEST_BYTES>() {
                    let Ok(request) = Request::parse(request) else { break };
                    let Ok(payload) = request.payload_bytes() else { break };
                    assert!(payload <= LENGTH_MAX);
                    lies_within(request.order(&agreed).ok(), agreed.bytes, agreed.writable);
                    rest = after.get(payload as usize..).unwrap_or_default();
                }
                return true;
            }
        }
    }
    false
}

fn lies_within(order: Option<Order>, bytes: u64, writable: bool) {
    let (range, moved) = match order {
        None | Some(Order::Disconnect | Order::Flush) => return,
        Some(Order::Read { offset, length, .. }) => ((offset, length), length),
        Some(Order::Write { offset, length, .. }) => {
            assert!(writable);
            ((offset, length), length)
        }
        Some(Order::Zero { offset, length, .. }) => {
            assert!(writable);
            ((offset, length), 0)
        }
        Some(Order::Cache { offset, length } | Order::Status { offset, length, .. }) => {
            ((offset, length), 0)
        }
    };
    assert!(range.0.checked_add(u64::from(range.1)).is_some_and(|end| end <= bytes));
    assert!(moved <= LENGTH_MAX);
}

/// Conversations as clients lead them.
pub(super) fn export_seeds() -> Vec<Vec<u8>> {
    let option = |number: u32, data: &[u8]| {
        let magic = 0x4948_4156_454f_5054_u64.to_be_bytes();
        let length = (data.len() as u32).to_be_bytes();
        [&magic[..], &number.to_be_bytes(), &length, data].concat()
    };
    let text = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
    let request = |command: u16, offset: u64, length: u32| {
        let head = [&0x2560_9513_u32.to_be_bytes()[..], &[0, 0], &command.to_be_bytes()].concat();
        [&head[..], &[7; 8], &offset.to_be_bytes(), &length.to_be_bytes()].concat()
    };
    let requests = [
        request(0, 4096, 65536),
        [request(1, 512, 3), b"abc".to_vec()].concat(),
        request(3, 0, 0),
        request(4, 0, 4096),
        request(5, 0, 1 << 20),
        request(6, 0, 1 << 30),
        request(7, 0, 1 << 30),
        request(2, 0, 0),
    ];
    let flags = 3_u32.to_be_bytes().to_vec();
    let context = [text("vda"), 1_u32.to_be_bytes().to_vec(), text("base:allocation")].concat();
    let go = |name: &str| option(7, &[&text(name)[..], &[0, 2, 0, 1, 0, 3]].concat());
    let modern = [
        flags.clone(),
        option(8, &[]),
        option(3, &[]),
        option(6, &[&text("vdb")[..], &[0, 0]].concat()),
        option(9, &context),
        option(10, &context),
        go("vda"),
        requests.concat(),
    ];
    let oldest = [flags.clone(), option(1, b"vdb"), requests.concat()];
    let left = [flags, option(5, &[]), option(2, &[])];
    vec![modern.concat(), oldest.concat(), left.concat()]
}

/// A map of an overlay out of any bytes: its runs lie within what it is of.
pub fn overlay(bytes: &[u8]) -> bool {
    let Some((head, runs)) = read_map(bytes) else { return false };
    for run in &runs {
        assert!(run.first + u64::from(run.blocks) <= head.blocks());
    }
    assert!(runs.len() * 16 <= bytes.len());
    true
}

/// A map as it is written; none where nothing can be written at all.
pub(super) fn overlay_seeds() -> Vec<Vec<u8>> {
    let Ok(dir) = tempfile::tempdir() else { return Vec::new() };
    let path = dir.path().join("overlay");
    let until = Timestamp::from_unix_seconds(1_800_000_000);
    let head = Overlay::head(PointId::from_bytes([3; 16]), [5; 32], 1 << 20, until);
    let made = Overlay::open(&path, head).ok();
    let map = made.and_then(|_| std::fs::read(Overlay::map_path(&path)).ok());
    map.into_iter().collect()
}
