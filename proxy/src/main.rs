//! `strongroom-proxy DIR`: runs the proxy whose directory DIR is, until SIGTERM or SIGINT.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use strongroom_node::home::Home;
use strongroom_protocol::{Role, SystemClock};
use strongroom_proxy::{After, Proxy};
use tokio_util::sync::CancellationToken;

/// Holds the copies at the other site.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The proxy's directory, as `strongroom init` made it.
    home: PathBuf,
}

fn main() -> anyhow::Result<()> {
    strongroom_node::memory::set_up();
    let dir = Arguments::parse().home;
    let home = Home::open_as(&dir, Role::Proxy)?;
    strongroom_node::log::start(home.settings().log, "info");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        strongroom_node::run::stop_on_signal(stop.clone());
        let proxy = Proxy::open(home, Arc::new(SystemClock))?;
        tracing::info!(address = %proxy.address()?, "listening");
        match proxy.run(stop).await {
            After::Stopped => anyhow::Ok(()),
            After::Leads => anyhow::bail!(
                "two persons ordered that this site leads: this program is a proxy only, go on \
                 with `strongroom run proxy {}`",
                dir.display()
            ),
        }
    })
}
