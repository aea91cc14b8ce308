//! A real server under load: protected, lost, restored from every copy, recovered to a place
//! between two transactions; killed in the middle; and what is not a server, or not the right
//! one, refused by name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::Sites;
use strongroom_agent::workload::postgres::programs::OwnCluster;

/// Of pgbench: a hundred thousand accounts each.
const SCALE: &str = "2";
/// Debits, credits and their history agree, or the cluster is of no one moment.
const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = \
                    (SELECT coalesce(sum(delta), 0) FROM pgbench_history) \
                    AND (SELECT sum(bbalance) FROM pgbench_branches) = \
                    (SELECT sum(tbalance) FROM pgbench_tellers) \
                    AND (SELECT sum(abalance) FROM pgbench_accounts) = \
                    (SELECT sum(bbalance) FROM pgbench_branches)";

const RIGHTS: &str = "CREATE ROLE strongroom LOGIN REPLICATION; \
                      GRANT pg_read_all_settings TO strongroom; \
                      GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO strongroom; \
                      GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO strongroom";

/// A cluster with load, and two sites that protect it.
struct Scene {
    sites: Sites,
    cluster: OwnCluster,
    dir: tempfile::TempDir,
}

impl Scene {
    fn set(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let settings = ["wal_level = replica", "max_wal_size = '64MB'", "fsync = off"];
        let cluster = OwnCluster::make(&dir.path().join("pg"), port, &settings).unwrap();
        cluster.start().unwrap();
        cluster.run(&["pgbench", "-i", "-q", "-s", SCALE]).unwrap();
        cluster.ask(RIGHTS).unwrap();
        let sites = Sites::raise(&dir.path().join("sites"));
        let scene = Self { sites, cluster, dir };
        scene.apply("");
        scene
    }

