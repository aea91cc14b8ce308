//! One question of an operator over a link: one stream, one request, one answer.

use strongroom_protocol::admin::{Request, Response};
use strongroom_protocol::link::{Link, LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Opened, Opening, Refusal};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The connection failed.
    #[error("the conversation failed")]
    Link(#[from] LinkError),
    /// The node refused.
    #[error("refused")]
    Refused(#[source] Refusal),
}

/// Opens a stream for `opening` and waits until it is granted.
pub async fn open(link: &Link, opening: Opening) -> Result<(Sender, Receiver), AskError> {
    let (mut sender, mut receiver) = link.open().await?;
    sender.send(&opening).await?;
    match receiver.expect::<Opened>().await?.0 {
        Opened::Granted => Ok((sender, receiver)),
        Opened::Refused(refusal) => Err(AskError::Refused(refusal)),
    }
}

/// Asks `request`; a refusal by the node is an error here.
pub async fn ask(link: &Link, request: &Request) -> Result<Response, AskError> {
    let (mut sender, mut receiver) = open(link, Opening::Admin).await?;
    sender.send(request).await?;
    sender.finish();
    match receiver.expect::<Response>().await?.0 {
        Response::Refused(refusal) => Err(AskError::Refused(refusal)),
        answer => Ok(answer),
    }
}
