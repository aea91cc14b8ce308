//! `strongroom-agent DIR`: runs the agent whose directory DIR is, until SIGTERM or SIGINT.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use strongroom_node::home::Home;
use strongroom_protocol::{Role, SystemClock};
use tokio_util::sync::CancellationToken;

/// Runs on a protected host: reads what is quiet, sends it, forgets it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The agent's directory, as `strongroom enrol` made it.
    home: PathBuf,
}

fn main() -> anyhow::Result<()> {
    strongroom_node::memory::set_up();
    if std::env::args_os().nth(1).is_some_and(|word| word == strongroom_agent::holder::HOLDER_WORD)
    {
        anyhow::ensure!(strongroom_agent::hold_freeze(), "something may still be frozen");
        return Ok(());
    }
    let home = Home::open_as(&Arguments::parse().home, Role::Agent)?;
    strongroom_node::log::start(home.settings().log, "info");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        strongroom_node::run::stop_on_signal(stop.clone());
        strongroom_agent::run(home, Arc::new(SystemClock), stop).await
    })?;
    Ok(())
}
