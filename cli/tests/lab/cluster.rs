//! A real server with load, and the two sites that protect it.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use strongroom_agent::holder::HOLDER_WORD;
use strongroom_agent::workload::postgres::programs::OwnCluster;

use super::Sites;

/// Of pgbench: a hundred thousand accounts each.
pub(crate) const SCALE: &str = "2";
/// Debits, credits and their history agree, or the cluster is of no one moment.
pub(crate) const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = \
                    (SELECT coalesce(sum(delta), 0) FROM pgbench_history) \
                    AND (SELECT sum(bbalance) FROM pgbench_branches) = \
                    (SELECT sum(tbalance) FROM pgbench_tellers) \
                    AND (SELECT sum(abalance) FROM pgbench_accounts) = \
                    (SELECT sum(bbalance) FROM pgbench_branches)";

pub(crate) const RIGHTS: &str = "CREATE ROLE strongroom LOGIN REPLICATION; \
                      GRANT pg_read_all_settings TO strongroom; \
                      GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO strongroom; \
                      GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO strongroom";

/// A cluster with load, and two sites that protect it.
pub(crate) struct Scene {
    pub(crate) sites: Sites,
    pub(crate) cluster: OwnCluster,
    pub(crate) dir: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn set(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let settings = ["wal_level = replica", "max_wal_size = '64MB'", "fsync = off"];
        let cluster = OwnCluster::make(&dir.path().join("pg"), port, &settings).unwrap();
        cluster.start().unwrap();
        cluster.run(&["pgbench", "-i", "-q", "-s", SCALE]).unwrap();
        cluster.ask(RIGHTS).unwrap();
        let space = dir.path().join("space");
        make_for(&space, &cluster);
        let place = space.display();
        cluster.ask(&format!("CREATE TABLESPACE space LOCATION '{place}'")).unwrap();
        cluster.ask("CREATE TABLE spaced TABLESPACE space AS SELECT 7 AS seven").unwrap();
        let sites = Sites::raise(&dir.path().join("sites"));
        let scene = Self { sites, cluster, dir };
        scene.apply("");
        scene
    }

    /// The policy, with more about the workload `db`.
    pub(crate) fn apply(&self, more: &str) {
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

    pub(crate) fn load(&self, seconds: u32) -> Load {
        let seconds = seconds.to_string();
        let words = ["pgbench", "-n", "-c", "4", "-T", &seconds, "postgres"];
        let mut command = self.cluster.client(&words);
        Load(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Lets a page of a table rot: the next point keeps it as it is, names it, and claims less.
    pub(crate) fn rots_and_is_told(&self) {
        let ask = |question: &str| self.cluster.ask(question).unwrap();
        ask("CREATE TABLE hurt AS SELECT g FROM generate_series(1, 5000) g");
        ask("CHECKPOINT");
        let path = self.cluster.data.join(ask("SELECT pg_relation_filepath('hurt')"));
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"rot", 8192 * 3 + 4000).unwrap();
        let job = self.sites.ended(&self.sites.order("db"));
        assert_eq!(job["progress"]["gaps"], 1, "{job}");
        let point = self.sites.points("db").remove(0);
        assert_eq!(point["consistency"], "crash", "{point}");
        let why = self.sites.text(&["why", "latest:db"]);
        let name = path.file_name().unwrap().to_str().unwrap();
        let said = format!("/{name}: unreadable block 3 does not fit its checksum");
        assert!(why.contains(&said), "{why}");
    }

    /// Why no point was made.
    pub(crate) fn refused(&self, workload: &str) -> String {
        self.told(&self.sites.order(workload))
    }

    /// Why no point was made by a job.
    pub(crate) fn told(&self, job: &str) -> String {
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
    pub(crate) fn stopped_in_the_middle(&self, cluster: &OwnCluster) -> String {
        let job = self.sites.order("db");
        self.stop_in_the_middle("agent", cluster);
        job
    }

    /// Stops an agent once its backup of a cluster is under way.
    pub(crate) fn stop_in_the_middle(&self, agent: &'static str, cluster: &OwnCluster) {
        let agent = self.sites.pid(agent);
        let until = Instant::now() + Duration::from_secs(60);
        while holder(agent).is_none() {
            assert!(Instant::now() < until, "no backup was begun");
            std::thread::sleep(Duration::from_millis(1));
        }
        // It goes on in short steps, so that it cannot be through before it is seen.
        signal(agent, "STOP");
        while !is_under_way(cluster) {
            assert!(Instant::now() < until, "the backup did not come");
            signal(agent, "CONT");
            std::thread::sleep(Duration::from_millis(4));
            signal(agent, "STOP");
        }
    }

    /// A standby of the scene's server, which follows it.
    pub(crate) fn standby(&self, port: u16) -> OwnCluster {
        let place = self.dir.path().join("standby");
        let data = place.join("data");
        drop(OwnCluster::over(&place, &data, port).unwrap());
        let to = data.display().to_string();
        make_for(&self.dir.path().join("space-standby"), &self.cluster);
        let moved = format!("{0}={0}-standby", self.path("space"));
        let words = ["pg_basebackup", "-D", &to, "-R", "-T", &moved, "-c", "fast"];
        self.cluster.run(&words).unwrap();
        let standby = self.over(&to, port);
        standby.start().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let follows = "SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()";
        while standby.ask(follows).unwrap() != "t" {
            assert!(Instant::now() < until, "the standby does not follow");
            std::thread::sleep(Duration::from_millis(100));
        }
        standby
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(crate) fn over(&self, data: &str, port: u16) -> OwnCluster {
        let place = self.dir.path().join(format!("socket-{port}"));
        let cluster = OwnCluster::over(&place, Path::new(data), port).unwrap();
        let config = Path::new(data).join("postgresql.conf");
        let text = fs::read_to_string(&config).unwrap();
        let own = format!("port = {port}\nunix_socket_directories = '{}'\n", place.display());
        fs::write(config, text + &own).unwrap();
        cluster
    }
}

/// Makes a directory that the server may use.
pub(crate) fn make_for(dir: &Path, cluster: &OwnCluster) {
    fs::create_dir(dir).unwrap();
    if let Some((user, group)) = cluster.programs.owner {
        std::os::unix::fs::chown(dir, Some(user), Some(group)).unwrap();
    }
}

/// Load that ends with its holder.
pub(crate) struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many backups are under way, by their slots and by their sessions.
pub(crate) fn sessions(cluster: &OwnCluster) -> String {
    cluster
        .ask(
            "SELECT (SELECT count(*) FROM pg_replication_slots WHERE temporary), \
             (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'strongroom' \
              AND query LIKE '%pg_backup_start%')",
        )
        .unwrap()
}

/// Whether a backup is under way, now or in a moment: what holds it works by itself.
pub(crate) fn is_under_way(cluster: &OwnCluster) -> bool {
    (0..20).any(|_| sessions(cluster) == "1|1")
}

pub(crate) fn signal(pid: u32, name: &str) {
    let mut kill = Command::new("kill");
    assert!(kill.args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

/// The process that holds the backup for an agent.
pub(crate) fn holder(agent: u32) -> Option<u32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_agent = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{agent}"))
            && words.split(|byte| *byte == 0).any(|word| word == HOLDER_WORD.as_bytes())
    };
    pids.find(of_agent)
}

pub(crate) fn recovered(cluster: &OwnCluster) {
    let until = Instant::now() + Duration::from_secs(60);
    while cluster.ask("SELECT pg_is_in_recovery()").unwrap() != "f" {
        assert!(Instant::now() < until, "the recovery does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
}
