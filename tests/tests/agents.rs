//! An agent that lies, and garbage on the wire: each lie is refused for what it is, no point
//! comes of it, and the next honest job works.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::UdpSocket;

use bytes::Bytes;
use strongroom_certs::Authority;
use strongroom_node::ask::open;
use strongroom_protocol::blob::{Algorithm, BlobKind, ParcelHead, Reference};
use strongroom_protocol::control::{
    Ending, FromNode, ProtectWork, RetryAdvice, StepNews, ToNode, Work,
};
use strongroom_protocol::data::{ASK_IDS_MAX, FromAgent, ToAgent};
use strongroom_protocol::link::{Link, Receiver, Sender};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{ChunkId, Generation, Identity, JobId, Role};
use strongroom_store::content::Node;
use strongroom_store::keys::AgentKeys;
use strongroom_store::manifest::Consistency;
use strongroom_store::parcel::Compressor;
use strongroom_tests::lab::{Cast, Lab, random};
use strongroom_tests::played::{self, empty_file, page_of};
use strongroom_tests::site::name;

/// An agent played by hand.
struct Liar {
    link: Link,
    sender: Sender,
    receiver: Receiver,
    keys: AgentKeys,
}

async fn link_of_host1(lab: &Lab) -> Link {
    let authority = Authority::open(&lab.sites.home("coordinator").join("authority")).unwrap();
    let host1 =
        Identity { org: name("acme"), site: name("a"), role: Role::Agent, name: name("host1") };
    lab.sites.link_as(&authority, &host1, "coordinator").await.unwrap()
}

impl Liar {
    async fn connect(lab: &Lab) -> Self {
        let link = link_of_host1(lab).await;
        let (mut sender, mut receiver) = open(&link, Opening::Control).await.unwrap();
        let hello = FromNode::Hello { software: "0".into(), host: "liar".into(), live: vec![] };
        sender.send(&hello).await.unwrap();
        let (answer, _) = receiver.expect::<ToNode>().await.unwrap();
        let ToNode::Welcome(welcome) = answer else { panic!("{answer:?}") };
        let naming = welcome.naming.unwrap();
        let keys = AgentKeys { id_key: naming.id_key, cut_key: naming.cut_key };
        Self { link, sender, receiver, keys }
    }

    /// Waits for the assignment and reports up to the stream, which is opened.
    async fn accept(&mut self) -> (JobId, Generation, ProtectWork, Sender, Receiver) {
        let (job, generation, work) = loop {
            let (message, _) = self.receiver.expect::<ToNode>().await.unwrap();
            if let ToNode::Assign { job, generation, work } = message
                && let Work::Protect(work) | Work::ProtectBlocks { work, .. } = work
            {
                break (job, generation, *work);
            }
        };
        for step in ["quiesce", "snapshot", "thaw"] {
            for news in [StepNews::Started, StepNews::Done(String::new())] {
                let step = step.to_owned();
                let step = FromNode::Step { job, generation, step, news };
                self.sender.send(&step).await.unwrap();
            }
        }
        let opening = Opening::Ingest { job, generation };
        let (sender, receiver) = open(&self.link, opening).await.unwrap();
        (job, generation, work, sender, receiver)
    }

    async fn give_up(&mut self, job: JobId, generation: Generation, refusal: Refusal) {
        let ending = Ending::Failed { refusal, retry: RetryAdvice::Pointless };
        self.sender.send(&FromNode::Ended { job, generation, ending }).await.unwrap();
    }
}

fn draft(work: &ProtectWork, root: ChunkId) -> Bytes {
    played::draft(&work.name, name("host1"), &work.policy, Consistency::Fuzzy, root)
}

fn blob(keys: &AgentKeys, kind: BlobKind, of: (Vec<Reference>, Vec<u8>)) -> (FromAgent, Bytes) {
    let parcel = Compressor::new().unwrap().pack(keys, kind, of.0, &of.1, 1).unwrap();
    (FromAgent::Blob(parcel.head), parcel.payload)
}

type Said = Vec<(FromAgent, Bytes)>;

fn another_name(keys: &AgentKeys, _: &ProtectWork) -> Said {
    let (message, payload) = blob(keys, BlobKind::Data, (vec![], random(1000, 1)));
    let FromAgent::Blob(mut head) = message else { panic!("a blob") };
    head.id = ChunkId([7; 32]);
    vec![(FromAgent::Blob(head), payload)]
}

fn hostile_names(keys: &AgentKeys, work: &ProtectWork) -> Said {
    let (references, mut plain) = page_of(b"aaaetcaaa", empty_file());
    let at = plain.windows(9).position(|window| window == b"aaaetcaaa").unwrap();
    plain[at..at + 9].copy_from_slice(b"../etc/xy");
    let said = blob(keys, BlobKind::Page, (references.clone(), plain.clone()));
    let id = keys.id(BlobKind::Page, &references, &plain);
    let root = Reference { kind: BlobKind::Page, id };
    vec![said, (FromAgent::End { root }, draft(work, id))]
}

fn missing_children(keys: &AgentKeys, _: &ProtectWork) -> Said {
    let page = page_of(b"dir", Node::Directory { page: ChunkId([9; 32]) });
    vec![blob(keys, BlobKind::Page, page)]
}

fn unsent_root(_: &AgentKeys, work: &ProtectWork) -> Said {
    let root = Reference { kind: BlobKind::Page, id: ChunkId([8; 32]) };
    vec![(FromAgent::End { root }, draft(work, root.id))]
}

