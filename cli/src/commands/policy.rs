//! `policy` and `what-if`: the policy file in force, and what another would change.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use strongroom_protocol::admin::Request;

use crate::failure::{Ending, Failure, While};
use crate::session::Session;

/// The policy file: what is protected, how often, how far and how long
#[derive(Args, Debug)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    order: PolicyOrder,
}

#[derive(Subcommand, Debug)]
enum PolicyOrder {
    /// Print the policy file in force
    Show,
    /// Say what applying a file would change, point by point
    Plan {
        /// The policy file
        file: PathBuf,
    },
    /// Apply a file
    Apply {
        /// The policy file
        file: PathBuf,
    },
}

impl PolicyArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let request = match &self.order {
            PolicyOrder::Show => Request::Policy,
            PolicyOrder::Plan { file } => {
                let (file, toml) = read(file)?;
                Request::PolicyPlan { file, toml }
            }
            PolicyOrder::Apply { file } => {
                let (file, toml) = read(file)?;
                Request::PolicyApply { file, toml }
            }
        };
        session.tell(&request).await
    }
}

/// Say what another policy file would keep and expire
#[derive(Args, Debug)]
pub(crate) struct WhatIfArgs {
    /// The policy file
    file: PathBuf,
}

impl WhatIfArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let (file, toml) = read(&self.file)?;
        session.tell(&Request::WhatIf { file, toml }).await
    }
}

fn read(path: &Path) -> Result<(String, String), Failure> {
    let toml = std::fs::read_to_string(path)
        .doing(format!("cannot read the policy file {}", path.display()))?;
    let name =
        path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok((name, toml))
}
