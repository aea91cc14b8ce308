//! `verify`: what is stored is read back and checked where it lies.

use clap::Args;
use strongroom_protocol::admin::{Request, Response, VerifyDepth};

use crate::failure::{Ending, Failure};
use crate::progress::Line;
use crate::session::Session;

/// Read back and check everything stored at a site
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Open, decompress and name every blob again; without, packs are checked by their hash
    #[arg(long)]
    full: bool,
    /// Read nothing: say how old what scrubbing knows is, and what it found and healed
    #[arg(long, conflicts_with = "full")]
    age: bool,
}

impl VerifyArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        if self.age {
            return session.tell(&Request::Scrub).await;
        }
        let depth = if self.full { VerifyDepth::Plain } else { VerifyDepth::Hashes };
        let contact = session.contact().await?;
        let mut line = Line::new(&session.out);
        let request = Request::Verify { depth };
        let asked = contact.ask(&request);
        tokio::pin!(asked);
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(500));
        let answer = loop {
            tokio::select! {
                answer = &mut asked => break answer?,
                _ = tick.tick() => line.say(format!("verifying {}", contact.context.site)),
            }
        };
        line.clear();
        session.out.answer(&answer)?;
        match answer {
            Response::Verified(report)
                if !report.damaged_packs.is_empty() || !report.hurt.is_empty() =>
            {
                Err(Failure::new(format!("{} packs are damaged", report.damaged_packs.len()))
                    .hint("do not remove anything; what is hurt can be restored from another copy"))
            }
            _ => Ok(Ending::Done),
        }
    }
}
