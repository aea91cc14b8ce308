//! Images of a point over NBD to the clients people have: equal bytes, holes as holes, several
//! connections; what is written, kept and lost; who is let in from another host.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod lab;
mod served;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lab::Sites;
use serde_json::Value;
use served::Served;

const MIB: u64 = 1 << 20;
const IMAGE_BYTES: u64 = 96 * MIB;

/// Two sites, and a point with a sparse image in it.
struct Scene {
    sites: Sites,
    image: PathBuf,
    dir: tempfile::TempDir,
}

impl Scene {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("vm")).unwrap();
        let image = tree.join("vm/disk.raw");
        let file = File::create(&image).unwrap();
        file.set_len(IMAGE_BYTES).unwrap();
        for (number, at) in [0, 5, 6, 7, 40, 41, 94].into_iter().enumerate() {
            let mut bytes = vec![0; MIB as usize];
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[number as u8]).finalize_xof().fill(&mut bytes);
            file.write_all_at(&bytes, at * MIB).unwrap();
        }
        file.sync_all().unwrap();
        fs::write(tree.join("small"), b"ten bytes.").unwrap();
        let sites = Sites::raise(&dir.path().join("sites"));
        sites.apply(&policy(&tree));
        sites.protect("tree");
        sites.await_copy("tree", "tape", "hash-verified");
        Self { sites, image, dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Serves the image at a socket of this name.
    fn serve(&self, name: &str, more: &[&str]) -> Served {
        let place = format!("unix:{}", self.path(name));
        self.serve_at(&place, &[&["--path", "vm/disk.raw"], more].concat())
    }

    fn serve_at(&self, place: &str, more: &[&str]) -> Served {
        let words = ["export", "latest:tree", "--listen", place];
        Served::begin(&self.sites, &[&words, more].concat())
    }
}

fn policy(tree: &Path) -> String {
    format!(
        r#"[policy.p]
timezone = "UTC"
require = "fuzzy"
[policy.p.primary]
keep = {{ newest = 10 }}
[policy.p.copy.secondary]
kind = "secondary-snap"
from = "primary"
node = "proxy"
keep = {{ newest = 10 }}
[policy.p.copy.tape]
kind = "aux"
from = "secondary"
media_set = "weekly"
min_proof = "hash-verified"
keep = {{ newest = 10 }}
[workload."tree"]
agent = "host1"
kind = "files"
path = "{}"
policy = "p"
"#,
        tree.display()
    )
}

