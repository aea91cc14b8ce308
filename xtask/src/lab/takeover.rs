//! Site A is cut off and not dead, over a link as far as another continent: two persons have site B
//! lead, the host goes over to it, A learns of it when the link is back and keeps what it made
//! meanwhile, and two persons give the lead back. Every point of both is compared at both sites.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::engine::{Lab, Place};
use crate::lab::work::{
    DOCUMENTS, WORKLOAD, compare, copied, ended_at, newest, noise, ordered_at, points_of, print,
};

/// What crosses the far link, in MiB.
const NOISE_MIB: u64 = 48;
/// So much of it has crossed when the link goes, in bytes.
const CUT_BYTES: u64 = 8 << 20;
/// How wide the link is, as `tc` says it, and in bits a second.
const WIDTH: &str = "100mbit";
const WIDTH_BITS: u64 = 100_000_000;

/// The points, each with the print of the tree that it holds.
struct Made<'lab> {
    lab: &'lab Lab,
    points: Vec<(String, String)>,
}

impl Made<'_> {
    /// Changes the tree and has a site make a point of it.
    fn point(&mut self, site: &str) -> Result<()> {
        let number = self.points.len();
        let change = format!("echo as of point {number} >{DOCUMENTS}/takeover-{number}");
        self.lab.shell(Place::Agent, &change)?;
        self.made(site, &ordered_at(self.lab, site)?)
    }

    /// Waits for a job and remembers what its point holds.
    fn made(&mut self, site: &str, job: &str) -> Result<()> {
        let job = ended_at(self.lab, site, job)?;
        let point = job["point"].as_str().context("a job without a point")?.to_owned();
        self.points.push((point, print(self.lab, DOCUMENTS)?));
        Ok(())
    }

    /// A site has every point.
    fn known(&self, site: &str) -> Result<bool> {
        let rows = points_of(self.lab, site, WORKLOAD)?;
        Ok(self.points.iter().all(|(point, _)| rows.iter().any(|row| row["id"] == point.as_str())))
    }

    /// Restores every point from a site, and compares.
    fn compare(&self, site: &str) -> Result<()> {
        for (number, (point, was)) in self.points.iter().enumerate() {
            let back = format!("/srv/restored/{site}-{number}");
            self.lab.operator(&["restore", point, "--from", site, "--to", &back])?;
            compare(self.lab, was, &back)?;
            self.lab.alone(&format!("rm -r {back}"))?;
        }
        Ok(())
    }
}

/// The whole of it; the link is near again afterwards, and the host at A.
pub(super) fn scene(lab: &Lab) -> Result<()> {
    lab.shell(Place::Agent, &format!("rm -rf {DOCUMENTS}/noise"))?;
    for name in ["ann", "ben"] {
        lab.person(name)?;
    }
    let far = lab.far()?;
    lab.narrow(Some(WIDTH))?;
    // A connection from when the link was near keeps what it measured then.
    lab.stop(&[Place::Proxy])?;
    lab.start(Place::Proxy)?;
    let mut made = Made { lab, points: Vec::new() };
    across(&mut made)?;
    cut_off(&mut made)?;
    taken_over(&mut made)?;
    lab.plug()?;
    fenced(&made)?;
    given_back(&mut made)?;
    lab.narrow(None)?;
    drop(far);
    for site in ["a", "b"] {
        lab.wait("every point at both sites", |_| made.known(site))?;
        made.compare(site)?;
        lab.operator(&["--site", site, "verify"])?;
    }
    Ok(())
}

/// A point of noise crosses the far link, however far it is.
fn across(made: &mut Made<'_>) -> Result<()> {
    let lab = made.lab;
    noise(lab, "far", NOISE_MIB)?;
    let (before, started) = (lab.sent()?, std::time::Instant::now());
    made.point("a")?;
    lab.wait("the copies over the far link", |lab| Ok(copied(&newest(lab)?)))?;
    let (bits, seconds) = ((lab.sent()? - before) * 8, started.elapsed().as_secs_f64());
    let part = bits as f64 / seconds / WIDTH_BITS as f64 * 100.0;
    println!("    {} MiB over 150 ms in {seconds:.1} s: {part:.0} % of the link", bits >> 23);
    Ok(())
}

/// The link goes in the middle of a copy, and A goes on by itself: so far nobody told it not to.
fn cut_off(made: &mut Made<'_>) -> Result<()> {
    let lab = made.lab;
    noise(lab, "half", NOISE_MIB)?;
    let before = lab.sent()?;
    made.point("a")?;
    lab.wait("a part of the copy", |lab| Ok(lab.sent()? - before > CUT_BYTES))?;
    lab.unplug()?;
    made.point("a")?;
    match made.known("b")? {
        true => bail!("a point crossed a link that was cut"),
        false => Ok(()),
    }
}

/// One person is refused, two are not; the host that goes over is protected there.
fn taken_over(made: &mut Made<'_>) -> Result<()> {
    let lab = made.lab;
    let id = proposed(lab, "takeover", "site a does not answer")?;
    refused(
        lab.person_says("ann", &["--site", "b", "takeover", "confirm", &id]),
        "another person",
    )?;
    lab.person_says("ben", &["--site", "b", "takeover", "confirm", &id])?;
    leads(lab, "b", "leads", 2)?;
    lab.move_agent("b")?;
    made.point("b")?;
    // A does not know it yet, and says nothing of it.
    leads(lab, "a", "leads", 1)
}

/// A learns who leads as soon as it is reached, does nothing more, and keeps what it has.
fn fenced(made: &Made<'_>) -> Result<()> {
    let lab = made.lab;
    leads(lab, "a", "follows", 2)?;
    refused(lab.operator(&["--site", "a", "protect", WORKLOAD]), "site b leads in term 2")?;
    lab.wait("A to have what B made", |_| made.known("a"))
}

/// Two persons at B, as soon as A lacks nothing; the host goes back.
fn given_back(made: &mut Made<'_>) -> Result<()> {
    let lab = made.lab;
    let id = proposed(lab, "giveback", "site a answers")?;
    refused(
        lab.person_says("ann", &["--site", "b", "giveback", "confirm", &id]),
        "another person",
    )?;
    lab.person_says("ben", &["--site", "b", "giveback", "confirm", &id])?;
    leads(lab, "a", "leads", 3)?;
    leads(lab, "b", "follows", 3)?;
    lab.move_agent("a")?;
    made.point("a")?;
    lab.wait("the copies of what A made", |lab| Ok(copied(&newest(lab)?)))
}

/// What Ann orders, for somebody else to confirm.
fn proposed(lab: &Lab, order: &str, why: &str) -> Result<String> {
    let words = ["--json", "--site", "b", order, "propose", "--reason", why];
    let shown: Value = serde_json::from_str(&lab.person_says("ann", &words)?)?;
    let id = shown["id"].as_str();
    id.map(str::to_owned).with_context(|| format!("no proposal: {shown}"))
}

/// Waits until a site is what is wanted, in a term.
fn leads(lab: &Lab, site: &str, standing: &str, term: u64) -> Result<()> {
    lab.wait(&format!("that site {site} {standing} in term {term}"), |lab| {
        let shown = lab.json(&["--site", site, "takeover", "show"])?;
        Ok(shown["standing"] == standing && shown["lead"]["term"] == term)
    })
}

/// It was not done, and the words say why.
fn refused(done: Result<String>, why: &str) -> Result<()> {
    match done {
        Ok(said) => bail!("it was done: {said}"),
        Err(error) if format!("{error:#}").contains(why) => Ok(()),
        Err(error) => Err(error.context(format!("it was refused, but not for {why:?}"))),
    }
}
