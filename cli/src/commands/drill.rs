//! `drill`: recoveries that are made to see whether they work: one now, and those on record.

use std::time::Duration;

use clap::{Args, Subcommand};
use strongroom_protocol::admin::{DrillRow, Request, Response};
use strongroom_protocol::{CopyName, JobId, WorkloadName};

use crate::failure::{Ending, Failure};
use crate::operator::Contact;
use crate::progress::Line;
use crate::session::{Session, unexpected};

/// How often a drill that lasts is asked about.
const POLL: Duration = Duration::from_millis(400);
/// Among how many drills of the workload the one that was ordered is looked for.
const LOOKED_AT_MAX: u32 = 50;

/// Recover a point at the proxy to see whether it works, and how long it takes
#[derive(Args, Debug)]
pub(crate) struct DrillArgs {
    #[command(subcommand)]
    order: DrillOrder,
}

#[derive(Subcommand, Debug)]
enum DrillOrder {
    /// Drill the newest point of a workload now, and wait for what it shows
    Run {
        workload: WorkloadName,
        /// The copy to recover from, a secondary snap; that which the policy drills otherwise
        #[arg(long, value_name = "COPY")]
        copy: Option<CopyName>,
    },
    /// List drills, newest first
    List {
        workload: Option<WorkloadName>,
        /// How many at most
        #[arg(long, short = 'n', default_value_t = 30)]
        most: u32,
    },
}

impl DrillArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let contact = session.contact().await?;
        match self.order {
            DrillOrder::List { workload, most } => {
                session.out.answer(&contact.ask(&Request::Drills { workload, most }).await?)?;
                Ok(Ending::Done)
            }
            DrillOrder::Run { workload, copy } => {
                let request = Request::Drill { workload: workload.clone(), copy };
                let Response::Job(job) = contact.ask(&request).await? else {
                    return Err(unexpected());
                };
                let row = watch(session, &contact, &workload, job.id).await?;
                let verdict = (row.verdict.clone(), row.detail.clone());
                let (copy, point) = (row.copy.clone(), row.point.short());
                session.out.answer(&Response::Drills(vec![row]))?;
                match verdict {
                    (held, _) if held == "held" => Ok(Ending::Done),
                    (failed, why) if failed == "failed" => {
                        Err(Failure::new(format!("the drill failed: {why}"))
                            .hint(format!("copy {copy} of point {point} is suspect")))
                    }
                    (_, why) => Err(Failure::new(format!("the drill showed nothing: {why}"))),
                }
            }
        }
    }
}

/// Waits until it is known what a drill showed.
async fn watch(
    session: &Session,
    contact: &Contact,
    workload: &WorkloadName,
    job: JobId,
) -> Result<DrillRow, Failure> {
    let mut line = Line::new(&session.out);
    let began = tokio::time::Instant::now();
    loop {
        let request = Request::Drills { workload: Some(workload.clone()), most: LOOKED_AT_MAX };
        let Response::Drills(rows) = contact.ask(&request).await? else {
            return Err(unexpected());
        };
        let row = rows.into_iter().find(|row| row.job == job);
        let row = row.ok_or_else(|| Failure::new("the drill is not on record any more"))?;
        if row.verdict != "running" {
            line.clear();
            return Ok(row);
        }
        let (seconds, node) = (began.elapsed().as_secs(), &row.node);
        line.say(format!("drill {} at {node}: {seconds} s", job.short()));
        tokio::time::sleep(POLL).await;
    }
}
