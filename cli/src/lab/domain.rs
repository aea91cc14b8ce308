//! `try --workload ad`: a domain of Samba is made, filled and protected; a unit with everything
//! in it is deleted and put back from each copy by itself; the whole domain is built again from
//! its backup on a second domain controller. OpenLDAP's client is the judge beside our own.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::Value;
use strongroom_agent::samba::{self, Controller, DOMAIN, PASSWORD, Shape, Writes};
use strongroom_agent::workload::directory::carry::{Carrier, CarryError};

use super::rows::Row;
use super::story::Lab;
use super::{Telling, table};
use crate::human;
use crate::output::Output;

/// The workload's name in the lab's policy.
const WORKLOAD: &str = "ad@host1";
/// One user in so many is in the unit that is lost.
const LOST_PART: usize = 4;
/// Users in one unit.
const UNIT: usize = 100;
/// What no restore by LDAP brings back as it was: passwords, and traces of the deletion.
const EXPECTED: [&str; 2] = ["lastKnownParent", "pwdLastSet"];
/// What OpenLDAP's client shows otherwise besides: what each change of an object counts up.
const COUNTED: [&str; 4] = ["dSCorePropagationData", "uSNChanged", "uSNCreated", "whenChanged"];

/// Tells the whole story; whether everything came back.
pub(crate) fn story(
    dir: &Path,
    users: usize,
    tell: &Telling,
    out: &Output,
) -> anyhow::Result<bool> {
    tell.begin("making a domain of Samba and its domain controller");
    let began = Instant::now();
    let mut controller = Controller::provision(&dir.join("dc1"), "dc1", Writes::Synced)?;
    controller.start()?;
    let mut story = Story { dir, controller, rows: Vec::new(), differences: 0, lost: 0 };
    story.rows.push(Row::new("domain made", began.elapsed()));
    story.fill(users, tell)?;
    let mut lab = Lab::raise(&dir.join("sites"), dir, tell)?;
    lab.watched = WORKLOAD.to_owned();
    lab.apply_text(tell, &story.policy()?)?;
    lab.protect(tell, "protect", WORKLOAD)?;
    story.change(tell)?;
    lab.protect(tell, "protect again, one user changed", WORKLOAD)?;
    let point = lab.latest(WORKLOAD)?["id"].as_str().context("no point")?.to_owned();
    lab.await_copy(tell, "secondary snap at site b, read back", "secondary", "readable")?;
    lab.await_copy(tell, "aux copy on media, read back", "tape", "hash-verified")?;
    let before = story.ldif()?;
    story.look(&lab, &point, tell)?;
    story.prove(&lab, &point, "primary", &["--from", "a"], tell)?;
    tell.begin("deleting OU=Staff with everything in it");
    let (server, unit) = (story.controller.server(), unit());
    story.lost = wait(async {
        let carrier = Carrier::open(&server).await?;
        samba::delete(&carrier, &unit).await
    })?;
    story.restore(&lab, &point, "primary", &["--from", "a"], tell)?;
    story.judge(&before)?;
    story.undo(&lab, "primary", tell)?;
    lab.lose_site_a(tell)?;
    story.restore(&lab, &point, "secondary", &["--from", "b"], tell)?;
    story.undo(&lab, "secondary", tell)?;
    story.build_again(&lab, &point, tell)?;
    let media = lab.lose_site_b(tell)?.to_string_lossy().into_owned();
    let key = lab.dir.join("recovery-key").to_string_lossy().into_owned();
    let how = ["--media", media.as_str(), "--recovery-key-file", key.as_str()];
    story.restore(&lab, &point, "media", &how, tell)?;
    story.prove(&lab, &point, "media", &how, tell)?;
    tell.end();
    let mut rows = lab.rows.clone();
    rows.append(&mut story.rows);
    if out.is_json() {
        out.json(&serde_json::json!({ "stages": rows, "differences": story.differences }))?;
    } else {
        println!("{}", table(&rows));
        println!("peak memory: {}", lab.peaks.join(", "));
        println!("What there is lies in {}.", dir.display());
    }
    Ok(story.differences == 0)
}

