//! `restore`: part or all of a point into a directory of this host, from a node or straight
//! from media; or on an agent's host. Run again after an interruption it goes on.

use std::path::{Path, PathBuf};

use std::time::Duration;

use clap::{Args, ValueEnum};
use strongroom_agent::restore::Overwrite as Local;
use strongroom_protocol::admin::{Request, Response};
use strongroom_protocol::control::Overwrite as Remote;
use strongroom_protocol::{NodeName, Role, SiteName};

use crate::commands::protect::watch;
use crate::failure::{Ending, Failure};
use crate::inside;
use crate::operator::Contact;
use crate::point_at::{PointAt, point_at};
use crate::restoring::{Order, from_media, from_node};
use crate::secrets::OpenerArgs;
use crate::session::{Session, unexpected};

// A doc comment here would stand as what the command is for, in each that is made of it.
#[derive(Args, Debug)]
pub(crate) struct CopyArgs {
    /// Which copy: primary, secondary, or a site
    #[arg(long, value_name = "COPY", conflicts_with = "media")]
    pub(crate) from: Option<String>,
    /// Straight from the cartridges in this library's directory, without any node
    #[arg(long, value_name = "DIR")]
    pub(crate) media: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) opener: OpenerArgs,
    /// With --media: where packs from the cartridges are put meanwhile
    #[arg(long, value_name = "DIR", requires = "media")]
    pub(crate) staging: Option<PathBuf>,
}

/// Restore a point, or a path in it
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// A point, or a path in it: an id, its last 8 digits, or latest:WORKLOAD; IMAGE//pN/PATH for
    /// what lies in a disk image
    #[arg(value_name = "POINT[:PATH]", value_parser = point_at())]
    pub(super) at: PointAt,
    /// The directory of this host to restore into
    #[arg(long, value_name = "DIR", required_unless_present = "on", conflicts_with = "on")]
    pub(super) to: Option<PathBuf>,
    /// Only what fits this glob, as in .gitignore; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(super) select: Vec<String>,
    #[command(flatten)]
    pub(super) copy: CopyArgs,
    /// What happens to what is there already
    #[arg(long, value_enum, default_value_t = Overwrite::Never)]
    pub(super) overwrite: Overwrite,
    /// With --media: read nothing before every cartridge that may hold it is in the library, and
    /// wait this long for those that are not; 0 only names them
    #[arg(long, value_name = "SECONDS", requires = "media")]
    pub(super) wait: Option<u64>,
    /// On the host of this agent, into this directory of it
    #[arg(long, value_name = "AGENT:/PATH", conflicts_with = "media")]
    pub(super) on: Option<String>,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overwrite {
    /// It stays, and is counted
    Never,
    /// It is made right where it differs
    IfDifferent,
    /// It is written again
    Always,
}