fn run(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn must(program: &str, words: &[&str]) -> String {
    let output = run(program, words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn same(image: &Path, uri: &str) {
    must("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image.display().to_string(), uri]);
}

/// Bytes of data as a map of qemu-img has them.
fn data_bytes(map: &str) -> u64 {
    let map: Value = serde_json::from_str(map).unwrap();
    let pieces = map.as_array().unwrap().iter();
    pieces.filter(|piece| piece["data"] == true).map(|p| p["length"].as_u64().unwrap()).sum()
}

fn io(uri: &str, commands: &[&str]) -> Output {
    let mut words = vec!["-f", "raw"];
    commands.iter().for_each(|command| words.extend(["-c", command]));
    words.push(uri);
    run("qemu-io", &words)
}

/// Commands of qemu-io that all succeed, patterns included.
fn io_must(uri: &str, commands: &[&str]) {
    let output = io(uri, commands);
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    let failed = said.contains("failed") || said.contains("error") || !output.status.success();
    assert!(!failed, "{commands:?}: {said}");
}

#[test]
fn images_are_served_to_real_clients_written_over_and_guarded() {
    let mut scene = Scene::set();
    read_only(&scene);
    overlays(&scene);
    leases(&scene);
    guarded(&scene);
    bad_orders(&scene);
    lost_links(&mut scene);
    media_alone(&mut scene);
}

/// Equal bytes to every client, holes as the point knows them, four connections at once.
fn read_only(scene: &Scene) {
    let served = scene.serve("read", &[]);
    let uri = served.uri(0);
    same(&scene.image, &uri);
    let image = scene.image.display().to_string();
    let here = data_bytes(&must("qemu-img", &["map", "-f", "raw", "--output=json", &image]));
    let there = data_bytes(&must("qemu-img", &["map", "-f", "raw", "--output=json", &uri]));
    assert_eq!((here, there), (7 * MIB, 7 * MIB));
    let about: Value = serde_json::from_str(&must("nbdinfo", &["--json", &uri])).unwrap();
    let export = &about["exports"][0];
    assert_eq!(export["export-size"], IMAGE_BYTES);
    for (what, wanted) in [
        ("can_multi_conn", true),
        ("can_cache", true),
        ("can_df", true),
        ("is_read_only", true),
        ("can_trim", false),
        ("can_zero", false),
    ] {
        assert_eq!(export[what], wanted, "{what}: {export}");
    }
    assert_eq!(about["structured"], true);
    assert!(export["description"].as_str().unwrap().contains("/vm/disk.raw of point"), "{export}");
    let copied = scene.path("copied");
    must("nbdcopy", &["--connections=4", "--requests=16", &uri, &copied]);
    must("cmp", &[&image, &copied]);
    let refused = io(&uri, &["write -P 1 0 4k"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned()
        + &String::from_utf8_lossy(&refused.stdout);
    assert!(said.contains("Permission denied"), "{said}");
    let ended = served.end();
    assert_eq!((ended["ended"].as_str(), &ended["overlay"]), (Some("told"), &Value::Null));
    assert_eq!(ended["failures"], 0, "{ended}");
    assert!(ended["connections"].as_u64().unwrap() >= 5, "{ended}");
    // Several images by name, a file inside its directory entry, and the copy of the other site.
    let both = ["--path", "small", "--path", "/vm/disk.raw", "--from", "secondary"];
    let served = scene.serve_at(&format!("unix:{}", scene.path("both")), &both);
    let list: Value = serde_json::from_str(&must(
        "nbdinfo",
        &["--list", "--json", &{ served.uri(0).replacen("/small", "/", 1) }],
    ))
    .unwrap();
    let names: Vec<&str> = list["exports"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["export-name"].as_str())
        .collect();
    assert_eq!(names, ["small", "disk.raw"]);
    assert_eq!(must("nbdcopy", &[&served.uri(0), "-"]), "ten bytes.");
    same(&scene.image, &served.uri(1));
    served.end();
}

/// What is written is there again after SIGKILL and a restart; the point stays as it was.
fn overlays(scene: &Scene) {
    let overlay = scene.path("overlay");
    let served = scene.serve("write", &["--overlay", &overlay, "--for", "2h"]);
    let uri = served.uri(0);
    io_must(
        &uri,
        &[
            "write -P 0xab 5m 1m",
            "write -P 0xcd 10000 777",
            "discard 41m 1m",
            "write -z 40m 64k",
            "flush",
        ],
    );
    let written =
        ["read -P 0xab 5m 1m", "read -P 0xcd 10000 777", "read -P 0 41m 1m", "read -P 0 40m 64k"];
    io_must(&uri, &written);
    served.kill();
    let served = scene.serve("write", &["--overlay", &overlay]);
    let uri = served.uri(0);
    io_must(&uri, &written);
    let busy = scene.sites.refused(&[
        "export",
        "latest:tree",
        "--path",
        "vm/disk.raw",
        "--listen",
        "127.0.0.1:0",
        "--overlay",
        &overlay,
    ]);
    assert!(busy.contains("is in use by another export"), "{busy}");
    // The bytes around what was written are those of the image.
    let whole = scene.path("whole");
    must("nbdcopy", &[&uri, &whole]);
    let (image, whole) = (File::open(&scene.image).unwrap(), File::open(&whole).unwrap());
    let block = |file: &File, at: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    };
    for (at, length) in [(0, 10_000), (10_777, 500_000), (6 * MIB, 2 << 20), (94 * MIB, 1 << 20)] {
        assert!(block(&image, at, length) == block(&whole, at, length), "{at}");
    }
    // A file system made on it is in order.
    must("mke2fs", &["-q", "-F", "-t", "ext4", &scene.path("fs"), "64M"]);
    must("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &scene.path("fs"), &uri]);
    let back = scene.path("back");
    must("nbdcopy", &[&uri, &back]);
    must("truncate", &["-s", "64M", &back]);
    must("cmp", &[&back, &scene.path("fs")]);
    let ended = served.end();
    assert_eq!(ended["overlay"], "kept", "{ended}");
    assert!(ended["written"][0]["own_bytes"].as_u64().unwrap() >= MIB, "{ended}");
    let served = scene.serve("after", &[]);
    same(&scene.image, &served.uri(0));
    served.end();
}

/// An overlay goes with its lease, unless it is to be kept.
fn leases(scene: &Scene) {
    for (keep, fate) in [(&[][..], "deleted"), (&["--keep"][..], "kept")] {
        let overlay = scene.path(&format!("lease-{fate}"));
        let more = [&["--overlay", &overlay, "--for", "3s"], keep].concat();
        let served = scene.serve(fate, &more);
        io_must(&served.uri(0), &["write -P 7 0 64k"]);
        assert!(served.begun["until"].is_string(), "{}", served.begun);
        let ended = served.await_end(Duration::from_secs(20));
        assert_eq!(
            (ended["ended"].as_str(), ended["overlay"].as_str()),
            (Some("lease"), Some(fate))
        );
        assert_eq!(ended["written"][0]["written_bytes"], 64 << 10, "{ended}");
        assert_eq!(Path::new(&overlay).exists(), fate == "kept");
        assert_eq!(Path::new(&format!("{overlay}.map")).exists(), fate == "kept");
    }
    let overlay = scene.path("lease-kept");
    let words = ["export", "latest:tree", "--path", "vm/disk.raw", "--listen", "127.0.0.1:0"];
    let late = scene.sites.refused(&[&words[..], &["--overlay", &overlay]].concat());
    assert!(late.contains("the lease of") && late.contains("--for"), "{late}");
    let served = scene.serve("renewed", &["--overlay", &overlay, "--for", "1h"]);
    io_must(&served.uri(0), &["read -P 7 0 64k"]);
    served.end();
}

/// From another host: encrypted, and only to whom the organisation knows.
fn guarded(scene: &Scene) {
    let words = ["export", "latest:tree", "--path", "vm/disk.raw", "--listen", "0.0.0.0:0"];
    let refused = scene.sites.refused(&words);
    assert!(refused.contains("encrypted only") && refused.contains("--identity"), "{refused}");
    let home = |node: &str| scene.sites.dir.join(node);
    let agents = home("a/agent").display().to_string();
    let not_it = scene.sites.refused(&[&words[..], &["--identity", &agents]].concat());
    assert!(not_it.contains("may not serve anybody"), "{not_it}");
    let proxy = home("b/proxy").display().to_string();
    let more = ["--path", "vm/disk.raw", "--identity", &proxy];
    let served = scene.serve_at("0.0.0.0:0", &more);
    let port = served.port();
    let plain = run("qemu-img", &["info", &format!("nbd://127.0.0.1:{port}/disk.raw")]);
    let said = String::from_utf8_lossy(&plain.stderr);
    assert!(!plain.status.success() && said.contains("connect with TLS"), "{said}");
    let operator = scene.sites.dir.join("operator/a");
    assert!(encrypted(scene, &operator, port), "an operator was not let in");
    assert!(!encrypted(scene, &home("a/agent"), port), "an agent nobody named was let in");
    served.end();
    let served = scene.serve_at("0.0.0.0:0", &[&more[..], &["--client", "host1"]].concat());
    assert!(encrypted(scene, &home("a/agent"), served.port()), "a node that was named");
    assert!(served.end()["refused"].as_u64().unwrap() == 0);
}

/// Whether the image is equal for a client with the credential in `home`.
fn encrypted(scene: &Scene, home: &Path, port: u16) -> bool {
    let dir = scene.dir.path().join("credential");
    fs::create_dir_all(&dir).unwrap();
    for (from, to) in [
        ("root.crt", "ca-cert.pem"),
        ("node.crt", "client-cert.pem"),
        ("node.key", "client-key.pem"),
    ] {
        fs::copy(home.join(from), dir.join(to)).unwrap();
    }
    // QEMU knows the server by the name in its certificate, which is no host's.
    let object = format!(
        "tls-creds-x509,id=t,dir={},endpoint=client,verify-peer=on,sanity-check=off",
        dir.display()
    );
    let there = format!(
        "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},export=disk.raw,\
         tls-creds=t,tls-hostname=strongroom://lab/site/b/proxy/proxy"
    );
    let here = format!("driver=raw,file.driver=file,file.filename={}", scene.image.display());
    let words = ["compare", "--object", &object, "--image-opts", &here, &there];
    let output = run("qemu-img", &words);
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

fn bad_orders(scene: &Scene) {
    let words = ["export", "latest:tree", "--listen", "127.0.0.1:0"];
    let refused = |more: &[&str]| scene.sites.refused(&[&words[..], more].concat());
    assert!(refused(&[]).contains("is not of a virtual machine"), "no path");
    assert!(refused(&["--path", "vm"]).contains("is no file"), "a directory");
    assert!(refused(&["--path", "nothing"]).contains("has no /nothing"), "nothing there");
    let two = ["--path", "small", "--path", "vm/disk.raw", "--overlay", &scene.path("two")];
    assert!(refused(&two).contains("an overlay lies over one disk"));
    let file = scene.path("a-file");
    fs::write(&file, b"mine").unwrap();
    let over = refused(&["--path", "small", "--overlay", &file]);
    assert!(over.contains("is no overlay"), "{over}");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let listen = format!("unix:{file}");
    let taken =
        scene.sites.refused(&["export", "latest:tree", "--path", "small", "--listen", &listen]);
    assert!(taken.contains("something else is there"), "{taken}");
}

/// The node goes and comes back: who reads waits, and is not told.
fn lost_links(scene: &mut Scene) {
    let served = scene.serve("lost", &["--from", "secondary"]);
    scene.sites.kill("proxy");
    let (image, uri) = (scene.image.clone(), served.uri(0));
    let reading = std::thread::spawn(move || {
        let began = Instant::now();
        same(&image, &uri);
        began.elapsed()
    });
    std::thread::sleep(Duration::from_secs(2));
    scene.sites.start("proxy");
    let took = reading.join().unwrap();
    assert!(took > Duration::from_secs(1), "it was read from nobody in {took:?}");
    assert_eq!(served.end()["failures"], 0);
}

/// Both nodes away: the cartridges and the recovery key are enough.
fn media_alone(scene: &mut Scene) {
    for role in ["agent", "proxy", "coordinator"] {
        scene.sites.kill(role);
    }
    let library = scene.sites.dir.join("b/proxy/library").display().to_string();
    let key = scene.sites.dir.join("recovery-key").display().to_string();
    let served = scene.serve("media", &["--media", &library, "--recovery-key-file", &key]);
    same(&scene.image, &served.uri(0));
    served.end();
}
