//! `completions` and `man`: what shells and readers want of the command line itself.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::failure::{Ending, Failure, While};
use crate::session::Session;

/// Print completions for a shell
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

impl CompletionsArgs {
    pub(crate) fn run(self, session: &Session, mut command: Command) -> Result<Ending, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "strongroom", &mut script);
        session.out.text(&String::from_utf8_lossy(&script))?;
        Ok(Ending::Done)
    }
}

/// Write the manual pages into a directory
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    dir: PathBuf,
}

impl ManArgs {
    pub(crate) fn run(self, session: &Session, command: Command) -> Result<Ending, Failure> {
        let shown = self.dir.display();
        std::fs::create_dir_all(&self.dir).doing(format!("cannot make {shown}"))?;
        clap_mangen::generate_to(command, &self.dir).doing(format!("cannot write to {shown}"))?;
        session.out.remark(&format!("manual pages are in {shown}"));
        Ok(Ending::Done)
    }
}
