//! `postgres wal-fetch`: one file of the log, for the `restore_command` of a server. Its exit
//! codes are what PostgreSQL reads: 0 for a file, 1 where there is none, and one above 125 for
//! everything else, by which a recovery is broken off instead of ending too early.

use std::path::PathBuf;

use clap::Args;
use strongroom_protocol::WorkloadName;

use crate::commands::restore::CopyArgs;
use crate::failure::{Ending, Failure};
use crate::postgres::{Found, fetch};
use crate::session::Session;

use super::origin;

/// The word on the command line.
pub(crate) const WORD: &str = "wal-fetch";
/// Breaks a recovery off: 126, 127 and what signals make of a process mean something else.
pub(crate) const BROKEN_OFF: u8 = 200;

/// Fetch one file of the log, as restore_command = 'strongroom postgres wal-fetch --wal-from
/// WORKLOAD %f %p'
#[derive(Args, Debug)]
pub(super) struct FetchArgs {
    /// The workload whose points hold the log
    #[arg(long, value_name = "WORKLOAD")]
    wal_from: WorkloadName,
    #[command(flatten)]
    copy: CopyArgs,
    /// The name of the file (%f)
    #[arg(value_name = "NAME")]
    name: String,
    /// Where it is to go (%p)
    #[arg(value_name = "PATH")]
    target: PathBuf,
}

impl FetchArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        self.found(session).await.map_err(|failure| failure.with_code(BROKEN_OFF))
    }

    async fn found(self, session: &Session) -> Result<Ending, Failure> {
        let target = std::path::absolute(&self.target)?;
        let origin = origin(session, &self.copy, &target).await?;
        let found = fetch(session, &origin, (&self.wal_from, &self.name), &target).await;
        origin.tidy()?;
        match found? {
            Found::Written => Ok(Ending::Done),
            Found::Nowhere => {
                let (workload, name) = (&self.wal_from, &self.name);
                session.out.remark(&format!("no point of {workload} has {name}"));
                Ok(Ending::Absent)
            }
        }
    }
}
