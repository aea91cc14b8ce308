//! What a clean checkout must pass: the packages the tests run against, a build, every test,
//! and a bounded slice of every campaign. The dev profile is enough.

use anyhow::Result;

use crate::parts::{Parts, cargo, must, say_room};
use crate::{bench, chain, fuzz, kill, lab, packages, postgres, vm};

/// Runs everything; the first failure ends it.
pub(crate) fn run() -> Result<()> {
    let mut parts = Parts::begin("test");
    parts.part("packages", packages::ensure)?;
    parts.part("build", || {
        say_room();
        must(&mut cargo(&["build", "--locked", "--workspace", "--all-targets"]))
    })?;
    parts.part("tests", || {
        say_room();
        must(&mut cargo(&["test", "--locked", "--workspace", "--quiet", "--no-fail-fast"]))
    })?;
    parts.part("schedules", || {
        // The store over a scheduler that chooses who goes on, for the races of collections.
        let words = "test --locked --workspace --quiet --features strongroom-store/shuttle";
        let words: Vec<&str> = words.split(' ').chain(["--test", "gc_shuttle"]).collect();
        must(&mut cargo(&words))
    })?;
    parts.part("fuzz slice", fuzz::slice)?;
    parts.part("kill slice", kill::slice)?;
    parts.part("postgres slice", postgres::slice)?;
    parts.part("vm slice", vm::slice)?;
    parts.part("chain", chain::slice)?;
    parts.part("bench slice", bench::slice)?;
    parts.part("lab", lab::slice)?;
    parts.finish();
    Ok(())
}
