//! Several drives for one aux copy: each writes a set of its own beside the first, and what is
//! written at once shares nothing but the blank cartridges. Promises that a workload stays with the
//! set that has it, so that its packs are written once, and that what went wrong in one lane costs
//! the others nothing. Refuses set names that would be too long.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use strongroom_node::desk::Task;
use strongroom_protocol::control::Progress;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{MediaSetName, PointId, WorkloadId};
use strongroom_store::media::{MediaSetWriter, SetOrder};
use strongroom_store::repo::Repo;
use tokio_util::sync::CancellationToken;

/// One order for each lane: the set itself, then `SET.2` and so on.
pub(super) fn orders(order: &SetOrder, lanes: usize) -> Result<Vec<SetOrder>, Refusal> {
    let one = |lane: usize| {
        let set: MediaSetName = match lane {
            1 => order.set.clone(),
            _ => format!("{}.{lane}", order.set).parse().map_err(|error| {
                let text = format!("media set of drive {lane}: {error}");
                Refusal::new(RefusalKind::Invalid, text)
            })?,
        };
        Ok(SetOrder { set, ..order.clone() })
    };
    (1..=lanes.max(1)).map(one).collect()
}

/// The set of a policy that a lane belongs to: `SET` of `SET.2`.
pub(crate) fn first_lane(set: &MediaSetName) -> MediaSetName {
    let first = set.as_str().rsplit_once('.').and_then(|(first, lane)| {
        let is_lane = lane.parse::<usize>().is_ok_and(|lane| lane >= 2);
        is_lane.then(|| first.parse().ok()).flatten()
    });
    first.unwrap_or_else(|| set.clone())
}

/// Which lane each point goes to: where it is, else where its workload is, else where least is.
pub(super) fn share(
    repo: &Repo,
    writers: &[MediaSetWriter],
    points: &[PointId],
) -> Vec<Vec<PointId>> {
    let mut shares = vec![Vec::new(); writers.len()];
    let mut homes: BTreeMap<WorkloadId, usize> = BTreeMap::new();
    for (lane, writer) in writers.iter().enumerate() {
        for held in writer.held().points.values() {
            homes.entry(held.workload).or_insert(lane);
        }
    }
    for point in points {
        let there = writers.iter().position(|writer| writer.held().has_point(point));
        let workload = repo.manifest_of(*point).ok().map(|(workload, _)| workload);
        let home = workload.and_then(|workload| homes.get(&workload).copied());
        let emptiest = || {
            let lanes = shares.iter().enumerate();
            lanes.min_by_key(|(_, share)| share.len()).map_or(0, |(lane, _)| lane)
        };
        let lane = there.or(home).unwrap_or_else(emptiest);
        if let Some(workload) = workload {
            homes.entry(workload).or_insert(lane);
        }
        if let Some(share) = shares.get_mut(lane) {
            share.push(*point);
        }
    }
    shares
}

/// What all lanes did so far, told as one.
pub(crate) struct Tally<'t> {
    pub(super) cancelled: CancellationToken,
    tell: Box<dyn Fn(Progress) + Sync + 't>,
    sum: Mutex<Progress>,
}

impl<'t> Tally<'t> {
    pub(crate) fn new(cancelled: CancellationToken, tell: impl Fn(Progress) + Sync + 't) -> Self {
        Self { cancelled, tell: Box::new(tell), sum: Mutex::default() }
    }

    /// Of a job.
    pub(crate) fn of(task: &'t Task) -> Self {
        Self::new(task.cancelled.clone(), |progress| task.progress(progress))
    }

    /// Adds what a lane did, and tells it.
    pub(super) fn add(&self, change: impl FnOnce(&mut Progress)) {
        let sum = {
            let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut sum);
            *sum
        };
        (self.tell)(sum);
    }
}

type Outcome = Result<(Progress, String), Refusal>;

/// Runs every lane that has something to do, all at once.
pub(super) fn run(
    writers: Vec<MediaSetWriter>,
    shares: Vec<Vec<PointId>>,
    lane: &(dyn Fn(MediaSetWriter, &[PointId]) -> Outcome + Sync),
) -> Outcome {
    let mut busy: Vec<(MediaSetWriter, Vec<PointId>)> =
        writers.into_iter().zip(shares).filter(|(_, points)| !points.is_empty()).collect();
    let died = |_| Err(Refusal::new(RefusalKind::Internal, "a lane died"));
    let last = busy.pop();
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let mut others = Vec::new();
        for (writer, points) in busy {
            others.push(scope.spawn(move || lane(writer, &points)));
        }
        let last = last.map(|(writer, points)| lane(writer, &points));
        let others = others.into_iter().map(|other| other.join().unwrap_or_else(died));
        others.collect::<Vec<_>>().into_iter().chain(last).collect()
    });
    merged(outcomes)
}

/// What every lane said, as one outcome: written is what the lanes wrote that ended well.
fn merged(outcomes: Vec<Outcome>) -> Outcome {
    let mut sum = Progress::default();
    let (mut texts, mut failed) = (Vec::new(), None);
    for outcome in outcomes {
        match outcome {
            Ok((progress, text)) => {
                sum.bytes_read += progress.bytes_read;
                sum.bytes_sent += progress.bytes_sent;
                sum.bytes_seen += progress.bytes_seen;
                texts.push(text);
            }
            Err(refusal) => {
                texts.push(refusal.text.clone());
                // That an operator stopped it says more than how the others ended.
                if failed.is_none() || refusal.kind == RefusalKind::Cancelled {
                    failed = Some(refusal.kind);
                }
            }
        }
    }
    let text = texts.join("; ");
    match failed {
        None => Ok((sum, text)),
        Some(kind) => Err(Refusal::new(kind, text)),
    }
}

#[cfg(test)]
mod tests;
