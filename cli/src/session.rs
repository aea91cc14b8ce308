//! What every command is given: who asks, which site, how to print, what time it is.

use std::path::PathBuf;
use std::sync::Arc;

use strongroom_protocol::admin::{Request, Response};
use strongroom_protocol::{Clock, SiteName};

use crate::failure::{Ending, Failure};
use crate::human;
use crate::operator::{Contact, OperatorHome};
use crate::output::Output;

/// From here on a person is reminded to renew, in seconds: a week.
const REMIND_SECONDS: i64 = 7 * 24 * 60 * 60;

/// One run of the tool.
pub(crate) struct Session {
    pub(crate) home: PathBuf,
    pub(crate) site: Option<SiteName>,
    pub(crate) out: Output,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Session {
    /// The operator's home.
    pub(crate) fn operator(&self) -> Result<OperatorHome, Failure> {
        Ok(OperatorHome::open(&self.home)?)
    }

    /// The node of the site that was named, or of the first.
    pub(crate) async fn contact(&self) -> Result<Contact, Failure> {
        self.contact_at(self.site.as_ref()).await
    }

    /// The node of a site.
    pub(crate) async fn contact_at(&self, site: Option<&SiteName>) -> Result<Contact, Failure> {
        let contact = self.operator()?.connect(site, Arc::clone(&self.clock)).await?;
        let now = self.clock.now();
        if contact.until.seconds_since(now) < REMIND_SECONDS {
            let site = &contact.context.site;
            let left = human::relative(contact.until, now);
            self.out.remark(&format!(
                "your certificate for {site} ends {left}: `strongroom operator renew NODE_DIR` on \
                 the host with the authority of {site}, or enrol again with a token"
            ));
        }
        Ok(contact)
    }

    /// Asks one question.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Response, Failure> {
        Ok(self.contact().await?.ask(request).await?)
    }

    /// Asks one question and prints the answer.
    pub(crate) async fn tell(&self, request: &Request) -> Result<Ending, Failure> {
        let answer = self.ask(request).await?;
        self.out.answer(&answer)?;
        Ok(Ending::Done)
    }
}

/// An answer to something else than was asked: a node of another version.
pub(crate) fn unexpected() -> Failure {
    Failure::new("the node answered something else than was asked")
        .hint("does it run another version of this software?")
}

/// Runs what waits for disks or blobs where it keeps nobody else waiting.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await?
}
