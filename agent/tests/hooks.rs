//! Hooks as real processes: deadlines, and a post hook after every kind of end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use strongroom_agent::hooks::{Hook, HookError, HookExit, HookPair, HookWindow, reap};
use strongroom_protocol::SystemClock;

fn shell(script: String, deadline_seconds: u32) -> Option<Hook> {
    Some(Hook { command: vec!["sh".into(), "-c".into(), script], deadline_seconds })
}

fn pair(log: &Path, pre: &str) -> HookPair {
    let note = |what: &str| format!("echo {what} >> {}", log.display());
    HookPair {
        name: "job-1 freeze".into(),
        pre: shell(format!("{}; {pre}", note("pre")), 1),
        post: shell(note("post"), 5),
    }
}

fn lines(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default().replace('\n', " ")
}

#[test]
fn post_runs_once_after_success_failure_deadline_and_drop() {
    for (pre, fails) in [("true", false), ("exit 3", true), ("sleep 60", true)] {
        let dir = tempfile::tempdir().unwrap();
        let (log, journal) = (dir.path().join("log"), dir.path().join("journal"));
        let since = Instant::now();
        let opened = HookWindow::open(&pair(&log, pre), &journal, &SystemClock);
        match opened {
            Ok(window) => {
                assert!(!fails);
                assert_eq!(fs::read_dir(&journal).unwrap().count(), 1);
                drop(window);
            }
            Err(HookError::Pre { outcome }) => {
                let expected = if pre == "exit 3" { HookExit::Code(3) } else { HookExit::Deadline };
                assert!(fails);
                assert_eq!(outcome.exit, expected);
            }
            Err(error) => panic!("{error}"),
        }
        assert!(since.elapsed() < Duration::from_secs(20));
        assert_eq!(lines(&log), "pre post ");
        assert_eq!(fs::read_dir(&journal).unwrap().count(), 0);
        assert!(reap(&journal).unwrap().is_empty());
    }
}

#[test]
fn a_window_somebody_minds_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (log, journal) = (dir.path().join("log"), dir.path().join("journal"));
    let window = HookWindow::open(&pair(&log, "true"), &journal, &SystemClock).unwrap();
    assert!(reap(&journal).unwrap().is_empty());
    let second = HookWindow::open(&pair(&log, "true"), &journal, &SystemClock);
    assert!(matches!(second, Err(HookError::Open { .. })));
    window.close().unwrap();
    assert_eq!(lines(&log), "pre post ");
}

/// Runs when started by the test below: opens a window and waits to be killed.
#[test]
fn child_that_is_killed() {
    let Some(place) = std::env::var_os("STRONGROOM_HOOK_CHILD") else { return };
    let place = Path::new(&place);
    let pre = std::env::var("STRONGROOM_HOOK_PRE").unwrap();
    let pair = HookPair {
        pre: shell(format!("echo pre >> {}; {pre}", place.join("log").display()), 60),
        ..pair(&place.join("log"), "")
    };
    let _window = HookWindow::open(&pair, &place.join("journal"), &SystemClock);
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn post_runs_at_the_next_start_after_kill_nine() {
    for pre in ["true", "sleep 50; echo late >> log"] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed"])
            .env("STRONGROOM_HOOK_CHILD", dir.path())
            .env("STRONGROOM_HOOK_PRE", pre)
            .spawn()
            .unwrap();
        let (log, journal) = (dir.path().join("log"), dir.path().join("journal"));
        while !log.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(300));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(lines(&log), "pre ");
        let reaped = reap(&journal).unwrap();
        assert_eq!(reaped.len(), 1, "{pre}");
        assert!(reaped[0].outcome.as_ref().unwrap().succeeded());
        assert_eq!(lines(&log), "pre post ");
        assert!(reap(&journal).unwrap().is_empty());
    }
}
