//! `jobs`: what is being done and what was done; finding a job by its last digits.

use clap::{Args, Subcommand};
use strongroom_protocol::JobId;
use strongroom_protocol::admin::{JobRow, Live, Request, Response};

use crate::failure::{Ending, Failure};
use crate::operator::Contact;
use crate::session::{Session, unexpected};

/// Among how many jobs one is looked for by its last digits.
const LOOKED_AT_MAX: u32 = 1000;

/// What is being done, and what was done: by itself, the list
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct JobsArgs {
    #[command(subcommand)]
    order: Option<JobsOrder>,
    #[command(flatten)]
    list: ListArgs,
}

/// Which jobs are listed.
#[derive(Args, Debug)]
struct ListArgs {
    /// Those not ended only
    #[arg(long)]
    live: bool,
    /// How many at most
    #[arg(long, short = 'n', default_value_t = 30)]
    most: u32,
}

#[derive(Subcommand, Debug)]
enum JobsOrder {
    /// List jobs, newest first
    List(ListArgs),
    /// Show a job with everything that happened to it
    Show {
        /// An id, or its last digits
        job: String,
    },
    /// Stop a job; what it began is undone
    Cancel {
        /// An id, or its last digits
        job: String,
    },
}

impl JobsArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let contact = session.contact().await?;
        let request = match self.order.unwrap_or(JobsOrder::List(self.list)) {
            JobsOrder::List(ListArgs { live, most }) => {
                Request::Jobs { live: if live { Live::Only } else { Live::All }, most }
            }
            JobsOrder::Show { job } => Request::Job { job: resolve(&contact, &job).await? },
            JobsOrder::Cancel { job } => Request::Cancel { job: resolve(&contact, &job).await? },
        };
        session.out.answer(&contact.ask(&request).await?)?;
        Ok(Ending::Done)
    }
}

async fn resolve(contact: &Contact, text: &str) -> Result<JobId, Failure> {
    if let Ok(job) = text.parse() {
        return Ok(job);
    }
    let request = Request::Jobs { live: Live::All, most: LOOKED_AT_MAX };
    match contact.ask(&request).await? {
        Response::Jobs(rows) => find(&rows, text),
        _ => Err(unexpected()),
    }
}

fn find(rows: &[JobRow], text: &str) -> Result<JobId, Failure> {
    let plain = |text: &str| text.replace('-', "").to_ascii_lowercase();
    let wanted = plain(text);
    let fits = |row: &&JobRow| wanted.len() >= 4 && plain(&row.id.to_string()).ends_with(&wanted);
    let found: Vec<JobId> = rows.iter().filter(fits).map(|row| row.id).collect();
    match found.as_slice() {
        [job] => Ok(*job),
        [] => {
            Err(Failure::new(format!("no job {text} is known")).hint("see `strongroom jobs list`"))
        }
        several => {
            Err(Failure::new(format!("{text} fits {} jobs: give more digits", several.len())))
        }
    }
}

#[cfg(test)]
mod tests {
    use strongroom_protocol::control::Progress;
    use strongroom_protocol::{PointId, Timestamp};

    use super::*;

    #[test]
    fn a_job_is_found_by_digits_that_fit_only_it() {
        let row = |last: u8| JobRow {
            id: JobId::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0xcd, 0xef, last]),
            kind: "protect".to_owned(),
            subject: "web".to_owned(),
            node: None,
            state: "running".to_owned(),
            detail: String::new(),
            step: None,
            created: Timestamp(0),
            ended: None,
            progress: Progress::default(),
            point: None::<PointId>,
        };
        let rows = [row(1), row(2), row(0x12)];
        assert_eq!(find(&rows, "EF01").unwrap(), rows[0].id);
        assert!(find(&rows, "ef0").is_err(), "too few digits");
        assert!(find(&rows, "ffff").unwrap_err().to_string().contains("jobs list"));
        let twins = [row(1), row(1)];
        assert!(find(&twins, "ef01").unwrap_err().to_string().contains("2 jobs"));
    }
}
