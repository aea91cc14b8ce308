//! What is owed as a timer sees it: the exit code of `status --check`, with real processes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use lab::Sites;

#[test]
fn the_exit_code_tells_whether_anything_is_owed() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    let mut sites = Sites::raise(&dir.path().join("sites"));
    let policy = |require: &str| {
        format!(
            "[policy.p]\ntimezone = \"UTC\"\nrequire = \"{require}\"\n\
             primary.keep = {{ newest = 3 }}\n[workload.\"docs\"]\nagent = \"host1\"\n\
             kind = \"files\"\npath = \"{}\"\npolicy = \"p\"\n",
            source.display()
        )
    };
    let check = |sites: &Sites| sites.run(&["--json", "--site", "a", "status", "--check"]);
    sites.apply(&policy("fuzzy"));
    sites.protect("docs");
    let clear = check(&sites);
    let said = String::from_utf8_lossy(&clear.stdout).into_owned();
    assert_eq!(clear.status.code(), Some(0), "{said}");

    sites.apply(&policy("crash"));
    // Killed, the coordinator knows it when it is back.
    for _ in 0..2 {
        let owing = check(&sites);
        assert_eq!(owing.status.code(), Some(3));
        let answer: serde_json::Value = serde_json::from_slice(&owing.stdout).unwrap();
        let debts = answer["debts"].as_array().unwrap();
        assert_eq!(debts.len(), 1, "{answer}");
        let debt = debts[0].as_str().unwrap();
        assert!(debt.starts_with("docs owes consistency crash: its newest point"), "{debt}");
        // Whoever does not ask for it is told, and not failed.
        assert_eq!(sites.run(&["--site", "a", "status"]).status.code(), Some(0));
        sites.kill("coordinator");
        sites.start("coordinator");
        sites.wait("the coordinator", |sites| sites.run(&["status"]).status.success());
        sites.connected(2);
    }
    let file = dir.path().join("never.toml");
    std::fs::write(&file, policy("application")).unwrap();
    let file = file.display().to_string();
    let refused = sites.refused(&["--site", "a", "policy", "apply", &file]);
    assert!(refused.contains("docs holds filesystem at most"), "{refused}");
}
