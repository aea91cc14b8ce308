//! Bad input from people and from file systems: policies with mistakes, paths that are not there
//! or go away, files that cannot be read or will not hold still. Each ends with a clear word.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use strongroom_protocol::admin::{PointRef, Request, Response};
use strongroom_protocol::opening::RefusalKind;
use strongroom_tests::lab::{Cast, Lab, TREE, random};
use strongroom_tests::mounted::Mounted;
use strongroom_tests::site::name;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_with_mistakes_is_refused_with_line_column_and_suggestion() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    let good = lab.policy();
    for (right, wrong, words) in [
        ("timezone", "timezoen", "timezone"),
        ("monthly", "mothly", "mothly"),
        ("kind = \"files\"", "kind = \"fils\"", "files"),
        ("policy = \"standard\"", "policy = \"standart\"", "standard"),
        ("\"UTC\"", "\"UTC", "policy.toml:"),
    ] {
        let toml = good.replacen(right, wrong, 1);
        assert_ne!(toml, good);
        let line = toml.lines().position(|line| line.contains(wrong)).unwrap() + 1;
        for order in ["plan", "apply"] {
            let (file, toml) = ("policy.toml".to_owned(), toml.clone());
            let request = match order {
                "plan" => Request::PolicyPlan { file, toml },
                _ => Request::PolicyApply { file, toml },
            };
            let refusal = lab.refused("coordinator", &request).await.unwrap();
            assert_eq!(refusal.kind, RefusalKind::Invalid);
            let place = format!("policy.toml:{line}:");
            assert!(refusal.text.contains(&place), "{wrong}: {refusal}");
            assert!(refusal.text.contains(words), "{wrong}: {refusal}");
        }
    }
    let answer = lab.sites.ask("coordinator", &Request::Policy).await.unwrap();
    let Response::Policy { version, toml, .. } = answer else { panic!("{answer:?}") };
    assert_eq!((version, toml), (1, good));
    let request = Request::Protect { workload: name("tree@host2") };
    let refusal = lab.refused("coordinator", &request).await.unwrap();
    assert!(refusal.text.contains("did you mean tree@host1?"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_not_there_ends_the_job_and_the_next_one_works() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("file", 50_000, 1).unwrap();
    let first = lab.point().await.unwrap();
    let away = lab.dir.path().join("away");
    std::fs::rename(&lab.source, &away).unwrap();
    let job = lab.sites.protect(TREE).await.unwrap();
    assert_eq!(job.state, "failed");
    let path = lab.source.to_str().unwrap();
    assert!(job.detail.contains(path) && job.detail.contains("No such file"), "{}", job.detail);
    std::fs::write(&lab.source, "a file").unwrap();
    let job = lab.sites.protect(TREE).await.unwrap();
    assert_eq!(job.state, "failed");
    assert!(job.detail.contains(path), "{}", job.detail);
    assert_eq!(lab.sites.points("coordinator").await.unwrap().len(), 1);
    std::fs::remove_file(&lab.source).unwrap();
    std::fs::rename(&away, &lab.source).unwrap();
    lab.point().await.unwrap();
    lab.restores_as("coordinator", first, &lab.source).await.unwrap();
}

async fn gaps(lab: &Lab, point: strongroom_protocol::PointId) -> Vec<String> {
    let request = Request::Why { point: PointRef::Id(point.to_string()) };
    match lab.sites.ask("coordinator", &request).await.unwrap() {
        Response::Why(why) => why.gaps,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_vanishes_while_it_is_read_is_told_and_costs_no_earlier_point() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    for n in 0..300 {
        lab.write(&format!("d{}/f{n}", n % 10), 100_000, n).unwrap();
    }
    let expected = lab.dir.path().join("expected");
    strongroom_tests::lab::copy_tree(&lab.source, &expected).unwrap();
    let first = lab.point().await.unwrap();
    for n in 0..300 {
        lab.write(&format!("d{}/f{n}", n % 10), 100_000, 1000 + n).unwrap();
    }
    let job = lab.begin().await.unwrap();
    lab.sites
        .wait_for("the stream to begin", async |_| {
            let (row, events) = lab.job(job).await?;
            let streaming = events.iter().any(|event| event.text.contains("stream"));
            Ok((streaming || row.ended.is_some()).then_some(()))
        })
        .await
        .unwrap();
    std::fs::remove_dir_all(&lab.source).unwrap();
    let row = lab.ended(job).await.unwrap();
    match row.state.as_str() {
        // What was read counts, what was gone is a gap of the point.
        "succeeded" | "succeeded-with-gaps" => {
            let gaps = gaps(&lab, row.point.unwrap()).await;
            assert!(gaps.is_empty() || gaps.iter().any(|g| g.contains("vanished")), "{gaps:?}");
        }
        state => assert!(state == "failed" && !row.detail.is_empty(), "{row:?}"),
    }
    lab.restores_as("coordinator", first, &expected).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_file_is_a_gap_of_the_point_and_named() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("good", 50_000, 1).unwrap();
    // Root reads every mode. A file of the kernel that is only for writing refuses it too.
    let refusing = lab.source.join("refusing");
    std::fs::write(&refusing, "").unwrap();
    let mounted = Mounted::bind(Path::new("/sys/bus/platform/drivers_probe"), &refusing).unwrap();
    let job = lab.sites.protect(TREE).await.unwrap();
    drop(mounted);
    let point = job.point.unwrap();
    let gaps = gaps(&lab, point).await;
    assert!(gaps.iter().any(|gap| gap.starts_with("refusing: ")), "{gaps:?}; {job:?}");
    assert_eq!(job.state, "succeeded-with-gaps", "{job:?}");
    let (target, problems) = lab.restore("coordinator", point).await.unwrap();
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(std::fs::read(target.join("good")).unwrap(), random(50_000, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_grows_while_it_is_read_is_kept_as_far_as_it_held_still() {
    let lab = Lab::start(Cast::OneSite).await.unwrap();
    lab.write("still", 50_000, 1).unwrap();
    let path = lab.source.join("log");
    let stop = Arc::new(AtomicBool::new(false));
    let growing = std::thread::spawn({
        let (path, stop) = (path.clone(), Arc::clone(&stop));
        move || {
            let mut file = std::fs::File::create(path).unwrap();
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) && n < 200_000_000 {
                file.write_all(&[u8::try_from(n / 4096 % 251).unwrap(); 4096]).unwrap();
                n += 4096;
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        }
    });
    let job = lab.sites.protect(TREE).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    growing.join().unwrap();
    let point = job.point.unwrap();
    let (target, problems) = lab.restore("coordinator", point).await.unwrap();
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(std::fs::read(target.join("still")).unwrap(), random(50_000, 1));
    let whole = std::fs::read(&path).unwrap();
    let log = std::fs::read(target.join("log"));
    let told = gaps(&lab, point).await;
    match log {
        Ok(log) => assert!(whole.starts_with(&log) || !told.is_empty(), "{} bytes", log.len()),
        Err(_) => assert!(told.iter().any(|gap| gap.starts_with("log: ")), "{told:?}"),
    }
}
