//! A real server of MariaDB under load: protected by stream and by snapshot, restored, proven;
//! whoever is killed while nothing can commit, transactions go on; and each bad thing is named.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::Sites;
use lab::cluster::{holder, signal};
use serde_json::Value;
use strongroom_agent::holder::Holder;
use strongroom_agent::workload::mariadb::hold;
use strongroom_agent::workload::mariadb::server::OwnServer;
use strongroom_agent::workload::mariadb::session::Dial;

/// What is in the two tables together, whatever was moved from one to the other; and every
/// movement is on record in a table of another engine, written before.
const SUM: &str = "SELECT (SELECT SUM(v) FROM shop.a) + (SELECT SUM(v) FROM shop.b)";
const TOTAL: &str = "100000";
const PATIENCE: Duration = Duration::from_secs(60);

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A server with two tables between which amounts are moved, below `dir`.
fn server(dir: &Path) -> OwnServer {
    let (data, place) = (dir.join("data"), dir.join("server"));
    OwnServer::install(&place, &data).unwrap();
    let options = ["--log-bin=bin", "--server-id=7", "--innodb-log-file-size=16M"];
    let options = options.map(str::to_owned);
    let server = OwnServer::start(&place, &data, &options, PATIENCE).unwrap();
    for statement in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.a (id INT PRIMARY KEY, v INT, pad TEXT) ENGINE=InnoDB",
        "CREATE TABLE shop.b LIKE shop.a",
        "INSERT INTO shop.a SELECT seq, 50, REPEAT(MD5(seq), 60) FROM shop.seq_1_to_1000",
        "INSERT INTO shop.b SELECT seq, 50, REPEAT(MD5(-seq), 60) FROM shop.seq_1_to_1000",
        "CREATE TABLE shop.last (number INT PRIMARY KEY) ENGINE=InnoDB",
        "CREATE TABLE shop.old (id INT PRIMARY KEY, v INT) ENGINE=MyISAM",
        "INSERT INTO shop.old VALUES (1, 7)",
        "XA START 'late'; INSERT INTO shop.last VALUES (1); XA END 'late'; XA PREPARE 'late'",
        "CREATE USER strongroom@localhost IDENTIFIED BY 'right'",
        "GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR ON *.* TO strongroom@localhost",
    ] {
        server.ask(statement).unwrap();
    }
    server
}

/// Amounts are moved until this is dropped.
struct Load(Child);

