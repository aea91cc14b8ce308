//! `diff`: what is different between two points, or between a point and a directory here.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use strongroom_protocol::admin::PointRef;
use strongroom_store::diff::{Change, Diff, Side};

use crate::commands::ls::damaged;
use crate::failure::{Ending, Failure};
use crate::human;
use crate::live::{Depth, LiveChange, compare};
use crate::output::Output;
use crate::point_at::{PointAt, point, point_at};
use crate::scene::{Scene, open_remote, resolve};
use crate::session::{Session, blocking};
use crate::show::kind_word;

/// Show what is different between two points, or a point and a directory here
#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// The older point
    #[arg(value_name = "POINT", value_parser = point_at())]
    old: PointAt,
    /// The newer point
    #[arg(value_name = "POINT", value_parser = point())]
    #[arg(required_unless_present = "live", conflicts_with = "live")]
    new: Option<PointRef>,
    /// A directory of this host, instead of a newer point
    #[arg(long, value_name = "DIR")]
    live: Option<PathBuf>,
    /// With --live: compare every byte, not only sizes and times
    #[arg(long, requires = "live")]
    full: bool,
}

impl DiffArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let contact = session.contact().await?;
        let old = resolve(&contact, &self.old.point).await?;
        let old = open_remote(&contact, old).await?;
        let out = session.out.clone();
        match (self.new, self.live) {
            (_, Some(dir)) => {
                let depth = if self.full { Depth::Bytes } else { Depth::Metadata };
                let path = self.old.path;
                blocking(move || {
                    let mut told = Ok(());
                    compare(&old, &path, &dir, depth, &mut |change| {
                        if told.is_ok() {
                            told = print_live(&out, &change);
                        }
                    })?;
                    told?;
                    Ok(Ending::Done)
                })
                .await
            }
            (Some(new), None) => {
                let new = resolve(&contact, &new).await?;
                let new = open_remote(&contact, new).await?;
                blocking(move || between(&old, &new, &out)).await
            }
            (None, None) => Err(Failure::usage("name a second point, or --live DIR")),
        }
    }
}

fn between(old: &Scene, new: &Scene, out: &Output) -> Result<Ending, Failure> {
    let mut ending = Ending::Done;
    for change in Diff::new(&old.tree, &new.tree) {
        if let Change::Damaged { side, damage } = &change {
            let side = if *side == Side::Old { "older" } else { "newer" };
            out.remark(&format!("in the {side} point:"));
            damaged(out, &damage.path, &damage.cause);
            ending = Ending::Gaps;
        } else if out.is_json() {
            out.json_line(&change_json(&change))?;
        } else {
            out.text(&change_line(&change))?;
        }
    }
    Ok(ending)
}

fn change_line(change: &Change) -> String {
    match change {
        Change::Added { path, entry } => {
            format!("+ {} ({})", human::name(path), kind_word(&entry.node))
        }
        Change::Removed { path, entry } => {
            format!("- {} ({})", human::name(path), kind_word(&entry.node))
        }
        Change::Changed { path, fields, .. } => {
            let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
            format!("~ {} ({})", human::name(path), fields.join(", "))
        }
        Change::Damaged { damage, .. } => format!("! {}", human::name(&damage.path)),
    }
}

fn change_json(change: &Change) -> Value {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    match change {
        Change::Added { path, .. } => json!({ "change": "added", "path": text(path) }),
        Change::Removed { path, .. } => json!({ "change": "removed", "path": text(path) }),
        Change::Changed { path, fields, .. } => {
            let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
            json!({ "change": "changed", "path": text(path), "fields": fields })
        }
        Change::Damaged { damage, .. } => {
            json!({ "change": "damaged", "path": text(&damage.path) })
        }
    }
}

fn print_live(out: &Output, change: &LiveChange) -> std::io::Result<()> {
    let LiveChange { path, sign, what } = change;
    match out.is_json() {
        true => {
            let word = match sign {
                '+' => "added",
                '-' => "removed",
                '!' => "damaged",
                _ => "changed",
            };
            let path = String::from_utf8_lossy(path);
            out.json_line(&json!({ "change": word, "path": path, "fields": what }))
        }
        false => out.text(&format!("{sign} {} ({})", human::name(path), what.join(", "))),
    }
}
