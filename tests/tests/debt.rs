//! What a policy demands and nothing shows, over two real sites: consistency that a point does not
//! hold, proofs that were never made, grew old or failed; told wherever an operator may be, and
//! still known when everything was stopped in between.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use strongroom_protocol::PointId;
use strongroom_protocol::admin::{PointRef, Request, Response, WhyReport};
use strongroom_protocol::control::{STARTED, Showing, Shown};
use strongroom_protocol::opening::RefusalKind;
use strongroom_tests::ageing::Ageing;
use strongroom_tests::lab::{Cast, Lab, TREE};
use strongroom_tests::mounted::Mounted;

const DAY: i64 = 86_400;

/// The debts of the coordinator in which all of `parts` stand.
async fn debts(lab: &Lab, parts: &[&str]) -> Vec<String> {
    let debts = lab.status("coordinator").await.unwrap().debts;
    let fits = |debt: &String| parts.iter().all(|part| debt.contains(part));
    debts.into_iter().filter(fits).collect()
}

/// Waits until there are so many of them.
async fn await_debts(lab: &Lab, parts: &[&str], count: usize) -> Vec<String> {
    let what = format!("{count} debts with {parts:?}");
    let came = lab.sites.wait_for(&what, async |_| {
        let found = debts(lab, parts).await;
        Ok((found.len() == count).then_some(found))
    });
    match came.await {
        Ok(found) => found,
        Err(error) => panic!("{error}: {:?}", lab.status("coordinator").await),
    }
}

async fn why(lab: &Lab, node: &str, point: PointId) -> WhyReport {
    let request = Request::Why { point: PointRef::Id(point.to_string()) };
    match lab.sites.ask(node, &request).await.unwrap() {
        Response::Why(report) => report,
        other => panic!("{other:?}"),
    }
}

