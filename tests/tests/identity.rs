//! Who may do what: revoked, expired, copied, foreign and over-bold identities at the doors of
//! both sites. Who is refused is told why, and the audit log knows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom_certs::{
    Authority, Cost, Credential, CurrentCredential, Expect, KeyPair, RecoveryKey, Revocations,
    Root, Secret, Token, client_config,
};
use strongroom_node::ask::{AskError, ask, open};
use strongroom_node::enrol::enrol;
use strongroom_node::reader::RemotePoint;
use strongroom_protocol::admin::{Request, Response};
use strongroom_protocol::control::{FromNode, ToNode};
use strongroom_protocol::data::ToAgent;
use strongroom_protocol::link::{Endpoint, Link};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{
    ALPN_NODE, Clock, FixedClock, Generation, Identity, JobId, Role, SystemClock,
};
use strongroom_tests::lab::{Cast, Lab, TREE, copy_tree};
use strongroom_tests::site::name;

fn identity(site: &str, role: Role, who: &str) -> Identity {
    Identity { org: name("acme"), site: name(site), role, name: name(who) }
}

fn host1() -> Identity {
    identity("a", Role::Agent, "host1")
}

fn authority(lab: &Lab, node: &str) -> Authority {
    Authority::open(&lab.sites.home(node).join("authority")).unwrap()
}

