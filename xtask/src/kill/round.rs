//! One round: new bytes, a protect, its replication, a kill at a random moment of either, and
//! what must be so afterwards. Nobody helps: after the restart there are only questions.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::mib;
use super::tree::{Manifest, Tree, compare};
use crate::random::Random;
use crate::sites::{Role, Sites, Way, copy_of};

/// Every so many points one is restored from both sites at once, not only at the end.
const RESTORE_EVERY: usize = 5;
/// A moment after the end kills nobody at work: the round is done again so often at most.
const TRIES: usize = 30;
/// Of the time an undisturbed run takes, moments are chosen from this much.
const MOMENT_PERCENT: u64 = 90;

/// What is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Protect,
    Replication,
}

impl Phase {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Protect => "protect",
            Self::Replication => "replication",
        }
    }
}

/// A kill and what came of it.
pub(crate) struct Kill {
    pub(crate) role: Role,
    pub(crate) phase: Phase,
    /// From the restart to the end of the work.
    pub(crate) took: Duration,
    pub(crate) again_bytes: u64,
}

/// An undisturbed run: what its bytes cost.
#[derive(Clone, Copy, Default)]
struct Undisturbed {
    fresh_bytes: u64,
    wire_bytes: u64,
    took: Duration,
}

impl Undisturbed {
    fn wire_for(&self, fresh_bytes: u64) -> u64 {
        let each = self.wire_bytes as f64 / self.fresh_bytes.max(1) as f64;
        (each * fresh_bytes as f64) as u64
    }
}

/// The sites, the tree, and everything acknowledged so far.
pub(crate) struct Campaign {
    sites: Sites,
    tree: Tree,
    random: Random,
    /// For the whole tree and for a part: a protect, a replication.
    undisturbed: Vec<[Undisturbed; 2]>,
    points: Vec<(String, Manifest)>,
    pub(crate) kills: Vec<Kill>,
    pub(crate) restored: usize,
}

impl Campaign {
    /// Raises the sites and measures what undisturbed runs cost.
    pub(crate) fn begin(exe: &Path, dir: &Path, bytes: u64, part: u64, seed: u64) -> Result<Self> {
        let source = dir.join("tree");
        let tree = Tree::make(&source, bytes, seed)?;
        let sites = Sites::raise(exe, &dir.join("sites"), &source, Way::Counted)?;
        let random = Random::new(seed.wrapping_add(1));
        let (undisturbed, points, kills) = (Vec::new(), Vec::new(), Vec::new());
        let mut campaign = Self { sites, tree, random, undisturbed, points, kills, restored: 0 };
        campaign.measure(bytes)?;
        let fresh = campaign.tree.rewrite(part)?;
        campaign.measure(fresh)?;
        Ok(campaign)
    }

    fn measure(&mut self, fresh_bytes: u64) -> Result<()> {
        let (up, down) = (self.sites.relay()?.up_bytes(), self.sites.relay()?.down_bytes());
        let began = Instant::now();
        let job = self.sites.protect()?;
        self.sites.finished(&job)?;
        let took = began.elapsed();
        let wire_bytes = self.sites.relay()?.up_bytes() - up;
        let protect = Undisturbed { fresh_bytes, wire_bytes, took };
        let began = Instant::now();
        self.sites.replicated(None)?;
        let took = began.elapsed();
        let wire_bytes = self.sites.relay()?.down_bytes() - down;
        let replication = Undisturbed { fresh_bytes, wire_bytes, took };
        println!(
            "undisturbed, {} new: protect {:.1} s, {} up; replication {:.1} s, {} down",
            mib(fresh_bytes),
            protect.took.as_secs_f64(),
            mib(protect.wire_bytes),
            replication.took.as_secs_f64(),
            mib(replication.wire_bytes)
        );
        self.undisturbed.push([protect, replication]);
        self.acknowledge()
    }

    /// A protect and its replication, each hit at most once.
    pub(crate) fn round(&mut self, kills: &[(Role, Phase)], fresh: u64) -> Result<()> {
        let mut left = kills.to_vec();
        for _ in 0..TRIES {
            if left.is_empty() {
                return Ok(());
            }
            let fresh = self.tree.rewrite(fresh)?;
            let (up, down) = (self.sites.relay()?.up_bytes(), self.sites.relay()?.down_bytes());
            let job = self.sites.protect()?;
            let hit = self.hit(&left, Phase::Protect, fresh, |sites| {
                Ok(!sites.job(&job)?["ended"].is_null())
            })?;
            self.sites.finished(&job)?;
            self.book(hit, fresh, self.sites.relay()?.up_bytes() - up, &mut left);
            let hit = self.hit(&left, Phase::Replication, fresh, |sites| {
                Ok(copy_of(&sites.latest()?, "secondary")["state"] == "present")
            })?;
            self.sites.replicated(None)?;
            self.book(hit, fresh, self.sites.relay()?.down_bytes() - down, &mut left);
            self.acknowledge()?;
        }
        bail!("no moment within the work was found in {TRIES} tries")
    }

