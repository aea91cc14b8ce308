//! A server of its own over a data directory, run as the user its files belong to, reached by
//! nobody but through its socket: to prove a point on, for the lab and for tests.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Where packages put the server.
const SERVERS: [&str; 3] = ["/usr/sbin/mariadbd", "/usr/bin/mariadbd", "/usr/libexec/mariadbd"];
/// Makes the files of a new server.
const INSTALLER: &str = "mariadb-install-db";
/// The account that packages make for the server.
const ACCOUNT: &str = "mysql";
/// How long between two looks whether it is up or gone.
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take to stop in order.
const STOP_MAX: Duration = Duration::from_secs(60);
/// Lines of a log that are told.
const LINES_TOLD: usize = 8;

/// A running server.
#[derive(Debug)]
pub struct OwnServer {
    /// Its socket and its log.
    pub place: PathBuf,
    pub data: PathBuf,
    child: Child,
}

/// Whom the files in `data` belong to, if this process has to become that user.
///
/// # Errors
/// There is no such directory.
pub fn owner_of(data: &Path) -> io::Result<Option<(u32, u32)>> {
    let meta = fs::metadata(data)?;
    Ok(rustix::process::geteuid().is_root().then_some((meta.uid(), meta.gid())))
}

/// A program as the user that the files in `data` belong to.
///
/// # Errors
/// There is no such directory.
pub fn as_owner(program: &Path, data: &Path) -> io::Result<Command> {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).current_dir("/");
    if let Some((user, group)) = owner_of(data)? {
        command.uid(user).gid(group);
    }
    Ok(command)
}

fn done(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{program}: {error}"));
    let output = command.stdin(Stdio::null()).output().map_err(named)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = [output.stdout, output.stderr].concat();
            let said = last_words(&String::from_utf8_lossy(&said));
            Err(io::Error::other(format!("{program}: {said}")))
        }
    }
}

/// The last words of a program.
pub fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(LINES_TOLD)..).unwrap_or_default().join(" | ")
}

impl OwnServer {
    /// Makes the files of a new server in `data`, and `place` for its socket; both are made, and
    /// are the account's that packages make where this process may give them away.
    ///
    /// # Errors
    /// No server is installed, or one of them is there already.
    pub fn install(place: &Path, data: &Path) -> io::Result<()> {
        for dir in [place, data] {
            fs::create_dir(dir)?;
            if rustix::process::geteuid().is_root() {
                done(Command::new("chown").arg(format!("{ACCOUNT}:{ACCOUNT}")).arg(dir))?;
            }
        }
        let mut install = as_owner(Path::new(INSTALLER), data)?;
        // Several servers in one directory for temporary tables take one another's.
        install.env("TMPDIR", place).arg("--no-defaults");
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        done(install.arg(format!("--datadir={}", data.display())))
    }

    /// Starts a server over `data` with its socket in `place`, and waits until it answers.
    ///
    /// # Errors
    /// No server is installed, or it ends before it answers: its last words.
    pub fn start(
        place: &Path,
        data: &Path,
        options: &[String],
        patience: Duration,
    ) -> io::Result<Self> {
        let program = SERVERS.iter().map(Path::new).find(|path| path.is_file());
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no mariadbd is on this host");
        let mut command = as_owner(program.ok_or_else(missing)?, data)?;
        if let Some((user, group)) = owner_of(data)? {
            std::os::unix::fs::chown(place, Some(user), Some(group))?;
        }
        let log = File::create(place.join("server.log"))?;
        let path = |name: &str, of: &Path| format!("--{name}={}", of.display());
        command.arg("--no-defaults").args([
            path("datadir", data),
            path("socket", &place.join("s.sock")),
            path("pid-file", &place.join("server.pid")),
            path("tmpdir", place),
            "--skip-networking".to_owned(),
            "--skip-slave-start".to_owned(),
        ]);
        command.args(options).stdout(log.try_clone()?).stderr(log);
        let mut server =
            Self { place: place.to_owned(), data: data.to_owned(), child: command.spawn()? };
        let until = Instant::now() + patience;
        loop {
            if server.client("mariadb-admin", &["ping"])?.status.success() {
                return Ok(server);
            }
            let ended = server.child.try_wait()?.is_some();
            if ended || Instant::now() > until {
                let log = fs::read_to_string(place.join("server.log")).unwrap_or_default();
                let said = last_words(&log);
                return Err(io::Error::other(format!("the server did not come up: {said}")));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.place.join("s.sock")
    }

    /// Runs a client program against it.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn client(&self, program: &str, words: &[&str]) -> io::Result<Output> {
        let socket = format!("--socket={}", self.socket().display());
        let mut command = Command::new(program);
        command.args(["--no-defaults", "--user=root", &socket]).args(words);
        command.stdin(Stdio::null()).output()
    }

    /// Asks a question; rows as lines, columns with tabs between.
    ///
    /// # Errors
    /// It was not answered.
    pub fn ask(&self, question: &str) -> io::Result<String> {
        let output = self.client("mariadb", &["-N", "-B", "-e", question])?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
            false => Err(io::Error::other(last_words(&String::from_utf8_lossy(&output.stderr)))),
        }
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// It does not stop in time.
    pub fn stop(&mut self) -> io::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let until = Instant::now() + STOP_MAX;
        while Instant::now() < until {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not stop"))
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // On the way out; it may have ended meanwhile.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
