//! Two sites of real processes of this very program, for tests that kill them.

#![allow(dead_code, reason = "every test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub(crate) mod cluster;
pub(crate) mod files;
pub(crate) mod mounting;
pub(crate) mod network;
pub(crate) mod oddities;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What is waited for comes within this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);
const PASSPHRASE: &str = "correct horse battery staple";

/// Two sites, their processes, and an operator.
pub(crate) struct Sites {
    pub(crate) dir: PathBuf,
    running: BTreeMap<&'static str, Child>,
}

fn free() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let spread = std::process::id().wrapping_mul(7919).wrapping_add(number * 13);
        let port = u16::try_from(20_000 + spread % 10_000).unwrap();
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) {
            return socket.local_addr().unwrap().to_string();
        }
    }
    panic!("no free UDP port");
}

const fn home(role: &str) -> &'static str {
    match role.as_bytes() {
        b"agent" => "a/agent",
        b"agent2" => "a/agent2",
        b"coordinator" => "a/coordinator",
        _ => "b/proxy",
    }
}

impl Sites {
    /// Makes an organisation in `dir`, and starts its nodes.
    pub(crate) fn raise(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("logs")).unwrap();
        let mut sites = Self { dir: dir.to_owned(), running: BTreeMap::new() };
        let place = dir.display().to_string();
        let (coordinator, proxy) = (free(), free());
        let mut order = vec!["init", &place, "--org", "lab", "--site", "a", "--dr-site", "b"];
        order.extend(["--listen", &coordinator, "--address", &coordinator]);
        order.extend(["--dr-listen", &proxy, "--dr-address", &proxy]);
        let made = sites.json(&order);
        std::fs::write(dir.join("recovery-key"), made["recovery_key"].as_str().unwrap()).unwrap();
        sites.start("coordinator");
        sites.wait("the coordinator", |sites| sites.run(&["status"]).status.success());
        for (role, name) in [("agent", "host1"), ("proxy", "proxy")] {
            sites.join(role, role, name);
        }
        sites.connected(2);
        sites
    }

    /// A second agent, on a host of its own.
    pub(crate) fn second_agent(&mut self) {
        self.join("agent2", "agent", "host2");
        self.connected(3);
    }

    fn join(&mut self, place: &'static str, role: &str, name: &str) {
        let token = self.json(&["--site", "a", "token", "create", role, name]);
        let token = token["text"].as_str().unwrap().to_owned();
        let home = self.dir.join(home(place)).display().to_string();
        self.text(&["enrol", &home, &token]);
        self.start(place);
    }

    /// Waits until so many nodes are connected.
    pub(crate) fn connected(&self, count: usize) {
        self.wait("the nodes", |sites| {
            let nodes = sites.try_json(&["--site", "a", "nodes"]).unwrap_or_default();
            let rows = nodes.as_array().cloned().unwrap_or_default();
            rows.iter().filter(|row| row["connected"] == true).count() >= count
        });
    }

    /// Starts a node.
    pub(crate) fn start(&mut self, role: &'static str) {
        let log = self.dir.join("logs").join(format!("{role}.log"));
        let file: File = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        let word = if role == "agent2" { "agent" } else { role };
        command.arg("run").arg(word).arg(self.dir.join(home(role)));
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        self.running.insert(role, command.spawn().unwrap());
    }

    /// SIGKILL, and nothing else.
    pub(crate) fn kill(&mut self, role: &'static str) {
        if let Some(mut child) = self.running.remove(role) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The process of a node.
    pub(crate) fn pid(&self, role: &'static str) -> u32 {
        self.running[role].id()
    }

    /// Puts a policy in force.
    pub(crate) fn apply(&self, policy: &str) {
        let file = self.dir.join("policy.toml");
        std::fs::write(&file, policy).unwrap();
        self.text(&["--site", "a", "policy", "apply", &file.display().to_string()]);
    }

    /// Runs the program as the operator.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The program as the operator runs it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.arg("--home").arg(self.dir.join("operator")).args(arguments);
        command.env("STRONGROOM_PASSPHRASE", PASSPHRASE).stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`strongroom {}`: {said}", arguments.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that must fail said.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "`strongroom {}` succeeded", arguments.join(" "));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn try_json(&self, arguments: &[&str]) -> Option<Value> {
        let output = self.run(&[&["--json"], arguments].concat());
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
    }

    /// The answer of a command that must succeed, with gaps or without.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--json"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        let done = matches!(output.status.code(), Some(0 | 3));
        assert!(done, "`strongroom {}`: {said}", arguments.join(" "));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Orders a point; the job.
    pub(crate) fn order(&self, workload: &str) -> String {
        let job = self.json(&["--site", "a", "protect", workload]);
        job["id"].as_str().unwrap().to_owned()
    }

    /// The job as it is now.
    pub(crate) fn job(&self, id: &str) -> Value {
        let shown = self.try_json(&["--site", "a", "jobs", "show", id]).unwrap_or_default();
        shown["job"].clone()
    }

    /// Waits for a job's end.
    pub(crate) fn ended(&self, id: &str) -> Value {
        let mut last = Value::Null;
        let until = Instant::now() + PATIENCE;
        while last["ended"].is_null() {
            let shown = || self.text(&["--site", "a", "jobs", "show", id]);
            assert!(Instant::now() < until, "job {id} did not end: {}", shown());
            std::thread::sleep(LOOK);
            last = self.job(id);
        }
        last
    }

    /// Makes a point, which must succeed; the job.
    pub(crate) fn protect(&self, workload: &str) -> Value {
        let job = self.ended(&self.order(workload));
        assert_eq!(job["state"], "succeeded", "{job}");
        job
    }

    /// The points of a workload, newest first.
    pub(crate) fn points(&self, workload: &str) -> Vec<Value> {
        let points = self.json(&["--site", "a", "points", workload]);
        points.as_array().cloned().unwrap_or_default()
    }

    /// Waits until the newest point of a workload is in a copy, proven so far.
    pub(crate) fn await_copy(&self, workload: &str, copy: &str, proof: &str) -> String {
        let mut id = String::new();
        self.wait(&format!("copy {copy}"), |sites| {
            let point = sites.points(workload).into_iter().next().unwrap_or_default();
            id = point["id"].as_str().unwrap_or_default().to_owned();
            let copies = point["copies"].as_array().cloned().unwrap_or_default();
            copies.iter().any(|row| {
                row["copy"] == copy && row["state"] == "present" && row["proof"] == proof
            })
        });
        id
    }

    /// Looks until it is so.
    pub(crate) fn wait(&self, what: &str, mut look: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !look(self) {
            assert!(Instant::now() < until, "{what} did not come");
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            // On the way out; one that is gone already is gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
