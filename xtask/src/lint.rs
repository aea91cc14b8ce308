//! What a commit must pass besides its tests: formatting, clippy and rustdoc, each with
//! warnings as errors.

use anyhow::Result;

use crate::parts::{Parts, cargo, must};

/// Runs the three; the first failure ends it.
pub(crate) fn run() -> Result<()> {
    let mut parts = Parts::begin("lint");
    parts.part("format", || must(&mut cargo(&["fmt", "--all", "--check"])))?;
    parts.part("clippy", || {
        let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
        must(&mut cargo(&clippy))
    })?;
    parts.part("documentation", || {
        let doc = ["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"];
        must(cargo(&doc).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    parts.finish();
    Ok(())
}
