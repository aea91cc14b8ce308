//! The fuzz campaign on the stable toolchain: the bodies of the cargo-fuzz targets, fed with the
//! committed corpus and seeded mutations of it, for as long as asked. A failure prints the
//! target, the seed and the bytes.

use anyhow::Result;

use crate::parts::{Parts, cargo, must};

/// How long every target runs as part of `cargo xtask test`, in seconds.
const SLICE_SECONDS: u32 = 1;
/// The slice is the same on every machine; the campaign takes a seed.
const SLICE_SEED: u64 = 0x5eed;

/// What the campaign may be told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long every target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Where the mutations start
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this target
    #[arg(long)]
    target: Option<String>,
}

/// The campaign.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut parts = Parts::begin("fuzz");
    parts.part("targets", || mutate(arguments))?;
    parts.finish();
    Ok(())
}

/// The bounded slice of it that every checkout passes.
pub(crate) fn slice() -> Result<()> {
    mutate(&Arguments { seconds: SLICE_SECONDS, seed: SLICE_SEED, target: None })
}

fn mutate(arguments: &Arguments) -> Result<()> {
    let test = "test --locked --quiet -p strongroom-tests --test fuzz_slice -- --nocapture";
    let test: Vec<&str> = test.split(' ').collect();
    let mut command = cargo(&test);
    command.env("STRONGROOM_FUZZ_SECONDS", arguments.seconds.to_string());
    command.env("STRONGROOM_FUZZ_SEED", arguments.seed.to_string());
    if let Some(target) = &arguments.target {
        command.env("STRONGROOM_FUZZ_TARGET", target);
    }
    must(&mut command)
}