fn two_roots(keys: &AgentKeys, work: &ProtectWork) -> Said {
    let (references, plain) = page_of(b"file", empty_file());
    let id = keys.id(BlobKind::Page, &references, &plain);
    let said = blob(keys, BlobKind::Page, (references, plain));
    let root = Reference { kind: BlobKind::Page, id };
    vec![said, (FromAgent::End { root }, draft(work, ChunkId([6; 32])))]
}

fn no_draft(_: &AgentKeys, _: &ProtectWork) -> Said {
    let root = Reference { kind: BlobKind::Page, id: ChunkId([8; 32]) };
    vec![(FromAgent::End { root }, Bytes::from_static(&[0xff; 100]))]
}

fn a_bomb(_: &AgentKeys, _: &ProtectWork) -> Said {
    let head = ParcelHead {
        id: ChunkId([5; 32]),
        kind: BlobKind::Data,
        algorithm: Algorithm::Zstd,
        plain_len: u32::MAX,
        references: vec![],
    };
    vec![(FromAgent::Blob(head), Bytes::from_static(b"little"))]
}

fn too_many_questions(_: &AgentKeys, _: &ProtectWork) -> Said {
    let ids = vec![ChunkId([1; 32]); ASK_IDS_MAX + 1];
    vec![(FromAgent::Ask { number: 1, ids }, Bytes::new())]
}

type Lie = fn(&AgentKeys, &ProtectWork) -> Said;

const LIES: &[(Lie, RefusalKind, &str)] = &[
    (another_name, RefusalKind::Damaged, "not what its name says"),
    (hostile_names, RefusalKind::Damaged, "cannot be the name of a file"),
    (missing_children, RefusalKind::Missing, "are not here"),
    (unsent_root, RefusalKind::Missing, "not complete"),
    (two_roots, RefusalKind::Invalid, "another root"),
    (no_draft, RefusalKind::Invalid, "draft of the manifest"),
    (a_bomb, RefusalKind::Invalid, "larger than a blob may be"),
    (too_many_questions, RefusalKind::Invalid, "in one question"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_lie_is_refused_for_what_it_is() {
    let mut lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("file", 50_000, 1).unwrap();
    lab.stop_agent().await.unwrap();
    let mut liar = Liar::connect(&lab).await;
    for (lie, kind, words) in LIES {
        let begun = lab.begin().await.unwrap();
        let (job, generation, work, mut sender, mut receiver) = liar.accept().await;
        assert_eq!(job, begun);
        for (message, bulk) in lie(&liar.keys, &work) {
            sender.send_with(&message, bulk).await.unwrap();
        }
        let (answer, _) = receiver.expect::<ToAgent>().await.unwrap();
        let ToAgent::Refused { refusal, lacking } = answer else { panic!("{answer:?}") };
        assert!(refusal.kind == *kind && refusal.text.contains(words), "{words}: {refusal}");
        assert_eq!(lacking.is_empty(), *kind != RefusalKind::Missing);
        liar.give_up(job, generation, refusal).await;
        assert_eq!(lab.ended(job).await.unwrap().state, "failed");
        assert_eq!(lab.sites.points("coordinator").await.unwrap(), vec![], "{words}");
    }
    liar.link.close("enough");
    lab.start_agent().unwrap();
    lab.everybody().await.unwrap();
    let point = lab.point().await.unwrap();
    lab.restores_as("coordinator", point, &lab.source).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_goes_silent_in_a_job_does_not_hold_it_for_ever() {
    let mut lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("file", 50_000, 1).unwrap();
    lab.stop_agent().await.unwrap();
    let mut liar = Liar::connect(&lab).await;
    let job = lab.begin().await.unwrap();
    let (_, _, _, sender, _) = liar.accept().await;
    drop(sender);
    liar.link.close("gone for good");
    lab.start_agent().unwrap();
    let row = lab.ended(job).await.unwrap();
    assert_eq!(row.state, "succeeded", "{row:?}");
    lab.restores_as("coordinator", row.point.unwrap(), &lab.source).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_wire_costs_nobody_else_anything() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("file", 50_000, 1).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..400_u16 {
        let mut datagram = random(usize::from(n) * 3 + 1, u64::from(n));
        // Every other one claims to be a QUIC handshake.
        datagram[0] = if n % 2 == 0 { 0xc3 } else { datagram[0] };
        socket.send_to(&datagram, lab.sites.coordinator_at).unwrap();
    }
    let mut prefix = vec![0xff; 8];
    prefix.extend(random(100, 3));
    let garbage = [
        Bytes::from(random(5000, 1)),
        Bytes::from(prefix),
        // A header of three bytes that is opening number 99, no bulk.
        Bytes::from_static(&[3, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0]),
        // Cut short in the header.
        Bytes::from_static(&[9, 0, 0, 0, 0, 0, 0, 0, 1]),
        Bytes::new(),
    ];
    let link = link_of_host1(&lab).await;
    for bytes in garbage {
        let (mut sender, mut receiver) = link.open().await.unwrap();
        // The far end may stop us before it took everything.
        let _ = sender.send_raw(bytes).await;
        sender.finish();
        assert!(receiver.frame().await.map_or(true, |frame| frame.is_none()));
    }
    lab.audited("turned-away", "more than the limit").await.unwrap();
    lab.audited("turned-away", "number 99 is not known").await.unwrap();
    // The connection survived its streams.
    let (mut sender, _receiver) = open(&link, Opening::Control).await.unwrap();
    sender.send_raw(Bytes::from(random(5000, 2))).await.unwrap();
    let point = lab.point().await.unwrap();
    lab.restores_as("coordinator", point, &lab.source).await.unwrap();
}
