//! The story of a cluster of PostgreSQL: a real server under load is protected, a table of it is
//! dropped by mistake, and it is put back to the moment before; then both sites are lost one
//! after the other, and what is left starts and passes the server's own checks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use strongroom_agent::workload::postgres::programs::OwnCluster;

use super::rows::Row;
use super::story::Lab;
use super::telling::Telling;

/// The cluster, and its log.
const CLUSTER: &str = "db@host1";
const LOG: &str = "log@host1";
/// The port in the name of the server's socket; nothing listens on the network.
const PORT: u16 = 15_400;
/// Of pgbench: a hundred thousand accounts each.
const SCALE: &str = "5";
/// Debits, credits and their history agree, or the cluster is of no one moment.
const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = \
                    (SELECT coalesce(sum(delta), 0) FROM pgbench_history) \
                    AND (SELECT sum(bbalance) FROM pgbench_branches) = \
                    (SELECT sum(tbalance) FROM pgbench_tellers) \
                    AND (SELECT sum(abalance) FROM pgbench_accounts) = \
                    (SELECT sum(bbalance) FROM pgbench_branches)";
/// What the role of the agent may do, and no more.
const RIGHTS: &str = "CREATE ROLE strongroom LOGIN REPLICATION; \
                      GRANT pg_read_all_settings TO strongroom; \
                      GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO strongroom; \
                      GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO strongroom";

/// Load that ends when dropped.
struct Load(Child);

