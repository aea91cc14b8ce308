//! Where the whole of a point is read from to make an application of it: a node, or media without
//! any node, by way of a directory that is removed again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom_agent::restore::Overwrite;
use strongroom_protocol::admin::PointRef;
use strongroom_store::keys::AgentKeys;

use crate::commands::{CopyArgs, beside, copy_site};
use crate::failure::{Failure, While};
use crate::operator::Contact;
use crate::restoring::{Order, lacks, staged};
use crate::scene::{Scene, naming, open_remote, resolve};
use crate::session::Session;
use crate::vault::Opener;

/// Where a point is read from.
pub(crate) enum Origin {
    Media { media: PathBuf, opener: Arc<Opener>, staging: PathBuf },
    Node(Box<Contact>),
}

impl Origin {
    /// As a person said it; what is staged of media goes beside `target` unless they said where.
    pub(crate) async fn of(
        copy: &CopyArgs,
        session: &Session,
        target: &Path,
    ) -> Result<Self, Failure> {
        if let Some(media) = &copy.media {
            let staging = copy.staging.clone().map_or_else(|| beside(target), Ok)?;
            let opener = Arc::new(copy.opener.opener()?);
            return Ok(Self::Media { media: media.clone(), opener, staging });
        }
        let site = copy_site(session, copy.from.as_deref())?;
        Ok(Self::Node(Box::new(session.contact_at(site.as_ref()).await?)))
    }

    /// The node that is read from, if any.
    pub(crate) fn contact(&self) -> Option<&Contact> {
        match self {
            Self::Media { .. } => None,
            Self::Node(contact) => Some(contact),
        }
    }

    /// Opens the point: what it holds, the keys to name it by, and what is lacking of it.
    pub(crate) async fn open(
        &self,
        session: &Session,
        point: &PointRef,
    ) -> Result<(Scene, AgentKeys, Vec<String>), Failure> {
        match self {
            Self::Node(contact) => {
                let id = resolve(contact, point).await?;
                Ok((open_remote(contact, id).await?, naming(contact, id).await?, Vec::new()))
            }
            Self::Media { media, opener, staging } => {
                let order = Order {
                    point: point.clone(),
                    path: Vec::new(),
                    select: Vec::new(),
                    overwrite: Overwrite::IfDifferent,
                    target: PathBuf::new(),
                };
                fs::create_dir_all(staging).doing("cannot make the staging directory")?;
                let (media, opener) = (media.clone(), Arc::clone(opener));
                let (scene, brought, keys) =
                    staged(session, &order, media, opener, (staging, None)).await?;
                Ok((scene, keys, lacks(&brought)))
            }
        }
    }

    /// Removes what was put aside meanwhile.
    pub(crate) fn tidy(&self) -> Result<(), Failure> {
        match self {
            Self::Media { staging, .. } if staging.exists() => {
                fs::remove_dir_all(staging).doing(format!("cannot remove {}", staging.display()))
            }
            _ => Ok(()),
        }
    }
}
