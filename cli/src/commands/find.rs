//! `find`: where a name is, in one point or through the history of a workload.

use std::cell::RefCell;

use clap::Args;
use globset::{GlobBuilder, GlobMatcher};
use strongroom_images::cell::State;
use strongroom_protocol::WorkloadName;
use strongroom_protocol::admin::{PointRef, PointRow};
use strongroom_store::content::Entry;

use crate::commands::ls::{damaged, print};
use crate::failure::{Ending, Failure};
use crate::human;
use crate::inside::{Image, is_image, is_machine, tell};
use crate::output::Output;
use crate::point_at::point;
use crate::progress::Line;
use crate::scene::{Scene, open_remote, points, resolve};
use crate::session::{Session, blocking};
use crate::show::{entry_json, entry_line};

/// Find names in points: the newest of every workload, unless told otherwise
#[derive(Args, Debug)]
pub(crate) struct FindArgs {
    /// A glob: of the name, or of the whole path where it has a slash
    pattern: String,
    /// In this point only
    #[arg(long, value_parser = point(), conflicts_with = "workload")]
    point: Option<PointRef>,
    /// In every point of this workload, newest first
    #[arg(long)]
    workload: Option<WorkloadName>,
    /// Also inside of files called *.img and *.raw; the disks of machines are always looked into
    #[arg(long)]
    images: bool,
}

/// Where names are looked for, and how what is found is printed.
struct Hunt<'a> {
    pattern: &'a Pattern,
    row: &'a PointRow,
    /// It is the only point.
    one: bool,
    /// Any file that may be an image is looked into.
    images: bool,
    out: &'a Output,
}

impl FindArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let pattern = Pattern::parse(&self.pattern)?;
        let contact = session.contact().await?;
        let rows = match &self.point {
            Some(point) => {
                let id = resolve(&contact, point).await?;
                let mut rows = points(&contact, None).await?;
                rows.retain(|row| row.id == id);
                rows
            }
            None => {
                let rows = points(&contact, self.workload.clone()).await?;
                looked_into(rows, self.workload.is_some())
            }
        };
        let mut ending = Ending::Done;
        let mut line = Line::new(&session.out);
        for row in rows {
            line.say(format!("{} of {}", row.id.short(), row.workload));
            let scene = open_remote(&contact, row.id).await?;
            let (out, pattern) = (session.out.clone(), pattern.clone());
            let (one, images) = (self.point.is_some(), self.images);
            let found = blocking(move || {
                let (pattern, row, out) = (&pattern, &row, &out);
                Hunt { pattern, row, one, images, out }.search(&scene)
            })
            .await?;
            if found == Ending::Gaps {
                ending = found;
            }
        }
        line.clear();
        Ok(ending)
    }
}

/// Every point newest first, or the newest of each workload.
fn looked_into(mut rows: Vec<PointRow>, every: bool) -> Vec<PointRow> {
    rows.sort_by(|a, b| (&a.workload, b.moment).cmp(&(&b.workload, a.moment)));
    if !every {
        rows.dedup_by(|later, first| later.workload == first.workload);
    }
    rows
}

impl Hunt<'_> {
    fn search(&self, scene: &Scene) -> Result<Ending, Failure> {
        let looked_into = self.images || is_machine(scene);
        let images = RefCell::new(Vec::new());
        let mut ending = self.walk(scene, b"", &|path, entry| {
            if looked_into && is_image(path, entry, self.images) {
                images.borrow_mut().push((path.to_vec(), entry.clone()));
            }
        })?;
        for (path, entry) in images.into_inner() {
            if self.image(scene, path, &entry)? == Ending::Gaps {
                ending = Ending::Gaps;
            }
        }
        Ok(ending)
    }

    /// What lies inside of an image; what cannot be read there is told and no end of the hunt.
    fn image(&self, scene: &Scene, path: Vec<u8>, entry: &Entry) -> Result<Ending, Failure> {
        let image = match Image::of(scene, path, entry) {
            Ok(image) => image,
            Err(failure) => {
                self.out.remark(&failure.to_string());
                return Ok(Ending::Gaps);
            }
        };
        let mut ending = Ending::Done;
        for partition in &image.survey.partitions {
            let prefix = format!("//p{}/", partition.number);
            let prefix = [image.path.as_slice(), prefix.as_bytes()].concat();
            match &partition.state {
                State::Read { .. } => {}
                State::Nothing => continue,
                state => {
                    self.out.remark(&format!("{} holds {state}", human::name(&prefix)));
                    if matches!(state, State::Damaged { .. }) {
                        ending = Ending::Gaps;
                    }
                    continue;
                }
            }
            match image.scene(scene, partition.number) {
                Ok((inner, inside)) => {
                    let walked = self.walk(&inner, &prefix, &|_, _| {})?;
                    if tell(&inside, self.out, walked) == Ending::Gaps {
                        ending = Ending::Gaps;
                    }
                }
                Err(failure) => {
                    self.out.remark(&failure.to_string());
                    ending = Ending::Gaps;
                }
            }
        }
        Ok(ending)
    }

    fn walk(
        &self,
        scene: &Scene,
        prefix: &[u8],
        each: &dyn Fn(&[u8], &Entry),
    ) -> Result<Ending, Failure> {
        let (row, out, mut ending) = (self.row, self.out, Ending::Done);
        let found = scene.tree.find(|path, entry| {
            each(path, entry);
            self.pattern.holds(path, &entry.name)
        });
        for found in found {
            match found {
                Ok((path, entry)) => {
                    let path = [prefix, &path].concat();
                    if self.one {
                        print(out, &path, &entry)?;
                    } else if out.is_json() {
                        let mut value = entry_json(&path, &entry);
                        value["point"] = serde_json::json!(row.id);
                        value["workload"] = serde_json::json!(row.workload);
                        out.json_line(&value)?;
                    } else {
                        let moment = human::moment(row.moment, &out.face().zone);
                        let line = entry_line(&path, &entry, out.face());
                        out.text(&format!("{} {} {moment} {line}", row.id.short(), row.workload))?;
                    }
                }
                Err(damage) => {
                    damaged(out, &[prefix, &damage.path].concat(), &damage.cause);
                    ending = Ending::Gaps;
                }
            }
        }
        Ok(ending)
    }
}

/// What is looked for.
#[derive(Clone)]
struct Pattern {
    glob: GlobMatcher,
    whole_path: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, Failure> {
        let whole_path = text.contains('/');
        let text = text.trim_start_matches('/');
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        let glob = glob.map_err(|error| Failure::usage(error.to_string()))?.compile_matcher();
        Ok(Self { glob, whole_path })
    }

    fn holds(&self, path: &[u8], name: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let looked_at = if self.whole_path { path } else { name };
        self.glob.is_match(std::ffi::OsStr::from_bytes(looked_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_means_the_whole_path() {
        let holds = |pattern: &str, path: &str| {
            let name = path.rsplit('/').next().unwrap();
            Pattern::parse(pattern).unwrap().holds(path.as_bytes(), name.as_bytes())
        };
        assert!(holds("*.conf", "etc/nginx/nginx.conf"));
        assert!(!holds("etc/*.conf", "etc/nginx/nginx.conf"));
        assert!(holds("/etc/**/*.conf", "etc/nginx/nginx.conf"));
        assert!(holds("h?sts", "etc/hosts"));
        assert!(Pattern::parse("[").is_err_and(|refused| refused.code() == 2));
    }
}
