//! A point opened to be worked with for a while: at a node, the link dialled again where it is
//! lost, or brought from media. Promises that what was brought goes when it was not to stay.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom_agent::restore::Overwrite;
use strongroom_agent::workload::vm::{DESCRIPTION, DISKS};
use strongroom_protocol::admin::PointRef;
use strongroom_store::content::{Entry, Node};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::commands::{CopyArgs, copy_site};
use crate::failure::Failure;
use crate::human;
use crate::restoring::{Order, lacks, staged};
use crate::scene::{Scene, Spot, resolve};
use crate::session::{Session, blocking};
use crate::steady::Steady;

/// What the description of a machine may take, in bytes.
const DESCRIPTION_BYTES_MAX: u64 = 4 << 20;

/// A point that was opened.
pub(crate) struct Ground {
    pub(crate) scene: Scene,
    /// What no cartridge here gave.
    pub(crate) lacking: Vec<String>,
    /// Where it was brought to; it goes with this.
    _staging: Option<TempDir>,
}

/// An image in a point.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) name: String,
    pub(crate) path: Vec<u8>,
    pub(crate) entry: Entry,
}

/// Which images are meant.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// Disks of a machine by name; without any, all of them.
    Disks(Vec<String>),
    /// Any files.
    Paths(Vec<PathBuf>),
}

impl Choice {
    /// What must be brought from media, as globs; none for everything.
    fn globs(&self) -> Vec<String> {
        match self {
            Self::Disks(names) if names.is_empty() => Vec::new(),
            Self::Disks(names) => {
                let disks = names.iter().map(|name| format!("/{DISKS}/{}.raw", escaped(name)));
                disks.chain([format!("/{DESCRIPTION}")]).collect()
            }
            Self::Paths(paths) => {
                let path = |path: &PathBuf| escaped(path.to_string_lossy().trim_matches('/'));
                paths.iter().map(|named| format!("/{}", path(named))).collect()
            }
        }
    }
}

/// A text as a glob that fits nothing else.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if "*?[]{}!\\ ".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

impl Ground {
    /// Opens a point; `stop` ends all waiting for it.
    pub(crate) async fn open(
        session: &Session,
        copy: &CopyArgs,
        point: &PointRef,
        choice: &Choice,
        stop: CancellationToken,
    ) -> Result<Self, Failure> {
        let Some(media) = copy.media.clone() else {
            let site = copy_site(session, copy.from.as_deref())?;
            let contact = session.contact_at(site.as_ref()).await?;
            let id = resolve(&contact, point).await?;
            let (manifest, steady) = Steady::open(session, contact, id, stop).await?;
            let scene = blocking(move || Scene::open(Arc::new(steady), manifest)).await?;
            return Ok(Self { scene, lacking: Vec::new(), _staging: None });
        };
        let opener = Arc::new(copy.opener.opener()?);
        let own = match &copy.staging {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("strongroom-staging-").tempdir()?),
        };
        let staging = copy.staging.clone().or_else(|| own.as_ref().map(|own| own.path().into()));
        let staging = staging.unwrap_or_default();
        let order = Order {
            point: point.clone(),
            path: Vec::new(),
            select: choice.globs(),
            overwrite: Overwrite::Never,
            target: PathBuf::new(),
        };
        let (scene, brought, _) = staged(session, &order, media, opener, (&staging, None)).await?;
        Ok(Self { scene, lacking: lacks(&brought), _staging: own })
    }

    /// The images that are meant; blocking.
    pub(crate) fn images(scene: &Scene, choice: &Choice) -> Result<Vec<Chosen>, Failure> {
        match choice {
            Choice::Paths(paths) => {
                let mut chosen: Vec<Chosen> = Vec::new();
                for path in paths {
                    let path = cleaned(path);
                    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path);
                    let short = human::name(name);
                    let taken = chosen.iter().any(|known| known.name == short);
                    let name = if taken { human::name(&path) } else { short };
                    chosen.push(file(scene, name, path)?);
                }
                Ok(chosen)
            }
            Choice::Disks(names) => {
                let known = disks(scene)?;
                if let Some(name) = names.iter().find(|name| !known.contains(name)) {
                    return Err(Failure::new(format!("the machine has no disk {name}"))
                        .hint(format!("it has {}", known.join(", "))));
                }
                let wanted = known.iter().filter(|name| names.is_empty() || names.contains(name));
                wanted
                    .map(|name| {
                        file(scene, name.clone(), format!("{DISKS}/{name}.raw").into_bytes())
                    })
                    .collect()
            }
        }
    }
}

/// Names joined by '/', as they lie in a point.
fn cleaned(path: &Path) -> Vec<u8> {
    let names = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let names: Vec<&[u8]> = names.filter(|name| !name.is_empty() && *name != b".").collect();
    names.join(&b'/')
}

fn file(scene: &Scene, name: String, path: Vec<u8>) -> Result<Chosen, Failure> {
    let shown = human::name(&path);
    match scene.spot(&path)? {
        Spot::Other { entry, .. } if matches!(entry.node, Node::File { .. }) => {
            Ok(Chosen { name, path, entry })
        }
        _ => Err(Failure::new(format!("/{shown} is no file: it has no bytes"))
            .hint("name the file of a disk image with --path")),
    }
}

/// The names of a machine's disks.
fn disks(scene: &Scene) -> Result<Vec<String>, Failure> {
    let about = described(scene)?;
    let disks = about["disks"].as_array().cloned().unwrap_or_default();
    Ok(disks.iter().filter_map(|disk| Some(disk["name"].as_str()?.to_owned())).collect())
}

/// What the point of a machine says of it; blocking.
pub(crate) fn described(scene: &Scene) -> Result<serde_json::Value, Failure> {
    let wrong = || {
        let point = scene.manifest.head.point.short();
        Failure::new(format!("point {point} is not of a virtual machine"))
            .hint("name the file of a disk image in it with --path; `strongroom ls` shows them")
    };
    let Ok(Spot::Other { entry, .. }) = scene.spot(DESCRIPTION.as_bytes()) else {
        return Err(wrong());
    };
    let bytes = scene.tree.read_file(&entry, 0, DESCRIPTION_BYTES_MAX)?;
    let about: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    match about["disks"].is_array() {
        true => Ok(about),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_fit_what_was_named_and_nothing_else() {
        let paths = Choice::Paths(vec!["/srv/a b[1].raw".into(), "x*".into()]);
        assert_eq!(paths.globs(), ["/srv/a\\ b\\[1\\].raw", "/x\\*"]);
        let disks = Choice::Disks(vec!["vda".into()]);
        assert_eq!(disks.globs(), ["/disks/vda.raw", "/strongroom.json"]);
        assert!(Choice::Disks(Vec::new()).globs().is_empty());
        assert_eq!(cleaned(Path::new("/a//./b/")), b"a/b");
    }
}
