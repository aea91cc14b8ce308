//! `directory compare`: what is different between a point and another, or the live directory.

use clap::Args;
use serde_json::json;
use strongroom_agent::workload::directory::compare::{Change, Difference, compare};
use strongroom_agent::workload::directory::ldap::Connection;
use strongroom_agent::workload::directory::picture::Picture;
use strongroom_agent::workload::directory::read::Reader;
use strongroom_protocol::admin::PointRef;

use super::look::{value_text, when};
use super::{ServerArgs, SourceArgs, usual};
use crate::failure::{Ending, Failure};
use crate::human;
use crate::output::Output;
use crate::point_at::point;
use crate::session::Session;

/// Show what is different between a point and another one, or the live directory
#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    /// A later point to compare with
    #[arg(long = "with", value_name = "POINT", value_parser = point())]
    #[arg(required_unless_present = "live", conflicts_with = "live")]
    later: Option<PointRef>,
    /// Compare with the directory as it is now
    #[arg(long)]
    live: bool,
    /// Only this object and what is below
    #[arg(long, value_name = "DN")]
    below: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    server: ServerArgs,
}

impl CompareArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let earlier = self.source.picture(session, &self.point).await?;
        let later = match &self.later {
            Some(later) => self.source.picture(session, later).await?,
            None => {
                let server = self.server.server(usual(&earlier))?;
                let connection = Connection::open(&server).await?;
                Picture::live(&Reader::open(connection, Vec::new()).await?).await?
            }
        };
        for difference in compare(&earlier, &later, self.below.as_deref()) {
            print(&session.out, &difference)?;
        }
        Ok(Ending::Done)
    }
}

fn print(out: &Output, difference: &Difference) -> std::io::Result<()> {
    let Difference { guid, dn, change } = difference;
    let shown = human::name(dn.as_bytes());
    if out.is_json() {
        let value = match change {
            Change::Added => json!({ "change": "added", "dn": dn, "guid": guid }),
            Change::Gone => json!({ "change": "gone", "dn": dn, "guid": guid }),
            Change::Changed { before, attributes } => {
                let texts = |values: &[Vec<u8>]| -> Vec<String> {
                    values.iter().map(|value| value_text(value)).collect()
                };
                let attributes: Vec<_> = attributes
                    .iter()
                    .map(|one| {
                        json!({
                            "attribute": one.attribute, "removed": texts(&one.removed),
                            "added": texts(&one.added), "by": one.by,
                        })
                    })
                    .collect();
                json!({
                    "change": "changed", "dn": dn, "guid": guid, "before": before,
                    "attributes": attributes,
                })
            }
        };
        return out.json_line(&value);
    }
    match change {
        Change::Added => out.text(&format!("+ {shown}")),
        Change::Gone => out.text(&format!("- {shown}")),
        Change::Changed { before, attributes } => {
            let mut text = format!("~ {shown}\n");
            if let Some(before) = before {
                text.push_str(&format!("    was {}\n", human::name(before.as_bytes())));
            }
            for one in attributes {
                let by = one.by.as_ref().map(|by| {
                    let place = by.controller.clone();
                    let place = place.unwrap_or_else(|| by.stamp.invocation.to_string());
                    format!("   ({}, {place})", when(by.stamp.when))
                });
                text.push_str(&format!("    {}{}\n", one.attribute, by.unwrap_or_default()));
                one.removed
                    .iter()
                    .for_each(|v| text.push_str(&format!("      - {}\n", value_text(v))));
                one.added
                    .iter()
                    .for_each(|v| text.push_str(&format!("      + {}\n", value_text(v))));
            }
            out.text(&text)
        }
    }
}
