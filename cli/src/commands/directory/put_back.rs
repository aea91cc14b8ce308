//! `directory restore` and `directory undo`: objects of a point back into the live directory,
//! and that taken back. What would undo it is on disk before anything is changed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use strongroom_agent::workload::directory::carry::{Carrier, Outcome, Passwords, Undo};
use strongroom_agent::workload::directory::plan::Plan;
use strongroom_agent::workload::directory::wish::Wish;
use strongroom_certs::files;
use strongroom_protocol::admin::PointRef;

use super::{ServerArgs, SourceArgs, usual};
use crate::failure::{Ending, Failure, While};
use crate::human;
use crate::output::Output;
use crate::point_at::point;
use crate::session::Session;

/// What an undo file says it is.
const UNDO_KIND: &str = "directory-undo";

/// Put objects of a point back: deleted ones with their identity where the tombstone is there
#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    /// Which objects
    #[arg(value_name = "DN", required = true)]
    names: Vec<String>,
    /// With everything below
    #[arg(long)]
    subtree: bool,
    /// Only these attributes; memberOf stands for the groups an object is in
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    attributes: Option<Vec<String>>,
    /// Change nothing; print what would be done as LDIF
    #[arg(long)]
    dry_run: bool,
    /// Write here, before anything is changed, what takes it back
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    undo: Option<PathBuf>,
    /// What becomes of accounts that come back without their password
    #[arg(long, value_enum, default_value_t = PasswordArg::Random)]
    passwords: PasswordArg,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum PasswordArg {
    /// A random one that nobody knows, to be changed at the next logon
    Random,
    /// None: the accounts are disabled
    None,
}

impl RestoreArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let out = &session.out;
        let picture = self.source.picture(session, &self.point).await?;
        let server = self.server.server(usual(&picture))?;
        let carrier = Carrier::open(&server).await?;
        let wish = Wish {
            names: self.names.clone(),
            subtree: self.subtree,
            attributes: self.attributes.clone(),
        };
        let plan = carrier.plan(&picture, &wish).await?;
        if self.dry_run {
            for change in plan.phases.iter().flatten() {
                out.text(change.ldif().trim_end_matches('\n'))?;
                out.text("\n")?;
            }
            plan.notes.iter().for_each(|note| out.remark(note));
            return Ok(Ending::Done);
        }
        if let Some(path) = &self.undo {
            let undo = Undo {
                kind: UNDO_KIND.to_owned(),
                url: server.url.clone(),
                phases: plan.undo.clone(),
            };
            if path.exists() {
                let text = format!("{} is there already", path.display());
                return Err(Failure::new(text).hint("name a new file with --undo"));
            }
            files::write_private(path, &serde_json::to_vec(&undo)?)
                .doing(format!("nothing was changed: cannot write {}", path.display()))?;
        }
        let passwords = match self.passwords {
            PasswordArg::Random => Passwords::Random,
            PasswordArg::None => Passwords::None,
        };
        let outcome = carrier.restore(&picture, &wish, &plan, passwords).await?;
        conclude(out, &plan, &outcome)
    }
}

fn conclude(out: &Output, plan: &Plan, outcome: &Outcome) -> Result<Ending, Failure> {
    let back = plan.back.len() as u64;
    let value = json!({
        "back": back, "new_identity": plan.anew.len(), "changes": outcome.changes,
        "random_passwords": outcome.passwords, "refused": outcome.refused, "notes": plan.notes,
    });
    out.either(&value, |_| {
        format!(
            "{} objects are back, {} changes made\n",
            human::count(back),
            human::count(outcome.changes)
        )
    })?;
    if !plan.anew.is_empty() {
        out.remark(&format!(
            "{} were made anew, since their tombstones are gone: they have a NEW SID, and rights \
             given to the old one are not theirs",
            human::count(plan.anew.len() as u64)
        ));
    }
    if outcome.passwords > 0 {
        out.remark(&format!(
            "{} accounts have a random password nobody knows and must change it: LDAP gives \
             nobody the old one",
            human::count(outcome.passwords)
        ));
    }
    plan.notes.iter().for_each(|note| out.remark(note));
    outcome.refused.iter().for_each(|refused| out.remark(&format!("not done: {refused}")));
    let whole = outcome.refused.is_empty() && plan.notes.is_empty();
    Ok(if whole { Ending::Done } else { Ending::Gaps })
}

/// Take a restore back, by the file it wrote
#[derive(Args, Debug)]
pub(super) struct UndoArgs {
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
}

impl UndoArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let shown = self.file.display();
        let text = std::fs::read(&self.file).doing(format!("cannot read {shown}"))?;
        let undo: Undo = serde_json::from_slice(&text)
            .map_err(|_| Failure::new(format!("{shown} is no undo file of a directory")))?;
        if undo.kind != UNDO_KIND {
            return Err(Failure::new(format!("{shown} is no undo file of a directory")));
        }
        let server = self.server.server(Some(&undo.url))?;
        let carrier = Carrier::open(&server).await?;
        let mut outcome = Outcome::default();
        carrier.run(&undo.phases, &mut outcome).await?;
        let changes = human::count(outcome.changes);
        session.out.either(&outcome, |_| format!("{changes} changes taken back\n"))?;
        outcome.refused.iter().for_each(|text| session.out.remark(&format!("not done: {text}")));
        Ok(if outcome.refused.is_empty() { Ending::Done } else { Ending::Gaps })
    }
}
