//! Writes (part of) a point back on this host, read from the coordinator under an operator's
//! grant: the job itself is the grant.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use strongroom_node::desk::Task;
use strongroom_node::reader::RemotePoint;
use strongroom_protocol::control::{
    Ending, Overwrite, Progress, RecoverWork, RetryAdvice, StepNews,
};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, ChunkId};
use strongroom_store::content::Meta;
use strongroom_store::tree::{BlobSource, Tree};

use crate::orders::{StopFlag, failed};
use crate::restore::{self, Report, RestoreError, RestoreOptions, Restorer, Selection};

/// The directory a point's only item is, with its own metadata.
///
/// # Errors
/// The root page cannot be read or lists no directory.
pub fn item<S: BlobSource>(tree: &Tree<S>) -> Result<(ChunkId, Meta), Refusal> {
    let damaged = |text: String| Refusal::new(RefusalKind::Damaged, text);
    let first = tree.directory(tree.root()).next();
    let entry = first.ok_or_else(|| damaged("the point lists nothing".to_owned()))?;
    let entry = entry.map_err(|error| match restore::is_unreachable(&error) {
        true => Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string()),
        false => damaged(Chain(&error).to_string()),
    })?;
    let page = entry.directory_page();
    let page = page.ok_or_else(|| damaged("the point's item is no directory".to_owned()))?;
    Ok((page, entry.meta))
}

/// Which overwrite rule of the restore an order means.
pub const fn overwrite(order: Overwrite) -> restore::Overwrite {
    match order {
        Overwrite::Always => restore::Overwrite::Always,
        Overwrite::IfDifferent => restore::Overwrite::IfDifferent,
        Overwrite::Never => restore::Overwrite::Never,
    }
}

/// Carries out a recover assignment.
pub(crate) async fn perform(task: &Task, work: RecoverWork) -> Ending {
    let Some(contact) = task.uplink.contact().await else { return Ending::Cancelled };
    task.step("stage", StepNews::Started).await;
    let opened = RemotePoint::open(&contact.link, work.point, Some(task.job)).await;
    let (manifest, source) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let refusal = Refusal::new(RefusalKind::Unavailable, Chain(&error).to_string());
            return failed(refusal, RetryAdvice::Later);
        }
    };
    task.step("stage", StepNews::Done(manifest.body.source.clone())).await;
    task.step("write", StepNews::Started).await;
    let stop = StopFlag::of(task);
    let flag = Arc::clone(&stop.flag);
    let root = manifest.body.root;
    let keys = source.keys().clone();
    let pointless = |refusal| (refusal, RetryAdvice::Pointless);
    let writing = tokio::task::spawn_blocking(move || {
        let selection = Selection::typed(&work.select).map_err(|error| {
            pointless(Refusal::new(RefusalKind::Invalid, Chain(&error).to_string()))
        })?;
        let whole = work.select.is_empty();
        let options = RestoreOptions {
            selection,
            overwrite: overwrite(work.overwrite),
            keys: Some(keys),
            ..RestoreOptions::new(PathBuf::from(OsStr::from_bytes(&work.target)))
        };
        let restorer = Restorer::new(options, flag);
        let tree = Tree::new(source, root);
        let (page, meta) = item(&tree).map_err(|refusal| match refusal.kind {
            RefusalKind::Unavailable => (refusal, RetryAdvice::Later),
            _ => pointless(refusal),
        })?;
        restorer.run(&tree, page, whole.then_some(meta)).map_err(|error| stopped_by(&error))
    });
    let written = writing.await.unwrap_or_else(|_| {
        Err(pointless(Refusal::new(RefusalKind::Internal, "the restore failed")))
    });
    conclude(task, written).await
}

/// What ended the restore, and whether another try can help: over a link that is back it goes
/// on where it ended.
fn stopped_by(error: &RestoreError) -> (Refusal, RetryAdvice) {
    let retry = match error {
        RestoreError::Unreachable { .. } => RetryAdvice::Later,
        _ => RetryAdvice::Pointless,
    };
    (Refusal::new(RefusalKind::Unavailable, Chain(error).to_string()), retry)
}

async fn conclude(task: &Task, written: Result<Report, (Refusal, RetryAdvice)>) -> Ending {
    let report = match written {
        Ok(report) => report,
        Err(_) if task.cancelled.is_cancelled() => return Ending::Cancelled,
        Err((refusal, retry)) => {
            task.step("write", StepNews::Failed(refusal.to_string())).await;
            return failed(refusal, retry);
        }
    };
    let text = format!(
        "{} files, {} bytes written, {} bytes there already, {} problems",
        report.files, report.bytes_written, report.bytes_kept, report.problem_count
    );
    task.step("write", StepNews::Done(text.clone())).await;
    task.step("verify", StepNews::Started).await;
    // Every chunk was checked against its name before it was written.
    let mut said = report.problems.iter().take(20);
    let problems: Vec<String> =
        said.by_ref().map(|p| format!("{}: {}", p.path.escape_ascii(), p.why)).collect();
    task.step("verify", StepNews::Done(problems.join("; "))).await;
    let progress = Progress {
        files: report.files,
        bytes_seen: report.bytes_written + report.bytes_kept,
        bytes_read: report.bytes_written,
        bytes_sent: 0,
        gaps: report.problem_count,
        bytes_total: None,
    };
    Ending::Done { progress, text }
}
