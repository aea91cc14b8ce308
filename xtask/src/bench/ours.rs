//! Strongroom as its users have it: an agent, a coordinator and a proxy as processes of their
//! own, everything over QUIC with mutual TLS, sealed and synced. What a step costs is what all
//! processes that took part in it used.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::measure::{Cost, bytes_below, cpu_seconds, forget_peak, peak_bytes};
use super::{Figures, Place, Step, Tool};
use crate::kill::mib;
use crate::sites::{Role, Sites, WORKLOAD, Way};

/// Two sites at work on one tree.
pub(crate) struct Ours<'a> {
    place: &'a Place,
    sites: Sites,
}

/// What the nodes had used before a step.
struct Before {
    began: Instant,
    cpu_seconds: Vec<(Role, f64)>,
}

impl<'a> Ours<'a> {
    /// Raises both sites.
    pub(crate) fn begin(exe: &Path, place: &'a Place) -> Result<Self> {
        let sites = Sites::raise(exe, &place.own.join("sites"), &place.tree, Way::Direct)?;
        Ok(Self { place, sites })
    }

    fn before(&self) -> Result<Before> {
        let mut used = Vec::new();
        for role in Role::ALL {
            let pid = self.sites.pid(role)?;
            forget_peak(pid)?;
            used.push((role, cpu_seconds(pid)?));
        }
        Ok(Before { began: Instant::now(), cpu_seconds: used })
    }

    /// What the step took: the wall it was given, and what `own` command and the nodes used.
    fn after(&self, before: Before, own: Cost) -> Result<(Cost, String)> {
        let seconds = before.began.elapsed().as_secs_f64();
        let mut cost = Cost { seconds, ..own };
        let mut note = Vec::new();
        for (role, used) in before.cpu_seconds {
            let pid = self.sites.pid(role)?;
            let (more, peak) = (cpu_seconds(pid)? - used, peak_bytes(pid)?);
            cost.cpu_seconds += more;
            cost.peak_bytes = cost.peak_bytes.max(peak);
            note.push(format!("{} {more:.1} s {}", role.as_str(), mib(peak)));
        }
        if own.peak_bytes > 0 {
            note.push(format!("tool {:.1} s {}", own.cpu_seconds, mib(own.peak_bytes)));
        }
        Ok((cost, note.join(", ")))
    }

    fn command(&self, words: &[&str]) -> Result<(Cost, String)> {
        let before = self.before()?;
        let own = super::measure::run(&mut self.sites.command(words))?;
        self.after(before, own)
    }

    fn restore(&self, overwrite: &str) -> Result<(Cost, String)> {
        let to = self.place.restored.to_string_lossy().into_owned();
        let point = format!("latest:{WORKLOAD}");
        self.command(&["--site", "a", "restore", &point, "--to", &to, "--overwrite", overwrite])
    }

    /// From the order to "there", and to "read back"; the copy was ordered when the point came.
    fn replicate(&mut self) -> Result<(Cost, String)> {
        let before = self.before()?;
        self.sites.replicated(None)?;
        let seconds = before.began.elapsed().as_secs_f64();
        let mut copied = 0.0;
        for (role, used) in &before.cpu_seconds {
            copied += cpu_seconds(self.sites.pid(*role)?)? - used;
        }
        self.sites.replicated(Some("readable"))?;
        let (cost, note) = self.after(before, Cost::default())?;
        Ok((cost, format!("{note}, there after {seconds:.1} s and {copied:.1} CPU s")))
    }
}

impl Tool for Ours<'_> {
    fn step(&mut self, step: Step) -> Result<Option<Figures>> {
        let protect = ["--site", "a", "protect", WORKLOAD, "--wait"];
        let (cost, mut note) = match step {
            Step::First | Step::Again | Step::Changed => self.command(&protect)?,
            Step::Replicate => self.replicate()?,
            Step::Restore => self.restore("never")?,
            Step::InPlace => self.restore("if-different")?,
            Step::Verify => self.command(&["--site", "a", "verify"])?,
        };
        if matches!(step, Step::First | Step::Again | Step::Changed) {
            let latest = self.sites.latest()?;
            let stored = latest["stored_bytes"].as_u64().context("no stored bytes")?;
            note = format!("{note}, stored {}", mib(stored));
        }
        let repo = self.sites.repo(Role::Coordinator);
        // Room kept free for a full disk is nothing that was stored.
        let reserve = std::fs::metadata(repo.join("reserve")).map_or(0, |meta| meta.len());
        let stored_bytes = bytes_below(&repo)? - reserve;
        Ok(Some(Figures { cost, stored_bytes, note }))
    }
}
