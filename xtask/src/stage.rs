//! Where a measurement of real processes takes place, and which build it measures: what each of
//! them may be told.

use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

use crate::sites::Profile;

/// What every such measurement may be told.
#[derive(clap::Args)]
pub(crate) struct Stage {
    /// Where trees and sites are made; a temporary directory if not told
    #[arg(long)]
    dir: Option<PathBuf>,
    /// This program, instead of building one
    #[arg(long)]
    exe: Option<PathBuf>,
    /// Which build of the program is measured
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

impl Stage {
    /// The build the tests are of, in a temporary directory.
    pub(crate) const fn dev() -> Self {
        Self { dir: None, exe: None, profile: Profile::Dev }
    }

    /// The program.
    pub(crate) fn exe(&self) -> Result<PathBuf> {
        self.exe.clone().map_or_else(|| self.profile.build(), Ok)
    }

    /// A directory of this run's own; it goes with it.
    pub(crate) fn place(&self) -> Result<TempDir> {
        Ok(match &self.dir {
            Some(dir) => tempfile::tempdir_in(dir)?,
            None => tempfile::tempdir()?,
        })
    }
}
