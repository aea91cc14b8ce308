//! Two sites in containers, as `docker-compose.yml` makes them, used hard: the link between them
//! cut in the middle of a copy, every node killed, site B in the lead, disks that are full,
//! certificates that live for seconds, site A lost, then all but the cartridges, and site A back.
//! After each, what was protected is compared with what comes back.

mod base;
mod certificates;
mod databases;
mod disks;
pub(crate) mod distance;
mod engine;
mod hour;
mod losses;
mod takeover;
mod wan;
mod work;

use anyhow::{Context, Result};
use clap::ValueEnum as _;

use crate::lab::engine::{Engine, Lab};
use crate::parts::Parts;
use crate::stage::Stage;

/// What can be done to two sites that are up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scene {
    /// The agent restores to the host it came from
    Home,
    /// A cluster of PostgreSQL, by its standby and by its primary
    Databases,
    /// The link is cut in the middle of a copy
    Cut,
    /// Every node is killed at work
    Kills,
    /// Site B leads while site A is cut off, over a far link
    Takeover,
    /// The disk of each node fills up
    Disks,
    /// Certificates live for seconds
    Certificates,
    /// An hour of scheduled work, compressed, with kills and cuts
    Hour,
    /// Site A is lost, then all but the cartridges, and site A is back
    Losses,
}

impl Scene {
    fn play(self, lab: &Lab, campaign: &Campaign, parts: &mut Parts) -> Result<()> {
        match self {
            Self::Home => parts.part("back to the host it came from", || losses::home(lab)),
            Self::Databases => parts.part("a cluster of PostgreSQL", || databases::scene(lab)),
            Self::Cut => parts.part("the link is cut in the middle of a copy", || losses::cut(lab)),
            Self::Kills => parts.part("every node is killed at work", || losses::kills(lab)),
            Self::Takeover => {
                parts.part("site B leads while site A is cut off", || takeover::scene(lab))
            }
            Self::Disks => parts.part("full disks", || disks::scene(lab)),
            Self::Certificates => {
                parts.part("certificates live for seconds", || certificates::scene(lab))
            }
            Self::Hour => parts
                .part("an hour, compressed", || hour::scene(lab, campaign.seconds, campaign.seed)),
            Self::Losses => {
                parts.part("site A is lost", || losses::without_a(lab))?;
                parts.part("only the cartridges are left", || losses::cartridges(lab))?;
                parts.part("site A is back", || losses::back(lab))
            }
        }
    }
}

/// What is done as chance has it.
#[derive(clap::Args)]
struct Campaign {
    /// How long the compressed hour takes, in seconds
    #[arg(long, default_value_t = CAMPAIGN.seconds)]
    seconds: u64,
    /// What its kills and cuts are chosen by
    #[arg(long, default_value_t = CAMPAIGN.seed)]
    seed: u64,
}

/// What is done where nothing else is said.
const CAMPAIGN: Campaign = Campaign { seconds: 65, seed: 1 };

/// What the test command has time for.
const SLICE_SCENES: [Scene; 7] = [
    Scene::Home,
    Scene::Databases,
    Scene::Cut,
    Scene::Kills,
    Scene::Takeover,
    Scene::Disks,
    Scene::Losses,
];

/// What the lab may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this, of all that can be done; may be repeated
    #[arg(long, value_enum)]
    scene: Vec<Scene>,
    /// Leave the containers and volumes for a person to look at
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    campaign: Campaign,
    #[command(flatten)]
    stage: Stage,
}

/// Runs the scenes that were asked for, or every one.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let engine = Engine::find().context("the lab needs a Docker engine and docker-compose")?;
    let Arguments { scene, keep, campaign, stage } = arguments;
    play(engine, stage, *keep, scene, campaign)
}

/// As part of the test command: what it has time for where an engine runs; where none does that
/// is said.
pub(crate) fn slice() -> Result<()> {
    match Engine::find() {
        Ok(engine) => play(engine, &Stage::dev(), false, &SLICE_SCENES, &CAMPAIGN),
        Err(error) => {
            println!("    NOT RUN: no lab without a Docker engine and docker-compose: {error:#}");
            Ok(())
        }
    }
}

fn play(
    engine: Engine,
    stage: &Stage,
    keep: bool,
    scenes: &[Scene],
    campaign: &Campaign,
) -> Result<()> {
    let exe = stage.exe()?;
    let mut parts = Parts::begin("lab");
    parts.part("image", || base::build(&engine, &exe))?;
    let lab = Lab::new(engine, &format!("srlab{}", std::process::id()), keep)?;
    parts.part("two sites from nothing", || losses::two_sites(&lab))?;
    for scene in Scene::value_variants() {
        if scenes.is_empty() || scenes.contains(scene) {
            scene.play(&lab, campaign, &mut parts)?;
        }
    }
    parts.finish();
    Ok(())
}
