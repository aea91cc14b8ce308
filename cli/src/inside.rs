//! What lies inside of disk images of a point, for every command that looks into points: the image
//! is read by a confined process, which is this program once more, and a partition of it is a
//! scene like any other.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use strongroom_agent::workload::vm::{DESCRIPTION, DISKS};
use strongroom_images::cell::{Cell, Partition, State, Survey};
use strongroom_present::inside::{ImageFile, Inside};
use strongroom_present::reader::{BYTES_MAX, Reader};
use strongroom_store::content::{Entry, Node};
use strongroom_store::tree::Tree;

use crate::commands::{CopyArgs, copy_site};
use crate::failure::{Ending, Failure, While};
use crate::human;
use crate::lending::{Cartridges, Lending};
use crate::output::Output;
use crate::point_at::{InsideAt, PointAt};
use crate::restoring::{Order, carry_out, conclude};
use crate::scene::{Scene, Source, Spot, open_remote, resolve};
use crate::session::{Session, blocking};

/// The word by which this program becomes the process that reads an image.
pub(crate) const CELL: &str = "image-cell";

/// An image of a point.
pub(crate) struct Image {
    cell: Arc<Cell>,
    pub(crate) survey: Survey,
    /// Its path in the point.
    pub(crate) path: Vec<u8>,
    is_unreachable: Arc<std::sync::atomic::AtomicBool>,
}

impl Image {
    /// Opens a file of a point as an image; none if the path is that of a directory. Blocking.
    pub(crate) fn open(scene: &Scene, path: &[u8]) -> Result<Option<Self>, Failure> {
        // Disks of machines may be called by their names.
        let with_end = [path, b".raw"].concat();
        let (path, spot) = match scene.spot(path) {
            Err(absent) => match scene.spot(&with_end) {
                Ok(spot) => (with_end, spot),
                Err(_) => return Err(absent),
            },
            Ok(spot) => (path.to_vec(), spot),
        };
        match spot {
            Spot::Directory { .. } => Ok(None),
            Spot::Other { entry, .. } => Self::of(scene, path, &entry).map(Some),
        }
    }

    /// The image that a file is. Blocking.
    pub(crate) fn of(scene: &Scene, path: Vec<u8>, entry: &Entry) -> Result<Self, Failure> {
        let shown = human::name(&path);
        let Node::File { size, content } = &entry.node else {
            return Err(Failure::new(format!("/{shown} is no file, so it is no disk image")));
        };
        let reader = Reader::new(Arc::clone(scene.tree.source()), BYTES_MAX)?;
        let (file, is_unreachable) = ImageFile::new(reader.open(*size, content));
        let cell = Arc::new(Cell::new(Arc::new(file), || {
            // The program as it runs, also where it was replaced on disk meanwhile.
            let mut command = Command::new("/proc/self/exe");
            command.arg(CELL);
            command
        }));
        let survey = cell.survey().doing(format!("cannot look into /{shown}"))?;
        Ok(Self { cell, survey, path, is_unreachable })
    }

    /// What lies in a partition, as a scene.
    pub(crate) fn scene(
        &self,
        outer: &Scene,
        number: u32,
    ) -> Result<(Scene, Arc<Inside>), Failure> {
        let shown = human::name(&self.path);
        let found = self.survey.partitions.iter().zip(0..).find(|(one, _)| one.number == number);
        let Some((partition, place)) = found else {
            let there = self.survey.partitions.iter().map(|one| format!("p{}", one.number));
            let there: Vec<_> = there.collect();
            return Err(Failure::new(format!("/{shown} has no partition {number}"))
                .hint(format!("it has {}", there.join(", "))));
        };
        let name = format!("/{shown}//p{number}");
        let unreachable = Arc::clone(&self.is_unreachable);
        let cell = Arc::clone(&self.cell);
        let Some(inside) = Inside::new(cell, place, &partition.state, name, unreachable) else {
            return Err(Failure::new(format!("/{shown}//p{number} holds {}", partition.state))
                .hint(format!("`strongroom ls POINT:{shown}//` shows what can be read")));
        };
        let inside = Arc::new(inside);
        let meta = inside.meta().doing(format!("cannot look into /{shown}//p{number}"))?;
        let source: Source = Arc::clone(&inside) as Source;
        let (manifest, tree) = (outer.manifest.clone(), Tree::new(source, inside.page()));
        Ok((Scene { manifest, tree, meta: Some(meta) }, inside))
    }

    /// Its partitions, a line each.
    pub(crate) fn print(&self, out: &Output) -> std::io::Result<Ending> {
        let mut ending = Ending::Done;
        for one in &self.survey.partitions {
            match out.is_json() {
                true => out.json_line(&partition_json(one))?,
                false => out.text(&partition_line(one))?,
            }
            if let State::Read { warnings, .. } = &one.state {
                for warning in warnings {
                    out.remark(&format!("p{}: {warning}", one.number));
                }
            }
            if matches!(one.state, State::Damaged { .. }) {
                ending = Ending::Gaps;
            }
        }
        let shown = human::name(&self.path);
        if self.survey.partitions.is_empty() {
            out.remark(&format!("/{shown} has no partition"));
        }
        self.survey.notes.iter().for_each(|note| out.remark(&format!("/{shown}: {note}")));
        Ok(ending)
    }
}

