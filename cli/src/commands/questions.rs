//! The commands that ask one question and print the answer, and nothing more: `status`,
//! `nodes`, `workloads`, `points`, `why`, `audit`, `media list`.

use clap::Args;
use strongroom_protocol::WorkloadName;
use strongroom_protocol::admin::{PointRef, Request, Response, StatusReport};

use crate::failure::{Ending, Failure};
use crate::point_at::point;
use crate::session::Session;
use crate::show;

/// Say what is owed and what needs attention at a site
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Exit with 3 where something is owed or needs attention, for timers and scripts
    #[arg(long)]
    check: bool,
}

impl StatusArgs {
    /// The node's, with how old what is known of its files is.
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let contact = session.contact().await?;
        let status = contact.ask(&Request::Status).await?;
        // A node of an older version does not know the question.
        let scrub = contact.ask(&Request::Scrub).await;
        let lead = contact.ask(&Request::Lead).await;
        match (&status, scrub) {
            (Response::Status(report), Ok(Response::Scrub(scrub))) if !session.out.is_json() => {
                if let Ok(Response::Lead(lead)) = &lead {
                    session.out.text(&format!("{}\n", show::lead_line(lead)))?;
                }
                session.out.text(&show::status(report, &scrub, session.out.face()))?;
            }
            _ => session.out.answer(&status)?,
        }
        match status {
            Response::Status(report) if self.check && !is_clear(&report) => Ok(Ending::Gaps),
            _ => Ok(Ending::Done),
        }
    }
}

const fn is_clear(report: &StatusReport) -> bool {
    report.debts.is_empty() && report.alarms.is_empty()
}

/// List the recovery points and the state of every copy
#[derive(Args, Debug)]
pub(crate) struct PointsArgs {
    /// Of this workload only
    workload: Option<WorkloadName>,
}

impl PointsArgs {
    pub(crate) fn request(self) -> Request {
        Request::Points { workload: self.workload }
    }
}

/// Say where a point is, copy by copy, and why it is kept
#[derive(Args, Debug)]
pub(crate) struct WhyArgs {
    /// An id, its last 8 or more digits, or latest:WORKLOAD
    #[arg(value_parser = point())]
    point: PointRef,
}

impl WhyArgs {
    pub(crate) fn request(self) -> Request {
        Request::Why { point: self.point }
    }
}

/// Show who did what; the chain of records is checked on the way
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    /// How many records, newest first
    #[arg(long, short = 'n', default_value_t = 50)]
    most: u32,
}

impl AuditArgs {
    pub(crate) const fn request(&self) -> Request {
        Request::Audit { most: self.most }
    }
}