impl Load {
    fn on(server: &OwnServer) -> Self {
        let mut command = Command::new("mariadb");
        let socket = format!("--socket={}", server.socket().display());
        command.args(["--no-defaults", "--user=root", &socket]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut orders = child.stdin.take().unwrap();
        std::thread::spawn(move || {
            for number in 0.. {
                let (a, b) = (number * 7 % 1000 + 1, number * 13 % 1000 + 1);
                let moved = format!(
                    "START TRANSACTION; UPDATE shop.a SET v = v - 1 WHERE id = {a}; \
                     UPDATE shop.b SET v = v + 1 WHERE id = {b}; COMMIT;\n"
                );
                if orders.write_all(moved.as_bytes()).is_err() {
                    break;
                }
            }
        });
        Self(child)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server, and two sites that protect it.
struct Scene {
    sites: Sites,
    server: OwnServer,
    dir: tempfile::TempDir,
}

impl Scene {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = server(dir.path());
        Self { sites: Sites::raise(&dir.path().join("sites")), server, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn password(&self, word: &str) -> String {
        let file = self.path("password");
        fs::write(&file, format!("{word}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        format!("password_file = \"{}\"\n", file.display())
    }

    fn apply(&self, socket: &Path, more: &str) {
        self.sites.apply(&format!(
            "[policy.p]\ntimezone = \"UTC\"\nrequire = \"application\"\n\
             [policy.p.primary]\nkeep = {{ newest = 100 }}\n\
             [workload.\"db\"]\nagent = \"host1\"\nkind = \"mariadb\"\npolicy = \"p\"\n\
             host = \"{}\"\n{more}",
            socket.display()
        ));
    }

    /// Protects right after a transaction whose number [`Self::prove`] wants to see.
    fn protect_last(&self) -> Value {
        self.server.ask("INSERT INTO shop.last VALUES (4711)").unwrap();
        self.sites.protect("db")
    }

    /// Why no point was made.
    fn refused(&self) -> String {
        self.told(&self.sites.order("db"))
    }

    /// Why no point was made by a job.
    fn told(&self, job: &str) -> String {
        let mut said = String::new();
        self.sites.wait("the refusal", |sites| {
            said = sites.text(&["--site", "a", "jobs", "show", job]);
            said.contains("failed:")
        });
        self.sites.run(&["--site", "a", "jobs", "cancel", job]);
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// A server starts from the newest point, every check passes, nothing was lost.
    fn prove(&self, way: &str) {
        let old = "SELECT v FROM shop.old";
        let last = "SELECT number FROM shop.last";
        let words = ["mariadb", "prove", "latest:db"].into_iter();
        let asked = [SUM, old, last, "XA RECOVER"].into_iter().flat_map(|q| ["--query", q]);
        let words: Vec<&str> = words.chain(asked).collect();
        let proof = self.sites.json(&words);
        let checks = proof["checks"].as_array().unwrap();
        assert_eq!((checks.len(), proof["way"].as_str()), (8, Some(way)), "{proof}");
        assert!(checks.iter().all(|check| check["passed"] == true), "{proof}");
        let said: Vec<&str> =
            checks[3..7].iter().map(|check| check["said"].as_str().unwrap()).collect();
        // What was prepared and not yet decided on still waits for the decision.
        assert_eq!(said, [TOTAL, "7", "4711", "1\t4\t0\tlate"], "{proof}");
        assert_eq!(self.sites.points("db")[0]["copies"][0]["proof"], "started");
    }
}

#[test]
fn a_server_under_load_comes_back_from_the_stream_as_of_one_moment() {
    let scene = Scene::set();
    let load = Load::on(&scene.server);
    scene.apply(&scene.server.socket(), &scene.password("right"));
    // Committed is what the client was told, though the log is written once a second.
    scene.server.ask("SET GLOBAL innodb_flush_log_at_trx_commit = 0").unwrap();
    scene.sites.protect("db");
    drop(load);
    let again = scene.protect_last();
    let (seen, sent) = (&again["progress"]["bytes_seen"], &again["progress"]["bytes_sent"]);
    assert!(sent.as_u64().unwrap() < seen.as_u64().unwrap() / 2, "{sent} of {seen} bytes sent");
    assert_eq!(scene.sites.points("db")[0]["consistency"], "application");
    scene.prove("stream");

    let back = scene.path("back");
    let to = back.display().to_string();
    let words = ["mariadb", "restore", "latest:db", "--to", &to];
    let restored = scene.sites.json(&words);
    assert_eq!(restored["problems"].as_array().unwrap().len(), 0);
    let binlog = &restored["point"]["binlog"];
    assert!(binlog["file"].as_str().unwrap().starts_with("bin."), "{restored}");
    assert!(restored["point"]["gtid_binlog"].as_str().unwrap().starts_with("0-7-"), "{restored}");
    let place = scene.path("back-server");
    fs::create_dir(&place).unwrap();
    let mut server = OwnServer::start(&place, &back, &[], PATIENCE).unwrap();
    assert_eq!(server.ask(SUM).unwrap(), TOTAL);
    // It takes writes, with the accounts it had.
    server.ask("UPDATE shop.a SET v = v + 1 WHERE id = 1").unwrap();
    assert!(server.ask("SELECT user FROM mysql.user").unwrap().contains("strongroom"));
    server.stop().unwrap();
    assert!(scene.sites.refused(&words).contains("is not empty"));
}

/// Whether a transaction commits within this.
fn commits(server: &OwnServer, within: Duration) -> bool {
    let socket = format!("--socket={}", server.socket().display());
    let statement = "UPDATE shop.a SET v = v WHERE id = 1; INSERT INTO shop.old VALUES (2, 8) \
                     ON DUPLICATE KEY UPDATE v = v + 1";
    let mut client = Command::new("mariadb")
        .args(["--no-defaults", "--user=root", &socket, "-e", statement])
        .spawn()
        .unwrap();
    let until = Instant::now() + within;
    while Instant::now() < until {
        if let Some(status) = client.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    client.kill().unwrap();
    client.wait().unwrap();
    false
}

#[test]
fn whoever_is_killed_while_nothing_commits_transactions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let server = server(dir.path());
    let dial = Dial {
        host: server.socket().display().to_string(),
        port: 0,
        user: "strongroom".to_owned(),
        password: Some("right".to_owned()),
        lock_wait_seconds: 5,
    };
    let program = Path::new(env!("CARGO_BIN_EXE_strongroom"));
    let soon = Duration::from_secs(5);
    for end in ["the order", "the holder is killed", "the agent is gone", "the deadline"] {
        let most = Duration::from_secs(if end == "the deadline" { 2 } else { 60 });
        let held = Holder::hold_by(program, &hold::order(&dial, most).unwrap()).unwrap();
        let file = held.seen["marks"]["binlog"]["file"].as_str().unwrap();
        assert!(file.starts_with("bin."), "{}", held.seen);
        assert!(!commits(&server, Duration::from_millis(500)), "{end}: nothing may commit");
        match end {
            "the order" => assert_eq!(held.release().unwrap()["held"], true),
            "the holder is killed" => {
                signal(holder(std::process::id()).unwrap(), "KILL");
                assert!(commits(&server, soon), "{end}");
                assert!(held.release().is_err());
            }
            // Its pipe ends.
            "the agent is gone" => drop(held),
            _ => {
                assert!(commits(&server, soon), "{end}");
                assert_eq!(held.release().unwrap()["held"], false);
            }
        }
        assert!(commits(&server, soon), "{end}");
    }
    // A statement that stands in the way is waited for so long, and named.
    let socket = format!("--socket={}", server.socket().display());
    let locks = "LOCK TABLES shop.old WRITE; SELECT SLEEP(30)";
    let mut locker = Command::new("mariadb")
        .args(["--no-defaults", "--user=root", &socket, "-e", locks])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let quick = Dial { lock_wait_seconds: 1, ..dial };
    let refused = Holder::hold_by(program, &hold::order(&quick, soon).unwrap()).unwrap_err();
    locker.kill().unwrap();
    locker.wait().unwrap();
    let refused = refused.to_string();
    assert!(refused.contains("within 1 s") && refused.contains("PROCESSLIST"), "{refused}");
}

/// Is mariabackup, and stands still as soon as nothing can commit.
const STANDS_STILL: &str = r#"#!/bin/bash
[ "$1" = --version ] && exec mariadb-backup --version
exec mariadb-backup "$@" 2> >(
    exec >&2
    while read -r line; do
        echo "$line"
        case "$line" in *"Acquired locks for BACKUP STAGE BLOCK_COMMIT"*) kill -s STOP $$ ;; esac
    done
)
"#;

#[test]
fn a_stream_that_stands_still_holds_nobody_up_for_long() {
    let scene = Scene::set();
    let program = scene.path("stands-still");
    fs::write(&program, STANDS_STILL).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let more = format!("{}program = \"{}\"\n", scene.password("right"), program.display());
    let socket = scene.server.socket();
    for (end, deadline) in [("the deadline", "3s"), ("the holder is killed", "60s")] {
        scene.apply(&socket, &format!("{more}freeze_deadline = \"{deadline}\"\n"));
        let job = scene.sites.order("db");
        let until = Instant::now() + PATIENCE;
        while commits(&scene.server, Duration::from_millis(700)) {
            assert!(Instant::now() < until, "{end}: commits are never kept waiting");
        }
        if end != "the deadline" {
            signal(holder(scene.sites.pid("agent")).unwrap(), "KILL");
        }
        assert!(commits(&scene.server, Duration::from_secs(8)), "{end}");
        let said = scene.told(&job);
        let why = match end {
            "the deadline" => "freeze_deadline",
            _ => "the session of the backup did not go on",
        };
        assert!(said.contains(why), "{end}: {said}");
    }
    assert_eq!(scene.sites.points("db").len(), 0);
}

#[test]
fn what_cannot_be_protected_is_said_by_name() {
    let scene = Scene::set();
    let socket = scene.server.socket();
    let right = scene.password("right");
    scene.apply(&scene.path("nobody.sock"), &right);
    let said = scene.refused();
    assert!(said.contains("cannot be reached") && said.contains("is `host` its socket"), "{said}");
    scene.apply(&socket, &format!("{right}way = \"snapshot\"\n"));
    let said = scene.refused();
    assert!(said.contains("does not lie on btrfs"), "{said}");
    scene.apply(&socket, &format!("{right}program = \"/bin/nothing\"\n"));
    assert!(scene.refused().contains("install the package mariadb-backup"));
    scene.apply(&socket, &format!("{right}program = \"/bin/true\"\n"));
    assert!(scene.refused().contains("is of version none that is known"));
    let other = scene.path("other");
    fs::create_dir(&other).unwrap();
    scene.apply(&socket, &format!("{right}data = \"{}\"\n", other.display()));
    let said = scene.refused();
    assert!(said.contains("is not the data directory of the server"), "{said}");
    scene.apply(&socket, &scene.password("wrong"));
    let said = scene.refused();
    assert!(said.contains("does not let strongroom in"), "{said}");
    scene.server.ask("REVOKE BINLOG MONITOR ON *.* FROM strongroom@localhost").unwrap();
    scene.apply(&socket, &scene.password("right"));
    let said = scene.refused();
    assert!(said.contains("may not say where its log of changes ends"), "{said}");
    assert!(said.contains("GRANT RELOAD, PROCESS"), "{said}");
    assert_eq!(scene.sites.points("db").len(), 0);
}

/// A file system of its own, for as long as it is used.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_snapshot_taken_while_nothing_commits_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (image, at) = (dir.path().join("image"), dir.path().join("btrfs"));
    fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
    must(Command::new("mkfs.btrfs").arg("-q").arg(&image));
    fs::create_dir(&at).unwrap();
    must(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
    let _mounted = Mounted(at.clone());
    let server = server(&at);
    let sites = Sites::raise(&dir.path().join("sites"));
    let scene = Scene { sites, server, dir };
    // Committed is what the client was told, though the log is written once a second.
    scene.server.ask("SET GLOBAL innodb_flush_log_at_trx_commit = 0").unwrap();
    scene
        .apply(&scene.server.socket(), &format!("{}way = \"snapshot\"\n", scene.password("right")));
    let load = Load::on(&scene.server);
    scene.sites.protect("db");
    drop(load);
    let again = scene.protect_last();
    let (seen, sent) = (&again["progress"]["bytes_seen"], &again["progress"]["bytes_sent"]);
    assert!(sent.as_u64().unwrap() < seen.as_u64().unwrap() / 2, "{sent} of {seen} bytes sent");
    let point = &scene.sites.points("db")[0];
    assert_eq!(point["consistency"], "application", "{point}");
    scene.prove("snapshot");
    // No snapshot is left behind.
    let left = fs::read_dir(&at).unwrap().flatten();
    assert!(
        left.map(|entry| entry.file_name())
            .all(|name| !name.to_string_lossy().contains("strongroom"))
    );
}