impl RestoreArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        if let Some(on) = &self.on {
            return self.on_agent(session, on).await;
        }
        let Some(target) = self.to.clone() else {
            return Err(Failure::usage("name a directory with --to"));
        };
        let order = Order {
            point: self.at.point.clone(),
            path: self.at.path.clone(),
            select: self.select.clone(),
            overwrite: match self.overwrite {
                Overwrite::Never => Local::Never,
                Overwrite::IfDifferent => Local::IfDifferent,
                Overwrite::Always => Local::Always,
            },
            target,
        };
        if self.at.inside.is_some() {
            let staging = self.copy.staging.clone().map_or_else(|| beside(&order.target), Ok)?;
            return inside::restore(session, self.at, &self.copy, order, staging).await;
        }
        match &self.copy.media {
            Some(media) => {
                let opener = self.copy.opener.opener()?;
                let staging =
                    self.copy.staging.clone().map_or_else(|| beside(&order.target), Ok)?;
                let kept = self.copy.staging.is_some();
                let wait = self.wait.map(Duration::from_secs);
                from_media(session, order, media.clone(), opener, (staging, kept, wait)).await
            }
            None => {
                let site = copy_site(session, self.copy.from.as_deref())?;
                let contact = session.contact_at(site.as_ref()).await?;
                from_node(session, &contact, order).await
            }
        }
    }

    async fn on_agent(&self, session: &Session, on: &str) -> Result<Ending, Failure> {
        if self.at.inside.is_some() {
            return Err(Failure::usage("what lies inside of an image is restored on this host")
                .hint("name a directory of it with --to"));
        }
        let (agent, target) = agent_and_path(on)?;
        let site = copy_site(session, self.copy.from.as_deref())?;
        let contact: Contact = session.contact_at(site.as_ref()).await?;
        let mut select = self.select.clone();
        if !self.at.path.is_empty() {
            let path = String::from_utf8(self.at.path.clone())
                .map_err(|_| Failure::usage("a path that is not UTF-8 needs --to"))?;
            if !select.is_empty() {
                return Err(Failure::usage("with --on, give a path or --select, not both"));
            }
            select.push(path);
        }
        let request = Request::Recover {
            point: self.at.point.clone(),
            agent,
            target: target.into_bytes(),
            select,
            overwrite: match self.overwrite {
                Overwrite::Never => Remote::Never,
                Overwrite::IfDifferent => Remote::IfDifferent,
                Overwrite::Always => Remote::Always,
            },
        };
        match contact.ask(&request).await? {
            Response::Job(row) => watch(session, &contact, row.id).await,
            _ => Err(unexpected()),
        }
    }
}

fn agent_and_path(text: &str) -> Result<(NodeName, String), Failure> {
    let wrong = || {
        Failure::usage(format!("{text:?} names no directory of an agent"))
            .hint("write AGENT:/ABSOLUTE/PATH")
    };
    let (agent, path) = text.split_once(':').ok_or_else(wrong)?;
    let agent = agent.parse().map_err(|_| wrong())?;
    if path.starts_with('/') { Ok((agent, path.to_owned())) } else { Err(wrong()) }
}

/// The site that holds the copy that was named.
pub(crate) fn copy_site(
    session: &Session,
    from: Option<&str>,
) -> Result<Option<SiteName>, Failure> {
    let role = match from {
        None => return Ok(session.site.clone()),
        Some("primary") => Role::Coordinator,
        Some("secondary") => Role::Proxy,
        Some(site) => {
            let site = site.parse().map_err(|_| {
                Failure::usage(format!("{site:?} is no copy: primary, secondary or a site"))
            })?;
            return Ok(Some(site));
        }
    };
    let home = session.operator()?;
    match home.site_of(role) {
        Some(context) => Ok(Some(context.site.clone())),
        None => Err(Failure::new(format!("no site with a {role} is known here"))),
    }
}

/// A hidden directory beside the target: on the same file system, found again when repeated.
pub(crate) fn beside(target: &Path) -> Result<PathBuf, Failure> {
    let target = std::path::absolute(target)?;
    match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) => {
            let mut hidden = std::ffi::OsString::from(".strongroom-staging-");
            hidden.push(name);
            Ok(parent.join(hidden))
        }
        _ => Err(Failure::usage("there is no room beside the target: name one with --staging")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_and_an_absolute_path() {
        let (agent, path) = agent_and_path("db1:/srv/a:b").unwrap();
        assert_eq!((agent.as_str(), path.as_str()), ("db1", "/srv/a:b"));
        for text in ["db1", "db1:srv", ":/srv", "DB1:/srv"] {
            assert_eq!(agent_and_path(text).unwrap_err().code(), 2, "{text}");
        }
    }

    #[test]
    fn staging_lies_beside_the_target() {
        let staging = beside(Path::new("/srv/back")).unwrap();
        assert_eq!(staging, Path::new("/srv/.strongroom-staging-back"));
        assert!(beside(Path::new("/")).is_err());
    }
}
