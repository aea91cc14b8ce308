//! A domain controller of Samba for the lab and for tests: provisioned anew, in a network
//! namespace of its own, gone with what holds it. Needs root and Debian's Samba; says what is
//! missing. The password is known to everybody: it is reached from this host alone.

mod people;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};

use crate::workload::directory::ldap::Server;

pub use people::{Shape, delete, fill};

/// The administrator's.
pub const PASSWORD: &str = "Passw0rd.123";
/// The domain's name in the directory.
pub const DOMAIN: &str = "DC=test,DC=lan";
/// What our namespaces begin with; the process that made one comes after it.
const PREFIX: &str = "srad-";
/// A domain controller that does not serve LDAPS by then never will.
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(5);
const LDAPS: u16 = 636;

/// Why there is no domain controller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SambaError {
    /// A program failed.
    #[error("`{command}` failed: {said}")]
    Failed { command: String, said: String },
    /// A program or a file.
    #[error("{what} (packages samba, samba-ad-dc, samba-ad-provision, winbind, iproute2)")]
    Missing { what: String, source: io::Error },
    /// It did not come up.
    #[error("the domain controller does not serve LDAPS; see {}", .log.display())]
    Silent { log: PathBuf },
}

/// Whether a change of the domain is on the disk before it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writes {
    /// As usual.
    Synced,
    /// Not: for tests, which no loss of power interests.
    Unsynced,
}

/// A domain controller; stopped when dropped.
#[derive(Debug)]
pub struct Controller {
    dir: PathBuf,
    namespace: String,
    address: Ipv4Addr,
    running: Option<Child>,
}

impl Controller {
    /// A new domain `test.lan` below `dir`, not running yet.
    ///
    /// # Errors
    /// Something is missing, or fails.
    pub fn provision(dir: &Path, host: &str, writes: Writes) -> Result<Self, SambaError> {
        let made = Self::apart(dir)?;
        let address = made.address.to_string();
        let state = dir.join("state");
        let options = [
            format!("ldb:nosync={}", if writes == Writes::Unsynced { "yes" } else { "no" }),
            "interfaces=lo eth0".to_owned(),
            "bind interfaces only=yes".to_owned(),
            // Nobody is there: a name that is unknown is known to be so at once.
            "dns forwarder=192.0.2.1".to_owned(),
            format!("posix:eadb={}", dir.join("private/eadb.tdb").display()),
            "vfs objects=dfs_samba4 acl_xattr xattr_tdb".to_owned(),
            format!("xattr_tdb:file={}", state.join("xattr.tdb").display()),
        ];
        let mut tool = Command::new("samba-tool");
        tool.args(["domain", "provision", "--realm=TEST.LAN", "--domain=TEST"]);
        tool.args(["--server-role=dc", "--dns-backend=SAMBA_INTERNAL"]);
        tool.arg(format!("--adminpass={PASSWORD}"));
        tool.arg(format!("--host-name={host}")).arg(format!("--host-ip={address}"));
        tool.arg("--targetdir").arg(dir);
        tool.args(options.map(|option| format!("--option={option}")));
        run(&mut tool)?;
        Ok(made)
    }

    /// A domain controller out of what `samba-tool domain backup` made, packed as it was.
    ///
    /// # Errors
    /// Something is missing, or fails.
    pub fn restore(dir: &Path, backup: &Path, host: &str) -> Result<Self, SambaError> {
        let made = Self::apart(dir)?;
        let mut tool = Command::new("samba-tool");
        tool.args(["domain", "backup", "restore"]);
        tool.arg("--backup-file").arg(backup).arg(format!("--newservername={host}"));
        tool.arg(format!("--host-ip={}", made.address)).arg("--targetdir").arg(dir);
        run(&mut tool)?;
        Ok(made)
    }

