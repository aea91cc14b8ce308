//! The process that carries out a drill for a proxy. It is told over its standard input what to
//! do, reads the repository itself, for it has no network, and leaves its answer in the drill's
//! directory. It lives as long as its standard input is open: with the proxy it ends, and with it
//! everything it started. It writes nothing but into that directory.

mod asking;
mod compare;
mod started;

use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode as Bits, chmod};
use strongroom_node::drill::{DrillAnswer, DrillOrder};
use strongroom_node::log::{LogStyle, start};
use strongroom_protocol::control::Shown;
use strongroom_protocol::drill::DrillKind;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::{AgentKeys, VaultKey};
use strongroom_store::repo::{Mode, Repo};

use crate::failure::{Ending, Failure, While};
use crate::scene::{Scene, Source};
use crate::session::{Session, blocking};

/// Where the drill's directory is seen too, by this process and what it starts alone: a short path
/// which the users of servers can walk.
const PLACE: &str = "/mnt";
/// What is left to say of a disk that is full, as the system says it.
const NO_ROOM: &str = "No space left on device";

/// What a drill works with.
struct Ground {
    scene: Scene,
    keys: AgentKeys,
    /// A directory that goes with the drill.
    place: PathBuf,
    settings: Vec<(String, String)>,
    began: Instant,
}

/// What was shown.
struct Outcome {
    shown: Shown,
    took_ms: u64,
    detail: String,
}

/// Carries out what standard input says.
pub(crate) async fn run(session: &Session) -> Result<Ending, Failure> {
    let began = Instant::now();
    start(LogStyle::Text, "warn,fuser=error");
    let (order, key) = blocking(told).await?;
    let dir = order.dir.clone();
    let session = Session {
        home: session.home.clone(),
        site: None,
        out: session.out.without_answers(),
        clock: Arc::clone(&session.clock),
    };
    let answer = match carry_out(&session, order, key, began).await {
        Ok(Outcome { shown: Shown::Failed, detail, .. }) if detail.contains(NO_ROOM) => {
            DrillAnswer::Nothing { why: detail }
        }
        Ok(Outcome { shown, took_ms, detail }) => {
            DrillAnswer::Shown { outcome: shown, took_ms, detail }
        }
        Err(failure) => DrillAnswer::Nothing { why: failure.sentence() },
    };
    answer.write(&dir)?;
    Ok(Ending::Done)
}

/// Reads the order; from then on, this process ends when its input does.
#[expect(
    clippy::disallowed_methods,
    reason = "nobody waits for an exit code: who ordered is gone, and all this started ends with it"
)]
fn told() -> Result<(DrillOrder, VaultKey), Failure> {
    let mut input = BufReader::new(io::stdin());
    let order = DrillOrder::receive(&mut input).doing("nothing was ordered")?;
    let watch = move || {
        // An error is an end too.
        let _ = io::copy(&mut input, &mut io::sink());
        std::process::exit(1);
    };
    std::thread::Builder::new().name("line".to_owned()).spawn(watch)?;
    Ok(order)
}

async fn carry_out(
    session: &Session,
    order: DrillOrder,
    key: VaultKey,
    began: Instant,
) -> Result<Outcome, Failure> {
    let kind = order.work.kind;
    let settings = order.work.settings.clone();
    let opened = blocking(move || {
        let place = placed(&order.dir)?;
        Ok(opened(&order, &key)?.map(|(scene, keys)| (scene, keys, place)))
    })
    .await?;
    let (scene, keys, place) = match opened {
        Ok(opened) => opened,
        Err(detail) => return Ok(Outcome { shown: Shown::Failed, took_ms: 0, detail }),
    };
    let ground = Ground { scene, keys, place, settings, began };
    match kind {
        DrillKind::Files => blocking(move || compare::drill(&ground)).await,
        DrillKind::Postgres => started::postgres(session, ground).await,
        DrillKind::Vm => started::vm(session, ground).await,
    }
}

/// The point, or what is wrong with it.
fn opened(
    order: &DrillOrder,
    key: &VaultKey,
) -> Result<Result<(Scene, AgentKeys), String>, Failure> {
    let disk = Arc::new(LocalDisk::new(&order.repo));
    let repo = Repo::open(disk, key, Mode::Read).doing("the repository cannot be opened")?;
    let manifest = match repo.point(order.work.point) {
        Ok(manifest) => manifest,
        Err(error) if error.lacks_key() => return Err(error.into()),
        Err(error) => return Ok(Err(strongroom_protocol::Chain(&error).to_string())),
    };
    let source: Source = Arc::new(repo);
    Ok(match Scene::open(source, manifest) {
        Ok(scene) => Ok((scene, key.agent_keys())),
        Err(failure) => Err(failure.sentence()),
    })
}

/// The drill's directory where whoever is started can reach it.
fn placed(dir: &Path) -> Result<PathBuf, Failure> {
    chmod(dir, Bits::from_raw_mode(0o711)).map_err(io::Error::from)?;
    let place = PathBuf::from(PLACE);
    let nothing: Option<&str> = None;
    let bound = mount(Some(dir), &place, nothing, MsFlags::MS_BIND, nothing);
    let bound = bound.map_err(io::Error::from);
    bound.doing(format!("cannot show {} at {PLACE}", dir.display()))?;
    Ok(place)
}

impl Ground {
    fn took_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
