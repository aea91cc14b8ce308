//! `mount`: a point as a read-only file system of this host, from a node or from media, as long as
//! the command runs. Whatever ends it takes the file system away: a signal, `umount`, and, by a
//! small process that outlives it, its being killed.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use strongroom_node::log::{LogStyle, start};
use strongroom_node::reader::RemotePoint;
use strongroom_node::run::stop_on_signal;
use strongroom_present::mount::{
    Audience, Bring, Items, MountError, Mounted, Options, Permissions, PlaceError, Shown, Totals,
    mount, release,
};
use strongroom_store::manifest::Manifest;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::commands::restore::{CopyArgs, beside, copy_site};
use crate::failure::{Ending, Failure, While};
use crate::inside::place;
use crate::lasting::{Again, Dialling, Lasting};
use crate::lending::{Cartridges, Lending};
use crate::point_at::{PointAt, point_at};
use crate::scene::{Scene, Source, Spot, resolve};
use crate::session::{Session, blocking};

/// How often it is looked whether somebody unmounted it.
const LOOK: Duration = Duration::from_millis(100);
/// The least memory that reads ahead of anybody, in MiB.
const CACHE_MIB_MIN: u32 = 8;

/// Mount a point, or a directory in it, as a read-only file system; until Ctrl-C or umount
#[derive(Args, Debug)]
pub(crate) struct MountArgs {
    /// A point, or a directory in it: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT[:PATH]", value_parser = point_at())]
    at: PointAt,
    /// A directory of this host
    dir: PathBuf,
    #[command(flatten)]
    copy: CopyArgs,
    /// Let every user of this host look into it, as far as its permissions allow
    #[arg(long)]
    allow_other: bool,
    /// Let whoever may look into it read everything, whatever its permissions say
    #[arg(long)]
    ignore_permissions: bool,
    /// Memory for what is read and read ahead, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(i64::from(CACHE_MIB_MIN)..=1 << 20))]
    cache: u32,
}

/// Take a file system away when standard input ends
#[derive(Args, Debug)]
pub(crate) struct GuardArgs {
    dir: PathBuf,
    device: String,
}

/// A point that can be mounted.
struct Found {
    scene: Scene,
    bring: Option<Bring>,
    /// What goes when it ends.
    staging: Option<PathBuf>,
}

/// What a point is called when it is told of.
struct Label {
    point: String,
    workload: String,
    moment: String,
}

impl Label {
    fn of(manifest: &Manifest) -> Self {
        let Manifest { head, body } = manifest;
        Self {
            point: head.point.to_string(),
            workload: body.workload_name.to_string(),
            moment: head.moment.to_string(),
        }
    }
}

impl MountArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        start(LogStyle::Text, "warn,fuser=error");
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone());
        let found = match &self.copy.media {
            Some(media) => self.at_media(media.clone()).await?,
            None => self.at_node(session).await?,
        };
        let options = found.options(&self.flags());
        let (at, dir) = (self.at, self.dir);
        let (staging, label) = (found.staging.clone(), Label::of(&found.scene.manifest));
        let mounted = blocking(move || {
            let (found, path) = found.meant(&at)?;
            let shown = found.shown(&path)?;
            mount(shown, &dir, &options).map_err(|error| hinted(error, &dir))
        })
        .await?;
        let guard = Guard::post(&mounted)?;
        tell(session, &mounted, &label)?;
        let ended = wait(mounted, stop).await;
        guard.dismiss();
        if let Some(staging) = staging {
            let shown = staging.display().to_string();
            std::fs::remove_dir_all(&staging).doing(format!("cannot remove {shown}"))?;
        }
        ended
    }
}

impl MountArgs {
    fn flags(&self) -> Options {
        let mut options = Options::new("strongroom");
        if self.allow_other {
            options.audience = Audience::Everybody;
        }
        if self.ignore_permissions {
            options.permissions = Permissions::Open;
        }
        options.bytes_max = (self.cache as usize) << 20;
        options
    }

    async fn at_node(&self, session: &Session) -> Result<Found, Failure> {
        let site = copy_site(session, self.copy.from.as_deref())?;
        let contact = session.contact_at(site.as_ref()).await?;
        let point = resolve(&contact, &self.at.point).await?;
        let opened = RemotePoint::open(&contact.link, point, None).await;
        let (manifest, source) = opened.map_err(|error| contact.failed(error))?;
        let again = Again {
            home: session.operator()?,
            site: contact.context.site.clone(),
            clock: Arc::clone(&session.clock),
            point,
            runtime: Handle::current(),
            dialling: Dialling::default(),
        };
        let source: Source = Arc::new(Lasting::new(source, again));
        let scene = blocking(move || Scene::open(source, manifest)).await?;
        Ok(Found { scene, bring: None, staging: None })
    }