    /// A network of its own.
    fn apart(dir: &Path) -> Result<Self, SambaError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_left();
        let process = std::process::id();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = address(process, number);
        let [first, second, third, _] = address.octets();
        let namespace = format!("{PREFIX}{process}-{number}");
        let made = Self { dir: dir.to_owned(), namespace, address, running: None };
        let (ns, link) = (made.namespace.as_str(), made.link());
        let here = format!("{}/24", Ipv4Addr::new(first, second, third, 1));
        let there = format!("{address}/24");
        for words in [
            vec!["netns", "add", ns],
            vec!["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", ns],
            vec!["addr", "add", &here, "dev", &link],
            vec!["link", "set", &link, "up"],
            vec!["-n", ns, "link", "set", "lo", "up"],
            vec!["-n", ns, "addr", "add", &there, "dev", "eth0"],
            vec!["-n", ns, "link", "set", "eth0", "up"],
        ] {
            run(Command::new("ip").args(words))?;
        }
        let names = Path::new("/etc/netns").join(ns);
        let text = format!("nameserver {}\nsearch test.lan\n", made.address);
        fs::create_dir_all(&names)
            .and_then(|()| fs::write(names.join("resolv.conf"), text))
            .map_err(|source| missing("/etc/netns cannot be written", source))?;
        Ok(made)
    }

    fn link(&self) -> String {
        self.namespace.replace(PREFIX, "sra")
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// It does not.
    pub fn start(&mut self) -> Result<(), SambaError> {
        let log = self.dir.join("samba.log");
        let out =
            fs::File::create(&log).map_err(|source| missing("no log can be written", source))?;
        let both = out.try_clone().map_err(|source| missing("no log can be written", source))?;
        // A socket of winbind has its place compiled in: each gets a /run/samba of its own.
        let script = "mkdir -p /run/samba && mount -t tmpfs tmpfs /run/samba && \
                      exec samba -F --no-process-group -s \"$0\" --debug-stdout";
        let mut samba = Command::new("ip");
        samba.args(["netns", "exec", &self.namespace, "sh", "-c", script]).arg(self.config());
        samba.stdin(Stdio::null()).stdout(out).stderr(both).process_group(0);
        let child = samba.spawn().map_err(|source| missing("ip cannot be run", source))?;
        self.running = Some(child);
        let until = Instant::now() + START;
        while Instant::now() < until {
            if self.serves() && self.own_certificate().is_file() {
                return Ok(());
            }
            let ended = self.running.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(SambaError::Silent { log })
    }

    /// Stops it; [`Controller::start`] begins it again.
    pub fn stop(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let signal = |signal| group.is_some_and(|group| kill_process_group(group, signal).is_ok());
        signal(Signal::TERM);
        let until = Instant::now() + STOP;
        while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        signal(Signal::KILL);
        let _ = child.wait();
        // Its workers end a moment later: the next start is not to take them for its own.
        let until = Instant::now() + STOP;
        while Instant::now() < until && self.serves() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether somebody listens where it serves LDAPS.
    fn serves(&self) -> bool {
        let at = SocketAddr::from((self.address, LDAPS));
        TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok()
    }

    /// How its administrator reaches it, believing its own certificate.
    pub fn server(&self) -> Server {
        Server {
            url: self.url(),
            bind: "Administrator@test.lan".to_owned(),
            password: PASSWORD.to_owned(),
            ca_file: Some(self.own_certificate()),
        }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("ldaps://{}", self.address)
    }

    /// Its address.
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where its keys lie: what is there when it starts for the first time is used.
    pub fn tls(&self) -> PathBuf {
        self.dir.join("private/tls")
    }

    /// The certificate it made for itself.
    pub fn own_certificate(&self) -> PathBuf {
        self.tls().join("cert.pem")
    }

    /// Its `smb.conf`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("etc/smb.conf")
    }

    /// Where its files lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.stop();
        remove(&self.namespace);
    }
}

/// The address of the domain controller of this number that a process makes.
pub const fn address(process: u32, number: u32) -> Ipv4Addr {
    let place = process.wrapping_mul(4).wrapping_add(number) % (64 * 256);
    let [_, _, high, low] = place.to_be_bytes();
    Ipv4Addr::new(10, 100 + high, low, 2)
}

/// What a process that was killed left behind.
fn remove_left() {
    let listed = fs::read_dir("/etc/netns").into_iter().flatten().flatten();
    for entry in listed {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let process = process.and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
        if process.is_some_and(|process| test_kill_process(process).is_err()) {
            if let Ok(output) = Command::new("ip").args(["netns", "pids", &name]).output() {
                for line in String::from_utf8_lossy(&output.stdout).lines() {
                    let pid = line.trim().parse().ok().and_then(Pid::from_raw);
                    let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
                }
            }
            remove(&name);
        }
    }
}

fn remove(namespace: &str) {
    // The link goes with its other end.
    let _ = run(Command::new("ip").args(["netns", "del", namespace]));
    let _ = fs::remove_dir_all(Path::new("/etc/netns").join(namespace));
}

fn missing(what: &str, source: io::Error) -> SambaError {
    SambaError::Missing { what: what.to_owned(), source }
}

fn run(command: &mut Command) -> Result<(), SambaError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| missing(&format!("{program} cannot be run"), source))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = text.lines().rev().take(3).collect::<Vec<_>>().join(" | ");
    Err(SambaError::Failed { command: format!("{command:?}"), said })
}