    /// The policy, with more about the workload `db`.
    fn apply(&self, more: &str) {
        let (host, port) = (self.cluster.place.display(), self.cluster.port);
        let server =
            format!("agent = \"host1\"\nkind = \"postgres\"\nhost = \"{host}\"\nport = {port}");
        self.sites.apply(&format!(
            r#"
[policy.p]
timezone = "Europe/London"
[policy.p.primary]
keep = {{ newest = 100 }}
[policy.p.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "proxy"
keep = {{ newest = 100 }}
[policy.p.copy.tape]
kind = "aux"
from = "secondary"
media_set = "weekly"
min_proof = "hash-verified"
keep = {{ newest = 100 }}
[workload."db"]
policy = "p"
{server}
{more}
[workload."log"]
policy = "p"
mode = "wal"
{server}
"#
        ));
    }

    fn load(&self, seconds: u32) -> Load {
        let seconds = seconds.to_string();
        let words = ["pgbench", "-n", "-c", "4", "-T", &seconds, "postgres"];
        let mut command = self.cluster.client(&words);
        Load(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Why no point was made.
    fn refused(&self, workload: &str) -> String {
        self.told(&self.sites.order(workload))
    }

    /// Why no point was made by a job.
    fn told(&self, job: &str) -> String {
        let mut said = String::new();
        self.sites.wait("the refusal", |sites| {
            said = sites.text(&["--site", "a", "jobs", "show", job]);
            said.contains("failed:")
        });
        // It may be tried again later: that is not waited for.
        self.sites.run(&["--site", "a", "jobs", "cancel", job]);
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Orders a point, and stops the agent in the middle of it: the backup is under way.
    fn stopped_in_the_middle(&self, cluster: &OwnCluster) -> String {
        let (job, agent) = (self.sites.order("db"), self.sites.pid("agent"));
        let until = Instant::now() + Duration::from_secs(60);
        while holder(agent).is_none() {
            assert!(Instant::now() < until, "no backup was begun");
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(agent, "STOP");
        self.sites.wait("the backup", |_| sessions(cluster) == "1|1");
        job
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn over(&self, data: &str, port: u16) -> OwnCluster {
        let place = self.dir.path().join(format!("socket-{port}"));
        let cluster = OwnCluster::over(&place, Path::new(data), port).unwrap();
        let config = Path::new(data).join("postgresql.conf");
        let text = fs::read_to_string(&config).unwrap();
        let own = format!("port = {port}\nunix_socket_directories = '{}'\n", place.display());
        fs::write(config, text + &own).unwrap();
        cluster
    }
}

/// Load that ends with its holder.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many backups are under way, by their slots and by their sessions.
fn sessions(cluster: &OwnCluster) -> String {
    cluster
        .ask(
            "SELECT (SELECT count(*) FROM pg_replication_slots WHERE temporary), \
             (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'strongroom' \
              AND query LIKE '%pg_backup_start%')",
        )
        .unwrap()
}

fn signal(pid: u32, name: &str) {
    let mut kill = Command::new("kill");
    assert!(kill.args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

/// The process that holds the backup for an agent.
fn holder(agent: u32) -> Option<u32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_agent = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{agent}"))
    };
    pids.find(of_agent)
}

fn recovered(cluster: &OwnCluster) {
    let until = Instant::now() + Duration::from_secs(60);
    while cluster.ask("SELECT pg_is_in_recovery()").unwrap() != "f" {
        assert!(Instant::now() < until, "the recovery does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_cluster_under_load_comes_back_from_every_copy_and_to_any_transaction() {
    let scene = Scene::set(15_432);
    let sites = &scene.sites;
    // The slot is made, and keeps the log from here on.
    sites.protect("log");
    let load = scene.load(600);
    sites.protect("db");
    let first = sites.protect("db");
    let full = first["progress"]["bytes_seen"].as_u64().unwrap();
    let point = sites.await_copy("db", "tape", "hash-verified");
    drop(load);

    // Three transactions, and a place between the second and the third.
    let mark = |word: &str| {
        scene
            .cluster
            .ask(&format!(
                "CREATE TABLE IF NOT EXISTS marks (word text); \
                                    INSERT INTO marks VALUES ('{word}')"
            ))
            .unwrap();
    };
    mark("one");
    mark("two");
    let place = scene.cluster.ask("SELECT pg_current_wal_insert_lsn()").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let time = scene.cluster.ask("SELECT clock_timestamp()").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    mark("three");
    sites.protect("log");
    let kept = scene.cluster.ask("SELECT restart_lsn > '0/0' FROM pg_replication_slots").unwrap();
    assert_eq!(kept, "t", "one slot, that of the log; none of a backup is left");

    // Each copy by itself: a server starts from it, its checks pass, and the sums agree.
    for how in [&["--from", "a"][..], &["--from", "b"]] {
        let words = [&["postgres", "prove", &point, "--query", SUMS][..], how].concat();
        let proof = sites.json(&words);
        let checks = proof["checks"].as_array().unwrap();
        assert_eq!(checks.len(), 5, "{proof}");
        assert_eq!(checks[3]["said"], "t", "{proof}");
        assert!(checks.iter().all(|check| check["passed"] == true), "{proof}");
        assert!(checks[4]["said"].as_str().unwrap().contains("Blocks scanned"), "{proof}");
    }

    // To a place and to a moment between transactions: all before it, nothing after it.
    for (port, until) in [(15_433, ["--lsn", &*place]), (15_434, ["--time", &*time])] {
        let data = scene.path(&format!("back-{port}"));
        let words = ["postgres", "restore", "latest:db", "--to", &data, "--wal-from", "log"];
        sites.text(&[&words[..], &until].concat());
        let back = scene.over(&data, port);
        back.start().unwrap();
        recovered(&back);
        assert_eq!(back.ask("SELECT string_agg(word, ' ') FROM marks").unwrap(), "one two");
        assert_eq!(back.ask(SUMS).unwrap(), "t");
        let refused = sites.refused(&[&words[..], &["--delta"]].concat());
        assert!(refused.contains("a server runs in"), "{refused}");
    }
    // Over the same directory, to the end of the log; what is right there stays.
    let data = scene.path("back-15433");
    let words = ["postgres", "restore", "latest:db", "--to", &data, "--wal-from", "log"];
    let refused = sites.refused(&words);
    assert!(refused.contains("--delta"), "{refused}");
    let refused = sites.refused(&[&words[..], &["--delta"]].concat());
    assert!(refused.contains("--remove-extra"), "{refused}");
    let over = sites.json(&[&words[..], &["--delta", "--remove-extra"]].concat());
    let kept = over["bytes_kept"].as_u64().unwrap();
    assert!(kept > full / 4, "{kept} of {full} bytes were right already");
    let back = scene.over(&data, 15_433);
    back.start().unwrap();
    recovered(&back);
    assert_eq!(back.ask("SELECT string_agg(word, ' ') FROM marks").unwrap(), "one two three");

    // A second point soon after sends little; media give the first when both sites are gone.
    let again = sites.protect("db");
    let sent = again["progress"]["bytes_sent"].as_u64().unwrap();
    assert!(sent < full / 4, "{sent} of {full} bytes sent");
    let library = sites.dir.join("b/proxy/library").display().to_string();
    let (key, sites) = (sites.dir.join("recovery-key").display().to_string(), scene.sites);
    let mut sites = sites;
    ["agent", "coordinator", "proxy"].iter().for_each(|role| sites.kill(role));
    let words = ["postgres", "prove", &point, "--query", SUMS, "--media", &library];
    let proof = sites.json(&[&words[..], &["--recovery-key-file", &key]].concat());
    assert_eq!(proof["checks"][3]["said"], "t", "{proof}");
}

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

    // A page that does not fit its checksum: kept as it is, named, and not called consistent.
    scene.apply(&named);
    ask("CREATE TABLE hurt AS SELECT g FROM generate_series(1, 5000) g");
    ask("CHECKPOINT");
    let path = scene.cluster.data.join(ask("SELECT pg_relation_filepath('hurt')"));
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"rot", 8192 * 3 + 4000).unwrap();
    let job = scene.sites.ended(&scene.sites.order("db"));
    assert_eq!(job["progress"]["gaps"], 1, "{job}");
    let point = scene.sites.points("db").remove(0);
    assert_eq!(point["consistency"], "crash", "{point}");
    let why = scene.sites.text(&["why", "latest:db"]);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(why.contains(&format!("/{name}: block 3 does not fit its checksum")), "{why}");
    // Also the next time, when the file has not changed.
    let job = scene.sites.ended(&scene.sites.order("db"));
    assert_eq!(job["progress"]["gaps"], 1, "{job}");
    let proof = scene.sites.refused(&["postgres", "prove", "latest:db"]);
    assert!(proof.contains("not proven"), "{proof}");
}

#[test]
fn a_standby_is_protected_and_its_promotion_makes_no_point() {
    let scene = Scene::set(15_462);
    let place = scene.dir.path().join("standby");
    let data = place.join("data");
    let standby = OwnCluster::over(&place, &data, 15_463).unwrap();
    let to = data.display().to_string();
    scene.cluster.run(&["pg_basebackup", "-D", &to, "-R", "-X", "stream", "-c", "fast"]).unwrap();
    let standby = {
        drop(standby);
        scene.over(&to, 15_463)
    };
    standby.start().unwrap();
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
