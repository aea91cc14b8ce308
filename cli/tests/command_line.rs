//! The program as a shell sees it: exit codes, one line with a hint, JSON, and the parts that
//! need no node.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

use std::path::Path;
use std::process::{Command, Output};

fn strongroom(home: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_strongroom"))
        .env("STRONGROOM_HOME", home)
        .env("STRONGROOM_PASSPHRASE", "correct horse battery")
        .args(words)
        .output()
        .unwrap()
}

fn told(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn failures_are_one_line_with_a_hint_and_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = strongroom(dir.path(), &["status"]);
    assert_eq!(nowhere.status.code(), Some(1));
    let text = told(&nowhere.stderr);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("strongroom: ") && lines[0].contains("not an operator's home"));
    assert!(lines[1].starts_with("  hint: ") && lines.len() == 2, "{text}");
    assert!(nowhere.stdout.is_empty());
    assert_eq!(strongroom(dir.path(), &["ls", "web"]).status.code(), Some(2));
    assert_eq!(strongroom(dir.path(), &["frobnicate"]).status.code(), Some(2));
    let token = strongroom(dir.path(), &["enrol", "x", "strongroom-token-1.AAAA"]);
    assert!(told(&token.stderr).contains("copy the whole line"), "{}", told(&token.stderr));
}

#[test]
fn init_speaks_json_once_and_refuses_to_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("acme");
    let place = place.to_str().unwrap();
    let words = ["--json", "init", place, "--org", "acme", "--cartridges", "1"];
    let first = strongroom(dir.path(), &words);
    assert_eq!(first.status.code(), Some(0), "{}", told(&first.stderr));
    let report: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(report["recovery_key"].as_str().unwrap().split('-').count(), 14);
    let again = strongroom(dir.path(), &words);
    assert_eq!(again.status.code(), Some(1));
    assert!(told(&again.stderr).contains("exists already and is not touched"));
    let library = format!("{place}/secondary/proxy/library");
    let points = strongroom(dir.path(), &["media", "points", "--media", &library]);
    assert_eq!(told(&points.stdout), "no points on these cartridges\n");
}

#[test]
fn completions_and_manual_pages_are_made() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = strongroom(dir.path(), &["completions", shell]);
        assert!(told(&script.stdout).contains("strongroom"), "{shell}");
    }
    let pages = dir.path().join("man");
    let made = strongroom(dir.path(), &["man", pages.to_str().unwrap()]);
    assert_eq!(made.status.code(), Some(0));
    assert!(pages.join("strongroom.1").exists() && pages.join("strongroom-restore.1").exists());
}
