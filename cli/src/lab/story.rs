//! The story `try` tells: two sites are made, a tree is protected, copied, proven, and restored
//! from each copy by itself. Every stage is measured; every restore is compared with the source.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use strongroom_agent::restore::compare::compare;

use super::nodes::{Node, free_address};
use super::rows::Row;
use super::tool::Tool;
use crate::lab::telling::Telling;

/// The workload's name in the lab's policy.
const WORKLOAD: &str = "tree@host1";
/// The second workload: a copy of a part of the tree that the lab may change.
const CHANGING: &str = "changing@host1";
/// Copies that do not arrive within this are a failure of the lab.
const COPY_PATIENCE: Duration = Duration::from_secs(3600);
/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Differences told; the rest are only counted.
const DIFFERENCES_TOLD: usize = 10;

/// Where everything lies.
pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
    pub(crate) source: PathBuf,
    pub(crate) tool: Tool,
    pub(crate) rows: Vec<Row>,
    pub(crate) differences: u64,
    /// Peak memory of each node, in words.
    pub(crate) peaks: Vec<String>,
    /// The workload whose copies are waited for.
    pub(crate) watched: String,
    site_a: Option<SiteA>,
    proxy: Option<Node>,
    point: String,
}

struct SiteA {
    coordinator: Node,
    agent: Node,
}

impl Lab {
    /// Makes the organisation and its two sites, and starts the nodes.
    pub(crate) fn raise(dir: &Path, source: &Path, tell: &Telling) -> anyhow::Result<Self> {
        let passphrase = passphrase()?;
        let (coordinator, proxy) = (free_address()?, free_address()?);
        let tool = Tool::new(&dir.join("operator"), passphrase.clone())?;
        std::fs::create_dir_all(dir.join("logs"))?;
        std::fs::write(dir.join("passphrase"), &passphrase)?;
        tell.begin("making an organisation with the sites a and b");
        let began = Instant::now();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (coordinator, proxy) = (coordinator.to_string(), proxy.to_string());
        let mut order = vec!["init"];
        let dir_text = text(dir);
        order.extend([dir_text.as_str(), "--org", "lab", "--site", "a", "--dr-site", "b"]);
        order.extend(["--listen", &coordinator, "--address", &coordinator]);
        order.extend(["--dr-listen", &proxy, "--dr-address", &proxy]);
        let made = tool.json(&order)?;
        let key = made["recovery_key"].as_str().context("no recovery key was printed")?;
        std::fs::write(dir.join("recovery-key"), key)?;
        let mut lab = Self {
            dir: dir.to_owned(),
            source: source.to_owned(),
            tool,
            rows: Vec::new(),
            differences: 0,
            peaks: Vec::new(),
            watched: WORKLOAD.to_owned(),
            site_a: None,
            proxy: None,
            point: String::new(),
        };
        lab.start_nodes(tell)?;
        lab.rows.push(Row::new("two sites made, nodes enrolled", began.elapsed()));
        Ok(lab)
    }

