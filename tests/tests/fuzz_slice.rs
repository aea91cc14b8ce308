//! The fuzz targets on the stable toolchain, bounded: the committed corpus, what the current
//! code writes, and seeded mutations of both. `STRONGROOM_FUZZ_SECONDS` (for each target) and
//! `STRONGROOM_FUZZ_SEED` make it a campaign, `STRONGROOM_FUZZ_TARGET` of one target; `cargo xtask
//! fuzz` sets them. Sealed things hold
//! fresh nonces, so a failure is repeated by the bytes it prints rather than by its seed.
//!
//! `STRONGROOM_FUZZ_CORPUS=write` adds what the code writes today to targets that have no corpus.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use strongroom_tests::fuzzing::{TARGETS, Target, mutate};
use strongroom_tests::seeded::Seeded;
use strongroom_tests::source;

/// Mutations of each target when no time is asked for...
const MUTATIONS: u64 = 100_000;
/// ...unless they take longer than this.
const TIME_MAX: Duration = Duration::from_millis(1500);
/// Inputs grow no longer than this, in bytes.
const INPUT_BYTES_MAX: usize = 64 << 10;

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = source::root().join("tests/fuzz/corpus").join(target.name);
    if std::env::var("STRONGROOM_FUZZ_CORPUS").as_deref() == Ok("write") && !folder.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(folder.join(format!("written-{number}")), seed).unwrap();
        }
    }
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

fn try_input(target: &Target, bytes: &[u8], seed: u64) -> bool {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    outcome.unwrap_or_else(|_| {
        panic!(
            "target {} failed (seed {seed}); commit as tests/fuzz/corpus/{}/NAME these bytes:\n{}",
            target.name,
            target.name,
            HEXLOWER.encode(bytes)
        )
    })
}

#[test]
fn no_target_fails() {
    let seed = number("STRONGROOM_FUZZ_SEED").unwrap_or(1);
    let asked = number("STRONGROOM_FUZZ_SECONDS").map(Duration::from_secs);
    let (most, time) = asked.map_or((MUTATIONS, TIME_MAX), |time| (u64::MAX, time));
    let only = std::env::var("STRONGROOM_FUZZ_TARGET").ok();
    let is_wanted = |target: &&Target| only.as_deref().is_none_or(|only| only == target.name);
    let wanted: Vec<&Target> = TARGETS.iter().filter(is_wanted).collect();
    assert!(!wanted.is_empty(), "there is no target {}", only.unwrap_or_default());
    for target in wanted {
        let mut inputs = corpus(target);
        inputs.extend((target.seeds)());
        let accepted = inputs.iter().filter(|input| try_input(target, input, seed)).count();
        assert!(accepted > 0, "{} accepts nothing: its mutations prove nothing", target.name);
        let mut chance = Seeded::new(seed);
        let (started, mut tried, mut accepted) = (Instant::now(), 0, accepted);
        while tried < most && started.elapsed() < time {
            let mut bytes = inputs[chance.below(inputs.len())].clone();
            let other = &inputs[chance.below(inputs.len())];
            mutate(&mut bytes, other, &mut chance);
            bytes.truncate(INPUT_BYTES_MAX);
            accepted += usize::from(try_input(target, &bytes, seed));
            tried += 1;
        }
        println!(
            "{}: {} inputs, {tried} mutations, {accepted} accepted",
            target.name,
            inputs.len()
        );
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
