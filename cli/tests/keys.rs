//! `keys` as a shell sees it: homes that `init` made, the program that is shipped, real passphrase
//! files. What was changed opens, what is wrong is one line with a hint.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const OLD: &str = "correct horse battery";

struct Lab {
    dir: tempfile::TempDir,
    recovery_key: String,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("acme");
        let words = ["--json", "init", place.to_str().unwrap(), "--org", "acme"];
        let made = run(dir.path(), Some(OLD), &words);
        let report: Value = serde_json::from_slice(&made.stdout).unwrap();
        let recovery_key = report["recovery_key"].as_str().unwrap().to_owned();
        Self { dir, recovery_key }
    }

    fn home(&self, node: &str) -> String {
        self.path(&format!("acme/{node}")).display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file with one line.
    fn file(&self, name: &str, line: &str) -> String {
        std::fs::write(self.path(name), format!("{line}\n")).unwrap();
        self.path(name).display().to_string()
    }

    fn keys(&self, words: &[&str]) -> Output {
        run(self.dir.path(), None, &[&["--json", "keys"], words].concat())
    }

    fn done(&self, words: &[&str]) -> Value {
        let output = self.keys(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", told(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The line that says what is wrong, and the hint.
    fn refused(&self, words: &[&str]) -> (String, String) {
        let output = self.keys(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", told(&output.stdout));
        assert!(output.stdout.is_empty());
        let text = told(&output.stderr);
        let (line, hint) = text.trim_end().split_once("\n  hint: ").unwrap();
        assert!(!line.contains('\n') && !hint.contains('\n'), "{text}");
        (line.to_owned(), hint.to_owned())
    }
}

fn run(home: &Path, passphrase: Option<&str>, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.env("STRONGROOM_HOME", home).env_remove("STRONGROOM_PASSPHRASE").args(words);
    if let Some(passphrase) = passphrase {
        command.env("STRONGROOM_PASSPHRASE", passphrase);
    }
    command.output().unwrap()
}

fn told(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_secret_is_changed_and_carried_to_the_other_site() {
    let lab = Lab::new();
    let (coordinator, proxy) = (lab.home("primary/coordinator"), lab.home("secondary/proxy"));
    let old = lab.file("old", OLD);
    let new = lab.file("new", "a hundred new staples");
    let paper = lab.file("paper", &lab.recovery_key);
    let list = lab.done(&["list", &coordinator]);
    assert_eq!((list["epochs"].as_u64(), &list["vault_key"]), (Some(1), &"holds it".into()));
    let kinds: Vec<_> =
        list["recipients"].as_array().unwrap().iter().map(|found| &found["kind"]).collect();
    assert_eq!(kinds, ["passphrase", "recovery key"]);
    let drill = lab.done(&["list", &coordinator, "--recovery-key-file", &paper]);
    assert_eq!(drill["recipients"][1]["yours"], true);
    assert_eq!(drill["recipients"][0]["yours"], false);

    let change = ["passphrase", &coordinator, "--passphrase-file", &old];
    lab.done(&[&change[..], &["--new-passphrase-file", &new]].concat());
    let (line, hint) = lab.refused(&[&change[..], &["--new-passphrase-file", &new]].concat());
    assert!(line.ends_with("the passphrase is wrong"), "{line}");
    assert!(hint.contains("--recovery-key-file"), "{hint}");
    let from = format!("{coordinator}/repo/keys");
    lab.done(&["adopt", &proxy, "--from", &from, "--passphrase-file", &new]);
    lab.done(&["list", &proxy, "--passphrase-file", &new]);
    lab.refused(&["list", &proxy, "--passphrase-file", &old]);

    let added = lab.done(&["add-recovery", &proxy, "--passphrase-file", &new]);
    let second = lab.file("second", added["recovery_key"].as_str().unwrap());
    let first = drill["recipients"][1]["recipient"].as_str().unwrap().to_owned();
    let remove = ["remove", &proxy, "--recipient", &first, "--recovery-key-file"];
    let (line, _) = lab.refused(&[&remove[..], &[&paper]].concat());
    assert!(line.contains("opens only what is to be removed"), "{line}");
    lab.done(&[&remove[..], &[&second]].concat());
    let (line, hint) = lab.refused(&["list", &proxy, "--recovery-key-file", &paper]);
    assert!(line.contains("recovery key is not the one"), "{line}");
    assert!(hint.contains("typed right"), "{hint}");
}

#[test]
fn a_rotation_goes_from_the_proxy_to_the_coordinator() {
    let lab = Lab::new();
    let (coordinator, proxy) = (lab.home("primary/coordinator"), lab.home("secondary/proxy"));
    let old = lab.file("old", OLD);
    let (line, hint) = lab.refused(&["rotate", &coordinator, "--passphrase-file", &old]);
    assert!(line.contains("begins at the proxy") && hint.contains("keys adopt"), "{line}");
    let rotated = lab.done(&["rotate", &proxy, "--passphrase-file", &old]);
    assert_eq!(rotated["epoch"], 2);
    let paper = lab.file("paper", rotated["recovery_key"].as_str().unwrap());
    let from = format!("{proxy}/repo/keys");
    let words = ["adopt", &coordinator, "--from", &from, "--recovery-key-file", &paper];
    assert_eq!(lab.done(&words)["epoch"], 2);
    for home in [&coordinator, &proxy] {
        let list = lab.done(&["list", home, "--passphrase-file", &old]);
        assert_eq!((&list["epochs"], &list["vault_key"]), (&2.into(), &"holds it".into()));
        assert_eq!(std::fs::metadata(format!("{home}/vault.key")).unwrap().len(), 64);
    }
    let gone = lab.file("gone", &lab.recovery_key);
    lab.refused(&["list", &proxy, "--recovery-key-file", &gone]);
}

#[test]
fn a_node_that_cannot_start_for_its_keys_says_what_to_do() {
    let lab = Lab::new();
    let home = lab.home("primary/coordinator");
    let old = lab.file("old", OLD);
    let run = || {
        let output = run(lab.dir.path(), None, &["run", "coordinator", &home]);
        assert_eq!(output.status.code(), Some(1));
        let text = told(&output.stderr);
        let (line, hint) = text.trim_end().split_once("\n  hint: ").unwrap();
        (line.to_owned(), hint.to_owned())
    };
    std::fs::write(format!("{home}/vault.key"), [9; 32]).unwrap();
    let (line, hint) = run();
    assert!(line.contains("the key does not belong to the repository"), "{line}");
    assert!(hint.contains("keys adopt"), "{hint}");
    lab.done(&["adopt", &home, "--passphrase-file", &old]);
    let keys = format!("{home}/repo/keys");
    let mut bytes = std::fs::read(&keys).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&keys, bytes).unwrap();
    let (line, hint) = run();
    assert!(line.contains("keys is damaged") && hint.contains("--from FILE"), "{line}: {hint}");
}
