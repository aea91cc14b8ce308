//! The story of a server of MariaDB: a real one under load is protected, its data directory is
//! destroyed, and it is put back; then both sites are lost one after the other, and what is left
//! starts and passes the server's own checks.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use strongroom_agent::workload::mariadb::server::OwnServer;

use super::rows::Row;
use super::story::Lab;
use super::telling::Telling;

const WORKLOAD: &str = "shop@host1";
/// How long a server may take to come up on a busy host.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rows of each table, between which amounts are moved.
const ROWS: u64 = 5000;
/// Whether what is in both tables is what was put there, whatever was moved.
const SUM: &str = "SELECT (SELECT SUM(v) FROM shop.a) + (SELECT SUM(v) FROM shop.b) = 500000";
/// How often something was moved.
const MOVED: &str = "SELECT COUNT(*) FROM shop.moved";
/// What is there before, and the account of the agent with its rights and no more.
const FILL: [&str; 6] = [
    "CREATE DATABASE shop",
    "CREATE TABLE shop.a (id INT PRIMARY KEY, v INT, pad TEXT) ENGINE=InnoDB",
    "CREATE TABLE shop.b LIKE shop.a",
    "CREATE TABLE shop.moved (number INT PRIMARY KEY) ENGINE=InnoDB",
    "INSERT INTO shop.a SELECT seq, 50, REPEAT(MD5(seq), 60) FROM shop.seq_1_to_5000",
    "INSERT INTO shop.b SELECT seq, 50, REPEAT(MD5(-seq), 60) FROM shop.seq_1_to_5000",
];

/// Amounts are moved until this is dropped.
struct Load(Child);

