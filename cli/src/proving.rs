//! What came of starting an application from a point, told to the node the point was read from,
//! so that the proof is on record with its copy. Cartridges are nobody's word: what was read from
//! media is told only where a person says which copy they are. A proof that could not be told is
//! named as that; it is no less true.

use std::time::Duration;

use clap::Args;
use strongroom_protocol::admin::{Request, Response};
use strongroom_protocol::control::{STARTED, Showing, Shown};
use strongroom_protocol::{CopyName, PointId};

use crate::commands::copy_site;
use crate::failure::{Ending, Failure, While};
use crate::operator::Contact;
use crate::session::{Session, unexpected};

// A doc comment here would stand as what the command is for, in each that is made of it.
#[derive(Args, Debug)]
pub(crate) struct RecordArgs {
    /// With --media: the cartridges are this copy of the policy, and its proof is recorded
    #[arg(long, value_name = "COPY", requires = "media")]
    pub(crate) record: Option<CopyName>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) point: PointId,
    pub(crate) outcome: Shown,
    /// From the order until the application answered.
    pub(crate) took: Duration,
    pub(crate) detail: String,
}

/// Tells it to the node the point was read from, or of media to whoever answers.
pub(crate) async fn tell(
    session: &Session,
    reader: Option<&Contact>,
    record: RecordArgs,
    tried: Tried,
) -> Ending {
    let Tried { point, outcome, took, detail } = tried;
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let showing = Showing { level: STARTED.to_owned(), outcome, took_ms, detail };
    let told = match (reader, record.record) {
        (Some(contact), copy) => ask(contact, Request::Proven { point, copy, showing }).await,
        (None, Some(copy)) => {
            tell_somebody(session, Request::Proven { point, copy: Some(copy), showing }).await
        }
        (None, None) => return unrecorded(session),
    };
    match told.doing("the proof is not recorded") {
        Ok(text) => {
            session.out.remark(&text);
            Ending::Done
        }
        Err(failure) => {
            session.out.remark(&failure.to_string());
            Ending::Gaps
        }
    }
}

/// Says of a proof from media that nobody is told.
pub(crate) fn unrecorded(session: &Session) -> Ending {
    session.out.remark(
        "the proof is not recorded: it was read from media; with --record COPY it is, of that copy",
    );
    Ending::Done
}

async fn ask(contact: &Contact, request: Request) -> Result<String, Failure> {
    match contact.ask(&request).await? {
        Response::Done(text) => Ok(text),
        _ => Err(unexpected()),
    }
}

/// The coordinator, or with it gone the proxy, which hands it over later. What the coordinator
/// refuses, the proxy is not asked to keep.
async fn tell_somebody(session: &Session, request: Request) -> Result<String, Failure> {
    let failure = match reach(session, "primary").await {
        Ok(contact) => return ask(&contact, request).await,
        Err(failure) => failure,
    };
    match reach(session, "secondary").await {
        Ok(contact) => ask(&contact, request).await,
        Err(_) => Err(failure),
    }
}

async fn reach(session: &Session, role: &str) -> Result<Contact, Failure> {
    let site = copy_site(session, Some(role))?;
    session.contact_at(site.as_ref()).await
}
