//! Two sites of real processes for the campaigns: the `strongroom` program as its users have it,
//! nothing reached into. Every node can be killed and started again by its role.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bench::peak_bytes;
use crate::parts::{cargo, must, root};
use crate::relay::Relay;

/// Nothing is waited for longer: what takes more hangs.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The one workload.
pub(crate) const WORKLOAD: &str = "tree@host1";

/// The processes of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Role {
    Agent,
    Coordinator,
    Proxy,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Agent, Self::Coordinator, Self::Proxy];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Coordinator => "coordinator",
            Self::Proxy => "proxy",
        }
    }

    const fn home(self) -> &'static str {
        match self {
            Self::Agent => "a/agent",
            Self::Coordinator => "a/coordinator",
            Self::Proxy => "b/proxy",
        }
    }
}

/// Which build of the program is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    /// Builds the program and says where it is.
    pub(crate) fn build(self) -> Result<PathBuf> {
        let (mut command, folder) = match self {
            // As the test command builds it: another choice of packages builds much anew.
            Self::Dev => (cargo(&["build", "--locked", "--workspace", "--all-targets"]), "debug"),
            Self::Release => {
                let words = ["build", "--locked", "--release", "-p", "strongroom-cli"];
                (cargo(&words), "release")
            }
        };
        must(&mut command)?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        Ok(target.unwrap_or_else(|| root().join("target")).join(folder).join("strongroom"))
    }
}

/// How the nodes reach the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through a relay that counts bytes and is in the way of speed.
    Counted,
    Direct,
}

/// Two sites, their processes, and an operator.
pub(crate) struct Sites {
    pub(crate) dir: PathBuf,
    exe: PathBuf,
    /// Between the coordinator and everybody who dials it, where bytes are counted.
    relay: Option<Relay>,
    running: BTreeMap<Role, Child>,
    /// Agents beyond the first.
    more: Vec<Child>,
}

impl Sites {
    /// Makes an organisation in `dir`, starts its nodes, and protects `source` by hand only.
    pub(crate) fn raise(exe: &Path, dir: &Path, source: &Path, way: Way) -> Result<Self> {
        std::fs::create_dir_all(dir.join("logs"))?;
        let (coordinator, proxy) = (free_address()?, free_address()?.to_string());
        let relay = match way {
            Way::Counted => Some(Relay::start(coordinator)?),
            Way::Direct => None,
        };
        let listen = coordinator.to_string();
        let dialled = relay.as_ref().map_or(coordinator, Relay::address).to_string();
        // The program is copied: a build meanwhile must not change what is tested.
        let own = dir.join("strongroom");
        std::fs::copy(exe, &own).with_context(|| format!("{}", exe.display()))?;
        let mut sites = Self {
            dir: dir.to_owned(),
            exe: own,
            relay,
            running: BTreeMap::new(),
            more: Vec::new(),
        };
        let place = dir.to_string_lossy().into_owned();
        let mut order = vec!["init", &place, "--org", "lab", "--site", "a", "--dr-site", "b"];
        order.extend(["--listen", &listen, "--address", &dialled]);
        order.extend(["--dr-listen", &proxy, "--dr-address", &proxy]);
        sites.json(&order)?;
        sites.start(Role::Coordinator)?;
        sites.wait("the coordinator", |sites| Ok(sites.ask(&["status"]).is_ok()))?;
        for (role, name) in [(Role::Agent, "host1"), (Role::Proxy, "proxy")] {
            sites.enrol(role, name, &sites.home(role))?;
            sites.start(role)?;
        }
        sites.connected(2)?;
        sites.apply(&policy(source)?)?;
        Ok(sites)
    }

    fn enrol(&self, role: Role, name: &str, home: &Path) -> Result<()> {
        let made = self.ask(&["token", "create", role.as_str(), name])?;
        let token = made["text"].as_str().context("no token was printed")?;
        self.text(&["enrol", &home.to_string_lossy(), token])?;
        Ok(())
    }

    /// Waits until this many nodes are connected.
    pub(crate) fn connected(&mut self, count: usize) -> Result<()> {
        self.wait("the nodes", |sites| {
            let nodes = sites.ask(&["nodes"])?;
            let nodes = nodes.as_array().cloned().unwrap_or_default();
            Ok(nodes.iter().filter(|row| row["connected"] == true).count() >= count)
        })
    }

    /// Puts a policy file in force.
    pub(crate) fn apply(&self, policy: &str) -> Result<()> {
        let file = self.dir.join("policy.toml");
        std::fs::write(&file, policy)?;
        self.text(&["--site", "a", "policy", "apply", &file.to_string_lossy()])?;
        Ok(())
    }

    /// One more agent, on a host of this name.
    pub(crate) fn add_agent(&mut self, name: &str) -> Result<()> {
        let home = self.dir.join("a").join(name);
        self.enrol(Role::Agent, name, &home)?;
        self.more.push(self.launch(Role::Agent, &home, name)?);
        Ok(())
    }

    pub(crate) fn home(&self, role: Role) -> PathBuf {
        self.dir.join(role.home())
    }

    /// The repository of site a or b.
    pub(crate) fn repo(&self, role: Role) -> PathBuf {
        self.home(role).join("repo")
    }