impl Load {
    fn on(server: &OwnServer) -> anyhow::Result<Self> {
        let socket = format!("--socket={}", server.socket().display());
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--user=root", &socket]).stdin(Stdio::piped());
        let child = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.context("cannot start the client mariadb")?;
        let mut orders = child.stdin.take().context("no way to tell the client")?;
        std::thread::spawn(move || {
            for number in 0_u64.. {
                let (a, b) = (number * 7 % ROWS + 1, number * 13 % ROWS + 1);
                let moved = format!(
                    "START TRANSACTION; UPDATE shop.a SET v = v - 1 WHERE id = {a}; UPDATE shop.b \
                     SET v = v + 1 WHERE id = {b}; INSERT INTO shop.moved VALUES ({number}); \
                     COMMIT;\n"
                );
                if orders.write_all(moved.as_bytes()).is_err() {
                    break;
                }
            }
        });
        Ok(Self(child))
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
    tell.begin("starting a server of MariaDB and filling it");
    // The user of the server must come through, and read nothing on the way.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
    let (place, data) = (dir.join("server"), dir.join("server-data"));
    OwnServer::install(&place, &data)
        .context("a real server is tried: install mariadb-server and mariadb-backup")?;
    let mut server = start(&place, &data)?;
    for statement in FILL {
        server.ask(statement)?;
    }
    let word: [u8; 12] = strongroom_certs::secret::random()?;
    let word: String = word.iter().map(|byte| format!("{byte:02x}")).collect();
    server.ask(&format!("CREATE USER strongroom@localhost IDENTIFIED BY '{word}'"))?;
    let rights = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR";
    server.ask(&format!("GRANT {rights} ON *.* TO strongroom@localhost"))?;
    let password = dir.join("password");
    fs::write(&password, word)?;
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
    let mut lab = Lab::raise(dir, &data, tell)?;
    WORKLOAD.clone_into(&mut lab.watched);
    for secret in ["passphrase", "recovery-key"] {
        fs::set_permissions(dir.join(secret), fs::Permissions::from_mode(0o600))?;
    }
    lab.apply_text(tell, &policy(dir, &server.socket(), &password)?)?;
    let load = Load::on(&server)?;
    lab.protect(tell, "protect the server under load", WORKLOAD)?;
    drop(load);
    let before = server.ask(MOVED)?;
    lab.protect(tell, "protect it again", WORKLOAD)?;
    lab.await_copy(tell, "secondary snap at site b, read back", "secondary", "readable")?;
    lab.await_copy(tell, "aux copy on media, read back", "tape", "hash-verified")?;
    server.stop()?;
    drop(server);
    let mut server = put_back(&mut lab, (&place, &data), &before, tell)?;
    prove(&mut lab, tell, "prove the primary snap", &["--from", "a"])?;
    lab.lose_site_a(tell)?;
    prove(&mut lab, tell, "site a lost: prove the secondary", &["--from", "b"])?;
    let media = lab.lose_site_b(tell)?.to_string_lossy().into_owned();
    let key = dir.join("recovery-key").to_string_lossy().into_owned();
    let how = ["--media", media.as_str(), "--recovery-key-file", key.as_str()];
    prove(&mut lab, tell, "both sites lost: prove media alone", &how)?;
    lab.put_back()?;
    tell.begin("stopping the server");
    server.stop()?;
    Ok(lab)
}

fn start(place: &Path, data: &Path) -> anyhow::Result<OwnServer> {
    let options = ["--log-bin=bin", "--server-id=7"].map(str::to_owned);
    Ok(OwnServer::start(place, data, &options, PATIENCE)?)
}

/// The data directory is gone; the server runs again on what the newest point has of it.
fn put_back(
    lab: &mut Lab,
    (place, data): (&Path, &Path),
    before: &str,
    tell: &Telling,
) -> anyhow::Result<OwnServer> {
    fs::remove_dir_all(data)?;
    tell.begin("the data directory is destroyed: putting it back");
    let began = Instant::now();
    let to = data.to_string_lossy().into_owned();
    let words = ["mariadb", "restore", "latest:shop@host1", "--to", &to, "--from", "a"];
    let report = lab.tool.json(&words)?;
    let server = start(place, data)?;
    let (after, agree) = (server.ask(MOVED)?, server.ask(SUM)?);
    let whole = report["problems"].as_array().is_some_and(Vec::is_empty);
    let right = after == before && agree == "1" && whole;
    lab.differences += u64::from(!right);
    lab.rows.push(Row {
        covered_bytes: report["bytes_written"].as_u64(),
        stored_bytes: report["bytes_written"].as_u64(),
        proof: match right {
            true => format!("all {after} transactions, sums agree"),
            false => format!("DIFFERS: {after} transactions of {before}, sums agree: {agree}"),
        },
        ..Row::new("destroyed, put back, running again", began.elapsed())
    });
    Ok(server)
}

fn prove(lab: &mut Lab, tell: &Telling, stage: &str, how: &[&str]) -> anyhow::Result<()> {
    tell.begin(stage);
    let began = Instant::now();
    let point = lab.point.clone();
    let mut words = vec!["mariadb", "prove", &point, "--query", SUM];
    words.extend_from_slice(how);
    let proof = lab.tool.json(&words)?;
    let checks = proof["checks"].as_array().cloned().unwrap_or_default();
    if checks.is_empty() {
        bail!("nothing was checked");
    }
    let failed = checks.iter().filter(|check| check["passed"] != true).count();
    let agrees =
        checks.iter().any(|check| check["what"] == format!("query {SUM}") && check["said"] == "1");
    lab.differences += u64::from(failed > 0 || !agrees);
    lab.rows.push(Row {
        covered_bytes: proof["bytes_written"].as_u64(),
        stored_bytes: proof["bytes_written"].as_u64(),
        proof: match (failed, agrees) {
            (0, true) => format!("started, {} checks passed", checks.len()),
            _ => format!("DIFFERS: {failed} checks failed, sums agree: {agrees}"),
        },
        ..Row::new(stage, began.elapsed())
    });
    Ok(())
}

/// The lab's policy with this workload in the place of the trees.
fn policy(dir: &Path, socket: &Path, password: &Path) -> anyhow::Result<String> {
    let whole = super::policy::text(dir, dir)?;
    let head = whole.split("[workload.").next().unwrap_or_default();
    let head = head.replace("require = \"fuzzy\"", "require = \"application\"");
    let quoted = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned());
    Ok(format!(
        "{head}[workload.\"{WORKLOAD}\"]\nagent = \"host1\"\nkind = \"mariadb\"\n\
         policy = \"standard\"\nhost = {}\npassword_file = {}\n",
        quoted(socket),
        quoted(password),
    ))
}
