//! The Docker engine as the lab uses it: one project of docker-compose, its containers by the
//! service they are, and the link between the sites, which can be narrowed and unplugged.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::disks::Disks;
use crate::parts::root;

/// Nothing is waited for longer: what takes more hangs.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);
/// The image of every container.
pub(super) const IMAGE: &str = "strongroom:lab";

/// A node of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Agent,
    Coordinator,
    /// The server of a cluster that takes writes, and its agent.
    Primary,
    Proxy,
    /// The server that follows it, and its agent.
    Standby,
}

impl Place {
    /// Its service in `docker-compose.yml`.
    pub(super) const fn service(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Coordinator => "coordinator",
            Self::Primary => "db1",
            Self::Standby => "db2",
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
    pub(super) project: String,
    keep: bool,
    /// What the homes of the nodes lie on.
    disks: Disks,
    /// The container a person of the lab works in.
    operator: String,
}

impl Lab {
    pub(super) fn new(engine: Engine, project: &str, keep: bool) -> Result<Self> {
        let (disks, operator) = (Disks::make()?, format!("{project}-person"));
        Ok(Self { engine, project: project.to_owned(), keep, disks, operator })
    }

    fn compose(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Engine::command_of(&self.engine.compose);
        command.current_dir(root()).envs(self.disks.devices());
        command.args(["--file", "docker-compose.yml", "--file", "docs/lab/disks.yml"]);
        command.args(["--project-name", &self.project]);
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

    /// Makes an operator of site B, in a home of their own.
    pub(super) fn person(&self, name: &str) -> Result<()> {
        let made = self.json(&["--site", "b", "token", "create", "operator", name])?;
        let token = made["text"].as_str().context("no token was printed")?;
        self.operator(&["enrol", &format!("/tmp/{name}"), token, "--at-proxy"]).map(drop)
    }

    /// As [`Self::operator`], as another person.
    pub(super) fn person_says(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let home = format!("/tmp/{name}");
        self.operator(&[&["--home", &home], arguments].concat())
    }

    /// Has the agent, which is stopped, enrol into its own home with a token of a site.
    pub(super) fn enrol_agent(&self, site: &str, word: &str) -> Result<()> {
        let made = self.json(&["--site", site, "token", "create", "agent", "fs1"])?;
        let token = made["text"].as_str().context("no token was printed")?;
        let script = format!("strongroom enrol /home/agent {token} {word}");
        self.aside(Place::Agent, &format!("site_{site}"), &script).map(drop)
    }

    /// Has the agent go over to a site: its home moves, and so does its network.
    pub(super) fn move_agent(&self, site: &str) -> Result<()> {
        let id = self.container(Place::Agent)?;
        self.stop(&[Place::Agent])?;
        let network = format!("{}_site_{site}", self.project);
        self.enrol_agent(site, "--move")?;
        if site != "a" {
            self.engine.docker(&["network", "connect", &network, &id])?;
        }
        self.start(Place::Agent)
    }

    /// Puts a policy in force.
    pub(super) fn apply(&self, policy: &str) -> Result<()> {
        let file = "/tmp/policy.toml";
        let write = format!("cat >{file} <<'END'\n{policy}\nEND");
        self.engine.docker(&["exec", &self.operator, "sh", "-c", &write])?;
        self.operator(&["policy", "apply", file]).map(drop)
    }

    pub(super) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.operator(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {}", arguments.join(" ")))
    }

    /// The container that is a node.
    pub(super) fn container(&self, place: Place) -> Result<String> {
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

    /// A line of shell with a node's volumes in its network, while the node is stopped.
    pub(super) fn aside(&self, place: Place, network: &str, script: &str) -> Result<String> {
        let id = self.container(place)?;
        let network = format!("{}_{network}", self.project);
        let run = ["run", "--rm", "--network", &network, "--volumes-from", &id];
        self.engine.docker(&[&run[..], &["--entrypoint", "sh", IMAGE, "-c", script]].concat())
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
            self.disks.keep();
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
pub(super) fn said(command: &mut Command) -> Result<String> {
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
