//! Points whose application is started: a cluster restored beside the drill and asked, a machine
//! booted from the point itself.

use strongroom_protocol::admin::PointRef;
use strongroom_protocol::control::Shown;

use super::asking::Settings;
use super::{Ground, Outcome};
use crate::commands::drill_machine;
use crate::failure::Failure;
use crate::postgres::{Log, Origin, Recovery, Trial, Until, prove};
use crate::proving::Tried;
use crate::session::Session;

/// A superuser and a database that nearly every cluster has.
const USUAL: &str = "postgres";

/// Restores a cluster, starts its server, and asks it.
pub(super) async fn postgres(session: &Session, ground: Ground) -> Result<Outcome, Failure> {
    let settings = Settings(&ground.settings);
    let trial = Trial {
        scratch: Some(ground.place.clone()),
        bin: settings.path("bin"),
        recovery: Recovery { until: Until::Latest, log: Log::Own },
        database: settings.first("database").unwrap_or_else(|| USUAL.to_owned()),
        queries: settings.all("query"),
        superuser: settings.first("superuser").unwrap_or_else(|| USUAL.to_owned()),
        patience: settings.patience(),
    };
    let point = PointRef::Id(ground.scene.manifest.head.point.to_string());
    let origin = Origin::Here { scene: Box::new(ground.scene), keys: ground.keys };
    let proof = prove(session, &origin, &point, trial).await?;
    let Tried { outcome, took, detail, .. } = proof.tried();
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Ok(Outcome { shown: outcome, took_ms, detail })
}

/// Boots a machine straight from its point, and asks its guest.
pub(super) async fn vm(session: &Session, ground: Ground) -> Result<Outcome, Failure> {
    let settings = Settings(&ground.settings);
    let asked = crate::commands::MachineAsked {
        checks: settings.all("check"),
        kernel: settings.path("boot_kernel").zip(settings.path("boot_initrd")),
        words: settings.first("boot_append").unwrap_or_default(),
        patience: settings.patience(),
        kvm: settings.first("accel").is_some_and(|word| word == "kvm"),
    };
    let dir = ground.place.join("vm");
    let tried = drill_machine(session, ground.scene.clone(), asked, &dir, ground.began).await?;
    let took_ms = u64::try_from(tried.took.as_millis()).unwrap_or(u64::MAX);
    let shown = if tried.outcome == Shown::Held { Shown::Held } else { Shown::Failed };
    Ok(Outcome { shown, took_ms, detail: tried.detail })
}
