//! A real primary and its standby, each with an agent beside it, as members of one workload: the
//! one that the policy wants makes the point, another when it cannot, and never two.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::time::Duration;

use lab::cluster::{SUMS, Scene, sessions, signal};
use strongroom_agent::workload::postgres::programs::OwnCluster;

const WANTED: &str = "prefer = \"prefer-standby\"\nmax_lag = \"60s\"";

/// A member as a policy says it.
fn member(name: &str, agent: &str, cluster: &OwnCluster) -> String {
    let (host, port) = (cluster.place.display(), cluster.port);
    format!(
        "[workload.\"db\".member.{name}]\nagent = \"{agent}\"\nhost = \"{host}\"\nport = {port}\n"
    )
}

/// A scene with a standby, a second agent, and the policy that has both as members.
fn with_standby(port: u16) -> (Scene, OwnCluster) {
    let mut scene = Scene::set(port);
    scene.sites.second_agent();
    let standby = scene.standby(port + 1);
    let members =
        [member("db1", "host1", &scene.cluster), member("db2", "host2", &standby)].concat();
    wants(&scene, WANTED, &members);
    (scene, standby)
}

fn wants(scene: &Scene, how: &str, members: &str) {
    scene.sites.apply(&format!(
        r#"
[policy.p]
timezone = "Europe/London"
[policy.p.primary]
keep = {{ newest = 100 }}
[workload."db"]
policy = "p"
kind = "postgres"
{how}
{members}"#
    ));
}

/// What the journal of a job says, in one line.
fn journal(scene: &Scene, job: &str) -> String {
    let said = scene.sites.text(&["--site", "a", "jobs", "show", job]);
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Makes a point and says how it came about: by which agent, and the journal.
fn made(scene: &Scene) -> (String, String) {
    let job = scene.sites.order("db");
    let ended = scene.sites.ended(&job);
    let said = journal(scene, &job);
    assert_eq!(ended["state"], "succeeded", "{said}");
    (agent(scene), said)
}

/// The agent beside whichever member made the newest point.
fn agent(scene: &Scene) -> String {
    let rows = scene.sites.json(&["--site", "a", "workloads"]);
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "db").unwrap();
    row["agent"].as_str().unwrap().to_owned()
}

/// Lets the standby fall behind what is written.
fn fall_behind(scene: &Scene, standby: &OwnCluster) {
    standby.ask("SELECT pg_wal_replay_pause()").unwrap();
    scene.sites.wait("the pause", |_| {
        standby.ask("SELECT pg_get_wal_replay_pause_state()").unwrap() == "paused"
    });
    scene.cluster.ask("CREATE TABLE behind AS SELECT 1 AS one").unwrap();
    std::thread::sleep(Duration::from_secs(3));
}