fn partition_line(one: &Partition) -> String {
    let mut line = format!("p{:<3} {:>10}  {}", one.number, human::bytes(one.bytes), one.state);
    if let State::Read { label: Some(label), .. } = &one.state {
        line.push_str(&format!(" {label:?}"));
    }
    line.push_str(&format!("  ({}", human::text(&one.purpose)));
    if let Some(name) = &one.name {
        line.push_str(&format!(", {:?}", human::text(name)));
    }
    line.push(')');
    line
}

fn partition_json(one: &Partition) -> serde_json::Value {
    let mut value = serde_json::json!({
        "partition": one.number, "first_byte": one.first, "bytes": one.bytes, "name": one.name,
        "purpose": one.purpose, "state": one.state.to_string(),
    });
    if let State::Read { system, label, warnings, .. } = &one.state {
        value["file_system"] = serde_json::json!(system);
        value["label"] = serde_json::json!(label);
        value["warnings"] = serde_json::json!(warnings);
    }
    value
}

/// A place of a point that was opened: in the point, or inside of an image of it.
pub(crate) struct Place {
    pub(crate) scene: Scene,
    pub(crate) path: Vec<u8>,
    inside: Option<Arc<Inside>>,
}

/// What is meant: the disk itself, or something like any other.
#[expect(clippy::large_enum_variant, reason = "a command has one of it")]
pub(crate) enum Meant {
    Disk(Image),
    Place(Place),
}

/// Opens what is meant, in a point or in an image of it. Blocking.
pub(crate) fn meant(scene: Scene, at: &PointAt) -> Result<Meant, Failure> {
    let plain = |scene| Meant::Place(Place { scene, path: at.path.clone(), inside: None });
    let Some(InsideAt { image, partition, path }) = &at.inside else { return Ok(plain(scene)) };
    let Some(image) = Image::open(&scene, image)? else { return Ok(plain(scene)) };
    let Some(number) = partition else { return Ok(Meant::Disk(image)) };
    let (scene, inside) = image.scene(&scene, *number)?;
    Ok(Meant::Place(Place { scene, path: path.clone(), inside: Some(inside) }))
}

/// The same where a disk itself will not do. Blocking.
pub(crate) fn place(scene: Scene, at: &PointAt) -> Result<Place, Failure> {
    match meant(scene, at)? {
        Meant::Place(place) => Ok(place),
        Meant::Disk(image) => {
            let shown = human::name(&image.path);
            Err(Failure::usage(format!("/{shown}// is a disk: name a partition of it, as //p1"))
                .hint(format!("`strongroom ls POINT:{shown}//` shows them")))
        }
    }
}

impl Place {
    /// Tells what could not be read inside of the image, and how it ends therefore.
    pub(crate) fn tell(&self, out: &Output, ending: Ending) -> Ending {
        let Some(inside) = &self.inside else { return ending };
        tell(inside, out, ending)
    }

    /// Tells what the file system does not give.
    pub(crate) fn tell_limits(&self, out: &Output) {
        let limits = self.inside.iter().flat_map(|inside| inside.limits());
        limits.for_each(|limit| out.remark(&limit));
    }
}

/// Tells what could not be read of a file system so far.
pub(crate) fn tell(inside: &Inside, out: &Output, ending: Ending) -> Ending {
    let (notes, more) = inside.take_notes();
    notes.iter().for_each(|note| out.remark(note));
    if more > 0 {
        out.remark(&format!("and {more} more"));
    }
    if notes.is_empty() { ending } else { Ending::Gaps }
}

/// Whether a file is taken for a disk image where names are looked for: the disks of machines are.
pub(crate) fn is_image(path: &[u8], entry: &Entry, all: bool) -> bool {
    let Node::File { size, .. } = &entry.node else { return false };
    let ends = |end: &[u8]| path.ends_with(end);
    let is_disk = path.starts_with(DISKS.as_bytes()) && ends(b".raw");
    *size > 0 && (is_disk || all && (ends(b".raw") || ends(b".img")))
}

/// Whether a point is one of a machine. Blocking.
pub(crate) fn is_machine(scene: &Scene) -> bool {
    matches!(scene.spot(DESCRIPTION.as_bytes()), Ok(Spot::Other { .. }))
}

/// Restores what lies inside of an image.
pub(crate) async fn restore(
    session: &Session,
    at: PointAt,
    copy: &CopyArgs,
    order: Order,
    staging: PathBuf,
) -> Result<Ending, Failure> {
    let scene = match copy.media.clone() {
        None => {
            let site = copy_site(session, copy.from.as_deref())?;
            let contact = session.contact_at(site.as_ref()).await?;
            let point = resolve(&contact, &at.point).await?;
            open_remote(&contact, point).await?
        }
        Some(media) => {
            let opener = copy.opener.opener()?;
            let cartridges = Cartridges { media, opener, staging: staging.clone() };
            let point = at.point.clone();
            blocking(move || {
                let (lending, manifest) = Lending::open(cartridges, point)?;
                Scene::open(Arc::new(lending), manifest)
            })
            .await?
        }
    };
    let place = blocking(move || place(scene, &at)).await?;
    let order = Order { path: place.path.clone(), ..order };
    let report = carry_out(session, place.scene.clone(), order.clone(), None).await?;
    let ending = place.tell(&session.out, conclude(&session.out, &order, &report, &[])?);
    place.tell_limits(&session.out);
    drop(place);
    if copy.media.is_some() && copy.staging.is_none() && ending == Ending::Done {
        let shown = staging.display().to_string();
        std::fs::remove_dir_all(&staging).doing(format!("cannot remove {shown}"))?;
    }
    Ok(ending)
}
