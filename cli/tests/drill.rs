//! Drills by the processes of two sites: on the schedule and by order, of what is whole and of what
//! is not, with the proxy killed in the middle. A drill shows, and changes nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lab::Sites;
use lab::cluster::{SUMS, Scene};
use lab::files::{TREE, policy};
use lab::oddities::{grow, noise, sh};
use serde_json::Value;

const RULE: &str = "drill = { schedule = \"every 1m\", age = \"1h\", recovery = \"1h\" }";
/// A schedule that does not come while a test lasts.
const FAR_RULE: &str = "drill = { schedule = \"every 300d\", age = \"300d\", within = \"10m\" }";

/// Fails where the server sees more of a network than a loopback.
const ALONE: &str = "COPY (SELECT 1) TO PROGRAM \
    'cat >/dev/null && test $(grep -c : /proc/net/dev) = 1'";

/// Orders a drill and waits; what it showed.
fn drilled(sites: &Sites, workload: &str) -> Value {
    let output = sites.run(&["--json", "--site", "a", "drill", "run", workload]);
    let said = String::from_utf8_lossy(&output.stderr);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    let held = rows[0]["verdict"] == "held";
    assert_eq!(output.status.success(), held, "{rows}");
    rows[0].clone()
}

fn listed(sites: &Sites) -> Vec<Value> {
    sites.json(&["--site", "a", "drill", "list"]).as_array().cloned().unwrap_or_default()
}

/// Every debt and alarm of site A, each in a line.
fn owed(sites: &Sites) -> String {
    let output = sites.run(&["--json", "--site", "a", "status"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    let all = lines("debts").into_iter().chain(lines("alarms"));
    all.map(|line| line.as_str().unwrap_or_default().to_owned() + "\n").collect()
}

/// The proof and the state of a workload's newest point in the copy at the other site.
fn secondary(sites: &Sites, workload: &str) -> (String, String) {
    let point = sites.points(workload).remove(0);
    let copies = point["copies"].as_array().unwrap();
    let row = copies.iter().find(|row| row["copy"] == "secondary").unwrap();
    let word = |key: &str| row[key].as_str().unwrap().to_owned();
    (word("proof"), word("state"))
}

/// What lies in the repository of the proxy, by path: a drill leaves it as it is.
fn stored(sites: &Sites) -> BTreeMap<PathBuf, blake3::Hash> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![sites.dir.join("b/proxy/repo/packs"), sites.dir.join("b/proxy/repo")];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_own = ["index", "tmp"].iter().any(|name| path.ends_with(name));
            match entry.file_type().unwrap().is_dir() {
                true if is_own => {}
                true => waiting.push(path),
                false => {
                    let bytes = fs::read(&path).unwrap_or_default();
                    found.insert(path, blake3::hash(&bytes));
                }
            }
        }
    }
    found
}

fn scratch(sites: &Sites) -> PathBuf {
    sites.dir.join("b/proxy/drills")
}

/// Whether nothing of any drill of these sites is left: no file, no mount, no process.
fn nothing_left(sites: &Sites) -> bool {
    let is_empty = fs::read_dir(scratch(sites)).map_or(true, |mut found| found.next().is_none());
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    is_empty && !mounts.contains("strongroom:drill") && processes(sites) == 0
}

/// Two sites with a tree in both.
fn files(dir: &Path, rule: &str) -> Sites {
    let source = dir.join("source");
    grow(&source);
    fs::write(source.join("large"), noise(48 << 20, 7)).unwrap();
    let sites = Sites::raise(&dir.join("sites"));
    sites.apply(&policy(&source, rule));
    sites.protect(TREE);
    sites.await_copy(TREE, "secondary", "readable");
    sites
}