#[test]
fn the_member_that_is_wanted_makes_the_point_and_another_when_it_cannot() {
    let (scene, standby) = with_standby(15_602);
    let both = [member("db1", "host1", &scene.cluster), member("db2", "host2", &standby)].concat();

    let (agent, said) = made(&scene);
    assert_eq!(agent, "host2", "{said}");
    assert!(said.contains("member db2: standby on timeline 1, behind: 0 s"), "{said}");
    let why = scene.sites.text(&["why", "latest:db"]);
    assert!(why.contains("made from member db2"), "{why}");
    let proof = scene.sites.json(&["postgres", "prove", "latest:db", "--query", SUMS]);
    assert_eq!(proof["checks"][3]["said"], "t", "{proof}");

    // A standby that is too far behind: the primary, and why.
    wants(&scene, "prefer = \"prefer-standby\"\nmax_lag = \"1s\"", &both);
    fall_behind(&scene, &standby);
    let (agent, said) = made(&scene);
    assert_eq!(agent, "host1", "{said}");
    assert!(said.contains("not db2: it is more than 1s behind"), "{said}");

    // Where no primary is let in the job waits, says for what, and goes on by itself.
    wants(&scene, "prefer = \"standby-only\"\nmax_lag = \"1s\"", &both);
    let job = scene.sites.order("db");
    scene.sites.wait("a job that waits", |sites| sites.job(&job)["state"] == "waiting");
    let detail = scene.sites.job(&job)["detail"].to_string();
    assert!(detail.contains("no member can make the point: db1: it is the primary"), "{detail}");
    standby.ask("SELECT pg_wal_replay_resume()").unwrap();
    assert_eq!(scene.sites.ended(&job)["state"], "succeeded", "{}", journal(&scene, &job));

    // One that is down is not waited for; and one that is not of the cluster is never taken.
    wants(&scene, WANTED, &both);
    standby.stop("fast").unwrap();
    let (agent, said) = made(&scene);
    assert_eq!(agent, "host1", "{said}");
    assert!(
        said.contains("not db2: the server at") && said.contains("cannot be reached"),
        "{said}"
    );
    let other = OwnCluster::make(&scene.dir.path().join("other"), 15_604, &[]).unwrap();
    other.start().unwrap();
    other.ask(lab::cluster::RIGHTS).unwrap();
    let stranger = member("db2", "host2", &other);
    wants(
        &scene,
        "prefer = \"any\"\norder = [\"db2\", \"db1\"]",
        &[both.split("[workload").nth(1).map(|own| format!("[workload{own}")).unwrap(), stranger]
            .concat(),
    );
    let (agent, said) = made(&scene);
    assert_eq!(agent, "host1", "{said}");
    assert!(
        said.contains("not db2: it is of cluster") && said.contains("the points are"),
        "{said}"
    );

    // Promoted between two runs: what was the primary is left behind by its timeline.
    standby.start().unwrap();
    wants(&scene, "prefer = \"primary\"", &both);
    assert_eq!(standby.ask("SELECT pg_promote()").unwrap(), "t");
    let (agent, said) = made(&scene);
    assert_eq!(agent, "host2", "{said}");
    assert!(said.contains("not db1: it is on timeline 1, and the cluster on 2"), "{said}");
    assert_eq!(scene.sites.points("db").len(), 6);
    let proof = scene.sites.json(&["postgres", "prove", "latest:db", "--query", SUMS]);
    assert_eq!(proof["checks"][3]["said"], "t", "{proof}");
}

#[test]
fn a_member_that_is_cut_off_in_the_middle_is_fenced_and_there_is_one_point() {
    let (scene, standby) = with_standby(15_612);
    let load = scene.load(600);
    let job = scene.sites.order("db");
    scene.stop_in_the_middle("agent2", &standby);
    // Nobody hears of it: its link dies, and the job is passed on to the other member.
    scene.sites.wait("the other member", |_| journal(&scene, &job).contains("member db1:"));
    let ended = scene.sites.ended(&job);
    assert_eq!(ended["state"], "succeeded", "{}", journal(&scene, &job));
    // It comes back, and goes on where it was.
    signal(scene.sites.pid("agent2"), "CONT");
    scene.sites.connected(3);
    scene.sites.wait("the end of its backup", |_| sessions(&standby) == "0|0");
    drop(load);
    let points = scene.sites.points("db");
    let said = journal(&scene, &job);
    assert_eq!(points.len(), 1, "{said}");
    assert_eq!(agent(&scene), "host1", "{said}");
    assert!(said.contains("agent host2 was away for 20 s in the middle"), "{said}");
    assert!(said.contains("not db2: its agent is not connected"), "{said}");
    let proof = scene.sites.json(&["postgres", "prove", "latest:db", "--query", SUMS]);
    assert_eq!(proof["checks"][3]["said"], "t", "{proof}");

    // It makes the next point, as the policy prefers.
    let (agent, said) = made(&scene);
    assert_eq!(agent, "host2", "{said}");
}

#[test]
fn a_member_that_fails_before_it_streams_is_followed_by_the_next_in_the_same_job() {
    let (scene, standby) = with_standby(15_622);
    // It says what it is, and may not begin: no slot is free, which only a run meets.
    standby.ask("ALTER SYSTEM SET max_replication_slots = 0").unwrap();
    standby.stop("fast").unwrap();
    standby.start().unwrap();
    scene.sites.wait("the standby", |_| standby.ask("SELECT pg_is_in_recovery()").is_ok());
    let (agent, said) = made(&scene);
    assert_eq!(agent, "host1", "{said}");
    assert!(said.contains("member db2:") && said.contains("max_replication_slots"), "{said}");
    assert!(said.contains("member db1:") && said.contains("not db2: it was tried:"), "{said}");
    assert_eq!(scene.sites.points("db").len(), 1);
}
