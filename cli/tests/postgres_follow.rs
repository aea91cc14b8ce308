//! What is promised of a server that lives by the log of points, or whose log we take: a standby
//! follows by `wal-fetch` and goes on from the other site when the first is gone, a table is dumped
//! as of a place in the log, and no commit waits for our receiver however the server is told to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use lab::cluster::{Scene, signal};
use lab::network::is_streamed;
use strongroom_agent::workload::postgres::programs::OwnCluster;

const MARKS: &str = "SELECT string_agg(word, ' ') FROM marks";

/// Writes a word in a transaction of its own, and ends the file of the log.
fn mark(scene: &Scene, word: &str) {
    let table = "CREATE TABLE IF NOT EXISTS marks (word text)";
    scene.cluster.ask(&format!("{table}; INSERT INTO marks VALUES ('{word}')")).unwrap();
    scene.cluster.ask("SELECT pg_switch_wal()").unwrap();
}

/// The command by which the user of the server takes the log, with an operator of its own.
fn fetching(scene: &Scene) -> String {
    let program = scene.path("strongroom");
    fs::copy(env!("CARGO_BIN_EXE_strongroom"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let home = scene.path("operator");
    let from = scene.sites.dir.join("operator");
    assert!(Command::new("cp").arg("-r").arg(from).arg(&home).status().unwrap().success());
    if let Some((user, group)) = scene.cluster.programs.owner {
        let mut chown = Command::new("chown");
        chown.arg("-R").arg(format!("{user}:{group}")).arg(&home);
        assert!(chown.status().unwrap().success());
    }
    format!("{program} --home {home} postgres wal-fetch --wal-from log")
}

/// Makes a server that follows by a command of what was restored, or gives it another command.
fn follows(data: &Path, command: &str) {
    let auto = data.join("postgresql.auto.conf");
    let text = fs::read_to_string(&auto).unwrap();
    let ours = |line: &&str| !line.starts_with("restore_command");
    let kept: Vec<&str> = text.lines().filter(ours).collect();
    let text = format!("{}\nrestore_command = '{command} %f \"%p\"'\n", kept.join("\n"));
    // Written over, so that it stays the server's own.
    fs::write(&auto, text).unwrap();
    let recovery = data.join("recovery.signal");
    if recovery.exists() {
        fs::rename(recovery, data.join("standby.signal")).unwrap();
    }
}

/// Waits until the standby has a row of words, and is a standby still.
fn has(scene: &Scene, standby: &OwnCluster, words: &str) {
    scene.sites.wait(words, |_| standby.ask(MARKS).is_ok_and(|said| said == words));
    assert_eq!(standby.ask("SELECT pg_is_in_recovery()").unwrap(), "t");
    assert_eq!(standby.ask("SELECT count(*) FROM pg_stat_wal_receiver").unwrap(), "0");
}

#[test]
fn a_standby_follows_the_points_of_the_log_also_from_the_other_site() {
    let mut scene = Scene::set(15_702);
    scene.sites.protect("log");
    scene.sites.protect("db");
    let data = scene.path("follower");
    scene.sites.text(&["postgres", "restore", "latest:db", "--to", &data]);
    let command = fetching(&scene);
    follows(Path::new(&data), &command);
    let standby = scene.over(&data, 15_703);
    standby.start().unwrap();
    for (word, all) in [("one", "one"), ("two", "one two")] {
        mark(&scene, word);
        scene.sites.protect("log");
        has(&scene, &standby, all);
    }

    // The first site is gone: the same from the other.
    standby.stop("fast").unwrap();
    mark(&scene, "three");
    scene.sites.protect("log");
    scene.sites.await_copy("log", "secondary", "readable");
    scene.sites.kill("coordinator");
    follows(Path::new(&data), &format!("{command} --from secondary"));
    standby.start().unwrap();
    has(&scene, &standby, "one two three");
}

#[test]
fn a_table_that_was_dropped_is_dumped_as_of_a_place_before() {
    let scene = Scene::set(15_712);
    scene.sites.protect("log");
    scene.sites.protect("db");
    mark(&scene, "one");
    mark(&scene, "two");
    let place = scene.cluster.ask("SELECT pg_current_wal_insert_lsn()").unwrap();
    scene.cluster.ask("DROP TABLE marks").unwrap();
    scene.sites.protect("log");
    let file = scene.path("marks.dump");
    let words = ["postgres", "dump", "latest:db", "--database", "postgres", "--table", "marks"];
    let as_of = ["--output", &file, "--wal-from", "log", "--lsn"];
    // The point itself is older than the table: without the log there is nothing to dump.
    let without = [&words[..], &["--output", &file]].concat();
    let refused = scene.sites.refused(&without);
    assert!(refused.contains("nothing was dumped"), "{refused}");
    let beyond = scene.sites.refused(&[&words[..], &as_of, &["FFF/0"]].concat());
    assert!(!Path::new(&file).exists(), "{beyond}");
    scene.sites.text(&[&words[..], &as_of, &[&place]].concat());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    scene.cluster.run(&["pg_restore", "-d", "postgres", &file]).unwrap();
    assert_eq!(scene.cluster.ask(MARKS).unwrap(), "one two");
}

#[test]
fn no_commit_waits_for_our_receiver() {
    let scene = Scene::set(15_722);
    scene.open_to_the_network();
    scene.streamed_by_tls();
    let _standby = scene.standby(15_723);
    let ask = |question: &str| scene.cluster.ask(question).unwrap();
    let real = ask("SELECT application_name FROM pg_stat_replication");
    assert!(!real.is_empty() && real != "strongroom", "{real}");
    scene.sites.protect("log");
    // The server is told to wait for ours before all others.
    ask(&format!("ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (strongroom, {real})'"));
    ask("SELECT pg_reload_conf()");
    scene.sites.wait("a synchronous standby", |_| {
        ask("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "1"
    });
    // Something to stream that takes a while.
    ask("CREATE TABLE much AS SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 60000) g");
    let job = scene.stopped_in_the_stream(&scene.cluster, "log");
    assert!(is_streamed(&scene.cluster));
    let states = "SELECT string_agg(application_name || ' ' || sync_state, ', ' ORDER BY \
                  application_name = 'strongroom' DESC) FROM pg_stat_replication";
    assert_eq!(ask(states), format!("strongroom async, {real} sync"));
    // Ours stands still, and a transaction commits.
    let (told, heard) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let done = scene.cluster.ask("INSERT INTO much VALUES (0, 'x')");
            let _ = told.send(done.is_ok());
        });
        let committed = heard.recv_timeout(Duration::from_secs(60));
        signal(scene.sites.pid("agent"), "CONT");
        if committed.is_err() {
            // Else the statement, and so this test, would never end.
            let end =
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            ask(end);
        }
        assert_eq!(committed, Ok(true), "a commit waits for our receiver");
    });
    assert_eq!(scene.sites.ended(&job)["state"], "succeeded");
}
