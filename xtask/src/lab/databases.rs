//! A pair of servers of PostgreSQL, protected as one cluster: the standby makes the point, the
//! primary where the standby is down; each point starts as a server from the other site's copy.

use anyhow::{Result, bail};

use crate::lab::engine::{Lab, Place};
use crate::lab::work::{copied, ended_at, ordered_of, points_of};

/// The cluster, by its name in `docs/lab/policy.toml`.
const CLUSTER: &str = "ledger";
/// What is compared.
const ALL: &str = "SELECT count(*), md5(string_agg(what, ',' ORDER BY n)) FROM entry";
/// Where a point is restored and started.
const BACK: &str = "/srv/restored/ledger";
const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A point by each member, each started again.
pub(super) fn scene(lab: &Lab) -> Result<()> {
    lab.wait("the primary", |lab| Ok(ask(lab, Place::Primary, ALL).is_ok()))?;
    let was = grown(lab)?;
    lab.wait("the standby to have it", |lab| Ok(ask(lab, Place::Standby, ALL)? == was))?;
    comes_back(lab, Place::Standby, &was)?;
    lab.stop(&[Place::Standby])?;
    let was = grown(lab)?;
    comes_back(lab, Place::Primary, &was)?;
    lab.start(Place::Standby)?;
    lab.wait("the standby again", |lab| Ok(ask(lab, Place::Standby, ALL)? == was))
}

/// More rows; all of them.
fn grown(lab: &Lab) -> Result<String> {
    let more = "INSERT INTO entry SELECT m + n, md5(random()::text) \
                FROM (SELECT max(n) AS m FROM entry) AS last, generate_series(1, 5000) AS n";
    ask(lab, Place::Primary, more)?;
    ask(lab, Place::Primary, ALL)
}

/// A point is made by the member that is wanted, and starts from the other site's copy.
fn comes_back(lab: &Lab, member: Place, was: &str) -> Result<()> {
    let job = ended_at(lab, "a", &ordered_of(lab, "a", CLUSTER)?)?;
    if job["node"] != member.service() {
        bail!("{} made the point, and not {}", job["node"], member.service());
    }
    lab.wait("the copies of the cluster", |lab| {
        Ok(points_of(lab, "a", CLUSTER)?.first().is_some_and(copied))
    })?;
    let latest = format!("latest:{CLUSTER}");
    lab.operator(&["postgres", "restore", &latest, "--from", "secondary", "--to", BACK])?;
    let server = |words: &str| format!("su postgres -s /bin/sh -c \"{BIN}/{words}\"");
    let is = lab.alone(&format!(
        "mkdir -p /var/run/postgresql && chown -R postgres /var/run/postgresql {BACK} && \
         {} >/dev/null && {BIN}/psql -XAtqh /var/run/postgresql -U postgres -c \"{ALL}\" && {} \
         >/dev/null && rm -r {BACK}",
        server(&format!("pg_ctl start -w -D {BACK} -l /tmp/log")),
        server(&format!("pg_ctl stop -m fast -D {BACK}")),
    ))?;
    if is.trim() != was {
        bail!("the server that came back has {} and not {was}", is.trim());
    }
    println!("    {CLUSTER} by {}, started from the other site: {was}", member.service());
    Ok(())
}

/// Asks a server.
fn ask(lab: &Lab, place: Place, question: &str) -> Result<String> {
    let psql = "psql -XAtqh /var/run/postgresql -U postgres -v ON_ERROR_STOP=1";
    let said = lab.shell(place, &format!("{BIN}/{psql} -c \"{question}\""))?;
    Ok(said.trim().to_owned())
}
