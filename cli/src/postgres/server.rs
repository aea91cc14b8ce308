//! A scratch server of our own over a restored cluster: on a private socket, with a
//! configuration of its own, as the user the files belong to; stopped and gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use strongroom_agent::workload::postgres::about::ClusterPoint;
use strongroom_agent::workload::postgres::programs::{Programs, owner_of};

use super::recovery::put;
use crate::failure::{Failure, While};

/// Where servers of packages listen.
const PORT: &str = "5432";
/// The settings of the cluster that its recovery needs as they were.
const NEEDED: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];
/// Lines of a program's last words.
const LINES_TOLD: usize = 6;

/// The programs of a point's version, run as the owner of its files; `named` is where a person
/// says they are.
pub(crate) fn programs(major: u32, named: Option<&Path>, data: &Path) -> Result<Programs, Failure> {
    let found = Programs::find(Some(major), named).ok_or_else(|| {
        Failure::new(format!("the programs of PostgreSQL {major} are not here"))
            .hint("install them on this host, or name their folder with --bin DIR")
    })?;
    let owner = owner_of(data).doing(format!("cannot start a server on {}", data.display()))?;
    let programs = Programs { owner, ..found };
    let said = programs.text(&["postgres", "--version"])?;
    let number = |word: &str| word.split('.').next()?.parse::<u32>().ok();
    let its = said.split_whitespace().find_map(number);
    match its {
        Some(version) if version == major => Ok(programs),
        _ => Err(Failure::new(format!("{} is not of version {major}", said.trim()))
            .hint("name the folder of the right one with --bin DIR")),
    }
}

/// The last words of a program.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(LINES_TOLD)..).unwrap_or_default().join("\n  ")
}

/// A running scratch server.
pub(crate) struct Scratch {
    programs: Programs,
    data: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    superuser: String,
    runs: bool,
}

impl Scratch {
    /// Starts a server over `data`, and waits until it has recovered and takes writes. `place`
    /// is a directory of the same owner for its socket, its configuration and its log.
    pub(crate) fn start(
        programs: &Programs,
        data: &Path,
        place: &Path,
        point: &ClusterPoint,
        (superuser, patience): (&str, Duration),
    ) -> Result<Self, Failure> {
        let (config, log) = (place.join("postgresql.conf"), place.join("server.log"));
        fs::write(place.join("hba.conf"), "local all all trust\n")?;
        fs::write(place.join("ident.conf"), "")?;
        fs::write(&config, configuration(place, point))?;
        // What the cluster was told by ALTER SYSTEM is for its own host.
        let auto = data.join("postgresql.auto.conf");
        let text = fs::read_to_string(&auto).unwrap_or_default();
        let ours = text.find("# Written by `strongroom").unwrap_or(text.len());
        put(&auto, text.get(ours..).unwrap_or_default())?;
        let server = Self {
            programs: programs.clone(),
            data: data.to_owned(),
            socket: place.to_owned(),
            log,
            superuser: superuser.to_owned(),
            runs: true,
        };
        let (data, log) = (server.data.display().to_string(), server.log.display().to_string());
        let option = format!("-c config_file={}", quoted(&config));
        let seconds = patience.as_secs().to_string();
        let words =
            ["pg_ctl", "start", "--wait", "-D", &data, "-l", &log, "-o", &option, "-t", &seconds];
        let started = programs.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !started.doing("cannot run pg_ctl")?.success() {
            return Err(server.failed("the server did not start from the restored cluster"));
        }
        let until = Instant::now() + patience;
        loop {
            let said = server.query("postgres", "SELECT pg_is_in_recovery()");
            match said {
                Ok(said) if said.trim() == "f" => return Ok(server),
                _ if !server.data.join("postmaster.pid").exists() => {
                    return Err(server.failed("the server ended during its recovery"));
                }
                _ if Instant::now() > until => {
                    return Err(server.failed("the recovery did not end in time"));
                }
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn failed(&self, what: &str) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Failure::new(format!("{what}; it said:\n  {}", last_lines(&log)))
    }

    /// Where it listens, as words for its clients.
    fn address(&self) -> [String; 6] {
        let socket = self.socket.display().to_string();
        ["-h", &socket, "-p", PORT, "-U", &self.superuser].map(str::to_owned)
    }

    /// A client program against it as its superuser.
    pub(crate) fn command(&self, program: &str, words: &[&str]) -> Command {
        let address = self.address();
        let mut all = vec![program];
        all.extend(address.iter().map(String::as_str));
        all.extend(words);
        self.programs.command(&all)
    }

    /// Runs a client program against it as its superuser.
    pub(crate) fn client(&self, program: &str, words: &[&str]) -> Result<Output, Failure> {
        self.command(program, words).output().doing(format!("cannot run {program}"))
    }

    /// Asks a question; rows as lines, columns with a bar between.
    pub(crate) fn query(&self, database: &str, question: &str) -> Result<String, Failure> {
        let words = ["-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", question];
        let output = self.client("psql", &words)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => {
                let said = last_lines(&String::from_utf8_lossy(&output.stderr));
                Err(Failure::new(format!("the question was not answered: {said}")))
            }
        }
    }

    /// Stops it in order.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        self.end("fast")
    }

    fn end(&mut self, mode: &str) -> Result<(), Failure> {
        if !std::mem::take(&mut self.runs) {
            return Ok(());
        }
        let data = self.data.display().to_string();
        let words = ["pg_ctl", "stop", "--wait", "-D", &data, "-m", mode];
        Ok(self.programs.text(&words).map(drop)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have started.
        let _ = self.end("immediate");
    }
}

/// A configuration of our own: nothing of the cluster's host is needed, nobody else reaches it,
/// and it sends nothing anywhere.
fn configuration(place: &Path, point: &ClusterPoint) -> String {
    let file = |name: &str| quoted(&place.join(name));
    let mut lines = vec![
        format!("hba_file = {}", file("hba.conf")),
        format!("ident_file = {}", file("ident.conf")),
        format!("unix_socket_directories = {}", quoted(place)),
        format!("port = {PORT}"),
        "listen_addresses = ''".to_owned(),
        "unix_socket_permissions = 0700".to_owned(),
        "archive_mode = off".to_owned(),
        "shared_buffers = '64MB'".to_owned(),
        "fsync = off".to_owned(),
        "autovacuum = off".to_owned(),
        "logging_collector = off".to_owned(),
        "log_min_messages = warning".to_owned(),
    ];
    for name in NEEDED {
        if let Some(value) = point.settings.get(name) {
            lines.push(format!("{name} = {value}"));
        }
    }
    lines.join("\n") + "\n"
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "''"))
}
