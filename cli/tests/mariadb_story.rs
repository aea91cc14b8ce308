//! The story of `strongroom try --workload mariadb`: a real server of MariaDB under load is
//! destroyed, put back from the primary, and proven from each copy by itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

#[test]
fn a_server_is_destroyed_and_comes_back_from_every_copy() {
    let dir = tempfile::tempdir().unwrap();
    // The user of the server must come through.
    let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o711);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let mut story = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    story.args(["--json", "try", "--workload", "mariadb", "--dir"]).arg(dir.path().join("lab"));
    let output = story.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["differences"], 0, "{told:#}");
    let stages = told["stages"].as_array().unwrap();
    let with = |words: &str| {
        let has = |stage: &&serde_json::Value| stage["proof"].as_str().unwrap().contains(words);
        stages.iter().filter(has).count()
    };
    assert_eq!(with("transactions, sums agree"), 1, "{told:#}");
    assert_eq!(with("started, 5 checks passed"), 3, "{told:#}");
}