impl Load {
    fn start(cluster: &OwnCluster) -> anyhow::Result<Self> {
        let mut command = cluster.client(&["pgbench", "-n", "-c", "4", "-T", "3600", "postgres"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(child.context("cannot start pgbench")?))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended with the server.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tells the story; the lab at its end.
pub(crate) fn story(dir: &Path, tell: &Telling) -> anyhow::Result<Lab> {
    tell.begin("starting a server of PostgreSQL and filling it");
    // The user of the server must come through, and read nothing on the way.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
    let cluster = OwnCluster::make(&dir.join("server"), PORT, &[])
        .context("a real server is tried: install postgresql")?;
    cluster.start()?;
    cluster.run(&["pgbench", "-i", "-q", "-s", SCALE])?;
    cluster.ask(RIGHTS)?;
    let mut lab = Lab::raise(dir, &cluster.data, tell)?;
    CLUSTER.clone_into(&mut lab.watched);
    for secret in ["passphrase", "recovery-key"] {
        fs::set_permissions(dir.join(secret), fs::Permissions::from_mode(0o600))?;
    }
    let file = dir.join("policy.toml");
    fs::write(&file, policy(&cluster.place)?)?;
    lab.tool.text(&["--site", "a", "policy", "apply", &file.to_string_lossy()])?;
    lab.protect(tell, "the log: a slot keeps it from now on", LOG)?;
    let load = Load::start(&cluster)?;
    lab.protect(tell, "protect the cluster under load", CLUSTER)?;
    lab.protect(tell, "protect it again, under load", CLUSTER)?;
    lab.await_copy(tell, "secondary snap at site b, read back", "secondary", "readable")?;
    lab.await_copy(tell, "aux copy on media, read back", "tape", "hash-verified")?;
    drop(load);
    put_back(&mut lab, &cluster, dir, tell)?;
    prove(&mut lab, tell, "prove the primary snap", &["--from", "a"])?;
    lab.lose_site_a(tell)?;
    prove(&mut lab, tell, "site a lost: prove the secondary", &["--from", "b"])?;
    let media = lab.lose_site_b(tell)?.to_string_lossy().into_owned();
    let key = dir.join("recovery-key").to_string_lossy().into_owned();
    let how = ["--media", media.as_str(), "--recovery-key-file", key.as_str()];
    prove(&mut lab, tell, "both sites lost: prove media alone", &how)?;
    lab.put_back()?;
    tell.begin("stopping the server");
    cluster.stop("fast")?;
    Ok(lab)
}

/// A table is dropped; the cluster is put back over itself to the place before that.
fn put_back(lab: &mut Lab, cluster: &OwnCluster, dir: &Path, tell: &Telling) -> anyhow::Result<()> {
    let place = cluster.ask("SELECT pg_current_wal_insert_lsn()")?;
    let before = cluster.ask("SELECT count(*) FROM pgbench_history")?;
    cluster.ask("DROP TABLE pgbench_accounts")?;
    lab.protect(tell, "a table dropped; the log once more", LOG)?;
    cluster.stop("fast")?;
    tell.begin("restoring the cluster to the moment before");
    let began = Instant::now();
    let data = cluster.data.to_string_lossy().into_owned();
    let mut words = vec!["postgres", "restore", "latest:db@host1", "--to", &data, "--from", "a"];
    words.extend(["--delta", "--remove-extra", "--wal-from", LOG, "--lsn", &place]);
    let report = lab.tool.json(&words)?;
    cluster.start()?;
    while cluster.ask("SELECT pg_is_in_recovery()")? != "f" {
        tell.tick();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let after = cluster.ask("SELECT count(*) FROM pgbench_history")?;
    let agree = cluster.ask(SUMS)?;
    if after != before || agree != "t" {
        lab.differences += 1;
    }
    lab.rows.push(Row {
        covered_bytes: report["bytes_kept"]
            .as_u64()
            .zip(report["bytes_written"].as_u64())
            .map(|(kept, written)| kept + written),
        read_bytes: report["bytes_fetched"].as_u64(),
        stored_bytes: report["bytes_written"].as_u64(),
        proof: match (after == before, &*agree) {
            (true, "t") => format!("all {after} transactions, sums agree"),
            _ => format!("DIFFERS: {after} transactions of {before}"),
        },
        ..Row::new("restored over itself, running again", began.elapsed())
    });
    tell.note(&format!("the server is in {}", dir.join("server").display()));
    Ok(())
}

fn prove(lab: &mut Lab, tell: &Telling, stage: &str, how: &[&str]) -> anyhow::Result<()> {
    tell.begin(stage);
    let began = Instant::now();
    let point = lab.point.clone();
    let mut words = vec!["postgres", "prove", &point, "--query", SUMS];
    words.extend_from_slice(how);
    let proof = lab.tool.json(&words)?;
    let checks = proof["checks"].as_array().cloned().unwrap_or_default();
    if checks.is_empty() {
        bail!("nothing was checked");
    }
    let failed = checks.iter().filter(|check| check["passed"] != true).count();
    let agrees = checks.iter().any(|check| check["said"] == "t");
    if failed > 0 || !agrees {
        lab.differences += 1;
    }
    lab.rows.push(Row {
        covered_bytes: proof["bytes_written"].as_u64(),
        stored_bytes: proof["bytes_written"].as_u64(),
        proof: match (failed, agrees) {
            (0, true) => format!("started, {} checks passed", checks.len()),
            _ => format!("DIFFERS: {failed} checks failed"),
        },
        ..Row::new(stage, began.elapsed())
    });
    Ok(())
}

fn policy(host: &Path) -> anyhow::Result<String> {
    let host = host.to_str().context("a path that a policy file cannot hold")?;
    let host = toml::Value::String(host.to_owned()).to_string();
    Ok(format!(
        r#"# The storage policy of the lab: a cluster of PostgreSQL, and its log beside it.

[policy.standard]
schedule = "daily 22:00"
timezone = "Europe/London"
require = "application"

[policy.standard.primary]
keep = {{ newest = 10, days = 14, weeks = 8 }}

[policy.standard.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "proxy"
keep = {{ newest = 10, days = 30, months = 12 }}

[policy.standard.copy.tape]
kind = "aux"
from = "secondary"
media_set = "weekly"
min_proof = "hash-verified"
keep = {{ newest = 10, months = 12, years = 7 }}

[workload."{CLUSTER}"]
agent = "host1"
kind = "postgres"
policy = "standard"
host = {host}
port = {PORT}

[workload."{LOG}"]
agent = "host1"
kind = "postgres"
mode = "wal"
policy = "standard"
host = {host}
port = {PORT}
"#
    ))
}
