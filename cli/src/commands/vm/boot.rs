//! `vm boot`: a machine straight from its point, without waiting for a restore; thrown away in
//! the end, or kept once all of it was copied while it ran.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use strongroom_agent::restore::{Overwrite, RestoreOptions};
use strongroom_agent::vmlab::{Accel, Boot, LabError, MEMORY_MIB, Machine, Setup, Writes};
use strongroom_node::run::stop_on_signal;
use strongroom_present::export::{Server, Tally};
use strongroom_protocol::admin::PointRef;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ask::{AskArgs, Asking, told};
use crate::booting::keeping::{keep, quit};
use crate::booting::words::Found;
use crate::booting::{BootDisk, Kept, Outfit, Place, images, outfit};
use crate::commands::restore::CopyArgs;
use crate::exporting::devices;
use crate::failure::{Ending, Failure};
use crate::ground::{Choice, Ground, described};
use crate::human;
use crate::point_at::point;
use crate::restoring::write;
use crate::scene::{Scene, Spot};
use crate::session::{Session, blocking};

/// How often it is looked whether the machine still runs.
const LOOK: Duration = Duration::from_millis(500);
/// How long the guest is waited for in one turn.
const TURN: Duration = Duration::from_secs(1);
/// What the words of a machine's process may take, in bytes.
const WORDS_BYTES_MAX: u64 = 1 << 20;

/// Start a machine straight from its point, without a network, and throw it away at Ctrl-C
#[derive(Args, Debug)]
pub(super) struct VmBootArgs {
    /// A point: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    /// A new directory for its sockets, its console and what it writes
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Keep the machine: copy its disks into this new directory while it runs
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// What carries out its instructions
    #[arg(long, value_enum, default_value_t = Speed::Tcg)]
    accel: Speed,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    copy: CopyArgs,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speed {
    /// The processor of this host
    Kvm,
    /// A program, everywhere
    Tcg,
}

/// A machine that runs, with what it needs.
pub(super) struct Running {
    pub(super) machine: Machine,
    disks: Vec<BootDisk>,
    outfit: Outfit,
}

impl VmBootArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let ordered = Instant::now();
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone());
        let place = Place::make(&self.dir, self.keep.as_deref())?;
        // Whatever goes wrong later, a machine that was kept stays.
        let mut kept = Kept::Not;
        let lived = self.live(session, &place, (ordered, &stop), &mut kept).await;
        place.clear(kept)?;
        lived
    }

    /// The point, with all of it at hand.
    async fn ground(
        &self,
        session: &Session,
        unread: &CancellationToken,
    ) -> Result<Ground, Failure> {
        let choice = Choice::Disks(Vec::new());
        let ground =
            Ground::open(session, &self.copy, &self.point, &choice, unread.clone()).await?;
        match ground.lacking.is_empty() {
            true => Ok(ground),
            false => Err(Failure::new(ground.lacking.join("; "))),
        }
    }

    /// From the order to the end of the machine.
    async fn live(
        self,
        session: &Session,
        place: &Place,
        (ordered, stop): (Instant, &CancellationToken),
        kept: &mut Kept,
    ) -> Result<Ending, Failure> {
        let unread = CancellationToken::new();
        let ground = self.ground(session, &unread).await?;
        let asking = self.ask.asking();
        let booted = boot(session, &ground.scene, self.accel, &asking, place, &unread).await?;
        let Booted { running, about, mut serving, tally } = booted;
        let running = answered(running, asking.patience, stop).await?;
        let seconds = ordered.elapsed();
        let (mut running, proved) = blocking(move || {
            let mut running = running;
            let proved = asking.ask(&mut running.machine, &about, seconds)?;
            Ok((running, proved))
        })
        .await?;
        tell(session, &running, &proved, &tally)?;
        let mut keeping = JoinSet::new();
        if self.keep.is_some() {
            let (monitor, disks) = (running.machine.qmp(), running.disks.clone());
            let stop = stop.clone();
            keeping.spawn_blocking(move || keep(&monitor, &disks, &stop));
        }
        let mut heard = Ok(());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(copied) = keeping.join_next() => {
                    let copied = copied?.unwrap_or_else(|failure| {
                        session.out.remark(&failure.to_string());
                        None
                    });
                    if let (Some(took), Some(dir)) = (copied, &self.keep) {
                        *kept = Kept::Whole;
                        // Nothing is read from the point any more.
                        unread.cancel();
                        while serving.join_next().await.is_some() {}
                        heard = tell_kept(session, dir, took, &tally);
                        if heard.is_err() {
                            break;
                        }
                    }
                }
                () = tokio::time::sleep(LOOK) => {
                    if let Err(error) = running.machine.runs() {
                        session.out.remark(&error.to_string());
                        break;
                    }
                }
            }
        }
        end(running, *kept).await?;
        unread.cancel();
        while serving.join_next().await.is_some() {}
        drop(ground);
        heard?;
        if self.keep.is_some() && *kept == Kept::Not {
            return Err(Failure::new("the machine ended before all of it was copied, and is gone"));
        }
        let passed = proved["proved"] == true;
        Ok(if passed { Ending::Done } else { Ending::Gaps })
    }
}

/// Ends a machine; one that is kept by its own hand.
pub(super) async fn end(mut running: Running, kept: Kept) -> Result<(), Failure> {
    blocking(move || {
        if kept == Kept::Whole {
            quit(&mut running.machine);
        }
        drop(running);
        Ok(())
    })
    .await
}

/// A machine, and what serves its disks.
pub(super) struct Booted {
    pub(super) running: Running,
    pub(super) about: Value,
    pub(super) serving: JoinSet<()>,
    tally: Arc<Tally>,
}