    async fn at_media(&self, media: PathBuf) -> Result<Found, Failure> {
        let opener = self.copy.opener.opener()?;
        let named = self.copy.staging.clone();
        let staging = named.clone().map_or_else(|| beside(&self.dir), Ok)?;
        let cartridges = Cartridges { media, opener, staging: staging.clone() };
        let point = self.at.point.clone();
        let (scene, bring) = blocking(move || {
            let (lending, manifest) = Lending::open(cartridges, point)?;
            let lending = Arc::new(lending);
            let source: Source = Arc::clone(&lending) as Source;
            let bring: Bring = Arc::new(move |ids| lending.bring(ids));
            Ok((Scene::open(source, manifest)?, bring))
        })
        .await?;
        let staging = if named.is_some() { None } else { Some(staging) };
        Ok(Found { scene, bring: Some(bring), staging })
    }
}

impl Found {
    /// How it is presented.
    fn options(&self, flags: &Options) -> Options {
        let Manifest { head, body } = &self.scene.manifest;
        let name = format!("strongroom:{}:{}", body.workload_name, head.point.short());
        let totals = Totals {
            bytes: body.stats.bytes,
            files: body.stats.files + body.stats.directories + body.stats.specials,
        };
        Options { name, totals, ..flags.clone() }
    }

    /// With what is meant, where that lies inside of an image. Blocking.
    fn meant(self, at: &PointAt) -> Result<(Self, Vec<u8>), Failure> {
        if at.inside.is_none() {
            return Ok((self, at.path.clone()));
        }
        let place = place(self.scene, at)?;
        // What is made of an image cannot be brought before it is read.
        Ok((Self { scene: place.scene, bring: None, ..self }, place.path))
    }

    /// What is presented: the directory at a path.
    fn shown(self, path: &[u8]) -> Result<Shown, Failure> {
        let Spot::Directory { page, meta } = self.scene.spot(path)? else {
            return Err(Failure::usage("what is named is a file: a directory can be mounted")
                .hint("name the directory it is in"));
        };
        let items = match (path, &self.scene.meta) {
            (b"", None) => Items::Several,
            _ => Items::One,
        };
        let source = Arc::clone(self.scene.tree.source());
        Ok(Shown { source, root: page, meta, items, bring: self.bring })
    }
}

/// Until it is unmounted or the command is to end; then it is taken away.
async fn wait(mounted: Mounted, stop: CancellationToken) -> Result<Ending, Failure> {
    let mut look = tokio::time::interval(LOOK);
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        if mounted.has_ended(Duration::ZERO) {
            break;
        }
    }
    let shown = mounted.dir().display().to_string();
    blocking(move || mounted.end().doing(format!("cannot unmount {shown}"))).await?;
    Ok(Ending::Done)
}

fn tell(session: &Session, mounted: &Mounted, found: &Label) -> Result<(), Failure> {
    let dir = mounted.dir().display().to_string();
    let Label { point, workload, moment } = found;
    let value = serde_json::json!({
        "mounted": dir, "point": point, "workload": workload, "moment": moment,
    });
    session.out.either(&value, |_| {
        format!("{workload} of {moment} is at {dir}; Ctrl-C or `umount {dir}` ends it\n")
    })?;
    Ok(())
}

/// What a person can do about it.
fn hinted(error: MountError, dir: &Path) -> Failure {
    let shown = dir.display();
    let hint = match &error {
        MountError::Place(PlaceError::Foreign { .. }) => {
            Some(format!("`umount -l {shown}` takes it away"))
        }
        MountError::Place(PlaceError::Mounted { .. }) => {
            Some(format!("`umount {shown}` ends it, or name another directory"))
        }
        MountError::Place(PlaceError::NoDevice) => Some(
            "`modprobe fuse` makes it; a container needs `--device /dev/fuse --cap-add SYS_ADMIN`"
                .to_owned(),
        ),
        MountError::Place(PlaceError::Unusable { .. }) => Some(format!("`mkdir -p {shown}`")),
        MountError::Refused { .. } => {
            Some("who is not root needs fusermount3 of the package fuse3".to_owned())
        }
        _ => None,
    };
    let failure = Failure::from(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// A process that takes the file system away when this one is gone, however that came.
struct Guard {
    process: Child,
    /// Ends with this process.
    line: Option<ChildStdin>,
}

impl Guard {
    fn post(mounted: &Mounted) -> Result<Self, Failure> {
        // The program as it runs, also where it was replaced on disk meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg("mount-guard").arg(mounted.dir()).arg(mounted.device());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // What ends a group of processes must leave it to clear up.
        command.process_group(0).current_dir("/");
        let mut process = command.spawn().doing("cannot start what clears up after a kill")?;
        let line = process.stdin.take();
        Ok(Self { process, line })
    }

    fn dismiss(mut self) {
        drop(self.line.take());
        // It finds nothing to clear and ends.
        let _ = self.process.wait();
    }
}

impl GuardArgs {
    /// Waits for the end of who mounted, and clears up after him.
    pub(crate) fn run(&self) -> Result<Ending, Failure> {
        // An error is an end too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        release(&self.dir, &self.device).doing(format!("cannot unmount {}", self.dir.display()))?;
        Ok(Ending::Done)
    }
}
