//! A server of vcsim, built of its Debian package and of what is beside this file.

#![allow(clippy::unwrap_used, reason = "tests and what they share")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;

/// The sources of the simulator, as Debian's package has them.
const SIMULATOR: &str = "/usr/share/gocode/src/github.com/vmware/govmomi/simulator";

/// The program, built once for a checkout (about a minute), and again when its sources change.
fn vcsim() -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one = BUILDING.lock().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/vsphere_parts/vcsim");
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().find(|dir| dir.ends_with("target")).unwrap();
    let mut hasher = blake3::Hasher::new();
    for name in ["main.go", "lab.go"] {
        hasher.update(&fs::read(sources.join(name)).unwrap());
    }
    let dir = target.join("vcsim");
    let program = dir.join(format!("vcsim-{}", &hasher.finalize().to_hex()[..16]));
    if program.is_file() {
        return program;
    }
    assert!(
        Path::new(SIMULATOR).is_dir(),
        "as root: apt-get install --no-install-recommends golang-go \
         golang-github-vmware-govmomi-dev"
    );
    fs::create_dir_all(&dir).unwrap();
    let overlay = dir.join("overlay.json");
    let added = format!("{SIMULATOR}/strongroom_lab.go");
    let replace = serde_json::json!({ "Replace": { added: sources.join("lab.go") } });
    fs::write(&overlay, replace.to_string()).unwrap();
    let unfinished = program.with_extension("unfinished");
    let mut build = Command::new("go");
    build.args(["build", "-p", "2", "-overlay"]).arg(&overlay).arg("-o").arg(&unfinished);
    build.arg(sources.join("main.go")).env("GOPATH", "/usr/share/gocode").env("GO111MODULE", "off");
    build.env("GOCACHE", dir.join("cache")).env("GOFLAGS", "");
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    fs::rename(unfinished, &program).unwrap();
    program
}

/// A server that runs; it ends with its value.
pub(crate) struct Simulator {
    process: Child,
    told: Value,
}

impl Simulator {
    /// Whose machines have disks of these sizes, in bytes, with their images below `dir`; sessions
    /// end when nothing is asked for `idle` (as Go says it; 0: never).
    pub(crate) fn start(dir: &Path, sizes: &[usize], idle: &str) -> Self {
        let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        let mut command = Command::new(vcsim());
        command.arg("-dir").arg(dir).args(["-disks", &sizes.join(","), "-idle", idle]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, told: serde_json::from_str(&line).unwrap() }
    }

    /// What it said of itself: its `url`, `ca` (a file) or `thumbprint`.
    pub(crate) fn said(&self, key: &str) -> String {
        self.told[key].as_str().unwrap().to_owned()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // Its standard input ends, and so does it.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
