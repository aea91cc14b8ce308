//! Nodes of the lab: real processes of this very binary, each with its own directory, log
//! file and socket.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// A node that was told to stop is killed after this.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// A running node; stopped when dropped.
pub(crate) struct Node {
    name: String,
    child: Option<Child>,
    log: PathBuf,
}

impl Node {
    /// Starts `strongroom run ROLE HOME`, its output in `log`.
    pub(crate) fn start(role: &str, home: &Path, log: PathBuf) -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("cannot find this program's own file")?;
        let file = File::create(&log).with_context(|| format!("{}", log.display()))?;
        let mut command = Command::new(exe);
        command.arg("run").arg(role).arg(home);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start the {role}"))?;
        Ok(Self { name: role.to_owned(), child: Some(child), log })
    }

    /// Fails, with the end of its log, if the node is not running any more.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { bail!("the {} was stopped", self.name) };
        if let Some(status) = child.try_wait()? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let mut lines: Vec<&str> = log.lines().rev().take(5).collect();
            lines.reverse();
            bail!("the {} ended ({status}):\n  {}", self.name, lines.join("\n  "));
        }
        Ok(())
    }

    /// The process, for whoever wants to look at it.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Peak memory of the process so far, in bytes.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Leaves the process running when the lab ends.
    pub(crate) fn leave_running(mut self) -> Option<u32> {
        self.child.take().map(|child| child.id())
    }

    /// Asks it to stop and waits.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let until = Instant::now() + STOP_PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > until {
                child.kill()?;
                child.wait()?;
                bail!("the {} did not stop and was killed; see {}", self.name, self.log.display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Only on the way out after an error: that one is told.
        let _ = self.end();
    }
}

/// A free UDP address on the loopback interface.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    // Below the ports that the system gives to sockets that dial: a node that is started again
    // finds its own free.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let spread = std::process::id().wrapping_mul(7919).wrapping_add(number * 13);
        let port = u16::try_from(10_000 + spread % 10_000)?;
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(socket.local_addr()?);
        }
    }
    bail!("no free UDP port")
}