async fn restart_coordinator(lab: &mut Lab) {
    lab.stop_coordinator().await.unwrap();
    lab.start_coordinator().unwrap();
    lab.everybody().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_required_and_not_held_is_said_until_a_point_holds_it() {
    let mut lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("file", 200_000, 1).unwrap();
    let crash = lab.policy().replace("require = \"fuzzy\"", "require = \"crash\"");
    let file = || "policy.toml".to_owned();
    let plan = Request::PolicyPlan { file: file(), toml: crash.clone() };
    let Response::Plan { warnings, .. } = lab.sites.ask("coordinator", &plan).await.unwrap() else {
        panic!("no plan");
    };
    assert!(warnings.iter().any(|line| line.contains("its first point shows")), "{warnings:?}");
    let never = crash.replace("\"crash\"", "\"application\"");
    let apply = Request::PolicyApply { file: file(), toml: never };
    let refusal = lab.refused("coordinator", &apply).await.unwrap();
    assert!(refusal.text.contains("tree@host1 holds filesystem at most"), "{refusal}");

    lab.sites.apply(&crash).await.unwrap();
    let job = lab.sites.protect(TREE).await.unwrap();
    assert!(job.detail.contains("its point holds fuzzy, and crash is required"), "{job:?}");
    let point = job.point.unwrap();
    let parts = [TREE, "owes consistency crash", "holds fuzzy", "does not lie on btrfs", "since"];
    for _ in 0..2 {
        assert_eq!(debts(&lab, &parts).await.len(), 1, "{:?}", lab.status("coordinator").await);
        let rows = lab.sites.points("coordinator").await.unwrap();
        assert_eq!(rows[0].consistency, "fuzzy (crash required)");
        let facts = why(&lab, "coordinator", point).await.facts;
        let told = facts.iter().find(|(name, _)| name == "required").unwrap();
        assert!(told.1.contains("crash, which is not met: read live"), "{told:?}");
        restart_coordinator(&mut lab).await;
    }

    let image = lab.dir.path().join("image");
    let mounted = Mounted::btrfs(&image, &lab.source).unwrap();
    lab.write("file", 200_000, 2).unwrap();
    lab.point().await.unwrap();
    assert_eq!(debts(&lab, &["consistency"]).await, [] as [String; 0]);
    let rows = lab.sites.points("coordinator").await.unwrap();
    assert_eq!(rows[0].consistency, "filesystem");
    drop(mounted);
    lab.point().await.unwrap();
    let again = debts(&lab, &parts).await;
    assert!(again[0].contains("the last point that held it is of"), "{again:?}");
    let fuzzy = lab.policy();
    lab.sites.apply(&fuzzy).await.unwrap();
    assert_eq!(debts(&lab, &["consistency"]).await, [] as [String; 0]);
}

fn proven(point: PointId, outcome: Shown) -> Request {
    let (level, detail) = (STARTED.to_owned(), "5 checks".to_owned());
    Request::Proven {
        point,
        copy: None,
        showing: Showing { level, outcome, took_ms: 4200, detail },
    }
}

/// The policy with a proof demanded of the secondary, for what is started from its points.
fn demanding(ageing: &Ageing) -> String {
    let head = ageing.policy.split("[workload.").next().unwrap();
    let rule = "[policy.standard.copy.secondary]\n";
    let more = format!("{rule}prove = {{ level = \"started\", every = \"30d\" }}\n");
    format!(
        "{}[workload.\"{TREE}\"]\nagent = \"host1\"\nkind = \"postgres\"\nhost = \"/run/pg\"\n\
         policy = \"standard\"\n",
        head.replace(rule, &more)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_told_at_the_far_site_alone_is_handed_over_and_grows_old() {
    let mut ageing = Ageing::start(Cast::TwoSites, "newest = 10", "").await;
    let point = ageing.point(1).await;
    ageing.lab.sites.apply(&demanding(&ageing)).await.unwrap();
    let owed = ["owes proof started of copy secondary", "prove latest:tree@host1 --from secondary"];
    let debt = await_debts(&ageing.lab, &owed, 1).await;
    assert!(debt[0].contains("there is none"), "{debt:?}");

    ageing.lab.stop_coordinator().await.unwrap();
    let told = ageing.lab.sites.ask("proxy", &proven(point, Shown::Held)).await.unwrap();
    let Response::Done(text) = told else { panic!("{told:?}") };
    assert!(text.contains("as soon as it is reached"), "{text}");
    // It outlives the proxy too.
    ageing.lab.stop_proxy().await.unwrap();
    ageing.lab.start_proxy().unwrap();
    let facts = why(&ageing.lab, "proxy", point).await.facts;
    let waits = |facts: &[(String, String)]| {
        let mut proofs = facts.iter().filter(|(name, _)| name == "proof");
        proofs.any(|(_, text)| text.contains("does not have it yet"))
    };
    assert!(waits(&facts), "{facts:?}");
    ageing.lab.start_coordinator().unwrap();
    ageing.lab.everybody().await.unwrap();
    let row = ageing.until(point, "secondary", |row| row.proof == "started").await;
    assert_eq!(row.detail, "started from, and answered after 4.2 s");
    assert_eq!(row.state, "present");
    await_debts(&ageing.lab, &["owes proof"], 0).await;
    let record = ageing.lab.audited("prove.started", &format!("secondary of point {point}")).await;
    let record = record.unwrap();
    assert!(record.actor.contains("/site/b/operator/admin"), "{record:?}");
    assert!(record.detail.contains("after 4 s: 5 checks"), "{record:?}");
    let settled = ageing.lab.sites.wait_for("the proxy to know", async |_| {
        Ok((!waits(&why(&ageing.lab, "proxy", point).await.facts)).then_some(()))
    });
    settled.await.unwrap();

    ageing.pass(31 * DAY).await;
    let debt = await_debts(&ageing.lab, &owed, 1).await;
    assert!(debt[0].contains("the newest is of"), "{debt:?}");
    ageing.lab.sites.ask("proxy", &proven(point, Shown::Held)).await.unwrap();
    await_debts(&ageing.lab, &["owes proof"], 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_did_not_start_is_suspect_until_it_did_and_stays_where_it_is() {
    let mut ageing = Ageing::start(Cast::TwoSites, "newest = 10", "").await;
    let point = ageing.point(1).await;
    for node in ["coordinator", "proxy"] {
        ageing.lab.sites.ask(node, &proven(point, Shown::Failed)).await.unwrap();
    }
    let is_suspect = |lines: &[String], copy: &str| {
        lines.iter().any(|line| line.contains(copy) && line.contains("is suspect"))
    };
    for copy in ["primary", "secondary"] {
        for _ in 0..2 {
            let row = ageing.until(point, copy, |row| row.state == "suspect").await;
            assert!(row.detail.contains("not started from at"), "{row:?}");
            assert_ne!(row.proof, "started");
            let alarms = ageing.lab.status("coordinator").await.unwrap().alarms;
            assert!(is_suspect(&alarms, copy), "{alarms:?}");
            restart_coordinator(&mut ageing.lab).await;
        }
        ageing.lab.audited("prove.failed", &format!("{copy} of point {point}")).await.unwrap();
    }
    for node in ["coordinator", "proxy"] {
        ageing.lab.restores_as(node, point, &ageing.lab.source).await.unwrap();
        ageing.pass(2).await;
        ageing.lab.sites.ask(node, &proven(point, Shown::Held)).await.unwrap();
    }
    for copy in ["primary", "secondary"] {
        let row = ageing.until(point, copy, |row| row.proof == "started").await;
        assert_eq!(row.state, "present", "{row:?}");
        let alarms = ageing.lab.status("coordinator").await.unwrap().alarms;
        assert!(!is_suspect(&alarms, copy), "{alarms:?}");
    }

    let refused = async |node: &str, request: &Request| ageing.lab.refused(node, request).await;
    let stranger = proven(PointId::from_bytes([7; 16]), Shown::Held);
    for node in ["coordinator", "proxy"] {
        let refusal = refused(node, &stranger).await.unwrap();
        assert_eq!(refusal.kind, RefusalKind::Unknown, "{node}: {refusal}");
        let Request::Proven { copy, mut showing, .. } = proven(point, Shown::Held) else {
            panic!("a proof");
        };
        showing.level = "readable".to_owned();
        let request = Request::Proven { point, copy, showing };
        let refusal = refused(node, &request).await.unwrap();
        assert_eq!(refusal.kind, RefusalKind::Invalid, "{node}: {refusal}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_by_reading_that_grew_old_is_a_debt_that_the_proxy_pays() {
    let mut ageing = Ageing::start(Cast::TwoSites, "newest = 10", "").await;
    let rule = "[policy.standard.copy.secondary]\n";
    let more = format!("{rule}prove = {{ level = \"readable\", every = \"2d\" }}\n");
    ageing.lab.sites.apply(&ageing.policy.replace(rule, &more)).await.unwrap();
    ageing.point(1).await;
    await_debts(&ageing.lab, &["owes proof"], 0).await;
    ageing.lab.stop_proxy().await.unwrap();
    ageing.pass(3 * DAY).await;
    let parts = ["owes proof readable of copy secondary", "wanted every 2d", "proxy makes it"];
    await_debts(&ageing.lab, &parts, 1).await;
    ageing.lab.start_proxy().unwrap();
    ageing.lab.everybody().await.unwrap();
    await_debts(&ageing.lab, &["owes proof"], 0).await;
}
