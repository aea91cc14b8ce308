//! The lab uses the tool as a person would: every step is a command of this very program, told
//! in the story, so that nothing here can do what an operator cannot.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

/// Exit code of a command that is done, with gaps.
const DONE_WITH_GAPS: i32 = 3;

/// This program, with the lab's operator.
#[derive(Debug, Clone)]
pub(crate) struct Tool {
    exe: PathBuf,
    home: PathBuf,
    passphrase: String,
}

impl Tool {
    pub(crate) fn new(home: &Path, passphrase: String) -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("cannot find this program's own file")?;
        Ok(Self { exe, home: home.to_owned(), passphrase })
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.exe);
        command.arg("--home").arg(&self.home).args(arguments);
        command.env("STRONGROOM_PASSPHRASE", &self.passphrase);
        command.stdin(Stdio::null());
        command.output().with_context(|| format!("cannot run {}", arguments.join(" ")))
    }

    /// Runs a command that must succeed; with gaps it has too.
    pub(crate) fn text(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(arguments)?;
        let done = output.status.success() || output.status.code() == Some(DONE_WITH_GAPS);
        if !done {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`strongroom {}` failed:\n  {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same, with its answer as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["--json"];
        all.extend_from_slice(arguments);
        let text = self.text(&all)?;
        serde_json::from_str(&text)
            .with_context(|| format!("`strongroom {}` did not answer in JSON", all.join(" ")))
    }
}
