//! `enrol`: this host becomes a node, or this person an operator.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use strongroom_protocol::{NodeName, Role};

use crate::enrol::{EnrolOrder, Moving, enrol};
use crate::failure::{Ending, Failure};
use crate::session::Session;

/// Redeem a token: become an agent, make a proxy known, or become an operator
#[derive(Args, Debug)]
pub(crate) struct EnrolArgs {
    /// The directory of the node, or the home of the operator
    dir: PathBuf,
    /// The token, as `strongroom token create` printed it
    token: String,
    /// A name, where the token gives none
    #[arg(long)]
    name: Option<NodeName>,
    /// Where the node listens (UDP), if it does
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// For an agent: its home is of another site and moves; what it remembers stays
    #[arg(long = "move")]
    moves: bool,
    /// For an operator: the token is a proxy's
    #[arg(long)]
    at_proxy: bool,
}

impl EnrolArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let answers = if self.at_proxy { Role::Proxy } else { Role::Coordinator };
        let moving = if self.moves { Moving::Allowed } else { Moving::No };
        let Self { dir, token, name, listen, .. } = self;
        let order = EnrolOrder { dir: dir.clone(), token, name, listen, moving, answers };
        let identity = enrol(&order, Arc::clone(&session.clock)).await?;
        session.out.either(&serde_json::json!({ "identity": identity.to_string() }), |_| {
            let next = match identity.role {
                Role::Operator => format!("export STRONGROOM_HOME={}", dir.display()),
                role => format!("strongroom run {role} {}", dir.display()),
            };
            format!("enrolled as {identity}\nnext: {next}\n")
        })?;
        Ok(Ending::Done)
    }
}
