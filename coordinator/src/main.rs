//! `strongroom-coordinator DIR`: runs the coordinator whose directory DIR is, until SIGTERM
//! or SIGINT.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use strongroom_coordinator::Coordinator;
use strongroom_node::home::Home;
use strongroom_protocol::{Role, SystemClock};
use tokio_util::sync::CancellationToken;

/// Decides and remembers for a site.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The coordinator's directory, as `strongroom init` made it.
    home: PathBuf,
}

fn main() -> anyhow::Result<()> {
    strongroom_node::memory::set_up();
    let home = Home::open_as(&Arguments::parse().home, Role::Coordinator)?;
    strongroom_node::log::start(home.settings().log, "info");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        strongroom_node::run::stop_on_signal(stop.clone());
        let coordinator = Coordinator::open(home, Arc::new(SystemClock))?;
        tracing::info!(address = %coordinator.address()?, "listening");
        coordinator.run(stop).await
    })?;
    Ok(())
}
