//! `ls`: what lies in a point, read at a node without restoring anything.

use clap::Args;
use strongroom_protocol::Chain;
use strongroom_store::content::Entry;
use strongroom_store::tree::Step;

use crate::failure::{Ending, Failure};
use crate::human;
use crate::inside::{Meant, meant};
use crate::output::Output;
use crate::point_at::{PointAt, point_at};
use crate::scene::{Scene, Spot, open_remote, resolve};
use crate::session::{Session, blocking};
use crate::show::{entry_json, entry_line};

/// List what lies in a point
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// A point, or a path in it: an id, its last 8 digits, or latest:WORKLOAD; IMAGE// for the
    /// partitions of a disk image, IMAGE//pN/PATH for what lies in one
    #[arg(value_name = "POINT[:PATH]", value_parser = point_at())]
    at: PointAt,
    /// Everything below, too
    #[arg(long, short = 'R')]
    recursive: bool,
}

/// How much of a directory is listed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    All,
    One,
}

impl LsArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let contact = session.contact().await?;
        let point = resolve(&contact, &self.at.point).await?;
        let scene = open_remote(&contact, point).await?;
        let out = session.out.clone();
        let depth = if self.recursive { Depth::All } else { Depth::One };
        blocking(move || match meant(scene, &self.at)? {
            Meant::Disk(image) => Ok(image.print(&out)?),
            Meant::Place(place) => {
                let ending = list(&place.scene, &place.path, depth, &out)?;
                Ok(place.tell(&out, ending))
            }
        })
        .await
    }
}

fn list(scene: &Scene, path: &[u8], depth: Depth, out: &Output) -> Result<Ending, Failure> {
    match scene.spot(path)? {
        Spot::Other { entry, .. } => {
            print(out, path, &entry)?;
            Ok(Ending::Done)
        }
        Spot::Directory { page, .. } if depth == Depth::All => {
            let mut ending = Ending::Done;
            for step in scene.tree.walk_from(page, path) {
                match step {
                    Step::Enter { path, entry } => print(out, &path, &entry)?,
                    Step::Leave { .. } => {}
                    Step::Damaged(damage) => {
                        damaged(out, &damage.path, &damage.cause);
                        ending = Ending::Gaps;
                    }
                }
            }
            Ok(ending)
        }
        Spot::Directory { page, .. } => {
            let mut ending = Ending::Done;
            for entry in scene.tree.directory(page) {
                match entry {
                    Ok(entry) => print(out, &entry.name.clone(), &entry)?,
                    Err(error) => {
                        damaged(out, path, &error);
                        ending = Ending::Gaps;
                    }
                }
            }
            Ok(ending)
        }
    }
}

/// One entry, on a line of its own.
pub(crate) fn print(out: &Output, path: &[u8], entry: &Entry) -> std::io::Result<()> {
    match out.is_json() {
        true => out.json_line(&entry_json(path, entry)),
        false => out.text(&entry_line(path, entry, out.face())),
    }
}

/// A directory of which part cannot be read.
pub(crate) fn damaged(out: &Output, path: &[u8], error: &(dyn std::error::Error + 'static)) {
    out.remark(&format!("part of /{} cannot be read: {}", human::name(path), Chain(error)));
}
