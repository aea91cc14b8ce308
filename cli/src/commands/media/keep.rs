//! `media export`, `import`, `vault`, `lost`, `copy`, `refresh`: where cartridges are, and what is
//! renewed. Asked at the node that has the library. What must be fetched first is named, and waited
//! for where that is wanted.

use std::time::Duration;

use clap::Subcommand;
use strongroom_protocol::MediaSetName;
use strongroom_protocol::admin::{CartridgeOrder, Request, Response};
use strongroom_protocol::opening::RefusalKind;

use crate::failure::{Ending, Failure};
use crate::operator::OperatorError;
use crate::session::Session;

/// Between two looks whether cartridges came: a person puts them in.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

#[derive(Subcommand, Debug)]
pub(super) enum KeepOrder {
    /// Move cartridges to mail slots, to be taken out of the library
    Export {
        #[arg(required = true, value_name = "BARCODE")]
        barcodes: Vec<String>,
    },
    /// Take in what lies in the mail slots
    Import,
    /// Say where cartridges were taken that left the library; they still hold their copies
    Vault {
        #[arg(required = true, value_name = "BARCODE")]
        barcodes: Vec<String>,
        /// Where they are now, as a person will look for them
        #[arg(long, value_name = "TEXT")]
        place: String,
    },
    /// Say that cartridges are gone for good: what lay only on them is owed again
    Lost {
        #[arg(required = true, value_name = "BARCODE")]
        barcodes: Vec<String>,
    },
    /// Copy a cartridge, with what its points need of its set, to another set
    Copy {
        #[arg(value_name = "BARCODE")]
        barcode: String,
        /// The set that gets the copy
        #[arg(long, value_name = "SET")]
        to: MediaSetName,
        /// Where cartridges must be fetched first, wait this long for them
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
    },
    /// Copy cartridges to younger ones of their sets; each is retired once its copy was read back
    Refresh {
        #[arg(required_unless_present = "due", conflicts_with = "due", value_name = "BARCODE")]
        barcodes: Vec<String>,
        /// Those that are due by their age or damage
        #[arg(long)]
        due: bool,
    },
}

impl KeepOrder {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let (order, wait) = match self {
            Self::Export { barcodes } => (CartridgeOrder::Export { barcodes }, 0),
            Self::Import => (CartridgeOrder::Import, 0),
            Self::Vault { barcodes, place } => (CartridgeOrder::Vault { barcodes, place }, 0),
            Self::Lost { barcodes } => (CartridgeOrder::Lost { barcodes }, 0),
            Self::Copy { barcode, to, wait } => (CartridgeOrder::Copy { barcode, set: to }, wait),
            Self::Refresh { barcodes, .. } => (CartridgeOrder::Refresh { barcodes }, 0),
        };
        let request = Request::Cartridges { order };
        let contact = session.contact().await?;
        let until = session.clock.now().plus_seconds(i64::try_from(wait).unwrap_or(i64::MAX));
        let mut is_told = false;
        loop {
            match contact.ask(&request).await {
                Ok(answer) => {
                    session.out.answer(&answer)?;
                    return Ok(Ending::Done);
                }
                Err(OperatorError::Refused { source, .. })
                    if source.kind == RefusalKind::Away && session.clock.now() < until =>
                {
                    if !is_told {
                        session.out.remark(&format!("{}; waiting for them", source.text));
                        is_told = true;
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Cartridges with where they are; a coordinator tells what media it knows of.
pub(super) async fn list(session: &Session) -> Result<Ending, Failure> {
    let contact = session.contact().await?;
    let order = CartridgeOrder::List;
    let answer: Response = match contact.ask(&Request::Cartridges { order }).await {
        Err(OperatorError::Refused { source, .. }) if source.kind == RefusalKind::Forbidden => {
            contact.ask(&Request::Media).await?
        }
        other => other?,
    };
    session.out.answer(&answer)?;
    Ok(Ending::Done)
}