    /// Starts a node; its log goes on where an earlier run's ended.
    pub(crate) fn start(&mut self, role: Role) -> Result<()> {
        let child = self.launch(role, &self.home(role), role.as_str())?;
        self.running.insert(role, child);
        Ok(())
    }

    fn launch(&self, role: Role, home: &Path, log: &str) -> Result<Child> {
        let log = self.dir.join("logs").join(format!("{log}.log"));
        let file: File = OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = Command::new(&self.exe);
        command.arg("run").arg(role.as_str()).arg(home);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        command.spawn().with_context(|| format!("the {}", role.as_str()))
    }

    /// SIGKILL, and nothing else.
    pub(crate) fn kill(&mut self, role: Role) -> Result<()> {
        if let Some(mut child) = self.running.remove(&role) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// The process of a node.
    pub(crate) fn pid(&self, role: Role) -> Result<u32> {
        Ok(self.running.get(&role).context("not running")?.id())
    }

    /// Peak memory of a node so far, in bytes.
    pub(crate) fn peak_bytes(&self, role: Role) -> Result<u64> {
        peak_bytes(self.pid(role)?)
    }

    /// Counts what the coordinator says and hears.
    pub(crate) fn relay(&self) -> Result<&Relay> {
        self.relay.as_ref().context("the sites were raised without a relay")
    }

    /// A node that ended by itself is a failure.
    pub(crate) fn check(&mut self) -> Result<()> {
        for (role, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                bail!("the {} ended by itself ({status})", role.as_str());
            }
        }
        Ok(())
    }

    /// The program as the operator runs it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_as(&self.dir.join("operator"), arguments)
    }

    /// A command of another operator.
    pub(crate) fn command_as(&self, home: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.exe);
        command.arg("--home").arg(home).args(arguments);
        command.env("STRONGROOM_PASSPHRASE", "a passphrase of the campaign").stdin(Stdio::null());
        command
    }

    /// Runs the program as the operator.
    pub(crate) fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().context("cannot run the program")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`strongroom {}` failed: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["--json"];
        all.extend_from_slice(arguments);
        let text = self.text(&all)?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {}", all.join(" ")))
    }

    /// Asks site a.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["--site", "a"];
        all.extend_from_slice(arguments);
        self.json(&all)
    }

    /// Orders a point; returns the job.
    pub(crate) fn protect(&self) -> Result<String> {
        self.protect_one(WORKLOAD)
    }

    /// Orders a point of a workload; returns the job.
    pub(crate) fn protect_one(&self, workload: &str) -> Result<String> {
        let job = self.ask(&["protect", workload])?;
        Ok(job["id"].as_str().context("no job was started")?.to_owned())
    }

    /// The job as it is now.
    pub(crate) fn job(&self, id: &str) -> Result<Value> {
        Ok(self.ask(&["jobs", "show", id])?["job"].clone())
    }

    /// The newest point, with its copies.
    pub(crate) fn latest(&self) -> Result<Value> {
        let points = self.ask(&["points", WORKLOAD])?;
        points.as_array().and_then(|points| points.first()).cloned().context("there is no point")
    }

    /// Waits for a job's end, also while the coordinator does not answer; it must succeed.
    pub(crate) fn finished(&mut self, id: &str) -> Result<Value> {
        let mut last = Value::Null;
        self.wait(&format!("the end of job {id}"), |sites| {
            last = sites.job(id).unwrap_or_default();
            Ok(!last["ended"].is_null())
        })?;
        if last["state"] != "succeeded" {
            bail!("job {id} ended {}: {}", last["state"], last["detail"]);
        }
        Ok(last)
    }

    /// Waits until the newest point is at the other site; its row then.
    pub(crate) fn replicated(&mut self, proof: Option<&str>) -> Result<Value> {
        let mut row = Value::Null;
        self.wait("the secondary snap", |sites| {
            row = sites.latest().map(|point| copy_of(&point, "secondary")).unwrap_or_default();
            Ok(row["state"] == "present" && proof.is_none_or(|proof| row["proof"] == proof))
        })?;
        Ok(row)
    }

    /// Looks until it is so.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !look(self)? {
            self.check()?;
            if Instant::now() > until {
                bail!("{what} did not come within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        for child in self.running.values_mut().chain(&mut self.more) {
            // On the way out; one that is gone already is gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The row of one copy of a point.
pub(crate) fn copy_of(point: &Value, copy: &str) -> Value {
    let copies = point["copies"].as_array().cloned().unwrap_or_default();
    copies.into_iter().find(|row| row["copy"] == copy).unwrap_or_default()
}

fn free_address() -> Result<SocketAddr> {
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

fn policy(source: &Path) -> Result<String> {
    let path = source.to_str().context("a path that TOML cannot hold")?;
    Ok(format!(
        r#"[policy.standard]
timezone = "Europe/London"
require = "fuzzy"
[policy.standard.primary]
keep = {{ newest = 1000 }}
[policy.standard.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "proxy"
keep = {{ newest = 1000 }}
[workload."{WORKLOAD}"]
agent = "host1"
kind = "files"
path = "{path}"
policy = "standard"
"#
    ))
}