struct Story<'d> {
    dir: &'d Path,
    controller: Controller,
    rows: Vec<Row>,
    differences: u64,
    /// Objects in the unit that is lost.
    lost: u64,
}

fn unit() -> String {
    format!("OU=Staff,{DOMAIN}")
}

/// What the library does over several connections at once, from a thread that may wait.
fn wait<T>(work: impl Future<Output = Result<T, CarryError>>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Handle::current().block_on(work)?)
}

impl Story<'_> {
    fn fill(&mut self, users: usize, tell: &Telling) -> anyhow::Result<()> {
        let began = Instant::now();
        let lost = (users / LOST_PART).max(1);
        let server = self.controller.server();
        for (name, users, enabled_every) in [("Staff", lost, 1), ("Others", users - lost, 20)] {
            tell.begin(&format!("filling OU={name} with {users} users and their groups"));
            let shape = Shape { users, users_a_unit: UNIT, enabled_every };
            let done = wait(async {
                let carrier = Carrier::open(&server).await?;
                samba::fill(&carrier, name, shape).await
            })?;
            if let Some(refused) = done.refused.first() {
                bail!("the domain could not be filled: {refused}");
            }
        }
        let stage =
            format!("{} users with passwords, groups and links made", human::count(users as u64));
        self.rows.push(Row::new(&stage, began.elapsed()));
        Ok(())
    }

    fn change(&self, tell: &Telling) -> anyhow::Result<()> {
        tell.begin("changing one user");
        self.describe("changed")
    }

    fn describe(&self, description: &str) -> anyhow::Result<()> {
        let dn = format!("CN=Staff 1,OU=Unit 0,{}", unit());
        let text = format!(
            "dn: {dn}\nchangetype: modify\nreplace: description\ndescription: {description}\n"
        );
        let file = self.dir.join("change.ldif");
        std::fs::write(&file, text)?;
        let changed = self.client("ldapmodify").arg("-f").arg(file).output();
        let changed = changed.context("ldapmodify cannot be run (package ldap-utils)")?;
        match changed.status.success() {
            true => Ok(()),
            false => bail!("ldapmodify: {}", String::from_utf8_lossy(&changed.stderr)),
        }
    }

    /// A program of OpenLDAP (package ldap-utils), as the administrator.
    fn client(&self, program: &str) -> Command {
        let mut client = Command::new(program);
        client.env("LDAPTLS_REQCERT", "never");
        client.args(["-x", "-H", &self.controller.url()]);
        client.args(["-D", "Administrator@test.lan", "-w", PASSWORD]);
        client
    }

    fn policy(&self) -> anyhow::Result<String> {
        let file = self.dir.join("password");
        std::fs::write(&file, PASSWORD)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        let whole = super::policy::text(self.dir, self.dir)?;
        let head = whole.split("[workload.").next().unwrap_or_default();
        let quoted = |path: PathBuf| toml::Value::String(path.to_string_lossy().into_owned());
        Ok(format!(
            "{head}[workload.\"{WORKLOAD}\"]\nagent = \"host1\"\nkind = \"directory\"\n\
             policy = \"standard\"\nurl = \"{}\"\nbind = \"Administrator@test.lan\"\n\
             password_file = {}\nca_file = {}\ndomain = \"offline\"\nsamba_config = {}\n",
            self.controller.url(),
            quoted(file),
            quoted(self.controller.own_certificate()),
            quoted(self.controller.config()),
        ))
    }

    /// How the live directory is asked.
    fn asking(&self) -> Vec<String> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut words = vec!["--bind".to_owned(), "Administrator@test.lan".to_owned()];
        words.extend(["--password-file".to_owned(), text(self.dir.join("password"))]);
        words.extend(["--ca-file".to_owned(), text(self.controller.own_certificate())]);
        words
    }

    fn undo_file(&self, name: &str) -> String {
        self.dir.join(format!("undo-{name}")).to_string_lossy().into_owned()
    }

    /// The point is looked into, and a restore tried without doing it.
    fn look(&self, lab: &Lab, point: &str, tell: &Telling) -> anyhow::Result<()> {
        tell.begin("looking into the point");
        let (unit, user) = (unit(), format!("CN=Staff 1,OU=Unit 0,{}", unit()));
        let listed = lab.tool.text(&["directory", "ls", point, &unit, "-R"])?;
        let found = lab.tool.text(&["directory", "search", point, "description=changed"])?;
        let shown = lab.tool.text(&["directory", "show", point, &user])?;
        let asking = self.asking();
        let asking: Vec<&str> = asking.iter().map(String::as_str).collect();
        let tried = ["directory", "restore", point, &user, "--attributes", "description"];
        self.describe("other")?;
        let tried = lab.tool.text(&[&tried[..], &["--dry-run"], &asking].concat())?;
        self.describe("changed")?;
        let wanted = format!(
            "dn: {user}\nchangetype: modify\nreplace: description\n\
                              description: changed\n-"
        );
        for (what, text, part) in [
            ("ls", &listed, user.as_str()),
            ("search", &found, user.as_str()),
            ("show", &shown, "changed"),
            ("restore --dry-run", &tried, wanted.as_str()),
        ] {
            if !text.contains(part) {
                bail!("`directory {what}` does not say {part:?} but {text:?}");
            }
        }
        Ok(())
    }

    /// The restore is taken back: the unit is lost again.
    fn undo(&self, lab: &Lab, name: &str, tell: &Telling) -> anyhow::Result<()> {
        tell.begin(&format!("taking the restore from the {name} back"));
        let (asking, file) = (self.asking(), self.undo_file(name));
        let asking: Vec<&str> = asking.iter().map(String::as_str).collect();
        let order = ["directory", "undo", &file];
        let report = lab.tool.json(&[&order[..], &asking].concat())?;
        let refused = report["refused"].as_array().map_or(0, Vec::len);
        let changes = report["changes"].as_u64().unwrap_or_default();
        if refused > 0 || changes < self.lost {
            bail!("{changes} of {} changes taken back, {refused} refused", self.lost);
        }
        Ok(())
    }

    fn restore(
        &mut self,
        lab: &Lab,
        point: &str,
        name: &str,
        how: &[&str],
        tell: &Telling,
    ) -> anyhow::Result<()> {
        let (gone, unit) = (self.lost, unit());
        tell.begin(&format!("putting {gone} objects back from the {name}"));
        let (undo, asking) = (self.undo_file(name), self.asking());
        let asking: Vec<&str> = asking.iter().map(String::as_str).collect();
        let order = ["directory", "restore", point, unit.as_str(), "--subtree", "--undo", &undo];
        let began = Instant::now();
        let report = lab.tool.json(&[&order[..], how, &asking].concat())?;
        let took = began.elapsed();
        let refused = report["refused"].as_array().map_or(0, Vec::len);
        let back = report["back"].as_u64().unwrap_or_default();
        let order = ["directory", "compare", point, "--live", "--below", DOMAIN];
        let compared = lab.tool.text(&[&["--json"][..], &order, how, &asking].concat())?;
        let differences = unexpected(&compared)? + u64::from(back != gone) + refused as u64;
        self.differences += differences;
        let rate = back as f64 / took.as_secs_f64();
        let proof = match differences {
            0 => format!("as it was but passwords; {back} objects, {rate:.0} a second"),
            count => format!("DIFFERS in {count} places"),
        };
        let stage = format!("OU=Staff lost: restore from the {name}");
        self.rows.push(Row { proof, ..Row::new(&stage, took) });
        Ok(())
    }

    /// The domain as OpenLDAP's client shows it: lines by name.
    fn ldif(&self) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
        let mut search = self.client("ldapsearch");
        search.args(["-LLL", "-o", "ldif-wrap=no", "-E", "pr=500/noprompt", "-b", DOMAIN]);
        search.args(["(objectClass=*)", "*", "nTSecurityDescriptor"]);
        let output = search.output().context("ldapsearch cannot be run (package ldap-utils)")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut objects = BTreeMap::new();
        for record in text.split("\n\n") {
            let mut lines = record.lines().filter(|line| !line.starts_with('#'));
            let Some(name) = lines.find(|line| line.starts_with("dn:")) else { continue };
            let kept = lines.filter(|line| {
                let attribute = line.split(':').next().unwrap_or_default();
                !EXPECTED.contains(&attribute) && !COUNTED.contains(&attribute)
            });
            objects.insert(name.to_owned(), kept.map(str::to_owned).collect());
        }
        match objects.is_empty() {
            true => bail!("ldapsearch: {}", String::from_utf8_lossy(&output.stderr)),
            false => Ok(objects),
        }
    }

    fn judge(&mut self, before: &BTreeMap<String, BTreeSet<String>>) -> anyhow::Result<()> {
        let began = Instant::now();
        let after = self.ldif()?;
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let apart = names.iter().filter(|name| before.get(**name) != after.get(**name)).count();
        self.differences += apart as u64;
        let proof = match apart {
            0 => format!("the same LDIF, {} objects", before.len()),
            count => format!("DIFFERS in {count} objects"),
        };
        self.rows.push(Row {
            proof,
            ..Row::new("LDIF by ldapsearch, before and after", began.elapsed())
        });
        Ok(())
    }

    /// The whole domain is built again without a network, and checked.
    fn prove(
        &mut self,
        lab: &Lab,
        point: &str,
        name: &str,
        how: &[&str],
        tell: &Telling,
    ) -> anyhow::Result<()> {
        tell.begin(&format!("proving the whole domain from the {name}"));
        let began = Instant::now();
        let proof = lab.tool.json(&[&["directory", "prove", point][..], how].concat())?;
        let checks = proof["checks"].as_array().cloned().unwrap_or_default();
        let failed: Vec<&Value> = checks.iter().filter(|check| check["passed"] != true).collect();
        self.differences += u64::from(!failed.is_empty() || checks.is_empty());
        let proof = match failed.first() {
            None => format!("started, {} checks passed", checks.len()),
            Some(check) => format!("DIFFERS: {check}"),
        };
        let stage = format!("whole domain proven from the {name}");
        self.rows.push(Row { proof, ..Row::new(&stage, began.elapsed()) });
        Ok(())
    }

    /// A second domain controller out of the whole domain, as after the loss of all of them.
    fn build_again(&mut self, lab: &Lab, point: &str, tell: &Telling) -> anyhow::Result<()> {
        tell.begin("building the whole domain again on a second domain controller");
        let began = Instant::now();
        let back = self.dir.join("back");
        let target = back.to_string_lossy().into_owned();
        let place = format!("{point}:domain");
        lab.tool.text(&["restore", &place, "--to", &target, "--from", "b"])?;
        let mut tar = Command::new("tar");
        let packed = self.dir.join("domain.tar");
        tar.arg("-cf").arg(&packed).arg("-C").arg(&back);
        for entry in std::fs::read_dir(&back)? {
            tar.arg(entry?.file_name());
        }
        if !tar.status()?.success() {
            bail!("tar failed");
        }
        let mut second = Controller::restore(&self.dir.join("dc2"), &packed, "dc2")?;
        second.start()?;
        let (server, unit) = (second.server(), unit());
        let found = wait(async {
            let carrier = Carrier::open(&server).await?;
            Ok(carrier.reader.below(&unit, "(objectClass=user)").await?)
        })?;
        let took = began.elapsed();
        let users = found.len();
        self.differences += u64::from(users == 0);
        let proof = match users {
            0 => "DIFFERS: no users".to_owned(),
            users => format!("LDAPS answers, {users} users of OU=Staff are there"),
        };
        self.rows.push(Row { proof, ..Row::new("whole domain built again on dc2", took) });
        Ok(())
    }
}

/// Differences in what `directory compare` printed that are none of the expected.
fn unexpected(text: &str) -> anyhow::Result<u64> {
    let mut count = 0;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let difference: Value = serde_json::from_str(line)?;
        let attributes = difference["attributes"].as_array().cloned().unwrap_or_default();
        let expected = |one: &Value| EXPECTED.contains(&one["attribute"].as_str().unwrap_or(""));
        let fine = difference["change"] == "changed"
            && difference["before"].is_null()
            && attributes.iter().all(expected);
        count += u64::from(!fine);
    }
    Ok(count)
}
