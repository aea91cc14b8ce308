//! The Docker engine as the lab uses it: one project of docker-compose, its containers by the
//! service they are, and the link between the sites, which can be narrowed and unplugged.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::parts::root;

/// Nothing is waited for longer: what takes more hangs.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(100);
/// The image of every container.
pub(super) const IMAGE: &str = "strongroom:lab";

/// A node of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Agent,
    Coordinator,
    Proxy,
}

impl Place {
    /// Its service in `docker-compose.yml`.
    pub(super) const fn service(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Coordinator => "coordinator",
            Self::Proxy => "proxy",
        }
    }
}

/// An engine that runs, and what speaks to it for whole projects.
pub(super) struct Engine {
    /// `docker compose`, or the older `docker-compose`.
    compose: Vec<&'static str>,
}

impl Engine {
    /// # Errors
    /// No engine answers, or there is nothing that reads `docker-compose.yml`.
    pub(super) fn find() -> Result<Self> {
        said(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]))?;
        let ways: [&[&'static str]; 2] = [&["docker", "compose"], &["docker-compose"]];
        for way in ways {
            let compose = way.to_vec();
            if said(Self::command_of(&compose).arg("version")).is_ok() {
                return Ok(Self { compose });
            }
        }
        bail!("neither `docker compose` nor `docker-compose` is installed")
    }

    fn command_of(words: &[&str]) -> Command {
        let mut command = Command::new(words.first().copied().unwrap_or("docker"));
        command.args(words.get(1..).unwrap_or_default());
        command
    }

    /// What `docker` printed.
    pub(super) fn docker(&self, arguments: &[&str]) -> Result<String> {
        said(Command::new("docker").args(arguments))
    }

    /// Makes an image of a folder that holds a Dockerfile.
    pub(super) fn build(&self, context: &Path, file: &str, base: &str) -> Result<()> {
        let file = context.join(file);
        let mut command = Command::new("docker");
        command.env("DOCKER_BUILDKIT", "0").args(["build", "--quiet", "--tag", IMAGE]);
        command.args(["--build-arg", &format!("BASE={base}"), "--build-arg", "BINARY=strongroom"]);
        command.arg("--file").arg(file).arg(context);
        said(&mut command).map(drop)
    }
}

/// The project: its containers, volumes and networks are named after it and go with it.
pub(super) struct Lab {
    pub(super) engine: Engine,
    project: String,
    keep: bool,
    /// The container a person of the lab works in.
    operator: String,
}

impl Lab {
    pub(super) fn new(engine: Engine, project: &str, keep: bool) -> Self {
        let operator = format!("{project}-person");
        Self { engine, project: project.to_owned(), keep, operator }
    }

    fn compose(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Engine::command_of(&self.engine.compose);
        command.current_dir(root()).args(["--project-name", &self.project]);
        said(command.args(arguments))
    }

    /// Starts everything, and a container for the person who orders.
    pub(super) fn up(&self) -> Result<()> {
        self.compose(&["up", "--detach", "--no-build"])?;
        let name = &self.operator;
        let sleep = ["run", "--detach", "--rm", "--name", name, "--entrypoint", "sleep"];
        self.compose(&[&sleep[..], &["operator", "86400"]].concat())?;
        Ok(())
    }

    /// `strongroom` as the person of the lab calls it.
    pub(super) fn operator(&self, arguments: &[&str]) -> Result<String> {
        let all = [&["exec", &self.operator, "strongroom"], arguments].concat();
        self.engine.docker(&all)
    }

    pub(super) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.operator(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {}", arguments.join(" ")))
    }

