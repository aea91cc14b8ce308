//! A real server that is only reached over the network, by TLS and a password: streamed under
//! load, restored, recovered to a place between two transactions by its streamed log, its log
//! handed to a server file by file, and a table taken out of a point.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use lab::cluster::{SUMS, Scene, recovered};
use lab::network::{is_streamed, slots};

/// Writes a word in a transaction of its own.
fn mark(scene: &Scene, word: &str) {
    let table = "CREATE TABLE IF NOT EXISTS marks (word text)";
    scene.cluster.ask(&format!("{table}; INSERT INTO marks VALUES ('{word}')")).unwrap();
}

/// A server starts from the newest point, every check passes, and the sums agree.
fn prove(scene: &Scene) {
    let proof = scene.sites.json(&["postgres", "prove", "latest:db", "--query", SUMS]);
    let checks = proof["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 5, "{proof}");
    assert_eq!(checks[3]["said"], "t", "{proof}");
    assert!(checks.iter().all(|check| check["passed"] == true), "{proof}");
}

/// What the newest point of the cluster says of itself.
fn about(scene: &Scene) -> serde_json::Value {
    let text = scene.sites.text(&["dump", "latest:db:strongroom.json"]);
    serde_json::from_str(&text).unwrap()
}

/// Restores the newest point; the server is started by whoever asked.
fn restore(scene: &Scene, port: u16, how: &[&str]) -> String {
    let data = scene.path(&format!("back-{port}"));
    let words = ["postgres", "restore", "latest:db", "--to", &data];
    scene.sites.text(&[&words[..], how].concat());
    data
}

/// An operator and its program where the user of the server may run it.
fn as_server(scene: &Scene) -> String {
    let program = scene.path("strongroom");
    fs::copy(env!("CARGO_BIN_EXE_strongroom"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let home = scene.path("operator");
    let from = scene.sites.dir.join("operator");
    assert!(Command::new("cp").arg("-r").arg(from).arg(&home).status().unwrap().success());
    if let Some((user, group)) = scene.cluster.programs.owner {
        let owner = format!("{user}:{group}");
        let mut chown = Command::new("chown");
        assert!(chown.args(["-R", &owner, &home]).status().unwrap().success());
    }
    format!("{program} --home {home} postgres wal-fetch --wal-from log")
}

/// A server whose `restore_command` is ours recovers to the end of the log.
fn recover_by_command(scene: &Scene, port: u16) {
    let data = restore(scene, port, &[]);
    let auto = Path::new(&data).join("postgresql.auto.conf");
    let text = fs::read_to_string(&auto).unwrap();
    assert!(text.contains("restore_command = 'false'"), "{text}");
    let command = format!("restore_command = '{} %f \"%p\"'", as_server(scene));
    fs::write(&auto, text.replace("restore_command = 'false'", &command)).unwrap();
    let back = scene.over(&data, port);
    back.start().unwrap();
    recovered(&back);
    assert_eq!(back.ask("SELECT string_agg(word, ' ') FROM marks").unwrap(), "one two three");
    assert_eq!(back.ask(SUMS).unwrap(), "t");
    let log = fs::read_to_string(back.log()).unwrap();
    assert!(log.contains("restored log file"), "{log}");
}

/// The codes by which PostgreSQL tells the end of the log from a fault.
fn exit_codes(scene: &Scene, name: &str) {
    let target = scene.path("fetched");
    let code = |words: &[&str]| {
        let all = [&["postgres", "wal-fetch"], words].concat();
        scene.sites.run(&all).status.code()
    };
    assert_eq!(code(&["--wal-from", "log", name, &target]), Some(0));
    assert_eq!(fs::metadata(&target).unwrap().len(), 16 << 20);
    assert_eq!(code(&["--wal-from", "log", "0000000100000FFF00000001", &target]), Some(1));
    assert_eq!(code(&["--wal-from", "log", "00000009.history", &target]), Some(1));
    assert_eq!(code(&["--wal-from", "db", name, &target]), Some(200));
    assert_eq!(code(&["--wal-from", "lag", name, &target]), Some(200));
    assert_eq!(code(&["--wal-form", "log", name, &target]), Some(200));
    let away = scene.path("nobody");
    let words = ["--home", &away, "postgres", "wal-fetch", "--wal-from", "log", name, &target];
    assert_eq!(scene.sites.run(&words).status.code(), Some(200));
}

/// A table out of a point, into the server it came from.
fn dump(scene: &Scene) {
    let file = scene.path("table.dump");
    let words = ["postgres", "dump", "latest:db", "--table", "pgbench_tellers", "--output", &file];
    let refused = scene.sites.refused(&[&words[..], &["--database", "shop"]].concat());
    assert!(refused.contains("no database shop") && refused.contains("postgres"), "{refused}");
    let wanted = [&words[..], &["--database", "postgres"]].concat();
    scene.sites.text(&wanted);
    let refused = scene.sites.refused(&wanted);
    assert!(refused.contains("is there already"), "{refused}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    scene.cluster.run(&["createdb", "aside"]).unwrap();
    scene.cluster.run(&["pg_restore", "-d", "aside", &file]).unwrap();
    let words = ["psql", "-d", "aside", "-XAtc", "SELECT count(*) FROM pgbench_tellers"];
    assert_eq!(scene.cluster.run(&words).unwrap().stdout, b"20\n");
    let words = [
        "psql",
        "-d",
        "aside",
        "-XAtc",
        "SELECT count(*) FROM pg_class WHERE relname \
                                                  LIKE 'pgbench_accounts%'",
    ];
    assert_eq!(scene.cluster.run(&words).unwrap().stdout, b"0\n");
}

#[test]
fn a_cluster_elsewhere_comes_back_and_to_any_transaction() {
    let scene = Scene::set(15_532);
    scene.open_to_the_network();
    scene.streamed_by_tls();
    // The slot is made, and keeps the log from here on.
    scene.sites.protect("log");
    let load = scene.load(600);
    let first = scene.sites.protect("db");
    let full = first["progress"]["bytes_seen"].as_u64().unwrap();
    assert_eq!(slots(&scene.cluster), "0|1");
    assert!(!is_streamed(&scene.cluster));
    prove(&scene);
    let said = about(&scene);
    assert!(said["pages_checked"].as_u64().unwrap() > 3000, "{said}");
    assert_eq!(said["pages_corrupt"], 0, "{said}");
    assert_eq!(said["tablespaces"][0]["name"], "space", "{said}");
    drop(load);

    // Three transactions, and a place between the second and the third.
    mark(&scene, "one");
    mark(&scene, "two");
    let place = scene.cluster.ask("SELECT pg_current_wal_insert_lsn()").unwrap();
    mark(&scene, "three");
    let name = scene.cluster.ask("SELECT pg_walfile_name(pg_current_wal_lsn())").unwrap();
    scene.sites.protect("log");
    assert_eq!(slots(&scene.cluster), "0|1");

    let back =
        scene.over(&restore(&scene, 15_533, &["--wal-from", "log", "--lsn", &place]), 15_533);
    back.start().unwrap();
    recovered(&back);
    assert_eq!(back.ask("SELECT string_agg(word, ' ') FROM marks").unwrap(), "one two");
    assert_eq!(back.ask(SUMS).unwrap(), "t");
    assert_eq!(back.ask("SELECT seven FROM spaced").unwrap(), "7");
    drop(back);
    recover_by_command(&scene, 15_534);
    exit_codes(&scene, &name);
    dump(&scene);

    // Configuration elsewhere is kept where the role may read it.
    let why = scene.sites.text(&["why", "latest:db"]);
    assert!(why.contains("elsewhere.conf lies outside"), "{why}");
    scene.cluster.ask("GRANT pg_read_server_files TO strongroom").unwrap();
    scene.cluster.ask("GRANT EXECUTE ON FUNCTION pg_read_file(text) TO strongroom").unwrap();
    scene.sites.protect("db");
    let kept = scene.sites.text(&["dump", "latest:db:strongroom-config/elsewhere.conf"]);
    assert_eq!(kept, "# nobody\n");

    // A point soon after another sends little, also over the wire.
    let again = scene.sites.protect("db");
    let sent = again["progress"]["bytes_sent"].as_u64().unwrap();
    assert!(sent < full / 4, "{sent} of {full} bytes sent");
}