#[test]
fn a_tree_is_drilled_by_its_schedule_and_by_order_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let sites = files(dir.path(), RULE);
    let before = stored(&sites);
    let debt = "owes proof mounted-checked of copy secondary";
    assert!(owed(&sites).contains(debt), "{}", owed(&sites));
    sites.wait("the drill of the schedule", |sites| {
        listed(sites).iter().any(|row| row["verdict"] == "held" && row["by"] == "schedule")
    });
    let row = listed(&sites).pop().unwrap();
    assert_eq!(row["level"], "mounted-checked", "{row}");
    assert!(row["recovery_ms"].as_u64().unwrap() > 0, "{row}");
    let detail = row["detail"].as_str().unwrap();
    assert!(detail.contains("all as the manifest says"), "{detail}");
    sites.wait("the end of the debt", |sites| !owed(sites).contains(debt));
    assert_eq!(secondary(&sites, TREE).0, "mounted-checked");
    let row = drilled(&sites, TREE);
    assert_eq!(row["verdict"], "held", "{row}");
    assert!(row["by"].as_str().unwrap().contains("operator"), "{row}");
    assert!(nothing_left(&sites));
    assert_eq!(stored(&sites), before, "the copy was changed");
    let told = sites.text(&["--site", "a", "drill", "list", TREE]);
    assert!(told.contains("RECOVERED IN") && told.contains("held"), "{told}");
    let audit = sites.text(&["--site", "a", "audit"]);
    assert!(audit.contains("drill.order") && audit.contains("drill.held"), "{audit}");
    for (typo, said) in [
        ("drill = { schedul = \"daily 03:00\", age = \"1d\" }", "unknown key `schedul`"),
        ("drill = { schedule = \"dayly 03:00\", age = \"1d\" }", "dayly"),
        ("drill = { schedule = \"daily 03:00\" }", "has no `age`"),
        ("drill = { schedule = \"daily 03:00\", age = \"1m\" }", "is at least 1h"),
    ] {
        let file = dir.path().join("typo.toml");
        fs::write(&file, policy(&dir.path().join("source"), typo)).unwrap();
        let refused =
            sites.refused(&["--site", "a", "policy", "plan", &file.display().to_string()]);
        assert!(refused.contains(said), "{typo}: {refused}");
    }
    let refused = sites.refused(&["--site", "a", "drill", "run", TREE, "--copy", "second"]);
    assert!(refused.contains("no secondary snap second"), "{refused}");
}

/// Turns a bit in the middle of the largest pack of the proxy; its path.
fn hurt(sites: &Sites) -> PathBuf {
    let packs = sh("find repo/packs -type f -printf '%s %p\\n'", &sites.dir.join("b/proxy"));
    let largest =
        packs.lines().max_by_key(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap());
    let path = sites.dir.join("b/proxy").join(largest.unwrap().split_once(' ').unwrap().1);
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    path
}

#[test]
fn what_is_damaged_is_told_and_what_is_killed_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut sites = files(dir.path(), FAR_RULE);
    killed_in_the_middle(&mut sites);
    without_room(&mut sites);
    let mut command = sites.command(&["--site", "a", "drill", "run", TREE, "--copy", "secondary"]);
    let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    sites.wait("one that is under way", |sites| !nothing_left(sites));
    let refused = sites.run(&["--site", "a", "drill", "run", TREE]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.success() || said.contains("one at a time"), "{said}");
    waiting.wait().unwrap();
    let hurt = hurt(&sites);
    let row = drilled(&sites, TREE);
    assert_eq!(row["verdict"], "failed", "{row}");
    let detail = row["detail"].as_str().unwrap();
    assert!(detail.contains("not as the manifest says: /"), "{detail}");
    assert_eq!(secondary(&sites, TREE).1, "suspect");
    let owed = owed(&sites);
    assert!(owed.contains("it did not hold in a drill"), "{owed}");
    assert!(owed.contains("owes proof mounted-checked"), "{owed}");
    assert!(hurt.exists() && nothing_left(&sites));
}

/// The proxy is killed while a drill is under way: what it began ends with it, its debt stays.
fn killed_in_the_middle(sites: &mut Sites) {
    for tried in 0.. {
        assert!(tried < 20, "every drill was over before it could be killed");
        let mut command = sites.command(&["--site", "a", "drill", "run", TREE]);
        let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while nothing_left(sites) {
            std::thread::sleep(Duration::from_millis(5));
        }
        sites.kill("proxy");
        sites.wait("the end of its processes", |sites| {
            let listed = fs::read_to_string("/proc/mounts").unwrap();
            !listed.contains("strongroom:drill") && processes(sites) == 0
        });
        sites.start("proxy");
        waiting.wait().unwrap();
        let last = listed(sites).remove(0);
        if last["verdict"] == "broken off" {
            assert!(last["detail"].as_str().unwrap().contains("came back without it"), "{last}");
            break;
        }
    }
    sites.connected(2);
    assert!(nothing_left(sites), "what it left was not swept");
    assert!(owed(sites).contains("broke off"), "{}", owed(sites));
    assert_eq!(drilled(sites, TREE)["verdict"], "held");
    assert!(!owed(sites).contains("broke off"), "{}", owed(sites));
}