    fn home(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    fn log(&self, node: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{node}.log"))
    }

    fn start_nodes(&mut self, tell: &Telling) -> anyhow::Result<()> {
        tell.begin("starting the coordinator of site a");
        let home = self.home("a/coordinator");
        let mut coordinator = Node::start("coordinator", &home, self.log("coordinator"))?;
        self.wait_for(tell, "the coordinator", &mut |lab| {
            coordinator.check()?;
            Ok(lab.tool.json(&["--site", "a", "status"]).is_ok())
        })?;
        tell.begin("enrolling an agent and introducing the proxy, each with a one-time token");
        let agent_home = self.home("a/agent");
        let token = self.token("agent", "host1")?;
        self.tool.text(&["enrol", &agent_home.to_string_lossy(), &token])?;
        let agent = Node::start("agent", &agent_home, self.log("agent"))?;
        let proxy_home = self.home("b/proxy");
        let token = self.token("proxy", "proxy")?;
        self.tool.text(&["enrol", &proxy_home.to_string_lossy(), &token])?;
        self.proxy = Some(Node::start("proxy", &proxy_home, self.log("proxy"))?);
        self.site_a = Some(SiteA { coordinator, agent });
        self.wait_for(tell, "both nodes", &mut |lab| {
            lab.check_nodes()?;
            let nodes = lab.tool.json(&["--site", "a", "nodes"])?;
            let rows = nodes.as_array().cloned().unwrap_or_default();
            Ok(rows.iter().filter(|row| row["connected"] == true).count() >= 2)
        })
    }

    fn token(&self, role: &str, name: &str) -> anyhow::Result<String> {
        let made = self.tool.json(&["--site", "a", "token", "create", role, name])?;
        let text = made["text"].as_str().context("no token was printed")?;
        Ok(text.to_owned())
    }

    fn check_nodes(&mut self) -> anyhow::Result<()> {
        if let Some(site) = &mut self.site_a {
            site.coordinator.check()?;
            site.agent.check()?;
        }
        if let Some(proxy) = &mut self.proxy {
            proxy.check()?;
        }
        Ok(())
    }

    fn wait_for(
        &mut self,
        tell: &Telling,
        what: &str,
        look: &mut dyn FnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + COPY_PATIENCE;
        while !look(self)? {
            if Instant::now() > until {
                bail!("{what} did not come within {} s", COPY_PATIENCE.as_secs());
            }
            tell.tick();
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Applies the policy file, which stays where it is to be read and edited.
    pub(crate) fn apply_policy(&self, tell: &Telling) -> anyhow::Result<()> {
        let changing = self.dir.join("changing");
        std::fs::create_dir_all(&changing)?;
        self.apply_text(tell, &super::policy::text(&self.source, &changing)?)
    }

    /// The same with a policy of another story.
    pub(crate) fn apply_text(&self, tell: &Telling, text: &str) -> anyhow::Result<()> {
        tell.begin("applying the storage policy");
        let file = self.dir.join("policy.toml");
        std::fs::write(&file, text)?;
        self.tool.text(&["--site", "a", "policy", "apply", &file.to_string_lossy()])?;
        Ok(())
    }

    /// Makes a point and waits for it.
    pub(crate) fn protect(
        &mut self,
        tell: &Telling,
        stage: &str,
        workload: &str,
    ) -> anyhow::Result<()> {
        tell.begin(stage);
        let began = Instant::now();
        let job = self.tool.json(&["--site", "a", "protect", workload])?;
        let id = job["id"].as_str().context("no job was started")?.to_owned();
        let mut last = Value::Null;
        self.wait_for(tell, "the point", &mut |lab| {
            lab.check_nodes()?;
            last = lab.tool.json(&["--site", "a", "jobs", "show", &id])?["job"].clone();
            tell.progress(&last["progress"]);
            Ok(!last["ended"].is_null())
        })?;
        let took = began.elapsed();
        let state = last["state"].as_str().unwrap_or_default();
        if !state.starts_with("succeeded") {
            bail!("the protect job ended {state}: {}", last["detail"].as_str().unwrap_or_default());
        }
        let point = self.latest(workload)?;
        let progress = &last["progress"];
        self.rows.push(Row {
            covered_bytes: point["bytes"].as_u64(),
            read_bytes: progress["bytes_read"].as_u64(),
            sent_bytes: progress["bytes_sent"].as_u64(),
            stored_bytes: point["stored_bytes"].as_u64(),
            proof: proof_of(&point, "primary"),
            ..Row::new(stage, took)
        });
        if self.point.is_empty() {
            point["id"].as_str().context("no point")?.clone_into(&mut self.point);
        }
        Ok(())
    }

    /// The newest point of a workload.
    pub(crate) fn latest(&self, workload: &str) -> anyhow::Result<Value> {
        let points = self.tool.json(&["--site", "a", "points", workload])?;
        let first = points.as_array().and_then(|points| points.first()).cloned();
        first.context("the job ended and there is no point")
    }

    /// Waits until a copy of the tree's point is there and proven.
    pub(crate) fn await_copy(
        &mut self,
        tell: &Telling,
        stage: &str,
        copy: &str,
        proof: &str,
    ) -> anyhow::Result<()> {
        tell.begin(stage);
        let mut row = Value::Null;
        self.wait_for(tell, stage, &mut |lab| {
            lab.check_nodes()?;
            let point = lab.latest(&lab.watched)?;
            let copies = point["copies"].as_array().cloned().unwrap_or_default();
            row = copies.into_iter().find(|row| row["copy"] == copy).unwrap_or_default();
            Ok(row["state"] == "present" && row["proof"] == proof)
        })?;
        let point = self.latest(&self.watched)?;
        let took = self.copying(copy)?;
        self.rows.push(Row {
            covered_bytes: point["bytes"].as_u64(),
            sent_bytes: row["bytes"].as_u64(),
            stored_bytes: row["bytes"].as_u64(),
            proof: row["proof"].as_str().unwrap_or_default().to_owned(),
            ..Row::new(stage, took)
        });
        Ok(())
    }

    /// How long the tasks of a copy took, by the coordinator's word: they run side by side with
    /// what is waited for here.
    fn copying(&self, copy: &str) -> anyhow::Result<Duration> {
        let jobs = self.tool.json(&["--site", "a", "jobs", "list"])?;
        let subject = format!("{copy} of {}", self.watched);
        let mine = jobs.as_array().cloned().unwrap_or_default();
        let mine = mine.iter().filter(|job| job["subject"] == subject.as_str());
        let nanos = |job: &Value| {
            job["ended"].as_u64().zip(job["created"].as_u64()).map_or(0, |(end, start)| end - start)
        };
        Ok(Duration::from_nanos(mine.map(nanos).sum()))
    }

    /// A copy of a part of the tree is protected, changed a little, and protected again.
    pub(crate) fn show_increment(&mut self, tell: &Telling) -> anyhow::Result<()> {
        tell.begin("copying a part of the tree that may be changed");
        let changing = self.dir.join("changing");
        let files = super::changing::copy_some(&self.source, &changing)?;
        // A file written less than two seconds before a run is read again by the next one.
        std::thread::sleep(Duration::from_millis(2200));
        self.protect(tell, "protect a copy of a part", CHANGING)?;
        let changed = super::changing::change_some(&files)?;
        self.protect(
            tell,
            &format!("protect it again, {changed} of {} files changed", files.len()),
            CHANGING,
        )
    }

    /// Restores from one copy and compares with the source.
    pub(crate) fn restore(
        &mut self,
        tell: &Telling,
        stage: &str,
        name: &str,
        how: &[&str],
    ) -> anyhow::Result<()> {
        tell.begin(stage);
        let target = self.dir.join("restored").join(name);
        std::fs::create_dir_all(self.dir.join("restored"))?;
        let began = Instant::now();
        let (point, to) = (self.point.clone(), target.to_string_lossy().into_owned());
        let mut arguments = vec!["restore", &point, "--to", &to];
        arguments.extend_from_slice(how);
        let tool = self.tool.clone();
        let owned: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let running = std::thread::spawn(move || {
            let words: Vec<&str> = owned.iter().map(String::as_str).collect();
            tool.json(&words)
        });
        while !running.is_finished() {
            tell.tick();
            std::thread::sleep(LOOK);
        }
        let report = running.join().map_err(|_| anyhow::anyhow!("the restore broke off"))??;
        let took = began.elapsed();
        tell.begin(&format!("comparing {name} with the source"));
        let (proof, covered) = self.compare(&target, tell)?;
        self.rows.push(Row {
            covered_bytes: Some(covered),
            read_bytes: report["bytes_fetched"].as_u64(),
            stored_bytes: report["bytes_written"].as_u64(),
            proof,
            ..Row::new(stage, took)
        });
        Ok(())
    }

    fn compare(&mut self, target: &Path, tell: &Telling) -> anyhow::Result<(String, u64)> {
        let mut told = 0;
        let compared = compare(&self.source, target, &mut |difference| {
            told += 1;
            if told <= DIFFERENCES_TOLD {
                let path = difference.path.escape_ascii().to_string();
                tell.note(&format!(
                    "differs: /{path}: {:?} {}",
                    difference.aspect, difference.detail
                ));
            }
        })
        .with_context(|| format!("cannot compare {}", target.display()))?;
        self.differences += compared.differences;
        let proof = match compared.differences {
            0 => format!("identical, {} entries", compared.entries),
            count => format!("DIFFERS in {count} places"),
        };
        Ok((proof, compared.bytes))
    }

    /// Stops site a and moves its data out of reach.
    pub(crate) fn lose_site_a(&mut self, tell: &Telling) -> anyhow::Result<()> {
        tell.begin("stopping site a and moving its data away");
        if let Some(site) = self.site_a.take() {
            self.note_memory("agent", &site.agent);
            self.note_memory("coordinator", &site.coordinator);
            site.agent.stop()?;
            site.coordinator.stop()?;
        }
        std::fs::rename(self.dir.join("a"), self.dir.join("a.lost")).context("site a")
    }

    /// Stops site b too and leaves only the media folder and the recovery key.
    pub(crate) fn lose_site_b(&mut self, tell: &Telling) -> anyhow::Result<PathBuf> {
        tell.begin("stopping site b and keeping only the media and the recovery key");
        if let Some(proxy) = self.proxy.take() {
            self.note_memory("proxy", &proxy);
            proxy.stop()?;
        }
        let media = self.dir.join("media");
        std::fs::rename(self.dir.join("b/proxy/library"), &media).context("the media folder")?;
        std::fs::rename(self.dir.join("b"), self.dir.join("b.lost")).context("site b")?;
        std::fs::rename(self.dir.join("org"), self.dir.join("org.lost")).context("the root")?;
        Ok(media)
    }

    fn note_memory(&mut self, name: &str, node: &Node) {
        if let Some(bytes) = node.peak_bytes() {
            self.peaks.push(format!("{name} {}", crate::human::bytes(bytes)));
        }
    }

    /// Puts everything back where it was.
    pub(crate) fn put_back(&self) -> anyhow::Result<()> {
        let moves =
            [("a.lost", "a"), ("b.lost", "b"), ("org.lost", "org"), ("media", "b/proxy/library")];
        for (from, to) in moves {
            let from = self.dir.join(from);
            if from.exists() {
                std::fs::rename(&from, self.dir.join(to))?;
            }
        }
        Ok(())
    }

    /// Starts the nodes again and leaves them running; returns their processes.
    pub(crate) fn leave_running(&self) -> anyhow::Result<Vec<u32>> {
        let nodes = [("coordinator", "a/coordinator"), ("agent", "a/agent"), ("proxy", "b/proxy")];
        let mut processes = Vec::new();
        for (role, home) in nodes {
            let node = Node::start(role, &self.home(home), self.log(role))?;
            processes.extend(node.leave_running());
        }
        Ok(processes)
    }
}

fn proof_of(point: &Value, copy: &str) -> String {
    let copies = point["copies"].as_array().cloned().unwrap_or_default();
    let row = copies.into_iter().find(|row| row["copy"] == copy).unwrap_or_default();
    row["proof"].as_str().unwrap_or_default().to_owned()
}

fn passphrase() -> anyhow::Result<String> {
    let words: [u8; 12] = strongroom_certs::secret::random()?;
    Ok(words.iter().map(|byte| format!("{byte:02x}")).collect())
}
