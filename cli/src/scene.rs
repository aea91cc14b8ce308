//! A point as people look into it, wherever its blobs are: the directory that was protected is
//! the root, the item around it is not seen. Blocking, as reading blobs is.

use std::sync::Arc;

use strongroom_node::ask::open;
use strongroom_node::inspect;
use strongroom_node::reader::RemotePoint;
use strongroom_protocol::admin::{PointRef, PointRow, Request, Response};
use strongroom_protocol::data::ToReader;
use strongroom_protocol::opening::Opening;
use strongroom_protocol::{ChunkId, PointId, Timestamp, WorkloadName};
use strongroom_store::content::{Entry, Meta};
use strongroom_store::keys::AgentKeys;
use strongroom_store::manifest::Manifest;
use strongroom_store::tree::{BlobSource, Tree};

use crate::failure::Failure;
use crate::human;
use crate::operator::Contact;
use crate::session::{blocking, unexpected};

/// A source whose copies are cheap.
pub(crate) type Source = Arc<dyn BlobSource + Send + Sync>;

/// A point that was opened.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) manifest: Manifest,
    /// What was protected; paths are relative to it.
    pub(crate) tree: Tree<Source>,
    /// Of the directory that was protected; none where a point has several items.
    pub(crate) meta: Option<Meta>,
}

/// What lies at a path of a scene.
pub(crate) enum Spot {
    /// A directory: its page, and its metadata where it has any.
    Directory { page: ChunkId, meta: Option<Meta> },
    /// Anything else, with the page of the directory it is in.
    Other { entry: Entry, parent: ChunkId },
}

impl Scene {
    /// Looks into a point.
    pub(crate) fn open(source: Source, manifest: Manifest) -> Result<Self, Failure> {
        let whole = Tree::new(Arc::clone(&source), manifest.body.root);
        let mut items = whole.directory(whole.root());
        let first = items.next().transpose()?;
        let single = items.next().transpose()?.is_none();
        drop(items);
        let item = first.filter(|_| single).and_then(|item| Some((item.directory_page()?, item)));
        Ok(match item {
            Some((page, item)) => {
                Self { manifest, tree: Tree::new(source, page), meta: Some(item.meta) }
            }
            None => Self { manifest, tree: whole, meta: None },
        })
    }

    /// What lies at a path.
    pub(crate) fn spot(&self, path: &[u8]) -> Result<Spot, Failure> {
        let absent = || {
            let point = self.manifest.head.point.short();
            Failure::new(format!("point {point} has no /{}", human::name(path)))
                .hint("`strongroom find` looks for a name")
        };
        if path.is_empty() {
            return Ok(Spot::Directory { page: self.tree.root(), meta: self.meta.clone() });
        }
        let entry = self.tree.lookup(path)?.ok_or_else(absent)?;
        if let Some(page) = entry.directory_page() {
            return Ok(Spot::Directory { page, meta: Some(entry.meta) });
        }
        let above = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let parent = match path.get(..above).unwrap_or_default() {
            b"" => self.tree.root(),
            above => {
                self.tree.lookup(above)?.and_then(|e| e.directory_page()).ok_or_else(absent)?
            }
        };
        Ok(Spot::Other { entry, parent })
    }
}

/// The points a node knows; all of them, or those of a workload.
pub(crate) async fn points(
    contact: &Contact,
    workload: Option<WorkloadName>,
) -> Result<Vec<PointRow>, Failure> {
    match contact.ask(&Request::Points { workload }).await? {
        Response::Points(rows) => Ok(rows),
        _ => Err(unexpected()),
    }
}

/// The point a person means, at this node.
pub(crate) async fn resolve(contact: &Contact, point: &PointRef) -> Result<PointId, Failure> {
    let workload = match point {
        PointRef::Latest(workload) => Some(workload.clone()),
        PointRef::Id(_) => None,
    };
    let rows = points(contact, workload).await?;
    let known: Vec<(PointId, WorkloadName, Timestamp)> =
        rows.into_iter().map(|row| (row.id, row.workload, row.moment)).collect();
    inspect::resolve(&known, point)
        .map_err(|refusal| Failure::new(refusal.text).hint("`strongroom points` lists them"))
}

/// Opens a point at a node.
pub(crate) async fn open_remote(contact: &Contact, point: PointId) -> Result<Scene, Failure> {
    let opened = RemotePoint::open(&contact.link, point, None).await;
    let (manifest, source) = opened.map_err(|error| contact.failed(error))?;
    blocking(move || Scene::open(Arc::new(source), manifest)).await
}

/// How blobs are named at a node: with it, what a target holds already is not fetched.
pub(crate) async fn naming(contact: &Contact, point: PointId) -> Result<AgentKeys, Failure> {
    let opening = Opening::Fetch { point, grant: None };
    let opened = open(&contact.link, opening).await;
    let (_sender, mut receiver) = opened.map_err(|error| contact.failed(error))?;
    match receiver.expect::<ToReader>().await?.0 {
        ToReader::Manifest(naming) => {
            Ok(AgentKeys { id_key: naming.id_key, cut_key: naming.cut_key })
        }
        ToReader::Lost { refusal, .. } => Err(refusal.into()),
        _ => Err(unexpected()),
    }
}
