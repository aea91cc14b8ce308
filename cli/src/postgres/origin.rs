//! Where a point of a cluster is read from: a node, or media without any node.

use std::path::PathBuf;
use std::sync::Arc;

use strongroom_agent::restore::Overwrite;
use strongroom_agent::workload::postgres::about::{self, About};
use strongroom_protocol::WorkloadName;
use strongroom_protocol::admin::PointRef;
use strongroom_store::keys::AgentKeys;

use crate::failure::{Failure, While};
use crate::operator::Contact;
use crate::restoring::{Order, lacks, staged};
use crate::scene::{Scene, Spot, naming, open_remote, points, resolve};
use crate::session::{Session, blocking};
use crate::shelf::Shelf;
use crate::vault::Opener;

/// What the description of a point may take.
const ABOUT_BYTES_MAX: u64 = 4 << 20;

/// Where points are read from.
pub(crate) enum Origin {
    Media { media: PathBuf, opener: Arc<Opener>, staging: PathBuf },
    Node(Box<Contact>),
}

/// A point that was opened.
pub(crate) struct Opened {
    pub(crate) scene: Scene,
    pub(crate) keys: AgentKeys,
    pub(crate) about: About,
    /// What no cartridge here gave.
    pub(crate) lacking: Vec<String>,
}

impl Origin {
    /// Opens a point; from media, all it needs is brought.
    pub(crate) async fn open(
        &self,
        session: &Session,
        point: &PointRef,
    ) -> Result<Opened, Failure> {
        let (scene, keys, lacking) = match self {
            Self::Node(contact) => {
                let id = resolve(contact, point).await?;
                (open_remote(contact, id).await?, naming(contact, id).await?, Vec::new())
            }
            Self::Media { media, opener, staging } => {
                let order = Order {
                    point: point.clone(),
                    path: Vec::new(),
                    select: Vec::new(),
                    overwrite: Overwrite::IfDifferent,
                    target: PathBuf::new(),
                };
                let (media, opener) = (media.clone(), Arc::clone(opener));
                let staging = staging.join(name_of(point));
                std::fs::create_dir_all(&staging).doing("cannot make the staging directory")?;
                let (scene, brought, keys) =
                    staged(session, &order, media, opener, &staging).await?;
                (scene, keys, lacks(&brought))
            }
        };
        let asked = scene.clone();
        let about = blocking(move || read_about(&asked)).await?;
        Ok(Opened { scene, keys, about, lacking })
    }

    /// The node that is read from, if any.
    pub(crate) fn contact(&self) -> Option<&Contact> {
        match self {
            Self::Media { .. } => None,
            Self::Node(contact) => Some(contact),
        }
    }

    /// The points of a workload, oldest first.
    pub(crate) async fn points_of(
        &self,
        workload: &WorkloadName,
    ) -> Result<Vec<PointRef>, Failure> {
        let mut found: Vec<_> = match self {
            Self::Node(contact) => {
                let rows = points(contact, Some(workload.clone())).await?;
                rows.into_iter().map(|row| (row.moment, row.id)).collect()
            }
            Self::Media { media, opener, .. } => {
                let (media, opener, wanted) = (media.clone(), Arc::clone(opener), workload.clone());
                blocking(move || {
                    let all = Shelf::open(&media)?.points(Some(&opener))?.into_iter();
                    let mine = all.filter(|point| {
                        let manifest = point.manifest.as_ref();
                        manifest.is_some_and(|known| known.body.workload_name == wanted)
                    });
                    Ok(mine.map(|point| (point.moment, point.point)).collect())
                })
                .await?
            }
        };
        found.sort();
        Ok(found.into_iter().map(|(_, id)| PointRef::Id(id.to_string())).collect())
    }

    /// Removes what was brought from media.
    pub(crate) fn tidy(&self) -> Result<(), Failure> {
        match self {
            Self::Media { staging, .. } if staging.exists() => {
                let shown = staging.display().to_string();
                std::fs::remove_dir_all(staging).doing(format!("cannot remove {shown}"))
            }
            _ => Ok(()),
        }
    }
}

/// A directory of its own for each point.
fn name_of(point: &PointRef) -> String {
    match point {
        PointRef::Id(id) => id.clone(),
        PointRef::Latest(workload) => format!("latest-{workload}"),
    }
}

fn read_about(scene: &Scene) -> Result<About, Failure> {
    let not_one = || {
        let point = scene.manifest.head.point.short();
        Failure::new(format!("point {point} is not of PostgreSQL"))
            .hint("`strongroom points` lists the points of every workload")
    };
    let Ok(Spot::Other { entry, .. }) = scene.spot(about::NAME.as_bytes()) else {
        return Err(not_one());
    };
    let bytes = scene.tree.read_file(&entry, 0, ABOUT_BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|_| not_one())
}
