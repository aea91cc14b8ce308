//! A real server, and what goes wrong: somebody is killed in the middle; it is not the server, or
//! not the right one; a page is corrupt; a standby is promoted; a slot lost its log. Each is
//! named, and no point claims more than it holds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use lab::cluster::{SUMS, Scene, holder, recovered, sessions, signal};
use strongroom_agent::workload::postgres::programs::OwnCluster;

#[test]
fn whoever_is_killed_in_the_middle_the_server_is_rid_of_the_backup() {
    let mut scene = Scene::set(15_442);
    let load = scene.load(600);
    for victim in ["the agent", "the holder", "the backend"] {
        let job = scene.stopped_in_the_middle(&scene.cluster);
        let agent = scene.sites.pid("agent");
        match victim {
            "the agent" => scene.sites.kill("agent"),
            "the holder" => signal(holder(agent).unwrap(), "KILL"),
            _ => {
                let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                           WHERE application_name = 'strongroom'";
                assert_eq!(scene.cluster.ask(end).unwrap(), "1");
            }
        }
        scene.sites.wait("the end of the backup", |_| sessions(&scene.cluster) == "0|0");
        match victim {
            "the agent" => scene.sites.start("agent"),
            _ => signal(agent, "CONT"),
        }
        // The same job makes its point when it is tried again.
        let ended = scene.sites.ended(&job);
        assert_eq!(ended["state"], "succeeded", "{victim}: {ended}");
        assert_eq!(sessions(&scene.cluster), "0|0", "{victim}");
    }
    drop(load);
    let points = scene.sites.points("db");
    assert_eq!(points.len(), 3);
    for point in points {
        let id = point["id"].as_str().unwrap();
        assert_eq!(point["consistency"], "application", "{point}");
        let proof = scene.sites.json(&["postgres", "prove", id, "--query", SUMS]);
        assert_eq!(proof["checks"][3]["said"], "t", "{proof}");
    }
}

#[test]
fn what_is_not_the_right_server_is_refused_by_name() {
    let scene = Scene::set(15_452);
    let ask = |question: &str| scene.cluster.ask(question).unwrap();

    // A role that lacks a right.
    ask("REVOKE EXECUTE ON FUNCTION pg_backup_stop(boolean) FROM strongroom");
    let said = scene.refused("db");
    assert!(said.contains("GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO"), "{said}");
    ask("GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO strongroom");

    // A password that is wrong, and one that anybody may read.
    let hba = scene.cluster.data.join("pg_hba.conf");
    let lines = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, format!("local all strongroom scram-sha-256\n{lines}")).unwrap();
    ask("ALTER ROLE strongroom PASSWORD 'right'");
    ask("SELECT pg_reload_conf()");
    let file = scene.dir.path().join("password");
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    fs::write(&file, "wrong\n").unwrap();
    mode(0o600);
    let named = format!("password_file = \"{}\"", file.display());
    scene.apply(&named);
    let said = scene.refused("db");
    assert!(said.contains("does not take the password of strongroom"), "{said}");
    mode(0o644);
    let said = scene.refused("db");
    assert!(said.contains("chmod 600"), "{said}");
    fs::write(&file, "right\n").unwrap();
    mode(0o600);
    scene.sites.protect("db");

    // The policy wants another member.
    scene.apply(&format!("{named}\nprefer = \"standby-only\""));
    let said = scene.refused("db");
    assert!(said.contains("it is the primary, and the policy wants a standby"), "{said}");

    // A directory that is not the server's.
    let other = scene.dir.path().join("other");
    OwnCluster::make(&other, 15_453, &[]).unwrap();
    scene.apply(&format!("{named}\ndata = \"{}\"", other.join("data").display()));
    let said = scene.refused("db");
    assert!(said.contains("it belongs to system"), "{said}");

    // Something between the agent and the server.
    scene.apply(&named);
    let between = between(&scene.cluster).to_string();
    let server = format!("host = \"{}\"\nport = 15452", scene.cluster.place.display());
    let policy = fs::read_to_string(scene.sites.dir.join("policy.toml")).unwrap();
    let wanted = format!("host = \"127.0.0.1\"\nport = {between}");
    scene.sites.apply(&policy.replacen(&server, &wanted, 1));
    let said = scene.refused("db");
    assert!(said.contains(&format!("port {between} answers for a server at port 15452")), "{said}");
}

