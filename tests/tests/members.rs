//! Members of a cluster, played by hand: the one that was chosen is cut off in the middle of its
//! stream, another is ordered, and what the first still sends is refused by its generation.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use strongroom_certs::Authority;
use strongroom_node::ask::open;
use strongroom_protocol::admin::Request;
use strongroom_protocol::blob::{BlobKind, Reference};
use strongroom_protocol::control::{AppWork, FromNode, StepNews, ToNode, Work};
use strongroom_protocol::data::{FromAgent, ToAgent};
use strongroom_protocol::link::{Link, Receiver, Sender};
use strongroom_protocol::member::{MemberAnswer, MemberRole, MemberState};
use strongroom_protocol::opening::{Opening, RefusalKind};
use strongroom_protocol::{ChunkId, Generation, Identity, JobId, Role};
use strongroom_store::keys::AgentKeys;
use strongroom_store::manifest::Consistency;
use strongroom_store::parcel::Compressor;
use strongroom_tests::lab::{Cast, Lab};
use strongroom_tests::played::{self, empty_file, page_of};
use strongroom_tests::site::name;

const POLICY: &str = r#"
[policy.p]
timezone = "UTC"
primary.keep = { newest = 10 }
[workload."crm"]
policy = "p"
kind = "postgres"
prefer = "prefer-standby"
password_file = "/etc/pw"
member.db1 = { host = "/run/db1" }
member.db2 = { host = "/run/db2", port = 5433 }
"#;

/// The agent beside a member.
struct Actor {
    link: Link,
    sender: Sender,
    receiver: Receiver,
    keys: AgentKeys,
    state: MemberState,
}

/// What a member was ordered to do, and its stream.
struct Ordered {
    job: JobId,
    generation: Generation,
    work: AppWork,
    sender: Sender,
    receiver: Receiver,
}

impl Actor {
    async fn connect(lab: &Lab, member: &str, role: MemberRole) -> Self {
        let authority = Authority::open(&lab.sites.home("coordinator").join("authority")).unwrap();
        let (org, site, role_of) = (name("acme"), name("a"), Role::Agent);
        let identity = Identity { org, site, role: role_of, name: name(member) };
        let link = lab.sites.link_as(&authority, &identity, "coordinator").await.unwrap();
        let (mut sender, mut receiver) = open(&link, Opening::Control).await.unwrap();
        let hello = FromNode::Hello { software: "0".into(), host: member.into(), live: vec![] };
        sender.send(&hello).await.unwrap();
        let (answer, _) = receiver.expect::<ToNode>().await.unwrap();
        let ToNode::Welcome(welcome) = answer else { panic!("{answer:?}") };
        let naming = welcome.naming.unwrap();
        let keys = AgentKeys { id_key: naming.id_key, cut_key: naming.cut_key };
        let (cluster, version) = ("7412".to_owned(), "15.14".to_owned());
        let state = MemberState { cluster, role, timeline: 1, lag_ms: Some(0), version };
        Self { link, sender, receiver, keys, state }
    }

    /// Answers what it is until it is ordered to make the point, and opens its stream.
    async fn ordered(&mut self) -> Ordered {
        let (job, generation, work) = loop {
            match self.receiver.expect::<ToNode>().await.unwrap().0 {
                ToNode::Member(question) => self.say(question.number).await,
                ToNode::Assign { job, generation, work: Work::ProtectApp(work) } => {
                    break (job, generation, *work);
                }
                _ => {}
            }
        };
        for step in ["quiesce", "snapshot", "thaw"] {
            for news in [StepNews::Started, StepNews::Done(String::new())] {
                let step = step.to_owned();
                self.sender.send(&FromNode::Step { job, generation, step, news }).await.unwrap();
            }
        }
        let opening = Opening::Ingest { job, generation };
        let (sender, receiver) = open(&self.link, opening).await.unwrap();
        Ordered { job, generation, work, sender, receiver }
    }