    /// The container that is a node.
    fn container(&self, place: Place) -> Result<String> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let service = format!("label=com.docker.compose.service={}", place.service());
        let of = ["ps", "--all", "--quiet", "--filter", &project, "--filter", &service];
        let found = self.engine.docker(&of)?;
        let id = found.lines().next().context("it has no container")?;
        Ok(id.to_owned())
    }

    /// A line of shell in a node's container.
    pub(super) fn shell(&self, place: Place, script: &str) -> Result<String> {
        let id = self.container(place)?;
        self.engine.docker(&["exec", &id, "sh", "-c", script])
    }

    /// A line of shell beside the volumes, with no network and no node.
    pub(super) fn alone(&self, script: &str) -> Result<String> {
        let volume = |name: &str, at: &str| format!("{}_{name}:{at}", self.project);
        let volumes = [
            volume("documents", "/srv/documents:ro"),
            volume("restored", "/srv/restored"),
            volume("proxy", "/proxy:ro"),
            volume("org", "/org:ro"),
        ];
        let mut all = vec!["run", "--rm", "--network", "none", "--entrypoint", "sh"];
        all.extend(volumes.iter().flat_map(|volume| ["--volume", volume.as_str()]));
        all.extend([IMAGE, "-c", script]);
        self.engine.docker(&all)
    }

    /// SIGKILL, and nothing else.
    pub(super) fn kill(&self, place: Place) -> Result<()> {
        self.engine.docker(&["kill", "--signal", "KILL", &self.container(place)?]).map(drop)
    }

    pub(super) fn start(&self, place: Place) -> Result<()> {
        self.engine.docker(&["start", &self.container(place)?]).map(drop)
    }

    pub(super) fn stop(&self, places: &[Place]) -> Result<()> {
        for place in places {
            self.engine.docker(&["stop", &self.container(*place)?])?;
        }
        Ok(())
    }

    /// Takes the other site off the link.
    pub(super) fn unplug(&self) -> Result<()> {
        let (wan, proxy) = (self.wan(), self.container(Place::Proxy)?);
        self.engine.docker(&["network", "disconnect", &wan, &proxy]).map(drop)
    }

    /// Puts it back.
    pub(super) fn plug(&self) -> Result<()> {
        let (wan, proxy) = (self.wan(), self.container(Place::Proxy)?);
        self.engine.docker(&["network", "connect", "--alias", "proxy", &wan, &proxy]).map(drop)
    }

    fn wan(&self) -> String {
        format!("{}_wan", self.project)
    }

    /// What the coordinator has sent over the link since it was started, in bytes.
    pub(super) fn sent(&self) -> Result<u64> {
        let device = self.device()?;
        let count = format!("cat /sys/class/net/{device}/statistics/tx_bytes");
        Ok(self.shell(Place::Coordinator, &count)?.trim().parse()?)
    }

    /// Bounds what the coordinator can send over the link, or lets go.
    pub(super) fn narrow(&self, rate: Option<&str>) -> Result<()> {
        let format = "{{.State.Pid}}";
        let id = self.container(Place::Coordinator)?;
        let pid = self.engine.docker(&["inspect", "--format", format, &id])?;
        let device = self.device()?;
        let mut command = Command::new("nsenter");
        command.args(["--target", pid.trim(), "--net", "tc", "qdisc"]);
        match rate {
            Some(rate) => {
                command.args(["replace", "dev", &device, "root", "tbf", "rate", rate]);
                command.args(["burst", "1mb", "latency", "50ms"])
            }
            None => command.args(["del", "dev", &device, "root"]),
        };
        said(&mut command).map(drop)
    }

    /// The coordinator's own end of the link.
    fn device(&self) -> Result<String> {
        let id = self.container(Place::Coordinator)?;
        let networks = "{{json .NetworkSettings.Networks}}";
        let shown = self.engine.docker(&["inspect", "--format", networks, &id])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let wan = &shown[self.wan()]["MacAddress"];
        let address = wan.as_str().context("the coordinator is not on the link")?;
        let find = format!("grep -lix {address} /sys/class/net/*/address");
        let path = self.shell(Place::Coordinator, &find)?;
        let device = path.trim().strip_prefix("/sys/class/net/");
        let device = device.and_then(|rest| rest.strip_suffix("/address"));
        device.map(str::to_owned).with_context(|| format!("no interface has {address}"))
    }

    /// Looks until it is so.
    pub(super) fn wait(
        &self,
        what: &str,
        mut look: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            match look(self) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => last = Some(error),
            }
            if Instant::now() > until {
                let last = last.map_or_else(String::new, |error| format!(": {error:#}"));
                bail!("{what} did not come within {} s{last}", PATIENCE.as_secs());
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            println!("    kept: docker-compose --project-name {} ps", self.project);
            return;
        }
        if std::thread::panicking() {
            return;
        }
        // What is gone already is gone.
        let _ = self.engine.docker(&["rm", "--force", &self.operator]);
        if let Err(error) = self.compose(&["down", "--volumes", "--timeout", "3"]) {
            println!("    the lab was not taken down: {error:#}");
        }
    }
}

/// What a command printed; one that failed says what it said.
fn said(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        bail!("`{line}` failed: {} {}", stderr.trim(), stdout.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
