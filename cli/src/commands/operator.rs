//! `operator`: an operator's own certificate, renewed where a site's authority lies.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use strongroom_certs::Authority;
use strongroom_node::home::Home;

use crate::failure::{Ending, Failure, While};
use crate::human;
use crate::session::Session;
use crate::setup::issue_operator;

/// Your own certificates
#[derive(Args, Debug)]
pub(crate) struct OperatorArgs {
    #[command(subcommand)]
    order: OperatorOrder,
}

#[derive(Subcommand, Debug)]
enum OperatorOrder {
    /// Renew the certificate for a site, on the host that holds its authority
    Renew {
        /// The directory of the site's coordinator or proxy
        node_dir: PathBuf,
    },
}

impl OperatorArgs {
    pub(crate) fn run(self, session: &Session) -> Result<Ending, Failure> {
        let OperatorOrder::Renew { node_dir } = self.order;
        let home = session.operator()?;
        let place = Home::open(&node_dir)?.authority();
        let authority = Authority::open(&place).doing("cannot open the site's authority")?;
        let site = authority.site().clone();
        home.context(Some(&site))?;
        let credential = issue_operator(&authority, &home.settings().name, session.clock.now())?;
        credential.save(&home.credential_dir(&site)).doing("cannot save the certificate")?;
        let until = credential.peer().not_after;
        session.out.either(&serde_json::json!({ "site": site, "until": until }), |face| {
            let end = human::moment(until, &face.zone);
            format!("your certificate for {site} is good until {end}\n")
        })?;
        Ok(Ending::Done)
    }
}