    /// Waits for the moment and kills; nobody if the work is over by then.
    fn hit(
        &mut self,
        wanted: &[(Role, Phase)],
        phase: Phase,
        fresh: u64,
        is_over: impl Fn(&Sites) -> Result<bool>,
    ) -> Result<Option<(Role, Phase, Duration, Instant)>> {
        let Some((role, _)) = wanted.iter().find(|(_, of)| *of == phase) else { return Ok(None) };
        let whole = self.expected(phase, fresh).took.as_millis() as u64;
        let moment = self.random.below(whole * MOMENT_PERCENT / 100);
        let moment = Duration::from_millis(moment);
        std::thread::sleep(moment);
        if is_over(&self.sites)? {
            return Ok(None);
        }
        self.sites.kill(*role)?;
        self.sites.start(*role)?;
        Ok(Some((*role, phase, moment, Instant::now())))
    }

    /// The undisturbed run whose amount is nearest.
    fn expected(&self, phase: Phase, fresh: u64) -> Undisturbed {
        let nearest =
            self.undisturbed.iter().min_by_key(|runs| runs[0].fresh_bytes.abs_diff(fresh));
        nearest.map(|runs| runs[phase as usize]).unwrap_or_default()
    }

    fn book(
        &mut self,
        hit: Option<(Role, Phase, Duration, Instant)>,
        fresh: u64,
        wire_bytes: u64,
        left: &mut Vec<(Role, Phase)>,
    ) {
        let Some((role, phase, moment, killed)) = hit else { return };
        let took = killed.elapsed();
        let expected = self.expected(phase, fresh).wire_for(fresh);
        let again_bytes = wire_bytes.saturating_sub(expected);
        println!(
            "{:>3} {:<12} {:<12} at {:>6} ms of {:>7} new: complete after {:>5.1} s, {} again",
            self.kills.len() + 1,
            role.as_str(),
            phase.as_str(),
            moment.as_millis(),
            mib(fresh),
            took.as_secs_f64(),
            mib(again_bytes)
        );
        self.kills.push(Kill { role, phase, took, again_bytes });
        left.retain(|one| *one != (role, phase));
    }

    /// The newest point is kept in mind and proven at both sites.
    fn acknowledge(&mut self) -> Result<()> {
        let point = self.sites.latest()?;
        let id = point["id"].as_str().context("no point")?.to_owned();
        let known = self.points.iter().any(|(of, _)| *of == id);
        ensure!(!known, "the job succeeded without a point of its own");
        ensure!(point["gaps"] == 0, "point {id} has gaps");
        self.points.push((id, self.tree.manifest()));
        let sites = &self.sites;
        let verified: Vec<Result<String>> = std::thread::scope(|scope| {
            let both = ["a", "b"]
                .map(|site| scope.spawn(move || sites.text(&["--site", site, "verify", "--full"])));
            both.map(|one| one.join().unwrap_or_else(|_| bail!("verify broke off"))).into()
        });
        verified.into_iter().collect::<Result<Vec<String>>>()?;
        if self.points.len().is_multiple_of(RESTORE_EVERY) {
            self.restore(self.points.len() - 1)?;
        }
        Ok(())
    }

    /// From both copies, each compared file by file.
    fn restore(&mut self, number: usize) -> Result<()> {
        let (id, manifest) = self.points.get(number).context("no such point")?;
        for copy in ["primary", "secondary"] {
            let target = self.sites.dir.join("restored");
            let to = target.to_string_lossy();
            self.sites.text(&["--site", "a", "restore", id, "--to", &to, "--from", copy])?;
            compare(&target, manifest).with_context(|| format!("{copy} of point {id}"))?;
            std::fs::remove_dir_all(&target)?;
            self.restored += 1;
        }
        Ok(())
    }

    /// A last run that nobody disturbs, nothing left over, and every point from every copy.
    pub(crate) fn conclude(&mut self) -> Result<()> {
        self.tree.rewrite(1)?;
        let job = self.sites.protect()?;
        self.sites.finished(&job)?;
        self.sites.replicated(None)?;
        self.acknowledge()?;
        for role in [Role::Coordinator, Role::Proxy] {
            let tmp = self.sites.repo(role).join("tmp");
            let left = std::fs::read_dir(&tmp)?.count();
            ensure!(left == 0, "{left} files are left in tmp/ of the {}", role.as_str());
        }
        let listed = self.sites.ask(&["points", crate::sites::WORKLOAD])?;
        let listed: Vec<&Value> = listed.as_array().into_iter().flatten().collect();
        for (id, _) in &self.points {
            let there = listed.iter().any(|point| point["id"] == id.as_str());
            ensure!(there, "point {id} was acknowledged and is not listed");
        }
        for number in 0..self.points.len() {
            self.restore(number)?;
        }
        Ok(())
    }
}
