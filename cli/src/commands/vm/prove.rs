//! `vm prove`: a machine restored and booted, its guest asked, and everything thrown away.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::Value;
use strongroom_agent::vmlab::{Accel, MEMORY_MIB, Machine, Setup, Writes};
use strongroom_protocol::admin::PointRef;

use super::ask::{AskArgs, Asking, told};
use super::{described, description, restore};
use crate::commands::restore::CopyArgs;
use crate::failure::{Ending, Failure};
use crate::point_at::point;
use crate::session::{Session, blocking};

/// Restore a machine, boot it without a network, and wait until its guest answers
#[derive(Args, Debug)]
pub(super) struct VmProveArgs {
    /// A point: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    /// Where to restore it meanwhile; a temporary directory otherwise
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    copy: CopyArgs,
}

impl VmProveArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let temporary = tempfile::tempdir()?;
        let to = self.to.clone().unwrap_or_else(|| temporary.path().join("restored"));
        let quiet = Session {
            home: session.home.clone(),
            site: session.site.clone(),
            out: session.out.without_answers(),
            clock: session.clock.clone(),
        };
        let restore = restore(self.copy, self.point, &to, Vec::new());
        if restore.run(&quiet).await? != Ending::Done {
            return Err(Failure::new("the machine was not restored whole, and is not booted"));
        }
        let asking = self.ask.asking();
        let place = temporary.path().join("machine");
        let proved = blocking(move || prove(&to, &place, asking)).await?;
        drop(temporary);
        session.out.either(&proved, |_| told(&proved))?;
        match proved["proved"] == true {
            true => Ok(Ending::Done),
            false => Err(Failure::new("the machine booted, and what its guest was asked failed")),
        }
    }
}

/// Boots what was restored into `dir`, and asks its guest; nothing of it is changed.
fn prove(dir: &Path, place: &Path, asking: Asking) -> Result<Value, Failure> {
    let about = description(dir)?;
    std::fs::create_dir_all(place)?;
    let memory = about["machine"]["memory_bytes"].as_u64().unwrap_or_default() >> 20;
    let (disks, memory_mib) = (described(dir)?, memory.max(MEMORY_MIB));
    let (boot, began) = (asking.boot(place)?, Instant::now());
    let (writes, accel, more) = (Writes::Thrown, Accel::Tcg, Vec::new());
    let setup = Setup { disks, boot, writes, memory_mib, accel, more };
    let mut machine = Machine::start(place, &setup)?;
    machine.await_agent(asking.patience)?;
    let booted = began.elapsed();
    asking.ask(&mut machine, &about, booted)
}
