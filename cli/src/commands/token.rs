//! `token`: one-time rights to become a node or an operator.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use strongroom_certs::{TokenBook, TokenState};
use strongroom_protocol::admin::Request;
use strongroom_protocol::{NodeName, Role};

use crate::failure::{Ending, Failure, While};
use crate::human;
use crate::session::Session;
use crate::show::{Align, Sheet};

/// One-time rights to become a node or an operator
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    order: TokenOrder,
}

#[derive(Subcommand, Debug)]
enum TokenOrder {
    /// Make a token; it is shown once
    Create {
        /// agent, proxy or operator
        role: Role,
        /// The name of the node or operator it is for
        name: NodeName,
        /// How long it may be used, in minutes
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10080))]
        minutes: u32,
    },
    /// List the tokens of a node, on its own host
    List {
        /// The node's directory
        node_dir: PathBuf,
    },
}

impl TokenArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        match self.order {
            TokenOrder::Create { role, name, minutes } => {
                let seconds_valid = minutes.saturating_mul(60);
                session.tell(&Request::TokenCreate { role, name, seconds_valid }).await
            }
            TokenOrder::List { node_dir } => list(session, &node_dir),
        }
    }
}

/// There is no question for it: the book is read where it lies.
fn list(session: &Session, dir: &std::path::Path) -> Result<Ending, Failure> {
    strongroom_node::home::Home::open(dir)?;
    let book = TokenBook::open(&dir.join("tokens.json")).doing("cannot read the tokens")?;
    let rows = book.rows(session.clock.now());
    let state = |state: &TokenState| match state {
        TokenState::Used { when, by, .. } => format!("used {when} by {by}"),
        TokenState::Expired => "expired".to_owned(),
        _ => "waiting".to_owned(),
    };
    let json: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "id": row.id, "site": row.site, "role": row.role, "name": row.name,
                "created": row.created, "expires": row.expires, "state": row.state,
            })
        })
        .collect();
    session.out.either(&json, |face| {
        let columns = [
            ("TOKEN", Align::Left),
            ("ROLE", Align::Left),
            ("NAME", Align::Left),
            ("EXPIRES", Align::Left),
            ("STATE", Align::Left),
        ];
        let mut sheet = Sheet::new(&columns, "no tokens", face);
        for row in &rows {
            sheet.row([
                row.id.clone(),
                row.role.to_string(),
                row.name.as_ref().map_or_else(|| "any".to_owned(), ToString::to_string),
                human::relative(row.expires, face.now),
                state(&row.state),
            ]);
        }
        sheet.finish()
    })?;
    Ok(Ending::Done)
}
