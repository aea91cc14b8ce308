//! `dump`: the bytes of one file of a point, to standard output or a file; a directory as a
//! tar archive.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use strongroom_store::content::{Entry, Node};

use crate::failure::{Ending, Failure, While};
use crate::human;
use crate::inside::place;
use crate::point_at::{PointAt, point_at};
use crate::scene::{Scene, Spot, open_remote, resolve};
use crate::session::{Session, blocking};
use crate::tar;

/// Bytes read at a time: a few chunks.
const STEP_BYTES: u64 = 4 << 20;

/// Write a file of a point to standard output; a directory as tar
#[derive(Args, Debug)]
pub(crate) struct DumpArgs {
    /// A point and a path in it; IMAGE//pN/PATH for what lies in a disk image
    #[arg(value_name = "POINT:PATH", value_parser = point_at())]
    at: PointAt,
    /// Write here instead
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl DumpArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let contact = session.contact().await?;
        let point = resolve(&contact, &self.at.point).await?;
        let scene = open_remote(&contact, point).await?;
        let out = session.out.clone();
        blocking(move || {
            let place = place(scene, &self.at)?;
            let scene = &place.scene;
            let spot = scene.spot(&place.path)?;
            let mut sink: Box<dyn Write> = match &self.output {
                Some(path) => Box::new(
                    File::create_new(path).doing(format!("cannot make {}", path.display()))?,
                ),
                None => {
                    if matches!(spot, Spot::Directory { .. }) && std::io::stdout().is_terminal() {
                        return Err(Failure::usage("a directory is written as a tar archive")
                            .hint("name a file with -o, or pipe it to `tar tv`"));
                    }
                    Box::new(std::io::stdout().lock())
                }
            };
            let ending = match spot {
                Spot::Other { entry, .. } => {
                    file(scene, &entry, &mut sink)?;
                    Ending::Done
                }
                Spot::Directory { page, meta } => {
                    let gaps = tar::write(scene, page, meta.as_ref(), &mut sink)?;
                    for gap in &gaps {
                        out.remark(&format!("not in the archive: {gap}"));
                    }
                    if gaps.is_empty() { Ending::Done } else { Ending::Gaps }
                }
            };
            sink.flush()?;
            Ok(place.tell(&out, ending))
        })
        .await
    }
}

/// The bytes of one file.
fn file(scene: &Scene, entry: &Entry, sink: &mut dyn Write) -> Result<(), Failure> {
    let Node::File { size, .. } = &entry.node else {
        let name = human::name(&entry.name);
        return Err(Failure::new(format!("{name} is no file: it has no bytes")));
    };
    let mut at = 0;
    while at < *size {
        let bytes = scene.tree.read_file(entry, at, STEP_BYTES)?;
        if bytes.is_empty() {
            return Err(Failure::new(format!("{} ends early", human::name(&entry.name))));
        }
        sink.write_all(&bytes)?;
        at += bytes.len() as u64;
    }
    Ok(())
}
