//! `protect`: a point now; and watching a job to its end, which `restore --on` does too.

use std::time::Duration;

use clap::Args;
use strongroom_protocol::admin::{JobRow, PointRef, Request, Response};
use strongroom_protocol::{JobId, WorkloadName};

use crate::failure::{Ending, Failure};
use crate::human;
use crate::operator::Contact;
use crate::progress::Line;
use crate::session::{Session, unexpected};
use crate::show::job_line;

/// How often a job that lasts is asked about: quick enough for a person.
const POLL_MAX: Duration = Duration::from_millis(400);
/// How soon a job is asked about first: one that has nothing to do is over by then.
const POLL_MIN: Duration = Duration::from_millis(10);
/// A job is asked about again after this part of what it has lasted: so much later than its end
/// its end is seen at most.
const POLL_PARTS: u32 = 10;

/// Make a recovery point of a workload now
#[derive(Args, Debug)]
pub(crate) struct ProtectArgs {
    workload: WorkloadName,
    /// Wait until it is done
    #[arg(long, short)]
    wait: bool,
}

impl ProtectArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let contact = session.contact().await?;
        let answer = contact.ask(&Request::Protect { workload: self.workload }).await?;
        match (&answer, self.wait) {
            (Response::Job(row), true) => watch(session, &contact, row.id).await,
            _ => {
                session.out.answer(&answer)?;
                Ok(Ending::Done)
            }
        }
    }
}

/// Waits for a job and prints what became of it. A job that failed is a failure here; gaps
/// are listed.
pub(crate) async fn watch(
    session: &Session,
    contact: &Contact,
    job: JobId,
) -> Result<Ending, Failure> {
    let mut line = Line::new(&session.out);
    let began = tokio::time::Instant::now();
    let row = loop {
        let answer = contact.ask(&Request::Job { job }).await?;
        let (Response::Journal { job: row, .. } | Response::Job(row)) = answer else {
            return Err(unexpected());
        };
        if row.ended.is_some() {
            break row;
        }
        line.say(format!("job {} {}", job.short(), job_line(&row)));
        let pause = began.elapsed() / POLL_PARTS;
        tokio::time::sleep(pause.clamp(POLL_MIN, POLL_MAX)).await;
    };
    line.clear();
    let response = Response::Job(row);
    session.out.answer(&response)?;
    let Response::Job(row) = response else { return Err(unexpected()) };
    if row.state != "succeeded" {
        return Err(Failure::new(format!("job {} {}: {}", job.short(), row.state, row.detail))
            .hint(format!("`strongroom jobs show {}` tells all that happened", job.short())));
    }
    gaps(session, contact, &row).await
}

async fn gaps(session: &Session, contact: &Contact, row: &JobRow) -> Result<Ending, Failure> {
    let (gaps, Some(point)) = (row.progress.gaps, row.point) else { return Ok(Ending::Done) };
    if gaps == 0 {
        return Ok(Ending::Done);
    }
    session.out.remark(&format!("done with {gaps} gaps:"));
    if row.kind == "protect" {
        let request = Request::Why { point: PointRef::Id(point.to_string()) };
        if let Response::Why(report) = contact.ask(&request).await? {
            for gap in &report.gaps {
                session.out.remark(&format!("  {}", human::text(gap)));
            }
        }
    } else {
        session.out.remark(&format!("  {}", human::text(&row.detail)));
    }
    Ok(Ending::Gaps)
}