/// Serves the disks of a point, and starts a machine on them.
pub(super) async fn boot(
    session: &Session,
    scene: &Scene,
    speed: Speed,
    asking: &Asking,
    place: &Place,
    unread: &CancellationToken,
) -> Result<Booted, Failure> {
    let choice = Choice::Disks(Vec::new());
    config(session, scene, place).await?;
    let (scene, now) = (scene.clone(), session.clock.now());
    let (devices, about, found) = blocking(move || {
        let (about, found) = (described(&scene)?, Found::of(&command_line(&scene)?));
        let images = Ground::images(&scene, &choice)?;
        Ok((devices(&scene, &images, None, now)?.0, about, found))
    })
    .await?;
    let served = devices.iter().map(|device| device.offer());
    let served: Vec<(String, u64)> =
        served.map(|offer| (offer.name.clone(), offer.bytes)).collect();
    let server = Server::bind(&place.listen(), devices, None, unread.clone()).await?;
    let (tally, mut serving) = (server.tally(), JoinSet::new());
    serving.spawn(server.run());
    let chosen = asking.boot(&place.machine_made()?)?;
    let (place, told) = (place.clone(), about.clone());
    let running = blocking(move || start(place, &served, &told, &found, chosen, speed)).await?;
    running.outfit.lacking.iter().for_each(|line| session.out.remark(line));
    Ok(Booted { running, about, serving, tally })
}

fn start(
    place: Place,
    served: &[(String, u64)],
    about: &Value,
    found: &Found,
    chosen: Boot,
    speed: Speed,
) -> Result<Running, Failure> {
    let disks = images(&place, served, about, found)?;
    let mut outfit = outfit(&place, found, &disks)?;
    let boot = match (chosen, outfit.beside.take()) {
        (Boot::Disk, Some(beside)) => beside,
        (chosen, _) => chosen,
    };
    let memory = about["machine"]["memory_bytes"].as_u64().unwrap_or_default() >> 20;
    let setup = Setup {
        disks: Vec::new(),
        boot,
        writes: Writes::Kept,
        memory_mib: memory.max(MEMORY_MIB),
        accel: if speed == Speed::Kvm { Accel::Kvm } else { Accel::Tcg },
        more: outfit.words.clone(),
    };
    let machine = Machine::start(&place.machine(), &setup)?;
    Ok(Running { machine, disks, outfit })
}

/// Restores what belongs to the machine beside its disks.
async fn config(session: &Session, scene: &Scene, place: &Place) -> Result<(), Failure> {
    let looked = scene.clone();
    let spot = blocking(move || Ok(looked.spot(b"config").ok())).await?;
    let Some(Spot::Directory { page, meta }) = spot else { return Ok(()) };
    let mut options = RestoreOptions::new(place.config());
    options.overwrite = Overwrite::Always;
    let report = write(session, scene.clone(), (page, meta), options).await?;
    match report.problems.first() {
        None => Ok(()),
        Some(problem) => Err(Failure::new(format!(
            "/config/{} of the point cannot be had: {}",
            human::name(&problem.path),
            problem.why
        ))),
    }
}

/// The words the machine's process was started with; none where the point has none.
fn command_line(scene: &Scene) -> Result<Vec<String>, Failure> {
    match scene.spot(b"config/command-line.json") {
        Ok(Spot::Other { entry, .. }) => {
            let text = scene.tree.read_file(&entry, 0, WORDS_BYTES_MAX)?;
            Ok(serde_json::from_slice(&text)?)
        }
        _ => Ok(Vec::new()),
    }
}

/// Waits until the guest answers, in turns, so that who wants to end it need not wait as long.
async fn answered(
    mut running: Running,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<Running, Failure> {
    let until = Instant::now() + patience;
    loop {
        let (back, told) = blocking(move || {
            let told = running.machine.await_agent(TURN).map(drop);
            Ok((running, told))
        })
        .await?;
        running = back;
        match told {
            Ok(()) => return Ok(running),
            Err(_) if stop.is_cancelled() => {
                return Err(Failure::new("ended before the guest answered"));
            }
            Err(LabError::Agent { .. }) if Instant::now() < until => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is told once the guest answered.
fn tell(
    session: &Session,
    running: &Running,
    proved: &Value,
    tally: &Tally,
) -> Result<(), Failure> {
    let (monitor, console) = (running.machine.qmp_beside(), running.machine.console());
    let read = tally.told().read_bytes;
    if session.out.is_json() {
        let mut proved = proved.clone();
        proved["read_bytes"] = read.into();
        proved["monitor"] = monitor.to_string_lossy().into();
        proved["console"] = console.to_string_lossy().into();
        proved["guest_agent"] = running.machine.guest_agent().to_string_lossy().into();
        return Ok(session.out.json_line(&proved)?);
    }
    let (read, place) = (human::bytes(read), console.display());
    let text = told(proved);
    Ok(session.out.text(&format!(
        "{text}  {read} read of its point so far
  console {place}, monitor {}
  Ctrl-C ends it
",
        monitor.display()
    ))?)
}

/// What is told once nothing is read from the point any more.
fn tell_kept(session: &Session, dir: &Path, took: Duration, tally: &Tally) -> Result<(), Failure> {
    let (seconds, read) = (took.as_secs_f64(), tally.told().read_bytes);
    if session.out.is_json() {
        return Ok(session.out.json_line(&json!({
            "kept": dir, "seconds": seconds, "read_bytes": read,
        }))?);
    }
    Ok(session.out.text(&format!(
        "all of it was copied in {seconds:.1} s: it runs from {} now, and needs its point no \
         more\n",
        dir.display()
    ))?)
}
