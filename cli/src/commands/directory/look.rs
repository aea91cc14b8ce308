//! `directory ls`, `show` and `search`: what objects a point has, one of them with all its
//! values, and where a text stands.

use clap::Args;
use serde_json::json;
use strongroom_agent::workload::directory::object::{Object, depth, folded, is_within, parent};
use strongroom_agent::workload::directory::picture::Picture;
use strongroom_protocol::admin::PointRef;

use super::SourceArgs;
use crate::failure::{Ending, Failure};
use crate::human;
use crate::output::Output;
use crate::point_at::point;
use crate::session::Session;

/// List the objects of a point: the domain, or what is below a name
#[derive(Args, Debug)]
pub(super) struct LsArgs {
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    /// Below which object; without it, the domain
    #[arg(value_name = "DN")]
    dn: Option<String>,
    /// Everything below, too
    #[arg(long, short = 'R')]
    recursive: bool,
    #[command(flatten)]
    source: SourceArgs,
}

impl LsArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let picture = self.source.picture(session, &self.point).await?;
        let base = self.dn.unwrap_or_else(|| picture.root.domain.clone());
        known(&picture, &base)?;
        let name = folded(&base);
        let mut found: Vec<&Object> = picture
            .objects()
            .filter(|object| !object.is_deleted())
            .filter(|object| match self.recursive {
                true => is_within(&object.dn, &base),
                false => parent(&object.dn).is_some_and(|above| folded(above) == name),
            })
            .collect();
        found.sort_by_key(|object| (depth(&object.dn), object.dn.clone()));
        found.into_iter().try_for_each(|object| line(&session.out, object))?;
        Ok(Ending::Done)
    }
}

/// Show an object of a point with all its attributes, and when each was changed where
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    #[arg(value_name = "DN")]
    dn: String,
    #[command(flatten)]
    source: SourceArgs,
}

impl ShowArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let picture = self.source.picture(session, &self.point).await?;
        let object = known(&picture, &self.dn)?;
        if session.out.is_json() {
            session.out.json(object)?;
            return Ok(Ending::Done);
        }
        let mut text = format!("{}\n  guid {}\n", human::name(object.dn.as_bytes()), object.guid);
        for (name, values) in &object.attributes.0 {
            let by = picture.stamp(object, name).map(|(stamp, controller)| {
                let when = when(stamp.when);
                let place = controller.unwrap_or_else(|| stamp.invocation.to_string());
                format!("   (version {}, {when}, {place})", stamp.version)
            });
            text.push_str(&format!("  {name}{}\n", by.unwrap_or_default()));
            for value in values {
                text.push_str(&format!("      {}\n", value_text(value)));
            }
        }
        session.out.text(&text)?;
        Ok(Ending::Done)
    }
}

/// Find objects of a point by a text in their name or in an attribute
#[derive(Args, Debug)]
pub(super) struct SearchArgs {
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    /// In any case; ATTRIBUTE=TEXT looks in that attribute alone
    #[arg(value_name = "TEXT")]
    text: String,
    /// Deleted objects, too
    #[arg(long)]
    deleted: bool,
    #[command(flatten)]
    source: SourceArgs,
}

impl SearchArgs {
    pub(super) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let picture = self.source.picture(session, &self.point).await?;
        let (attribute, text) = match self.text.split_once('=') {
            Some((attribute, text)) => (Some(picture.schema.name(attribute)), folded(text)),
            None => (None, folded(&self.text)),
        };
        let mut found = 0;
        for object in picture.objects().filter(|object| self.deleted || !object.is_deleted()) {
            let has = |value: &Vec<u8>| {
                std::str::from_utf8(value).is_ok_and(|value| folded(value).contains(&text))
            };
            let hit = match attribute {
                Some(attribute) => object.values(attribute).iter().any(has),
                None => {
                    folded(&object.dn).contains(&folded(&self.text))
                        || object.attributes.0.values().flatten().any(has)
                }
            };
            if hit {
                found += 1;
                line(&session.out, object)?;
            }
        }
        if found == 0 {
            session.out.remark(&format!("nothing has {:?}", self.text));
        }
        Ok(Ending::Done)
    }
}

/// An object that is in the picture.
pub(super) fn known<'p>(picture: &'p Picture, dn: &str) -> Result<&'p Object, Failure> {
    picture.named(dn).ok_or_else(|| {
        let shown = human::name(dn.as_bytes());
        Failure::new(format!("the point has no object {shown}"))
            .hint("`strongroom directory search POINT TEXT` looks for one")
    })
}

/// A moment in UTC.
pub(super) fn when(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

/// A value as people read it: text, or bytes in hexadecimal.
pub(super) fn value_text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => {
            let some = value.get(..24).unwrap_or(value);
            let hex: String = some.iter().map(|byte| format!("{byte:02x}")).collect();
            let rest = if some.len() < value.len() { "..." } else { "" };
            format!("0x{hex}{rest} ({} bytes)", value.len())
        }
    }
}

fn line(out: &Output, object: &Object) -> std::io::Result<()> {
    let class = object.values("objectClass").last();
    let class = class.map(|class| String::from_utf8_lossy(class).into_owned()).unwrap_or_default();
    match out.is_json() {
        true => out.json_line(&json!({ "dn": object.dn, "guid": object.guid, "class": class })),
        false => out.text(&format!("{class:<22} {}", human::name(object.dn.as_bytes()))),
    }
}
