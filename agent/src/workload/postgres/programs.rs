//! The programs of PostgreSQL on this host, run as the user the files belong to; and a cluster
//! of its own to try things on, for the lab and for tests.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where packages put the programs of a version.
const FOLDERS: [&str; 3] = ["/usr/lib/postgresql/MAJOR/bin", "/usr/pgsql-MAJOR/bin", "/usr/bin"];
/// Versions looked for, newest first.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;
/// The user that runs servers where packages are installed.
const USER: &str = "postgres";
/// How long a server may take to start or stop, in seconds.
const PATIENCE: &str = "120";

/// The programs of one version, run as one user.
#[derive(Debug, Clone)]
pub struct Programs {
    pub folder: PathBuf,
    /// Whom they run as, where that is not this process's user: no server runs as root.
    pub owner: Option<(u32, u32)>,
}

impl Programs {
    /// Those of a version, or of the newest here; `named` is the folder they must be in.
    pub fn find(major: Option<u32>, named: Option<&Path>) -> Option<Self> {
        let majors: Vec<u32> = match major {
            Some(major) => vec![major],
            None => MAJORS.rev().collect(),
        };
        let usual = majors.iter().flat_map(|major| {
            FOLDERS.map(|folder| PathBuf::from(folder.replace("MAJOR", &major.to_string())))
        });
        let among: Vec<PathBuf> = match named {
            Some(folder) => vec![folder.to_owned()],
            None => usual.collect(),
        };
        let folder = among.into_iter().find(|folder| folder.join("pg_ctl").is_file())?;
        Some(Self { folder, owner: None })
    }

    /// Whether there is a program of this name.
    pub fn has(&self, program: &str) -> bool {
        self.folder.join(program).is_file()
    }

    /// A program with its arguments.
    pub fn command(&self, words: &[&str]) -> Command {
        let (program, arguments) = words.split_first().unwrap_or((&"false", &[]));
        let mut command = Command::new(self.folder.join(program));
        command.args(arguments).stdin(Stdio::null()).current_dir("/");
        command.env_remove("PGDATA").env_remove("PGSERVICE").env_remove("PGOPTIONS");
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }

    /// Runs a program that must succeed; what it printed.
    ///
    /// # Errors
    /// It did not, with its last words.
    pub fn text(&self, words: &[&str]) -> io::Result<String> {
        let output = self.command(words).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => {
                let said = String::from_utf8_lossy(&output.stderr);
                let program = words.first().copied().unwrap_or_default();
                Err(io::Error::other(format!("{program}: {}", said.trim())))
            }
        }
    }
}

/// A cluster of its own.
#[derive(Debug)]
pub struct OwnCluster {
    pub programs: Programs,
    /// Its socket and its log.
    pub place: PathBuf,
    pub data: PathBuf,
    pub port: u16,
}

impl OwnCluster {
    /// Makes one below `place`, with checksums and these settings; it does not run yet.
    ///
    /// # Errors
    /// No programs are here, or they refuse.
    pub fn make(place: &Path, port: u16, settings: &[&str]) -> io::Result<Self> {
        let cluster = Self::over(place, &place.join("data"), port)?;
        let data = cluster.data.display().to_string();
        let words = ["initdb", "-D", &data, "-U", USER, "-A", "trust", "-k", "-N", "-E", "UTF8"];
        cluster.programs.text(&words)?;
        let mut lines = vec![
            format!("port = {port}"),
            format!("unix_socket_directories = '{}'", place.display()),
            "listen_addresses = ''".to_owned(),
        ];
        lines.extend(settings.iter().map(|line| (*line).to_owned()));
        let config = cluster.data.join("postgresql.conf");
        let mut text = fs::read_to_string(&config)?;
        text.push_str(&(lines.join("\n") + "\n"));
        fs::write(config, text)?;
        Ok(cluster)
    }

    /// A cluster that lies in `data` already.
    ///
    /// # Errors
    /// No programs are here.
    pub fn over(place: &Path, data: &Path, port: u16) -> io::Result<Self> {
        let found = Programs::find(None, None);
        let mut programs = found.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no programs of PostgreSQL (postgresql)")
        })?;
        fs::create_dir_all(place)?;
        if rustix::process::geteuid().is_root() {
            let owner = user()?;
            programs.owner = Some(owner);
            std::os::unix::fs::chown(place, Some(owner.0), Some(owner.1))?;
            fs::set_permissions(place, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { programs, place: place.to_owned(), data: data.to_owned(), port })
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not start; its log is in `place`.
    pub fn start(&self) -> io::Result<()> {
        let (data, log) = (self.data.display().to_string(), self.log().display().to_string());
        let words = ["pg_ctl", "start", "-w", "-t", PATIENCE, "-D", &data, "-l", &log];
        let mut command = self.programs.command(&words);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        match status.success() {
            true => Ok(()),
            false => {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(8).collect();
                Err(io::Error::other(format!("the server did not start: {}", last.join(" | "))))
            }
        }
    }

    /// Stops it, in the way pg_ctl calls `mode`.
    ///
    /// # Errors
    /// It does not run, or does not stop.
    pub fn stop(&self, mode: &str) -> io::Result<()> {
        let data = self.data.display().to_string();
        let words = ["pg_ctl", "stop", "-w", "-t", PATIENCE, "-D", &data, "-m", mode];
        self.programs.text(&words).map(drop)
    }

    /// What the server said.
    pub fn log(&self) -> PathBuf {
        self.place.join("server.log")
    }

    /// A client program against it, as its superuser.
    pub fn client(&self, words: &[&str]) -> Command {
        let (socket, port) = (self.place.display().to_string(), self.port.to_string());
        let (program, rest) = words.split_first().unwrap_or((&"false", &[]));
        let mut all = vec![*program, "-h", &socket, "-p", &port, "-U", USER];
        all.extend(rest);
        self.programs.command(&all)
    }

    /// Runs a client program that must succeed.
    ///
    /// # Errors
    /// It did not, with its last words.
    pub fn run(&self, words: &[&str]) -> io::Result<Output> {
        let output = self.client(words).output()?;
        match output.status.success() {
            true => Ok(output),
            false => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(io::Error::other(format!("{}: {}", words.join(" "), said.trim())))
            }
        }
    }

    /// Asks a question; rows as lines, columns with a bar between.
    ///
    /// # Errors
    /// It was not answered.
    pub fn ask(&self, question: &str) -> io::Result<String> {
        let words = ["psql", "-d", USER, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", question];
        let output = self.run(&words)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            // On the way out; it may have ended meanwhile.
            let _ = self.stop("immediate");
        }
    }
}

/// The numbers of the user that runs servers.
fn user() -> io::Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.split(':').next() == Some(USER));
    let mut words = line.unwrap_or_default().split(':').skip(2);
    let mut number = || words.next().and_then(|word| word.parse().ok());
    number()
        .zip(number())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no user postgres"))
}

/// The numbers of the owner of a cluster, if this process may become that user.
///
/// # Errors
/// The cluster is not there, or belongs to root.
pub fn owner_of(data: &Path) -> io::Result<Option<(u32, u32)>> {
    let meta = fs::metadata(data.join("PG_VERSION"))?;
    match (rustix::process::geteuid().is_root(), meta.uid()) {
        (false, _) => Ok(None),
        (true, 0) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the files belong to root, and no server runs as root",
        )),
        (true, uid) => Ok(Some((uid, meta.gid()))),
    }
}
