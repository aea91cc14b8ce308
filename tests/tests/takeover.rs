//! Without site A: two persons have site B lead, it protects what survived, a site A that comes
//! back is fenced and loses nothing, and the lead is given back with every point of both.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use strongroom_agent::recover::item;
use strongroom_agent::restore::compare::compare;
use strongroom_agent::restore::{RestoreOptions, Restorer};
use strongroom_node::ask::AskError;
use strongroom_node::home::Home;
use strongroom_node::kept::POLICY_FILE;
use strongroom_node::lead::{LeadBook, Standing};
use strongroom_node::reader::RemotePoint;
use strongroom_protocol::admin::{PointRef, PruneOrder, Request, Response};
use strongroom_protocol::lead::LeadOrder;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{PointId, Role};
use strongroom_store::tree::Tree;
use strongroom_tests::site::{Running, TwoSites, name, policy};

const TREE: &str = "tree@host1";

/// Two sites with an agent, whose tree is kept as it was at each point.
struct Scene {
    sites: TwoSites,
    dir: tempfile::TempDir,
    /// Each point with the tree it holds.
    made: Vec<(PointId, PathBuf)>,
}

impl Scene {
    /// Everything runs, and one point is at both sites.
    async fn make() -> (Self, [Running; 3]) {
        strongroom_node::log::start(strongroom_node::log::LogStyle::Text, "warn");
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("source")).unwrap();
        let sites = TwoSites::make(dir.path()).unwrap();
        let coordinator = sites.start_coordinator().unwrap();
        sites.enrol_agent("host1").await.unwrap();
        let agent = sites.start_agent("host1").unwrap();
        sites.introduce_proxy().await.unwrap();
        let second = sites.start_second().unwrap();
        sites.await_nodes(2).await.unwrap();
        sites.apply(&policy(&dir.path().join("source"))).await.unwrap();
        let mut scene = Self { sites, dir, made: Vec::new() };
        scene.point_at("coordinator").await;
        scene.sites.await_copy("secondary", "readable").await.unwrap();
        scene.sites.await_copy("tape", "hash-verified").await.unwrap();
        assert!(scene.sites.home("proxy").join(POLICY_FILE).exists(), "the policy is kept at b");
        (scene, [coordinator, agent, second])
    }

    /// Changes the tree and makes a point of it.
    async fn point_at(&mut self, node: &str) -> PointId {
        let number = self.made.len();
        let source = self.dir.path().join("source");
        std::fs::write(source.join(format!("file-{number}")), vec![b'x'; 40_000 + number]).unwrap();
        std::fs::write(source.join("changing"), format!("as of point {number}")).unwrap();
        let job = self.sites.protect_at(node, TREE).await.unwrap();
        assert_eq!(job.state, "succeeded", "{job:?}");
        let kept = self.dir.path().join(format!("kept-{number}"));
        let copied = std::process::Command::new("cp").arg("-a").arg(&source).arg(&kept).status();
        assert!(copied.unwrap().success());
        self.made.push((job.point.unwrap(), kept));
        job.point.unwrap()
    }

    /// Restores every point from a node and compares it with the tree as it was.
    async fn compare_all(&self, node: &str) {
        for (number, (point, kept)) in self.made.iter().enumerate() {
            let target = self.dir.path().join(format!("from-{node}-{number}-{}", fresh()));
            let link = self.sites.operator(node).await.unwrap();
            let (manifest, source) = RemotePoint::open(&link, *point, None).await.unwrap();
            let (root, into) = (manifest.body.root, target.clone());
            tokio::task::spawn_blocking(move || {
                let tree = Tree::new(source, root);
                let (page, meta) = item(&tree).unwrap();
                let options = RestoreOptions::new(&into);
                let restorer = Restorer::new(options, Arc::new(AtomicBool::new(false)));
                let report = restorer.run(&tree, page, Some(meta)).unwrap();
                assert_eq!(report.problems, vec![]);
            })
            .await
            .unwrap();
            same(kept, &target);
        }
    }

    async fn ids(&self, node: &str) -> BTreeSet<PointId> {
        self.sites.points(node).await.unwrap().into_iter().map(|point| point.id).collect()
    }

    fn all(&self) -> BTreeSet<PointId> {
        self.made.iter().map(|(point, _)| *point).collect()
    }

    /// The agent, at the site of another node from now on.
    async fn move_agent(&self, agent: Running, node: &str) -> Running {
        agent.stop().await.unwrap();
        self.sites.move_agent("host1", node).await.unwrap();
        let agent = self.sites.start_agent("host1").unwrap();
        self.sites.await_agent(node, "host1").await.unwrap();
        agent
    }
}

