//! Carrying out a restore into a directory of this host, whatever the blobs come from: the
//! line that moves, an orderly end at Ctrl-C, and what came of it with every gap named.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use strongroom_agent::restore::apply::Owners;
use strongroom_agent::restore::select::Selection;
use strongroom_agent::restore::{Overwrite, Report, RestoreOptions, RestoreProgress, Restorer};
use strongroom_node::inspect;
use strongroom_protocol::ChunkId;
use strongroom_protocol::admin::PointRef;
use strongroom_store::content::Meta;
use strongroom_store::keys::AgentKeys;

use crate::failure::{AWAY, Ending, Failure, While};
use crate::human;
use crate::operator::Contact;
use crate::output::Output;
use crate::progress::Line;
use crate::scene::{Scene, naming, open_remote, resolve};
use crate::session::{Session, blocking};
use crate::shelf::{Brought, MediaPoint, Shelf, aim};
use crate::vault::Opener;

/// How often the line moves.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks whether cartridges came: a person puts them in.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What to restore, and where to.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) point: PointRef,
    pub(crate) path: Vec<u8>,
    /// Globs; none means everything.
    pub(crate) select: Vec<String>,
    pub(crate) overwrite: Overwrite,
    pub(crate) target: PathBuf,
}

/// Restores from a node.
pub(crate) async fn from_node(
    session: &Session,
    contact: &Contact,
    order: Order,
) -> Result<Ending, Failure> {
    let point = resolve(contact, &order.point).await?;
    let scene = open_remote(contact, point).await?;
    let keys = match order.overwrite {
        Overwrite::Always => None,
        _ => Some(naming(contact, point).await?),
    };
    let report = carry_out(session, scene, order.clone(), keys).await?;
    conclude(&session.out, &order, &report, &[])
}

/// Restores straight from media. The staging directory goes when nothing is left to do,
/// unless it was named.
pub(crate) async fn from_media(
    session: &Session,
    order: Order,
    media: PathBuf,
    opener: Opener,
    (staging, kept, wait): (PathBuf, bool, Option<Duration>),
) -> Result<Ending, Failure> {
    let opener = Arc::new(opener);
    let (scene, brought, keys) = staged(session, &order, media, opener, (&staging, wait)).await?;
    let keys = Some(keys).filter(|_| order.overwrite != Overwrite::Always);
    let report = carry_out(session, scene, order.clone(), keys).await?;
    let ending = conclude(&session.out, &order, &report, &lacks(&brought))?;
    if !kept && ending == Ending::Done {
        let shown = staging.display().to_string();
        std::fs::remove_dir_all(&staging).doing(format!("cannot remove {shown}"))?;
    }
    Ok(ending)
}

/// Brings what an order wants of a point from media into a staging directory. Cartridges that are
/// away are named before its data is read; where `wait` is given, they are waited for.
pub(crate) async fn staged(
    session: &Session,
    order: &Order,
    media: PathBuf,
    opener: Arc<Opener>,
    (staging, wait): (&Path, Option<Duration>),
) -> Result<(Scene, Brought, AgentKeys), Failure> {
    let out = session.out.clone();
    let (wanted, place) = (order.clone(), staging.to_owned());
    blocking(move || {
        let mut line = Line::new(&out);
        let began = Instant::now();
        let mut is_told = false;
        loop {
            line.say("looking at every cartridge".to_owned());
            let shelf = Shelf::open(&media)?;
            let away = match bring(&shelf, &wanted, &opener, (&place, wait), (&mut line, &out)) {
                Err(failure) if failure.code() == AWAY => failure,
                other => return other,
            };
            if wait.is_none_or(|wait| began.elapsed() >= wait) {
                return Err(away);
            }
            if !is_told {
                out.remark(&away.to_string());
                is_told = true;
            }
            line.say("waiting for cartridges".to_owned());
            std::thread::sleep(LOOK_AGAIN);
            shelf.take_in()?;
        }
    })
    .await
}

fn bring(
    shelf: &Shelf,
    wanted: &Order,
    opener: &Opener,
    (place, wait): (&Path, Option<Duration>),
    (line, out): (&mut Line, &Output),
) -> Result<(Scene, Brought, AgentKeys), Failure> {
    let found = find(shelf.points(Some(opener))?, &wanted.point)?;
    let key = shelf.vault_key(found.repo, opener)?;
    let mut staged = shelf.stage(place, found.point, &key)?;
    let aim = aim(&staged.scene, &wanted.path)?;
    let selection = selection(aim.names, &wanted.select)?;
    match (staged.away(aim.page, &selection)?, wait) {
        (Some(away), Some(_)) => return Err(away),
        (Some(away), None) => out.remark(&format!("{away}; going on with what is here")),
        (None, _) => {}
    }
    let brought = staged.bring(place, aim.page, &selection, &mut |so_far| {
        let bytes = human::bytes(so_far.bytes);
        line.say(format!("{} packs, {bytes} brought from media", so_far.packs));
    })?;
    Ok((staged.scene.clone(), brought, staged.key().agent_keys()))
}

