//! The story of `strongroom try --workload ad` at a small size: a real domain of Samba, looked
//! into, lost in part, put back from each copy, taken back, and built again as a whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

#[test]
fn a_domain_is_lost_in_part_and_as_a_whole_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("lab");
    let mut story = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    story.args(["--json", "try", "--workload", "ad", "--users", "60", "--dir"]).arg(&place);
    let output = story.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["differences"], 0, "{told:#}");
    let stages = told["stages"].as_array().unwrap();
    let restored = |stage: &&serde_json::Value| {
        stage["stage"].as_str().unwrap().contains("restore from the")
            && stage["proof"].as_str().unwrap().starts_with("as it was but passwords; 18 objects")
    };
    assert_eq!(stages.iter().filter(restored).count(), 3, "{told:#}");
    let proven = |stage: &&serde_json::Value| stage["proof"] == "started, 5 checks passed";
    assert_eq!(stages.iter().filter(proven).count(), 2, "{told:#}");
}
