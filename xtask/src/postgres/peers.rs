//! What a full and an incremental point of a cluster cost beside what others take for it, on
//! the same cluster with nothing else going on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::policy::policy;
use super::server::Server;
use crate::bench::{Cost, bytes_below, cpu_seconds, measured};
use crate::kill::mib;
use crate::sites::{Role, Sites, Way};

/// Transactions between the full and the incremental.
const CHANGES: &str = "2000";

/// One row.
struct Row {
    what: String,
    cost: Cost,
    bytes: u64,
}

/// Measures and prints.
pub(crate) fn compare(server: &Server, exe: &Path, dir: &Path) -> Result<()> {
    // Sites of their own: nothing of the cluster is in their vault yet.
    let mut sites = Sites::raise(exe, &dir.join("peers"), dir, Way::Direct)?;
    sites.apply(&policy(server)?)?;
    server.ask("CHECKPOINT")?;
    let mut rows = vec![basebackup(server)?];
    rows.push(ours(&mut sites, "strongroom, full")?);
    let backrest = Path::new("/usr/bin/pgbackrest").exists();
    if backrest {
        rows.push(pgbackrest(server, "full")?);
    }
    let words = ["pgbench", "-n", "-c", "2", "-t", CHANGES, "postgres"];
    measured(&mut server.client(&words))?;
    server.ask("CHECKPOINT")?;
    rows.push(ours(&mut sites, "strongroom, incremental")?);
    if backrest {
        rows.push(pgbackrest(server, "incr")?);
    }
    rows.push(restored(&sites, dir)?);
    if backrest {
        rows.push(returned(server)?);
    }
    println!("\ncluster of {}", mib(bytes_below(&server.data)?));
    println!("{:<28} {:>8} {:>8} {:>12}", "", "time", "cpu", "bytes");
    for Row { what, cost, bytes } in rows {
        let Cost { seconds, cpu_seconds, .. } = cost;
        println!("{what:<28} {seconds:>6.2} s {cpu_seconds:>6.2} s {:>12}", mib(bytes));
    }
    if !backrest {
        println!("pgBackRest is not installed: left out");
    }
    Ok(())
}

fn basebackup(server: &Server) -> Result<Row> {
    let to = server.place.join("basebackup");
    let words = ["pg_basebackup", "-c", "fast", "-X", "stream", "-D"];
    let shown = to.display().to_string();
    let cost = measured(&mut server.client(&[&words[..], &[&shown]].concat()))?;
    let bytes = bytes_below(&to)?;
    fs::remove_dir_all(&to)?;
    Ok(Row { what: "pg_basebackup".to_owned(), cost, bytes })
}

/// A point; the bytes are those sent.
fn ours(sites: &mut Sites, what: &str) -> Result<Row> {
    let cpu = |sites: &Sites| -> Result<f64> {
        Ok(cpu_seconds(sites.pid(Role::Agent)?)? + cpu_seconds(sites.pid(Role::Coordinator)?)?)
    };
    let before = cpu(sites)?;
    let began = Instant::now();
    let job = sites.protect_one("db")?;
    let row = sites.finished(&job)?;
    let seconds = began.elapsed().as_secs_f64();
    let cost = Cost { seconds, cpu_seconds: cpu(sites)? - before, ..Cost::default() };
    let bytes = row["progress"]["bytes_sent"].as_u64().context("no bytes")?;
    Ok(Row { what: what.to_owned(), cost, bytes })
}

fn restored(sites: &Sites, dir: &Path) -> Result<Row> {
    let to = dir.join("restored").display().to_string();
    let cost = measured(&mut sites.command(&["postgres", "restore", "latest:db", "--to", &to]))?;
    let bytes = bytes_below(Path::new(&to))?;
    Ok(Row { what: "strongroom, restore".to_owned(), cost, bytes })
}

fn pgbackrest(server: &Server, kind: &str) -> Result<Row> {
    if kind == "full" {
        measured(&mut backrest(server, "stanza-create", &server.data, &[]))?;
    }
    let kind_word = format!("--type={kind}");
    let more = ["--no-archive-check", "--start-fast", &kind_word];
    let cost = measured(&mut backrest(server, "backup", &server.data, &more))?;
    let bytes = bytes_below(&server.place.join("backrest"))?;
    Ok(Row { what: format!("pgBackRest, {kind}"), cost, bytes })
}

/// What pgBackRest takes for its newest backup into an empty directory.
fn returned(server: &Server) -> Result<Row> {
    let to = server.place.join("returned");
    let cost = measured(&mut backrest(server, "restore", &to, &["--type=none"]))?;
    let bytes = bytes_below(&to)?;
    fs::remove_dir_all(&to)?;
    Ok(Row { what: "pgBackRest, restore".to_owned(), cost, bytes })
}

fn backrest(server: &Server, verb: &str, data: &Path, more: &[&str]) -> Command {
    let place = server.place.display();
    let mut words = vec![
        "../../../../bin/pgbackrest".to_owned(),
        verb.to_owned(),
        "--stanza=lab".to_owned(),
        format!("--repo1-path={place}/backrest"),
        format!("--pg1-path={}", data.display()),
        format!("--lock-path={place}"),
        format!("--log-path={place}"),
    ];
    if verb != "restore" {
        words.push(format!("--pg1-port={}", server.port));
        words.push(format!("--pg1-socket-path={place}"));
    }
    if verb != "stanza-create" {
        words.push("--process-max=2".to_owned());
    }
    words.extend(more.iter().map(|word| (*word).to_owned()));
    server.program(&words.iter().map(String::as_str).collect::<Vec<_>>())
}