fn fresh() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn same(source: &Path, target: &Path) {
    let mut differences = Vec::new();
    compare(source, target, &mut |difference| differences.push(difference)).unwrap();
    assert_eq!(differences, vec![], "{} differs", target.display());
}

fn refusal(answer: Result<Response, AskError>) -> Refusal {
    match answer {
        Err(AskError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// The orders that one person cannot give.
async fn alone(sites: &TwoSites) {
    let proposal = sites.propose("ann", LeadOrder::TakeOver).await.unwrap();
    let confirm = Request::LeadConfirm { proposal };
    let refused = refusal(sites.ask_as("ann", "proxy", &confirm).await);
    assert_eq!(refused.kind, RefusalKind::Forbidden, "{refused}");
    assert!(refused.text.contains("another person"), "{refused}");
    // Nor by making somebody else an operator.
    let token = Request::TokenCreate { role: Role::Operator, name: name("eve"), seconds_valid: 60 };
    let made = sites.ask_as("ann", "proxy", &token).await.unwrap();
    assert!(matches!(made, Response::Token { .. }));
    let refused = refusal(sites.ask_as("eve", "proxy", &confirm).await);
    assert!(refused.text.contains("ann made eve an operator"), "{refused}");
    let unknown = Request::LeadConfirm { proposal: "00000000".to_owned() };
    assert_eq!(refusal(sites.ask_as("ben", "proxy", &unknown).await).kind, RefusalKind::Unknown);
    let give_back = Request::LeadPropose { order: LeadOrder::GiveBack, why: "x".to_owned() };
    let refused = refusal(sites.ask_as("ann", "proxy", &give_back).await);
    assert!(refused.text.contains("no lead to give back"), "{refused}");
    assert_eq!(sites.lead("proxy").await.unwrap().standing, "follows");
    assert_eq!(sites.audited("proxy", "takeover.refused").await.unwrap().len(), 3);
}

/// A site that was taken over says so, and takes and gives nothing.
async fn fenced(sites: &TwoSites) {
    sites.await_lead("coordinator", "follows", 2).await.unwrap();
    let refused = refusal(
        sites.ask_as("admin", "coordinator", &Request::Protect { workload: name(TREE) }).await,
    );
    assert_eq!(refused.kind, RefusalKind::Stale, "{refused}");
    let token = Request::TokenCreate { role: Role::Agent, name: name("x"), seconds_valid: 60 };
    assert_eq!(
        refusal(sites.ask_as("admin", "coordinator", &token).await).kind,
        RefusalKind::Stale
    );
    let Response::Status(status) = sites.ask("coordinator", &Request::Status).await.unwrap() else {
        panic!("no status")
    };
    assert!(status.alarms.iter().any(|text| text.contains("site b leads in term 2")), "{status:?}");
    assert_eq!(sites.audited("coordinator", "lead.lost").await.unwrap().len(), 1);
}

/// The second site leads, by the order of two, and there is nothing to take over any more.
async fn leads(sites: &TwoSites) {
    let lead = sites.lead("proxy").await.unwrap().lead;
    let by: Vec<&str> = lead.by.iter().map(|person| person.name.as_str()).collect();
    assert_eq!((lead.site.as_str(), by), ("b", vec!["ann", "ben"]));
    let confirmed = sites.audited("proxy", "takeover.confirmed").await.unwrap();
    assert!(confirmed[0].0.ends_with("/operator/ben") && confirmed[0].1.contains("ann"));
    let again = Request::LeadPropose { order: LeadOrder::TakeOver, why: "x".to_owned() };
    assert!(refusal(sites.ask_as("ann", "proxy", &again).await).text.contains("nothing"));
}

/// Placed at the site that leads in the other's place.
async fn hold(sites: &TwoSites, point: PointId) {
    let (name, why) = ("case 7".to_owned(), "a court".to_owned());
    let place = Request::HoldPlace { name, why, points: vec![PointRef::Id(point.to_string())] };
    sites.ask_as("ann", "proxy", &place).await.unwrap();
}

/// What was placed there is at the site that leads again.
async fn has_hold(sites: &TwoSites, point: PointId) {
    let Response::Holds(holds) = sites.ask("coordinator", &Request::Holds).await.unwrap() else {
        panic!("no holds")
    };
    assert_eq!(holds.len(), 1, "{holds:?}");
    assert_eq!((holds[0].name.as_str(), &holds[0].points), ("case 7", &vec![point]));
    assert!(holds[0].by.ends_with("/operator/ann"), "{holds:?}");
    assert_eq!(sites.audited("coordinator", "hold.taken").await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_comes_back_is_fenced_brought_up_and_leads_again_with_the_points_of_both() {
    let (mut scene, [coordinator, agent, second]) = Scene::make().await;
    // A point that never reaches b.
    second.stop().await.unwrap();
    scene.point_at("coordinator").await;
    coordinator.stop().await.unwrap();
    let second = scene.sites.start_second().unwrap();
    scene
        .sites
        .wait_for("the proxy", async |sites| Ok(sites.lead("proxy").await.ok()))
        .await
        .unwrap();
    alone(&scene.sites).await;

    scene.sites.order(LeadOrder::TakeOver).await.unwrap();
    scene.sites.await_lead("proxy", "leads", 2).await.unwrap();
    leads(&scene.sites).await;

    // What survived is protected at b, by the policy that was kept there.
    let agent = scene.move_agent(agent, "proxy").await;
    scene.point_at("proxy").await;
    let prune = Request::Prune { order: PruneOrder::Apply };
    let refused = refusal(scene.sites.ask_as("ann", "proxy", &prune).await);
    assert!(refused.text.contains("nothing is let go"), "{refused}");

    // Site a comes back as if nothing had happened.
    let coordinator = scene.sites.start_coordinator().unwrap();
    fenced(&scene.sites).await;

    // It is brought up by itself, and keeps what only it has.
    scene.sites.await_points("coordinator", 3).await.unwrap();
    assert_eq!(scene.ids("coordinator").await, scene.all());
    scene.compare_all("coordinator").await;

    // A restart of either changes nothing.
    coordinator.stop().await.unwrap();
    second.stop().await.unwrap();
    let second = scene.sites.start_second().unwrap();
    scene.sites.await_lead("proxy", "leads", 2).await.unwrap();

    // What is marked at b goes to a with the lead.
    let held = scene.made[2].0;
    hold(&scene.sites, held).await;

    // Ordered while site a is away, and b is killed on the way: b takes nothing any more.
    scene.sites.order(LeadOrder::GiveBack).await.unwrap();
    let refused = refusal(
        scene.sites.ask_as("ann", "proxy", &Request::Protect { workload: name(TREE) }).await,
    );
    assert_eq!(refused.kind, RefusalKind::Stale, "{refused}");
    second.stop().await.unwrap();
    let second = scene.sites.start_second().unwrap();
    scene.sites.await_lead("proxy", "hands over", 2).await.unwrap();

    let coordinator = scene.sites.start_coordinator().unwrap();
    scene.sites.await_lead("coordinator", "leads", 3).await.unwrap();
    scene.sites.await_lead("proxy", "follows", 3).await.unwrap();
    has_hold(&scene.sites, held).await;
    let agent = scene.move_agent(agent, "coordinator").await;
    scene.point_at("coordinator").await;
    scene.sites.await_points("proxy", 4).await.unwrap();
    assert_eq!(scene.ids("coordinator").await, scene.all());
    assert_eq!(scene.ids("proxy").await, scene.all());
    scene.compare_all("coordinator").await;
    scene.compare_all("proxy").await;
    for running in [agent, coordinator, second] {
        running.stop().await.unwrap();
    }
}

/// What is left of a coordinator's home by its backup: no repository but its keys, no catalog.
fn rebuild(sites: &TwoSites) {
    let (home, lost) = (sites.home("coordinator"), sites.dir.join("lost"));
    std::fs::rename(&home, &lost).unwrap();
    std::fs::create_dir_all(home.join("repo")).unwrap();
    for part in ["node.toml", "vault.key", "authority"] {
        let mut copy = std::process::Command::new("cp");
        let done = copy.arg("-a").arg(lost.join(part)).arg(&home).status().unwrap();
        assert!(done.success(), "{part}");
    }
    for part in ["config", "keys"] {
        let from = sites.home("proxy").join("repo").join(part);
        std::fs::copy(from, home.join("repo").join(part)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_site_is_filled_and_leads_again_whatever_is_killed_on_the_way() {
    let (mut scene, [coordinator, agent, second]) = Scene::make().await;
    coordinator.stop().await.unwrap();
    rebuild(&scene.sites);
    scene.sites.order(LeadOrder::TakeOver).await.unwrap();
    scene.sites.await_lead("proxy", "leads", 2).await.unwrap();
    let agent = scene.move_agent(agent, "proxy").await;
    scene.point_at("proxy").await;

    let coordinator = scene.sites.start_coordinator().unwrap();
    scene.sites.introduce_proxy().await.unwrap();
    // A policy that is applied before the first point came does not begin another workload.
    scene.sites.apply(&policy(&scene.dir.path().join("source"))).await.unwrap();
    scene.sites.await_lead("coordinator", "follows", 2).await.unwrap();
    scene.sites.await_points("coordinator", 2).await.unwrap();
    scene.compare_all("coordinator").await;

    // Killed between the two ends of handing over: a leads, and b does not know it yet.
    coordinator.stop().await.unwrap();
    scene.sites.order(LeadOrder::GiveBack).await.unwrap();
    second.stop().await.unwrap();
    let next = {
        let home = Home::open(&scene.sites.home("proxy")).unwrap();
        match LeadBook::open(&home).unwrap().standing() {
            Standing::HandsOver(next) => next,
            other => panic!("{other:?}"),
        }
    };
    let home = Home::open(&scene.sites.home("coordinator")).unwrap();
    LeadBook::open(&home).unwrap().hear(&next).unwrap();
    let coordinator = scene.sites.start_coordinator().unwrap();
    scene.sites.await_lead("coordinator", "leads", 3).await.unwrap();
    let second = scene.sites.start_second().unwrap();
    scene.sites.await_lead("proxy", "follows", 3).await.unwrap();

    let agent = scene.move_agent(agent, "coordinator").await;
    scene.point_at("coordinator").await;
    scene.sites.await_points("proxy", 3).await.unwrap();
    scene.compare_all("proxy").await;
    let points = scene.sites.points("coordinator").await.unwrap();
    assert!(points.iter().all(|point| point.workload == name(TREE)));
    let repo = scene.sites.home("proxy").join("repo/points");
    assert_eq!(std::fs::read_dir(repo).unwrap().count(), 1, "one workload, not two");
    for running in [agent, coordinator, second] {
        running.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_saw_a_higher_term_does_nothing_for_a_site_that_did_not() {
    let (scene, [coordinator, agent, second]) = Scene::make().await;
    agent.stop().await.unwrap();
    second.stop().await.unwrap();
    let home = Home::open(&scene.sites.home("host1")).unwrap();
    let lead = strongroom_protocol::Lead {
        term: strongroom_protocol::Term(2),
        ..strongroom_protocol::Lead::first(name("b"))
    };
    LeadBook::open(&home).unwrap().hear(&lead).unwrap();
    let agent = scene.sites.start_agent("host1").unwrap();
    scene.sites.await_agent("coordinator", "host1").await.unwrap();
    let request = Request::Protect { workload: name(TREE) };
    let Response::Job(job) = scene.sites.ask("coordinator", &request).await.unwrap() else {
        panic!("no job")
    };
    let said = scene.sites.wait_for("the refusal", async |sites| {
        let request = Request::Job { job: job.id };
        let Response::Journal { events, .. } = sites.ask("coordinator", &request).await? else {
            return Ok(None);
        };
        Ok(events.into_iter().find(|event| event.text.contains("is not obeyed here")))
    });
    let said = said.await.unwrap();
    assert!(said.text.contains("site b leads in term 2"), "{said:?}");
    assert_eq!(scene.ids("coordinator").await.len(), 1);
    // The coordinator believes no agent, and says what it heard.
    assert_eq!(scene.sites.lead("coordinator").await.unwrap().standing, "leads");
    assert_eq!(scene.sites.audited("coordinator", "lead.doubted").await.unwrap().len(), 1);
    for running in [agent, coordinator] {
        running.stop().await.unwrap();
    }
}