async fn is_connected(lab: &Lab, who: &str) -> bool {
    let answer = lab.sites.ask("coordinator", &Request::Nodes).await.unwrap();
    let Response::Nodes(nodes) = answer else { panic!("{answer:?}") };
    nodes.iter().any(|node| node.connected && node.identity.name.as_str() == who)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_agent_is_cut_off_within_two_seconds_and_stays_out() {
    let mut lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("file", 5000, 1).unwrap();
    let mut link =
        lab.sites.link_as(&authority(&lab, "coordinator"), &host1(), "coordinator").await.unwrap();
    lab.sites.ask("coordinator", &Request::Revoke { identity: host1() }).await.unwrap();
    let began = Instant::now();
    let why = tokio::time::timeout(Duration::from_secs(10), link.closed()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(why.to_string().contains("revoked"), "{why}");
    let gone = lab.sites.wait_for("the agent to go", async |_| {
        Ok((!is_connected(&lab, "host1").await).then_some(()))
    });
    gone.await.unwrap();
    lab.audited("revoke", "host1").await.unwrap();
    lab.audited("turned-away", "revoked").await.unwrap();
    let records = lab.audit().await.unwrap().len();
    let again = lab.sites.wait_for("the agent to try again", async |_| {
        let newer = lab.audit().await?.into_iter().skip(records);
        Ok(newer.into_iter().find(|row| row.action == "turned-away"))
    });
    again.await.unwrap();
    assert!(!is_connected(&lab, "host1").await);

    // Enrolled anew under the same name it may come.
    lab.stop_agent().await.unwrap();
    // Certificates know the second they were signed in; that of the revocation is all lost.
    let second = SystemClock.now().unix_seconds();
    let later = async |_: &_| Ok((SystemClock.now().unix_seconds() > second).then_some(()));
    lab.sites.wait_for("the next second", later).await.unwrap();
    lab.sites.enrol_agent("host1").await.unwrap();
    lab.start_agent().unwrap();
    lab.everybody().await.unwrap();
    lab.point().await.unwrap();
    link = lab.sites.operator("coordinator").await.unwrap();
    link.close("done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_end_during_a_job_are_renewed_and_it_completes() {
    let life = 5;
    let lab = Lab::start_with(Cast::OneSite, Arc::new(SystemClock), life).await.unwrap();
    lab.write("file", 5000, 1).unwrap();
    let slow = lab
        .policy()
        .replace("one_file_system", "pre_hook = [\"/bin/sleep\", \"8\"]\none_file_system");
    lab.sites.apply(&slow).await.unwrap();
    let began = Instant::now();
    let job = lab.sites.protect(TREE).await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(u64::from(life)));
    assert_eq!(job.state, "succeeded", "{job:?}");
    let (_, events) = lab.job(job.id).await.unwrap();
    let assigned = events.iter().filter(|event| event.text.contains("assign")).count();
    assert!(assigned <= 3, "one attempt was enough: {events:?}");
    let away = lab.audit().await.unwrap().into_iter().any(|row| row.action == "turned-away");
    assert!(!away, "the connection stood");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_comes_back_with_its_younger_certificate_before_it_is_turned_away() {
    let life = 9;
    let lab = Lab::start_with(Cast::TwoSites, Arc::new(SystemClock), life).await.unwrap();
    lab.write("file", 5000, 1).unwrap();
    lab.point().await.unwrap();
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    tokio::time::sleep(Duration::from_secs(u64::from(life) + 3)).await;
    lab.everybody().await.unwrap();
    let away = lab.audit().await.unwrap().into_iter().any(|row| row.action == "turned-away");
    assert!(!away, "nobody waited until its connection counted no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_of_the_first_site_is_refused_at_the_second() {
    let lab = Lab::start(Cast::TwoSites).await.unwrap();
    lab.write("file", 5000, 1).unwrap();
    let point = lab.point().await.unwrap();
    lab.sites.await_copy("secondary", "readable").await.unwrap();
    let admin = identity("a", Role::Operator, "admin");
    let link = lab.sites.link_as(&authority(&lab, "coordinator"), &admin, "proxy").await.unwrap();
    let refused = |error: AskError| match error {
        AskError::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    let refusal = refused(ask(&link, &Request::Status).await.unwrap_err());
    assert_eq!(refusal.kind, RefusalKind::Forbidden);
    assert!(refusal.text.contains("its own site"), "{refusal}");
    let refusal = refused(RemotePoint::open(&link, point, None).await.unwrap_err());
    assert_eq!(refusal.kind, RefusalKind::Forbidden);
}

async fn opening_refused(link: &Link, opening: Opening) -> Refusal {
    match open(link, opening.clone()).await {
        Err(AskError::Refused(refusal)) => refusal,
        other => panic!("{opening:?}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_gets_only_what_an_agent_may() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("file", 5000, 1).unwrap();
    let point = lab.point().await.unwrap();
    let other = identity("a", Role::Agent, "host2");
    let authority = authority(&lab, "coordinator");
    let link = lab.sites.link_as(&authority, &other, "coordinator").await.unwrap();
    for opening in [Opening::Admin, Opening::Packs, Opening::Fetch { point, grant: None }] {
        let refusal = opening_refused(&link, opening).await;
        assert_eq!(refusal.kind, RefusalKind::Forbidden, "{refusal}");
    }
    lab.audited("turned-away", "may not do this").await.unwrap();

    let grant = Some(JobId::fresh(0));
    let error = RemotePoint::open(&link, point, grant).await.unwrap_err();
    let AskError::Refused(refusal) = error else { panic!("{error:?}") };
    assert_eq!(refusal.kind, RefusalKind::Forbidden);
    assert!(refusal.text.contains("no operator granted"), "{refusal}");
    lab.audited("turned-away", "no operator granted").await.unwrap();

    let hung = lab
        .policy()
        .replace("one_file_system", "pre_hook = [\"/bin/sleep\", \"2\"]\none_file_system");
    lab.sites.apply(&hung).await.unwrap();
    let job = lab.begin().await.unwrap();
    let opening = Opening::Ingest { job, generation: Generation(1) };
    let (_sender, mut receiver) = open(&link, opening).await.unwrap();
    let (answer, _) = receiver.expect::<ToAgent>().await.unwrap();
    let ToAgent::Refused { refusal, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.kind, RefusalKind::Stale);
    lab.audited("turned-away", "is not host2's").await.unwrap();
    assert_eq!(lab.ended(job).await.unwrap().state, "succeeded");
    assert_eq!(lab.sites.points("coordinator").await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_another_organisation_are_worth_nothing() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    let now = SystemClock.now();
    let recovery = RecoveryKey::generate().unwrap();
    let secret = Secret::from("another organisation");
    let root = Root::create(&name("acme"), &secret, &recovery, Cost::TESTING, now).unwrap();
    let foreign = root.issue_site(&name("a"), now).unwrap();
    let key = KeyPair::generate().unwrap();
    let admin = identity("a", Role::Operator, "admin");
    let chain = foreign.issue(&admin, &key.public(), now, 3600).unwrap();
    let credential = Credential::of(chain, key, foreign.root().clone()).unwrap();
    let current = CurrentCredential::new(&credential).unwrap();
    let ours = authority(&lab, "coordinator");
    let revoked = Arc::new(Revocations::in_memory());
    let clock = Arc::new(SystemClock);
    let tls = client_config(&current, ours.root(), &[ALPN_NODE], Expect::ANYBODY, revoked, clock)
        .unwrap();
    let endpoint = Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), None).unwrap();
    // The server's verdict on a client comes with the first word.
    let asked = match endpoint.dial(lab.sites.coordinator_at, Arc::new(tls)).await {
        Ok(link) => ask(&link, &Request::Status).await.map_err(|error| format!("{error:?}")),
        Err(error) => Err(format!("{error:?}")),
    };
    asked.unwrap_err();
    lab.audited("turned-away", "stranger").await.unwrap();
    // And the other way round: we do not talk to a coordinator of theirs.
    let link = lab.sites.link_as(&foreign, &admin, "coordinator").await;
    assert!(link.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_used_expired_or_garbage_are_refused() {
    let clock = Arc::new(FixedClock::at(SystemClock.now()));
    let shared: Arc<dyn Clock> = Arc::<FixedClock>::clone(&clock);
    let lab = Lab::start_with(Cast::OneSite, Arc::clone(&shared), 24 * 3600).await.unwrap();
    let (who, home) = (identity("a", Role::Agent, "host3"), lab.sites.home("host3"));
    std::fs::create_dir(&home).unwrap();
    let try_it = async |token: &Token| {
        let tried = enrol(&home, token, &who, Arc::clone(&shared)).await;
        tried.map_err(|error| strongroom_tests::lab::told(&error))
    };
    let token = lab.sites.token(Role::Agent, "host3").await.unwrap();
    let mut wrong = token.to_text().unwrap().to_string();
    assert!("nonsense".parse::<Token>().is_err());
    let last = wrong.pop().unwrap();
    wrong.push(if last == 'a' { 'b' } else { 'a' });
    if let Ok(forged) = wrong.parse::<Token>() {
        try_it(&forged).await.unwrap_err();
    }
    try_it(&token).await.unwrap();
    let why = try_it(&token).await.unwrap_err();
    assert!(why.contains("used"), "{why}");
    lab.audited("enrol.refused", "used").await.unwrap();

    let late = lab.sites.token(Role::Agent, "host3").await.unwrap();
    clock.set(clock.now().plus_seconds(601));
    let why = try_it(&late).await.unwrap_err();
    assert!(why.contains("expired"), "{why}");
    lab.audited("enrol.refused", "expired").await.unwrap();
    let for_other = lab.sites.token(Role::Agent, "host4").await.unwrap();
    let why = try_it(&for_other).await.unwrap_err();
    assert!(why.contains("host"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_an_agents_home_is_refused_and_the_first_keeps_working() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("file", 5000, 1).unwrap();
    copy_tree(&lab.sites.home("host1"), &lab.sites.home("host1-copy")).unwrap();
    let copy = lab.sites.start_agent("host1-copy").unwrap();
    let row = lab.audited("turned-away", "already").await.unwrap();
    assert!(row.detail.contains("each host enrols under a name of its own"), "{}", row.detail);
    lab.point().await.unwrap();

    let authority = authority(&lab, "coordinator");
    let link = lab.sites.link_as(&authority, &host1(), "coordinator").await.unwrap();
    let (mut sender, mut receiver) = open(&link, Opening::Control).await.unwrap();
    let hello =
        FromNode::Hello { software: "0".to_owned(), host: "elsewhere".to_owned(), live: vec![] };
    sender.send(&hello).await.unwrap();
    let (answer, _) = receiver.expect::<ToNode>().await.unwrap();
    let ToNode::Refused(refusal) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.kind, RefusalKind::Stale);
    lab.point().await.unwrap();
    copy.stop().await.unwrap();
}