/// Processes that carry out drills of these sites.
fn processes(sites: &Sites) -> usize {
    let place = scratch(sites).display().to_string();
    let of = |entry: &fs::DirEntry| {
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains(&place)
    };
    fs::read_dir("/proc").unwrap().flatten().filter(of).count()
}

/// Where there is no room for a drill, nothing is said of the copy.
fn without_room(sites: &mut Sites) {
    let (small, settings) = (sites.dir.join("small"), sites.dir.join("b/proxy/node.toml"));
    fs::create_dir(&small).unwrap();
    sh("mount -t tmpfs -o size=32m tmpfs small", &sites.dir);
    let before = fs::read_to_string(&settings).unwrap();
    let drills = format!("\n[drills]\nscratch = \"{}\"\n", small.display());
    fs::write(&settings, before.clone() + &drills).unwrap();
    sites.kill("proxy");
    sites.start("proxy");
    sites.connected(2);
    let row = drilled(sites, TREE);
    sites.kill("proxy");
    sh("umount small", &sites.dir);
    fs::write(&settings, before).unwrap();
    sites.start("proxy");
    sites.connected(2);
    assert_eq!(row["verdict"], "broken off", "{row}");
    assert!(row["detail"].as_str().unwrap().contains("bytes left"), "{row}");
    assert_eq!(secondary(sites, TREE).1, "present", "nothing was shown");
}

/// The policy of a cluster with a drill that asks `asked`.
fn cluster_policy(scene: &Scene, asked: &str) -> String {
    let (host, port) = (scene.cluster.place.display(), scene.cluster.port);
    format!(
        "[policy.p]\ntimezone = \"UTC\"\nprimary.keep = {{ newest = 9 }}\n\
         [policy.p.copy.secondary]\nkind = \"secondary-snap\"\nfrom = \"primary\"\n\
         node = \"proxy\"\nkeep = {{ newest = 9 }}\n{FAR_RULE}\n\
         [workload.\"db\"]\npolicy = \"p\"\nagent = \"host1\"\nkind = \"postgres\"\n\
         host = \"{host}\"\nport = {port}\ndrill = {{ {asked} }}\n"
    )
}

#[test]
fn a_cluster_is_started_at_the_proxy_and_asked() {
    let scene = Scene::set(15_633);
    let sites = &scene.sites;
    sites.apply(&cluster_policy(&scene, &format!("query = [\"{SUMS}\", \"{ALONE}\"]")));
    sites.protect("db");
    sites.await_copy("db", "secondary", "readable");
    let row = drilled(sites, "db");
    assert_eq!(row["verdict"], "held", "{row}");
    assert_eq!(row["level"], "started", "{row}");
    assert!(row["detail"].as_str().unwrap().contains("6 checks passed"), "{row}");
    assert_eq!(secondary(sites, "db"), ("started".to_owned(), "present".to_owned()));
    for (asked, said) in [
        ("query = \"SELECT nothing FROM nowhere\"", "does not exist"),
        ("superuser = \"nobody\", patience = \"20s\"", "did not end in time"),
    ] {
        sites.apply(&cluster_policy(&scene, asked));
        let row = drilled(sites, "db");
        assert_eq!(row["verdict"], "failed", "{row}");
        assert!(row["detail"].as_str().unwrap().contains(said), "{row}");
        assert_eq!(secondary(sites, "db").1, "suspect");
        assert!(nothing_left(sites));
    }
    // Programs that are not there say nothing of the copy.
    sites.apply(&cluster_policy(&scene, "bin = \"/nowhere\""));
    let row = drilled(sites, "db");
    assert_eq!(row["verdict"], "broken off", "{row}");
    sites.apply(&cluster_policy(&scene, "query = \"SELECT 1\""));
    assert_eq!(drilled(sites, "db")["verdict"], "held");
    assert_eq!(secondary(sites, "db"), ("started".to_owned(), "present".to_owned()));
}
