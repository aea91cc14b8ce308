//! A real server of the campaign's own, with load: killed and started again like everything
//! else.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// Where Debian puts the programs of a version; the newest is taken.
const FOLDER: &str = "/usr/lib/postgresql";
/// The user that runs servers.
const USER: &str = "postgres";
/// What a role needs that makes points.
const RIGHTS: &str = "CREATE ROLE strongroom LOGIN REPLICATION; \
                      GRANT pg_read_all_settings TO strongroom; \
                      GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO strongroom; \
                      GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO strongroom";

/// A cluster and its server.
pub(crate) struct Server {
    bin: PathBuf,
    owner: Option<(u32, u32)>,
    /// Its socket, its log, and what else the user of the server writes.
    pub(crate) place: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) port: u16,
}

impl Server {
    /// Makes a cluster with checksums, starts it and fills it with pgbench's tables.
    pub(crate) fn make(place: &Path, port: u16, scale: u32) -> Result<Self> {
        let newest = fs::read_dir(FOLDER).into_iter().flatten().flatten();
        let newest = newest.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let major = newest.max().context("no server of PostgreSQL is installed")?;
        let bin = Path::new(FOLDER).join(major.to_string()).join("bin");
        fs::create_dir_all(place)?;
        let owner = if rustix::process::geteuid().is_root() { Some(user()?) } else { None };
        if let Some((user, group)) = owner {
            chown(place, Some(user), Some(group))?;
            fs::set_permissions(place, fs::Permissions::from_mode(0o755))?;
        }
        let (place, data) = (place.to_owned(), place.join("data"));
        let server = Self { bin, owner, place, data, port };
        let data = server.data.display().to_string();
        must(&mut server.program(&["initdb", "-D", &data, "-U", USER, "-A", "trust", "-k"]))?;
        let config = server.data.join("postgresql.conf");
        let text = fs::read_to_string(&config)?;
        let own = format!(
            "port = {port}\nunix_socket_directories = '{}'\nlisten_addresses = ''\n\
             shared_buffers = '128MB'\nmax_wal_size = '256MB'\ncheckpoint_timeout = '60s'\n",
            server.place.display()
        );
        fs::write(config, text + &own)?;
        server.start()?;
        must(&mut server.client(&["pgbench", "-i", "-q", "-s", &scale.to_string()]))?;
        server.ask(RIGHTS)?;
        Ok(server)
    }

    /// A standby of `primary`, following it by streaming.
    pub(crate) fn follow(primary: &Self, place: &Path, port: u16) -> Result<Self> {
        fs::create_dir_all(place)?;
        if let Some((user, group)) = primary.owner {
            chown(place, Some(user), Some(group))?;
            fs::set_permissions(place, fs::Permissions::from_mode(0o755))?;
        }
        let (place, data) = (place.to_owned(), place.join("data"));
        let server = Self { bin: primary.bin.clone(), owner: primary.owner, place, data, port };
        let to = server.data.display().to_string();
        must(&mut primary.client(&["pg_basebackup", "-c", "fast", "-R", "-D", &to]))?;
        let config = server.data.join("postgresql.conf");
        let text = fs::read_to_string(&config)?;
        let own =
            format!("port = {port}\nunix_socket_directories = '{}'\n", server.place.display());
        fs::write(config, text + &own)?;
        server.start()?;
        Ok(server)
    }

    /// A program as the user of the server.
    pub(crate) fn program(&self, words: &[&str]) -> Command {
        let (program, rest) = words.split_first().unwrap_or((&"false", &[]));
        let mut command = Command::new(self.bin.join(program));
        command.args(rest).current_dir(&self.place).stdin(Stdio::null());
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }

    /// A client program against the server.
    pub(crate) fn client(&self, words: &[&str]) -> Command {
        let (socket, port) = (self.place.display().to_string(), self.port.to_string());
        let (program, rest) = words.split_first().unwrap_or((&"false", &[]));
        let mut all = vec![*program, "-h", &socket, "-p", &port, "-U", USER];
        all.extend(rest);
        self.program(&all)
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&self) -> Result<()> {
        let data = self.data.display().to_string();
        let log = self.place.join("server.log").display().to_string();
        let words = ["pg_ctl", "start", "-w", "-t", "300", "-D", &data, "-l", &log];
        let mut command = self.program(&words);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if !status.success() {
            bail!("the server did not start; see {log}");
        }
        Ok(())
    }

    /// SIGKILL of the postmaster, and a start when all its processes have gone.
    pub(crate) fn kill(&self) -> Result<()> {
        let pid = fs::read_to_string(self.data.join("postmaster.pid"))?;
        let pid = pid.lines().next().and_then(|line| line.trim().parse().ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw).context("no process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        let started = std::time::Instant::now();
        while self.start().is_err() {
            if started.elapsed().as_secs() > 60 {
                bail!("the server does not start again");
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        Ok(())
    }

    /// Asks a question.
    pub(crate) fn ask(&self, question: &str) -> Result<String> {
        let words = ["psql", "-d", USER, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", question];
        let output = self.client(&words).output()?;
        if !output.status.success() {
            bail!("{question}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Load by pgbench for so long at most; each transaction's time goes into files whose names
    /// begin with `log`.
    pub(crate) fn load(&self, seconds: u64, log: &str) -> Result<Load> {
        let (seconds, prefix) = (seconds.to_string(), format!("--log-prefix={log}"));
        let words = ["pgbench", "-n", "-c", "4", "-T", &seconds, "-l", &prefix, "postgres"];
        let mut command = self.client(&words);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Load(child))
    }

    /// The slowest transaction of a load and how many there were, from its files.
    pub(crate) fn slowest(&self, log: &str) -> Result<(f64, usize)> {
        let (mut slowest, mut count) = (0_u64, 0);
        for entry in fs::read_dir(&self.place)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(log) {
                continue;
            }
            for line in fs::read_to_string(entry.path())?.lines() {
                let micros = line.split(' ').nth(2).and_then(|word| word.parse().ok());
                slowest = slowest.max(micros.unwrap_or_default());
                count += 1;
            }
        }
        Ok((slowest as f64 / 1000.0, count))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data.display().to_string();
        let mut stop = self.program(&["pg_ctl", "stop", "-D", &data, "-m", "immediate"]);
        // On the way out; it may have ended.
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Load under way; ended when dropped.
pub(crate) struct Load(Child);

impl Load {
    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn must(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn user() -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut numbers = line.unwrap_or_default().split(':').skip(2).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Ok((user, group)),
        _ => bail!("there is no user postgres"),
    }
}
