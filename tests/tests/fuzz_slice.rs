//! The fuzz targets on the stable toolchain, bounded: the committed corpus, the samples, and
//! seeded mutations of both. `STRONGROOM_FUZZ_SECONDS` (for each target) and
//! `STRONGROOM_FUZZ_SEED` make it a campaign; `cargo xtask fuzz` sets them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use strongroom_tests::fuzzing::{TARGETS, Target, mutate, seeds};
use strongroom_tests::seeded::Seeded;
use strongroom_tests::source;

/// Mutations of each target when no time is asked for.
const MUTATIONS: u64 = 200_000;
/// Inputs grow no longer than this, in bytes.
const INPUT_BYTES_MAX: usize = 64 << 10;

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = source::root().join("tests/fuzz/corpus").join(target.name);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn try_input(target: &Target, bytes: &[u8], seed: u64) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    assert!(
        outcome.is_ok(),
        "target {} failed (seed {seed}); commit as tests/fuzz/corpus/{}/NAME these bytes:\n{}",
        target.name,
        target.name,
        HEXLOWER.encode(bytes)
    );
}

#[test]
fn no_target_fails() {
    let seed = number("STRONGROOM_FUZZ_SEED").unwrap_or(1);
    let time = number("STRONGROOM_FUZZ_SECONDS").map(Duration::from_secs);
    for target in TARGETS {
        let mut inputs = corpus(target);
        inputs.extend(seeds());
        for input in &inputs {
            try_input(target, input, seed);
        }
        let mut chance = Seeded::new(seed);
        let (started, mut tried) = (Instant::now(), 0);
        while time.map_or(tried < MUTATIONS, |time| started.elapsed() < time) {
            let mut bytes = inputs[chance.below(inputs.len())].clone();
            let other = &inputs[chance.below(inputs.len())];
            mutate(&mut bytes, other, &mut chance);
            bytes.truncate(INPUT_BYTES_MAX);
            try_input(target, &bytes, seed);
            tried += 1;
        }
        println!("{}: {} inputs, {tried} mutations", target.name, inputs.len());
    }
}

/// Every target has a cargo-fuzz file and a line in the manifest there.
#[test]
fn every_target_is_wired() {
    let fuzz = source::root().join("tests/fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(fuzz.join("targets"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut wanted: Vec<_> = TARGETS.iter().map(|target| format!("{}.rs", target.name)).collect();
    wanted.sort();
    assert_eq!(files, wanted);
    for target in TARGETS {
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
    }
}