pub(crate) fn lacks(brought: &Brought) -> Vec<String> {
    if brought.lacking == 0 {
        return Vec::new();
    }
    let wanted: Vec<&str> = brought.wanted.iter().map(String::as_str).collect();
    let chunks = human::count(brought.lacking as u64);
    vec![match wanted.is_empty() {
        true => format!("{chunks} chunks are on no cartridge here that can be read"),
        false => format!(
            "{chunks} chunks are on cartridges that are not here; insert {} and run this again \
             with --overwrite if-different",
            wanted.join(", ")
        ),
    }]
}

/// The point that is meant, of those on media.
pub(crate) fn find(points: Vec<MediaPoint>, wanted: &PointRef) -> Result<MediaPoint, Failure> {
    let known: Vec<_> = points
        .iter()
        .filter_map(|point| {
            let name = point.manifest.as_ref().map(|known| known.body.workload_name.clone());
            // Without a manifest it has no name, but its id is enough to be found by.
            let name = name.or_else(|| point.workload.short().parse().ok())?;
            Some((point.point, name, point.moment))
        })
        .collect();
    let id = inspect::resolve(&known, wanted).map_err(|refusal| {
        Failure::new(refusal.text).hint("`strongroom media points --media DIR` lists them")
    })?;
    let found = points.into_iter().find(|point| point.point == id);
    found.ok_or_else(|| Failure::new(format!("no point {id} on these media")))
}

fn selection(paths: Vec<Vec<u8>>, globs: &[String]) -> Result<Selection, Failure> {
    if !paths.is_empty() && !globs.is_empty() {
        return Err(Failure::usage("--select needs a directory to select from, not a file"));
    }
    Ok(Selection::new(paths, globs)?)
}

async fn carry_out(
    session: &Session,
    scene: Scene,
    order: Order,
    keys: Option<AgentKeys>,
) -> Result<Report, Failure> {
    let path = order.path.clone();
    let (scene, aim) = blocking(move || {
        let aim = aim(&scene, &path)?;
        Ok((scene, aim))
    })
    .await?;
    let mut options = RestoreOptions::new(&order.target);
    options.selection = selection(aim.names, &order.select)?;
    options.overwrite = order.overwrite;
    options.keys = keys;
    write(session, scene, (aim.page, aim.meta), options).await
}

/// Writes a directory of a point, and shows how far it is.
pub(crate) async fn write(
    session: &Session,
    scene: Scene,
    (page, meta): (ChunkId, Option<Meta>),
    mut options: RestoreOptions,
) -> Result<Report, Failure> {
    options.owners = owners();
    let stop = Arc::new(AtomicBool::new(false));
    let restorer = Restorer::new(options, Arc::clone(&stop));
    let progress = restorer.progress();
    let running = blocking(move || Ok(restorer.run(&scene.tree, page, meta)?));
    tokio::pin!(running);
    let mut line = Line::new(&session.out);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            report = &mut running => {
                line.clear();
                return report.map_err(|failure| {
                    failure.hint("run it again with --overwrite if-different to go on")
                });
            }
            _ = tick.tick() => line.say(so_far(&progress)),
            _ = tokio::signal::ctrl_c() => {
                stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Only root may give files away.
fn owners() -> Owners {
    if rustix::process::geteuid().is_root() { Owners::Stored } else { Owners::Restorer }
}

fn so_far(progress: &RestoreProgress) -> String {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let problems = match count(&progress.problems) {
        0 => String::new(),
        problems => format!(", {problems} problems"),
    };
    format!(
        "{} files, {} written{problems}",
        human::count(count(&progress.files)),
        human::bytes(count(&progress.bytes_written))
    )
}

fn conclude(
    out: &Output,
    order: &Order,
    report: &Report,
    lacking: &[String],
) -> Result<Ending, Failure> {
    let problems: Vec<_> = report
        .problems
        .iter()
        .map(|p| serde_json::json!({ "path": String::from_utf8_lossy(&p.path), "why": p.why }))
        .collect();
    let value = serde_json::json!({
        "target": order.target, "files": report.files, "directories": report.directories,
        "others": report.others, "links": report.links, "left_alone": report.skipped,
        "bytes_written": report.bytes_written, "bytes_kept": report.bytes_kept,
        "bytes_fetched": report.bytes_fetched,
        "problem_count": report.problem_count, "problems": problems, "lacking": lacking,
    });
    out.either(&value, |_| told(&order.target, report))?;
    for problem in &report.problems {
        out.remark(&format!("not restored: /{}: {}", human::name(&problem.path), problem.why));
    }
    let more = report.problem_count.saturating_sub(report.problems.len() as u64);
    if more > 0 {
        out.remark(&format!("and {more} more"));
    }
    lacking.iter().for_each(|line| out.remark(line));
    if report.skipped > 0 {
        out.remark(&format!(
            "{} were there already and were left alone; --overwrite if-different makes them right",
            report.skipped
        ));
    }
    let whole = report.problem_count == 0 && report.skipped == 0 && lacking.is_empty();
    Ok(if whole { Ending::Done } else { Ending::Gaps })
}

fn told(target: &Path, report: &Report) -> String {
    let kept = match report.bytes_kept {
        0 => String::new(),
        bytes => format!(", {} were right already", human::bytes(bytes)),
    };
    format!(
        "restored {} files, {} directories and {} others into {}: {} written{kept}\n",
        human::count(report.files),
        human::count(report.directories),
        human::count(report.others + report.links),
        target.display(),
        human::bytes(report.bytes_written),
    )
}

#[cfg(test)]
#[path = "restoring_tests.rs"]
mod tests;
