//! `postgres dump`: one database or some tables out of a point, for `pg_restore`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{FromArgs, ScratchArgs};
use crate::failure::{Ending, Failure};
use crate::human;
use crate::postgres::{Dumped, Wish, dump};
use crate::session::Session;

/// Dump a database or tables out of a point, by a scratch server, for pg_restore
#[derive(Args, Debug)]
pub(super) struct DumpArgs {
    #[command(flatten)]
    from: FromArgs,
    /// The database
    #[arg(long, value_name = "NAME")]
    database: String,
    /// Only this table, or those of this pattern, as pg_dump takes it; may be repeated
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// The file to write, in the custom format of pg_dump
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    scratch: ScratchArgs,
}

impl DumpArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let output = std::path::absolute(&self.output)?;
        let origin = self.from.origin(session, &self.scratch.beside()).await?;
        let wish = Wish {
            database: self.database,
            tables: self.table,
            output,
            recovery: self.from.recovery()?,
            scratch: self.scratch.scratch,
            bin: self.scratch.bin,
            superuser: self.scratch.superuser,
            patience: Duration::from_secs(self.scratch.patience),
        };
        let shown = wish.output.display().to_string();
        let dumped = dump(session, &origin, &self.from.point, wish).await?;
        session.out.either(&dumped, |_| told(&shown, &dumped))?;
        for problem in &dumped.problems {
            session.out.remark(&format!("not as it was: {problem}"));
        }
        Ok(if dumped.problems.is_empty() { Ending::Done } else { Ending::Gaps })
    }
}

fn told(output: &str, dumped: &Dumped) -> String {
    format!(
        "dumped {} into {output}, by postgresql {}\npg_restore puts it into a server\n",
        human::bytes(dumped.bytes),
        dumped.version,
    )
}