    async fn say(&mut self, number: u64) {
        let answer = MemberAnswer::Is(self.state.clone());
        self.sender.send(&FromNode::Member { number, answer }).await.unwrap();
    }

    /// Answers what it is, once.
    async fn asked(&mut self) {
        loop {
            if let (ToNode::Member(question), _) = self.receiver.expect().await.unwrap() {
                return self.say(question.number).await;
            }
        }
    }

    /// Sends a point of one empty file, and says what it was told.
    async fn send(&self, of: &mut Ordered) -> ToAgent {
        let (references, plain) = page_of(b"file", empty_file());
        let id = self.keys.id(BlobKind::Page, &references, &plain);
        let mut compressor = Compressor::new().unwrap();
        let parcel = compressor.pack(&self.keys, BlobKind::Page, references, &plain, 1).unwrap();
        of.sender.send_with(&FromAgent::Blob(parcel.head), parcel.payload).await.unwrap();
        let root = Reference { kind: BlobKind::Page, id };
        of.sender.send_with(&FromAgent::End { root }, draft(&of.work, id)).await.unwrap();
        of.receiver.expect::<ToAgent>().await.unwrap().0
    }
}

fn draft(work: &AppWork, root: ChunkId) -> Bytes {
    played::draft(&work.name, name("agent"), &work.policy, Consistency::Application, root)
}

fn says(work: &AppWork, key: &str) -> String {
    let said = work.settings.iter().find(|(of, _)| of == key);
    said.map(|(_, value)| value.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_passed_over_commits_nothing_and_one_point_is_made() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.sites.apply(POLICY).await.unwrap();
    let mut db1 = Actor::connect(&lab, "db1", MemberRole::Primary).await;
    let mut db2 = Actor::connect(&lab, "db2", MemberRole::Standby).await;
    let order = Request::Protect { workload: name("crm") };
    let (ordered, ()) = tokio::join!(
        async {
            lab.sites.ask("coordinator", &order).await.unwrap();
            db2.ordered().await
        },
        db1.asked()
    );
    let mut first = ordered;
    // The policy's words for it, its own, and what it must be.
    let told =
        ["host", "port", "password_file", "prefer", "cluster"].map(|key| says(&first.work, key));
    assert_eq!(told, ["/run/db2", "5433", "/etc/pw", "standby-only", "7412"]);

    // Its conversation ends, its stream does not.
    db2.sender.finish();
    let mut second = db1.ordered().await;
    assert_eq!(second.job, first.job);
    assert!(second.generation > first.generation);
    assert_eq!(says(&second.work, "prefer"), "primary");
    let ToAgent::Refused { refusal, .. } = db2.send(&mut first).await else { panic!("committed") };
    assert_eq!(refusal.kind, RefusalKind::Stale, "{refusal}");
    assert_eq!(lab.sites.points("coordinator").await.unwrap(), vec![]);

    // A stream of the old generation is not even let in, also not on a new conversation.
    let again = Actor::connect(&lab, "db2", MemberRole::Standby).await;
    let opening = Opening::Ingest { job: first.job, generation: first.generation };
    let (_sender, mut receiver) = open(&again.link, opening).await.unwrap();
    let (answer, _) = receiver.expect::<ToAgent>().await.unwrap();
    let ToAgent::Refused { refusal, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.kind, RefusalKind::Stale, "{refusal}");

    let committed = db1.send(&mut second).await;
    assert_eq!(committed, ToAgent::Committed { point: second.work.point });
    let points = lab.sites.points("coordinator").await.unwrap();
    assert_eq!(points.len(), 1);
    assert_eq!(points[0].id, second.work.point);
    let (_, events) = lab.job(second.job).await.unwrap();
    let text: Vec<&str> = events.iter().map(|event| event.text.as_str()).collect();
    for said in [
        "member db2: standby on timeline 1",
        "agent db2 was away for 20 s in the middle",
        "member db1: primary on timeline 1; the policy says prefer-standby; not db2: its agent",
    ] {
        assert!(text.iter().any(|line| line.contains(said)), "{said}: {text:#?}");
    }
}