#[test]
fn a_corrupt_page_is_named_and_the_point_claims_no_consistency_of_the_application() {
    let scene = Scene::set(15_482);
    scene.rots_and_is_told();
    // Also the next time, when the file has not changed.
    let job = scene.sites.ended(&scene.sites.order("db"));
    assert_eq!(job["progress"]["gaps"], 1, "{job}");
    let proof = scene.sites.refused(&["postgres", "prove", "latest:db"]);
    assert!(proof.contains("not proven"), "{proof}");
}

/// Passes connections on to the socket of a server, as a pooler does; its port.
fn between(cluster: &OwnCluster) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = cluster.place.join(format!(".s.PGSQL.{}", cluster.port));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = UnixStream::connect(&socket).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (mut back, mut answer) = (client, server);
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut answer, &mut back));
        }
    });
    port
}

#[test]
fn log_that_a_slot_lost_is_said_and_no_stretch_is_made_of_it() {
    let scene = Scene::set(15_472);
    let sites = &scene.sites;
    sites.protect("log");
    let ask = |question: &str| scene.cluster.ask(question).unwrap();
    ask("ALTER SYSTEM SET max_slot_wal_keep_size = '32MB'");
    ask("SELECT pg_reload_conf()");
    let turn = || {
        ask("INSERT INTO pgbench_history SELECT FROM generate_series(1, 10)");
        ask("SELECT pg_switch_wal()");
        ask("CHECKPOINT");
    };
    // More than half of what the slot may keep: told with the point, which is made.
    turn();
    turn();
    sites.protect("log");
    let why = sites.text(&["why", "latest:log"]);
    assert!(why.contains("max_slot_wal_keep_size"), "{why}");
    // The slot moved on with the point.
    sites.protect("log");
    let why = sites.text(&["why", "latest:log"]);
    assert!(!why.contains("max_slot_wal_keep_size"), "{why}");
    let whole = sites.protect("db");
    assert_eq!(whole["progress"]["gaps"], 0);
    (0..12).for_each(|_| turn());
    let said = scene.refused("log");
    assert!(said.contains("lost what it kept") && said.contains("pg_drop_repl"), "{said}");
    assert_eq!(sites.points("log").len(), 3);
    // The way out: from the new slot on there is log again, but none joins the older point.
    ask("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
    sites.protect("log");
    let data = scene.path("back");
    let words = ["postgres", "restore", "latest:db", "--to", &data, "--wal-from", "log"];
    let said = sites.refused(&words);
    assert!(said.contains("has a gap"), "{said}");
    sites.protect("db");
    ask("CREATE TABLE late AS SELECT 1 AS one");
    sites.protect("log");
    sites.text(&words);
    let back = scene.over(&data, 15_473);
    back.start().unwrap();
    recovered(&back);
    assert_eq!(back.ask("SELECT one FROM late").unwrap(), "1");
}

#[test]
fn a_standby_is_protected_and_its_promotion_makes_no_point() {
    let scene = Scene::set(15_462);
    let standby = scene.standby(15_463);
    let load = scene.load(600);
    let host = format!("host = \"{}\"\nport = 15463", standby.place.display());
    let server = format!("host = \"{}\"\nport = 15462", scene.cluster.place.display());
    let policy = fs::read_to_string(scene.sites.dir.join("policy.toml")).unwrap();
    let wanted = format!("{host}\nprefer = \"standby-only\"\nmax_lag = \"60s\"");
    scene.sites.apply(&policy.replacen(&server, &wanted, 1));
    scene.sites.protect("db");

    let job = scene.stopped_in_the_middle(&standby);
    assert_eq!(standby.ask("SELECT pg_promote()").unwrap(), "t");
    signal(scene.sites.pid("agent"), "CONT");
    let said = scene.told(&job);
    assert!(said.contains("the standby was promoted during online backup"), "{said}");
    assert_eq!(scene.sites.points("db").len(), 1);
    drop(load);
    let proof = scene.sites.json(&["postgres", "prove", "latest:db", "--query", SUMS]);
    assert_eq!(proof["checks"][3]["said"], "t", "{proof}");
    assert!(
        scene
            .sites
            .refused(&["postgres", "prove", "latest:db", "--lsn", "0/1"])
            .contains("--wal-from")
    );
}
