//! A machine booted from its point for a drill: it answers, is asked, and is thrown away.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use strongroom_protocol::Chain;
use tokio_util::sync::CancellationToken;

use super::ask::{Asking, MachineAsked};
use super::boot::{Booted, Running, Speed, boot, end};
use super::prove::tried;
use crate::booting::{Kept, Place};
use crate::failure::Failure;
use crate::proving::Tried;
use crate::scene::Scene;
use crate::session::{Session, blocking};

/// Boots and asks a machine in `dir`. A guest that does not answer, or answers wrongly, is an
/// outcome; that the machine cannot be started here is an error.
pub(crate) async fn drill_machine(
    session: &Session,
    scene: Scene,
    asked: MachineAsked,
    dir: &Path,
    began: Instant,
) -> Result<Tried, Failure> {
    let (place, unread) = (Place::make(dir, None)?, CancellationToken::new());
    let speed = if asked.kvm { Speed::Kvm } else { Speed::Tcg };
    let asking = Asking::from(asked);
    let point = scene.manifest.head.point;
    let Booted { running, about, mut serving, .. } =
        boot(session, &scene, speed, &asking, &place, &unread).await?;
    let (running, proved, answered) = blocking(move || {
        let mut running: Running = running;
        let waited = running.machine.await_agent(asking.patience).map(drop);
        let answered = began.elapsed();
        let silent = |why: String| json!({ "checks": [], "why": why });
        let proved = match waited {
            Err(error) => silent(Chain(&error).to_string()),
            // A guest that dies over a question did not answer it.
            Ok(()) => asking
                .ask(&mut running.machine, &about, answered)
                .unwrap_or_else(|failure| silent(failure.to_string())),
        };
        Ok((running, proved, answered))
    })
    .await?;
    end(running, Kept::Not).await?;
    unread.cancel();
    while serving.join_next().await.is_some() {}
    place.clear(Kept::Not)?;
    let told = tried(&proved, point, std::time::Duration::ZERO);
    Ok(Tried { took: answered, ..told })
}
