//! Where a point of a cluster is read from: a node, media without any node, or this host.

use std::path::PathBuf;
use std::sync::Arc;

use strongroom_agent::restore::Overwrite;
use strongroom_agent::workload::postgres::about::{self, About};
use strongroom_protocol::admin::{PointRef, PointRow};
use strongroom_protocol::{PointId, WorkloadName};
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
/// How a coordinator calls the copy that it holds itself, and the states in which it is there.
const PRIMARY_KIND: &str = "primary-snap";
const THERE: &[&str] = &["present", "going", "suspect"];

/// Where points are read from.
pub(crate) enum Origin {
    /// One point, that is open already.
    Here {
        scene: Box<Scene>,
        keys: AgentKeys,
    },
    Media {
        media: PathBuf,
        opener: Arc<Opener>,
        staging: PathBuf,
    },
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
            Self::Here { scene, keys } => (Scene::clone(scene), keys.clone(), Vec::new()),
            Self::Node(contact) => {
                let id = resolve(contact, point).await?;
                return self.open_known(session, id).await;
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
                    staged(session, &order, media, opener, (&staging, None)).await?;
                (scene, keys, lacks(&brought))
            }
        };
        described(scene, keys, lacking).await
    }

    /// The same of a point that is known to be there.
    pub(crate) async fn open_known(
        &self,
        session: &Session,
        id: PointId,
    ) -> Result<Opened, Failure> {
        match self {
            Self::Node(contact) => {
                let (scene, keys) = (open_remote(contact, id).await?, naming(contact, id).await?);
                described(scene, keys, Vec::new()).await
            }
            Self::Here { .. } | Self::Media { .. } => {
                Box::pin(self.open(session, &PointRef::Id(id.to_string()))).await
            }
        }
    }

    /// The node that is read from, if any.
    pub(crate) fn contact(&self) -> Option<&Contact> {
        match self {
            Self::Here { .. } | Self::Media { .. } => None,
            Self::Node(contact) => Some(contact),
        }
    }

    /// The points of a workload that are there, oldest first.
    pub(crate) async fn points_of(&self, workload: &WorkloadName) -> Result<Vec<PointId>, Failure> {
        let mut found: Vec<_> = match self {
            Self::Here { scene, .. } if scene.manifest.body.workload_name == *workload => {
                let head = &scene.manifest.head;
                vec![(head.moment, head.point)]
            }
            Self::Here { .. } => Vec::new(),
            Self::Node(contact) => {
                let rows = points(contact, Some(workload.clone())).await?;
                let there = rows.into_iter().filter(is_there);
                there.map(|row| (row.moment, row.id)).collect()
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
        Ok(found.into_iter().map(|(_, id)| id).collect())
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

/// Whether the node asked has a point: a coordinator lists also those whose primary copy is gone,
/// a proxy only what it has, without copies.
fn is_there(row: &PointRow) -> bool {
    let own = row.copies.iter().find(|copy| copy.kind == PRIMARY_KIND);
    row.copies.is_empty() || own.is_some_and(|copy| THERE.contains(&copy.state.as_str()))
}

async fn described(scene: Scene, keys: AgentKeys, lacking: Vec<String>) -> Result<Opened, Failure> {
    let asked = scene.clone();
    let about = blocking(move || read_about(&asked)).await?;
    Ok(Opened { scene, keys, about, lacking })
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
