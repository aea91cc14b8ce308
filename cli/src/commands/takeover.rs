//! `takeover`, `giveback`: which site leads, by the word of two persons.

use clap::{Args, Subcommand};
use strongroom_protocol::LeadOrder;
use strongroom_protocol::admin::Request;

use crate::failure::{Ending, Failure};
use crate::session::Session;

/// Have a proxy's site lead in the place of one that is lost; needs two persons
#[derive(Args, Debug)]
pub(crate) struct TakeoverArgs {
    #[command(subcommand)]
    order: Order,
}

/// Have the site that led before lead again, once it lacks nothing; needs two persons
#[derive(Args, Debug)]
pub(crate) struct GivebackArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Subcommand, Debug)]
enum Order {
    /// The first person orders it
    Propose {
        /// Why; it is recorded
        #[arg(long)]
        reason: String,
    },
    /// Another person orders it too, within an hour: it is done then
    Confirm {
        /// The proposal, as it was shown to the first person
        proposal: String,
    },
    /// Who leads, and what waits for a second person
    Show,
}

impl Order {
    fn request(self, order: LeadOrder) -> Request {
        match self {
            Self::Propose { reason } => Request::LeadPropose { order, why: reason },
            Self::Confirm { proposal } => Request::LeadConfirm { proposal },
            Self::Show => Request::Lead,
        }
    }
}

impl TakeoverArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        session.tell(&self.order.request(LeadOrder::TakeOver)).await
    }
}

impl GivebackArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        session.tell(&self.order.request(LeadOrder::GiveBack)).await
    }
}
