//! `run`: this one program is every node too, for hosts where one file is all there is.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use strongroom_agent::run as run_agent;
use strongroom_coordinator::Coordinator;
use strongroom_node::home::Home;
use strongroom_node::lead::{LeadBook, Standing};
use strongroom_node::run::until_free;
use strongroom_protocol::{Clock, Role};
use strongroom_proxy::Proxy;
use tokio_util::sync::CancellationToken;

use crate::failure::{Ending, Failure};
use crate::session::Session;

/// Run a node until SIGTERM or SIGINT
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// coordinator, agent or proxy
    role: Role,
    /// The node's directory
    dir: PathBuf,
}

impl RunArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let home = Home::open_as(&self.dir, self.role)?;
        strongroom_node::log::start(home.settings().log, "info");
        let stop = CancellationToken::new();
        strongroom_node::run::stop_on_signal(stop.clone());
        let clock = Arc::clone(&session.clock);
        match self.role {
            Role::Agent => run_agent(home, clock, stop).await?,
            Role::Coordinator => {
                let coordinator = Coordinator::open(home, clock)?;
                tracing::info!(address = %coordinator.address()?, "listening");
                coordinator.run(stop).await?;
            }
            Role::Proxy => run_proxy(home, clock, stop).await?,
            Role::Operator => {
                return Err(Failure::usage("an operator is no node: nothing to run"));
            }
        }
        Ok(Ending::Done)
    }
}

/// A proxy, or what its home is while its site leads in the place of another: in turn, as two
/// persons order.
async fn run_proxy(
    home: Home,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    while !stop.is_cancelled() {
        if let Some(listen) = home.settings().listen {
            until_free(listen).await;
        }
        let (home, clock) = (home.clone(), Arc::clone(&clock));
        if LeadBook::open(&home)?.standing() == Standing::Follows {
            let proxy = Proxy::open(home, clock)?;
            tracing::info!(address = %proxy.address()?, "listening");
            proxy.run(stop.clone()).await;
        } else {
            let coordinator = Coordinator::open(home, clock)?;
            tracing::info!(address = %coordinator.address()?, "listening, and leading");
            coordinator.run(stop.clone()).await?;
        }
    }
    Ok(())
}
